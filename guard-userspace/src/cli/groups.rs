//! Holds that are alike, folded for whoever reads them.

use crate::{cli::escape, wire::HoldInfo};

/// Holds by group, each in the order of their numbers, the groups by their first.
pub fn fold(holds: &[HoldInfo]) -> Vec<Vec<&HoldInfo>> {
    let mut groups: Vec<Vec<&HoldInfo>> = Vec::new();
    for hold in holds {
        // An older guardd says no group.
        let known = groups
            .iter_mut()
            .find(|group| !hold.group.is_empty() && group[0].group == hold.group);
        match known {
            Some(group) => group.push(hold),
            None => groups.push(vec![hold]),
        }
    }
    groups
}

/// What of a hold's target is not the first one's: from the last boundary before they part.
pub fn differing(first: &HoldInfo, other: &HoldInfo) -> String {
    if first.target == other.target {
        return "the same".into();
    }
    let common = first
        .target
        .char_indices()
        .zip(other.target.chars())
        .take_while(|((_, a), b)| a == b)
        .map(|((at, c), _)| at + c.len_utf8())
        .last()
        .unwrap_or(0);
    let start = other
        .target
        .get(..common)
        .and_then(|same| same.rfind(['/', ' ', '=']))
        .map_or(0, |at| at + 1);
    escape::text(other.target.get(start..).unwrap_or(&other.target))
}

#[cfg(test)]
pub mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        approval,
        event::{Event, Kind},
    };

    /// A hold with evidence, for tests of those who show it.
    pub fn a_hold(id: &str, group: &str, target: &str) -> HoldInfo {
        let mut read = Event::new(Kind::Open);
        read.time = "2026-11-21T20:39:00.000000Z".into();
        read.argv = Some(vec!["cat".into(), ".env".into()]);
        read.object = Some(json!({"path": "/home/a/project/.env"}));
        read.labels = vec!["credential".into()];
        let mut connect = Event::new(Kind::Connect);
        connect.time = "2026-11-21T20:40:00.000000Z".into();
        connect.argv = Some(vec!["curl".into(), "https://backboard.example".into()]);
        connect.object = Some(json!({"family": "inet", "addr": "127.0.0.1", "port": 18443}));
        connect.labels = vec!["infra".into()];
        HoldInfo {
            id: id.into(),
            argv: connect.argv.clone(),
            target: target.into(),
            intent: None,
            evidence: vec![read, connect],
            environment: Vec::new(),
            group: group.into(),
            ..approval::a_hold()
        }
    }

    #[test]
    fn groups_keep_the_order_of_their_first_and_older_daemons_have_none() {
        let holds = [
            a_hold("h-1", "hg-1", "a"),
            a_hold("h-2", "hg-2", "b"),
            a_hold("h-3", "hg-1", "a"),
            a_hold("h-4", "", "a"),
            a_hold("h-5", "", "a"),
        ];
        let folded = fold(&holds);
        let ids: Vec<Vec<&str>> = folded
            .iter()
            .map(|group| group.iter().map(|hold| hold.id.as_str()).collect())
            .collect();
        assert_eq!(
            ids,
            [vec!["h-1", "h-3"], vec!["h-2"], vec!["h-4"], vec!["h-5"]]
        );
    }

    #[test]
    fn what_differs_is_a_whole_name() {
        let of = |a: &str, b: &str| differing(&a_hold("h-1", "", a), &a_hold("h-2", "", b));
        assert_eq!(
            of("open /w/keys/alpha.pem", "open /w/keys/also.pem"),
            "also.pem"
        );
        assert_eq!(
            of(
                "request POST h/g x volumeId=v-1",
                "request POST h/g x volumeId=v-2"
            ),
            "v-2"
        );
        assert_eq!(of("connect 127.0.0.1:1", "connect 127.0.0.1:1"), "the same");
        assert_eq!(of("open /é", "open /è\u{1b}"), "è\\x1b");
    }
}
