//! The screen without a terminal: states made by hand, keys, and what stands on the picture.

use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    style::Color,
};
use serde_json::json;

use super::{
    input::{self, Effect},
    state::{EVENTS, Look, Mode, Pane, State},
    view::{self, Theme},
};
use crate::{
    cli::groups::tests::a_hold,
    event::{Event, Kind},
    wire::{
        CounterInfo, FactInfo, HoldCounts, HoldInfo, ProcessInfo, Request, SessionDetail,
        SessionInfo, Status,
    },
};

const NOW: u64 = 1_800_000_000;

fn status() -> Status {
    Status {
        state: "ok".into(),
        degraded: vec![],
        version: "0.1.0".into(),
        pid: 412,
        uptime_s: 125,
        mode: "enforce".into(),
        kernel: "6.18.0".into(),
        policy: "built-in".into(),
        policy_files: vec![],
        user_policies: vec![],
        hooks: vec![],
        not_enforced: vec![],
        sessions: 2,
        processes: 5,
        holds: 1,
        hold_counts: HoldCounts::default(),
        may_not_answer: None,
        lineage_used: 5,
        lineage_size: 100,
        counters: vec![],
        events: 9,
        state_dir: "/var/lib/guard".into(),
        journal: None,
        herald: None,
    }
}

fn session(id: &str, agent: &str, state: &str) -> SessionInfo {
    SessionInfo {
        id: id.into(),
        agent: agent.into(),
        root_pid: 400,
        uid: 1000,
        age_s: 65,
        processes: 3,
        facts: vec!["credential".into()],
        state: state.into(),
        parent: None,
        origin: "run".into(),
        intent: Some("fix the login".into()),
        score: Some(83),
    }
}

fn look(holds: Vec<HoldInfo>) -> Look {
    Look {
        status: status(),
        sessions: vec![
            session("s-3", "claude-code", "held"),
            session("s-4", "codex", "running"),
        ],
        holds,
        left_out: 0,
        detail: None,
    }
}

fn target() -> &'static str {
    "connect backboard.example:443 (192.0.2.1)"
}

fn state(holds: Vec<HoldInfo>) -> State {
    let mut state = State::new(NOW);
    state.looked(look(holds), NOW);
    state
}

fn held() -> State {
    state(vec![a_hold("h-7", "hg-7", target())])
}

fn group(n: u32) -> Vec<HoldInfo> {
    (0..n)
        .map(|at| {
            a_hold(
                &format!("h-{}", 7 + at),
                "hg-7",
                &format!("open /w/keys/{at}.pem"),
            )
        })
        .collect()
}

fn event(seq: u64, path: &str) -> Event {
    let mut event = Event::new(Kind::Open);
    event.seq = seq;
    event.time = "2026-11-21T20:40:22.123456Z".into();
    event.session = Some("s-3".into());
    event.argv = Some(vec!["cat".into()]);
    event.object = Some(json!({"path": path}));
    event
}

fn picture(state: &State, columns: u16, lines: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(columns, lines)).unwrap();
    let theme = Theme::default();
    terminal
        .draw(|frame| view::draw(frame, state, theme))
        .unwrap();
    let buffer = terminal.backend().buffer();
    assert!(
        buffer
            .content()
            .iter()
            .all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset),
        "colour without leave"
    );
    (0..lines)
        .map(|y| {
            // A wide character has the cell after it too, which then is empty.
            let row: String = (0..columns).map(|x| buffer[(x, y)].symbol()).collect();
            row.trim_end().to_owned()
        })
        .collect()
}

fn press(state: &mut State, code: KeyCode) -> Option<Effect> {
    input::key(state, KeyEvent::new(code, KeyModifiers::NONE))
}

fn typed(state: &mut State, keys: &str) -> Option<Effect> {
    keys.chars()
        .map(|c| press(state, KeyCode::Char(c)))
        .last()
        .flatten()
}

#[track_caller]
fn has(picture: &[String], text: &str) {
    assert!(
        picture.iter().any(|line| line.contains(text)),
        "no {text:?} on\n{}",
        picture.join("\n")
    );
}

#[test]
fn at_80_by_24_a_hold_shows_who_what_why_and_the_keys() {
    let mut state = held();
    state.happened(event(1, "/home/a/project/.env"));
    let picture = picture(&state, 80, 24);
    assert!(
        picture[0].starts_with("guard ok (enforce)  2 sessions, 5 processes  1 HELD  none lost"),
        "{}",
        picture[0]
    );
    for text in [
        "s-3   held    claude-code 3 processes, 1m05s, score 83  [credential]",
        "> h-7  1m48s s-3   claude-code: connect backboard.example:443",
        "wants to  connect backboard.example:443 (192.0.2.1)",
        "by        curl https://backboard.example",
        "because   credential-then-infra: credential → infra",
        "/home/a/project/.env  [credential]",
        "Without an answer it is killed in 1m48s, at 20:42:00 UTC.",
        "20:40:22 open",
    ] {
        has(&picture, text);
    }
    assert!(
        picture[23].starts_with("a approve  d deny"),
        "{}",
        picture[23]
    );
}

#[test]
fn a_large_screen_has_the_detail_beside_the_lists() {
    let picture = picture(&held(), 200, 50);
    let line = picture
        .iter()
        .find(|line| line.contains("SESSIONS"))
        .unwrap();
    assert!(line.contains("WHY"), "{line}");
    has(
        &picture,
        "Without an answer it is killed in 1m48s, at 20:42:00 UTC.",
    );
}

#[test]
fn every_size_can_be_drawn_and_a_small_one_says_what_it_needs() {
    let mut state = state(group(9));
    for n in 0..50 {
        state.happened(event(n, "/x"));
    }
    for focus in Pane::ALL {
        state.focus = focus;
        for mode in ['?', 'A', 'q'] {
            state.mode = Mode::Normal;
            typed(&mut state, &mode.to_string());
            for (columns, lines) in [
                (1, 1),
                (20, 5),
                (60, 14),
                (60, 15),
                (61, 16),
                (80, 24),
                (139, 29),
                (140, 30),
                (500, 200),
            ] {
                let picture = picture(&state, columns, lines);
                if (columns, lines) == (60, 14) {
                    has(&picture, "guardctl top needs 60 columns and 15 lines");
                }
            }
            state.focus = focus;
        }
    }
}

#[test]
fn an_approval_takes_two_keys_and_is_for_the_hold_that_was_shown() {
    let mut state = held();
    assert_eq!(typed(&mut state, "a"), None);
    let shown = picture(&state, 80, 24);
    has(&shown, "Approve h-7?");
    has(&shown, "connect backboard.example:443 (192.0.2.1)");
    // Another hold comes before it meanwhile.
    state.looked(
        look(vec![
            a_hold("h-1", "hg-1", "open /x"),
            a_hold("h-7", "hg-7", target()),
        ]),
        NOW,
    );
    assert_eq!(
        typed(&mut state, "y"),
        Some(Effect::Ask(Request::Approve {
            id: "h-7".into(),
            for_ms: None
        }))
    );
    assert_eq!(state.mode, Mode::Normal);
}

#[test]
fn any_other_key_does_nothing_and_a_second_a_is_no_yes() {
    for key in ["d", "a", "\n", " ", "n"] {
        let mut state = held();
        typed(&mut state, "d");
        has(&picture(&state, 60, 15), "Deny h-7?");
        assert_eq!(typed(&mut state, key), None);
        assert_eq!(state.mode, Mode::Normal);
    }
    let mut state = held();
    typed(&mut state, "d");
    assert_eq!(
        typed(&mut state, "y"),
        Some(Effect::Ask(Request::Deny {
            id: "h-7".into(),
            reason: None
        }))
    );
}

#[test]
fn a_question_about_what_waits_no_more_is_withdrawn() {
    let mut state = held();
    typed(&mut state, "a");
    state.looked(look(vec![a_hold("h-8", "hg-8", target())]), NOW);
    assert_eq!(state.mode, Mode::Normal);
    has(&picture(&state, 80, 24), "h-7 does not wait any more");
    assert_eq!(typed(&mut state, "y"), None);
}

#[test]
fn one_answer_covers_of_a_group_what_was_shown_and_not_what_joins_later() {
    let mut state = state(group(3));
    has(&picture(&state, 80, 24), "h-7 ×3");
    typed(&mut state, "A");
    let shown = picture(&state, 80, 24);
    has(&shown, "Approve these 3?");
    has(&shown, "h-8  1.pem");
    has(&shown, "h-9  2.pem");
    state.looked(look(group(4)), NOW);
    let asked = |upto: &str, approve| {
        Some(Effect::Ask(Request::AnswerAll {
            id: "h-7".into(),
            upto: upto.into(),
            approve,
            for_ms: None,
            reason: None,
        }))
    };
    assert_eq!(typed(&mut state, "y"), asked("h-9", true));

    // Of more than have room only those that are shown are answered.
    state.looked(look(group(20)), NOW);
    typed(&mut state, "D");
    let shown = picture(&state, 60, 15);
    has(&shown, "Deny these 5?");
    has(&shown, "not the 15 after these");
    assert!(
        !shown.iter().any(|line| line.contains("h-12")),
        "{shown:#?}"
    );
    assert_eq!(typed(&mut state, "y"), asked("h-11", false));
}

#[test]
fn a_kill_and_a_resume_are_asked_and_a_pause_is_at_once() {
    let mut state = held();
    assert_eq!(typed(&mut state, "K"), None);
    has(&picture(&state, 80, 24), "Kill s-3?");
    has(
        &picture(&state, 80, 24),
        "s-3 claude-code: every process of 3",
    );
    assert_eq!(
        typed(&mut state, "y"),
        Some(Effect::Ask(Request::Kill {
            session: "s-3".into()
        }))
    );
    assert_eq!(
        typed(&mut state, "p"),
        Some(Effect::Ask(Request::Pause {
            session: "s-3".into()
        }))
    );
    state.sessions[0].state = "paused".into();
    assert_eq!(typed(&mut state, "p"), None);
    assert_eq!(
        typed(&mut state, "y"),
        Some(Effect::Ask(Request::Resume {
            session: "s-3".into()
        }))
    );
}

#[test]
fn who_may_not_answer_sees_why_and_is_not_asked() {
    let mut state = held();
    let mut forbidden = look(vec![a_hold("h-7", "hg-7", target())]);
    forbidden.status.may_not_answer = Some("answer: uid 1000 may not: become root".into());
    state.looked(forbidden, NOW);
    has(
        &picture(&state, 80, 24),
        "only to look at: answer: uid 1000 may not",
    );
    for key in ["a", "A", "d", "D", "p", "K"] {
        assert_eq!(typed(&mut state, key), None);
        assert_eq!(state.mode, Mode::Normal, "{key}");
        assert!(state.said.as_ref().is_some_and(|said| said.bad));
    }
}

#[test]
fn a_lost_guardd_is_said_with_the_time_and_its_return_too() {
    let mut state = held();
    typed(&mut state, "a");
    state.unreachable("connection refused".into(), "20:41:00".into(), NOW + 10);
    assert_eq!(state.mode, Mode::Normal);
    state.now_s = NOW + 52;
    has(
        &picture(&state, 80, 24),
        "guardd cannot be reached since 20:41:00 UTC (42s): connection refused",
    );
    assert_eq!(typed(&mut state, "a"), None);
    assert_eq!(state.mode, Mode::Normal);
    state.looked(look(vec![]), NOW + 60);
    let shown = picture(&state, 80, 24);
    has(&shown, "guardd is back (pid 412)");
    has(&shown, "nothing is held");
    assert!(!shown.iter().any(|line| line.contains("cannot be reached")));
}

#[test]
fn a_guardd_that_is_silent_is_said() {
    let mut state = held();
    state.now_s = NOW + 7;
    has(&picture(&state, 80, 24), "guardd has not answered for 7s");
}

#[test]
fn losses_and_what_is_degraded_are_on_top() {
    let mut state = held();
    let mut bad = look(vec![]);
    bad.status.state = "degraded".into();
    bad.status.degraded = (0..5).map(|n| format!("reason {n}")).collect();
    bad.status.counters = vec![CounterInfo {
        class: "activity".into(),
        emitted: 5,
        lost: 3,
    }];
    state.looked(bad, NOW);
    let shown = picture(&state, 80, 24);
    assert!(
        shown[0].contains("guard degraded (enforce)") && shown[0].contains("LOST 3 activity"),
        "{}",
        shown[0]
    );
    assert_eq!(shown[1], "degraded: reason 0");
    assert_eq!(shown[3], "degraded: reason 2 (and 2 more: guardctl status)");
}

#[test]
fn what_an_agent_chose_keeps_to_its_cells() {
    let evil = "\x1b[2J\r\u{202e}yes\u{9b}0m\u{301}\u{1f1e9}\u{1f1ea}日本語".repeat(8);
    let mut hold = a_hold("h-7", "hg-7", &evil);
    (hold.agent, hold.rule, hold.intent) = (evil.clone(), evil.clone(), Some(evil.clone()));
    hold.argv = Some(vec![evil.clone(); 3]);
    hold.evidence[0].object = Some(json!({"path": evil}));
    let mut state = state(vec![
        hold.clone(),
        HoldInfo {
            id: "h-8".into(),
            ..hold
        },
    ]);
    state.sessions[0].agent.clone_from(&evil);
    state.happened(event(1, &evil));
    for mode in ["", "A", "a"] {
        state.mode = Mode::Normal;
        typed(&mut state, mode);
        for (columns, lines) in [(60, 15), (80, 24), (200, 50)] {
            for line in picture(&state, columns, lines) {
                assert!(
                    !line
                        .chars()
                        .any(|c| c.is_control() || c == '\u{202e}' || c == '\u{301}'),
                    "{line:?}"
                );
                let wide = line
                    .chars()
                    .filter(|c| "日本語\u{1f1e9}".contains(*c))
                    .count();
                assert!(
                    line.chars().count() <= usize::from(columns),
                    "{wide}: {line:?}"
                );
            }
        }
    }
}

#[test]
fn a_filter_lists_what_contains_it() {
    let mut state = held();
    for n in 0..10 {
        state.happened(event(n, if n == 4 { "/needle" } else { "/hay" }));
    }
    typed(&mut state, "/NEEDLE");
    press(&mut state, KeyCode::Enter);
    assert_eq!(state.listed_events().len(), 1);
    let shown = picture(&state, 80, 24);
    has(&shown, "none with the filter's text (Esc shows all)");
    has(&shown, "[NEEDLE] a approve");
    // Keys are keys again.
    typed(&mut state, "a");
    assert!(
        state
            .said
            .as_ref()
            .is_some_and(|said| said.text == "nothing is held")
    );
    press(&mut state, KeyCode::Esc);
    assert_eq!(state.listed_events().len(), 10);
}

#[test]
fn tab_and_arrows_choose_and_the_choice_stays_by_name() {
    let mut state = held();
    state.focus = Pane::Sessions;
    assert_eq!(press(&mut state, KeyCode::Down), Some(Effect::Look));
    assert_eq!(state.wanted().as_deref(), Some("s-4"));
    let mut next = look(vec![]);
    next.sessions.remove(0);
    next.detail = Some(SessionDetail {
        info: next.sessions[0].clone(),
        tree: vec![
            ProcessInfo {
                pid: 400,
                ppid: 1,
                exe: None,
                argv: Some(vec!["sh".into()]),
                state: "running".into(),
            },
            ProcessInfo {
                pid: 401,
                ppid: 400,
                exe: Some("/bin/x".into()),
                argv: None,
                state: "held".into(),
            },
        ],
        facts: vec![FactInfo {
            label: "infra".into(),
            last: String::new(),
            age_s: 5,
            object: Some("h:1".into()),
        }],
        timeline: vec![],
        untapped: vec!["pid 3: no library".into()],
        environment: vec![],
        understood: None,
        intent_problem: None,
        persona: None,
        conduct: None,
    });
    state.looked(next, NOW);
    assert_eq!(state.wanted().as_deref(), Some("s-4"));
    let shown = picture(&state, 80, 24);
    has(&shown, "fact infra  5s ago  h:1");
    has(&shown, "not read: pid 3: no library");
    has(&shown, "2 processes (Enter shows them)");
    press(&mut state, KeyCode::Enter);
    let shown = picture(&state, 80, 24);
    has(&shown, "  400 running sh");
    has(&shown, "    401 held    /bin/x");
    press(&mut state, KeyCode::Tab);
    assert_eq!(state.focus, Pane::Holds);
    press(&mut state, KeyCode::BackTab);
    assert_eq!(state.focus, Pane::Sessions);
}

#[test]
fn events_are_bounded_and_one_that_is_read_stays_while_others_come() {
    let mut state = held();
    state.focus = Pane::Events;
    for n in 0..EVENTS as u64 {
        state.happened(event(n, "/x"));
    }
    press(&mut state, KeyCode::Up);
    press(&mut state, KeyCode::PageUp);
    let chosen = state.chosen_event().unwrap().seq;
    assert_eq!(chosen, EVENTS as u64 - 10);
    for n in 0..300 {
        state.happened(event(5000 + n, "/x"));
    }
    assert_eq!(state.events.len(), EVENTS);
    assert_eq!(state.chosen_event().unwrap().seq, chosen);
    press(&mut state, KeyCode::End);
    assert_eq!(state.chosen_event().unwrap().seq, 5299);
    press(&mut state, KeyCode::Enter);
    has(&picture(&state, 80, 24), "\"seq\":5299");
}

#[test]
fn what_is_long_is_scrolled_and_says_how_much_is_out_of_sight() {
    let mut state = held();
    let first = picture(&state, 80, 15);
    has(&first, "WHY (PgUp ↑0 PgDn ↓");
    for _ in 0..9 {
        press(&mut state, KeyCode::PageDown);
    }
    has(
        &picture(&state, 80, 15),
        "Without an answer it is killed in 1m48s, at 20:42:00 UTC.",
    );
    // No further than there is something, so that the way back is not longer.
    press(&mut state, KeyCode::PageUp);
    press(&mut state, KeyCode::PageUp);
    has(&picture(&state, 80, 15), "WHY (PgUp ↑0 PgDn ↓");
}
