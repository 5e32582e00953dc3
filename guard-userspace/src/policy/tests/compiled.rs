//! Label bits, rules, addresses and the other tables.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
};

use guard_common::{
    matching::{ADDRESS_FIXED_BITS, AddressKey, KnownAddress, domain, env_word, kind},
    rule::{RULE_OBSERVE, RULE_SCOPE_SESSION},
};
use proptest::prelude::*;

use super::{super::*, policy};

fn tables(policy: &Policy) -> Tables {
    let bits = LabelBits::assign(None, policy).unwrap();
    policy.lay_out(1, &bits, &Homes::of(["/root"])).unwrap()
}

#[test]
fn the_built_in_policy_parses_and_compiles() {
    let policy = Policy::built_in();
    assert_eq!(policy.source().to_string(), "built-in");
    let tables = tables(&policy);
    assert!(!policy.agents.is_empty() && !policy.rules.is_empty() && !tables.patterns.is_empty());
}

#[test]
fn the_built_in_policy_tells_control_planes_from_their_neighbours() {
    let policy = Policy::built_in();
    let bits = LabelBits::assign(None, &policy).unwrap();
    let of = |host: &str| bits.names(policy.of_host(host, &bits).labels).join(" ");
    for (host, labels) in [
        ("backboard.railway.com", "infra"),
        ("myapp.up.railway.app", ""),
        ("ec2.eu-central-1.amazonaws.com", "infra"),
        ("rds.us-east-1.api.aws", "infra"),
        ("iam.amazonaws.com", "infra"),
        ("0ab1.gr7.eu-west-1.eks.amazonaws.com", "infra"),
        ("bucket.s3.eu-central-1.amazonaws.com", ""),
        ("s3.amazonaws.com", ""),
        ("bedrock-runtime.us-east-1.amazonaws.com", "model-api"),
        ("dynamodb.us-east-1.amazonaws.com", ""),
        ("compute.googleapis.com", "infra"),
        ("storage.googleapis.com", ""),
        ("generativelanguage.googleapis.com", "model-api"),
        ("management.azure.com", "infra"),
        ("myapp.azurewebsites.net", ""),
        ("abc-dns-1.hcp.westeurope.azmk8s.io", "infra"),
        ("api.github.com", "code-host-api"),
        ("github.com", ""),
        ("registry.npmjs.org", "registry"),
        ("api.stripe.com", "business-service"),
        ("docs.stripe.com", ""),
        ("api.anthropic.com", "model-api"),
        ("dns.google", "encrypted-dns"),
        ("www.google.com", ""),
    ] {
        assert_eq!(of(host), labels, "{host}");
    }
}

#[test]
fn a_rule_is_laid_out_with_its_defaults() {
    let policy = policy(
        "[[label]]\nname = \"a\"\nfiles = [\"x\"]\n[[label]]\nname = \"b\"\nfiles = [\"y\"]\n\
         [[rule]]\nname = \"r\"\nwhen = [\"b\", \"a\", \"b\"]\nwithin = \"10m\"\nthen = \"hold\"\n\
         [[rule]]\nname = \"s\"\nwhen = [\"a\"]\nthen = \"deny\"\ntimeout = \"5s\"\non_timeout = \"resume\"\nscope = \"session\"\nfallback = \"flag\"\nmode = \"observe\"\n",
    );
    let table = tables(&policy).rules;
    assert_eq!(table.count, 2);
    // The strictest first, whatever the order in the file.
    let [s, r] = [table.rules[0], table.rules[1]];
    assert_eq!((r.labels, r.len, &r.steps[..3]), (0b11, 3, &[1, 0, 1][..]));
    assert_eq!(
        (r.within_ns, r.timeout_ns),
        (600_000_000_000, 120_000_000_000)
    );
    let verdicts = [Verdict::Hold, Verdict::Deny, Verdict::Kill].map(|verdict| verdict as u8);
    assert_eq!([r.action, r.on_timeout, r.fallback], verdicts);
    assert_eq!((r.flags, s.flags), (0, RULE_SCOPE_SESSION | RULE_OBSERVE));
    let verdicts = [Verdict::Deny, Verdict::Allow, Verdict::Flag].map(|verdict| verdict as u8);
    assert_eq!([s.action, s.on_timeout, s.fallback], verdicts);
    assert_eq!(
        (s.within_ns, s.timeout_ns),
        (guard_common::rule::NO_LIMIT, 5_000_000_000)
    );
}

#[test]
fn keys_of_every_domain_are_there() {
    let policy = policy(
        "[[agent]]\nname = \"a\"\nexe = [\"claude\", \"**/bin/codex-*\"]\nenv = [\"AGENT=1\", \"CLAUDECODE=1\", \"CLAUDECODE_X\"]\n\
         [[label]]\nname = \"l\"\nargv = [\"mkfs* **\", \"terraform destroy\"]\nfiles = [\"**/d/*\"]\nexcept.exe = [\"ssh\"]\n",
    );
    let tables = tables(&policy);
    let has = |in_domain: u8, of_kind: u8, len: u32| {
        let wanted = |key: &guard_common::matching::NameKey| {
            (key.domain, key.kind, key.len) == (in_domain, of_kind, len)
        };
        tables
            .keys
            .iter()
            .any(|(key, _)| wanted(key) && key.generation == 1)
    };
    assert!(has(domain::AGENT, kind::EXACT, 6) && has(domain::AGENT, kind::PREFIX, 6));
    assert!(has(domain::COMMAND, kind::PREFIX, 4) && has(domain::COMMAND, kind::EXACT, 9));
    assert!(has(domain::FILE, kind::PARENT, 0) && has(domain::PROGRAM, kind::EXACT, 3));
    assert!(has(domain::INTERPRETER, kind::EXACT, 4) && has(domain::INTERPRETER, kind::PREFIX, 8));
    assert_eq!(tables.names.prefix_lens, 1 << 4 | 1 << 6 | 1 << 8);
    assert_eq!((tables.names.suffix_lens, tables.names.dir_levels), (0, 1));
    assert_eq!(tables.names.longest_end, 8);
    let env: Vec<u64> = tables.env.iter().map(|key| key.word).collect();
    assert_eq!(env, [env_word(b"AGENT=1"), env_word(b"CLAUDECODE=1")]);
    assert_eq!(env[0], u64::from_le_bytes(*b"AGENT=\0\0"));
}

#[test]
fn labels_in_the_order_of_their_mention_share_bits_over_tables() {
    let policy = policy(
        "[[label]]\nname = \"b\"\nfiles = [\"x\"]\n[[label]]\nname = \"a\"\nfiles = [\"y\"]\n[[label]]\nname = \"b\"\nfiles = [\"z\"]\n",
    );
    assert_eq!(policy.labels, ["b", "a"]);
    let bits = LabelBits::assign(None, &policy).unwrap();
    assert_eq!(
        (bits.bit("b"), bits.bit("a"), bits.bit("c")),
        (Some(0), Some(1), None)
    );
    assert_eq!(
        (bits.name(1), bits.name(2), bits.name(200)),
        (Some("a"), None, None)
    );
    assert_eq!(bits.names(u64::MAX), ["b", "a"]);
}

fn with_labels(names: &HashSet<u8>) -> Policy {
    let table = |name: &u8| format!("[[label]]\nname = \"l{name}\"\nfiles = [\"f{name}\"]\n");
    policy(&names.iter().map(table).collect::<String>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn labels_keep_their_bits_over_reloads(reloads in prop::collection::vec(prop::collection::hash_set(0u8..120, 0..=64), 1..5)) {
        let mut before: Option<(LabelBits, Policy)> = None;
        for names in &reloads {
            let policy = with_labels(names);
            let bits = LabelBits::assign(before.as_ref().map(|(bits, _)| bits), &policy).unwrap();
            let taken: HashSet<u8> = policy.labels.iter().map(|label| bits.bit(label).unwrap()).collect();
            prop_assert_eq!(taken.len(), policy.labels.len());
            if let Some((old, old_policy)) = &before {
                for label in &policy.labels {
                    prop_assert!(old.bit(label).is_none() || old.bit(label) == bits.bit(label));
                }
                // Nothing is forgotten while there is room.
                let all: HashSet<&String> = old_policy.labels.iter().chain(&policy.labels).collect();
                if reloads.iter().flatten().collect::<HashSet<_>>().len() <= 64 {
                    prop_assert!(all.iter().all(|label| bits.bit(label).is_some()));
                }
            }
            before = Some((bits, policy));
        }
    }

    #[test]
    fn the_longest_prefix_wins_and_at_the_same_length_the_port(
        entries in prop::collection::hash_map((0u32..16, 24u32..=32, prop::bool::ANY), Just(()), 1..12),
        asked in 0u32..16,
        port in prop_oneof![Just(443u16), Just(80)],
    ) {
        let mut text = String::new();
        let mut written: Vec<(u32, u32, u16)> = Vec::new();
        for (host, bits, with_port) in entries.keys() {
            let host = host & (u32::MAX << (32 - bits));
            let entry = (host, *bits, if *with_port { 443 } else { 0 });
            if written.contains(&entry) {
                continue;
            }
            let port = if *with_port { ":443" } else { "" };
            text.push_str(&format!("[[label]]\nname = \"l{}\"\naddresses = [\"10.0.0.{host}/{bits}{port}\"]\n", written.len()));
            written.push(entry);
        }
        let policy = policy(&text);
        let tables = tables(&policy);
        // As the kernel does: a look-up in the trie with the port and one without.
        let look = |port: u16| {
            let addr = Ipv4Addr::new(10, 0, 0, asked as u8);
            let data = AddressKey { generation: 1, port: port.to_be(), addr: addr.to_ipv6_mapped().octets() };
            longest(&tables.addresses, &data)
        };
        let found = match (look(port), look(0)) {
            (Some(with), Some(without)) if without.prefix > with.prefix => Some(without),
            (with, without) => with.or(without),
        };
        let expected = written
            .iter()
            .enumerate()
            .filter(|(_, (host, bits, only))| asked >> (32 - bits).min(31) == host >> (32 - bits).min(31) && (*only == 0 || *only == port))
            .max_by_key(|(_, (_, bits, only))| (*bits, *only))
            .map(|(index, _)| 1u64 << index);
        prop_assert_eq!(found.map(|value| value.labels), expected);
        let any = policy.groups.iter().flat_map(|group| &group.addresses);
        let contained = any.filter(|address| address.contains(IpAddr::V4(Ipv4Addr::new(10, 0, 0, asked as u8)), port)).count();
        prop_assert_eq!(contained > 0, expected.is_some());
    }
}

fn longest(trie: &[(u32, AddressKey, KnownAddress)], data: &AddressKey) -> Option<KnownAddress> {
    let bytes = |key: &AddressKey| {
        let mut bytes = [0u8; 20];
        bytes[..2].copy_from_slice(&key.generation.to_ne_bytes());
        bytes[2..4].copy_from_slice(&key.port.to_ne_bytes());
        bytes[4..].copy_from_slice(&key.addr);
        bytes
    };
    let same = |a: &[u8; 20], b: &[u8; 20], bits: u32| {
        (0..bits as usize).all(|bit| (a[bit / 8] ^ b[bit / 8]) & (0x80 >> (bit % 8)) == 0)
    };
    trie.iter()
        .filter(|(prefix_len, key, _)| same(&bytes(key), &bytes(data), *prefix_len))
        .max_by_key(|(prefix_len, ..)| *prefix_len)
        .map(|(.., value)| *value)
}

#[test]
fn addresses_are_written_in_every_usual_form() {
    let policy = policy(
        "[[label]]\nname = \"a\"\naddresses = [\"203.0.113.0/24\", \"127.0.0.1:18443\", \"[2001:db8::1]:443\", \"2001:db8::/32\", \"[2001:db8::/48]:1\", \"*:5432\", \"::1\", \"10.0.0.0/8:22\"]\n",
    );
    let found: Vec<(u32, u16, u32)> = tables(&policy)
        .addresses
        .iter()
        .map(|(prefix_len, key, value)| {
            (
                *prefix_len - ADDRESS_FIXED_BITS,
                u16::from_be(key.port),
                value.prefix,
            )
        })
        .collect();
    let mut expected = [
        (120, 0),
        (128, 18443),
        (128, 443),
        (32, 0),
        (48, 1),
        (0, 5432),
        (128, 0),
        (104, 22),
    ];
    let mut short: Vec<(u32, u16)> = found
        .iter()
        .map(|(prefix, port, _)| (*prefix, *port))
        .collect();
    assert!(found.iter().all(|(prefix, _, value)| prefix == value));
    expected.sort_unstable();
    short.sort_unstable();
    assert_eq!(short, expected);
}

#[test]
fn an_address_of_two_groups_carries_both_labels_and_spares_nobody() {
    let policy = policy(
        "[[label]]\nname = \"a\"\naddresses = [\"10.0.0.1\"]\nexcept.exe = [\"x\"]\n[[label]]\nname = \"b\"\naddresses = [\"10.0.0.1\"]\n",
    );
    let [(_, _, value)] = tables(&policy).addresses[..] else {
        panic!("one address")
    };
    assert_eq!((value.labels, value.groups), (0b11, 0));
}
