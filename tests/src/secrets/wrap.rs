//! Files of every sort with a value in them.

use super::{
    chance::Chance,
    filler::{code, look_alike, prose},
    made::{base64, uuid},
};

/// A file, and the line that the value is on.
pub struct File {
    pub path: String,
    pub text: String,
    pub line: usize,
}

/// Sorts of files.
pub const SORTS: &[&str] = &[
    "py",
    "js",
    "ts",
    "go",
    "rs",
    "java",
    "rb",
    "php",
    "cs",
    "kt",
    "env",
    "yaml",
    "json",
    "toml",
    "ini",
    "history",
    "notes",
    "dockerfile",
    "ci",
    "ipynb",
    "tfstate",
    "kubeconfig",
    "sh",
    "properties",
    "xml",
    "compose",
    "tfvars",
];

fn camel(name: &str) -> String {
    let mut text = String::new();
    for (at, part) in name.split('_').enumerate() {
        let part = part.to_lowercase();
        if at == 0 {
            text.push_str(&part);
        } else {
            text.push_str(&part[..1].to_uppercase());
            text.push_str(&part[1..]);
        }
    }
    text
}

/// Within quotes.
fn quoted(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"")
}

/// A value under a name in a file of a sort, with lines around it; without a value, only the lines.
pub fn wrap(sort: &str, given: Option<(&str, &str)>, chance: &mut Chance) -> File {
    let mut lines: Vec<String> = Vec::new();
    let mut at = 0;
    let around = 8 + chance.below(50);
    let place = chance.below(around);
    let in_words = chance.below(2) == 0;
    let stem = format!(
        "{}_{}",
        chance.one(&[
            "billing", "deploy", "search", "sync", "mailer", "orders", "gateway"
        ]),
        chance.below(1_000_000_000)
    );
    let q = given.map(|(_, value)| quoted(value)).unwrap_or_default();
    let name = given.map(|(name, _)| name).unwrap_or_default();
    let lower = name.to_lowercase();
    let value = given.map(|(_, value)| value).unwrap_or_default();
    let setting = |line: &dyn Fn(&str, &str) -> String, filler: &mut Chance| {
        let (name, value) = look_alike(filler);
        line(&name, &value)
    };
    let mut fill =
        |lines: &mut Vec<String>, one: &mut dyn FnMut(&mut Chance) -> String, put: String| {
            for line in 0..around {
                if line == place && given.is_some() {
                    // Some of the lines are two.
                    at = lines
                        .iter()
                        .map(|line: &String| line.lines().count().max(1))
                        .sum::<usize>()
                        + 1;
                    lines.push(put.clone());
                }
                lines.push(one(chance));
            }
        };
    let comment = |sort: &str| {
        if matches!(sort, "py" | "rb" | "ipynb") {
            "#"
        } else {
            "//"
        }
    };
    let path = match sort {
        "py" | "js" | "ts" | "go" | "rs" | "java" | "rb" | "php" | "cs" | "kt" => {
            let put = match sort {
                "py" => format!("{name} = \"{q}\""),
                "js" => format!("const {} = '{value}';", camel(name)),
                "ts" => format!("export const {}: string = \"{q}\";", camel(name)),
                "go" => format!("\t{} := \"{q}\"", camel(name)),
                "rs" => format!("const {name}: &str = \"{q}\";"),
                "java" => format!("    private static final String {name} = \"{q}\";"),
                "rb" => format!("  {lower}: '{value}',"),
                "php" => format!("    '{lower}' => '{value}',"),
                "cs" => format!("    public const string {} = \"{q}\";", camel(name)),
                _ => format!("    val {} = \"{q}\"", camel(name)),
            };
            let sign = comment(sort);
            fill(
                &mut lines,
                &mut |chance| {
                    if chance.below(6) == 0 {
                        setting(
                            &|name, value| match sort {
                                "rb" | "php" | "js" => {
                                    format!("{} = '{value}'", name.to_lowercase())
                                }
                                _ => format!("{} = \"{}\"", name.to_lowercase(), quoted(value)),
                            },
                            chance,
                        )
                    } else if chance.below(8) == 0 {
                        format!("{sign} {}", prose(chance))
                    } else {
                        code(sort, chance)
                    }
                },
                put,
            );
            format!("src/{stem}.{sort}")
        }
        "env" | "sh" | "properties" | "ini" | "toml" | "tfvars" => {
            let put = match sort {
                "env" => format!("{name}={value}"),
                "sh" => format!("export {name}='{value}'"),
                "properties" => format!("{}={value}", lower.replace('_', ".")),
                "ini" => format!("{lower} = {value}"),
                "tfvars" => format!("{lower} = \"{q}\""),
                _ => format!("{lower} = \"{q}\""),
            };
            fill(
                &mut lines,
                &mut |chance| match chance.below(3) {
                    0 => setting(
                        &|name, value| match sort {
                            "toml" | "tfvars" => {
                                format!("{} = \"{}\"", name.to_lowercase(), quoted(value))
                            }
                            "sh" => format!("export {name}=\"{value}\""),
                            _ => format!("{name}={value}"),
                        },
                        chance,
                    ),
                    1 => format!("# {}", prose(chance)),
                    _ => {
                        let n = chance.below(9000);
                        format!(
                            "max_{} = {n}",
                            ["retries", "items", "wait", "depth"][chance.below(4)]
                        )
                    }
                },
                put,
            );
            match sort {
                "env" => format!("apps/{stem}/.env"),
                "toml" => format!("config/{stem}.toml"),
                other => format!("config/{stem}.{other}"),
            }
        }
        "yaml" | "compose" | "ci" | "kubeconfig" => {
            let put = match sort {
                "compose" => format!("      - {name}={value}"),
                "ci" => format!("          {name}: {value}"),
                "kubeconfig" => format!("    {}: {value}", lower.replace('_', "-")),
                _ => format!("    {lower}: \"{q}\""),
            };
            fill(
                &mut lines,
                &mut |chance| match chance.below(4) {
                    0 => setting(
                        &|name, value| {
                            format!("    {}: \"{}\"", name.to_lowercase(), quoted(value))
                        },
                        chance,
                    ),
                    1 => format!("  # {}", prose(chance)),
                    2 => format!(
                        "    certificate-authority-data: {}",
                        base64(
                            format!(
                                "-----BEGIN CERTIFICATE-----\n{}",
                                base64(&chance.bytes(90), false)
                            )
                            .as_bytes(),
                            false
                        )
                    ),
                    _ => format!(
                        "  - name: step-{}\n    image: registry.acme.io/app@sha256:{}",
                        chance.below(90),
                        chance.text(b"0123456789abcdef", 64)
                    ),
                },
                put,
            );
            match sort {
                "ci" => format!(".github/workflows/{stem}.yml"),
                "compose" => format!("deploy/{stem}/docker-compose.yml"),
                "kubeconfig" => format!("home/{stem}/.kube/config"),
                _ => format!("config/{stem}.yaml"),
            }
        }
        "json" | "tfstate" | "ipynb" => {
            let put = match sort {
                "ipynb" => format!("    \"{} = \\\"{}\\\"\\n\",", lower, quoted(&q)),
                _ => format!("      \"{lower}\": \"{q}\","),
            };
            lines.push("{".into());
            fill(
                &mut lines,
                &mut |chance| match (sort, chance.below(3)) {
                    ("ipynb", 0) => format!(
                        "    \"image/png\": \"iVBORw0KGgoAAAANSUhEUg{}\",",
                        base64(&chance.bytes(600), false)
                    ),
                    ("ipynb", _) => format!("    \"{}\\n\",", quoted(&code("py", chance))),
                    (_, 0) => format!("      \"id\": \"{}\",", uuid(chance)),
                    _ => setting(
                        &|name, value| {
                            format!("      \"{}\": \"{}\",", name.to_lowercase(), quoted(value))
                        },
                        chance,
                    ),
                },
                put,
            );
            lines.push("}".into());
            match sort {
                "tfstate" => format!("infra/{stem}/terraform.tfstate"),
                other => format!("data/{stem}.{other}"),
            }
        }
        "dockerfile" => {
            fill(
                &mut lines,
                &mut |chance| match chance.below(3) {
                    0 => format!(
                        "RUN curl -fsSL https://get.acme.io/{}.tgz | tar xz",
                        chance.text(b"0123456789abcdef", 40)
                    ),
                    1 => format!("# {}", prose(chance)),
                    _ => setting(&|name, value| format!("ENV {name}=\"{value}\""), chance),
                },
                format!("ENV {name}={value}"),
            );
            format!("docker/{stem}/Dockerfile")
        }
        "history" => {
            fill(
                &mut lines,
                &mut |chance| match chance.below(4) {
                    0 => format!("git checkout {}", chance.text(b"0123456789abcdef", 40)),
                    1 => format!("cd ~/work/{} && make", chance.one(&["api", "web", "infra"])),
                    2 => "export API_TOKEN=$(pass show acme/api)".into(),
                    _ => format!(
                        "curl -H \"Authorization: Bearer $TOKEN\" https://api.acme.io/v1/{}",
                        uuid(chance)
                    ),
                },
                format!("export {name}={value}"),
            );
            format!("home/{stem}/.bash_history")
        }
        "xml" => {
            let escaped = value.replace('&', "&amp;");
            fill(
                &mut lines,
                &mut |chance| {
                    setting(
                        &|name, value| {
                            let text = value
                                .replace('&', "&amp;")
                                .replace('<', "&lt;")
                                .replace('>', "&gt;");
                            format!("    <add key=\"{name}\" value=\"{text}\" />")
                        },
                        chance,
                    )
                },
                format!("    <{lower}>{escaped}</{lower}>"),
            );
            format!("config/{stem}.xml")
        }
        _ => {
            let words = lower.replace('_', " ");
            // What is no provider's is known by a name in one word.
            let put = if in_words && !["SECRET_KEY_BASE", "ENCRYPTION_KEY"].contains(&name) {
                format!("{words}: {value}")
            } else {
                format!("{name} = {value}")
            };
            fill(&mut lines, &mut |chance| prose(chance), put);
            format!("home/{stem}/notes.txt")
        }
    };
    File {
        path,
        text: lines.join("\n") + "\n",
        line: at,
    }
}
