//! Which category an event is of: by its labels first, since a policy's author has said what they mean, then by what it
//! is.

use std::path::Path;

use serde_json::Value;

use super::{category::Category, programs};
use crate::event::{Event, Kind};

/// Labels of the built-in policy, and of those that guardd finds by itself, with what they say about an act; the gravest
/// first, since an act can have several. A name that ends in `:` stands for all that begin so.
const LABELS: &[(&str, Meaning)] = &[
    ("guard-tamper", Meaning::Is(Category::GuardTampering)),
    ("destructive-request", Meaning::Is(Category::Destructive)),
    ("destructive-command", Meaning::Is(Category::Destructive)),
    ("kernel-programs", Meaning::Is(Category::SystemChange)),
    ("deferred-work", Meaning::Is(Category::SystemChange)),
    ("credential-search", Meaning::Is(Category::CredentialSearch)),
    (
        "credential-hunting",
        Meaning::Is(Category::CredentialSearch),
    ),
    ("credential", Meaning::Is(Category::Credential)),
    ("secret", Meaning::Is(Category::Credential)),
    ("secret:", Meaning::Is(Category::Credential)),
    ("foreign-secret", Meaning::Is(Category::Credential)),
    ("uses:", Meaning::Is(Category::Credential)),
    ("secret-store", Meaning::Is(Category::Credential)),
    ("metadata-service", Meaning::Is(Category::Credential)),
    ("broker", Meaning::Is(Category::Broker)),
    ("process-control", Meaning::Is(Category::ProcessControl)),
    ("infra", Meaning::Service),
    ("business-service", Meaning::Service),
    ("publishing", Meaning::Is(Category::Publishing)),
    ("code-host-api", Meaning::Is(Category::VersionControl)),
    ("registry", Meaning::Is(Category::PackageRegistry)),
    ("model-api", Meaning::Is(Category::ModelApi)),
    ("encrypted-dns", Meaning::Is(Category::OtherNetwork)),
    ("other-socket", Meaning::Is(Category::OtherNetwork)),
];

/// What a label says.
#[derive(Clone, Copy)]
enum Meaning {
    /// The category.
    Is(Category),
    /// Something that acts on the world outside: a request tells whether it only reads.
    Service,
}

/// The category of an act; `None` for what is none: what guard says of itself and of sessions, shells and wrappers, which
/// only run something else, and name servers that are asked. Every event has an answer, whatever is in it.
pub fn classify(event: &Event) -> Option<Category> {
    if !matches!(
        event.kind,
        Kind::Exec | Kind::Open | Kind::Connect | Kind::Request | Kind::Signal | Kind::Call
    ) {
        return None;
    }
    if let Some(category) = by_label(event) {
        return Some(category);
    }
    match event.kind {
        Kind::Exec => command(event),
        Kind::Open => Some(file(event)),
        Kind::Connect => connection(event),
        // Requests are read only where some label asks about the host: a provider's.
        Kind::Request if replaces(event) => Some(Category::InfraChange),
        Kind::Request => Some(Category::OtherNetwork),
        _ => Some(Category::ProcessControl),
    }
}

/// Whether guard could not see what an act was about: a request that could not be read, a daemon that does for its
/// clients what nobody sees, a name that hides.
pub(super) fn is_opaque(event: &Event, category: Category) -> bool {
    category == Category::Broker
        || text(event, "unread").is_some()
        || event
            .labels
            .iter()
            .any(|label| matches!(label.as_str(), "encrypted-dns" | "other-socket" | "broker"))
}

/// The file that an open is of, as a hash that stays the same over restarts.
pub(super) fn file_of(event: &Event) -> Option<u64> {
    if event.kind != Kind::Open {
        return None;
    }
    text(event, "path").map(|path| guard_common::matching::fnv(path.as_bytes()))
}

fn text<'a>(event: &'a Event, key: &str) -> Option<&'a str> {
    event.object.as_ref()?.get(key)?.as_str()
}

fn by_label(event: &Event) -> Option<Category> {
    if event.labels.is_empty() {
        return None;
    }
    let carries = |name: &str| {
        event.labels.iter().any(|label| {
            // A user's own label of that name is somebody else's word.
            label == name || (name.ends_with(':') && label.starts_with(name))
        })
    };
    let (_, meaning) = LABELS.iter().find(|(name, _)| carries(name))?;
    Some(match meaning {
        Meaning::Is(category) => *category,
        Meaning::Service if changes(event) => Category::InfraChange,
        Meaning::Service => Category::InfraRead,
    })
}

/// Whether a request, or a command line, changes something. Of a connection alone nobody knows: it counts as a read.
fn changes(event: &Event) -> bool {
    if event.kind == Kind::Exec {
        return words(event).is_some_and(|words| programs::has_changing_verb(&words));
    }
    if event.kind != Kind::Request {
        return false;
    }
    if let Some(operation) = event
        .object
        .as_ref()
        .and_then(|object| object.get("graphql"))
    {
        let kind = operation.get("type").and_then(Value::as_str);
        return kind != Some("query") && kind != Some("subscription");
    }
    // AWS sends every order as POST; its name says what it does.
    if let Some(action) = text(event, "aws") {
        let name = action.rsplit(['.', ':', '#']).next().unwrap_or(action);
        return ![
            "Get", "List", "Describe", "Head", "BatchGet", "Query", "Scan",
        ]
        .iter()
        .any(|verb| name.starts_with(verb));
    }
    if let Some(kube) = text(event, "kube") {
        return !["get", "list", "watch"]
            .iter()
            .any(|verb| kube.starts_with(verb));
    }
    let method = text(event, "method").unwrap_or_default();
    !["GET", "HEAD", "OPTIONS", "TRACE", ""]
        .iter()
        .any(|read| method.eq_ignore_ascii_case(read))
}

/// Whether a request changes what is there, by its method alone. What a POST does depends on where it goes.
fn replaces(event: &Event) -> bool {
    let method = text(event, "method").unwrap_or_default();
    ["DELETE", "PUT", "PATCH"]
        .iter()
        .any(|change| method.eq_ignore_ascii_case(change))
}

/// The words of a command line.
fn words(event: &Event) -> Option<Vec<&str>> {
    let argv = event.object.as_ref().and_then(|object| object.get("argv"));
    if let Some(argv) = argv.and_then(Value::as_array) {
        return Some(argv.iter().filter_map(Value::as_str).collect());
    }
    let argv = event.argv.as_ref()?;
    Some(argv.iter().map(String::as_str).collect())
}

fn command(event: &Event) -> Option<Category> {
    let words = words(event).unwrap_or_default();
    programs::of_command(event.exe.as_deref(), &words)
}

/// Endings of what people write and programs are made of.
const SOURCE: &[&str] = &[
    "adoc", "astro", "bash", "bzl", "c", "cc", "cfg", "clj", "cmake", "cpp", "cs", "css", "cxx",
    "dart", "ex", "exs", "fs", "go", "gradle", "graphql", "h", "hbs", "hpp", "hs", "html", "ini",
    "java", "js", "json", "jsx", "kt", "less", "lock", "lua", "m", "md", "mjs", "ml", "nix", "php",
    "pl", "proto", "ps1", "py", "pyi", "r", "rb", "rs", "rst", "sass", "scala", "scss", "sh",
    "sql", "svelte", "swift", "tex", "toml", "ts", "tsx", "txt", "vue", "xml", "yaml", "yml",
    "zig",
];
/// Names without an ending that are sources all the same.
const SOURCE_NAMES: &[&str] = &[
    "Makefile",
    "makefile",
    "GNUmakefile",
    "Dockerfile",
    "Justfile",
    "justfile",
    "Rakefile",
    "Gemfile",
    "README",
    "LICENSE",
];
/// Where the machine's own files are, and not a project's.
const SYSTEM: &[&str] = &[
    "/bin/", "/boot/", "/dev/", "/etc/", "/lib", "/proc/", "/run/", "/sbin/", "/sys/", "/usr/",
    "/var/",
];

/// Of a labelled file whose label says nothing to guard: a source that is read or written, or another file.
fn file(event: &Event) -> Category {
    let Some(path) = text(event, "path") else {
        return Category::Other;
    };
    if SYSTEM.iter().any(|system| path.starts_with(system)) {
        return Category::Other;
    }
    let path = Path::new(path);
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let ending = path
        .extension()
        .and_then(|ending| ending.to_str())
        .unwrap_or_default();
    if !SOURCE.contains(&ending) && !SOURCE_NAMES.contains(&name) {
        return Category::Other;
    }
    let flags = text(event, "flags").unwrap_or_default();
    if flags.contains("O_WRONLY") || flags.contains("O_RDWR") {
        Category::WriteSource
    } else {
        Category::ReadSource
    }
}

/// An unlabelled connection. Asking a name server is part of the connection that follows; what a socket in the file
/// system leads to is of this machine.
fn connection(event: &Event) -> Option<Category> {
    let object = event.object.as_ref()?;
    if object.get("family").and_then(Value::as_str) == Some("unix") {
        return Some(Category::Other);
    }
    match object.get("port").and_then(Value::as_u64) {
        // Port 0 is what a library asks the kernel for a route by.
        Some(53 | 0) => None,
        _ => Some(Category::OtherNetwork),
    }
}
