//! The scanner on made-up text. Every value is put together here: none stands in the source. What each kind looks like is
//! tested with the real program, see `tests/tests/secrets.rs`.

mod documents;
mod files;
mod odd;

use std::{path::Path, sync::LazyLock};

use super::{Found, Keyed, Scanner};
use crate::mask;

#[test]
fn every_form_of_the_built_in_table_is_a_regular_expression() {
    Scanner::new(super::table::BUILT_IN, Keyed::random().unwrap()).unwrap();
}

static SCANNER: LazyLock<Scanner> =
    LazyLock::new(|| Scanner::built_in(Keyed::random().unwrap()).unwrap());

/// Pseudo-random text of an alphabet; the same for the same seed.
fn random(alphabet: &str, length: usize, seed: u64) -> String {
    let letters: Vec<char> = alphabet.chars().collect();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            letters[(state >> 33) as usize % letters.len()]
        })
        .collect()
}

const BASE62: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
const HEX: &str = "0123456789abcdef";

fn uuid(seed: u64) -> String {
    let hex = random(HEX, 32, seed);
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

fn scan(path: &str, text: impl AsRef<[u8]>) -> Vec<Found> {
    let mut found = Vec::new();
    SCANNER.scan_bytes(Path::new(path), text.as_ref(), &mut |one| found.push(one));
    found
}

fn kinds(path: &str, text: impl AsRef<[u8]>) -> Vec<String> {
    scan(path, text)
        .into_iter()
        .map(|found| format!("{}/{}", found.provider, found.kind))
        .collect()
}

#[test]
fn a_find_says_where_it_is_and_nothing_of_the_value_but_what_all_of_its_kind_share() {
    let value = format!("glpat-{}", random(BASE62, 20, 5));
    let text = format!("first\nsecond é {value} third\n");
    let found = scan("notes.txt", &text);
    assert_eq!(found.len(), 1);
    let one = &found[0];
    assert_eq!(
        (&*one.provider, &*one.kind),
        ("gitlab", "personal-access-token")
    );
    assert_eq!((one.line, one.column), (2, 10));
    assert_eq!(
        &text.as_bytes()[one.start as usize..one.end as usize],
        value.as_bytes()
    );
    assert_eq!(one.preview, "glpat-…");
    assert_eq!(one.hash, SCANNER.keyed().hash(value.as_bytes()));
    let told = format!(
        "{one:?} {} {SCANNER:?}",
        serde_json::to_string(one).unwrap()
    );
    assert!(!told.contains(&value[6..12]), "{told}");
}

#[test]
fn a_uuid_is_a_secret_only_where_words_say_so() {
    let id = uuid(7);
    assert_eq!(
        kinds("notes.txt", format!("the railway token is {id}\n")),
        ["railway/api-token"]
    );
    assert_eq!(
        kinds(".env", format!("# Railway\nAPI_TOKEN={id}\n")),
        ["railway/api-token"]
    );
    assert_eq!(
        kinds(
            "home/.railway/config.json",
            format!("{{\"user\":{{\"token\":\"{id}\"}}}}")
        ),
        ["railway/api-token"]
    );
    assert_eq!(kinds(".env", format!("RAILWAY_PROJECT_ID={id}\n")), [""; 0]);
    assert_eq!(
        kinds("notes.txt", format!("railway project {id} has no token\n")),
        [""; 0]
    );
    assert_eq!(kinds("a.log", format!("request {id}\n")), [""; 0]);
}

#[test]
fn what_stands_for_a_secret_is_none() {
    let x = "x".repeat(36);
    let key = random(BASE62, 99, 3);
    let cases = [
        format!("GITHUB_TOKEN=ghp_{x}"),
        ["AWS_ACCESS_KEY_ID=AKIA", "IOSFODNN7EXAMPLE"].concat(),
        [
            "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/",
            "bPxRfiCYEXAMPLEKEY",
        ]
        .concat(),
        ["stripe.api_key = \"sk_test_", "4eC39HqLyjWDarjtT1zdp7dc\""].concat(),
        "API_KEY=your-api-key-here".into(),
        "PASSWORD=changeme".into(),
        "TOKEN=${CI_TOKEN}".into(),
        "token: {{ secrets.TOKEN }}".into(),
        "password: <your password here 1>".into(),
        "secret = op://Infra/db9/password".into(),
        "SECRET_KEY=abcdefghijklmnopqrstuvwxyz0123456789".into(),
        "api_key = config.get_key_v2(\"name\")".into(),
        format!("publishable_key = pk_live_{key}"),
        format!("integrity: sha512-{key}=="),
        "postgres://postgres:postgres@localhost/app".into(),
        "https://user:password@example.com/".into(),
        format!("csrf_token = {}", random(BASE62, 32, 9)),
        format!("password: $2b$12${}", random(BASE62, 53, 4)),
        format!("commit {}", random(HEX, 40, 8)),
        "get_oauth2_token_v1_key: getOAuth2AccessTokenV1Key".into(),
    ];
    for case in cases {
        assert_eq!(kinds("conf/app.conf", &case), [""; 0], "{case}");
    }
}

#[test]
fn a_checksum_tells_a_token_from_what_looks_like_one() {
    // The kind's own page gives this pair of body and checksum.
    let value = ["ghp_zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ", "0mLq17"].concat();
    assert_eq!(kinds("a.txt", &value), ["github/personal-access-token"]);
    let wrong = ["ghp_zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ", "0mLq18"].concat();
    assert_eq!(kinds("a.txt", &wrong), [""; 0]);
}

#[test]
fn a_telling_name_makes_a_random_value_a_secret_in_every_language() {
    let value = random(BASE62, 40, 11);
    let cases = [
        ("a.env", format!("MASTER_TOKEN={value}")),
        ("a.sh", format!("export MASTER_TOKEN='{value}'")),
        ("a.yaml", format!("masterToken: {value}")),
        (
            "a.yaml",
            format!("- name: MASTER_TOKEN\n  value: \"{value}\""),
        ),
        ("a.json", format!("{{\"master_token\": \"{value}\"}}")),
        (
            "a.json",
            format!("{{\"name\": \"MASTER_TOKEN\", \"value\": \"{value}\"}}"),
        ),
        ("a.toml", format!("master-token = \"{value}\"")),
        ("a.ini", format!("master.token = {value}")),
        ("a.xml", format!("<masterToken>{value}</masterToken>")),
        (
            "a.config",
            format!("<add key=\"MasterToken\" value=\"{value}\" />"),
        ),
        ("a.py", format!("os.environ['MASTER_TOKEN'] = '{value}'")),
        ("a.py", format!("master_token: str = r\"{value}\"")),
        ("a.rs", format!("const MASTER_TOKEN: &str = \"{value}\";")),
        ("a.go", format!("masterToken := `{value}`")),
        ("a.rb", format!("'master_token' => '{value}'")),
        ("a.java", format!("client.apiToken(\"{value}\")")),
        ("a.c", format!("setenv(\"MASTER_TOKEN\", \"{value}\", 1);")),
        ("a.ipynb", format!("\"master_token = \\\"{value}\\\"\\n\"")),
        ("a.sh", format!("deploy --api-token {value} --now")),
        ("Dockerfile", format!("ENV MASTER_TOKEN {value}")),
        ("a.http", format!("GET /?access_token={value}&page=2")),
    ];
    for (path, text) in cases {
        assert_eq!(kinds(path, &text), ["generic/secret"], "{text}");
        assert_eq!(
            scan(path, &text)[0].hash,
            SCANNER.keyed().hash(value.as_bytes()),
            "{text}"
        );
    }
}

#[test]
fn code_that_computes_a_secret_has_none() {
    for (path, text) in [
        (
            "a.py",
            "api_token = load_token_from_v2store9(Path0, retry3)",
        ),
        ("a.rs", "let token = Token::from_v4_b64url_s3cr3t_k3y9z;"),
        ("a.js", "const password = req.body.p4ssw0rdField2x9z"),
        ("a.go", "Password: cfg.DBPassw0rd2x9zK3y"),
    ] {
        assert_eq!(kinds(path, text), [""; 0], "{text}");
    }
}

#[test]
fn hashes_in_lock_files_and_generated_code_count_only_by_their_own_form() {
    let value = random(BASE62, 40, 13);
    let token = format!("glpat-{}", random(BASE62, 20, 5));
    for path in ["package-lock.json", "app.min.js", "app.js.map", "go.sum"] {
        assert_eq!(
            kinds(path, format!("\"token\": \"{value}\"")),
            [""; 0],
            "{path}"
        );
        assert_eq!(
            kinds(path, format!("\"token\": \"{token}\"")).len(),
            1,
            "{path}"
        );
    }
    let long = format!(
        "{};api_token=\"{value}\";{}",
        "a=1;".repeat(400),
        "b=2;".repeat(400)
    );
    assert_eq!(kinds("bundle.js", &long), [""; 0]);
}

#[test]
fn every_prefix_that_masking_knows_is_a_literal_of_the_table() {
    // Masking is wider on purpose: it hides what may be a token, where this finds what is one. No provider may be
    // known to one of them alone.
    let literals: Vec<&String> = SCANNER
        .kinds()
        .iter()
        .filter_map(|kind| kind.form.as_ref())
        .flat_map(|form| &form.literals)
        .collect();
    for prefix in mask::prefixes() {
        assert!(
            literals
                .iter()
                .any(|literal| literal.starts_with(prefix) || prefix.starts_with(literal.as_str())),
            "{prefix}: masked but never found: add it to policy/secrets.toml"
        );
    }
}

#[test]
fn the_table_has_the_kinds_that_were_promised_and_none_twice() {
    let kinds = SCANNER.kinds();
    let tokens = kinds.iter().filter(|kind| kind.form.is_some()).count();
    assert!(tokens >= 130, "{tokens}");
    let mut names: Vec<String> = kinds
        .iter()
        .map(|kind| format!("{}/{}", kind.provider, kind.name))
        .collect();
    names.sort();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all);
}

#[test]
fn a_table_with_a_mistake_is_refused_with_its_kind() {
    let table = |kind: &str| {
        format!(
            "version = 1\npublic = []\ndocumented = []\nkinds = [{{ provider = \"p\", name = \"n\", {kind} }}]"
        )
    };
    for (kind, why) in [
        ("form = '['", "neither literals nor near"),
        ("form = '[', literals = [\"abc\"]", "p n"),
        ("form = 'a', literals = [\"a\"]", "less than two bytes"),
        ("form = 'a', literals = [\"ab\"], colour = 1", "colour"),
    ] {
        let error = Scanner::new(&table(kind), Keyed::random().unwrap())
            .unwrap_err()
            .to_string();
        assert!(error.contains(why), "{kind}: {error}");
    }
}
