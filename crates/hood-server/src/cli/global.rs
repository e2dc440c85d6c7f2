//! Options that every command has.

use std::path::{Path, PathBuf};

use clap::Args;

use super::failure::Failure;
use crate::config::{Config, ConfigError, Host, Loaded, Sources};

#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Options of every command")]
pub(super) struct Global {
    /// Talk to this server instead of the default data directory's.
    #[arg(long, global = true, value_name = "URL", env = "FUMEHOOD_SERVER", hide_env_values = true)]
    pub(super) server: Option<String>,

    /// File with the server's API key; FUMEHOOD_TOKEN holds the key itself.
    #[arg(long, global = true, value_name = "FILE", env = "FUMEHOOD_TOKEN_FILE", hide_env_values = true)]
    pub(super) token_file: Option<PathBuf>,

    /// Configuration file, in place of the usual one.
    #[arg(long, global = true, value_name = "FILE", env = "FUMEHOOD_CONFIG", hide_env_values = true)]
    pub(super) config: Option<PathBuf>,

    /// Directory of everything that is kept.
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,

    /// Set a key of the configuration (docs/configuration.md); may be repeated.
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = pair)]
    pub(super) set: Vec<(String, String)>,
}

/// `NAME=VALUE`, as labels, variables and settings are given.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

impl Global {
    /// Where the configuration comes from; a command adds its own flags.
    pub(super) fn sources(&self) -> Result<Sources, Failure> {
        let mut sources = Sources::of_process(self.config.clone());
        for (key, value) in &self.set {
            sources.set(key, value, "--set");
        }
        if let Some(dir) = &self.data_dir {
            let dir = absolute(dir)?;
            sources.set("data_dir", &dir.to_string_lossy(), "--data-dir");
        }
        Ok(sources)
    }

    pub(super) fn load(&self) -> Result<Loaded, Failure> {
        load(&self.sources()?)
    }
}

pub(super) fn load(sources: &Sources) -> Result<Loaded, Failure> {
    Config::load(sources, &Host::detect()).map_err(|error| {
        let next = match &error {
            ConfigError::Read { .. } => "see --config and FUMEHOOD_CONFIG",
            ConfigError::Findings(_) | ConfigError::Inconsistent(_) => {
                "`fumehood config default` prints every key with its meaning and default"
            }
        };
        let what = error.to_string();
        let failure = Failure::new(what).next(next);
        match error {
            ConfigError::Read { source, .. } => failure.because(source),
            ConfigError::Inconsistent(source) => failure.because(source),
            ConfigError::Findings(_) => failure,
        }
    })
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::new(format!("`{}` is no directory name", path.display())).because(error))
}
