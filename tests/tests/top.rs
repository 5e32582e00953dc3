//! `guardctl top` in a real terminal: what stands on the screen, and what its keys do to real processes.

use std::{fs, path::Path};

use guard_tests::{
    Guard, Place, Policy, Tool, eventually, fixture, has_program, proc, server::Tcp, tmux::Tmux,
};
use rustix::process::Signal;

/// A guard that holds connections to a server after a credential was read, an agent under it, and a terminal.
struct Scene {
    tmux: Tmux,
    tool: Tool,
    guard: Guard,
    server: Tcp,
    secret: tempfile::TempDir,
    place: Place,
}

impl Scene {
    /// `None` where there is no tmux.
    fn new(env: &[(&str, &str)]) -> Option<Self> {
        if !["tmux", "stty"].into_iter().all(has_program) {
            return None;
        }
        let (place, server) = (Place::new(), Tcp::v4());
        // As long as a path in the documentation's picture.
        let secret = tempfile::Builder::new()
            .prefix("guard-")
            .rand_bytes(3)
            .tempdir_in("/tmp")
            .expect("a directory");
        let file = secret.path().join(".railway/config.json");
        fs::create_dir_all(file.parent().expect("a parent")).expect("a directory");
        fs::write(&file, "{}").expect("a file");
        let policy = Policy::new()
            .files("credential", &["**/.railway/config.json"])
            .addresses("infra", &[server.addr()])
            .rule(
                "credential-then-infra",
                &["credential", "infra"],
                "hold",
                "timeout = \"2m\"",
            );
        let guard = Guard::new(&place, &policy);
        place.program(&fixture("guard-fixture-tool"), "railway");
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = guard.run(&["--agent", "claude-code"], "railway");
        command.env("PATH", format!("{}:{path}", place.dir().display()));
        let mut tool = Tool::start(command);
        tool.must(&format!("open openat {}", file.display()));
        let tmux = Tmux::start(&place, 80, 24, env);
        Some(Self {
            tmux,
            tool,
            guard,
            server,
            secret,
            place,
        })
    }

    /// The command that shows the screen, for the shell.
    fn top(&self) -> String {
        let guardctl = self.guard.guardctl();
        format!(
            "{} --socket {} top; echo status=$?",
            guardctl.get_program().to_string_lossy(),
            self.guard.socket().display()
        )
    }

    #[track_caller]
    fn open(&self) {
        self.tmux.line(&self.top());
        self.tmux.wait_for("▶ HOLDS");
    }

    #[track_caller]
    fn be_held(&mut self) -> String {
        self.tool.tell(&format!("tcp {} hello", self.server.addr()));
        proc::wait_stopped(self.tool.pid());
        let target = format!("connect {}", self.server.addr());
        self.tmux.wait_for(&format!("wants to  {target}"));
        target
    }

    #[track_caller]
    fn quit(&self) {
        self.tmux.press(&["q"]);
        self.tmux.wait_for("status=0");
    }
}

#[test]
fn a_hold_comes_up_is_approved_by_two_keys_and_the_terminal_is_as_before() {
    let Some(mut s) = Scene::new(&[]) else { return };
    s.tmux.line("echo stood here before");
    let before = s.tmux.settings("before");
    s.open();
    s.tmux.wait_for("nothing is held");
    let target = s.be_held();
    let screen = s.tmux.wait_for("1 HELD");
    for text in [
        "because   credential-then-infra: credential → infra",
        "/.railway/config.json",
        "[credential]",
    ] {
        assert!(
            screen.iter().any(|line| line.contains(text)),
            "{text}: {screen:#?}"
        );
    }
    s.tmux.press(&["a"]);
    let screen = s.tmux.wait_for("Approve h-1?");
    assert!(
        screen.iter().filter(|line| line.contains(&target)).count() >= 2,
        "{screen:#?}"
    );
    s.tool.is_silent();
    s.tmux.press(&["y"]);
    assert_eq!(s.tool.answer()["echo"], "hello");
    s.tmux.wait_for("h-1 approved");
    s.tmux.wait_for("none held");
    s.quit();
    let screen = s.tmux.wait_for("stood here before");
    assert!(
        !screen.iter().any(|line| line.contains("HOLDS")),
        "{screen:#?}"
    );
    assert_eq!(s.tmux.format("#{alternate_on} #{cursor_flag}"), "0 1");
    assert_eq!(s.tmux.settings("after"), before);
}

#[test]
fn any_other_key_leaves_it_held_and_d_with_y_denies() {
    let Some(mut s) = Scene::new(&[]) else { return };
    s.open();
    s.be_held();
    s.tmux.press(&["d"]);
    s.tmux.wait_for("Deny h-1?");
    s.tmux.press(&["d"]);
    s.tmux.wait_for("nothing was done");
    assert_eq!(s.guard.holds().len(), 1);
    s.tmux.press(&["d"]);
    s.tmux.wait_for("Deny h-1?");
    s.tmux.press(&["y"]);
    s.tool.was_refused(&s.guard);
    s.tmux.wait_for("h-1 denied");
    s.server.untouched_while_held(&s.guard);
    s.quit();
}

#[test]
fn a_group_is_one_line_and_one_answer_lets_all_of_it_go_on() {
    let Some(mut s) = Scene::new(&[]) else { return };
    s.open();
    let program = s.place.path("railway");
    let connect = format!("spawn {} tcp {} hello", program.display(), s.server.addr());
    for n in 1..=3 {
        s.tool.must(&connect);
        eventually("one more hold", || {
            (s.guard.holds().len() == n).then_some(())
        });
    }
    s.tmux.wait_for("h-1 ×3");
    s.tmux.press(&["A"]);
    let screen = s.tmux.wait_for("Approve these 3?");
    for id in ["h-2  the same", "h-3  the same"] {
        assert!(screen.iter().any(|line| line.contains(id)), "{screen:#?}");
    }
    s.server.untouched_while_held(&s.guard);
    s.tmux.press(&["y"]);
    s.tmux.wait_for("hg-1: 3 approved: h-1, h-2, h-3");
    eventually("all are through", || {
        (s.server.reached().connections == 3).then_some(())
    });
    s.quit();
}

#[test]
fn a_session_is_shown_with_its_processes_paused_and_killed() {
    let Some(mut s) = Scene::new(&[]) else { return };
    s.open();
    s.tmux.press(&["BTab"]);
    s.tmux.wait_for("▶ SESSIONS");
    s.tmux.wait_for("fact credential");
    s.tmux.press(&["Enter"]);
    s.tmux
        .wait_for(&format!("{} running railway", s.tool.pid()));
    s.tmux.press(&["p"]);
    proc::wait_stopped(s.tool.pid());
    s.tmux.wait_for("paused  claude-code");
    s.tmux.press(&["p"]);
    s.tmux.wait_for("Resume s-1?");
    s.tmux.press(&["y"]);
    proc::wait_running(s.tool.pid());
    s.tmux.press(&["K"]);
    s.tmux.wait_for("Kill s-1?");
    s.tmux.press(&["y"]);
    s.tool.was_killed();
    s.tmux.wait_for("no session runs");
    s.quit();
}

#[test]
fn a_guardd_that_has_gone_is_said_and_one_that_is_back_is_taken_up() {
    let Some(mut s) = Scene::new(&[]) else { return };
    s.open();
    s.be_held();
    s.guard.kill();
    s.tmux.wait_for("guardd cannot be reached since ");
    s.tmux.press(&["a"]);
    s.tmux.wait_for("guardd cannot be reached");
    s.guard.start();
    s.tmux.wait_for("guardd is back (pid ");
    s.tmux.wait_gone("cannot be reached");
    // The hold has outlived guardd, and so has its answer's way.
    s.tmux.press(&["a"]);
    s.tmux.wait_for("Approve h-1?");
    s.tmux.press(&["y"]);
    assert_eq!(s.tool.answer()["echo"], "hello");
    // Events go on too.
    s.tmux.press(&["Tab"]);
    s.tmux.wait_for("answer=approved");
    s.quit();
}

#[test]
fn it_follows_the_size_of_its_window_and_says_when_that_is_too_small() {
    let Some(mut s) = Scene::new(&[]) else { return };
    s.open();
    s.be_held();
    s.tmux.resize(200, 50);
    s.tmux.wait("the detail beside the lists", |screen| {
        screen
            .iter()
            .any(|line| line.contains("SESSIONS") && line.contains("WHY"))
    });
    s.tmux.resize(50, 12);
    s.tmux.wait_for("needs 60 columns and 15 lines");
    s.tmux.resize(60, 15);
    s.tmux.wait_for("▶ HOLDS 1");
    s.tmux.press(&["a"]);
    s.tmux.wait_for("Approve h-1?");
    s.tmux.press(&["y"]);
    assert_eq!(s.tool.answer()["echo"], "hello");
    s.quit();
}

/// Whether a picture of tmux's has a sequence that sets a colour.
fn has_colour(painted: &str) -> bool {
    painted.split("\x1b[").skip(1).any(|rest| {
        let codes = rest.split('m').next().unwrap_or_default();
        codes
            .split(';')
            .filter_map(|code| code.parse::<u32>().ok())
            .any(|code| matches!(code, 30..=38 | 40..=48 | 90..=107))
    })
}

#[test]
fn there_is_colour_but_not_where_no_color_says_so_and_the_words_are_the_same() {
    for env in [&[][..], &[("NO_COLOR", "1")]] {
        let Some(mut s) = Scene::new(env) else { return };
        s.open();
        s.be_held();
        s.tmux.wait_for("1 HELD");
        assert_eq!(
            has_colour(&s.tmux.painted()),
            env.is_empty(),
            "{:?}",
            s.tmux.painted()
        );
        s.guard.approve(&[]);
        assert_eq!(s.tool.answer()["echo"], "hello");
        s.quit();
    }
}

#[test]
fn where_no_screen_can_be_drawn_it_says_what_serves() {
    let Some(s) = Scene::new(&[("TERM", "dumb")]) else {
        return;
    };
    s.tmux.line(&format!("TERM=dumb; {}", s.top()));
    s.tmux.wait_for("status=2");
    let screen = s.tmux.screen().concat();
    assert!(
        screen.contains("TERM=dumb") && screen.contains("guardctl pending"),
        "{screen}"
    );
    let said = s.guard.ctl(&["top"]);
    assert_eq!(said.status, 2);
    assert!(said.err.contains("it needs a terminal"), "{said:?}");
    let said = s.guard.ctl(&["--json", "top"]);
    assert_eq!(said.json()["error"]["code"], "invalid");
}

#[test]
fn signals_end_and_stop_it_with_the_terminal_given_back() {
    let Some(s) = Scene::new(&[]) else { return };
    let before = s.tmux.settings("before");
    s.open();
    let top = || {
        s.place
            .processes()
            .into_iter()
            .find(|pid| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                line.ends_with(b"\0top\0")
            })
            .expect("it runs")
    };
    s.tmux.press(&["C-z"]);
    proc::wait_stopped(top());
    s.tmux.wait_gone("HOLDS");
    assert_eq!(s.tmux.format("#{alternate_on} #{cursor_flag}"), "0 1");
    s.tmux.line("fg");
    s.tmux.wait_for("▶ HOLDS");
    proc::signal(top(), Signal::TSTP);
    proc::wait_stopped(top());
    s.tmux.wait_gone("HOLDS");
    assert_eq!(s.tmux.settings("stopped"), before);
    s.tmux.line("fg");
    s.tmux.wait_for("▶ HOLDS");
    proc::signal(top(), Signal::TERM);
    s.tmux.wait_gone("HOLDS");
    assert_eq!(s.tmux.format("#{alternate_on} #{cursor_flag}"), "0 1");
    assert_eq!(s.tmux.settings("after"), before);
}

#[test]
fn who_may_not_answer_sees_why() {
    let Some(s) = Scene::new(&[]) else { return };
    if !has_program("setpriv") {
        return;
    }
    // The build's directory may be root's alone.
    let guardctl = s.guard.guardctl();
    let own = s.place.program(guardctl.get_program().as_ref(), "guardctl");
    s.tmux.line(&format!(
        "setpriv --reuid=65534 --regid=65534 --clear-groups {} --socket {} top; echo status=$?",
        own.display(),
        s.guard.socket().display()
    ));
    s.tmux
        .wait_for("only to look at: answer: uid 65534 may not");
    s.tmux.press(&["a"]);
    s.tmux.wait("the reason on the bottom line", |screen| {
        screen
            .last()
            .is_some_and(|line| line.contains("uid 65534 may not"))
    });
    s.quit();
}

#[test]
fn a_process_inside_a_session_cannot_answer_on_the_screen() {
    let Some(mut s) = Scene::new(&[]) else { return };
    s.tmux.line(&format!(
        "stty -g > {}; echo pid=$$ >> {0}",
        s.place.path("shell").display()
    ));
    let shell: u32 = eventually("the shell's pid", || {
        let text = fs::read_to_string(s.place.path("shell")).ok()?;
        text.split_once("pid=")?.1.trim().parse().ok()
    });
    s.guard
        .must(&["adopt", &shell.to_string(), "--agent", "inner"]);
    s.tmux.line(&s.top());
    s.tmux.wait_for("only to look at: answer: pid ");
    s.be_held();
    s.tmux.press(&["a"]);
    s.tmux.wait("the reason on the bottom line", |screen| {
        screen
            .last()
            .is_some_and(|line| line.contains("runs inside session"))
    });
    assert_eq!(s.guard.holds().len(), 1);
    s.guard.deny(&[]);
    s.tool.was_refused(&s.guard);
    s.quit();
}

#[test]
fn what_an_agent_chose_does_not_act_on_the_terminal() {
    let Some(mut s) = Scene::new(&[]) else { return };
    let evil = "\u{1b}[2J\u{1b}]0;owned\u{7}\u{202e}e\u{301}日本.env";
    let dir = s.secret.path().join(format!("{evil}/.railway"));
    fs::create_dir_all(&dir).expect("a directory");
    let file = dir.join("config.json");
    fs::write(&file, "{}").expect("a file");
    s.open();
    // The tool splits at spaces, of which there are none.
    s.tool.must(&format!("open openat {}", file.display()));
    s.be_held();
    let screen = s.tmux.wait("the file's name in full", |screen| {
        // It is wrapped.
        let text: String = screen.iter().map(|line| line.trim()).collect();
        text.contains(r"\x1b[2J\x1b]0;owned\x07\u202ee\u0301日本.env/.railway")
    });
    assert!(screen[0].starts_with("guard "), "{screen:#?}");
    assert!(
        screen.iter().any(|line| line.starts_with("─ EVENTS")),
        "{screen:#?}"
    );
    assert_ne!(s.tmux.format("#{pane_title}"), "owned");
    s.guard.approve(&[]);
    assert_eq!(s.tool.answer()["echo"], "hello");
    s.quit();
}

/// The screen with what differs from run to run replaced, column by column, so that it can stand in a page; `dirs`
/// are where the test's files are.
fn steady(screen: &[String], dirs: [&Path; 2]) -> String {
    let mut out = String::new();
    for (n, line) in screen.iter().enumerate() {
        let mut line = line.clone();
        for dir in dirs {
            line = line.replace(dir.to_str().expect("a path"), "/home/ada/shop");
        }
        if n == 0 {
            let (text, _) = line.split_once("  up ").expect("how long it runs");
            line = format!("{:<72}up 2m05s", text.trim_end());
        }
        // Times of day.
        let bytes: Vec<char> = line.chars().collect();
        let digit = |at: usize| bytes.get(at).is_some_and(char::is_ascii_digit);
        let colon = |at: usize| bytes.get(at) == Some(&':');
        let time = (0..bytes.len()).find(|&at| {
            digit(at)
                && digit(at + 1)
                && colon(at + 2)
                && digit(at + 3)
                && digit(at + 4)
                && colon(at + 5)
        });
        if let Some(at) = time {
            let before: String = bytes[..at].iter().collect();
            let after: String = bytes.iter().skip(at + 8).collect();
            line = format!("{before}20:40:22{after}");
            // Of evidence the age, in twelve columns behind it.
            if before.trim_matches([' ', '→']).is_empty() {
                let rest: String = after.chars().skip(14).collect();
                line = format!("{before}20:40:22  {:<12}{rest}", "12s ago");
            }
        }
        let mut put = |from: &str, to: &str, with: &str| {
            if let Some((before, rest)) = line.split_once(from)
                && let Some(end) = rest.find(to)
            {
                line = format!("{before}{from}{with}{}", &rest[end..]);
            }
        };
        put("(pid ", ")", "4117");
        put("127.0.0.1:", " ", "18443");
        put("1 process, ", "  [", "1m05s");
        put("it is denied in ", ".", "1m48s");
        put("> h-1  ", " s-1", "1m48s");
        // At a line's end.
        if let Some((before, _)) = line.split_once("is held, ") {
            line = format!("{before}is held, 12s ago");
        }
        if let Some((before, rest)) = line.split_once("127.0.0.1:")
            && !rest.contains(' ')
        {
            line = format!("{before}127.0.0.1:18443");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[test]
fn the_page_has_the_screen() {
    let Some(mut s) = Scene::new(&[("NO_COLOR", "1")]) else {
        return;
    };
    s.open();
    s.be_held();
    // The kernel's record and guardd's are both told by then.
    let screen = s.tmux.wait("the hold among the events", |screen| {
        let events = screen.iter().skip_while(|line| !line.contains("EVENTS"));
        screen[0].contains("1 HELD")
            && screen.iter().any(|line| line.contains("s-1   held"))
            && events.into_iter().any(|line| line.contains("id=h-1"))
    });
    let picture = steady(&screen, [s.secret.path(), s.place.dir()]);
    s.guard.approve(&[]);
    assert_eq!(s.tool.answer()["echo"], "hello");
    s.quit();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/top.md");
    let page = include_str!("../../docs/top.md");
    let (before, rest) = page.split_once("<!-- screen -->\n").expect("the place");
    let (_, behind) = rest.split_once("<!-- end -->").expect("its end");
    let whole = format!("{before}<!-- screen -->\n```text\n{picture}```\n<!-- end -->{behind}");
    if std::env::var_os("GUARD_WRITE_DOCS").is_some() {
        fs::write(path, whole).expect("the page");
        return;
    }
    assert_eq!(
        page, whole,
        "write it anew: GUARD_WRITE_DOCS=1 cargo xtask test --e2e the_page_has_the_screen"
    );
}

#[test]
fn an_idle_screen_sends_little() {
    let Some(s) = Scene::new(&[]) else { return };
    if !has_program("script") {
        return;
    }
    // `script` writes down what goes to the terminal.
    let log = s.place.path("typescript");
    let top = s.top().replace("; echo status=$?", "");
    s.tmux.line(&format!(
        "script -q -f -c '{top}' {}; echo status=$?",
        log.display()
    ));
    s.tmux.wait_for("▶ HOLDS");
    s.tmux.wait_for("nothing is held");
    let len = || fs::metadata(&log).map_or(0, |meta| meta.len());
    let (before, began) = (len(), proc::monotonic());
    guard_tests::let_pass(std::time::Duration::from_secs(5));
    let (sent, time) = (len() - before, proc::monotonic() - began);
    s.quit();
    let a_second = sent as f64 / time.as_secs_f64();
    println!("{a_second:.0} bytes a second");
    assert!(a_second < 500.0, "{a_second} bytes a second");
}
