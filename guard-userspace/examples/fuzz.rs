//! Feeds the parsers of what comes from outside (kernel records, kernel type information, the control socket,
//! the journal, policies, files that are searched for secrets) with inputs that are changed at random, for a fixed time. Started by `cargo xtask
//! fuzz`, with overflow checks. Not guided by coverage: that needs a nightly compiler and libFuzzer.
//!
//! `fuzz SECONDS [TARGET]`. An input on which a parser panics, or takes longer than ten seconds, is kept in the
//! temporary directory, and the exit status is 1.

use std::{
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::LazyLock,
    time::{Duration, Instant},
};

use guard::{
    conduct::{Baseline, Baselines, Conduct},
    event::{
        Event, ecs,
        ocsf::{self, Host},
    },
    http,
    journal::{Against, Journal},
    kernel::{NameServerBytes, Offsets, Record, btf},
    names,
    policy::{CommandMatcher, Part, Policy, Source, users::Account},
    report::{self, Collector},
    secrets::{Keyed, Scanner},
    wire::{Reply, Request},
};
use guard_common::{
    event::{CallRecord, ConnectRecord, Header, PathHeader},
    names::{AnswerHeader, NameRecord},
};

/// No input of these sizes may take a parser longer.
const SLOW: Duration = Duration::from_secs(10);
/// Inputs do not grow beyond this, but that seeds may be longer.
const LONGEST: usize = 64 << 10;

struct Target {
    name: &'static str,
    seeds: fn() -> Vec<Vec<u8>>,
    run: fn(&[u8]),
}

const TARGETS: [Target; 15] = [
    Target {
        name: "record",
        seeds: record_seeds,
        run: |data| drop(Record::decode(data)),
    },
    Target {
        name: "dns",
        seeds: || {
            // An answer with an alias, an address and an HTTPS record (RFC 1035, 4.1; RFC 9460).
            let mut message =
                b"\0\x01\x81\x80\0\x01\0\x03\0\0\0\0\x01a\x04test\0\0\x01\0\x01".to_vec();
            message.extend(b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x04\x01b\xc0\x0e");
            message.extend(b"\xc0\x24\0\x01\0\x01\0\0\0\x3c\0\x04\xcb\0\x71\x07");
            message
                .extend(b"\xc0\x24\0\x41\0\x01\0\0\0\x3c\0\x0b\0\x01\0\0\x04\0\x04\xcb\0\x71\x07");
            vec![message]
        },
        run: |data| drop(names::parse(data)),
    },
    Target {
        name: "name-server",
        seeds: || vec![vec![0; size_of::<AnswerHeader>() + 40]],
        run: |data| {
            let Some(part) = NameServerBytes::decode(data) else {
                return;
            };
            let mut streams = names::Streams::default();
            for piece in part.bytes.chunks(7) {
                for message in streams.segment(part.from, part.port, part.seq, piece, false) {
                    drop(names::parse(&message));
                }
            }
        },
    },
    Target {
        name: "quic",
        seeds: quic_seeds,
        run: |data| {
            let _ = names::quic::is_initial(data);
            let mut flight = names::quic::Flight::default();
            for datagram in data.chunks(1200) {
                drop(flight.add(datagram));
            }
            // What is changed does not pass for authentic: the frames of packets, as if it did.
            let mut handshake = names::quic::Handshake::default();
            for frames in data.chunks(100) {
                let _ = handshake.add(frames);
            }
        },
    },
    Target {
        name: "conduct",
        seeds: || {
            let mut seeds = vec![
                include_bytes!("../../policy/baselines.toml").to_vec(),
                br#"{"v":1,"seq":1,"time":"","kind":"exec","object":{"argv":["/usr/bin/python3.11","-m","pytest","-q"]}}"#.to_vec(),
                br#"{"v":1,"seq":1,"time":"","kind":"request","labels":["infra"],"object":{"method":"POST","aws":"ec2.RunInstances"}}"#.to_vec(),
            ];
            seeds.extend(
                Baseline::shipped()
                    .iter()
                    .filter_map(|one| serde_json::to_vec(one).ok()),
            );
            seeds
        },
        run: |data| {
            let text = String::from_utf8_lossy(data);
            if let Ok(baselines) = Baseline::from_toml(&text) {
                let _ = Baselines::with_learned(baselines).usual("x");
            }
            if let Ok(event) = serde_json::from_slice::<Event>(data) {
                let mut conduct = Conduct::default();
                conduct.note(&event, event.mono_ns.unwrap_or_default());
                let _ = conduct.turn(Baselines::default().usual("x"), 60.0);
            }
        },
    },
    Target {
        name: "http",
        seeds: http_seeds,
        run: |data| {
            // In pieces of several sizes, and with some of it missing.
            for (piece, missing) in [(usize::MAX, 0), (1, 0), (37, 0), (64, 9)] {
                let mut stream = http::Stream::new();
                let mut known = http::KnownQueries::default();
                for bytes in data.chunks(piece.min(data.len().max(1))) {
                    drop(stream.take(bytes, missing, &mut known));
                }
            }
        },
    },
    Target {
        name: "btf",
        seeds: || {
            let whole = fs::read(btf::VMLINUX).unwrap_or_default();
            vec![whole, b"\x9f\xeb\x01\x00\x18\x00\x00\x00".to_vec()]
        },
        run: |data| drop(Offsets::from_bytes(data)),
    },
    Target {
        name: "request",
        seeds: || {
            [
                r#"{"cmd":"status"}"#,
                r#"{"cmd":"events","follow":true,"session":"s-1","kinds":["open"],"after":3}"#,
                r#"{"cmd":"adopt","pid":1,"agent":"a","intent":"b","run":true}"#,
                r#"{"cmd":"grant","session":"s-1","label":"l","for_ms":1,"reason":null}"#,
            ]
            .map(|text| text.as_bytes().to_vec())
            .to_vec()
        },
        run: |data| drop(serde_json::from_slice::<Request>(data)),
    },
    Target {
        name: "reply",
        seeds: || vec![br#"{"reply":"done","message":"x"}"#.to_vec()],
        run: |data| drop(serde_json::from_slice::<Reply>(data)),
    },
    Target {
        name: "policy",
        seeds: || {
            vec![
                include_bytes!("../../policy/default.toml").to_vec(),
                POLICY.to_vec(),
            ]
        },
        run: |data| {
            if let Ok(text) = std::str::from_utf8(data) {
                let _ = Policy::parse(text, Source::BuiltIn);
            }
        },
    },
    Target {
        name: "user-policy",
        seeds: || {
            vec![
                b"version = 1\n[[label]]\nname = \"l\"\nfiles = [\"~/**/x\", \"~/{a,b}\"]\nargv = [\"m **\"]\n[[rule]]\nname = \"r\"\nwhen = [\"l\", \"infra\"]\nwithin = \"1m\"\nthen = \"kill\"\n[[raise]]\nrule = \"infra-reached\"\nthen = \"hold\"\n".to_vec(),
            ]
        },
        run: |data| {
            static MACHINE: LazyLock<Policy> = LazyLock::new(Policy::built_in);
            if let Ok(text) = std::str::from_utf8(data) {
                let account = Account {
                    name: "ann".into(),
                    uid: 1000,
                    gid: 1000,
                    home: "/home/ann".into(),
                };
                let part = Part {
                    source: Source::BuiltIn,
                    text: text.to_owned(),
                };
                let mut policy = MACHINE.clone();
                if policy.add_user(&account, part).is_ok() {
                    // Whatever it says, it takes nothing away.
                    assert!(policy.rules.starts_with(&MACHINE.rules));
                    assert_eq!(policy.agents.len(), MACHINE.agents.len());
                    assert_eq!(policy.mode, MACHINE.mode);
                }
            }
        },
    },
    Target {
        name: "command",
        seeds: || {
            [
                "sudo\0-u\0x\0env\0A=b\0timeout\0-k\x001\x005\0sh\0-c\0if a; then $(b \"`c`\") | d > e; fi <<F\nF\n",
                "ssh\0-p\x001\0h\0psql -c 'DROP TABLE x; -- y\n/* z */ TRUNCATE w' $'a\\'' <(b)",
                "docker\0run\0-v\0a:b\0--entrypoint\0rm\0x/y:1\0-rf\0~/../{*,.*}\0/a/../..",
                "find\0/\0-exec\0parallel\0a\0:::\0b\0;\0-delete",
            ]
            .map(|text| text.as_bytes().to_vec())
            .to_vec()
        },
        run: |data| {
            static MATCHER: LazyLock<CommandMatcher> =
                LazyLock::new(|| CommandMatcher::new(&Policy::built_in()));
            let words = data.split(|byte| *byte == 0);
            let argv: Vec<String> = words
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect();
            drop(MATCHER.labels(&argv));
        },
    },
    Target {
        name: "journal",
        seeds: || {
            let line = br#"{"v":1,"seq":1,"time":"2026-11-21T20:40:22.123456Z","kind":"guard","object":{"what":"started"},"chain":"0000000000000000000000000000000000000000000000000000000000000000"}
"#;
            let checkpoint = br#"{"v":1,"seq":2,"time":"2026-11-21T20:40:22.123456Z","kind":"guard","object":{"head":"00","key":"00","previous":"00","seq":1,"signature":"00","time":"t","what":"checkpoint","why":"start"},"chain":"0000000000000000000000000000000000000000000000000000000000000000"}
"#;
            let open = br#"{"v":1,"seq":1,"time":"2026-11-21T20:40:22.123456Z","session":"s-1","kind":"open","tgid":4,"object":{"path":"/a"},"labels":["a"],"verdict":"hold","rule":"r","evidence":[1],"chain":"0000000000000000000000000000000000000000000000000000000000000000"}
"#;
            vec![
                line.to_vec(),
                open.to_vec(),
                line.repeat(3),
                [line.as_slice(), checkpoint].concat(),
            ]
        },
        run: |data| journal("journal-00000000000000000001.jsonl", data),
    },
    Target {
        name: "secrets",
        seeds: secret_seeds,
        run: |data| {
            static SCANNER: LazyLock<Scanner> = LazyLock::new(|| {
                let keyed = Keyed::random().expect("the kernel gives random numbers");
                Scanner::built_in(keyed).expect("the built-in table is sound")
            });
            for path in ["a.txt", "a.js", ".pgpass", ".netrc", ".railway/config.json"] {
                let mut last = 0;
                SCANNER.scan_bytes(path.as_ref(), data, &mut |found| {
                    assert!(last <= found.start && found.start < found.end);
                    assert!(found.end <= data.len() as u64);
                    last = found.end;
                });
            }
            for piece in SCANNER.tokens_in(data) {
                assert!(piece.range.end <= data.len());
                let _ = SCANNER.keyed().hash(piece.value());
            }
        },
    },
    Target {
        name: "journal-head",
        seeds: || {
            let head = format!(
                r#"{{"v":1,"seq":1,"head":"{0}","time":"t","closed":true,"checkpoint":{{"seq":1,"hash":"{0}"}},"begin":{{"seq":1,"head":"{0}"}},"key":"{0}","signature":"{0}{0}"}}
"#,
                "0".repeat(64)
            );
            vec![head.into_bytes()]
        },
        run: |data| journal("head", data),
    },
];

const POLICY: &[u8] = br#"version = 1
[[agent]]
name = "a"
exe = ["claude", "**/bin/*"]
env = ["A=1"]
[[label]]
name = "l"
files = ["~/.aws/credentials", "**/.env", "/a/**/b*c", "{a,b}/**"]
addresses = ["203.0.113.0/24", "[2001:db8::1]:443", "unix:/run/x"]
argv = ["terraform destroy", "kubectl ** delete"]
calls = ["bpf"]
except = { exe = ["ssh"], files = ["**/x"] }
[[rule]]
name = "r"
when = ["l", "l"]
within = "10m"
then = "hold"
on_timeout = "kill"
"#;

/// The table itself has every literal; the rest is what code recognises, with values that are nobody's.
fn secret_seeds() -> Vec<Vec<u8>> {
    let body = "Zm9vYmFyQmF6MTIzNDU2Nzg5MFF1dXhRdXV6".repeat(4);
    let texts = [
        format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{body}\n-----END OPENSSH PRIVATE KEY-----\n"),
        format!("PuTTY-User-Key-File-3: x\nEncryption: none\nPrivate-Lines: 1\n{body}\nPrivate-MAC: 0\n"),
        "postgres://a:b1c2d3e4f5@h/d machine m login l password q1w2e3r4\nh:1:d:u:p4ssw0rD9\n".into(),
        "{\"auth\": \"dXNlcjpwNHNzdzByRDk=\", \"name\": \"X_TOKEN\",\n \"value\": \"a1B2c3D4e5F6g7H8\"}".into(),
        "Authorization: Basic dXNlcjpwNHNzdzByRDk=\r\nx: Bearer a1B2c3D4e5F6g7H8i9\r\n/?token=a%2Bb&sig=c%3D".into(),
        "# railway\nconst API_TOKEN: &str = r#\"00112233-4455-4677-8899-aabbccddeeff\"#;\n".into(),
    ];
    let wide = texts[2].encode_utf16().flat_map(u16::to_le_bytes);
    let mut seeds: Vec<Vec<u8>> = vec![[0xff, 0xfe].into_iter().chain(wide).collect()];
    seeds.extend(texts.iter().map(|text| text.as_bytes().to_vec()));
    seeds.push(include_bytes!("../../policy/secrets.toml").to_vec());
    seeds
}

/// One of each kind, with lengths that fit.
fn http_seeds() -> Vec<Vec<u8>> {
    let body = r#"{"query":"mutation A($i:ID!){a:volumeDelete(id:$i){...F}} fragment F on X{y}","variables":{"i":"1"},"operationName":"A"}"#;
    let post = |headers: &str, body: &[u8]| {
        let mut request =
            format!("POST /graphql HTTP/1.1\r\nHost: a.test\r\n{headers}\r\n").into_bytes();
        request.extend(body);
        request
    };
    let length = format!(
        "Content-Type: application/json\r\nContent-Length: {}\r\n",
        body.len()
    );
    let chunked = format!("{:x};a=b\r\n{body}\r\n0\r\nX: y\r\n\r\n", body.len());
    let multipart =
        "--b\r\nContent-Disposition: form-data; name=\"operations\"\r\n\r\n{}\r\n--b--\r\n";
    // HTTP/2: settings, a request with a body (RFC 9113, 4.1; the block is RFC 7541's C.3.1 with POST).
    let mut two = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    two.extend(
        b"\0\0\x11\x01\x04\0\0\0\x01\x83\x86\x84\x41\x0fwww.example.com"[..9 + 17 + 3].iter(),
    );
    two.extend(b"\0\0\x02\0\x01\0\0\0\x01{}");
    vec![
        post(&length, body.as_bytes()),
        post("Transfer-Encoding: chunked\r\n", chunked.as_bytes()),
        post(
            &format!(
                "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {}\r\n",
                multipart.len()
            ),
            multipart.as_bytes(),
        ),
        post(
            "Upgrade: websocket\r\n",
            b"\x81\x82\0\0\0\0{}\xc1\x82\0\0\0\0\xaa\0",
        ),
        b"GET /api/v1/namespaces/x?query=%7Ba%7D HTTP/1.1\r\nHost: a\r\nX-Amz-Target: A.B\r\n\r\n"
            .to_vec(),
        two,
    ]
}

fn record_seeds() -> Vec<Vec<u8>> {
    let kind_at = std::mem::offset_of!(Header, kind);
    let mut seeds = Vec::new();
    for (kind, size) in [
        (1, size_of::<PathHeader>() + 40),
        (2, size_of::<PathHeader>() + 20),
        (3, size_of::<ConnectRecord>()),
        (4, size_of::<Header>()),
        (8, size_of::<CallRecord>()),
        (9, size_of::<NameRecord>()),
    ] {
        let mut seed = vec![0u8; size];
        seed[kind_at] = kind;
        if size > size_of::<PathHeader>() && kind < 3 {
            let at = std::mem::offset_of!(PathHeader, path_len);
            seed[at] = 20;
            seed[std::mem::offset_of!(PathHeader, arg_len)] =
                (size - size_of::<PathHeader>() - 20) as u8;
        }
        seeds.push(seed);
    }
    seeds
}

/// Packets of both versions, and frames of one with a ClientHello (RFC 9000, 19; RFC 8446, 4.1.2).
fn quic_seeds() -> Vec<Vec<u8>> {
    let packet = |hex: &str| -> Vec<u8> {
        let digits: Vec<u8> = hex
            .chars()
            .filter_map(|digit| digit.to_digit(16))
            .map(|digit| digit as u8)
            .collect();
        digits.chunks(2).map(|two| two[0] << 4 | two[1]).collect()
    };
    let mut frames = b"\x01\x02\x05\0\x01\0\x01\x01\x06\0\x3e\x01\0\0\x3a\x03\x03".to_vec();
    frames.extend([7; 32]);
    frames.extend(b"\0\0\x02\x13\x01\x01\0\0\x0f\0\0\0\x0b\0\x09\0\0\x06a.test\0\0\0");
    vec![
        packet(include_str!("../src/names/quic/tests/rfc9001-a2.hex")),
        packet(include_str!("../src/names/quic/tests/rfc9369-a2.hex")),
        frames,
    ]
}

/// A state directory in which one file holds this; and the events that are in it, in every shape.
fn journal(name: &str, data: &[u8]) {
    let dir = env::temp_dir().join(format!("guard-fuzz-{}", std::process::id()));
    let _ = fs::create_dir_all(&dir);
    let _ = fs::write(dir.join(name), data);
    let _ = Journal::verify(&dir, &Against::default());
    let host = Host {
        name: "host".into(),
        version: "1".into(),
    };
    if let Ok(reader) = Journal::read(&dir, 0) {
        let mut collector = Collector::new("s-1");
        for event in reader.take(1000).flatten() {
            drop(ocsf::of(&event, &host));
            drop(ecs::of(&event, &host));
            collector.add(&event);
        }
        if let Some(report) = collector.finish() {
            drop(report::markdown(&report, &|uid| uid.to_string()));
            drop(report::html(&report, &|uid| uid.to_string()));
        }
    }
    let _ = fs::remove_dir_all(&dir);
}

/// Marsaglia's xorshift64*: <https://doi.org/10.18637/jss.v008.i14>
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

fn change(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..=random.below(6) {
        let at = random.below(input.len() + 1);
        let length = random.below(16) + 1;
        match random.below(8) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.next() as u8,
            2 => {
                const TELLING: [u64; 6] = [0, 1, 0x7f, 0xffff, 0xffff_ffff, u64::MAX];
                let word = TELLING[random.below(TELLING.len())].to_le_bytes();
                for (slot, byte) in input.iter_mut().skip(at).zip(word) {
                    *slot = byte;
                }
            }
            3 => drop(input.drain(at..(at + length).min(input.len()))),
            4 => input.truncate(at),
            5 => {
                let from = random.below(other.len());
                let piece = other[from..(from + length).min(other.len())].to_vec();
                input.splice(at..at, piece);
            }
            6 => {
                let end = (at + length).min(input.len());
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            _ => {
                const MARKS: &[u8] = b"\"\\{}[],:*/~.\0\n=";
                input.insert(at, MARKS[random.below(MARKS.len())]);
            }
        }
        if input.len() > LONGEST && other.len() <= LONGEST {
            input.truncate(LONGEST);
        }
    }
}

/// Runs one target for a while; how many inputs, or the one that it failed on.
fn run(target: &Target, time: Duration, random: &mut Random) -> Result<u64, (Vec<u8>, String)> {
    let seeds = (target.seeds)();
    let begun = Instant::now();
    let mut count = 0;
    while begun.elapsed() < time {
        let mut input = seeds[random.below(seeds.len())].clone();
        let other = &seeds[random.below(seeds.len())];
        change(&mut input, other, random);
        let at = Instant::now();
        if catch_unwind(AssertUnwindSafe(|| (target.run)(&input))).is_err() {
            return Err((input, "it panicked".into()));
        }
        if at.elapsed() > SLOW {
            return Err((input, format!("it took {:?}", at.elapsed())));
        }
        count += 1;
    }
    Ok(count)
}

fn main() -> ExitCode {
    let mut args = env::args().skip(1);
    let seconds: u64 = args.next().and_then(|text| text.parse().ok()).unwrap_or(10);
    let only = args.next();
    let seed = 0x9e37_79b9_7f4a_7c15
        ^ std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos() as u64);
    println!("fuzz: seed {seed}");
    let mut random = Random(seed | 1);
    let mut failed = false;
    for target in TARGETS
        .iter()
        .filter(|target| only.as_deref().is_none_or(|name| name == target.name))
    {
        match run(target, Duration::from_secs(seconds), &mut random) {
            Ok(count) => println!("fuzz: {}: {count} inputs", target.name),
            Err((input, why)) => {
                failed = true;
                let path = env::temp_dir().join(format!("guard-fuzz-{}-{seed}", target.name));
                let kept = fs::write(&path, input).is_ok();
                println!(
                    "fuzz: {}: {why}: {}",
                    target.name,
                    if kept {
                        path.display().to_string()
                    } else {
                        "the input could not be kept".into()
                    }
                );
            }
        }
    }
    ExitCode::from(u8::from(failed))
}
