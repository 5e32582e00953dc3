//! Which holds are alike enough to be answered by one answer.
//!
//! The rule: two holds are alike when everything that a person reads of one also stands in the other, but
//! for the name of the one thing that is acted on. Whatever is in doubt is not alike; the price is one more question,
//! and that of the opposite mistake a request that nobody has looked at.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::content::{MAX_OPERATIONS, MAX_SHOWN};
use crate::{
    event::{Event, Kind},
    wire::HoldInfo,
};

/// Command lines of this many bytes may be cut where the kernel copied them, and are alike to nothing.
const LONGEST: usize = 2048;

/// What a call is about, apart.
struct Shape {
    /// Must be the same in both.
    same: Vec<String>,
    /// May differ, and is shown of each: the base name of a file, the id of what a request is about.
    differs: String,
}

/// The likeness of a hold as a digest: two are alike when theirs are equal. `judged_in` is the session whose rule it
/// was; `None` is alike to nothing.
pub(super) fn of(judged_in: u32, hold: &HoldInfo) -> Option<String> {
    let (held, chain) = hold.evidence.split_last()?;
    let shape = shape(held)?;
    let chain: Vec<Value> = chain
        .iter()
        .map(|event| {
            json!([
                event.kind.name(),
                event.labels,
                super::holds::target_of(event)
            ])
        })
        .collect();
    let argv = hold.argv.as_deref()?;
    if argv.iter().map(String::len).sum::<usize>() >= LONGEST {
        return None;
    }
    let command = command(argv, &shape.differs);
    let all = json!([
        judged_in,
        hold.agent,
        hold.intent,
        hold.uid,
        hold.login_uid,
        hold.cwd,
        hold.environment,
        hold.rule,
        hold.when,
        hold.on_timeout,
        hold.exe,
        command,
        chain,
        held.kind.name(),
        held.labels,
        shape.same,
    ]);
    let digest = Sha256::digest(all.to_string());
    Some(digest.iter().take(16).map(|b| format!("{b:02x}")).collect())
}

fn text<'a>(event: &'a Event, name: &str) -> Option<&'a str> {
    event.object.as_ref()?.get(name)?.as_str()
}

fn shape(held: &Event) -> Option<Shape> {
    let number = |name: &str| held.object.as_ref()?.get(name)?.as_u64();
    let own = |name: &str| text(held, name).map(str::to_owned);
    let whole = |same: Vec<String>| {
        Some(Shape {
            same,
            differs: String::new(),
        })
    };
    match held.kind {
        // By the name where there is one, since its addresses are many; else by the address.
        Kind::Connect => match (own("host"), own("addr"), number("port")) {
            (Some(host), _, Some(port)) => whole(vec![
                host,
                port.to_string(),
                own("host_from").unwrap_or_default(),
            ]),
            (None, Some(addr), Some(port)) => whole(vec![addr, port.to_string()]),
            (None, Some(addr), None) => whole(vec![addr]),
            (None, None, None) => whole(vec![own("path")?]),
            _ => None,
        },
        Kind::Open => {
            let path = own("path")?;
            let (dir, name) = path.rsplit_once('/')?;
            // Reading and writing are not the same.
            Some(Shape {
                same: vec![dir.into(), own("flags").unwrap_or_default()],
                differs: name.into(),
            })
        }
        Kind::Request => request(held),
        // Which word of a command line is its operation and which its object nobody can say for every program
        // (`bash up`, `terraform apply`), so it is the whole of it, in one directory.
        Kind::Exec => {
            let argv = held.object.as_ref()?.get("argv").map(Value::to_string);
            whole(vec![
                argv.or_else(|| Some(format!("{:?}", held.argv)))?,
                own("cwd")?,
            ])
        }
        Kind::Call | Kind::Signal => whole(vec![held.object.as_ref()?.to_string()]),
        _ => None,
    }
}

/// A request: everything that names the operation is the same. What it is about may differ; of a path the last
/// segment, where the method is the operation (DELETE) and the segment looks like an id, since it has a digit.
fn request(held: &Event) -> Option<Shape> {
    let object = held.object.as_ref()?.as_object()?;
    let (method, path) = (
        text(held, "method")?,
        text(held, "path").unwrap_or_default(),
    );
    // What could not be read, or is shown in part, may differ where nobody sees it.
    let cut =
        |name: &str, most: usize| text(held, name).is_some_and(|shown| shown.len() + 3 >= most);
    let operations = object.get("operations").and_then(Value::as_array);
    if object.contains_key("unread")
        || object.contains_key("unsure")
        || cut("path", MAX_SHOWN)
        || operations.is_some_and(|all| all.len() >= MAX_OPERATIONS)
    {
        return None;
    }
    let mut differs = text(held, "target").unwrap_or_default().to_owned();
    let mut fixed = path.to_owned();
    if method == "DELETE"
        && differs.is_empty()
        && let Some((before, last)) = path.rsplit_once('/')
        && last.chars().any(|c| c.is_ascii_digit())
        && !last.contains(['?', '#'])
    {
        fixed = format!("{before}/");
        differs = last.to_owned();
    }
    let mut same = vec![fixed];
    // Members are in the order of their names.
    for (name, value) in object {
        if !matches!(name.as_str(), "path" | "target" | "addr") {
            same.push(format!("{name}={value}"));
        }
    }
    Some(Shape { same, differs })
}

/// Words of a text that could name a thing.
fn tokens(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(|c: char| !(c.is_alphanumeric() || "-_.".contains(c)))
        .flat_map(|part| {
            let end = part
                .char_indices()
                .next_back()
                .filter(|(_, c)| !(c.is_alphanumeric() || "-_.".contains(*c)))
                .map_or(part.len(), |(at, _)| at);
            [&part[..end], &part[end..]]
        })
        .filter(|token| !token.is_empty())
}

/// A command line in which what differs is left open. The program itself never is.
fn command(argv: &[String], differs: &str) -> Vec<String> {
    let open: Vec<&str> = tokens(differs)
        .filter(|token| token.chars().any(char::is_alphanumeric))
        .collect();
    argv.iter()
        .enumerate()
        .map(|(at, word)| {
            if at == 0 {
                return word.clone();
            }
            tokens(word)
                .map(|token| if open.contains(&token) { "\0" } else { token })
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::approval::a_hold;

    fn hold(kind: Kind, object: Value, argv: &[&str]) -> HoldInfo {
        let mut read = Event::new(Kind::Open);
        read.object = Some(json!({"path": "/home/a/.env"}));
        read.labels = vec!["credential".into()];
        let mut held = Event::new(kind);
        held.object = Some(object);
        held.labels = vec!["infra".into()];
        let argv: Vec<String> = argv.iter().map(|word| (*word).into()).collect();
        HoldInfo {
            uid: 1000,
            argv: Some(argv),
            evidence: vec![read, held],
            environment: Vec::new(),
            ..a_hold()
        }
    }

    fn alike(a: &HoldInfo, b: &HoldInfo) -> bool {
        let (a, b) = (of(1, a), of(1, b));
        a.is_some() && a == b
    }

    fn connect(host: &str, addr: &str, port: u16, argv: &[&str]) -> HoldInfo {
        hold(
            Kind::Connect,
            json!({"addr": addr, "port": port, "host": host, "host_from": "dns"}),
            argv,
        )
    }

    #[test]
    fn one_host_by_one_command_is_alike_whatever_its_address() {
        let one = connect(
            "h.example",
            "192.0.2.1",
            443,
            &["curl", "https://h.example"],
        );
        let two = connect(
            "h.example",
            "192.0.2.2",
            443,
            &["curl", "https://h.example"],
        );
        assert!(alike(&one, &two));
    }

    #[test]
    fn another_host_port_command_user_chain_or_session_is_not() {
        let argv = ["curl", "https://h.example"];
        let one = connect("h.example", "192.0.2.1", 443, &argv);
        let others: [fn(&mut HoldInfo); 8] = [
            |h| h.uid = 0,
            |h| h.rule = "other".into(),
            |h| h.agent = "other".into(),
            |h| h.exe = Some("/tmp/curl".into()),
            |h| h.intent = Some("something else".into()),
            |h| h.on_timeout = "resume".into(),
            |h| h.evidence[0].object = Some(json!({"path": "/home/a/production/.env"})),
            |h| h.evidence[1].labels = vec!["other".into()],
        ];
        for (n, change) in others.iter().enumerate() {
            let mut other = one.clone();
            change(&mut other);
            assert!(!alike(&one, &other), "change {n}");
        }
        assert!(!alike(&one, &connect("i.example", "192.0.2.1", 443, &argv)));
        assert!(!alike(&one, &connect("h.example", "192.0.2.1", 80, &argv)));
        let delete = ["curl", "-X", "DELETE", "https://h.example"];
        assert!(!alike(
            &one,
            &connect("h.example", "192.0.2.1", 443, &delete)
        ));
        assert_ne!(of(1, &one), of(2, &one));
    }

    #[test]
    fn without_a_name_the_address_must_be_the_same() {
        let to = |addr: &str| hold(Kind::Connect, json!({"addr": addr, "port": 443}), &["x"]);
        assert!(alike(&to("192.0.2.1"), &to("192.0.2.1")));
        assert!(!alike(&to("192.0.2.1"), &to("192.0.2.2")));
    }

    fn open(path: &str, flags: &str, argv: &[&str]) -> HoldInfo {
        hold(Kind::Open, json!({"path": path, "flags": flags}), argv)
    }

    #[test]
    fn files_of_one_directory_are_alike_and_the_command_may_name_each() {
        let one = open("/w/keys/a.pem", "O_RDONLY", &["cat", "keys/a.pem"]);
        assert!(alike(
            &one,
            &open("/w/keys/b.pem", "O_RDONLY", &["cat", "keys/b.pem"])
        ));
        assert!(!alike(
            &one,
            &open("/w/other/b.pem", "O_RDONLY", &["cat", "other/b.pem"])
        ));
        assert!(!alike(
            &one,
            &open("/w/keys/b.pem", "O_WRONLY", &["cat", "keys/b.pem"])
        ));
        let other = open(
            "/w/keys/b.pem",
            "O_RDONLY",
            &["cat", "keys/b.pem", "--upload"],
        );
        assert!(!alike(&one, &other));
    }

    #[test]
    fn the_name_of_the_file_does_not_stand_for_the_program() {
        let by = |program: &str| open(&format!("/w/{program}"), "O_RDONLY", &[program, "x"]);
        assert!(!alike(&by("reader"), &by("sender")));
    }

    #[test]
    fn requests_are_alike_by_operation_and_not_by_what_they_are_about() {
        let of = |field: &str, target: &str| {
            let body = format!("mutation {{ {field}(volumeId: \"{target}\") }}");
            hold(
                Kind::Request,
                json!({"method": "POST", "host": "h.example", "path": "/graphql",
                       "graphql": {"type": "mutation", "field": field},
                       "target": format!("volumeId={target}")}),
                &["curl", "-d", &body],
            )
        };
        assert!(alike(
            &of("volumeDelete", "v-1"),
            &of("volumeDelete", "v-2")
        ));
        assert!(!alike(
            &of("volumeDelete", "v-1"),
            &of("projectDelete", "v-1")
        ));
    }

    #[test]
    fn of_a_path_only_the_last_segment_of_a_delete_may_differ_and_only_as_an_id() {
        let of = |method: &str, path: &str| {
            hold(
                Kind::Request,
                json!({"method": method, "host": "h.example", "path": path}),
                &["node", "agent.js"],
            )
        };
        assert!(alike(
            &of("DELETE", "/v1/apps/a1"),
            &of("DELETE", "/v1/apps/a2")
        ));
        assert!(!alike(
            &of("DELETE", "/v1/apps/a1"),
            &of("DELETE", "/v1/orgs/a2")
        ));
        assert!(!alike(
            &of("DELETE", "/v1/staging"),
            &of("DELETE", "/v1/production")
        ));
        assert!(!alike(
            &of("DELETE", "/v1/apps/a1?force=1"),
            &of("DELETE", "/v1/apps/a1")
        ));
        assert!(!alike(
            &of("POST", "/v1/apps/a1"),
            &of("POST", "/v1/apps/a2")
        ));
        assert!(!alike(
            &of("DELETE", "/v1/apps/a1"),
            &of("GET", "/v1/apps/a1")
        ));
    }

    #[test]
    fn a_command_is_only_alike_to_itself_in_its_directory() {
        let of =
            |argv: &[&str], cwd: &str| hold(Kind::Exec, json!({"argv": argv, "cwd": cwd}), argv);
        let apply = ["terraform", "apply"];
        assert!(alike(&of(&apply, "/w"), &of(&apply, "/w")));
        assert!(!alike(
            &of(&apply, "/w"),
            &of(&["terraform", "destroy"], "/w")
        ));
        assert!(!alike(&of(&apply, "/w"), &of(&apply, "/production")));
    }

    #[test]
    fn what_is_not_known_or_not_whole_is_alike_to_nothing() {
        let request = |more: Value| {
            let mut object = json!({"method": "POST", "host": "h.example", "path": "/v1"});
            object
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            hold(Kind::Request, object, &["node"])
        };
        assert!(alike(&request(json!({})), &request(json!({}))));
        for more in [
            json!({"unread": "too long"}),
            json!({"unsure": "a part is missing"}),
            json!({"path": "/x".repeat(MAX_SHOWN / 2)}),
            json!({"operations": vec![json!({}); MAX_OPERATIONS]}),
        ] {
            assert!(!alike(&request(more.clone()), &request(more)));
        }
        let long = "x".repeat(LONGEST);
        let long = connect("h.example", "192.0.2.1", 443, &["curl", &long]);
        assert!(!alike(&long, &long));
        let mut lost = hold(Kind::Hold, json!({}), &["x"]);
        assert_eq!(of(1, &lost), None);
        lost = connect("h.example", "192.0.2.1", 443, &["x"]);
        lost.argv = None;
        assert_eq!(of(1, &lost), None);
    }
}
