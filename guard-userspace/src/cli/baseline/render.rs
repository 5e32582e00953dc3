//! Conduct and baselines as text.

use crate::{
    cli::{escape, render::Table, screen::Screen},
    wire::{BaselineInfo, CategoryInfo, ConductInfo},
};

/// A share of 1 as `12 %`.
fn percent(share: f64) -> String {
    if share > 0.0 && share < 0.005 {
        return "<1 %".into();
    }
    format!("{:.0} %", share * 100.0)
}

/// A session's scores, and the categories that make the difference, at most so many.
pub fn conduct(screen: &Screen, info: &ConductInfo, most: usize) -> String {
    let mut out = match info.score {
        None => format!(
            "  too little is known for a score: {} acts of weight {:.1}\n",
            info.acts, info.weight
        ),
        Some(score) => {
            let part = |share: Option<f64>| percent(share.unwrap_or_default());
            format!(
                "  score {score}: consistency {}, restraint {}, transparency {}\n",
                part(info.consistency),
                part(info.restraint),
                part(info.transparency)
            )
        }
    };
    let threshold = match info.threshold {
        0 => "no threshold".to_owned(),
        threshold => format!("threshold {threshold}"),
    };
    let divergent = if info.divergent { ", divergent" } else { "" };
    out.push_str(&format!(
        "  against: {}; {threshold}{divergent}\n",
        escape::text(&info.baseline)
    ));
    if !info.categories.is_empty() {
        out.push_str(&categories(screen, &info.categories, most));
    }
    out
}

/// The table of categories.
pub fn categories(screen: &Screen, all: &[CategoryInfo], most: usize) -> String {
    let mut table = Table::new(&["  CATEGORY", "SHARE", "USUAL", "BITS"]);
    for one in all.iter().take(most) {
        table.row([
            format!("  {}", escape::text(&one.category)),
            percent(one.share),
            percent(one.usual),
            format!("{:.3}", one.bits),
        ]);
    }
    table.render(screen, |_, line, _| line.to_owned())
}

/// `baseline show`: each with its categories, the commonest first.
pub fn baselines(screen: &Screen, baselines: &[BaselineInfo]) -> String {
    if baselines.is_empty() {
        return "no baselines\n".into();
    }
    let mut out = String::new();
    for info in baselines {
        let one = &info.baseline;
        out.push_str(&format!(
            "{}  {}, {} sessions, {} acts\n",
            screen.bold(&escape::text(&one.agent)),
            if info.learned { "learned" } else { "shipped" },
            one.sessions,
            one.acts
        ));
        if !one.made.is_empty() {
            out.push_str(&format!("  {}\n", screen.clip(&escape::text(&one.made))));
        }
        let total = one.weights.total();
        let mut shares: Vec<(String, f64)> = one.weights.named().into_iter().collect();
        shares.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut table = Table::new(&["  CATEGORY", "SHARE"]);
        for (name, weight) in shares {
            table.row([format!("  {name}"), percent(weight / total)]);
        }
        out.push_str(&table.render(screen, |_, line, _| line.to_owned()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> ConductInfo {
        ConductInfo {
            score: Some(41),
            consistency: Some(0.6),
            restraint: Some(0.1),
            transparency: Some(1.0),
            weight: 31.5,
            acts: 80,
            threshold: 50,
            divergent: true,
            baseline: "shipped, general".into(),
            categories: vec![CategoryInfo {
                category: "credential".into(),
                share: 0.31,
                usual: 0.001,
                bits: 0.14,
            }],
        }
    }

    #[test]
    fn a_score_is_shown_with_what_it_is_made_of_and_why() {
        let text = conduct(&Screen::default(), &info(), 5);
        assert_eq!(
            text,
            "  score 41: consistency 60 %, restraint 10 %, transparency 100 %\n  \
             against: shipped, general; threshold 50, divergent\n  \
             CATEGORY    SHARE  USUAL  BITS\n  \
             credential  31 %   <1 %   0.140\n"
        );
    }

    #[test]
    fn where_there_is_no_score_it_is_said_why() {
        let cold = ConductInfo {
            score: None,
            divergent: false,
            categories: Vec::new(),
            ..info()
        };
        let text = conduct(&Screen::default(), &cold, 5);
        assert!(
            text.starts_with("  too little is known for a score: 80 acts"),
            "{text}"
        );
        assert!(!text.contains("divergent"), "{text}");
    }
}
