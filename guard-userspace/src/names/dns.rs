//! What a name server has answered: which names an address was given for. RFC 1035; RFC 9460 for HTTPS and SVCB
//! records.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use domain::{
    base::{Message, ParsedName, Record, Ttl, iana::Rcode, name::ToName},
    rdata::{
        AllRecordData,
        svcb::{SvcParams, value::AllValues},
    },
};

use super::normal;

/// Records of one message that are looked at.
const MAX_RECORDS: usize = 256;
/// Aliases from a name to its address that are followed.
const MAX_ALIASES: usize = 16;

/// An address, and the names that it was given for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The address.
    pub addr: IpAddr,
    /// Names that were asked for, in small letters, each with the names that it stands for on the way to the address:
    /// who uses the one talks to the others.
    pub names: BTreeMap<String, BTreeSet<String>>,
    /// How long it may be used.
    pub ttl: Duration,
}

type Data<'a> = AllRecordData<&'a [u8], ParsedName<&'a [u8]>>;

/// Reads one message, without the two octets of length that TCP puts before it. A message that is no answer, that is
/// cut, or that makes no sense gives what could be read before: no part of it is worth less for what follows.
pub fn parse(message: &[u8]) -> Vec<Answer> {
    let Ok(message) = Message::from_octets(message) else {
        return Vec::new();
    };
    let header = message.header();
    if !header.qr() || header.rcode() != Rcode::NOERROR {
        return Vec::new();
    }
    let mut found = Found::default();
    let Ok(answers) = message.answer() else {
        return Vec::new();
    };
    for record in answers.limit_to::<Data<'_>>().take(MAX_RECORDS) {
        let Ok(record) = record else { break };
        found.record(&record);
    }
    // Of the rest, only addresses of services that the answer itself names.
    if !found.services.is_empty()
        && let Ok(additional) = message.additional()
    {
        let services = found.services.clone();
        for record in additional.limit_to::<Data<'_>>().take(MAX_RECORDS) {
            let Ok(record) = record else { break };
            if services.contains(&name(record.owner())) {
                found.record(&record);
            }
        }
    }
    found.answers()
}

/// The one name that a message asks about, if it asks about one.
pub fn question(message: &[u8]) -> Option<String> {
    let question = Message::from_octets(message).ok()?.sole_question().ok()?;
    Some(name(question.qname()))
}

fn name(name: &impl ToName) -> String {
    normal(name.to_bytes_text().as_slice())
}

trait Text {
    fn to_bytes_text(&self) -> Vec<u8>;
}

impl<N: ToName> Text for N {
    /// Labels with dots between them, each byte as it is.
    fn to_bytes_text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for label in self.iter_labels().filter(|label| !label.is_root()) {
            if !text.is_empty() {
                text.push(b'.');
            }
            text.extend_from_slice(label.as_slice());
        }
        text
    }
}

#[derive(Default)]
struct Found {
    /// What a name is an alias of.
    aliases: BTreeMap<String, String>,
    /// Names that services are offered under.
    services: BTreeSet<String>,
    addresses: Vec<(String, IpAddr, Ttl)>,
}

impl Found {
    fn record(&mut self, record: &Record<ParsedName<&[u8]>, Data<'_>>) {
        let owner = name(record.owner());
        let ttl = record.ttl();
        match record.data() {
            AllRecordData::A(a) => self.addresses.push((owner, IpAddr::V4(a.addr()), ttl)),
            AllRecordData::Aaaa(aaaa) => {
                self.addresses.push((owner, IpAddr::V6(aaaa.addr()), ttl));
            }
            AllRecordData::Cname(alias) => {
                self.aliases.insert(owner, name(alias.cname()));
            }
            AllRecordData::Https(service) => {
                self.service(owner, name(service.target()), service.params(), ttl);
            }
            AllRecordData::Svcb(service) => {
                self.service(owner, name(service.target()), service.params(), ttl);
            }
            _ => {}
        }
    }

    fn service(&mut self, owner: String, target: String, params: &SvcParams<&[u8]>, ttl: Ttl) {
        // The root stands for the owner itself (RFC 9460, 2.5.2).
        if !target.is_empty() && target != owner {
            self.services.insert(target.clone());
            self.aliases.insert(owner.clone(), target);
        }
        for value in params.iter::<AllValues<_>>() {
            match value {
                Ok(AllValues::Ipv4Hint(hint)) => {
                    for addr in hint.iter() {
                        self.addresses.push((owner.clone(), addr.into(), ttl));
                    }
                }
                Ok(AllValues::Ipv6Hint(hint)) => {
                    for addr in hint.iter() {
                        self.addresses.push((owner.clone(), addr.into(), ttl));
                    }
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }

    fn answers(self) -> Vec<Answer> {
        let mut answers: BTreeMap<IpAddr, Answer> = BTreeMap::new();
        for (owner, addr, ttl) in &self.addresses {
            let ttl = ttl.into_duration();
            let answer = answers.entry(*addr).or_insert_with(|| Answer {
                addr: *addr,
                names: BTreeMap::new(),
                ttl,
            });
            answer.ttl = answer.ttl.max(ttl);
            // Whoever leads here, over however many others.
            let mut reached = BTreeSet::from([owner.clone()]);
            for _ in 0..MAX_ALIASES {
                let more: Vec<String> = self
                    .aliases
                    .iter()
                    .filter(|(alias, of)| reached.contains(*of) && !reached.contains(*alias))
                    .map(|(alias, _)| alias.clone())
                    .collect();
                if more.is_empty() {
                    break;
                }
                reached.extend(more);
            }
            // Those that no other of them stands for were asked for; in a circle, all.
            let inner: BTreeSet<&String> = reached
                .iter()
                .filter_map(|name| self.aliases.get(name))
                .filter(|of| reached.contains(*of))
                .collect();
            let circle = inner.len() == reached.len();
            for name in reached
                .iter()
                .filter(|name| circle || !inner.contains(name))
            {
                let via = answer.names.entry(name.clone()).or_default();
                let mut at = name;
                while let Some(of) = self.aliases.get(at) {
                    if !via.insert(of.clone()) {
                        break;
                    }
                    at = of;
                }
            }
        }
        answers
            .into_values()
            .filter(|answer| !answer.names.contains_key(""))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use domain::{
        base::{MessageBuilder, Name, iana::Rtype, message_builder::AnswerBuilder},
        rdata::{A, Aaaa, Cname},
    };
    use proptest::prelude::*;

    use super::*;

    fn named(text: &str) -> Name<Vec<u8>> {
        text.parse().unwrap()
    }

    fn answer(fill: impl FnOnce(&mut AnswerBuilder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = MessageBuilder::new_vec();
        builder.header_mut().set_qr(true);
        let mut builder = builder.question();
        builder.push((named("www.Example.com"), Rtype::A)).unwrap();
        let mut builder = builder.answer();
        fill(&mut builder);
        builder.finish()
    }

    #[test]
    fn an_address_has_every_name_that_leads_to_it() {
        let message = answer(|builder| {
            // In no particular order, as it may come.
            let addr = Ipv4Addr::new(203, 0, 113, 7);
            builder
                .push((named("front.example.net"), 300, A::new(addr)))
                .unwrap();
            builder
                .push((
                    named("www.Example.com"),
                    60,
                    Cname::new(named("cdn.example.org")),
                ))
                .unwrap();
            builder
                .push((
                    named("cdn.example.org"),
                    60,
                    Cname::new(named("Front.example.net")),
                ))
                .unwrap();
            builder
                .push((
                    named("other.example.net"),
                    5,
                    Aaaa::new(Ipv6Addr::LOCALHOST),
                ))
                .unwrap();
        });
        let answers = parse(&message);
        let names: Vec<String> = answers
            .iter()
            .map(|answer| format!("{:?}", answer.names))
            .collect();
        assert_eq!(
            names,
            [
                r#"{"www.example.com": {"cdn.example.org", "front.example.net"}}"#,
                r#"{"other.example.net": {}}"#,
            ]
        );
        assert_eq!(answers[0].ttl, Duration::from_secs(300));
    }

    #[test]
    fn aliases_in_a_circle_end() {
        let message = answer(|builder| {
            for (of, to) in [("a.test", "b.test"), ("b.test", "a.test")] {
                builder.push((named(of), 1, Cname::new(named(to)))).unwrap();
            }
            builder
                .push((named("a.test"), 1, A::new(Ipv4Addr::LOCALHOST)))
                .unwrap();
        });
        assert_eq!(parse(&message)[0].names.len(), 2);
    }

    #[test]
    fn hints_of_an_https_record_are_addresses_of_its_name() {
        // RFC 9460, appendix D.1 has the form; this one: priority 1, target ".", ipv4hint and ipv6hint.
        let mut data = vec![0, 1, 0];
        data.extend([0, 4, 0, 4, 192, 0, 2, 1]);
        data.extend([0, 6, 0, 16]);
        data.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        let mut message = answer(|_| {});
        message[7] = 1;
        message.extend([0xc0, 12, 0, 65, 0, 1, 0, 0, 0, 60]);
        message.extend((data.len() as u16).to_be_bytes());
        message.extend(data);
        let found: Vec<(String, String)> = parse(&message)
            .into_iter()
            .map(|answer| (answer.addr.to_string(), answer.names.into_keys().collect()))
            .collect();
        let www = "www.example.com".to_owned();
        assert_eq!(
            found,
            [
                ("192.0.2.1".to_owned(), www.clone()),
                ("2001:db8::1".to_owned(), www)
            ]
        );
    }

    #[test]
    fn a_question_or_a_failure_names_nothing() {
        let mut message = answer(|builder| {
            builder
                .push((named("a.test"), 1, A::new(Ipv4Addr::LOCALHOST)))
                .unwrap();
        });
        assert_eq!(parse(&message).len(), 1);
        message[2] &= 0x7f;
        assert!(parse(&message).is_empty());
        message[2] |= 0x80;
        message[3] |= 3;
        assert!(parse(&message).is_empty());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse(&bytes);
            let mut bytes = bytes;
            if bytes.len() > 12 {
                // An answer with records, whatever is in them.
                bytes[2..12].copy_from_slice(&[0x80, 0, 0, 1, 0, 4, 0, 0, 0, 2]);
                let _ = parse(&bytes);
            }
        }
    }
}
