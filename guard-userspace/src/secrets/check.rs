//! Tests of a value that no regular expression can do.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bech32::{Bech32, primitives::decode::CheckedHrpstring};
use serde::Deserialize;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// A named test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Check {
    /// The last six characters are the CRC-32 of the thirty before them, in base 62: GitHub's and npm's.
    /// <https://github.blog/engineering/platform-security/behind-githubs-new-authentication-token-formats/>
    #[serde(rename = "crc32-base62")]
    Crc32Base62,
    /// A JSON Web Token (RFC 7519) whose header and payload decode, and that is not one that its maker calls public.
    Jwt,
    /// Base64 of a JSON object.
    #[serde(rename = "base64-json")]
    Base64Json,
    /// The checksum of BIP 173.
    #[serde(rename = "bech32")]
    Bech32,
    /// A JSON Web Token that gives everything in a Supabase project.
    SupabaseServiceRole,
}

impl Check {
    pub(super) fn holds(self, value: &[u8]) -> bool {
        match self {
            Self::Crc32Base62 => crc32_base62(value),
            // Supabase's key for browsers is public: supabase.com/docs/guides/api/api-keys
            Self::Jwt => jwt(value).is_some_and(|payload| role(&payload) != Some("anon")),
            Self::SupabaseServiceRole => {
                jwt(value).is_some_and(|payload| role(&payload) == Some("service_role"))
            }
            Self::Base64Json => decode(value)
                .is_some_and(|json| serde_json::from_slice::<Map<String, Value>>(&json).is_ok()),
            Self::Bech32 => std::str::from_utf8(value)
                .is_ok_and(|text| CheckedHrpstring::new::<Bech32>(text).is_ok()),
        }
    }
}

/// Base64 of either alphabet, padded or not.
pub(super) fn decode(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let engine = if text.iter().any(|byte| matches!(byte, b'-' | b'_')) {
        &URL_SAFE
    } else {
        &STANDARD
    };
    engine.decode(text).ok().map(Zeroizing::new)
}

fn crc32_base62(value: &[u8]) -> bool {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let Some((body, sum)) = value
        .len()
        .checked_sub(6)
        .map(|at| value.split_at(at))
        .filter(|(body, _)| body.len() >= 30)
    else {
        return false;
    };
    let mut left = crc32fast::hash(&body[body.len() - 30..]) as usize;
    let mut right = [b'0'; 6];
    for digit in right.iter_mut().rev() {
        *digit = DIGITS[left % 62];
        left /= 62;
    }
    sum == right
}

fn jwt(value: &[u8]) -> Option<Map<String, Value>> {
    let mut parts = value.split(|byte| *byte == b'.');
    let header: Map<String, Value> = serde_json::from_slice(&decode(parts.next()?)?).ok()?;
    let payload = serde_json::from_slice(&decode(parts.next()?)?).ok()?;
    (header.contains_key("alg") && parts.next().is_some_and(|part| part.len() >= 20))
        .then_some(payload)
}

fn role(payload: &Map<String, Value>) -> Option<&str> {
    payload.get("role")?.as_str()
}
