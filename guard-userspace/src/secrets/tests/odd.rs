//! Bytes that nobody would write, and requests.

use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use proptest::prelude::*;

use super::{BASE62, HEX, SCANNER, kinds, random, scan};

#[test]
fn no_text_makes_a_search_long() {
    let length = 512 << 10;
    let texts = [
        "a",
        "token=",
        "token=\"",
        "key: ",
        "-----BEGIN PRIVATE KEY-----",
        "-----BEGIN ",
        "://a:b1",
        "eyJ",
        "eyJhbGciOiJ.",
        "railway ",
        "railway token ",
        "sk-",
        "AKIA",
        "Bearer ",
        "\"auth\":\"",
        "machine a login b password ",
        "PuTTY-User-Key-File-",
        "LS0tLS1CRUdJTi",
        "pat.",
        "github_pat_",
        "password",
        "?sig=",
        "fm2_a/",
        "v1.0-",
        "aws_secret ",
        "'token','",
        "<token>",
        "\\\"key\\\":",
        "prod:a|",
    ];
    for text in texts {
        let long = text.repeat(length / text.len());
        let begin = Instant::now();
        scan("a.txt", &long);
        scan("a.js", &long.as_bytes()[..length / 4]);
        let took = begin.elapsed();
        // Without optimisation, on a machine that does other things too. What is not linear takes hours.
        assert!(took < Duration::from_secs(60), "{text}: {took:?}");
    }
}

#[test]
fn utf_16_is_read_and_places_are_those_of_the_file() {
    let value = format!("glpat-{}", random(BASE62, 20, 31));
    let text = format!("é😀\nkey: {value}\n");
    for order in [u16::to_le_bytes, u16::to_be_bytes] {
        let mut bytes: Vec<u8> = order(0xfeff).to_vec();
        bytes.extend(text.encode_utf16().flat_map(order));
        let found = scan("a.txt", &bytes);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].line, found[0].column), (2, 6));
        let part: Vec<u16> = bytes[found[0].start as usize..found[0].end as usize]
            .chunks_exact(2)
            .map(|pair| {
                if bytes[0] == 0xff {
                    u16::from_le_bytes([pair[0], pair[1]])
                } else {
                    u16::from_be_bytes([pair[0], pair[1]])
                }
            })
            .collect();
        assert_eq!(String::from_utf16(&part).unwrap(), value);
        assert_eq!(found[0].hash, SCANNER.keyed().hash(value.as_bytes()));
    }
}

#[test]
fn an_environment_is_read_between_its_zeros() {
    let value = random(HEX, 40, 33);
    let found = scan(
        "/proc/1/environ",
        format!("HOME=/root\0DD_APP_KEY={value}\0LANG=C\0"),
    );
    assert_eq!(found.len(), 1);
    assert_eq!(&*found[0].provider, "datadog");
    assert_eq!(found[0].hash, SCANNER.keyed().hash(value.as_bytes()));
}

#[test]
fn what_is_no_utf_8_is_searched_all_the_same() {
    let value = format!("glpat-{}", random(BASE62, 20, 35));
    let bytes = [b"\xff\xe9 \x80", value.as_bytes(), b"\xfe\n"].concat();
    assert_eq!(kinds("a.txt", bytes).len(), 1);
}

#[test]
fn there_is_an_end_to_what_is_told_of_one_file() {
    let text: String = (0..1500)
        .map(|n| format!("glpat-{}\n", random(BASE62, 20, 1000 + n)))
        .collect();
    let mut found = 0;
    let more = SCANNER.scan_bytes("a.txt".as_ref(), text.as_bytes(), &mut |_| found += 1);
    assert_eq!(found, super::super::MAX_FOUND);
    // One in some thousands has a word in it by chance that makes it a placeholder.
    assert!((490..=500).contains(&more), "{more}");
}

#[test]
fn a_known_value_is_found_in_every_place_of_a_request() {
    let secret = random("abcdefXYZ0123456789+/", 40, 41);
    let token = random(BASE62, 30, 43);
    let password = "pw9!short";
    let basic = STANDARD.encode(format!("user:{password}"));
    let escaped: String = secret.replace('+', "%2B").replace('/', "%2f");
    for (text, value) in [
        (
            format!("GET / HTTP/1.1\r\nAuthorization: Bearer {token}\r\n\r\n"),
            token.as_str(),
        ),
        (format!("authorization: token {token}\r\n"), &token),
        (format!("X-Api-Key: {token}\r\n"), &token),
        (format!("Authorization: Basic {basic}\r\n"), password),
        (
            format!("GET /a?x=1&key={escaped}&y=2 HTTP/1.1\r\n"),
            &secret,
        ),
        (format!("a=1&secret={escaped}"), &secret),
        (
            format!(
                "{{\"input\":{{\"token\":\"{}\"}}}}",
                secret.replace('/', "\\/")
            ),
            &secret,
        ),
        (format!("{{\"q\":\"curl -H 'key: {token}'\"}}"), &token),
        (format!("Cookie: a=b; session={token}; c=d\r\n"), &token),
    ] {
        let wanted = SCANNER.keyed().hash(value.as_bytes());
        let hashes: Vec<_> = SCANNER
            .tokens_in(text.as_bytes())
            .map(|piece| SCANNER.keyed().hash(piece.value()))
            .collect();
        assert!(hashes.contains(&wanted), "{text}");
        assert!(hashes.len() < 30);
        let told = format!(
            "{:?}",
            SCANNER.tokens_in(text.as_bytes()).collect::<Vec<_>>()
        );
        assert!(!told.contains(&value[..8]), "{told}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_searched_and_what_is_found_lies_within(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        for found in scan("a.txt", &bytes) {
            prop_assert!(found.start < found.end && found.end <= bytes.len() as u64);
        }
        let pieces: Vec<_> = SCANNER.tokens_in(&bytes).collect();
        prop_assert!(pieces.iter().all(|piece| piece.range.end <= bytes.len()));
    }

    #[test]
    fn text_of_telling_words_is_searched_in_order(words in proptest::collection::vec("(token|key|railway|://|-----BEGIN |PRIVATE KEY-----|\"|=|: |\n|sk-|eyJ|[a-f0-9]{8,40}|[A-Za-z0-9]{20,40}|@|\\\\)", 0..60)) {
        let text = words.concat();
        let found = scan("a.txt", &text);
        prop_assert!(found.windows(2).all(|pair| pair[0].end <= pair[1].start));
    }
}
