//! What the built-in policy makes of requests: of every provider that it names, and of one deletion in every form that it
//! can be sent in.

use std::io::Write as _;

use serde::Deserialize;

use super::super::{Policy, Source};
use crate::http::{KnownQueries, Request, Stream, Unfinished};

const LABEL: &str = "destructive-request";

/// Requests to the providers of the built-in policy: those that destroy, each with one beside it that does not and looks
/// alike, and harmless ones.
const CORPUS: &str = include_str!("../../../../policy/requests.json");

#[derive(Deserialize)]
struct Sample {
    is: String,
    provider: String,
    method: String,
    url: String,
    headers: std::collections::BTreeMap<String, String>,
    body: Option<String>,
}

impl Sample {
    fn bytes(&self) -> Vec<u8> {
        let (_, rest) = self.url.split_once("://").unwrap();
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let target = if rest[at..].starts_with('/') {
            rest[at..].to_owned()
        } else {
            format!("/{}", &rest[at..])
        };
        let mut head = format!(
            "{} {target} HTTP/1.1\r\nHost: {}\r\n",
            self.method,
            &rest[..at]
        );
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let body = self.body.as_deref().unwrap_or_default();
        if !body.is_empty() {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        format!("{head}\r\n{body}").into_bytes()
    }
}

fn read(pieces: &[&[u8]]) -> Vec<Request> {
    let mut stream = Stream::new();
    let mut known = KnownQueries::default();
    pieces
        .iter()
        .flat_map(|piece| stream.take(piece, 0, &mut known))
        .collect()
}

fn labels(policy: &Policy, requests: &[Request]) -> Vec<String> {
    let mut labels: Vec<String> = requests
        .iter()
        .flat_map(|request| policy.of_request(request, &[]))
        .map(|(index, _)| policy.groups[index].name.clone())
        .collect();
    labels.sort();
    labels.dedup();
    labels
}

#[test]
fn of_every_provider_what_destroys_is_told_from_what_looks_alike() {
    let policy = Policy::built_in();
    let samples: Vec<Sample> = serde_json::from_str(CORPUS).unwrap();
    let mut wrong = Vec::new();
    let mut counts = std::collections::BTreeMap::new();
    for sample in &samples {
        let requests = read(&[&sample.bytes()]);
        let destroys = labels(&policy, &requests)
            .iter()
            .any(|label| label == LABEL);
        *counts.entry(sample.is.as_str()).or_insert(0) += 1;
        if destroys != (sample.is == "destroys") {
            wrong.push(format!(
                "{} {}: {} {} {:?}: {requests:?}",
                sample.is, sample.provider, sample.method, sample.url, sample.body
            ));
        }
        assert!(
            requests.iter().all(|request| request.unread.is_none()),
            "{} {}: {requests:?}",
            sample.method,
            sample.url
        );
    }
    assert!(
        wrong.is_empty(),
        "{} of {counts:?}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(counts["harmless"] >= 200 && counts["destroys"] >= 300 && counts["near-miss"] >= 300);
}

const ONE: &str = "[[label]]\nname = \"deletes\"\n\
    requests = [{ host = \"api.test\", graphql = \"mutation *Delete*\" }]\n";

fn one() -> Policy {
    Policy::parse(&format!("version = 1\n{ONE}"), Source::BuiltIn).unwrap()
}

fn post(headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "POST /graphql HTTP/1.1\r\nHost: api.test\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend(body);
    bytes
}

fn json(body: &str) -> Vec<u8> {
    post("Content-Type: application/json\r\n", body.as_bytes())
}

fn query(document: &str) -> String {
    serde_json::json!({ "query": document }).to_string()
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let fields = fields
        .iter()
        .map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    loona_hpack::Encoder::new().encode(fields)
}

const HEAD: [(&str, &str); 5] = [
    (":method", "POST"),
    (":scheme", "https"),
    (":authority", "api.test"),
    (":path", "/graphql"),
    ("content-type", "application/json"),
];

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn two(frames: &[Vec<u8>]) -> Vec<u8> {
    [PREFACE.to_vec(), frame(4, 0, 0, &[]), frames.concat()].concat()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// `volumeDelete` in every form that we know it can be sent in.
fn disguises() -> Vec<(&'static str, Vec<u8>)> {
    let plain = query("mutation { volumeDelete(volumeId: \"vol-1\") }");
    let chunked = |sizes: &[usize]| {
        let mut bytes =
            b"POST /graphql HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n"
                .to_vec();
        let mut rest = plain.as_bytes();
        for size in sizes.iter().cycle() {
            let size = (*size).min(rest.len());
            bytes.extend(format!("{size:X};x=\"y\"\r\n").bytes());
            bytes.extend(&rest[..size]);
            bytes.extend(b"\r\n");
            rest = &rest[size..];
            if rest.is_empty() {
                break;
            }
        }
        bytes.extend(b"0\r\nX-Trailer: y\r\n\r\n");
        bytes
    };
    let hash = {
        use sha2::Digest as _;
        let sum = sha2::Sha256::digest(b"mutation { volumeDelete(volumeId: 1) }");
        sum.iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let encoded = |name: &str, body: Vec<u8>| {
        post(
            &format!("Content-Type: application/json\r\nContent-Encoding: {name}\r\n"),
            &body,
        )
    };
    let half = plain.len() / 2;
    let whole = block(&HEAD);
    let multipart = |name: &str, value: &str| {
        let body = format!(
            "--x\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n--x--\r\n"
        );
        post(
            "Content-Type: multipart/form-data; boundary=x\r\n",
            body.as_bytes(),
        )
    };
    let urlencoded: String = form_urlencoded::Serializer::new(String::new())
        .append_pair("query", "mutation { volumeDelete(volumeId: 1) }")
        .finish();
    // Brotli and zstd without a compressor: a stream of one stored block each (RFC 7932, 9.2; RFC 8878, 3.1.1).
    let stored_zstd = {
        let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0x20, plain.len() as u8];
        bytes.extend(&((plain.len() as u32) << 3 | 1).to_le_bytes()[..3]);
        bytes.extend(plain.as_bytes());
        bytes
    };
    let stored_brotli = {
        // WBITS 16; one uncompressed meta-block of four nibbles; then the empty last one.
        let len = plain.len() as u32 - 1;
        let bits = (u64::from(len) << 4 | 1 << 20) & 0xff_ffff;
        let mut bytes = bits.to_le_bytes()[..3].to_vec();
        bytes.extend(plain.as_bytes());
        bytes.push(3);
        bytes
    };
    let mut all = vec![
        ("plain", json(&plain)),
        (
            "an alias",
            json(&query(
                "mutation { volumeUpdate: volumeDelete(volumeId: 1) }",
            )),
        ),
        (
            "a named operation",
            json(&query("mutation Harmless { volumeDelete(volumeId: 1) }")),
        ),
        (
            "a fragment",
            json(&query(
                "mutation { ...F } fragment F on Mutation { volumeDelete(volumeId: 1) }",
            )),
        ),
        (
            "fragments in fragments",
            json(&query(
                "mutation { ...A } fragment A on Mutation { ...B } fragment B on Mutation { ... on Mutation { volumeDelete(volumeId: 1) } ...A }",
            )),
        ),
        (
            "an inline fragment",
            json(&query(
                "mutation { ... @include(if: true) { volumeDelete(volumeId: 1) } }",
            )),
        ),
        (
            "comments and commas",
            json(&query(
                "#x {\nmutation,,# y\n{,volumeDelete#(\n(volumeId:,1),}",
            )),
        ),
        (
            "no blanks",
            json(&query("mutation{volumeDelete(volumeId:1)}")),
        ),
        (
            "a byte order mark",
            json(&query("\u{feff}mutation { volumeDelete(volumeId: 1) }")),
        ),
        (
            "variables",
            json(
                r#"{"query":"mutation($i: ID!) { volumeDelete(volumeId: $i) }","variables":{"i":"vol-1"}}"#,
            ),
        ),
        (
            "escapes in JSON",
            json(r#"{"\u0071uery":"\u006dutation { \u0076olumeDelete(volumeId: 1) }"}"#),
        ),
        (
            "behind a query",
            json(&query(
                "query A { me { id } } mutation B { volumeDelete(volumeId: 1) }",
            )),
        ),
        (
            "chosen by its name",
            json(
                r#"{"query":"query A { me } mutation B { volumeDelete(volumeId: 1) }","operationName":"B"}"#,
            ),
        ),
        (
            "two names for the operation",
            json(
                r#"{"query":"query A { me } mutation B { volumeDelete(volumeId: 1) }","operationName":"B","operationName":"A"}"#,
            ),
        ),
        (
            "two queries",
            json(r#"{"query":"mutation { volumeDelete(volumeId: 1) }","query":"{ me }"}"#),
        ),
        ("a batch", json(&format!("[{}, {plain}]", query("{ me }")))),
        (
            "several fields",
            json(&query(
                "mutation { volumeUpdate(id: 1) volumeDelete(volumeId: 1) }",
            )),
        ),
        (
            "a stored query",
            json(&format!(
                r#"{{"extensions":{{"persistedQuery":{{"version":1,"sha256Hash":"{hash}"}}}}}}"#
            )),
        ),
        (
            "a stored document",
            json(r#"{"documentId":"123","variables":{}}"#),
        ),
        (
            "GET",
            format!("GET /graphql?{urlencoded} HTTP/1.1\r\nHost: api.test\r\n\r\n").into_bytes(),
        ),
        (
            "a form",
            post(
                "Content-Type: application/x-www-form-urlencoded\r\n",
                urlencoded.as_bytes(),
            ),
        ),
        ("parts", multipart("operations", &plain)),
        (
            "a part",
            multipart("query", "mutation { volumeDelete(volumeId: 1) }"),
        ),
        (
            "as it is",
            post(
                "Content-Type: application/graphql\r\n",
                b"mutation { volumeDelete(volumeId: 1) }",
            ),
        ),
        ("without a type", post("", plain.as_bytes())),
        (
            "another type",
            post("Content-Type: text/plain\r\n", plain.as_bytes()),
        ),
        (
            "curl's own type",
            post(
                "Content-Type: application/x-www-form-urlencoded\r\n",
                plain.as_bytes(),
            ),
        ),
        ("in chunks", chunked(&[7, 1, 13])),
        ("in chunks of one byte", chunked(&[1])),
        ("gzip", encoded("gzip", gzip(plain.as_bytes()))),
        (
            "gzip twice",
            encoded("gzip, gzip", gzip(&gzip(plain.as_bytes()))),
        ),
        (
            "deflate",
            encoded("deflate", {
                let mut encoder =
                    flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(plain.as_bytes()).unwrap();
                encoder.finish().unwrap()
            }),
        ),
        ("br", encoded("br", stored_brotli)),
        ("zstd", encoded("zstd", stored_zstd)),
        (
            "an unknown encoding",
            encoded("x-own", plain.clone().into_bytes()),
        ),
        (
            "not what it says",
            encoded("gzip", plain.clone().into_bytes()),
        ),
        ("no JSON", json("{\"query\": \"mutation { volumeDelete }")),
        (
            "no GraphQL",
            json(&query("mutation { volumeDelete(volumeId: 1) } }")),
        ),
        (
            "behind another request",
            [
                b"GET / HTTP/1.1\r\nHost: api.test\r\n\r\n".to_vec(),
                json(&plain),
            ]
            .concat(),
        ),
        (
            "a host in capitals with a port",
            String::from_utf8(json(&plain))
                .unwrap()
                .replace("Host: api.test", "hOST:\tAPI.TEST.:443")
                .into_bytes(),
        ),
        (
            "a whole URL for another host's",
            String::from_utf8(json(&plain))
                .unwrap()
                .replace("POST /graphql", "POST https://api.test/graphql")
                .replace("Host: api.test", "Host: www.test")
                .into_bytes(),
        ),
        (
            "empty lines first",
            [b"\r\n\r\n".to_vec(), json(&plain)].concat(),
        ),
        (
            "bare line feeds",
            String::from_utf8(json(&plain))
                .unwrap()
                .replace("\r\n", "\n")
                .into_bytes(),
        ),
        (
            "two lengths",
            post("Content-Length: 3\r\n", plain.as_bytes()),
        ),
        (
            "HTTP/2",
            two(&[frame(1, 4, 1, &whole), frame(0, 1, 1, plain.as_bytes())]),
        ),
        (
            "HTTP/2 with padding and priority",
            two(&[
                frame(
                    1,
                    4 | 8 | 32,
                    1,
                    &[&[4, 0, 0, 0, 0, 16][..], &whole, &[0; 4]].concat(),
                ),
                frame(
                    0,
                    8,
                    1,
                    &[&[3][..], &plain.as_bytes()[..half], &[0; 3]].concat(),
                ),
                frame(0, 1 | 8, 1, &[&[0][..], &plain.as_bytes()[half..]].concat()),
            ]),
        ),
        (
            "HTTP/2 with continuation",
            two(&[
                frame(1, 0, 1, &whole[..3]),
                frame(9, 0, 1, &whole[3..9]),
                frame(9, 4, 1, &whole[9..]),
                frame(0, 1, 1, plain.as_bytes()),
            ]),
        ),
        (
            "HTTP/2, several streams",
            two(&[
                frame(1, 4, 1, &whole),
                frame(
                    1,
                    5,
                    3,
                    &block(&[
                        (":method", "GET"),
                        (":authority", "api.test"),
                        (":path", "/"),
                        (":scheme", "https"),
                    ]),
                ),
                frame(0, 0, 1, &plain.as_bytes()[..half]),
                frame(8, 0, 0, &[0, 0, 1, 0]),
                frame(0, 1, 1, &plain.as_bytes()[half..]),
            ]),
        ),
        (
            "HTTP/2, ended by trailers",
            two(&[
                frame(1, 4, 1, &whole),
                frame(0, 0, 1, plain.as_bytes()),
                frame(1, 5, 1, &block(&[("x", "y")])),
            ]),
        ),
        (
            "HTTP/2 after an upgrade",
            [
                b"GET / HTTP/1.1\r\nHost: api.test\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
                    .to_vec(),
                two(&[frame(1, 4, 3, &whole), frame(0, 1, 3, plain.as_bytes())]),
            ]
            .concat(),
        ),
        ("WebSocket", {
            let text = format!(r#"{{"id":"1","type":"subscribe","payload":{plain}}}"#);
            let mut bytes =
                b"GET /graphql HTTP/1.1\r\nHost: api.test\r\nUpgrade: websocket\r\n\r\n".to_vec();
            bytes.extend([0x81, 0xfe]);
            bytes.extend((text.len() as u16).to_be_bytes());
            bytes.extend([1, 2, 3, 4]);
            bytes.extend(
                text.bytes()
                    .zip([1u8, 2, 3, 4].iter().cycle())
                    .map(|(a, b)| a ^ b),
            );
            bytes
        }),
    ];
    all.push(("many aliases", {
        let fields: String = (0..500)
            .map(|n| format!("a{n}: volumeUpdate(id: {n}) "))
            .collect();
        json(&query(&format!(
            "mutation {{ {fields} b: volumeDelete(volumeId: 1) }}"
        )))
    }));
    all
}

/// The end-to-end tests send them over TLS.
#[test]
fn the_file_of_disguises_has_all_of_them() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../policy/disguises.json");
    let lines: Vec<String> = disguises()
        .iter()
        .map(|(name, bytes)| {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{{\"name\":\"{name}\",\"bytes\":\"{hex}\"}}")
        })
        .collect();
    let text = format!("[\n{}\n]\n", lines.join(",\n"));
    if std::env::var_os("GUARD_WRITE_DOCS").is_some() {
        std::fs::write(path, text).unwrap();
        return;
    }
    assert!(
        std::fs::read_to_string(path).unwrap() == text,
        "write it anew: GUARD_WRITE_DOCS=1 cargo xtask test --unit the_file_of"
    );
}

#[test]
fn a_deletion_is_found_in_every_disguise_however_it_is_cut() {
    let policy = one();
    let disguises = disguises();
    assert!(disguises.len() >= 30);
    for (name, bytes) in &disguises {
        for size in [bytes.len(), 1, 2, 7, 100] {
            let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
            let requests = read(&pieces);
            assert_eq!(
                labels(&policy, &requests),
                ["deletes"],
                "{name} in pieces of {size}: {requests:?}"
            );
        }
        // And not before its last piece: nothing that a server could act on has left by then.
        let last = read(&[&bytes[..bytes.len() - 1]]);
        let sure = last
            .iter()
            .all(|request| request.graphql.is_empty() || request.unread.is_some());
        assert!(
            sure || name.contains("chunks") || name.contains("two queries"),
            "{name}: {last:?}"
        );
    }
}

#[test]
fn what_is_like_a_deletion_is_none() {
    let policy = one();
    for (name, bytes) in [
        (
            "a query",
            json(&query("query volumeDelete { volume(id: 1) { delete } }")),
        ),
        (
            "undelete",
            json(&query(
                "mutation { volumeUndelete(volumeId: 1) undeleteVolume(id: 1) }",
            )),
        ),
        ("deleted", json(&query("mutation { markDeleted(id: 1) }"))),
        (
            "an argument",
            json(&query(
                "mutation { volumeUpdate(id: 1, mode: \"mutation { volumeDelete }\", delete: true) }",
            )),
        ),
        (
            "a comment",
            json(&query(
                "mutation { # volumeDelete(volumeId: 1)\n volumeUpdate(id: 1) }",
            )),
        ),
        (
            "an alias",
            json(&query("mutation { volumeDelete: volumeUpdate(id: 1) }")),
        ),
        (
            "a nested field",
            json(&query("mutation { volumeUpdate(id: 1) { volumeDelete } }")),
        ),
        (
            "an operation that is not chosen",
            json(
                r#"{"query":"query A { me } mutation B { volumeDelete(volumeId: 1) }","operationName":"A"}"#,
            ),
        ),
        (
            "an unused fragment",
            json(&query(
                "{ me } fragment F on Mutation { volumeDelete(volumeId: 1) }",
            )),
        ),
        ("a search", json(r#"{"query":"mutation volumeDelete"}"#)),
        ("another host", {
            String::from_utf8(json(&query("mutation { volumeDelete(volumeId: 1) }")))
                .unwrap()
                .replace("Host: api.test", "Host: xapi.test")
                .into_bytes()
        }),
        (
            "an upload",
            post("Content-Type: application/octet-stream\r\n", &[0xff; 5000]),
        ),
        ("no HTTP", b"\x16\x03\x01\x00\x05hello".to_vec()),
        ("SSH", b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n".to_vec()),
        ("SMTP", b"EHLO api.test\r\n".to_vec()),
        (
            "a long upload by SSH",
            [
                b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n".to_vec(),
                vec![7; 300_000],
            ]
            .concat(),
        ),
    ] {
        let requests = read(&[&bytes]);
        assert_eq!(labels(&policy, &requests), [""; 0], "{name}: {requests:?}");
    }
}

#[test]
fn a_query_that_was_seen_with_its_hash_is_known_by_it() {
    use sha2::Digest as _;
    let policy = one();
    let hash = |text: &str| {
        let sum = sha2::Sha256::digest(text.as_bytes());
        sum.iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let stored = |hash: &str| {
        json(&format!(
            r#"{{"extensions":{{"persistedQuery":{{"version":1,"sha256Hash":"{hash}"}}}}}}"#
        ))
    };
    let with_text = |text: &str, hash: &str| {
        json(&format!(
            r#"{{"query":"{text}","extensions":{{"persistedQuery":{{"sha256Hash":"{hash}"}}}}}}"#
        ))
    };
    let (reads, deletes) = ("{ me }", "mutation { volumeDelete(volumeId: 1) }");
    let mut stream = Stream::new();
    let mut known = KnownQueries::default();
    let mut say = |bytes: Vec<u8>| {
        let requests = stream.take(&bytes, 0, &mut known);
        !labels(&policy, &requests).is_empty()
    };
    assert!(say(stored(&hash(reads))));
    assert!(!say(with_text(reads, &hash(reads))));
    assert!(!say(stored(&hash(reads))));
    // What lies about its hash is not learnt.
    assert!(!say(with_text(reads, &hash(deletes))));
    assert!(say(stored(&hash(deletes))));
}

#[test]
fn what_is_not_seen_of_a_write_is_taken_for_the_worst() {
    let policy = one();
    let mut known = KnownQueries::default();
    // A body of which the end was not copied.
    let mut stream = Stream::new();
    let head = b"POST /graphql HTTP/1.1\r\nHost: api.test\r\nContent-Type: application/json\r\nContent-Length: 200000\r\n\r\n{\"a\":\"";
    let requests = stream.take(head, 200_000 - 6, &mut known);
    assert_eq!(labels(&policy, &requests), ["deletes"], "{requests:?}");
    // The connection is still understood behind it.
    let requests = stream.take(&json(&query("{ me }")), 0, &mut known);
    assert_eq!(labels(&policy, &requests), [""; 0], "{requests:?}");
    // An upload is not.
    let mut stream = Stream::new();
    let head = b"PUT /x HTTP/1.1\r\nHost: api.test\r\nContent-Type: application/octet-stream\r\nContent-Length: 200000\r\n\r\n";
    let requests = stream.take(head, 200_000, &mut known);
    assert_eq!(labels(&policy, &requests), [""; 0], "{requests:?}");
    // Where the next request begins nobody knows: each that follows may be one.
    let mut stream = Stream::new();
    stream.take(b"GET / HTTP/1.1\r\nHost: api.test\r\n", 100_000, &mut known);
    let requests = stream.take(&json(&query("{ me }")), 0, &mut known);
    assert_eq!(labels(&policy, &requests), ["deletes"], "{requests:?}");
}

#[test]
fn a_head_waits_for_a_body_that_could_tell_what_it_is_and_for_no_other() {
    let policy = Policy::parse(
        r#"version = 1
[[label]]
name = "deletes"
requests = [
  { host = "api.test", graphql = "mutation *Delete*" },
  { host = "api.test", method = "DELETE", path = "/v1/volumes/*" },
]
"#,
        Source::BuiltIn,
    )
    .unwrap();
    let waits = |bytes: &str| {
        let mut stream = Stream::new();
        stream.take(bytes.as_bytes(), 0, &mut KnownQueries::default());
        match stream.unfinished() {
            Unfinished::Nothing => None,
            Unfinished::Head => Some(true),
            Unfinished::Bodies(heads) => {
                Some(heads.iter().any(|head| policy.waits_for_body(head, &[])))
            }
        }
    };
    let post = |host: &str, rest: &str| {
        waits(&format!("POST /graphql HTTP/1.1\r\nHost: {host}\r\n{rest}"))
    };
    let ten = "Content-Length: 10\r\n\r\n";
    assert_eq!(post("api.test", ten), Some(true));
    assert_eq!(post("api.test", &format!("{ten}half")), Some(true));
    assert_eq!(
        post("api.test", "Transfer-Encoding: chunked\r\n\r\n5\r\nhal"),
        Some(true)
    );
    assert_eq!(post("other.test", ten), Some(false));
    // Its own end, an upload, one that is long, and one whose body comes when the server has answered.
    assert_eq!(post("api.test", &format!("{ten}0123456789")), None);
    assert_eq!(
        post("api.test", &format!("Content-Type: image/png\r\n{ten}")),
        None
    );
    assert_eq!(post("api.test", "Content-Length: 40000\r\n\r\n"), None);
    assert_eq!(
        post("api.test", &format!("Expect: 100-continue\r\n{ten}")),
        None
    );
    // Not ended itself.
    assert_eq!(post("api.test", ""), Some(true));
    assert_eq!(waits("P"), Some(true));
    assert_eq!(waits(""), None);
    // A form could ask to be taken for a DELETE, where there is something to delete.
    let to = |path: &str| {
        let policy = Policy::parse(
            "version = 1\n[[label]]\nname = \"deletes\"\nrequests = [{ host = \"api.test\", method = \"DELETE\", path = \"/v1/volumes/*\" }]",
            Source::BuiltIn,
        )
        .unwrap();
        let mut stream = Stream::new();
        let head = format!("POST {path} HTTP/1.1\r\nHost: api.test\r\n{ten}");
        stream.take(head.as_bytes(), 0, &mut KnownQueries::default());
        let Unfinished::Bodies(heads) = stream.unfinished() else {
            return false;
        };
        heads.iter().any(|head| policy.waits_for_body(head, &[]))
    };
    assert!(to("/v1/volumes/7"));
    assert!(!to("/v1/volumes"));
    // HTTP/2: HEADERS of `POST /graphql` at api.test (RFC 7541, static names 3, 4, 1), then DATA.
    let mut two = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let block = b"\x83\x44\x08/graphql\x41\x08api.test\x87";
    two.extend([0, 0, block.len() as u8, 1, 4, 0, 0, 0, 1]);
    two.extend(block);
    let mut stream = Stream::new();
    let known = &mut KnownQueries::default();
    stream.take(&two[..40], 0, known);
    assert_eq!(stream.unfinished(), Unfinished::Head);
    stream.take(&two[40..], 0, known);
    let Unfinished::Bodies(heads) = stream.unfinished() else {
        panic!("{stream:?}");
    };
    assert!(policy.waits_for_body(&heads[0], &[]));
    stream.take(&[0, 0, 2, 0, 1, 0, 0, 0, 1, b'{', b'}'], 0, known);
    assert_eq!(stream.unfinished(), Unfinished::Nothing);
}

#[test]
fn other_protocols_are_known_by_what_they_call() {
    let policy = Policy::parse(
        r#"version = 1
[[label]]
name = "method"
requests = [{ host = "api.test", method = ["DELETE", "PURGE"], path = "/v1/volumes/*" }]
[[label]]
name = "grpc"
requests = [{ host = "api.test", grpc = "a.b.Volumes/Delete*" }]
[[label]]
name = "mcp"
requests = [{ host = "api.test", mcp = "*delete*" }]
[[label]]
name = "aws"
requests = [{ aws = "ec2:Terminate*" }]
[[label]]
name = "kube"
requests = [{ kube = "deletecollection *" }]
[[label]]
name = "query"
requests = [{ host = "api.test", query = "purge=t*" }]
"#,
        Source::BuiltIn,
    )
    .unwrap();
    let of = |request: &str| labels(&policy, &read(&[request.as_bytes()])).join(" ");
    let with_body = |head: &str, body: &str| {
        of(&format!(
            "{head}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    };
    let host = "HTTP/1.1\r\nHost: api.test\r\n";
    for (request, expected) in [
        (format!("DELETE /v1/volumes/1 {host}\r\n"), "method"),
        (format!("delete /v1/x/../volumes/%31?y {host}\r\n"), "method"),
        (format!("DELETE /v1/volumes/a%2Fb {host}\r\n"), "method"),
        (format!("GET /v1/volumes/1 {host}\r\n"), ""),
        (format!("POST /v1/volumes/1?_method=delete {host}\r\n"), "method"),
        (format!("POST /v1/volumes/1 {host}X-HTTP-Method-Override: DELETE\r\n\r\n"), "method"),
        (format!("GET /?purge=true {host}\r\n"), "query"),
        (format!("GET /?purge=false {host}\r\n"), ""),
        (format!("POST /a.b.Volumes/DeleteAll {host}\r\n"), "grpc"),
        (format!("POST /a.b.Volumes/ListAll {host}\r\n"), ""),
        (format!("DELETE /api/v1/namespaces/x/pods {host}\r\n"), "kube"),
        (format!("DELETE /api/v1/namespaces/x/pods/y {host}\r\n"), ""),
        ("GET /?Action=TerminateInstances&Version=1 HTTP/1.1\r\nHost: ec2.eu-west-1.amazonaws.com\r\n\r\n".into(), "aws"),
        ("GET /?Action=TerminateInstances HTTP/1.1\r\nHost: rds.eu-west-1.amazonaws.com\r\n\r\n".into(), ""),
        (
            "GET /?Action=TerminateInstances HTTP/1.1\r\nHost: proxy.test\r\nAuthorization: AWS4-HMAC-SHA256 Credential=made-up/20260101/us-east-1/ec2/aws4_request, SignedHeaders=host, Signature=made-up\r\n\r\n".into(),
            "aws",
        ),
    ] {
        assert_eq!(of(&request), expected, "{request}");
    }
    let tool = |name: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{name}","arguments":{{"id":"v-1"}}}}}}"#
        )
    };
    let mcp =
        format!("POST /mcp {host}Content-Type: application/json\r\nAccept: text/event-stream\r\n");
    assert_eq!(with_body(&mcp, &tool("delete_volume")), "mcp");
    assert_eq!(with_body(&mcp, &tool("undelete_volume")), "");
    assert_eq!(
        with_body(
            &mcp,
            &format!("[{},{}]", tool("list"), tool("volume-delete"))
        ),
        "mcp"
    );
    assert_eq!(
        with_body(&mcp, r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#),
        ""
    );
    let form =
        format!("POST /v1/volumes/1 {host}Content-Type: application/x-www-form-urlencoded\r\n");
    assert_eq!(with_body(&form, "_method=PURGE"), "method");
    let target = "POST / HTTP/1.1\r\nHost: ec2.eu-west-1.amazonaws.com\r\nX-Amz-Target: EC2.TerminateInstances\r\n";
    assert_eq!(with_body(target, "{}"), "aws");
}

#[test]
fn an_event_tells_what_an_operation_is_about() {
    for (bytes, expected) in [
        (
            json(
                r#"{"query":"mutation($id: String!) { volumeDelete(volumeId: $id) }","variables":{"id":"vol-1"}}"#,
            ),
            "volumeId=vol-1",
        ),
        (
            json(&query(
                "mutation { volumeDelete(input: {volumeId: \"vol-2\", token: \"x\"}) }",
            )),
            "volumeId=vol-2",
        ),
        (post("", br#"{"instance":{"id":7},"api_key":"x"}"#), "id=7"),
    ] {
        let requests = read(&[&bytes]);
        assert_eq!(requests[0].objects, [expected]);
    }
}

#[test]
fn what_cannot_be_read_is_no_reason_to_stop_whoever_speaks_to_somebody_else() {
    let policy = Policy::built_in();
    let bulk = b"{\"index\":{}}\n{\"a\":1}\n";
    let head = |host: &str, path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            bulk.len()
        )
    };
    let of = |host: &str, path: &str| {
        let bytes = [head(host, path).as_bytes(), bulk].concat();
        let requests = read(&[&bytes]);
        assert!(requests[0].unread.is_some());
        labels(&policy, &requests)
    };
    // A search engine's bulk on this machine, and somebody's service.
    assert_eq!(of("localhost:9200", "/_bulk"), [""; 0]);
    assert_eq!(of("search.example.test", "/_bulk"), [""; 0]);
    // What a server that is asked about may make of it is another matter.
    assert_eq!(of("localhost:3000", "/mcp"), [LABEL]);
    assert_eq!(of("backboard.railway.com", "/graphql/v2"), [LABEL]);
    // A head that nobody can read, to a service without a name.
    let requests = read(&[b"GET\t/x HTTP/1.1\r\nHost: a\r\n\r\n"]);
    assert!(requests[0].unread.is_some());
    let others = ["10.1.2.3".to_owned()];
    let found: Vec<_> = requests
        .iter()
        .flat_map(|request| policy.of_request(request, &others))
        .collect();
    assert_eq!(found, []);
    let others = ["backboard.railway.com".to_owned()];
    let found: Vec<_> = requests
        .iter()
        .flat_map(|request| policy.of_request(request, &others))
        .collect();
    assert!(!found.is_empty());
}
