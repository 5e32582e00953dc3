mod commands;
mod compiled;
mod judges;
mod matching;
mod mistakes;
mod requests;
mod steps;

use std::path::PathBuf;

use super::{Policy, Source};

/// A policy with the head that each needs.
fn policy(rest: &str) -> Policy {
    match Policy::parse(
        &format!("version = 1\n{rest}"),
        Source::File(PathBuf::from("p.toml")),
    ) {
        Ok(policy) => policy,
        Err(error) => panic!("{error}"),
    }
}
