//! A webhook: JSON by POST to any program, signed. Nothing here listens: where the settings allow an answer, it comes in
//! the body of a response, to the message itself or to one of the questions that follow it.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    Context, End, Held, Notice, Part,
    answer::Answers,
    each,
    sign::{self, From},
};
use crate::{
    approval, clock,
    herald::{
        http::{Answer, Client, Target},
        secret,
    },
    policy::Webhook,
    wire::Via,
};

/// How often a message is tried.
const TRIES: u32 = 6;
/// How long after the first try it is tried again; twice as long each time.
const AGAIN: Duration = Duration::from_secs(1);
/// Answers to one hold that are looked at: more are not worth an event each.
const ANSWERS: u32 = 8;

/// What is needed to send to it.
struct Sender {
    settings: Webhook,
    target: Target,
    client: Client,
    part: Part,
    answers: Answers,
}

/// An answer, as the other side writes it.
#[derive(Debug, Deserialize)]
struct Given {
    answer: String,
    token: String,
    delivery: String,
    #[serde(default)]
    by: Option<String>,
}

/// Why a message has not got there.
enum Failed {
    /// Trying again may help.
    Later(String),
    /// It will not.
    ForGood(String),
}

pub(super) async fn run(
    settings: Webhook,
    context: Context,
    part: Part,
    notices: mpsc::Receiver<Notice>,
) {
    let target = match Target::parse(&settings.url) {
        Ok(target) => target,
        Err(why) => {
            // The policy's reader has parsed it.
            part.failing(why);
            return;
        }
    };
    let sender = Arc::new(Sender {
        target,
        client: Client::new(settings.ca_file.clone()),
        answers: Answers::new(context, part.clone()),
        part: part.clone(),
        settings,
    });
    match sender.ready().await {
        Ok(()) => part.ok(),
        Err(why) => part.failing(why),
    }
    each(part, notices, |held, told, end| {
        sender.clone().talk(held, told.is_some(), end)
    })
    .await;
}

impl Sender {
    /// Whether it could send, as far as that can be known before.
    async fn ready(&self) -> Result<(), String> {
        secret::read(&self.settings.key_file)?;
        if self.target.is_secure() {
            self.client.prepare().await?;
        }
        Ok(())
    }

    /// One hold: the message if it has not been sent, the questions, and what became of it.
    async fn talk(self: Arc<Self>, held: Arc<Held>, told: bool, mut end: End) {
        let (over, is_over) = watch::channel(false);
        let telling = async {
            let sent = told || self.tell(&held).await;
            if sent && self.settings.answer {
                self.ask(&held, is_over).await;
            }
            sent
        };
        tokio::pin!(telling);
        // The message goes on its way even if the hold has ended meanwhile: who hears of its end must know of it.
        let (ended, sent) = tokio::select! {
            sent = &mut telling => ((&mut end).await, sent),
            ended = &mut end => {
                let _ = over.send(true);
                (ended, telling.await)
            }
        };
        let (Ok(ended), true) = (ended, sent) else {
            return;
        };
        let body = json!({
            "v": 1, "type": "ended", "id": held.id(), "outcome": ended.how, "headline": held.headline,
        });
        let until = Instant::now() + Duration::from_secs(60);
        if let Err(why) = self.deliver(&body, until).await {
            self.part
                .failing(format!("what became of {}: {why}", held.id()));
        }
    }

    /// What is asked of the other side, where it may answer.
    fn question(&self, held: &Held) -> Option<Value> {
        let left = held.deadline.saturating_duration_since(Instant::now());
        let expires = clock::rfc3339_at(clock::monotonic_ns() + left.as_nanos() as u64);
        self.settings.answer.then(|| {
            let may: &[&str] = if self.settings.approve {
                &["deny", "approve"]
            } else {
                &["deny"]
            };
            json!({ "token": held.token(), "may": may, "expires": expires })
        })
    }

    /// The message itself.
    async fn tell(&self, held: &Held) -> bool {
        let mut hold = serde_json::to_value(&held.info).unwrap_or_default();
        if let Some(hold) = hold.as_object_mut() {
            hold.remove("token");
            hold.remove("told");
        }
        let mut body = json!({
            "v": 1, "type": held.kind(), "id": held.id(), "headline": held.headline, "text": held.text, "hold": hold,
        });
        if let Some(question) = self.question(held) {
            body["answer"] = question;
        }
        match self.deliver(&body, held.deadline).await {
            Ok((delivery, answer)) => {
                self.answers.told(held, delivery.clone()).await;
                self.part.sent();
                self.look(held, &delivery, &answer).await;
                true
            }
            Err(why) => {
                self.part.dropped(format!("{}: {why}", held.id()));
                false
            }
        }
    }

    /// Asks for an answer until there is one that was taken, or nothing waits any more.
    async fn ask(&self, held: &Held, mut over: watch::Receiver<bool>) {
        let mut looked_at = 0;
        while looked_at < ANSWERS && Instant::now() < held.deadline {
            if tokio::time::timeout(self.settings.poll, over.wait_for(|over| *over))
                .await
                .is_ok()
            {
                return;
            }
            let Some(question) = self.question(held) else {
                return;
            };
            let body = json!({ "v": 1, "type": "poll", "id": held.id(), "answer": question });
            match self.once(&body, &approval::token()).await {
                Ok((delivery, answer)) => {
                    self.part.ok();
                    looked_at += u32::from(self.look(held, &delivery, &answer).await);
                }
                Err(Failed::Later(why) | Failed::ForGood(why)) => {
                    self.part
                        .failing(format!("asking about {}: {why}", held.id()));
                }
            }
        }
    }

    /// Tries until `until`; gives the id that the message had, and the response.
    async fn deliver(&self, body: &Value, until: Instant) -> Result<(String, Answer), String> {
        // The same for each try, so that the other side can tell.
        let delivery = approval::token();
        let (mut wait, mut tries) = (AGAIN, 0);
        loop {
            tries += 1;
            let why = match self.once(body, &delivery).await {
                Ok(answered) => return Ok(answered),
                Err(Failed::ForGood(why)) => return Err(why),
                Err(Failed::Later(why)) => why,
            };
            if tries == TRIES {
                return Err(format!("{why} (tried {TRIES} times)"));
            }
            self.part.failing(why.clone());
            let next = Instant::now() + wait;
            if next >= until {
                return Err(why);
            }
            tokio::time::sleep_until(next).await;
            wait *= 2;
        }
    }

    async fn once(&self, body: &Value, delivery: &str) -> Result<(String, Answer), Failed> {
        let mut body = body.clone();
        body["delivery"] = delivery.into();
        let body = body.to_string().into_bytes();
        // Each time: a key that was replaced is a key that was replaced.
        let key = secret::read(&self.settings.key_file).map_err(Failed::Later)?;
        let signature = sign::sign(&key, From::Guard, clock::realtime_s(), &body);
        let headers = [
            ("content-type", "application/json".to_owned()),
            ("guard-id", delivery.to_owned()),
            (sign::HEADER, signature),
        ];
        let answer = self.client.post(&self.target, &headers, body).await;
        let answer = answer.map_err(Failed::Later)?;
        let status = answer.status;
        if status.is_success() {
            return Ok((delivery.to_owned(), answer));
        }
        let why = format!("{}: it answers {status}", self.target.authority());
        if status.is_redirection() {
            let why = format!("{why}: redirects are not followed: correct url");
            return Err(Failed::ForGood(why));
        }
        let passing = status.is_server_error() || [408, 425, 429].contains(&status.as_u16());
        Err(if passing {
            Failed::Later(why)
        } else {
            Failed::ForGood(why)
        })
    }

    /// Looks for an answer in a response; whether there was one, taken or not. Whoever has none to give may say
    /// whatever they like.
    async fn look(&self, held: &Held, delivery: &str, answer: &Answer) -> bool {
        let is_answer = |value: &Value| value.get("answer").is_some_and(Value::is_string);
        let value: Option<Value> = serde_json::from_slice(&answer.body).ok();
        let Some(value) = value.filter(is_answer) else {
            return false;
        };
        let mut via = Via {
            channel: self.part.name(),
            who: "somebody without the key".into(),
            from: Some(self.target.authority().into()),
            processes: Vec::new(),
        };
        let refusal = match self.check(delivery, answer, value) {
            Ok((approve, given)) => {
                via.who = given
                    .by
                    .map_or_else(|| "who has the key".into(), |by| approval::middle(&by, 200));
                // A refusal is recorded by guardd.
                let _ = self.answers.give(held, &given.token, approve, via).await;
                return true;
            }
            Err(why) => why,
        };
        self.answers.refuse(Some(held.id()), &refusal, via).await;
        true
    }

    fn check(
        &self,
        delivery: &str,
        answer: &Answer,
        value: Value,
    ) -> Result<(bool, Given), String> {
        if !self.settings.answer {
            return Err("it was not asked for an answer".into());
        }
        let key = secret::read(&self.settings.key_file)?;
        let (header, now) = (answer.header(sign::HEADER), clock::realtime_s());
        sign::check(&key, From::Other, header, now, &answer.body)?;
        let given: Given =
            serde_json::from_value(value).map_err(|error| format!("its body: {error}"))?;
        if given.delivery != delivery {
            return Err("it answers another message: its delivery is another one".into());
        }
        let approve = match given.answer.as_str() {
            "approve" => true,
            "deny" => false,
            _ => return Err("its answer is neither approve nor deny".into()),
        };
        Ok((approve, given))
    }
}
