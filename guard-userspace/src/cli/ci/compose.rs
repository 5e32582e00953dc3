//! The policy of a job: the repository's, or the one for CI, and behind it what the options of `ci start` mean.

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, ToSocketAddrs as _},
    path::{Path, PathBuf},
};

use crate::{
    cli::{ci::worker::Worker, failure::Failure},
    policy::{Allowed, Policy, Source},
};

/// The policy of a repository, from its root.
const OF_REPOSITORY: &str = ".guard/policy.toml";
/// guard's default policy, of which a job without a policy gets what it knows.
const DEFAULT: &str = include_str!("../../../../policy/default.toml");
/// And what a job does about it.
const CI: &str = include_str!("../../../../policy/ci.toml");

/// The label of everything that is not allowed.
pub const ELSEWHERE: &str = "elsewhere";
/// The label of what git tracks.
pub const SOURCE_CHANGE: &str = "source-change";

/// Programs that become root, or somebody else.
const BECOME_ROOT: [&str; 8] = [
    "/usr/bin/sudo",
    "/usr/bin/sudo-rs",
    "/usr/bin/su",
    "/bin/su",
    "/usr/bin/doas",
    "/usr/bin/pkexec",
    "/usr/bin/run0",
    "/usr/bin/newgrp",
];
/// Sockets of what runs containers.
const CONTAINERS: [&str; 9] = [
    "unix:/run/docker.sock",
    "unix:/var/run/docker.sock",
    "unix:**/docker.sock",
    "unix:/run/containerd/containerd.sock",
    "unix:/run/podman/podman.sock",
    "unix:**/podman.sock",
    "unix:/run/crio/crio.sock",
    "unix:/run/buildkit/buildkitd.sock",
    "unix:/run/incus/unix.socket",
];
/// What the policy is made of.
pub struct Parts<'a> {
    /// The file that was given.
    pub given: Option<&'a Path>,
    /// The checkout.
    pub workspace: &'a Path,
    /// Whom the job may reach, an entry each.
    pub allow: &'a [String],
    /// Name servers.
    pub resolvers: &'a [IpAddr],
    /// Patterns of the checkout's sources.
    pub sources: &'a [String],
    /// Nobody becomes root.
    pub no_sudo: bool,
    /// Nobody reaches a container service.
    pub no_docker: bool,
    /// Whose own program is excepted.
    pub worker: &'a Worker,
}

/// A policy's text, and where its first part is from.
#[derive(Debug)]
pub struct Composed {
    /// TOML.
    pub text: String,
    /// For people.
    pub source: String,
    /// Names that are allowed by themselves, to be looked up at once.
    pub names: Vec<String>,
}

/// Puts the policy together and reads it once.
///
/// # Errors
/// A mistake in any part of it.
pub fn compose(parts: &Parts<'_>) -> Result<Composed, Failure> {
    let (base, source) = base(parts)?;
    let mut spared = Spared::default();
    for entry in parts.allow {
        match Allowed::parse(entry) {
            Ok(Allowed::Host(name)) => {
                if !name.contains('*') {
                    spared.names.push(name);
                }
                spared.hosts.push(entry.clone());
            }
            Ok(Allowed::Address) => spared.addresses.push(entry.clone()),
            Err(why) => return Err(Failure::Invalid(format!("--allow {why}"))),
        }
    }
    if !spared.hosts.is_empty() && parts.resolvers.is_empty() {
        return Err(Failure::Invalid(
            "--allow: names are only as good as the name servers that say where they are, and /etc/resolv.conf has none: \
             give --resolver ADDRESS"
                .into(),
        ));
    }
    let text = format!("{base}\n{}", added(parts, &mut spared));
    let policy = Policy::parse(&text, Source::File(PathBuf::from(&source)))
        .map_err(|error| Failure::Invalid(error.to_string()))?;
    if let Some(agent) = policy.agents.first() {
        return Err(Failure::Invalid(format!(
            "{source}: agent \"{}\": a job is one session, and agents elsewhere on this machine are none of it: remove \
             [[agent]]",
            agent.name
        )));
    }
    Ok(Composed {
        text,
        source,
        names: spared.names,
    })
}

#[derive(Default)]
struct Spared {
    hosts: Vec<String>,
    addresses: Vec<String>,
    /// Without their ports.
    names: Vec<String>,
}

fn base(parts: &Parts<'_>) -> Result<(String, String), Failure> {
    let read = |path: &Path| {
        let text = fs::read_to_string(path).map_err(|error| {
            Failure::Invalid(format!(
                "{}: {error}: give a policy file that can be read",
                path.display()
            ))
        })?;
        Ok((text, path.display().to_string()))
    };
    if let Some(path) = parts.given {
        return read(path);
    }
    let of_repository = parts.workspace.join(OF_REPOSITORY);
    if of_repository.exists() {
        return read(&of_repository);
    }
    Ok((built_in(), "built-in policy for CI".into()))
}

/// What the default policy knows, with the rules for a job instead of its own, and without its agents: these may run
/// elsewhere on the machine.
fn built_in() -> String {
    let at = |mark| DEFAULT.find(mark).unwrap_or(DEFAULT.len());
    let (labels, rules) = (at("\n[[label]]"), at("\n[[rule]]"));
    format!("version = 1\n{}\n{CI}", &DEFAULT[labels..rules.max(labels)])
}

fn added(parts: &Parts<'_>, spared: &mut Spared) -> String {
    let mut addresses = vec!["127.0.0.0/8".to_owned(), "::1".to_owned()];
    for resolver in parts.resolvers {
        addresses.push(match resolver {
            IpAddr::V4(v4) => format!("{v4}:53"),
            IpAddr::V6(v6) => format!("[{v6}]:53"),
        });
    }
    addresses.append(&mut spared.addresses);
    addresses.extend(of_hosts_file(&spared.hosts));
    let mut except = format!("addresses = {}", list(&addresses));
    if let Some(program) = parts.worker.own_program().filter(|path| is_plain(path)) {
        let _ = write!(except, ", exe = {}", list(&[program]));
    }
    if !spared.hosts.is_empty() {
        let resolvers: Vec<String> = parts.resolvers.iter().map(IpAddr::to_string).collect();
        let _ = write!(
            except,
            ", hosts = {}, resolvers = {}",
            list(&spared.hosts),
            list(&resolvers)
        );
    }
    let mut text = format!(
        "\n# Added by guardctl ci start.\n[[label]]\nname = \"{ELSEWHERE}\"\n\
         description = \"a host that the job is not allowed to reach\"\naddresses = [\"::/0\"]\nhosts = [\"*\"]\n\
         except = {{ {except} }}\n\n[[rule]]\nname = \"elsewhere-reached\"\nwhen = [\"{ELSEWHERE}\"]\nthen = \"deny\"\n"
    );
    let mut label = |name: &str, key: &str, values: &[String], more: &str, rule: Option<&str>| {
        let _ = write!(
            text,
            "\n[[label]]\nname = \"{name}\"\n{key} = {}\n{more}",
            list(values)
        );
        if let Some(rule) = rule {
            let _ = write!(
                text,
                "\n[[rule]]\nname = \"{rule}\"\nwhen = [\"{name}\"]\nthen = \"deny\"\nfallback = \"kill\"\n"
            );
        }
    };
    if !parts.sources.is_empty() {
        label(
            SOURCE_CHANGE,
            "files",
            parts.sources,
            "opens = \"write\"\n",
            None,
        );
    }
    if parts.no_sudo {
        let files = BECOME_ROOT.map(str::to_owned);
        label("become-root", "files", &files, "", Some("no-sudo"));
    }
    if parts.no_docker {
        let sockets = CONTAINERS.map(str::to_owned);
        label("containers", "addresses", &sockets, "", Some("no-docker"));
    }
    text
}

/// Whether a program's path can stand in a policy as it is.
fn is_plain(path: &str) -> bool {
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | '+' | ' ');
    path.starts_with('/') && path.chars().all(plain)
}

/// Addresses of allowed names that this machine's own table says: no name server is asked about these.
fn of_hosts_file(hosts: &[String]) -> Vec<String> {
    let text = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(addr) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else {
            continue;
        };
        for name in words {
            for host in hosts {
                let (pattern, port) = match host.rsplit_once(':') {
                    Some((pattern, port)) => (pattern, Some(port)),
                    None => (&**host, None),
                };
                if pattern.eq_ignore_ascii_case(name) && !addr.is_loopback() {
                    found.push(match (addr, port) {
                        (IpAddr::V6(v6), Some(port)) => format!("[{v6}]:{port}"),
                        (IpAddr::V4(v4), Some(port)) => format!("{v4}:{port}"),
                        (addr, None) => addr.to_string(),
                    });
                }
            }
        }
    }
    found
}

/// TOML's strings are JSON's, as long as nothing in them is outside of what a policy takes.
fn list<S: AsRef<str>>(values: &[S]) -> String {
    let words: Vec<String> = values
        .iter()
        .map(|value| serde_json::Value::from(value.as_ref()).to_string())
        .collect();
    format!("[{}]", words.join(", "))
}

/// The entries of `--allow`: lists with commas, blanks or line breaks, where `#` begins a remark.
pub fn entries(texts: &[String]) -> Vec<String> {
    let mut entries = Vec::new();
    for line in texts.iter().flat_map(|text| text.lines()) {
        let line = line.split('#').next().unwrap_or_default();
        for word in line.split([',', ' ', '\t']) {
            let word = word.trim();
            if !word.is_empty() && !entries.iter().any(|entry| entry == word) {
                entries.push(word.to_owned());
            }
        }
    }
    entries
}

/// Name servers of this machine, and those that its own one asks.
pub fn resolvers() -> Vec<IpAddr> {
    let mut found = Vec::new();
    for path in ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"] {
        let text = fs::read_to_string(path).unwrap_or_default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            if words.next() != Some("nameserver") {
                continue;
            }
            let Some(word) = words.next() else { continue };
            // The zone of a link-local address is not part of it.
            let addr = word.split('%').next().and_then(|word| word.parse().ok());
            if let Some(addr) = addr
                && !found.contains(&addr)
            {
                found.push(addr);
            }
        }
    }
    found
}

/// Looks names up, so that where they are is known before anybody asks. What comes of it is none of the caller's business.
pub fn look_up(names: &[String]) {
    for name in names {
        let _ = (name.as_str(), 443u16).to_socket_addrs();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ci::worker::How;

    fn worker(how: How) -> Worker {
        Worker {
            pid: 1,
            start: 1,
            name: "Runner.Worker".into(),
            exe: Some("/opt/runner/bin/Runner.Worker".into()),
            how,
        }
    }

    fn parts<'a>(worker: &'a Worker, allow: &'a [String], resolvers: &'a [IpAddr]) -> Parts<'a> {
        Parts {
            given: None,
            workspace: Path::new("/nonexistent"),
            allow,
            resolvers,
            sources: &[],
            no_sudo: false,
            no_docker: false,
            worker,
        }
    }

    #[test]
    fn the_policy_for_ci_is_one_with_every_option() {
        let worker = worker(How::Known);
        let allow = entries(&["github.com, *.crates.io:443\n10.0.0.0/8 # inside\n[::1]:80".into()]);
        assert_eq!(allow.len(), 4);
        let resolvers = ["127.0.0.53".parse().unwrap(), "fe80::1".parse().unwrap()];
        let sources = ["/w/src/*".to_owned()];
        let composed = compose(&Parts {
            sources: &sources,
            no_sudo: true,
            no_docker: true,
            ..parts(&worker, &allow, &resolvers)
        })
        .unwrap();
        let policy = Policy::parse(&composed.text, Source::BuiltIn).unwrap();
        for rule in [
            "elsewhere-reached",
            "no-sudo",
            "no-docker",
            "credential-touched",
        ] {
            assert!(policy.rules.iter().any(|r| r.name == rule), "{rule}");
        }
        // Nobody answers in a job.
        let holds = policy
            .rules
            .iter()
            .filter(|rule| rule.then == guard_common::Verdict::Hold);
        assert_eq!(holds.count(), 0);
        assert_eq!(composed.names, ["github.com"]);
    }

    #[test]
    fn a_runners_own_program_is_excepted_by_its_path_and_a_shell_that_is_the_worker_is_not() {
        let mut worker = worker(How::Known);
        let text = |worker: &Worker| compose(&parts(worker, &[], &[])).unwrap().text;
        assert!(text(&worker).contains("exe = [\"/opt/runner/bin/Runner.Worker\"]"));
        worker.name = "bash".into();
        worker.exe = Some("/usr/bin/bash".into());
        assert!(!text(&worker).contains("/usr/bin/bash"));
    }

    #[test]
    fn what_cannot_be_allowed_is_refused_with_what_it_is() {
        let worker = worker(How::Known);
        for (entry, says) in [
            ("https://x.y", "a URL"),
            ("unknown", "cannot be an exception"),
            ("x.y:99999", "port"),
            ("10.0.0.1/8", "bits"),
            ("x\"y", "expected"),
        ] {
            let allow = [entry.to_owned()];
            let error = compose(&parts(&worker, &allow, &["::1".parse().unwrap()])).unwrap_err();
            let text = error.for_people();
            assert!(
                text.contains("--allow") && text.contains(says),
                "{entry}: {text}"
            );
        }
        let allow = ["github.com".to_owned()];
        let error = compose(&parts(&worker, &allow, &[])).unwrap_err();
        assert!(error.for_people().contains("--resolver"));
    }

    #[test]
    fn the_repositorys_own_policy_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(".guard")).unwrap();
        let file = dir.path().join(OF_REPOSITORY);
        fs::write(&file, "version = 1\n").unwrap();
        let worker = worker(How::Known);
        let composed = compose(&Parts {
            workspace: dir.path(),
            ..parts(&worker, &[], &[])
        })
        .unwrap();
        assert_eq!(composed.source, file.display().to_string());
        assert!(composed.text.starts_with("version = 1\n"));
        fs::write(&file, "version = 2\n").unwrap();
        let error = compose(&Parts {
            workspace: dir.path(),
            ..parts(&worker, &[], &[])
        })
        .unwrap_err();
        assert!(error.for_people().contains("policy.toml:1:"));
    }
}
