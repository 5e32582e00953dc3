//! `guardctl init` on a machine made for it.

use std::{fs, os::unix::fs::PermissionsExt as _};

use super::{ask as ask_for, *};
use crate::policy::Source;

/// A directory with users, a home, and an agent in it.
struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("home/.local/bin");
        fs::create_dir_all(&bin).unwrap();
        for (name, mode) in [("claude", 0o755), ("codex", 0o644), ("other", 0o755)] {
            fs::write(bin.join(name), "").unwrap();
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let package = dir
            .path()
            .join("home/lib/node_modules/@google/gemini-cli/bundle");
        fs::create_dir_all(&package).unwrap();
        let script = package.join("gemini.js");
        fs::write(&script, "").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let node = dir.path().join("home/.nvm/versions/node/v1/bin");
        fs::create_dir_all(&node).unwrap();
        std::os::unix::fs::symlink(&script, node.join("gem")).unwrap();
        let home = dir.path().join("home");
        fs::write(
            dir.path().join("passwd"),
            format!("ann:x:1000:1000::{}:/bin/sh\n", home.display()),
        )
        .unwrap();
        fs::write(dir.path().join("group"), "guard:x:900:bob\n").unwrap();
        Self { dir }
    }

    fn options(&self) -> Options {
        Options {
            directory: self.dir.path().join("guard"),
            yes: true,
            print: false,
            force: false,
            mode: None,
            agents: None,
            answer: None,
            notify: None,
            passwd: self.dir.path().join("passwd"),
            group: self.dir.path().join("group"),
            sessions: self.dir.path().join("run-user"),
            drop_in: self.dir.path().join("desktop.conf"),
        }
    }

    fn written(&self) -> String {
        fs::read_to_string(self.dir.path().join("guard/policy.d/50-init.toml")).unwrap()
    }

    fn policy(&self) -> Policy {
        files::check(&self.dir.path().join("guard")).unwrap()
    }
}

#[test]
fn it_observes_first_names_what_it_found_and_passes_the_check() {
    let machine = Machine::new();
    let said = init(&machine.options()).unwrap();
    assert!(said.contains("50-init.toml: written"), "{said}");
    assert!(said.contains("guardctl enforce"), "{said}");
    let policy = machine.policy();
    assert_eq!(policy.mode, Mode::Observe);
    assert_eq!(policy.source(), &Source::BuiltIn);
    let text = machine.written();
    assert!(text.contains("claude-code"), "{text}");
    assert!(text.contains("/.local/bin/claude (of ann)"), "{text}");
    // By the script that a link leads to; and what nobody can execute is none.
    assert!(text.contains("/v1/bin/gem (of ann)"), "{text}");
    assert!(!text.contains("/.local/bin/codex"), "{text}");
    assert!(!text.contains("other"), "{text}");
    for line in text.lines().filter(|line| line.contains("/home/")) {
        assert!(line.starts_with("# "), "{line}");
    }
}

#[test]
fn what_is_there_is_only_replaced_when_that_is_said() {
    let machine = Machine::new();
    init(&machine.options()).unwrap();
    let path = machine.dir.path().join("guard/policy.d/50-init.toml");
    fs::write(&path, "# mine\nversion = 1\n").unwrap();
    let error = init(&machine.options()).unwrap_err();
    assert!(
        error.contains("is there already") && error.contains("--force"),
        "{error}"
    );
    assert!(machine.written().starts_with("# mine"));
    let mut options = machine.options();
    options.force = true;
    init(&options).unwrap();
    assert!(machine.written().starts_with("# Written by"));
    // A mistake in the one that is replaced does not matter; in another it does.
    fs::write(&path, "nonsense").unwrap();
    init(&options).unwrap();
    fs::write(machine.dir.path().join("guard/policy.d/a.toml"), "nonsense").unwrap();
    assert!(init(&options).unwrap_err().contains("a.toml:1:9: not TOML"));
}

#[test]
fn what_was_chosen_is_in_it_and_what_is_wrong_is_refused() {
    let machine = Machine::new();
    let mut options = machine.options();
    options.mode = Some(Mode::Enforce);
    options.agents = Some(vec!["own-agent".into()]);
    options.answer = Some(vec!["ann".into()]);
    options.print = true;
    let printed = init(&options).unwrap();
    assert!(!machine.dir.path().join("guard").exists());
    options.print = false;
    let said = init(&options).unwrap();
    assert_eq!(machine.written(), printed);
    assert!(said.contains("usermod -aG guard ann"), "{said}");
    assert!(!said.contains("groupadd"), "{said}");
    let policy = machine.policy();
    assert_eq!(policy.mode, Mode::Enforce);
    assert!(policy.agents.iter().any(|agent| agent.name == "own-agent"));
    options.force = true;
    for (agents, answer, says) in [
        (vec!["a/b"], vec![], "not a program's name"),
        (vec!["x\" y"], vec![], "not a program's name"),
        (vec!["codex"], vec![], "knows it already"),
        (vec![], vec!["nobody-here"], "no such user"),
    ] {
        let owned = |names: Vec<&str>| Some(names.into_iter().map(str::to_owned).collect());
        options.agents = owned(agents);
        options.answer = owned(answer);
        let error = init(&options).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
    (options.agents, options.answer) = (None, None);
    options.notify = Some(vec!["pigeon".into()]);
    assert!(
        init(&options)
            .unwrap_err()
            .contains("notification \"pigeon\"")
    );
    assert_eq!(machine.written(), printed);
}

#[test]
fn a_policy_that_is_there_is_extended_and_a_later_mode_is_told() {
    let machine = Machine::new();
    let guard = machine.dir.path().join("guard");
    fs::create_dir_all(guard.join("policy.d")).unwrap();
    fs::write(
        guard.join("policy.toml"),
        "version = 1\n[[agent]]\nname = \"mine\"\nexe = [\"other\"]\n",
    )
    .unwrap();
    fs::write(guard.join("policy.d/99-mode.toml"), "mode = \"enforce\"\n").unwrap();
    let said = init(&machine.options()).unwrap();
    assert!(said.contains("the mode stays enforce"), "{said}");
    let policy = machine.policy();
    assert_eq!(policy.agents.len(), 1);
    let text = machine.written();
    assert!(
        text.contains(&format!("It goes with {}/policy.toml", guard.display())),
        "{text}"
    );
    assert!(
        text.contains("mine  ") && text.contains("/other (of ann)"),
        "{text}"
    );
}

#[test]
fn terminals_are_told_unless_something_else_is_chosen() {
    let machine = Machine::new();
    let mut options = machine.options();
    init(&options).unwrap();
    let text = machine.written();
    assert!(text.contains("\n[notify.terminal]\n"), "{text}");
    assert!(!text.contains("\n[notify.desktop]"), "{text}");
    assert!(machine.policy().settings.notify.terminal.is_some());
    options.force = true;
    options.notify = Some(vec!["none".into()]);
    init(&options).unwrap();
    assert!(!machine.written().contains("[notify"));
}

#[test]
fn channels_that_are_there_stay() {
    let machine = Machine::new();
    let mut options = machine.options();
    fs::create_dir_all(&options.directory).unwrap();
    let text = "version = 1\n[notify.desktop]\n";
    fs::write(options.directory.join("policy.toml"), text).unwrap();
    init(&options).unwrap();
    // A table in a later file comes in the place of the whole.
    assert!(!machine.written().contains("[notify"));
    assert!(machine.policy().settings.notify.desktop.is_some());
    options.force = true;
    options.notify = Some(vec!["terminal".into()]);
    let error = init(&options).unwrap_err();
    assert!(error.contains("add the channel there"), "{error}");
    options.notify = Some(vec!["none".into()]);
    init(&options).unwrap();
}

#[test]
fn desktops_come_with_what_the_service_needs_for_them() {
    let machine = Machine::new();
    let mut options = machine.options();
    options.notify = Some(vec!["terminal".into(), "desktop".into()]);
    let said = init(&options).unwrap();
    // No package is installed here.
    assert!(!said.contains("desktop.conf"), "{said}");
    let notify = machine.policy().settings.notify;
    assert!(notify.terminal.is_some() && notify.desktop.is_some());
    fs::write(&options.drop_in, "").unwrap();
    options.force = true;
    let said = init(&options).unwrap();
    let step = format!("install -D -m 644 {} ", options.drop_in.display());
    assert!(said.contains(&step), "{said}");
    options.notify = None;
    let said = init(&options).unwrap();
    assert!(!said.contains("desktop.conf"), "{said}");
}

#[test]
fn a_desktop_is_only_offered_where_somebody_has_a_session_bus() {
    let machine = Machine::new();
    let options = machine.options();
    let asked = || {
        let mut said = Vec::new();
        ask_for(&options, &[], &mut "\n\n\n\n".as_bytes(), &mut said).unwrap();
        String::from_utf8(said).unwrap()
    };
    assert!(!asked().contains("desktop"));
    let user = options.sessions.join("1000");
    fs::create_dir_all(&user).unwrap();
    fs::write(user.join("bus"), "").unwrap();
    assert!(!asked().contains("desktop"));
    fs::remove_file(user.join("bus")).unwrap();
    let _bus = std::os::unix::net::UnixListener::bind(user.join("bus")).unwrap();
    assert!(asked().contains("desktop (a notification)"));
}

#[test]
fn questions_are_asked_for_what_was_not_said() {
    let machine = Machine::new();
    let mut options = machine.options();
    let ask = |options: &Options, answers: &str| {
        let mut said = Vec::new();
        let choices = ask_for(options, &[], &mut answers.as_bytes(), &mut said);
        (choices, String::from_utf8(said).unwrap())
    };
    let (choices, said) = ask(&options, "one, two\nwhat?\nenforce\nann bob\nnone\n");
    assert_eq!(
        choices.unwrap(),
        Choices {
            mode: Mode::Enforce,
            agents: vec!["one".into(), "two".into()],
            answer: vec!["ann".into(), "bob".into()],
            notify: Vec::new(),
        }
    );
    assert_eq!(said.matches("[observe]").count(), 2, "{said}");
    let (choices, _) = ask(&options, "\n\n\n\n");
    assert_eq!(choices.unwrap(), Choices::default());
    let (choices, _) = ask(&options, "\n");
    assert!(
        choices
            .unwrap_err()
            .to_string()
            .contains("nothing is written")
    );
    options.mode = Some(Mode::Enforce);
    options.agents = Some(Vec::new());
    options.answer = Some(vec!["ann".into()]);
    options.notify = Some(Vec::new());
    let (choices, said) = ask(&options, "");
    assert_eq!(choices.unwrap().mode, Mode::Enforce);
    assert!(!said.contains('?'), "{said}");
}
