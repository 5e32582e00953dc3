//! What a program is for, by its name and a few of its words. The table has what developers' tools are called; what is
//! not in it is [`Category::Other`].

use std::path::Path;

use super::category::Category;
use crate::policy;

/// Programs by the one thing they do.
const PROGRAMS: &[(Category, &[&str])] = &[
    (
        Category::ReadSource,
        &[
            "awk",
            "bat",
            "batcat",
            "cat",
            "cloc",
            "cmp",
            "column",
            "comm",
            "cut",
            "delta",
            "diff",
            "du",
            "file",
            "find",
            "fd",
            "fdfind",
            "gawk",
            "mawk",
            "grep",
            "egrep",
            "fgrep",
            "rg",
            "ag",
            "ack",
            "zgrep",
            "head",
            "hexdump",
            "jq",
            "less",
            "locate",
            "ls",
            "md5sum",
            "more",
            "nl",
            "nm",
            "objdump",
            "od",
            "readelf",
            "readlink",
            "realpath",
            "sha1sum",
            "sha256sum",
            "sort",
            "stat",
            "strings",
            "tac",
            "tail",
            "tokei",
            "tree",
            "uniq",
            "wc",
            "xxd",
            "yq",
            "zcat",
        ],
    ),
    (
        Category::WriteSource,
        &[
            "black",
            "bunzip2",
            "bzip2",
            "chmod",
            "clang-format",
            "cp",
            "dos2unix",
            "ed",
            "emacs",
            "gofmt",
            "gunzip",
            "gzip",
            "install",
            "isort",
            "ln",
            "mkdir",
            "mktemp",
            "mv",
            "nano",
            "patch",
            "prettier",
            "rustfmt",
            "tar",
            "tee",
            "touch",
            "truncate",
            "unzip",
            "vi",
            "vim",
            "xz",
            "zip",
        ],
    ),
    (Category::RemoveFiles, &["rm", "rmdir", "unlink"]),
    (
        Category::RunTests,
        &[
            "ava",
            "bats",
            "cargo-nextest",
            "ctest",
            "jest",
            "karma",
            "mocha",
            "nosetests",
            "nox",
            "phpunit",
            "playwright",
            "py.test",
            "pytest",
            "rspec",
            "tap",
            "tox",
            "unittest",
            "vitest",
        ],
    ),
    (
        Category::Build,
        &[
            "ant",
            "ar",
            "as",
            "asm",
            "autoconf",
            "autoreconf",
            "automake",
            "babel",
            "bazel",
            "bpf-linker",
            "buck2",
            "build-script-build",
            "c++",
            "cc",
            "cc1",
            "cc1plus",
            "ccache",
            "clang",
            "clang++",
            "clippy-driver",
            "cmake",
            "collect2",
            "compile",
            "compileall",
            "configure",
            "cpp",
            "dotnet",
            "esbuild",
            "g++",
            "gcc",
            "gmake",
            "gold",
            "gradle",
            "gradlew",
            "install_name_tool",
            "javac",
            "kotlinc",
            "ld",
            "ld.bfd",
            "ld.gold",
            "ld.lld",
            "libtool",
            "link",
            "llc",
            "lto-wrapper",
            "lto1",
            "m4",
            "make",
            "mdbook",
            "meson",
            "mold",
            "msbuild",
            "mvn",
            "next",
            "ninja",
            "node-gyp",
            "objcopy",
            "parcel",
            "pkg-config",
            "protoc",
            "ranlib",
            "rollup",
            "rust-lld",
            "rustc",
            "rustdoc",
            "sccache",
            "sphinx-build",
            "strip",
            "swc",
            "swiftc",
            "tsc",
            "turbo",
            "vite",
            "webpack",
            "zig",
        ],
    ),
    (
        Category::Debug,
        &[
            "bpftrace",
            "coredumpctl",
            "delve",
            "dlv",
            "gdb",
            "lldb",
            "ltrace",
            "pdb",
            "perf",
            "py-spy",
            "rr",
            "strace",
            "valgrind",
        ],
    ),
    (
        Category::VersionControl,
        &["gh", "git", "glab", "hg", "jj", "svn", "tig"],
    ),
    (
        Category::PackageRegistry,
        &[
            "apk", "apt", "apt-get", "brew", "composer", "conda", "dnf", "dpkg", "gem", "npx",
            "pacman", "pip", "pip3", "pipenv", "pipx", "rustup", "snap", "yum", "zypper",
        ],
    ),
    (
        Category::OtherNetwork,
        &[
            "curl",
            "dig",
            "ftp",
            "host",
            "http",
            "httpie",
            "nc",
            "ncat",
            "netcat",
            "nslookup",
            "ping",
            "rsync",
            "scp",
            "sftp",
            "socat",
            "ssh",
            "telnet",
            "tracepath",
            "wget",
            "xh",
        ],
    ),
    (
        Category::SystemChange,
        &[
            "adduser",
            "at",
            "batch",
            "chattr",
            "chown",
            "chroot",
            "crontab",
            "insmod",
            "iptables",
            "modprobe",
            "mount",
            "nft",
            "passwd",
            "rmmod",
            "service",
            "setcap",
            "sysctl",
            "systemctl",
            "systemd-run",
            "umount",
            "useradd",
            "usermod",
            "visudo",
        ],
    ),
    (
        Category::Broker,
        &[
            "buildah",
            "crictl",
            "ctr",
            "docker",
            "docker-compose",
            "nerdctl",
            "podman",
        ],
    ),
    (
        Category::ProcessControl,
        &["kill", "killall", "nsenter", "pkill", "renice", "reptyr"],
    ),
    (
        Category::Destructive,
        &[
            "blkdiscard",
            "dropdb",
            "fdisk",
            "mkswap",
            "shred",
            "sgdisk",
            "wipefs",
        ],
    ),
    (
        Category::Credential,
        &[
            "bw",
            "lpass",
            "op",
            "pass",
            "secret-tool",
            "ssh-add",
            "ssh-keygen",
        ],
    ),
];

/// Programs that only run others, which are executed and seen by themselves, or nothing. `env` without a command is
/// [`Category::CredentialSearch`].
const WRAPPERS: &[&str] = &[
    "ash",
    "bash",
    "busybox",
    "chpst",
    "chronic",
    "dash",
    "doas",
    "env",
    "exec",
    "false",
    "fakeroot",
    "fish",
    "flock",
    "guard-run",
    "ionice",
    "ksh",
    "nice",
    "nohup",
    "parallel",
    "runuser",
    "script",
    "setpriv",
    "setsid",
    "sh",
    "sleep",
    "stdbuf",
    "sudo",
    "time",
    "timeout",
    "true",
    "unshare",
    "watch",
    "xargs",
    "yes",
    "zsh",
];

/// Tools of control planes, with words that only read, and words that change.
const INFRA: &[&str] = &[
    "ansible",
    "ansible-playbook",
    "aws",
    "az",
    "cdk",
    "consul",
    "doctl",
    "eksctl",
    "firebase",
    "fly",
    "flyctl",
    "gcloud",
    "gsutil",
    "hcloud",
    "helm",
    "heroku",
    "kubectl",
    "linode-cli",
    "mongosh",
    "mysql",
    "mysqladmin",
    "neonctl",
    "netlify",
    "nomad",
    "oc",
    "openstack",
    "packer",
    "psql",
    "pulumi",
    "railway",
    "redis-cli",
    "sam",
    "scw",
    "serverless",
    "sls",
    "supabase",
    "terraform",
    "terragrunt",
    "tofu",
    "turso",
    "vault",
    "vercel",
    "wrangler",
];
const CHANGING: &[&str] = &[
    "apply",
    "attach",
    "create",
    "delete",
    "deploy",
    "destroy",
    "detach",
    "disable",
    "down",
    "drain",
    "drop",
    "enable",
    "import",
    "insert",
    "install",
    "kill",
    "patch",
    "promote",
    "purge",
    "push",
    "put",
    "redeploy",
    "remove",
    "replace",
    "reset",
    "restart",
    "restore",
    "rm",
    "rollback",
    "run",
    "scale",
    "set",
    "start",
    "stop",
    "taint",
    "terminate",
    "truncate",
    "uninstall",
    "up",
    "update",
    "upgrade",
    "write",
];

/// Whether a command line has a word that changes something: `apply`, `delete-volume`, `DROP TABLE …`.
pub(super) fn has_changing_verb(words: &[&str]) -> bool {
    let verbs = |word: &str| {
        word.split(|c: char| !c.is_ascii_alphabetic())
            .next()
            .is_some_and(|first| CHANGING.iter().any(|verb| verb.eq_ignore_ascii_case(first)))
    };
    words.iter().skip(1).take(64).any(|word| {
        // `delete-volume` but not `--set`, whose value is not what is done.
        !word.starts_with('-') && word.split_whitespace().next().is_some_and(verbs)
    })
}

/// Where a search for secrets looks, or what for. In small letters. Words of programming that mean other things too
/// (`token`, `key`) only count as they are written for secrets.
const SECRET_WORDS: &[&str] = &[
    ".aws",
    ".env",
    ".git-credentials",
    ".kube/config",
    ".netrc",
    ".npmrc",
    ".pem",
    ".pgpass",
    ".ssh",
    "access_key",
    "access_token",
    "accesskey",
    "aki[a",
    "akia",
    "api_key",
    "api_token",
    "apikey",
    "auth_token",
    "authtoken",
    "begin rsa",
    "begin openssh",
    "client_secret",
    "credential",
    "database_url",
    "ghp_",
    "glpat-",
    "id_ed25519",
    "id_rsa",
    "kubeconfig",
    "passwd",
    "password",
    "private key",
    "private_key",
    "secret",
    "sk-ant",
    "sk_live",
    "xoxb-",
    "_token",
    "token=",
];

fn looks_for_secrets(words: &[&str]) -> bool {
    words.iter().skip(1).take(64).any(|word| {
        // The word in capitals alone is the name of a variable, in small letters a lexer's business.
        if *word == "TOKEN" {
            return true;
        }
        let word = word.to_ascii_lowercase();
        SECRET_WORDS.iter().any(|secret| word.contains(secret))
    })
}

/// What follows the options: `install` of `npm --silent install left-pad`.
fn verb<'a>(words: &[&'a str]) -> Option<&'a str> {
    words
        .iter()
        .skip(1)
        .find(|word| !word.starts_with(['-', '+']))
        .copied()
}

/// The name that a program goes by: without directory, version and the ending of a script.
fn name_of(path: &str) -> String {
    let name = Path::new(path)
        .file_name()
        .map_or(path, |name| name.to_str().unwrap_or(path));
    let name = name
        .trim_start_matches('-')
        .trim_end_matches(".exe")
        .trim_end_matches(".py")
        .trim_end_matches(".js")
        .trim_end_matches(".cjs")
        .trim_end_matches(".mjs");
    // python3.11, gcc-12, clang-18; not x86_64 or md5.
    let cut = name.rfind('-').filter(|at| {
        let rest = &name[at + 1..];
        !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit() || b == b'.')
    });
    let name = cut.map_or(name, |at| &name[..at]);
    // x86_64-linux-gnu-gcc, arm-none-eabi-ld.
    for tool in [
        "gcc", "g++", "ld", "as", "ar", "strip", "objcopy", "ranlib", "gdb",
    ] {
        if name.ends_with(&format!("-{tool}")) && !name.starts_with("git-") {
            return tool.to_owned();
        }
    }
    match name {
        "npm-cli" => "npm",
        "npx-cli" => "npx",
        other => other,
    }
    .to_owned()
}

/// The category of a command line, or `None` for what only runs something else. `exe` is the file that runs.
pub(super) fn of_command(exe: Option<&str>, words: &[&str]) -> Option<Category> {
    let called = words.first().copied().unwrap_or_default();
    // What a test runner compiles has a name of its own and lies where it was built.
    let path = exe.unwrap_or(called);
    if is_built_test(path) || is_built_test(called) {
        return Some(Category::RunTests);
    }
    let name = name_of(called);
    // A script is what its interpreter runs.
    let script = script_of(called, words);
    if let Some((script, words)) = &script {
        let name = name_of(script);
        if let Some(category) = by_name(&name, words) {
            return category;
        }
    }
    if let Some(category) = by_name(&name, words) {
        return category;
    }
    // Something that calls itself otherwise than its file is called.
    if let Some(category) = exe.map(name_of).and_then(|name| by_name(&name, words)) {
        return category;
    }
    Some(Category::Other)
}

/// `…/target/debug/deps/name-0123456789abcdef`, `…/x.test` of go.
fn is_built_test(path: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or_default();
    if path.contains("/deps/") && path.contains("target/") {
        let hash = file.rsplit('-').next().unwrap_or_default();
        return hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    }
    path.starts_with('/') && path.contains("go-build") && file.ends_with(".test")
}

/// The script that an interpreter runs, with the words from it on.
fn script_of<'a>(called: &str, words: &[&'a str]) -> Option<(&'a str, Vec<&'a str>)> {
    let argv: Vec<Vec<u8>> = words
        .iter()
        .take(16)
        .map(|word| word.as_bytes().to_vec())
        .collect();
    let script = policy::script(Path::new(called), &argv)?;
    let at = argv.iter().position(|word| word.as_slice() == script)?;
    Some((words.get(at)?, words[at..].to_vec()))
}

/// The inner `None` is for what only runs something else, the outer for a name that is not known.
fn by_name(name: &str, words: &[&str]) -> Option<Option<Category>> {
    let verb = verb(words).unwrap_or_default();
    let second = || {
        let mut rest = words.iter().skip(1).filter(|word| !word.starts_with('-'));
        rest.nth(1).copied().unwrap_or_default()
    };
    let category = match name {
        "env" if words.len() == 1 => Category::CredentialSearch,
        "printenv" => Category::CredentialSearch,
        "grep" | "egrep" | "fgrep" | "rg" | "ag" | "ack" | "zgrep" | "find" | "fd" | "fdfind"
        | "locate" | "git-grep" | "strings"
            if looks_for_secrets(words) =>
        {
            Category::CredentialSearch
        }
        // What a process was started with.
        _ if words
            .iter()
            .skip(1)
            .any(|word| word.starts_with("/proc/") && word.ends_with("/environ")) =>
        {
            Category::CredentialSearch
        }
        "find" if words.contains(&"-delete") => Category::RemoveFiles,
        "git" if verb == "grep" && looks_for_secrets(words) => Category::CredentialSearch,
        "git" if verb == "credential" => Category::Credential,
        "gh" if verb == "auth" && second() == "token" => Category::Credential,
        "gpg" | "gpg2"
            if words
                .iter()
                .any(|word| matches!(*word, "-d" | "--decrypt" | "--export-secret-keys")) =>
        {
            Category::Credential
        }
        "kubectl" | "oc" if words.iter().any(|word| word.starts_with("secret")) => {
            Category::Credential
        }
        "aws" | "gcloud" if verb.starts_with("secret") => Category::Credential,
        "vault" if matches!(verb, "kv" | "read") => Category::Credential,
        "sed"
            if words
                .iter()
                .any(|word| word.starts_with("-i") || word.starts_with("--in-place")) =>
        {
            Category::WriteSource
        }
        "sed" => Category::ReadSource,
        "perl" | "ruby"
            if words.iter().skip(1).take(3).any(|word| {
                word.starts_with('-') && !word.starts_with("--") && word.contains('i')
            }) =>
        {
            Category::WriteSource
        }
        "dd" => Category::WriteSource,
        "cargo" => match verb {
            "test" | "t" | "nextest" | "bench" | "miri" => Category::RunTests,
            "fmt" | "fix" | "new" | "init" => Category::WriteSource,
            "add" | "remove" | "install" | "update" | "fetch" | "search" | "login" | "vendor" => {
                Category::PackageRegistry
            }
            "publish" | "yank" => Category::Publishing,
            _ => Category::Build,
        },
        "go" => match verb {
            "test" => Category::RunTests,
            "get" | "mod" | "install" => Category::PackageRegistry,
            "fmt" => Category::WriteSource,
            _ => Category::Build,
        },
        "npm" | "pnpm" | "yarn" | "yarnpkg" | "bun" | "deno" => match (verb, second()) {
            ("test" | "t", _) | ("run" | "run-script", "test") => Category::RunTests,
            ("run" | "run-script", _) | ("build" | "exec" | "start" | "compile", _) => {
                Category::Build
            }
            ("publish" | "unpublish", _) => Category::Publishing,
            _ => Category::PackageRegistry,
        },
        "node" if words.contains(&"--test") => Category::RunTests,
        "node" if words.contains(&"inspect") => Category::Debug,
        "uv" | "poetry" | "bundle" => match verb {
            "run" | "exec" => return Some(None),
            "build" => Category::Build,
            "publish" => Category::Publishing,
            _ => Category::PackageRegistry,
        },
        "twine" => Category::Publishing,
        "make" | "gmake" | "ninja" | "just" | "gradle" | "gradlew" | "mvn"
            if words
                .iter()
                .skip(1)
                .any(|word| matches!(*word, "test" | "tests" | "check" | "verify")) =>
        {
            Category::RunTests
        }
        "just" | "setup" | "build" => Category::Build,
        "guardctl" | "guardd" => {
            let deciding = [
                "approve", "deny", "grant", "revoke", "resume", "kill", "enforce", "observe",
                "intent", "baseline",
            ];
            // Options of its own may stand before the command, with values.
            let decides = words.iter().skip(1).any(|word| deciding.contains(word));
            if name == "guardd" || decides || words.contains(&"reload") {
                Category::GuardTampering
            } else {
                Category::Other
            }
        }
        _ if name.starts_with("mkfs") => Category::Destructive,
        _ if name.starts_with("git-") => Category::VersionControl,
        _ if INFRA.contains(&name) => {
            if has_changing_verb(words) {
                Category::InfraChange
            } else {
                Category::InfraRead
            }
        }
        _ if WRAPPERS.contains(&name) => return Some(None),
        _ => PROGRAMS.iter().find(|(_, names)| names.contains(&name))?.0,
    };
    Some(Some(category))
}
