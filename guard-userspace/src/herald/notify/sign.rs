//! Signatures of a webhook's messages, both ways: HMAC-SHA256 over the direction, the time and the body, in a header
//! `guard-signature: t=1764100000,v1=<64 hex digits>`. The direction is part of what is signed, so that nobody can send
//! guard's own message back to it; the time, so that an old one is not taken for a new one.

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use crate::herald::secret::Secret;

/// The header's name.
pub(super) const HEADER: &str = "guard-signature";
/// How far the two sides' clocks may be apart, seconds.
pub(super) const TOLERANCE_S: u64 = 300;

/// Who has signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// guard.
    Guard,
    /// The other side, answering.
    Other,
}

fn mac(key: &Secret, from: From, t: u64, body: &[u8]) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.bytes()).ok()?;
    let direction = match from {
        From::Guard => "guard.request",
        From::Other => "guard.answer",
    };
    mac.update(format!("{direction}.{t}.").as_bytes());
    mac.update(body);
    Some(mac)
}

/// The header's value.
pub(super) fn sign(key: &Secret, from: From, t: u64, body: &[u8]) -> String {
    // HMAC takes a key of any length.
    let digest = mac(key, from, t, body).map(|mac| mac.finalize().into_bytes());
    let hex: String = digest
        .iter()
        .flatten()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("t={t},v1={hex}")
}

/// Whether a header's value is this side's signature of the body, made within [`TOLERANCE_S`] of `now`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(
    key: &Secret,
    from: From,
    header: Option<&str>,
    now: u64,
    body: &[u8],
) -> Result<(), String> {
    let header = header.ok_or(format!("it has no header {HEADER}"))?;
    let member = |name: &str| {
        let mut members = header.split(',').map(str::trim);
        members.find_map(|member| member.strip_prefix(name)?.strip_prefix('='))
    };
    let malformed = || format!("its header {HEADER} is not t=SECONDS,v1=HEX");
    let t: u64 = member("t")
        .and_then(|t| t.parse().ok())
        .ok_or_else(malformed)?;
    let given = member("v1").and_then(bytes).ok_or_else(malformed)?;
    // First, so that nobody without the key learns anything about the clock. It compares in constant time.
    mac(key, from, t, body)
        .and_then(|mac| mac.verify_slice(&given).ok())
        .ok_or("its signature is wrong")?;
    if now.abs_diff(t) > TOLERANCE_S {
        return Err(format!(
            "it was signed {} s from now: more than {TOLERANCE_S} s",
            now.abs_diff(t)
        ));
    }
    Ok(())
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    (0..64)
        .step_by(2)
        .map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Secret {
        Secret::of_test(text)
    }

    #[test]
    fn a_signature_is_for_one_key_one_direction_one_time_and_one_body() {
        let key_a = key("a key of a test");
        let header = sign(&key_a, From::Other, 1000, b"{}");
        let check = |key: &Secret, from, header: &str, now, body: &[u8]| {
            check(key, from, Some(header), now, body)
        };
        assert_eq!(check(&key_a, From::Other, &header, 1000, b"{}"), Ok(()));
        assert_eq!(check(&key_a, From::Other, &header, 1300, b"{}"), Ok(()));
        assert!(check(&key_a, From::Other, &header, 1301, b"{}").is_err());
        assert!(check(&key_a, From::Guard, &header, 1000, b"{}").is_err());
        assert!(check(&key("another"), From::Other, &header, 1000, b"{}").is_err());
        assert!(check(&key_a, From::Other, &header, 1000, b"{ }").is_err());
        let later = header.replace("t=1000", "t=1001");
        assert!(check(&key_a, From::Other, &later, 1000, b"{}").is_err());
    }

    #[test]
    fn what_is_no_signature_is_none() {
        let key = key("a key of a test");
        assert!(check(&key, From::Other, None, 0, b"").is_err());
        let long = format!("t=1,v1={}", "0".repeat(64));
        for header in [
            "",
            "t=1",
            "v1=00",
            "t=x,v1=00",
            "t=1,v1=zz",
            "t=1,v1=é",
            &long,
        ] {
            assert!(
                check(&key, From::Other, Some(header), 1, b"").is_err(),
                "{header}"
            );
        }
    }

    #[test]
    fn it_is_the_hmac_that_others_compute() {
        // printf 'guard.request.1764100000.{"v":1}' | openssl dgst -sha256 -hmac 'a key of a test'
        let header = sign(
            &key("a key of a test"),
            From::Guard,
            1_764_100_000,
            br#"{"v":1}"#,
        );
        assert_eq!(
            header,
            "t=1764100000,v1=a230d3a5cfba7f43307ce5fb8f6cae5512a5667894f1876df6c9f1f3e6d0156a"
        );
    }
}
