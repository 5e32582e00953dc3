//! Whom QUIC connections are for: their first datagrams wait, as if they were lost on their way, until they have been
//! decrypted (with keys that they carry themselves) and judged by the name in them.

use std::collections::BTreeMap;

use guard_common::{
    Verdict, event::kind, matching::fold, names::KnownHost, requests::clears, state::fate,
};
use rustix::process::Signal;

use super::{Engine, holds::Call};
use crate::{
    event::Kind,
    kernel::{Connection, Write},
    names::{
        self,
        quic::{Flight, Hello, Progress},
    },
    process::{self, Id},
};

/// Sockets whose handshakes are kept.
const MAX_FLIGHTS: usize = 1024;

/// Handshakes by their sockets' cookies.
#[derive(Debug, Default)]
pub(super) struct Flights(BTreeMap<u64, Flight>);

/// What a handshake says.
enum Says {
    /// Not yet.
    Nothing,
    /// Whom it is for.
    Hello(Hello),
    /// It cannot be read.
    Unreadable,
}

impl Flights {
    fn add(&mut self, cookie: u64, packet: &[u8], size: usize) -> Says {
        if self.0.len() >= MAX_FLIGHTS && !self.0.contains_key(&cookie) {
            // Cookies rise: the first is the oldest.
            self.0.pop_first();
        }
        let flight = self.0.entry(cookie).or_default();
        let mut says = Says::Nothing;
        let size = if size == 0 { packet.len().max(1) } else { size };
        for datagram in packet.chunks(size) {
            if !names::quic::is_initial(datagram) {
                continue;
            }
            match flight.add(datagram) {
                Ok(Progress::NeedMore) => {}
                Ok(Progress::Hello(hello)) => says = Says::Hello(hello),
                Err(_) => return Says::Unreadable,
            }
        }
        says
    }
}

impl Engine {
    /// A datagram of a handshake: nothing of it has left.
    pub(super) fn on_quic(&mut self, write: &Write) {
        let id = Id::new(write.fields.tgid, write.fields.start_ns);
        if self
            .holds
            .values()
            .any(|hold| hold.cookie == Some(write.conn))
        {
            return;
        }
        let hello = match self
            .flights
            .add(write.conn, &write.bytes, write.at as usize)
        {
            Says::Nothing => return,
            Says::Hello(hello) => Some(hello),
            Says::Unreadable => None,
        };
        let name = hello.as_ref().and_then(|hello| hello.name.clone());
        let ech = hello.as_ref().is_some_and(|hello| hello.ech);
        let of_address: Vec<String> = self
            .names
            .of(write.peer)
            .map(|(name, _)| name.to_owned())
            .collect();
        let agrees = name.as_ref().is_some_and(|name| of_address.contains(name));
        let word = match &name {
            _ if hello.is_none() => "unreadable",
            None => "none",
            Some(_) if agrees => "agrees with dns",
            Some(_) if of_address.is_empty() => "not known from dns",
            Some(_) => "contradicts dns",
        };
        let labels = self.quic_labels(write, id, name.as_deref(), &of_address, ech, word);
        let mut judged = (labels != 0)
            .then(|| self.feed(write.fields.session, labels, id.pid, true, kind::CONNECT));
        // As for requests.
        if let Some(judged) = &mut judged
            && judged.verdict == Verdict::Hold
            && self.is_held(id)
        {
            judged.verdict = Verdict::Deny;
        }
        let verdict = judged
            .as_ref()
            .map_or(Verdict::Allow, |judged| judged.verdict);
        if matches!(verdict, Verdict::Allow | Verdict::Flag) {
            self.clear_socket(id, write.fields.session, write.conn, 0, clears::ALL);
            self.flights.0.remove(&write.conn);
        }
        let mut fields = write.fields;
        fields.labels = labels;
        let mut event = self.event_of(Kind::Connect, &fields);
        let generation = self.kernel.tables.generation() as u16;
        let rule = judged.as_ref().and_then(|judged| judged.rule);
        let rule = rule.and_then(|index| Some((index, self.rule_of(index, generation)?.clone())));
        if let Some(judged) = &judged {
            event.verdict = Some(judged.verdict.name().into());
            event.would = (judged.would > judged.verdict).then(|| judged.would.name().into());
            event.rule = rule.as_ref().map(|(_, rule)| rule.name.clone());
        }
        let mut object = self.place_of(&Connection {
            addr: write.peer,
            port: write.port,
            family: write.family,
            socket_type: libc::SOCK_DGRAM as u32,
        });
        object.insert("protocol".into(), "quic".into());
        if let Some(name) = name {
            object.insert("host".into(), name.into());
            object.insert("host_from".into(), "sni".into());
        }
        object.insert("sni".into(), word.into());
        if ech {
            object.insert("ech".into(), true.into());
        }
        event.object = Some(object.into());
        if labels == 0 && !self.may_tell_connect() {
            return;
        }
        let event = self.tell(event);
        self.touch(&fields, &event);
        match (verdict, rule) {
            (Verdict::Kill, _) => {
                let _ = process::signal(id, Signal::KILL);
            }
            (Verdict::Deny, _) => {
                self.clear_socket(id, fields.session, write.conn, 0, clears::NOTHING);
            }
            (Verdict::Hold, Some((index, rule))) => {
                let call = Call {
                    labels,
                    object: fold(write.conn, 1) | 1,
                    kind: kind::CONNECT,
                    fate: fate::BEFORE,
                };
                let held = self.enter_hold(&fields, index, &rule, &call);
                let _ = process::signal(id, Signal::STOP);
                let judged_in = judged.map_or(0, |judged| judged.judged_in);
                self.take_up_hold(id.pid, &held, 0, judged_in, event, Some(write.conn));
                let mut holds = self.holds.values_mut();
                if let Some(hold) = holds.find(|hold| hold.process == (id.pid, id.start)) {
                    hold.clears = Some(0);
                    hold.clears_all = true;
                }
                self.save();
            }
            _ => {}
        }
    }

    /// Labels of a handshake that have not been judged by the address, as `guard_named` finds them for TCP.
    fn quic_labels(
        &self,
        write: &Write,
        id: Id,
        name: Option<&str>,
        of_address: &[String],
        ech: bool,
        word: &str,
    ) -> u64 {
        let excepted = self
            .kernel
            .tables
            .task(id.pid)
            .map_or(0, |task| task.excepted);
        let mut labels = 0;
        let mut add = |known: KnownHost| {
            if known.groups & excepted == 0 {
                labels |= known.labels;
            }
        };
        if let Some(name) = name {
            add(self.policy.of_host(name, &self.bits));
        }
        let front = ech && word != "agrees with dns";
        let hidden = name.is_none() || front;
        if hidden {
            for name in of_address {
                add(self.policy.of_host(name, &self.bits));
            }
        }
        let nobody = hidden && of_address.is_empty() && !write.peer.is_loopback();
        if matches!(word, "contradicts dns" | "unreadable") || front || nobody {
            add(self.policy.of_unknown(&self.bits));
        }
        labels & !write.fields.labels
    }
}
