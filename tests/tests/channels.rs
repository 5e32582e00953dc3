//! Webhooks, Slack and desktops, each against a real counterpart on the loopback: that people are told, that an answer
//! is taken from who may give one, and what becomes of everybody else's.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use guard_tests::{
    Guard, Place, Tool,
    desktop::Bus,
    eventually, has_program,
    hooks::{Hooks, Received, Reply, now, signature},
    let_pass,
    slack::{self, Slack},
    told::{Scene, herald, memory, most_memory},
};
use serde_json::{Value, json};

const KEY: &str = "key-of-a-test";

/// A file that only root can read.
fn secret(place: &Place, name: &str, text: &str) -> PathBuf {
    let path = place.file(name, text);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("permissions");
    path
}

fn webhook(place: &Place, name: &str, hooks: &Hooks, ca: &Path, more: &str) -> String {
    let key = secret(place, "key", KEY);
    format!(
        "[[notify.webhook]]\nname = \"{name}\"\nurl = \"https://127.0.0.1:{}/hook\"\nkey_file = \"{}\"\n\
         ca_file = \"{}\"\npoll = \"100ms\"\n{more}",
        hooks.port(),
        key.display(),
        ca.display()
    )
}

/// A scene with a webhook that answers so.
fn hooked(
    more: &str,
    answer: impl Fn(&Received) -> Reply + Send + Sync + 'static,
) -> (Scene, Hooks) {
    let place = Place::new();
    let ca = place.path("ca.pem");
    let hooks = Hooks::new(&ca, answer);
    let notify = webhook(&place, "ops", &hooks, &ca, more);
    (Scene::in_place(place, &notify), hooks)
}

fn kind(request: &Received) -> String {
    request.json()["type"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// A body with a signature.
fn signed(key: &str, direction: &str, t: u64, answer: &Value) -> Reply {
    let body = answer.to_string();
    let signature = signature(key, direction, t, body.as_bytes());
    Reply::new(200, body).and("Guard-Signature", &signature)
}

/// The right answer to a message that asks for one.
fn yes(request: &Received) -> Value {
    let body = request.json();
    json!({ "answer": "approve", "token": body["answer"]["token"], "delivery": body["delivery"], "by": "sam" })
}

/// Why answers were refused, as the journal has it.
fn refusals(guard: &Guard) -> Vec<String> {
    let events = guard.events_now().into_iter();
    events
        .filter(|event| event["object"]["what"] == "answer refused")
        .map(|event| {
            event["object"]["why"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        })
        .collect()
}

#[track_caller]
fn wait_refusal(guard: &Guard, why: &str) {
    eventually(&format!("a refusal: {why}"), || {
        refusals(guard)
            .iter()
            .any(|said| said.contains(why))
            .then_some(())
    });
}

/// The answer that was taken, as the journal has it.
#[track_caller]
fn answered(guard: &Guard) -> Value {
    let event = eventually("an answer", || {
        let events = guard.events_now();
        events.into_iter().rev().find(|event| event.is("answer"))
    });
    event["object"].clone()
}

#[test]
fn a_webhook_is_sent_signed_messages() {
    let (mut s, hooks) = hooked("", |_| Reply::new(204, ""));
    s.be_held();
    let hold = hooks.wait("the hold", |request| kind(request) == "hold");
    let t: u64 = hold.header("guard-signature").expect("a signature")[2..]
        .split(',')
        .next()
        .and_then(|t| t.parse().ok())
        .expect("a time");
    assert!(now().abs_diff(t) < 60);
    let expected = signature(KEY, "guard.request", t, &hold.body);
    assert_eq!(hold.header("guard-signature"), Some(expected.as_str()));
    let body = hold.json();
    assert_eq!(body["delivery"].as_str(), hold.header("guard-id"));
    let target = format!("connect {}", s.server.addr());
    assert_eq!(body["hold"]["target"], target);
    assert!(body["text"].as_str().expect("a text").contains(&target));
    assert!(
        body.get("answer").is_none() && body["hold"].get("token").is_none(),
        "nobody asked: {body}"
    );
    s.wait_part("webhook ops", "it is sent", |part| {
        part["sent"] == 1 && part["state"] == "ok"
    });
    s.guard.deny(&[]);
    s.tool.was_refused(&s.guard);
    let ended = hooks
        .wait("its end", |request| kind(request) == "ended")
        .json();
    assert!(
        ended["outcome"]
            .as_str()
            .expect("how")
            .contains("denied by root"),
        "{ended}"
    );
}

#[test]
fn when_guardd_stops_people_are_told_what_became_of_the_hold() {
    let (mut s, hooks) = hooked("", |_| Reply::new(204, ""));
    s.be_held();
    hooks.wait("the hold", |request| kind(request) == "hold");
    s.guard.stop();
    let ended = hooks.wait("its end", |request| kind(request) == "ended");
    let outcome = ended.json()["outcome"].to_string();
    assert!(
        outcome.contains("guardd stopped: it was denied"),
        "{outcome}"
    );
}

#[test]
fn a_message_that_fails_is_tried_again_under_the_same_id() {
    let tries = AtomicUsize::new(0);
    let (mut s, hooks) = hooked("", move |_| match tries.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::new(503, "later"),
        _ => Reply::new(200, "ok"),
    });
    s.be_held();
    let holds = eventually("two tries", || {
        Some(hooks.received()).filter(|received| received.len() == 2)
    });
    assert_eq!(holds[0].header("guard-id"), holds[1].header("guard-id"));
    s.wait_part("webhook ops", "it is sent", |part| {
        part["sent"] == 1 && part["state"] == "ok"
    });
    s.guard.approve(&[]);
    s.goes_on();
}

#[test]
fn a_redirect_is_not_followed() {
    let (mut s, hooks) = hooked("", |_| {
        Reply::new(302, "").and("Location", "http://127.0.0.1:9/")
    });
    s.be_held();
    s.wait_part("webhook ops", "it is given up", |part| part["dropped"] == 1);
    assert_eq!(hooks.received().len(), 1);
    s.guard.deny(&[]);
    s.tool.was_refused(&s.guard);
}

#[test]
fn an_answer_in_a_response_lets_the_call_go_on() {
    let (mut s, _hooks) = hooked("answer = true", |request| match kind(request).as_str() {
        "poll" => signed(KEY, "guard.answer", now(), &yes(request)),
        _ => Reply::new(200, "{}"),
    });
    s.be_held_and_answered();
    s.goes_on();
    let answer = answered(&s.guard);
    assert_eq!(answer["answer"], "approved");
    assert_eq!(answer["via"]["channel"], "webhook ops");
    assert_eq!(answer["via"]["who"], "sam");
    assert!(
        answer["via"]["from"]
            .as_str()
            .expect("where from")
            .starts_with("127.0.0.1:")
    );
}

/// Has the session ask for a lease.
fn ask_for_a_lease(s: &mut Scene, more: &str) {
    let guardctl = s.guard.guardctl().get_program().to_owned();
    let guardctl = s.place.program(guardctl.as_ref(), "guardctl");
    s.tool.tell(&format!(
        "run {} --socket {} request --label infra --uses 1 --reason fix-staging {more}",
        guardctl.display(),
        s.guard.socket().display()
    ));
}

#[test]
fn a_lease_that_is_asked_for_is_told_and_answered_like_a_hold() {
    let (mut s, hooks) = hooked("answer = true", |request| match kind(request).as_str() {
        "poll" => signed(KEY, "guard.answer", now(), &yes(request)),
        _ => Reply::new(200, "{}"),
    });
    ask_for_a_lease(&mut s, "--wait");
    assert_eq!(s.tool.answer()["status"], 0);
    let body = hooks
        .wait("the question", |request| kind(request) == "ask")
        .json();
    let text = body["text"].as_str().expect("a text");
    for said in [
        "have a lease for infra, once, for 10m",
        "\"fix-staging\"",
        "Without an answer it is refused in",
        "approve g-1    to give it",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let grant = &s.guard.json(&["grants"])["grants"][0];
    assert_eq!(grant["state"], "active", "{grant}");
    let given = s
        .guard
        .events_now()
        .into_iter()
        .find(|event| event.is("grant") && event["object"]["what"] == "granted");
    let given = given.expect("it is told");
    assert_eq!(
        given["object"]["via"]["channel"], "webhook ops",
        "{given:?}"
    );
    assert_eq!(given["object"]["via"]["who"], "sam", "{given:?}");
    let ended = hooks
        .wait("its end", |request| kind(request) == "ended")
        .json();
    assert_eq!(ended["id"], "g-1");
    assert_eq!(ended["outcome"], "granted by sam (webhook ops)", "{ended}");
    // It is good for one call.
    s.be_held_and_answered();
    s.goes_on();
}

#[test]
fn of_a_lease_that_is_asked_for_the_end_is_told_too_and_a_forged_answer_gives_nothing() {
    let (mut s, hooks) = hooked("answer = true", |request| match kind(request).as_str() {
        "poll" => {
            let mut answer = yes(request);
            answer["token"] = "0123456789abcdef0123456789abcdef".into();
            signed(KEY, "guard.answer", now(), &answer)
        }
        _ => Reply::new(200, "{}"),
    });
    ask_for_a_lease(&mut s, "");
    assert_eq!(s.tool.answer()["status"], 0);
    wait_refusal(&s.guard, "its token is another one");
    assert_eq!(s.guard.json(&["grants"])["grants"][0]["state"], "asked");
    drop(s.tool);
    let ended = hooks
        .wait("its end", |request| kind(request) == "ended")
        .json();
    assert_eq!(
        ended["outcome"], "refused: its session has ended",
        "{ended}"
    );
    assert_eq!(s.guard.json(&["grants"])["grants"][0]["state"], "refused");
}

#[test]
fn every_forged_answer_is_refused_and_recorded() {
    // What is wrong with each, and what guard says to it.
    type Forge = fn(&Received) -> Reply;
    const FORGED: [(Forge, &str); 7] = [
        (
            |request| Reply::new(200, yes(request).to_string()),
            "no header guard-signature",
        ),
        (
            |request| signed("another key", "guard.answer", now(), &yes(request)),
            "signature is wrong",
        ),
        // guard's own signature would be good for this one.
        (
            |request| signed(KEY, "guard.request", now(), &yes(request)),
            "signature is wrong",
        ),
        (
            |request| signed(KEY, "guard.answer", now() - 400, &yes(request)),
            "signed 40",
        ),
        (
            |request| {
                let mut answer = yes(request);
                answer["delivery"] = "another".into();
                signed(KEY, "guard.answer", now(), &answer)
            },
            "answers another message",
        ),
        (
            |request| {
                let mut answer = yes(request);
                answer["token"] = "0".repeat(32).into();
                signed(KEY, "guard.answer", now(), &answer)
            },
            "not to this hold",
        ),
        (
            |request| {
                let mut answer = yes(request);
                answer["answer"] = "maybe".into();
                signed(KEY, "guard.answer", now(), &answer)
            },
            "neither approve nor deny",
        ),
    ];
    let polls = AtomicUsize::new(0);
    let (mut s, _hooks) = hooked("answer = true", move |request| {
        if kind(request) != "poll" {
            return Reply::new(200, "");
        }
        match FORGED.get(polls.fetch_add(1, Ordering::SeqCst)) {
            Some((forge, _)) => forge(request),
            None => Reply::new(204, ""),
        }
    });
    s.be_held();
    for (_, why) in FORGED {
        wait_refusal(&s.guard, why);
    }
    assert_eq!(refusals(&s.guard).len(), FORGED.len());
    s.wait_part("webhook ops", "they are counted", |part| {
        part["refused"] == FORGED.len()
    });
    s.server.untouched_while_held(&s.guard);
    s.guard.deny(&[]);
    s.tool.was_refused(&s.guard);
}

#[test]
fn an_answer_is_good_for_one_hold_once() {
    let first: Mutex<Option<Reply>> = Mutex::new(None);
    let (mut s, _hooks) = hooked("answer = true", move |request| {
        if kind(request) != "poll" {
            return Reply::new(200, "");
        }
        // The first is right, and said again to everything that comes after.
        let mut first = first.lock().expect("a lock");
        first
            .get_or_insert_with(|| signed(KEY, "guard.answer", now(), &yes(request)))
            .clone()
    });
    s.be_held_and_answered();
    s.goes_on();
    s.be_held();
    wait_refusal(&s.guard, "answers another message");
    s.guard.deny(&[]);
    s.tool.was_refused(&s.guard);
}

#[test]
fn an_answer_that_comes_after_the_end_changes_nothing() {
    let (mut s, _hooks) = hooked_for("2s", "answer = true", |request| {
        if kind(request) == "poll" {
            let_pass(Duration::from_secs(4));
            return signed(KEY, "guard.answer", now(), &yes(request));
        }
        Reply::new(200, "")
    });
    s.be_held();
    s.tool.was_refused(&s.guard);
    wait_refusal(&s.guard, "no such hold waits");
    assert_eq!(answered(&s.guard)["answer"], "timed out");
}

/// The same with another time to answer.
fn hooked_for(
    timeout: &str,
    more: &str,
    answer: impl Fn(&Received) -> Reply + Send + Sync + 'static,
) -> (Scene, Hooks) {
    let (s, hooks) = hooked(more, answer);
    let text = fs::read_to_string(s.guard.policy()).expect("a policy");
    fs::write(s.guard.policy(), text.replace("60s", timeout)).expect("a policy");
    s.guard.must(&["policy", "reload"]);
    (s, hooks)
}

#[test]
fn a_channel_may_be_kept_from_approving() {
    let (mut s, hooks) = hooked("answer = true\napprove = false", |request| {
        match kind(request).as_str() {
            "poll" => signed(KEY, "guard.answer", now(), &yes(request)),
            _ => Reply::new(200, ""),
        }
    });
    s.be_held();
    wait_refusal(&s.guard, "may not approve");
    let may = hooks
        .wait("the question", |request| kind(request) == "hold")
        .json();
    assert_eq!(may["answer"]["may"], json!(["deny"]));
    s.server.untouched_while_held(&s.guard);
    s.guard.deny(&[]);
    s.tool.was_refused(&s.guard);
}

#[test]
fn a_hundred_megabytes_in_answer_are_not_read() {
    let (mut s, _hooks) = hooked("", |_| Reply::Flood(100 << 20));
    s.be_held();
    s.wait_part("webhook ops", "it fails", |part| part["state"] == "failing");
    let pid = herald(&s.guard).expect("a herald");
    assert!(most_memory(pid) < 60, "{} MB", most_memory(pid));
    s.guard.approve(&[]);
    s.goes_on();
}

#[test]
fn one_that_never_answers_keeps_nothing_from_the_others() {
    let place = Place::new();
    let (dead_ca, ca) = (place.path("dead.pem"), place.path("ca.pem"));
    let dead = Hooks::new(&dead_ca, |_| Reply::Nothing);
    let live = Hooks::new(&ca, |_| Reply::new(200, ""));
    let notify = [
        webhook(&place, "dead", &dead, &dead_ca, ""),
        webhook(&place, "live", &live, &ca, ""),
    ];
    let mut s = Scene::in_place(place, &notify.join("\n"));
    for n in 1..4 {
        s.be_held();
        eventually("the live one is told", || {
            let holds = live
                .received()
                .into_iter()
                .filter(|request| kind(request) == "hold");
            (holds.count() == n).then_some(())
        });
        s.guard.approve(&[]);
        s.goes_on();
    }
    s.wait_part("webhook dead", "it fails", |part| {
        part["state"] == "failing"
    });
    assert_eq!(s.guard.json(&["status"])["state"], "degraded");
}

#[test]
fn a_secret_that_others_can_read_is_not_used() {
    let place = Place::new();
    let ca = place.path("ca.pem");
    let hooks = Hooks::new(&ca, |_| Reply::new(200, ""));
    let notify = webhook(&place, "ops", &hooks, &ca, "");
    fs::set_permissions(place.path("key"), fs::Permissions::from_mode(0o644)).expect("chmod");
    let mut s = Scene::in_place(place, &notify);
    let part = s.wait_part("webhook ops", "it says so at once", |part| {
        part["state"] == "failing"
    });
    assert!(
        part["error"].as_str().expect("why").contains("chmod 0600"),
        "{part}"
    );
    s.be_held();
    fs::set_permissions(s.place.path("key"), fs::Permissions::from_mode(0o600)).expect("chmod");
    hooks.wait("the hold, once it is mended", |request| {
        kind(request) == "hold"
    });
    s.guard.deny(&[]);
    s.tool.was_refused(&s.guard);
}

#[test]
fn an_authority_that_is_not_trusted_is_not_told_anything() {
    let place = Place::new();
    let (ca, other) = (place.path("ca.pem"), place.path("other.pem"));
    let hooks = Hooks::new(&ca, |_| Reply::new(200, ""));
    let _other = Hooks::new(&other, |_| Reply::new(200, ""));
    let notify = webhook(&place, "ops", &hooks, &other, "");
    let mut s = Scene::in_place(place, &notify);
    s.be_held();
    let part = s.wait_part("webhook ops", "it fails", |part| part["state"] == "failing");
    assert!(
        part["error"].as_str().expect("why").contains("certificate"),
        "{part}"
    );
    assert!(hooks.received().is_empty());
    s.guard.deny(&[]);
    s.tool.was_refused(&s.guard);
}

/// A scene with a workspace that has buttons.
fn in_slack(more: &str) -> (Scene, Slack) {
    let place = Place::new();
    let ca = place.path("ca.pem");
    let workspace = Slack::new(&ca);
    let (bot, app) = (
        secret(&place, "bot", slack::BOT),
        secret(&place, "app", slack::APP),
    );
    let notify = format!(
        "[notify.slack]\nbot_token_file = \"{}\"\napp_token_file = \"{}\"\nchannel = \"{}\"\n\
         answer_users = [\"U1\"]\napi = \"{}\"\nca_file = \"{}\"\n{more}",
        bot.display(),
        app.display(),
        slack::CHANNEL,
        workspace.api(),
        ca.display()
    );
    let s = Scene::in_place(place, &notify);
    workspace.connected(0);
    (s, workspace)
}

/// The buttons of a message: action and value.
fn buttons(message: &Value) -> Vec<(String, String)> {
    let blocks = message["blocks"].as_array().expect("blocks");
    let actions = blocks.iter().find(|block| block["type"] == "actions");
    let elements = actions.map(|actions| actions["elements"].as_array().expect("buttons").clone());
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    elements
        .unwrap_or_default()
        .iter()
        .map(|button| (text(&button["action_id"]), text(&button["value"])))
        .collect()
}

/// Where the only message of the stand-in so far is.
const FIRST: &str = "1764100000.000000";

#[test]
fn a_button_in_slack_lets_the_call_go_on() {
    let (mut s, workspace) = in_slack("");
    s.be_held();
    let message = workspace.called("chat.postMessage", |_| true);
    let target = format!("connect {}", s.server.addr());
    assert!(message.to_string().contains(&target), "{message}");
    let buttons_there = buttons(&message);
    let (action, value) = &buttons_there[1];
    assert_eq!(action, "guard_approve");
    workspace.press("U1", FIRST, action, value);
    s.goes_on();
    let answer = answered(&s.guard);
    assert_eq!(answer["via"]["channel"], "slack");
    assert_eq!(answer["via"]["who"], "sam (U1)");
    let update = workspace.called("chat.update", |body| body["ts"] == FIRST);
    assert!(buttons(&update).is_empty(), "{update}");
    assert!(
        update["text"]
            .as_str()
            .expect("a text")
            .contains("approved by sam (U1)"),
        "{update}"
    );
}

#[test]
fn in_slack_only_the_named_users_answer_and_only_what_they_were_asked() {
    let (mut s, workspace) = in_slack("");
    s.be_held();
    let message = workspace.called("chat.postMessage", |_| true);
    let (action, value) = buttons(&message)[1].clone();
    let (id, _) = value.split_once(' ').expect("a token");
    workspace.press("U2", FIRST, &action, &value);
    wait_refusal(&s.guard, "not among answer_users");
    workspace.called("chat.postEphemeral", |body| body["user"] == "U2");
    workspace.press("U1", FIRST, &action, &format!("{id} {}", "0".repeat(32)));
    wait_refusal(&s.guard, "not to this hold");
    s.server.untouched_while_held(&s.guard);
    workspace.press("U1", FIRST, "guard_deny", &value);
    s.tool.was_refused(&s.guard);
    assert_eq!(answered(&s.guard)["answer"], "denied");
    // The same button once more.
    workspace.called("chat.update", |body| body["ts"] == FIRST);
    workspace.press("U1", FIRST, &action, &value);
    wait_refusal(&s.guard, "no such hold waits");
}

#[test]
fn a_button_from_before_a_restart_still_answers_its_hold() {
    let (mut s, workspace) = in_slack("");
    s.be_held();
    let message = workspace.called("chat.postMessage", |_| true);
    let (action, value) = buttons(&message)[0].clone();
    s.wait_part("slack", "it is sent", |part| part["sent"] == 1);
    let (pid, connections) = (herald(&s.guard).expect("a herald"), workspace.opened());
    guard_tests::proc::signal(pid, rustix::process::Signal::KILL);
    workspace.connected(connections);
    // What the second herald tells of comes after what it has taken over, which is not told again.
    let mut other = s.guard.tool();
    other.tell(&format!("tcp {} hello", s.server.addr()));
    workspace.called("chat.postMessage", |body| body.to_string().contains("h-2"));
    assert_eq!(workspace.calls("/api/chat.postMessage").len(), 2);
    workspace.press("U1", FIRST, &action, &value);
    s.tool.was_refused(&s.guard);
    workspace.called("chat.update", |body| body["ts"] == FIRST);
    s.guard.deny(&[]);
    other.was_refused(&s.guard);
}

#[test]
fn what_may_not_be_approved_in_slack_has_no_button_and_no_way() {
    let (mut s, workspace) = in_slack("approve = false");
    s.be_held();
    let message = workspace.called("chat.postMessage", |_| true);
    let there = buttons(&message);
    assert_eq!(there.len(), 1, "{there:?}");
    workspace.press("U1", FIRST, "guard_approve", &there[0].1);
    wait_refusal(&s.guard, "may not approve");
    s.server.untouched_while_held(&s.guard);
    workspace.press("U1", FIRST, &there[0].0, &there[0].1);
    s.tool.was_refused(&s.guard);
}

#[test]
fn a_lost_connection_to_slack_is_made_again() {
    let (mut s, workspace) = in_slack("");
    let pid = herald(&s.guard).expect("a herald");
    workspace.say(&json!({ "type": "disconnect", "reason": "refresh_requested" }));
    workspace.connected(1);
    workspace.close();
    workspace.connected(2);
    workspace.say_text("no JSON".into());
    workspace.connected(3);
    workspace.say_text("x".repeat(100 << 20));
    workspace.connected(4);
    assert!(most_memory(pid) < 60, "{} MB", most_memory(pid));
    s.be_held();
    let message = workspace.called("chat.postMessage", |_| true);
    let (action, value) = buttons(&message)[1].clone();
    workspace.press("U1", FIRST, &action, &value);
    s.goes_on();
}

#[test]
fn an_incoming_webhook_of_slack_has_the_text_and_no_buttons() {
    let place = Place::new();
    let ca = place.path("ca.pem");
    let workspace = Slack::new(&ca);
    let address = secret(&place, "address", &workspace.webhook());
    let notify = format!(
        "[notify.slack]\nwebhook_file = \"{}\"\nca_file = \"{}\"",
        address.display(),
        ca.display()
    );
    let mut s = Scene::in_place(place, &notify);
    s.be_held();
    let calls = eventually("a message", || {
        Some(workspace.calls("/services/T0/B0/x")).filter(|calls| !calls.is_empty())
    });
    let message = calls[0].json();
    assert!(
        message.to_string().contains(&s.server.addr().to_string()),
        "{message}"
    );
    assert!(buttons(&message).is_empty());
    s.wait_part("slack", "it is sent", |part| {
        part["sent"] == 1 && part["state"] == "ok"
    });
    s.guard.deny(&[]);
    s.tool.was_refused(&s.guard);
}

/// A scene with a session bus.
fn on_desktop(user: &str, uid: u32, more: &str) -> Option<(Scene, Bus)> {
    if !has_program("dbus-daemon") {
        return None;
    }
    let place = Place::new();
    let bus = Bus::start(&place, uid);
    let s = Scene::in_place(place.clone(), &desktop(&place, user, more));
    Some((s, bus))
}

fn desktop(place: &Place, user: &str, more: &str) -> String {
    format!(
        "[notify.desktop]\nusers = [\"{user}\"]\nbus = \"{}\"\n{more}",
        place.path("run-{uid}/bus").display()
    )
}

fn key(shown: &Value, what: &str) -> String {
    let actions = shown["actions"].as_array().expect("actions");
    let keys = actions.iter().filter_map(Value::as_str);
    let mut keys = keys.filter(|key| key.starts_with(what));
    keys.next()
        .unwrap_or_else(|| panic!("no {what}: {shown}"))
        .to_owned()
}

#[test]
fn a_click_lets_the_call_go_on_where_its_desktop_may_answer() {
    let Some((mut s, bus)) = on_desktop("root", 0, "answer = true") else {
        return;
    };
    let mut notifier = Tool::start(bus.notifier(&s.place, false));
    s.be_held();
    let shown = notifier.ask("shown");
    let target = format!("connect {}", s.server.addr());
    assert!(
        shown["body"].as_str().expect("a body").contains(&target),
        "{shown}"
    );
    assert_eq!(
        (&shown["urgency"], &shown["expires"]),
        (&json!(2), &json!(0)),
        "{shown}"
    );
    let click = format!("click {} {}", shown["id"], key(&shown, "approve:"));
    notifier.must(&click);
    s.goes_on();
    let answer = answered(&s.guard);
    assert_eq!(
        (&answer["via"]["channel"], &answer["via"]["who"]),
        (&json!("desktop"), &json!("root"))
    );
    assert_eq!(answer["by_pid"], notifier.pid());
    assert_eq!(notifier.ask("closed")["closed"], shown["id"]);
}

#[test]
fn without_being_told_to_a_desktop_only_shows() {
    let Some((mut s, bus)) = on_desktop("daemon", 1, "") else {
        return;
    };
    let mut notifier = Tool::start(bus.notifier(&s.place, false));
    s.be_held();
    let shown = notifier.ask("shown");
    assert_eq!(shown["actions"], json!([]), "{shown}");
    s.guard.deny(&[]);
    s.tool.was_refused(&s.guard);
    assert_eq!(notifier.ask("closed")["closed"], shown["id"]);
}

#[test]
fn a_click_of_a_user_who_could_not_answer_otherwise_is_refused() {
    let Some((mut s, bus)) = on_desktop("daemon", 1, "answer = true") else {
        return;
    };
    let mut notifier = Tool::start(bus.notifier(&s.place, false));
    s.be_held();
    let shown = notifier.ask("shown");
    notifier.must(&format!(
        "click {} {}",
        shown["id"],
        key(&shown, "approve:")
    ));
    wait_refusal(&s.guard, "uid 1 may not");
    s.server.untouched_while_held(&s.guard);
    s.guard.deny(&[]);
    s.tool.was_refused(&s.guard);
}

#[test]
fn an_agent_in_the_place_of_the_notification_service_cannot_answer() {
    let Some((mut s, bus)) = on_desktop("root", 0, "answer = true") else {
        return;
    };
    let mut agent = bus.notifier_in_session(&s.guard, false);
    s.be_held();
    let shown = agent.ask("shown");
    agent.must(&format!(
        "click {} {}",
        shown["id"],
        key(&shown, "approve:")
    ));
    wait_refusal(&s.guard, "runs inside session");
    s.server.untouched_while_held(&s.guard);
    s.guard.deny(&[]);
    s.tool.was_refused(&s.guard);
}

#[test]
fn a_click_by_another_than_the_notification_service_is_refused() {
    let Some((mut s, bus)) = on_desktop("root", 0, "answer = true") else {
        return;
    };
    let mut notifier = Tool::start(bus.notifier(&s.place, false));
    let mut agent = bus.notifier_in_session(&s.guard, true);
    s.be_held();
    let shown = notifier.ask("shown");
    // It may have seen number and key: the bus lets its user watch.
    agent.must(&format!(
        "click {} {}",
        shown["id"],
        key(&shown, "approve:")
    ));
    wait_refusal(&s.guard, "has not shown the notification");
    s.server.untouched_while_held(&s.guard);
    notifier.must(&format!("click {} {}", shown["id"], key(&shown, "deny:")));
    s.tool.was_refused(&s.guard);
}

#[test]
fn a_bus_of_an_agents_own_cannot_vouch_for_anybody() {
    if !has_program("dbus-daemon") {
        return;
    }
    let place = Place::new();
    fs::create_dir(place.path("run-0")).expect("a directory");
    let mut s = Scene::in_place(place.clone(), &desktop(&place, "root", "answer = true"));
    let path = place.path("run-0/bus");
    let mut agent = s.guard.run(&[], "dbus-daemon");
    agent
        .args(["--session", "--nofork", "--nopidfile", "--nosyslog"])
        .arg(format!("--address=unix:path={}", path.display()));
    let mut agent = agent.spawn().expect("dbus-daemon");
    eventually("a bus", || {
        std::os::unix::net::UnixStream::connect(&path).ok()
    });
    let notifier = guard_tests::fixture("guard-fixture-notifier");
    let mut notifier_command = place.command(notifier);
    notifier_command.arg(&path);
    let mut notifier = Tool::start(notifier_command);
    s.be_held();
    let shown = notifier.ask("shown");
    notifier.must(&format!(
        "click {} {}",
        shown["id"],
        key(&shown, "approve:")
    ));
    wait_refusal(&s.guard, "runs inside session");
    s.server.untouched_while_held(&s.guard);
    s.guard.deny(&[]);
    s.tool.was_refused(&s.guard);
    guard_tests::proc::signal(agent.id(), rustix::process::Signal::TERM);
    agent.wait().expect("its end");
}

#[test]
fn a_hundred_megabytes_over_the_bus_are_not_read() {
    let Some((mut s, bus)) = on_desktop("root", 0, "") else {
        return;
    };
    let mut notifier = Tool::start(bus.notifier(&s.place, false));
    s.be_held();
    let shown = notifier.ask("shown");
    let from = shown["from"].as_str().expect("a name");
    assert_eq!(
        notifier.ask(&format!("send {from} {}", 100 << 20))["sent"],
        false
    );
    let pid = herald(&s.guard).expect("a herald");
    assert!(most_memory(pid) < 60, "{} MB", most_memory(pid));
    s.guard.deny(&[]);
    s.tool.was_refused(&s.guard);
}

#[test]
fn a_bus_that_never_answers_keeps_nobody() {
    let place = Place::new();
    fs::create_dir(place.path("run-0")).expect("a directory");
    let _silent = UnixListener::bind(place.path("run-0/bus")).expect("a socket");
    let ca = place.path("ca.pem");
    let hooks = Hooks::new(&ca, |_| Reply::new(200, ""));
    let notify = [
        desktop(&place, "root", ""),
        webhook(&place, "ops", &hooks, &ca, ""),
    ];
    let mut s = Scene::in_place(place, &notify.join("\n"));
    s.be_held();
    hooks.wait("the hold", |request| kind(request) == "hold");
    let part = s.wait_part("desktop", "it is given up", |part| part["dropped"] == 1);
    assert!(
        part["error"]
            .as_str()
            .expect("why")
            .contains("no answer within"),
        "{part}"
    );
    s.guard.deny(&[]);
    s.tool.was_refused(&s.guard);
}

/// From the triggering call to the message at the other end, and what the two processes take with every channel on.
#[test]
#[ignore = "measures: run it alone, on a machine that does nothing else"]
fn measure_how_soon_a_message_leaves() {
    const ROUNDS: usize = 200;
    let place = Place::new();
    let ca = place.path("ca.pem");
    let workspace = Slack::new(&ca);
    let slack_ca = place.path("slack.pem");
    fs::rename(&ca, &slack_ca).expect("a name");
    let hooks = Hooks::new(&ca, |_| Reply::new(200, ""));
    let bus = has_program("dbus-daemon").then(|| Bus::start(&place, 0));
    let mut notifier = bus
        .as_ref()
        .map(|bus| Tool::start(bus.notifier(&place, false)));
    let pty = guard_tests::pty::Pty::of(1);
    let notify = [
        webhook(&place, "ops", &hooks, &ca, ""),
        desktop(&place, "root", ""),
        "[notify.terminal]\nusers = [\"daemon\"]".into(),
        format!(
            "[notify.slack]\nbot_token_file = \"{}\"\nchannel = \"{}\"\napi = \"{}\"\nca_file = \"{}\"",
            secret(&place, "bot", slack::BOT).display(),
            slack::CHANNEL,
            workspace.api(),
            slack_ca.display()
        ),
    ];
    let mut s = Scene::in_place(place, &notify.join("\n"));
    let holds = |received: Vec<Received>| -> Vec<Received> {
        received
            .into_iter()
            .filter(|request| kind(request) == "hold")
            .collect()
    };
    let connect = format!("tcp {} hello", s.server.addr());
    for n in 0..ROUNDS {
        s.tool.tell(&connect);
        eventually("the webhook", || holds(hooks.received()).get(n).map(drop));
        let posts = "/api/chat.postMessage";
        eventually("Slack", || workspace.calls(posts).get(n).map(drop));
        s.guard.approve(&[]);
        s.goes_on();
    }
    // The call itself, as the kernel saw it, and guardd's taking it up.
    let events = s.guard.events_now();
    let at = |good: &dyn Fn(&guard_tests::Event) -> bool| -> Vec<Duration> {
        let events = events.iter().filter(|event| good(event));
        let ns = events.map(|event| event["mono_ns"].as_u64().expect("a time"));
        ns.map(Duration::from_nanos).collect()
    };
    let calls = at(&|event| event.is_connect("infra", "hold"));
    let taken_up = at(&|event| event.is("hold") && event["object"]["what"] == "held");
    let of = |received: Vec<Received>| -> Vec<Duration> {
        received.into_iter().map(|request| request.at).collect()
    };
    for (name, ends) in [
        ("guardd", taken_up),
        ("webhook", of(holds(hooks.received()))),
        ("slack", of(workspace.calls("/api/chat.postMessage"))),
    ] {
        assert_eq!((calls.len(), ends.len()), (ROUNDS, ROUNDS), "{name}");
        let times = ends.into_iter().zip(&calls).map(|(end, call)| end - *call);
        let mut times: Vec<Duration> = times.collect();
        times.sort();
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        println!(
            "{name}: p50 {:?}, p99 {:?}, most {:?}",
            at(0.5),
            at(0.99),
            at(1.0)
        );
        assert!(
            at(0.99) <= Duration::from_millis(100),
            "{name}: {:?}",
            at(0.99)
        );
    }
    let pids = [s.guard.pid(), herald(&s.guard).expect("a herald")];
    for name in ["VmRSS:", "RssAnon:", "VmHWM:"] {
        let [guardd, herald] = pids.map(|pid| memory(pid, name));
        println!("{name} guardd {guardd} MB, herald {herald} MB");
    }
    if let Some(notifier) = &mut notifier {
        notifier.must("shown");
    }
    drop(pty);
}
