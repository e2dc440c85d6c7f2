//! `fumehood env pull` and `fumehood env push`: images from registries, and to them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args as ClapArgs, ValueEnum};
use hood_dispatch::environment::{Progress, Stage};
use hood_image::registry::{Access, Credentials, Reference, Registry, RegistryError};
use hood_image::{Bounds, Recipe};
use serde::{Deserialize, Serialize};

use super::super::exit::Exit;
use super::super::failure::Failure;
use super::super::global::Global;
use super::super::output::{self, Format};
use super::build::Show;
use super::{Output, failed, library};
use super::{export, import};
use crate::unpacker::Input;

const PULL_EXAMPLES: &str = "\
Examples:
  fumehood env pull registry.example/team/tools:1.4 --name tools
  fumehood env pull registry.example/team/tools@sha256:… --name tools
  fumehood env pull localhost:5000/tools --name tools --policy always
  FUMEHOOD_REGISTRY_TOKEN=… fumehood env pull registry.example/team/tools --name tools";

const PUSH_EXAMPLES: &str = "\
Examples:
  fumehood env push tools registry.example/team/tools:1.4 --username ci --password-file secret
  fumehood env push tools localhost:5000/tools";

/// The largest `config.json` or file with a secret.
const SECRET_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Fetch an image from a registry, and make it an environment of this machine.
#[derive(Debug, ClapArgs)]
#[command(after_help = PULL_EXAMPLES)]
pub(super) struct PullArgs {
    /// The image: registry/name:tag, or registry/name@sha256:…
    #[arg(value_name = "REFERENCE")]
    reference: Reference,
    /// What the environment is called from now on.
    #[arg(long, value_name = "NAME")]
    name: String,
    /// Whether the registry is asked when the environment is there.
    #[arg(long, value_name = "POLICY", default_value = "missing")]
    policy: Policy,
    #[command(flatten)]
    login: Login,
    #[command(flatten)]
    output: Output,
}

/// Bring an environment to a registry, as the image that `env export` writes.
#[derive(Debug, ClapArgs)]
#[command(after_help = PUSH_EXAMPLES)]
pub(super) struct PushArgs {
    /// Name of the environment.
    name: String,
    /// Where to: registry/name:tag.
    #[arg(value_name = "REFERENCE")]
    reference: Reference,
    #[command(flatten)]
    login: Login,
    #[command(flatten)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Policy {
    /// Fetch if there is no environment of that name from this reference.
    Missing,
    /// Ask what the reference means now, and fetch if that is not what is here.
    Always,
}

/// Who asks. Without any of these, what `docker login` wrote counts.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Registry")]
struct Login {
    /// User name; its password comes from --password-file or FUMEHOOD_REGISTRY_PASSWORD.
    #[arg(long, value_name = "NAME", env = "FUMEHOOD_REGISTRY_USERNAME", hide_env_values = true)]
    username: Option<String>,
    /// File with the password.
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,
    /// File with a token, in place of name and password; FUMEHOOD_REGISTRY_TOKEN holds the token itself.
    #[arg(long, value_name = "FILE", conflicts_with = "username")]
    registry_token_file: Option<PathBuf>,
    /// Speak HTTP without TLS. Loopback addresses are spoken to so by themselves.
    #[arg(long)]
    plain_http: bool,
    /// Certificates, in PEM, of authorities to believe beside the system's.
    #[arg(long, value_name = "FILE", conflicts_with = "plain_http")]
    ca_file: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Pushed {
    name: String,
    reference: String,
    image_digest: String,
}

pub(super) async fn pull(args: PullArgs, global: &Global) -> Result<Exit, Failure> {
    let library = Arc::new(library(global)?);
    import::nameable(&library, &args.name)?;
    let registry = args.login.registry(&args.reference)?;
    let reference = args.reference.to_string();
    let wrong = |error| refused(format!("cannot pull {reference}"), error);
    let present = library.imported(&args.name).filter(|imported| imported.reference == reference);
    if let Some(present) = present {
        let current = match args.policy {
            Policy::Missing => true,
            Policy::Always => {
                let digest = registry.resolve(&Bounds::DEFAULT).await.map_err(wrong)?;
                digest.to_string() == present.source_digest
            }
        };
        if current {
            return import::say(&import::present(&library, &args.name, present)?, args.output.format);
        }
    }
    // Where it lies until it is unpacked; gone when this is dropped.
    let layout =
        library.staging().map_err(|error| failed(format!("cannot make room for {reference}"), error))?;
    let show = Show::new(&args.name);
    let tell = |done, total| show.step(copying(done, total));
    registry.pull(&layout.root(), &Bounds::DEFAULT, &tell).await.map_err(wrong)?;
    drop(show);
    let task = tokio::task::spawn_blocking(move || {
        let input = Input::Layout(layout.root());
        let made = import::make(&library, &args.name, input, (reference, None));
        drop(layout);
        made
    });
    let made = task.await.map_err(|panic| Failure::new("the import broke off").because(panic))??;
    import::say(&made, args.output.format)
}

pub(super) async fn push(args: PushArgs, global: &Global) -> Result<Exit, Failure> {
    let library = Arc::new(library(global)?);
    let registry = args.login.registry(&args.reference)?;
    let reference = args.reference.to_string();
    let work =
        library.staging().map_err(|error| failed(format!("cannot make room for {reference}"), error))?;
    let path = work.root().join("image.tar");
    let (_, recipe) = export::recipe(&library, &args.name, global).await?;
    let exported = tokio::task::spawn_blocking(move || write(&recipe, &path));
    let file = exported.await.map_err(|panic| Failure::new("the export broke off").because(panic))??;
    let show = Show::new(&args.name);
    let tell = |done, total| show.step(copying(done, total));
    let digest = registry
        .push(file, &tell)
        .await
        .map_err(|error| refused(format!("cannot push {reference}"), error))?;
    drop(show);
    let pushed = Pushed { name: args.name, reference, image_digest: digest.to_string() };
    match args.output.format {
        Format::Json => output::json(&pushed),
        Format::Text => output::text(&format!("{} {}", pushed.reference, pushed.image_digest)),
    }
}

fn write(recipe: &Recipe, path: &Path) -> Result<File, Failure> {
    export::to_file(recipe, path)?;
    File::open(path).map_err(|error| Failure::new("cannot read the image again").because(error))
}

fn copying(done: u64, total: u64) -> Progress {
    Progress { stage: Stage::Copying, files_done: 0, files_total: 0, bytes_done: done, bytes_total: total }
}

fn refused(what: String, error: RegistryError) -> Failure {
    let next = match &error {
        RegistryError::Denied { .. } => {
            "give --username with --password-file, or --registry-token-file, or run `docker login`"
        }
        RegistryError::Missing { .. } => {
            "see how name and tag are written there; a private one is often said to be missing"
        }
        RegistryError::Http { .. } => {
            "see that it answers from here; where it speaks no TLS give --plain-http, and --ca-file where its \
             certificate is of an authority of your own"
        }
        _ => return Failure::new(what).because(error),
    };
    let denied = matches!(error, RegistryError::Denied { .. });
    let failure = Failure::new(what).because(error).next(next);
    if denied { failure.exit(Exit::REFUSED) } else { failure }
}

impl Login {
    fn registry(&self, reference: &Reference) -> Result<Registry, Failure> {
        let authorities = self.ca_file.as_deref().map(secret).transpose()?;
        let access = Access {
            credentials: self.credentials(reference)?,
            plain_http: self.plain_http,
            authorities: authorities.map(String::into_bytes),
        };
        Registry::new(reference.clone(), access)
            .map_err(|error| refused(format!("cannot reach {reference}"), error))
    }

    fn credentials(&self, reference: &Reference) -> Result<Option<Credentials>, Failure> {
        if let Some(path) = &self.registry_token_file {
            return Ok(Some(Credentials::Token(secret(path)?)));
        }
        if let Some(username) = &self.username {
            let password = match &self.password_file {
                Some(path) => secret(path)?,
                None => variable("FUMEHOOD_REGISTRY_PASSWORD").ok_or_else(|| {
                    Failure::new("a user name without a password")
                        .next("give --password-file, or set FUMEHOOD_REGISTRY_PASSWORD")
                })?,
            };
            return Ok(Some(Credentials::Password { username: username.clone(), password }));
        }
        match variable("FUMEHOOD_REGISTRY_TOKEN") {
            Some(token) => Ok(Some(Credentials::Token(token))),
            None => of_docker(reference),
        }
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn secret(path: &Path) -> Result<String, Failure> {
    let wrong = |error| Failure::new(format!("cannot read {}", path.display())).because(error);
    let meta = fs::metadata(path).map_err(wrong)?;
    if meta.len() > SECRET_FILE_BYTES_MAX {
        return Err(Failure::new(format!("{} is no file with a secret: it is too long", path.display())));
    }
    Ok(fs::read_to_string(path).map_err(wrong)?.trim_end_matches(['\r', '\n']).to_owned())
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: std::collections::BTreeMap<String, DockerAuth>,
}

#[derive(Deserialize)]
struct DockerAuth {
    auth: Option<String>,
}

/// What `docker login` wrote into its `config.json`. Programs that it names there are not run.
fn of_docker(reference: &Reference) -> Result<Option<Credentials>, Failure> {
    let dir = variable("DOCKER_CONFIG").map(PathBuf::from);
    let dir = dir.or_else(|| variable("HOME").map(|home| Path::new(&home).join(".docker")));
    let Some(path) = dir.map(|dir| dir.join("config.json")).filter(|path| path.is_file()) else {
        return Ok(None);
    };
    let wrong = || Failure::new(format!("cannot read {}", path.display()));
    let config: DockerConfig =
        serde_json::from_str(&secret(&path)?).map_err(|error| wrong().because(error))?;
    let names = match reference.registry() {
        "docker.io" => vec!["https://index.docker.io/v1/".to_owned(), "docker.io".to_owned()],
        host => vec![host.to_owned(), format!("https://{host}"), format!("https://{host}/v2/")],
    };
    let auth = names.iter().find_map(|name| config.auths.get(name)?.auth.clone());
    let Some(auth) = auth.filter(|auth| !auth.is_empty()) else { return Ok(None) };
    let decoded = STANDARD.decode(auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
    let (username, password) = pair.ok_or_else(|| {
        wrong().because(anyhow::anyhow!("what it keeps for {} is no name and password", reference.registry()))
    })?;
    Ok(Some(Credentials::Password { username: username.to_owned(), password: password.to_owned() }))
}
