//! `fumehood completions`: what a shell needs to complete commands and options.

use std::io::{self, Write as _};

use clap::Args as ClapArgs;
use clap_complete::Shell;

use super::exit::Exit;
use super::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  fumehood completions bash > /etc/bash_completion.d/fumehood
  fumehood completions zsh > \"${fpath[1]}/_fumehood\"
  fumehood completions fish > ~/.config/fish/completions/fumehood.fish";

/// Print a shell's completion script.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Which shell.
    shell: Shell,
}

pub(super) fn execute(args: &Args, mut command: clap::Command) -> Result<Exit, Failure> {
    // Written aside first: the generator panics where a pipe breaks.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "fumehood", &mut script);
    io::stdout().write_all(&script).map_err(Failure::write)?;
    Ok(Exit::DONE)
}
