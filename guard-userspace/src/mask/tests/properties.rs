//! What holds for every input.

use proptest::prelude::*;

use super::*;

/// Text made of what the scanner looks for, so that its branches meet.
fn shards() -> impl Strategy<Value = String> {
    let shard = prop::sample::select(vec![
        "--token",
        "password",
        "TOKEN",
        "key",
        "Authorization",
        "Cookie",
        "Bearer",
        "curl",
        "-u",
        "-p",
        "mysql",
        "docker",
        "login",
        "-c",
        "ssh",
        "=",
        ":",
        ": ",
        " = ",
        " ",
        " ",
        "\n",
        "\"",
        "'",
        "\\\"",
        "\\",
        "$",
        "${",
        "$(",
        ")",
        "}",
        "{",
        "?",
        "&",
        ";",
        "|",
        "@",
        "://",
        "/",
        ",",
        "***",
        "*",
        "abc",
        "A1b2",
        "é",
        "--",
        "-",
        "[",
        "]",
        "user:pass",
        UUID,
        RANDOM,
        GITHUB,
        JWT,
        concat!("-----BEGIN ", "PRIVATE KEY-----"),
        "-----END ",
        "%3D",
        "==",
        ":=",
        "id=",
    ]);
    prop::collection::vec(shard, 0..16).prop_map(|shards| shards.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn masking_twice_changes_nothing(words in prop::collection::vec(shards(), 0..5)) {
        let once = mask_argv(&words);
        prop_assert_eq!(mask_argv(&once), once.clone());
        prop_assert_eq!(once.len(), words.len());
        let text = words.join(" ");
        let once = mask_text(&text).into_owned();
        prop_assert_eq!(mask_text(&once), once.clone());
    }

    #[test]
    fn no_bytes_make_it_panic(argv in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..5)) {
        let once = mask_argv(&argv);
        prop_assert_eq!(mask_argv(&once), once);
    }

    /// A password without blanks and quotes, in every place and with anything around it in argv. It
    /// does not begin like a flag or like docker's `id=`, which are told from values by that.
    #[test]
    fn a_planted_secret_never_survives(
        secret in "[A-Za-hj-z0-9!#%^*()_+=@/;,.<>?{}|~&][A-Za-z0-9!#%^*()_+=@/;,.<>?{}|~&-]{6,24}Zq7",
        word in "[A-Za-z0-9]{6,24}Zq7",
        place in 0usize..16,
        before in prop::collection::vec("[a-z./]{1,8}", 0..3),
        after in prop::collection::vec("[a-z./-]{1,8}", 0..3),
    ) {
        let planted: (Vec<String>, &str) = match place {
            0 => (vec![format!("--token={secret}")], &secret),
            1 => (vec!["--password".into(), secret.clone()], &secret),
            2 => (vec!["-H".into(), format!("Authorization: Bearer {secret}")], &secret),
            3 => (vec!["-H".into(), format!("X-Api-Key: {secret}")], &secret),
            4 => (vec!["curl".into(), "-u".into(), format!("me:{secret}")], &secret),
            5 => (vec![format!("https://me:{word}@host/path")], &word),
            6 => (vec![format!("https://host/path?x=1&api_key={word}&y=2")], &word),
            7 => (vec!["env".into(), format!("DB_PASSWORD={secret}")], &secret),
            8 => (vec!["-d".into(), format!("{{\"user\":\"me\",\"token\":\"{secret}\"}}")], &secret),
            9 => (vec!["-c".into(), format!("cd x && API_TOKEN={word} run | y")], &word),
            10 => (vec!["-c".into(), format!("export API_TOKEN='{secret}'; run")], &secret),
            11 => (vec!["-c".into(), format!("curl -H \"Authorization: Bearer {secret}\" x")], &secret),
            12 => (vec!["-c".into(), format!("x --password '{secret}' y")], &secret),
            13 => (vec!["-c".into(), format!("curl -d \"{{\\\"password\\\":\\\"{secret}\\\"}}\" x")], &secret),
            14 => (vec!["-c".into(), format!("curl -su 'me:{secret}' x")], &secret),
            _ => (vec![format!("a{GITHUB}{word}")], GITHUB),
        };
        let argv: Vec<String> = before.into_iter().chain(planted.0).chain(after).collect();
        let masked = mask_argv(&argv);
        prop_assert!(!masked.concat().contains(planted.1), "{:?} -> {:?}", argv, masked);
        // Nor does its end.
        prop_assert!(!masked.concat().contains(&planted.1[planted.1.len() - 5..]), "{:?} -> {:?}", argv, masked);
    }
}
