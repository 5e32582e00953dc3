//! The categories of behaviour, and distributions over them.

use std::collections::BTreeMap;

/// How many categories there are.
pub const COUNT: usize = 21;

/// What kind of act something was. Its number is its place in a distribution; names and not numbers are written to
/// files, so that a later version may have others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Category {
    /// Looking at files: `cat`, `grep`, `ls`.
    ReadSource,
    /// Changing files: `sed -i`, `patch`, an editor.
    WriteSource,
    /// Removing files: `rm`.
    RemoveFiles,
    /// Running tests.
    RunTests,
    /// Compiling, linking, bundling.
    Build,
    /// A debugger, tracer or profiler.
    Debug,
    /// git and its like, and the API of a host of repositories.
    VersionControl,
    /// Fetching packages.
    PackageRegistry,
    /// The API of a provider of language models.
    ModelApi,
    /// Any other connection or request, and programs that make them.
    OtherNetwork,
    /// A file, store or service that holds a secret was reached.
    Credential,
    /// Looking for secrets: `grep -r TOKEN`, `find -name .env`, `printenv`.
    CredentialSearch,
    /// A control plane was reached, or read.
    InfraRead,
    /// A control plane was asked to change something.
    InfraChange,
    /// Something not easily made again is destroyed, by a command or a request.
    Destructive,
    /// Something is given to everybody.
    Publishing,
    /// What runs on this machine, for whom and when, is changed: services, users, scheduled work.
    SystemChange,
    /// A daemon that acts as root for its clients was reached.
    Broker,
    /// A signal to a process, or control over one.
    ProcessControl,
    /// An attempt on guard itself.
    GuardTampering,
    /// Anything else.
    Other,
}

impl Category {
    /// Every one, by number.
    pub const ALL: [Self; COUNT] = [
        Self::ReadSource,
        Self::WriteSource,
        Self::RemoveFiles,
        Self::RunTests,
        Self::Build,
        Self::Debug,
        Self::VersionControl,
        Self::PackageRegistry,
        Self::ModelApi,
        Self::OtherNetwork,
        Self::Credential,
        Self::CredentialSearch,
        Self::InfraRead,
        Self::InfraChange,
        Self::Destructive,
        Self::Publishing,
        Self::SystemChange,
        Self::Broker,
        Self::ProcessControl,
        Self::GuardTampering,
        Self::Other,
    ];

    /// Its place in a distribution.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The word in files, in JSON and for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReadSource => "read-source",
            Self::WriteSource => "write-source",
            Self::RemoveFiles => "remove-files",
            Self::RunTests => "run-tests",
            Self::Build => "build",
            Self::Debug => "debug",
            Self::VersionControl => "version-control",
            Self::PackageRegistry => "package-registry",
            Self::ModelApi => "model-api",
            Self::OtherNetwork => "other-network",
            Self::Credential => "credential",
            Self::CredentialSearch => "credential-search",
            Self::InfraRead => "infra-read",
            Self::InfraChange => "infra-change",
            Self::Destructive => "destructive",
            Self::Publishing => "publishing",
            Self::SystemChange => "system-change",
            Self::Broker => "broker",
            Self::ProcessControl => "process-control",
            Self::GuardTampering => "guard-tampering",
            Self::Other => "other",
        }
    }

    /// The category of a word.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == word)
    }

    /// How grave it is to go beyond what is asked: 0 for work, 1 for what opens a door, more for what cannot be taken
    /// back. guard's own choice; see docs/divergence.md.
    pub const fn gravity(self) -> f64 {
        match self {
            Self::GuardTampering => 3.0,
            Self::Destructive => 2.0,
            Self::InfraChange => 1.5,
            Self::Credential
            | Self::CredentialSearch
            | Self::SystemChange
            | Self::Broker
            | Self::ProcessControl => 1.0,
            Self::InfraRead | Self::Publishing => 0.5,
            Self::RemoveFiles => 0.25,
            Self::ReadSource
            | Self::WriteSource
            | Self::RunTests
            | Self::Build
            | Self::Debug
            | Self::VersionControl
            | Self::PackageRegistry
            | Self::ModelApi
            | Self::OtherNetwork
            | Self::Other => 0.0,
        }
    }

    /// Whether a run of it is one piece of work, as the thousand compilers of one build are, so that each further act
    /// of the run counts less. Every credential, and every deletion, counts by itself.
    pub fn is_work(self) -> bool {
        self.gravity() == 0.0
    }
}

/// A weight for each category: what was counted, or after [`Shares::normalised`] a distribution.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shares(pub [f64; COUNT]);

impl Shares {
    /// Of one category.
    pub fn of(&self, category: Category) -> f64 {
        self.0[category.index()]
    }

    /// All of them together.
    pub fn total(&self) -> f64 {
        self.0.iter().sum()
    }

    /// Adds to one.
    pub fn add(&mut self, category: Category, weight: f64) {
        self.0[category.index()] += weight;
    }

    /// Adds all of another's.
    pub fn join(&mut self, other: &Self) {
        for (own, more) in self.0.iter_mut().zip(other.0) {
            *own += more;
        }
    }

    /// Each times a factor.
    pub fn scaled(&self, factor: f64) -> Self {
        Self(self.0.map(|weight| weight * factor))
    }

    /// So that they sum to 1. All alike where there is nothing.
    pub fn normalised(&self) -> Self {
        let total = self.total();
        if total > 0.0 && total.is_finite() {
            self.scaled(1.0 / total)
        } else {
            Self([1.0 / COUNT as f64; COUNT])
        }
    }

    /// The gravity of a distribution's mean act.
    pub fn gravity(&self) -> f64 {
        let all = Category::ALL.into_iter();
        all.map(|category| category.gravity() * self.of(category))
            .sum()
    }

    /// By name, without what is 0.
    pub fn named(&self) -> BTreeMap<String, f64> {
        let all = Category::ALL.into_iter();
        all.filter(|category| self.of(*category) > 0.0)
            .map(|category| (category.name().to_owned(), self.of(category)))
            .collect()
    }

    /// From names. A name that this version does not know counts as [`Category::Other`]; what is no weight counts
    /// nothing.
    pub fn from_named(named: &BTreeMap<String, f64>) -> Self {
        let mut shares = Self::default();
        for (name, weight) in named {
            if weight.is_finite() && *weight > 0.0 {
                shares.add(Category::named(name).unwrap_or(Category::Other), *weight);
            }
        }
        shares
    }
}

impl serde::Serialize for Shares {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.named().serialize(serializer)
    }
}

impl<'de> serde::Deserialize<'de> for Shares {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(|named| Self::from_named(&named))
    }
}
