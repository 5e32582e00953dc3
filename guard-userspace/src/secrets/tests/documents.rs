//! What is known by what is around it, and docs/secrets.md.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{BASE62, SCANNER, kinds, random, scan};

fn armour(title: &str, bytes: &[u8], end: &str) -> String {
    let text = STANDARD.encode(bytes);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN {title}-----{end}{}{end}-----END {title}-----",
        lines.join(end)
    )
}

fn noise(seed: u64) -> Vec<u8> {
    random(BASE62, 300, seed)
        .bytes()
        .map(|byte| byte.wrapping_mul(167))
        .collect()
}

#[test]
fn private_keys_of_all_sorts_are_known_and_encrypted_ones_told_as_such() {
    let mut plain = b"openssh-key-v1\0\0\0\0\x04none".to_vec();
    plain.extend(noise(1));
    let mut locked = b"openssh-key-v1\0\0\0\0\x0aaes256-ctr".to_vec();
    locked.extend(noise(2));
    let dek = format!(
        "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,{}\n\n",
        random("0123456789ABCDEF", 32, 3)
    );
    let legacy =
        armour("RSA PRIVATE KEY", &noise(3), "\n").replacen("-----\n", &format!("-----\n{dek}"), 1);
    for (text, kind, encrypted) in [
        (armour("RSA PRIVATE KEY", &noise(4), "\n"), "pem", false),
        (armour("EC PRIVATE KEY", &noise(4), "\r\n"), "pem", false),
        (armour("PRIVATE KEY", &noise(5), "\\n"), "pem", false),
        (
            armour("ENCRYPTED PRIVATE KEY", &noise(6), "\n"),
            "encrypted",
            true,
        ),
        (legacy, "encrypted", true),
        (
            armour("OPENSSH PRIVATE KEY", &plain, "\n"),
            "openssh",
            false,
        ),
        (
            armour("OPENSSH PRIVATE KEY", &locked, "\n"),
            "encrypted",
            true,
        ),
        (
            armour("PGP PRIVATE KEY BLOCK", &noise(7), "\n"),
            "pgp",
            false,
        ),
    ] {
        let found = scan("id", &text);
        assert_eq!(found.len(), 1, "{kind}");
        assert_eq!((&*found[0].kind, found[0].encrypted), (kind, encrypted));
        assert_eq!(found[0].start, 0);
        assert_eq!(found[0].end, text.len() as u64, "{kind}");
    }
    for text in [
        armour("CERTIFICATE", &noise(4), "\n"),
        armour("PUBLIC KEY", &noise(4), "\n"),
        "-----BEGIN RSA PRIVATE KEY-----\n...\n-----END RSA PRIVATE KEY-----".into(),
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----", "x".repeat(200)),
        "if text.startswith('-----BEGIN RSA PRIVATE KEY-----') and not text.endswith('-----END RSA PRIVATE KEY-----'):".into(),
    ] {
        assert_eq!(kinds("id", &text), [""; 0], "{text}");
    }
}

#[test]
fn a_key_is_the_same_in_every_wrapping() {
    let bytes = noise(8);
    let lines = armour("PRIVATE KEY", &bytes, "\n");
    let one_line = armour("PRIVATE KEY", &bytes, "\\n");
    let json =
        format!("{{\n \"type\": \"service_account\",\n \"private_key\": \"{one_line}\\n\"\n}}");
    let config = format!("    client-key-data: {}\n", STANDARD.encode(&lines));
    let found = [
        scan("a.pem", &lines),
        scan("sa.json", &json),
        scan(".kube/config", &config),
    ];
    let told: Vec<String> = found
        .iter()
        .flatten()
        .map(|one| format!("{}/{}", one.provider, one.kind))
        .collect();
    assert_eq!(
        told,
        [
            "private-key/pem",
            "gcp/service-account-key",
            "private-key/base64"
        ]
    );
    assert!(
        found
            .iter()
            .flatten()
            .all(|one| one.hash == found[0][0].hash)
    );
}

#[test]
fn putty_s_keys_are_known() {
    let lines = STANDARD.encode(noise(9));
    let key = |cipher: &str| {
        format!(
            "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: {cipher}\nComment: k\nPublic-Lines: 1\nAAAA\nPrivate-Lines: 1\n{lines}\nPrivate-MAC: 00\n"
        )
    };
    assert_eq!(kinds("k.ppk", key("none")), ["private-key/putty"]);
    assert_eq!(kinds("k.ppk", key("aes256-cbc")), ["private-key/encrypted"]);
}

#[test]
fn passwords_in_addresses_and_files_made_for_them_are_known() {
    let word = random(BASE62, 16, 21) + "7";
    let pair = STANDARD.encode(format!("ci:{word}"));
    for (path, text, kind) in [
        (
            "a",
            format!("postgresql://app:{word}@db:5432/x"),
            "postgres/connection-string",
        ),
        (
            "a",
            format!("mysql+pymysql://app:{word}@db/x"),
            "mysql/connection-string",
        ),
        (
            "a",
            format!("mongodb+srv://app:{word}@c0.mongodb.net"),
            "mongodb/connection-string",
        ),
        (
            "a",
            format!("rediss://:{word}@cache:6380/0"),
            "redis/connection-string",
        ),
        (
            "a",
            format!("amqps://app:{word}@mq/v"),
            "amqp/connection-string",
        ),
        (
            "a",
            format!("jdbc:postgresql://db/x?user=app&password={word}"),
            "postgres/connection-string",
        ),
        (
            "a.cs",
            format!("\"Server=db;Database=x;User Id=sa;Password={word};Encrypt=true\""),
            "mssql/connection-string",
        ),
        (
            "a",
            format!("sftp://app:{word}@files/in"),
            "ftp/connection-string",
        ),
        (
            "a",
            format!("smtps://app:{word}@mail:465"),
            "smtp/connection-string",
        ),
        (
            "a",
            format!("https://ci:{word}@git.acme.io/a.git"),
            "url/password",
        ),
        (
            ".netrc",
            format!("machine git.acme.io login ci password {word}\n"),
            "netrc/password",
        ),
        (
            ".pgpass",
            format!("db:5432:x:app:{word}\n"),
            "postgres/pgpass",
        ),
        (
            ".npmrc",
            format!("//npm.acme.io/:_auth={pair}\n"),
            "npm/registry-auth",
        ),
        (
            ".docker/config.json",
            format!("{{\"auths\":{{\"r.acme.io\":{{\"auth\":\"{pair}\"}}}}}}"),
            "docker/registry-auth",
        ),
        (
            "a.sh",
            format!("curl -H 'Authorization: Basic {pair}' https://acme.io"),
            "authorization/basic",
        ),
        (
            "a.sh",
            format!("curl -H 'Authorization: Bearer {word}{word}' https://acme.io"),
            "authorization/bearer",
        ),
    ] {
        assert_eq!(kinds(path, &text), [kind], "{text}");
    }
    for text in [
        "redis://cache:6379/0",
        "https://acme.io/a@b:c",
        "git@github.com:acme/app.git",
        "http://localhost:8080@home/",
        "postgres://${USER}:${PASS}@db/x",
        "postgres://user:pass@host/db",
        "machine example.com login me password mine1234",
    ] {
        assert_eq!(kinds("a", text), [""; 0], "{text}");
    }
}

#[test]
fn the_page_lists_every_kind() {
    const BEGIN: &str = "<!-- kinds: written from policy/secrets.toml by this page's test -->\n";
    const END: &str = "<!-- end of kinds -->\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/secrets.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let mut rows: Vec<String> = SCANNER
        .kinds()
        .iter()
        .map(|kind| {
            format!(
                "| {} | {} | {} |\n",
                kind.provider,
                kind.name,
                kind.known_by.replace('|', "\\|")
            )
        })
        .collect();
    rows.sort();
    let forms = SCANNER
        .kinds()
        .iter()
        .filter(|kind| kind.form.is_some())
        .count();
    let table = format!(
        "{forms} kinds of tokens of providers and {} others.\n\n| provider | kind | known by |\n| --- | --- | --- |\n{}",
        rows.len() - forms,
        rows.concat()
    );
    let wanted = format!("{before}{BEGIN}{table}{END}{after}");
    if std::env::var_os("GUARD_WRITE_DOCS").is_some() {
        std::fs::write(path, &wanted).unwrap();
    }
    assert!(
        std::fs::read_to_string(path).unwrap() == wanted,
        "docs/secrets.md is not what policy/secrets.toml says: GUARD_WRITE_DOCS=1 writes it"
    );
}
