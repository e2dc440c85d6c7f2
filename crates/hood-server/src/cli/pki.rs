//! `fumehood pki`: certificates for connections between roles.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use serde::Serialize;

use super::exit::Exit;
use super::failure::Failure;
use super::output::{self, Format};
use crate::tls::pki::{self, Issued, PkiError, Request};
use crate::tls::{Identity, Role};

const EXAMPLES: &str = "\
Examples:
  fumehood pki init --dir /etc/fumehood/pki
  fumehood pki issue dispatcher --name d1 --host d1.example --dir /etc/fumehood/pki
  fumehood pki issue worker --name w1 --dir /etc/fumehood/pki
  fumehood pki issue worker --name w1 --dir /etc/fumehood/pki --renew

For development and single installations. Guard ca.key: whoever has it can be any role. On a cluster
let cert-manager issue them (docs/operations/pki.md). Running roles take renewed files up by
themselves.";

/// Make certificates for connections between roles.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make the CA. One that is there is never replaced.
    Init {
        #[command(flatten)]
        place: Place,
        /// Days until it expires.
        #[arg(long, value_name = "N", default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
    },
    /// Give a role its certificate.
    Issue {
        /// What it may do.
        role: RoleArg,
        /// Which one of that role it is.
        #[arg(long, value_name = "NAME", default_value = "1")]
        name: String,
        /// Host name or address under which a dispatcher is called; may be repeated. This host by
        /// loopback if left out.
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<String>,
        #[command(flatten)]
        place: Place,
        /// Days until it expires.
        #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
        /// In place of the files that are there.
        #[arg(long)]
        renew: bool,
    },
}

#[derive(Debug, ClapArgs)]
struct Place {
    /// Directory of the CA and of what it gives out.
    #[arg(long, value_name = "DIR", default_value = "pki")]
    dir: PathBuf,
    /// How to print what was written.
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

impl Place {
    /// As the configuration wants paths.
    fn dir(&self) -> Result<PathBuf, Failure> {
        let failed = |error| Failure::new(format!("cannot use {}", self.dir.display())).because(error);
        std::path::absolute(&self.dir).map_err(failed)
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleArg {
    Api,
    Worker,
    Dispatcher,
    Notifier,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Api => Self::Api,
            RoleArg::Worker => Self::Worker,
            RoleArg::Dispatcher => Self::Dispatcher,
            RoleArg::Notifier => Self::Notifier,
        }
    }
}

#[derive(Serialize)]
struct Written {
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    cert: PathBuf,
    key: PathBuf,
    ca: PathBuf,
    expires_at: String,
}

pub(super) fn execute(args: &Args) -> Result<Exit, Failure> {
    match &args.action {
        Action::Init { place, days } => {
            let issued = pki::init(&place.dir()?, *days).map_err(failure)?;
            say(None, issued, place.output)
        }
        Action::Issue { role, name, hosts, place, days, renew } => {
            let role = Role::from(*role);
            let identity = Identity::new(role, name).ok_or_else(|| {
                Failure::new(format!("`{name}` is no name of a role: 1 to 63 of a-z, 0-9, - and ."))
            })?;
            if !role.is_called() && !hosts.is_empty() {
                return Err(Failure::new(format!("nobody calls a {role}: its certificate is a client's"))
                    .next("leave --host out"));
            }
            let loopback = || ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
            let hosts = if role.is_called() && hosts.is_empty() { loopback() } else { hosts.clone() };
            let request = Request { identity: identity.clone(), hosts, days: *days, renew: *renew };
            let issued = pki::issue(&place.dir()?, &request).map_err(failure)?;
            say(Some(identity.to_string()), issued, place.output)
        }
    }
}

fn say(identity: Option<String>, issued: Issued, format: Format) -> Result<Exit, Failure> {
    let Issued { cert, key, ca, expires_at } = issued;
    let seconds = expires_at.unix_timestamp();
    let expires_at =
        jiff::Timestamp::from_second(seconds).map_or_else(|_| String::new(), |at| at.to_string());
    if format == Format::Json {
        return output::json(&Written { identity, cert, key, ca, expires_at });
    }
    let what = identity.unwrap_or_else(|| "the CA".to_owned());
    let (cert, key) = (cert.display(), key.display());
    output::text(&format!("{what}\ncertificate  {cert}\nkey          {key}\nexpires      {expires_at}"))
}

fn failure(error: PkiError) -> Failure {
    let next = match &error {
        PkiError::Exists(path) if path.ends_with("ca.crt") || path.ends_with("ca.key") => {
            Some("name another directory with --dir; replacing a CA makes what it gave out worthless")
        }
        PkiError::Exists(_) => Some("renew it with --renew, or choose another --name"),
        PkiError::NoAuthority(_) => Some("make one first: fumehood pki init --dir DIR"),
        _ => None,
    };
    let failure = Failure::new("no certificate was made").because(error);
    match next {
        Some(next) => failure.next(next),
        None => failure,
    }
}
