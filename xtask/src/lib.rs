//! Chores of this repository, and the rules that a machine can hold.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};

mod docs;
mod images;
pub mod tidy;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  tidy              check the rules of CONTRIBUTING.md that a machine can hold
  migrations        record the migrations that are new, so that nobody changes them later
  docs FUMEHOOD     check that every command in the documentation is one that FUMEHOOD knows
  images DIR [PROFILE]
                    build the server and its agent as static programs, with cargo's profile `release` unless
                    another is named, and write a container image of each into DIR
  snapshots         write anew what is made from the code and committed: openapi/*.json, docs/errors.md,
                    docs/configuration.md, help texts";

/// Runs one command.
pub fn run(args: &[String]) -> ExitCode {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["tidy"] => tidy::check(&root()).and_then(|findings| report(&findings)),
        ["migrations"] => tidy::record_migrations(&root()),
        ["docs", binary] => docs::check(&root(), Path::new(binary)).and_then(|findings| report(&findings)),
        ["images", dir] => images::write(&root(), "release", Path::new(dir)),
        ["images", dir, profile] => images::write(&root(), profile, Path::new(dir)),
        ["snapshots"] => snapshots(&root()),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The repository, as it was when this was compiled.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

fn report(findings: &[tidy::Finding]) -> anyhow::Result<()> {
    for finding in findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        n => bail!("{n} findings"),
    }
}

fn snapshots(root: &Path) -> anyhow::Result<()> {
    let status = Command::new(env!("CARGO"))
        .args(["test", "--locked", "--package", "hood-server", "--test", "it", "--"])
        .args(["api::documents::", "config::", "cli_help::"])
        // What each kind of snapshot calls "write it down".
        .envs([("FUMEHOOD_UPDATE", "1"), ("UPDATE_REFERENCE", "1"), ("INSTA_UPDATE", "always")])
        .current_dir(root)
        .status()
        .context("run cargo")?;
    if !status.success() {
        bail!("they could not all be written");
    }
    Ok(())
}
