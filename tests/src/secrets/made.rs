//! Values in the providers' forms, put together from parts.

use super::chance::Chance;

const UPPER: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const LOWER: &str = "abcdefghijklmnopqrstuvwxyz";
const DIGITS: &str = "0123456789";

fn alphabet(letter: char) -> Vec<u8> {
    let text = match letter {
        'A' => format!("{UPPER}{LOWER}{DIGITS}"),
        'a' => format!("{LOWER}{DIGITS}"),
        'U' => format!("{UPPER}{DIGITS}"),
        'r' => format!("{UPPER}234567"),
        'k' => format!("{LOWER}234567"),
        'l' => format!("{UPPER}{LOWER}"),
        'd' => DIGITS.into(),
        'h' => format!("{DIGITS}abcdef"),
        'H' => format!("{DIGITS}ABCDEF"),
        'w' => format!("{UPPER}{LOWER}{DIGITS}-_"),
        's' => format!("{UPPER}{LOWER}{DIGITS}+/"),
        _ => panic!("no alphabet {letter}"),
    };
    text.into_bytes()
}

/// What a recipe makes: words with blanks between. `'text` stands for itself, a letter and a number for so many characters of an
/// alphabet, `sp` for a blank, `uuid`, `crc`, `jwt`, `role`, `age` for what they are called.
pub fn value(recipe: &str, chance: &mut Chance) -> String {
    let mut made = String::new();
    for part in recipe.split(' ') {
        if let Some(text) = part.strip_prefix('\'') {
            made.push_str(text);
            continue;
        }
        match part {
            "sp" => made.push(' '),
            "uuid" => made.push_str(&uuid(chance)),
            "crc" => {
                let sum = checksum(&made[made.len() - 30..]);
                made.push_str(&sum);
            }
            "jwt" => made.push_str(&jwt("user", chance)),
            "role" => made.push_str(&jwt("service_role", chance)),
            "anon" => made.push_str(&jwt("anon", chance)),
            "age" => made.push_str(&age(chance)),
            "json" => {
                let id = chance.text(&alphabet('A'), 40);
                made.push_str(&base64(
                    format!(r#"{{"k":"{id}","n":"ci","id":{}}}"#, chance.below(90) + 1).as_bytes(),
                    false,
                ));
            }
            _ => {
                let (letter, count) = part.split_at(1);
                let letter = letter.chars().next().expect("a part is not empty");
                let count = count.parse().expect("a part ends with a number");
                // At random no digit may come; forms of real tokens have one.
                let text = chance.text(&alphabet(letter), count);
                made.push_str(&text);
            }
        }
    }
    made
}

/// A random UUID (RFC 9562, version 4).
pub fn uuid(chance: &mut Chance) -> String {
    let hex = chance.text(&alphabet('h'), 30);
    let variant = chance.one(&["8", "9", "a", "b"]);
    format!(
        "{}-{}-4{}-{variant}{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..15],
        &hex[15..18],
        &hex[18..30]
    )
}

/// CRC-32 (ISO-HDLC) in base 62, six digits.
fn checksum(text: &str) -> String {
    let mut crc = u32::MAX;
    for byte in text.bytes() {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0xedb8_8320
            } else {
                crc >> 1
            };
        }
    }
    let digits: Vec<char> = format!("{DIGITS}{UPPER}{LOWER}").chars().collect();
    let mut left = !crc as usize;
    let mut sum: Vec<char> = (0..6)
        .map(|_| {
            let digit = digits[left % 62];
            left /= 62;
            digit
        })
        .collect();
    sum.reverse();
    sum.into_iter().collect()
}

/// Base64 (RFC 4648), padded, or of the other alphabet without padding.
pub fn base64(bytes: &[u8], url_safe: bool) -> String {
    let mut digits = alphabet('s');
    if url_safe {
        digits[62..].copy_from_slice(b"-_");
    }
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let number = chunk
            .iter()
            .fold(0u32, |number, byte| number << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..4 {
            if place <= chunk.len() {
                text.push(char::from(
                    digits[(number >> (18 - 6 * place)) as usize & 63],
                ));
            } else if !url_safe {
                text.push('=');
            }
        }
    }
    text
}

/// A JSON Web Token that nobody has signed.
pub fn jwt(role: &str, chance: &mut Chance) -> String {
    let header = base64(br#"{"alg":"HS256","typ":"JWT"}"#, true);
    let subject = uuid(chance);
    let payload = format!(
        r#"{{"iss":"supabase","sub":"{subject}","role":"{role}","iat":{}}}"#,
        1_700_000_000 + chance.below(90_000_000)
    );
    let signature = base64(&chance.bytes(32), true);
    format!("{header}.{}.{signature}", base64(payload.as_bytes(), true))
}

/// An age identity: 32 bytes in Bech32 (BIP 173), in capitals.
fn age(chance: &mut Chance) -> String {
    const CHARSET: &[u8] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
    const HRP: &str = "age-secret-key-";
    let bytes = chance.bytes(32);
    let (mut data, mut held, mut bits) = (Vec::new(), 0u32, 0);
    for byte in bytes {
        held = held << 8 | u32::from(byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            data.push((held >> bits & 31) as u8);
        }
    }
    if bits > 0 {
        data.push((held << (5 - bits) & 31) as u8);
    }
    let polymod = |values: &mut dyn Iterator<Item = u8>| {
        const STEPS: [u32; 5] = [
            0x3b6a_57b2,
            0x2650_8e6d,
            0x1ea1_19fa,
            0x3d42_33dd,
            0x2a14_62b3,
        ];
        values.fold(1u32, |sum, value| {
            let top = sum >> 25;
            let sum = (sum & 0x1ff_ffff) << 5 ^ u32::from(value);
            STEPS.iter().enumerate().fold(
                sum,
                |sum, (at, step)| if top >> at & 1 == 1 { sum ^ step } else { sum },
            )
        })
    };
    let expanded = HRP
        .bytes()
        .map(|byte| byte >> 5)
        .chain([0])
        .chain(HRP.bytes().map(|byte| byte & 31));
    let sum = polymod(&mut expanded.chain(data.iter().copied()).chain([0; 6])) ^ 1;
    data.extend((0..6).map(|at| (sum >> (5 * (5 - at)) & 31) as u8));
    let text: String = data
        .iter()
        .map(|value| char::from(CHARSET[usize::from(*value)]))
        .collect();
    format!("{HRP}1{text}").to_ascii_uppercase()
}

/// What stands between the lines of a PEM, 64 characters a line; `end` ends each.
pub fn pem(title: &str, bytes: &[u8], end: &str) -> String {
    let text = base64(bytes, false);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).expect("base64 is ASCII"))
        .collect();
    format!(
        "-----BEGIN {title}-----{end}{}{end}-----END {title}-----",
        lines.join(end)
    )
}
