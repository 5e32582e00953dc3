//! Lines as real files have them, with what looks like secrets and is none.

use super::{
    chance::Chance,
    made::{base64, jwt, uuid, value},
};

const NOUNS: &[&str] = &[
    "order",
    "invoice",
    "customer",
    "session",
    "account",
    "payment",
    "user",
    "cart",
    "report",
    "message",
    "queue",
    "cache",
    "index",
    "backup",
    "volume",
    "cluster",
    "region",
    "token",
    "password",
    "secret",
    "credential",
    "key",
    "config",
    "client",
    "request",
];
const VERBS: &[&str] = &[
    "get", "load", "update", "validate", "refresh", "parse", "render", "send", "fetch", "build",
    "create", "find",
];
const PROVIDERS: &[&str] = &[
    "railway",
    "heroku",
    "cloudflare",
    "datadog",
    "vercel",
    "netlify",
    "twilio",
    "hetzner",
    "linode",
    "upstash",
    "okta",
    "pagerduty",
    "snyk",
    "mistral",
    "cohere",
    "circleci",
    "mailgun",
    "zendesk",
    "fastly",
    "discord",
    "scaleway",
    "vault",
    "travis",
    "jira",
];

fn noun(chance: &mut Chance) -> &'static str {
    NOUNS[chance.below(NOUNS.len())]
}

fn title(word: &str) -> String {
    word[..1].to_uppercase() + &word[1..]
}

/// One line of code in the language that an extension names.
pub fn code(language: &str, chance: &mut Chance) -> String {
    let (a, b, verb) = (noun(chance), noun(chance), VERBS[chance.below(VERBS.len())]);
    let (big_a, big_b) = (title(a), title(b));
    let n = chance.below(900);
    match language {
        "py" | "ipynb" => match chance.below(8) {
            0 => format!("    {a} = {verb}_{b}({a}_id, retries={n})"),
            1 => format!("def {verb}_{a}(self, {b}: str) -> {big_a}:"),
            2 => format!(
                "    {a}_key = os.environ[\"{}_{}\"]",
                a.to_uppercase(),
                b.to_uppercase()
            ),
            3 => format!("    if not {a}.is_valid(): raise {big_a}Error(\"{b} {n} is not valid\")"),
            4 => format!("from app.{a}s import {big_b}{big_a}, {verb}_{b}"),
            5 => format!("    password = getpass.getpass(\"{big_a} password: \")"),
            6 => format!("    token = self.{verb}_{a}_token(scope=\"{b}:read\")"),
            _ => format!("    return [{a}.{b} for {a} in self.{a}s if {a}.count > {n}]"),
        },
        "rs" => match chance.below(6) {
            0 => format!("    let {a} = self.{verb}_{b}(&{a}_id)?;"),
            1 => format!("pub fn {verb}_{a}(&self, {b}: &str) -> Result<{big_a}, Error> {{"),
            2 => format!("    token: Option<{big_a}Token>,"),
            3 => format!(
                "    let secret = std::env::var(\"{}_SECRET\")?;",
                a.to_uppercase()
            ),
            4 => format!("    assert_eq!({a}.{b}(), {n});"),
            _ => "}".into(),
        },
        "go" => match chance.below(6) {
            0 => format!("\t{a}, err := s.{verb}{big_b}(ctx, {a}ID)"),
            1 => format!("func (s *Server) {verb}{big_a}({b} string) (*{big_a}, error) {{"),
            2 => "\tif err != nil {\n\t\treturn nil, err\n\t}".into(),
            3 => format!("\ttoken := os.Getenv(\"{}_TOKEN\")", a.to_uppercase()),
            4 => format!("\tPassword: cfg.{big_a}.Password,"),
            _ => format!("\tlog.Printf(\"{a} %d of {n}\", {b}Count)"),
        },
        "java" | "cs" | "kt" => match chance.below(6) {
            0 => format!("    private final {big_a}Repository {a}Repository;"),
            1 => format!("    public {big_a} {verb}{big_b}(String {a}Id) {{"),
            2 => format!("        String apiKey = settings.get{big_a}ApiKey();"),
            3 => format!("        this.{a}Token = {a}Service.{verb}Token(\"{b}-scope-{n}\");"),
            4 => format!("        if ({a} == null) throw new IllegalStateException(\"{b} {n}\");"),
            _ => "    }".into(),
        },
        "rb" | "php" => match chance.below(5) {
            0 => format!("  ${a} = {verb}_{b}(${a}_id)"),
            1 => format!("  def {verb}_{a}({b})"),
            2 => format!("  api_key = ENV.fetch('{}_API_KEY')", a.to_uppercase()),
            3 => format!("  raise {big_a}Error, '{b} {n}' unless {a}.valid?"),
            _ => "  end".into(),
        },
        _ => match chance.below(8) {
            0 => format!("  const {a} = await {verb}{big_b}({a}Id, {{ retries: {n} }});"),
            1 => format!("export async function {verb}{big_a}({b}) {{"),
            2 => format!("  const apiKey = process.env.{}_API_KEY;", a.to_uppercase()),
            3 => format!("  if (!{a}.token) throw new Error('{b} {n} is missing');"),
            4 => format!("import {{ {verb}{big_a}, {big_b}Provider }} from '../{a}/{b}';"),
            5 => format!("  headers: {{ Authorization: `Bearer ${{{a}Token}}` }},"),
            6 => format!(
                "  <Input type=\"password\" name=\"{a}Password\" label=\"{big_b} password\" />"
            ),
            _ => "}".into(),
        },
    }
}

/// Something that looks like a secret and is none, as `NAME`, value.
pub fn look_alike(chance: &mut Chance) -> (String, String) {
    let upper = noun(chance).to_uppercase();
    let provider = PROVIDERS[chance.below(PROVIDERS.len())];
    let shout = provider.to_uppercase();
    let pick = |name: &str, value: String| (name.to_owned(), value);
    match chance.below(40) {
        0 => pick(&format!("{upper}_ID"), uuid(chance)),
        1 => pick("GIT_COMMIT", value("h40", chance)),
        2 => pick("IMAGE_DIGEST", format!("sha256:{}", value("h64", chance))),
        3 => pick(&format!("{upper}_TOKEN"), "${SECRET_FROM_CI}".into()),
        4 => pick("API_KEY", "your-api-key-here".into()),
        5 => pick("DB_PASSWORD", "changeme".into()),
        6 => pick("GITHUB_TOKEN", format!("ghp_{}", "x".repeat(36))),
        7 => pick("AWS_ACCESS_KEY_ID", format!("AKIA{}", "IOSFODNN7EXAMPLE")),
        8 => pick(
            "AWS_SECRET_ACCESS_KEY",
            format!("wJalrXUtnFEMI/K7MDENG/{}", "bPxRfiCYEXAMPLEKEY"),
        ),
        9 => pick(
            "STRIPE_PUBLISHABLE_KEY",
            format!("pk_live_{}", value("A99", chance)),
        ),
        10 => pick(
            "SECRET_NAME",
            format!("prod/{}/db-credentials", noun(chance)),
        ),
        11 => pick(
            "VAULT_SECRET",
            format!("vault:secret/data/{}#password", noun(chance)),
        ),
        12 => pick(
            "OP_SECRET",
            format!("op://Infra/{}/credential", noun(chance)),
        ),
        13 => pick(
            "INTEGRITY",
            format!("sha512-{}", base64(&chance.bytes(64), false)),
        ),
        14 => pick(&format!("{shout}_PROJECT_ID"), uuid(chance)),
        15 => pick(&format!("{shout}_ACCOUNT_ID"), value("h32", chance)),
        16 => pick(
            "DATABASE_URL",
            "postgres://postgres:postgres@localhost:5432/app".into(),
        ),
        17 => pick(
            "DATABASE_URL",
            "postgres://user:password@db.example.com/app".into(),
        ),
        18 => pick("REDIS_URL", "redis://cache:6379/0".into()),
        19 => pick("PUBLIC_KEY", base64(&chance.bytes(90), false)),
        20 => pick(
            "SSH_KEY",
            format!(
                "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{} ops@acme",
                value("s43", chance)
            ),
        ),
        21 => pick("SUPABASE_ANON_KEY", jwt("anon", chance)),
        22 => pick("CSRF_TOKEN", value("A32", chance)),
        23 => pick("NEXT_PAGE_TOKEN", value("A40", chance)),
        24 => pick("PASSWORD_HASH", format!("$2b$12${}", value("A53", chance))),
        25 => pick(
            "ICON",
            format!(
                "data:image/png;base64,iVBORw0KGgo{}",
                base64(&chance.bytes(300), false)
            ),
        ),
        26 => pick("ETAG", value("h32", chance)),
        27 => pick(
            "TOKEN_URL",
            format!("https://auth.acme.io/oauth/{}", value("a20", chance)),
        ),
        28 => pick("SECRET_KEY", "abcdefghijklmnopqrstuvwxyz0123456789".into()),
        29 => pick("API_TOKEN", "<paste the token of the dashboard>".into()),
        30 => pick("GITHUB_TOKEN", "{{ secrets.GITHUB_TOKEN }}".into()),
        // Of the right form, but the checksum is wrong.
        31 => pick(
            "EXAMPLE_SHAPE",
            format!("ghp_{}000000", value("A30", chance)),
        ),
        32 => pick(
            "KEY_ARN",
            format!(
                "arn:aws:secretsmanager:eu-west-1:123456789012:secret:{}",
                value("A12", chance)
            ),
        ),
        33 => pick(
            "CERT",
            format!(
                "-----BEGIN CERTIFICATE-----\\n{}\\n-----END CERTIFICATE-----",
                base64(&chance.bytes(120), false)
            ),
        ),
        34 => pick(
            "PRIVATE_KEY_FILE",
            format!("/etc/ssl/private/{}.key", noun(chance)),
        ),
        35 => pick(
            "CACHE_KEY",
            format!("{}-v3-{}", noun(chance), value("h16", chance)),
        ),
        36 => pick(
            &format!("{shout}_TOKEN"),
            "0000000000000000000000000000000000000000".into(),
        ),
        37 => pick(
            "SENTRY_DSN",
            format!(
                "https://{}@o4504.ingest.sentry.io/450",
                value("h32", chance)
            ),
        ),
        38 => pick(
            "SESSION_SECRET",
            format!("dev-only-{}-secret", noun(chance)),
        ),
        _ => pick("POSTHOG_KEY", format!("phc_{}", value("A43", chance))),
    }
}

/// A sentence of notes.
pub fn prose(chance: &mut Chance) -> String {
    let (a, b) = (noun(chance), noun(chance));
    let provider = PROVIDERS[chance.below(PROVIDERS.len())];
    match chance.below(7) {
        0 => format!(
            "The {a} job stops when the {b} is gone; see #{}.",
            chance.below(900)
        ),
        1 => format!("Ask Ada for the {provider} {a}, the {b} has moved."),
        2 => format!(
            "- rotate the {provider} token every quarter, last done in {}",
            2020 + chance.below(6)
        ),
        3 => format!(
            "Deployed {} of the {a} service, request {}",
            value("h40", chance),
            uuid(chance)
        ),
        4 => format!("{provider} project {} is the one for {b}s", uuid(chance)),
        5 => format!("TODO: where does the {a} key live? Not in the {b}."),
        _ => format!(
            "Version {}.{}.{} of the {a} client works with {b}s.",
            chance.below(9),
            chance.below(30),
            chance.below(30)
        ),
    }
}
