//! Which words of an intent mean what: small on purpose, so that a person can foresee what is understood. docs/intent.md has the same
//! table, written from this one.

/// Words (in small letters; one that ends in `*` stands for all that begin so) and the labels that they allow.
pub(super) const LABELS: &[(&[&str], &[&str])] = &[
    (
        &[
            "credential*",
            "secret*",
            "token*",
            "password*",
            "login",
            "logins",
            "auth*",
            "oauth",
            "sso",
            "certificate*",
            "cert",
            "certs",
            "key",
            "keys",
            "env",
            "dotenv",
            "vault",
        ],
        &["credential", "secret", "secret-store"],
    ),
    (
        &[
            "deploy*",
            "rollout",
            "rollback",
            "infra*",
            "terraform",
            "pulumi",
            "provision*",
            "cluster*",
            "kubernetes",
            "k8s",
            "helm",
            "server",
            "servers",
            "database*",
            "db",
            "migrat*",
            "volume*",
            "bucket*",
            "dns",
            "cloud",
            "aws",
            "gcp",
            "azure",
            "railway",
            "vercel",
            "netlify",
            "heroku",
            "fly",
            "supabase",
            "scale",
            "scaling",
            "restart",
        ],
        &["infra"],
    ),
    (
        &[
            "delete", "deletes", "deleting", "destroy*", "drop", "drops", "dropping", "teardown",
            "wipe*", "purge*", "prune*",
        ],
        &["destructive-command", "destructive-request"],
    ),
    (&["publish*", "release*"], &["publishing", "registry"]),
    (
        &[
            "install*", "depend*", "upgrade*", "update*", "bump*", "package*", "npm", "cargo",
            "pip", "pypi", "build*", "test", "tests", "testing",
        ],
        &["registry"],
    ),
    (
        &[
            "push*",
            "pull",
            "pulls",
            "pr",
            "prs",
            "issue*",
            "review*",
            "merge*",
            "github",
            "gitlab",
            "bitbucket",
        ],
        &["code-host-api"],
    ),
    (
        &["docker*", "container*", "compose", "podman", "image*"],
        &["broker", "registry"],
    ),
    (
        &[
            "cron*", "schedul*", "hook*", "service", "services", "systemd", "startup",
        ],
        &["deferred-work", "broker"],
    ),
    (
        &[
            "stripe",
            "twilio",
            "sendgrid",
            "datadog",
            "pagerduty",
            "payment*",
            "billing",
            "sms",
            "alert*",
            "monitor*",
        ],
        &["business-service"],
    ),
    (
        &["debug*", "strace", "gdb", "profil*"],
        &["process-control"],
    ),
    (&["ebpf", "bpf", "kernel"], &["kernel-programs"]),
];

/// Words and the environment that they mean.
pub(super) const ENVIRONMENTS: &[(&[&str], &str)] = &[
    (&["staging", "stage", "stg"], "staging"),
    (&["production", "prod", "live", "prd"], "production"),
    (&["dev", "development", "local", "localhost"], "development"),
    (&["qa", "sandbox", "preview", "uat"], "test"),
];

/// Words behind which, up to the end of the clause, what is said is not to be done.
pub(super) const NEGATIONS: &[&str] = &[
    "not", "don't", "dont", "never", "without", "no", "except", "avoid",
];
