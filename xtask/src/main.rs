//! `cargo xtask`: everything done to the repository that plain `cargo` cannot do.
//!
//! Nothing here needs a BPF toolchain to compile, because `setup` is what
//! brings one. Steps that need root ask for it one command at a time (see
//! [`sudo`]); the rest runs as whoever called, so that no file in `target/`
//! ends up owned by root.

mod bench;
mod build;
mod demo;
mod dist;
mod fuzz;
mod lint;
mod setup;
mod shell;
mod sudo;
mod test;
mod toolchain;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Find or install the BPF toolchain and the programs that tests and demo use.
    Setup(setup::Args),
    /// Build the workspace, the kernel programs included.
    Build(build::Args),
    /// Replay the incident guard was written for, against a local server.
    Demo(demo::Args),
    /// Run the unit tests, then the end-to-end tests on the live kernel.
    Test(test::Args),
    /// Boot kernels of several versions in virtual machines and try guard on each.
    Vm(vm::Args),
    /// Build what is given to others: static binaries, the Debian package, an archive, checksums.
    Dist(dist::Args),
    /// Measure what guard costs, as ratios.
    Bench(bench::Args),
    /// Feed every parser of what comes from outside with inputs changed at random.
    Fuzz(fuzz::Args),
    /// Check formatting, lints, documentation and dependencies.
    Lint(lint::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(args) => setup::run(&args),
        Command::Build(args) => build::run(&args),
        Command::Demo(args) => demo::run(args),
        Command::Test(args) => test::run(&args),
        Command::Vm(args) => vm::run(&args),
        Command::Dist(args) => dist::run(&args),
        Command::Bench(args) => bench::run(args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Lint(args) => lint::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // `{:#}` joins the chain with ": ", which makes it one line.
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
