//! `fumehood env export`: an environment as a container image.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args as ClapArgs;
use hood_core::program::{BASE_ENV, WORK_DIR};
use hood_dispatch::AGENT;
use hood_dispatch::environment::{Image, Library, Lock};
use hood_image::{
    Component, Digest, Exported, ImageConfig, Recipe, Source, bill_of_materials, export, installed,
};
use serde::Serialize;

use super::super::exit::Exit;
use super::super::failure::Failure;
use super::super::global::Global;
use super::super::output::{self, Format};
use super::super::units;
use super::{Output, build, library};

const EXAMPLES: &str = "\
Examples:
  fumehood env export tools --oci tools.tar
  docker load < tools.tar

The same environment gives the same bytes, wherever and whenever. Beside the image lies tools.tar.cdx.json,
a CycloneDX list of what it is made of.";

/// Where the agent lies in an image. An import leaves it out again.
const AGENT_PATH: &str = ".fumehood/hood-agent";
/// Who programs are in an image: nobody's, and not root.
const USER: &str = "1000:1000";

/// Write an environment as an OCI image that holds the agent too.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Name of the environment.
    name: String,
    /// The file to write; an OCI layout as a tar file.
    #[arg(long, value_name = "FILE")]
    oci: PathBuf,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Serialize)]
struct Written {
    name: String,
    /// Of the environment's tree, as `env inspect` shows it.
    digest: String,
    /// Of the image's manifest.
    image_digest: String,
    bytes: u64,
    file: String,
    bill_of_materials: String,
    components: usize,
}

pub(super) async fn execute(args: Args, global: &Global) -> Result<Exit, Failure> {
    let library = Arc::new(library(global)?);
    let format = args.output.format;
    let made = recipe(&library, &args.name, global).await?;
    let task = tokio::task::spawn_blocking(move || write(&library, &args, &made));
    let written = task.await.map_err(|panic| Failure::new("the export broke off").because(panic))??;
    match format {
        Format::Json => output::json(&written),
        Format::Text => output::text(&format!(
            "{} {}\n  {}, {} components in {}",
            written.file,
            written.image_digest,
            units::show_bytes(written.bytes),
            written.components,
            written.bill_of_materials
        )),
    }
}

fn write(library: &Library, args: &Args, (image, recipe): &(Image, Recipe)) -> Result<Written, Failure> {
    let exported = to_file(recipe, &args.oci)?;
    let components = components(image, lock(library, &args.name).as_deref());
    let bill = bill_of_materials(&args.name, &exported.digest.to_string(), &components);
    let path = beside(&args.oci, ".cdx.json");
    let text = serde_json::to_string_pretty(&bill).unwrap_or_default() + "\n";
    fs::write(&path, text).map_err(|error| cannot_write(&path, error))?;
    Ok(Written {
        name: args.name.clone(),
        digest: image.digest.clone(),
        image_digest: exported.digest.to_string(),
        bytes: exported.bytes,
        file: args.oci.display().to_string(),
        bill_of_materials: path.display().to_string(),
        components: components.len(),
    })
}

/// What it is made of, if that was decided beforehand.
fn lock(library: &Library, name: &str) -> Option<Arc<Lock>> {
    library.declarations().into_iter().find(|declaration| declaration.name == name)?.lock
}

/// What an environment's image is made of, its tree checked or built first.
pub(super) async fn recipe(
    library: &Arc<Library>,
    name: &str,
    global: &Global,
) -> Result<(Image, Recipe), Failure> {
    let declaration = library.declarations().into_iter().find(|declaration| declaration.name == name);
    if declaration.is_some_and(|declaration| !declaration.base.is_portable()) {
        return Err(Failure::new(format!("environment `{name}` cannot be exported"))
            .because(anyhow::anyhow!(
                "it is a copy of this host's Python, which is another on another machine"
            ))
            .next("export one that is made of locked packages, or that was imported")
            .exit(Exit::REFUSED));
    }
    let image = build::image(library, name, global)
        .await
        .map_err(|failure| failure.about(format!("cannot export environment `{name}`")))?;
    let agent = (AGENT_PATH.to_owned(), AGENT.to_vec());
    let layers = vec![Source::Tree(image.root.clone()), Source::Programs(vec![agent])];
    let config = config(library, &image);
    let recipe = Recipe { layers, config, reference: format!("{name}:latest") };
    Ok((image, recipe))
}

/// An imported image keeps its settings; one of ours gets what a place gives it. No image runs as root.
fn config(library: &Library, image: &Image) -> ImageConfig {
    let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let labels = [
        ("dev.fumehood.agent", format!("/{AGENT_PATH}")),
        ("dev.fumehood.agent.digest", Digest::of(AGENT).to_string()),
        ("dev.fumehood.environment", image.name.clone()),
        ("dev.fumehood.read-only-root", "true".to_owned()),
        // Of the whole tree, and so of every package in it.
        ("dev.fumehood.tree.digest", image.digest.clone()),
    ];
    let mut labels = labels.map(|(name, value)| (name.to_owned(), value)).to_vec();
    if let Some(lock) = lock(library, &image.name) {
        let digest = Digest::of(lock.text().as_bytes()).to_string();
        labels.push(("dev.fumehood.lock.digest".to_owned(), digest));
    }
    let has_python = image.root.join("usr/bin/python3").symlink_metadata().is_ok();
    let ours = ImageConfig {
        cmd: vec![if has_python { "python3" } else { "sh" }.to_owned()],
        env: BASE_ENV.map(pair).to_vec(),
        user: USER.to_owned(),
        workdir: WORK_DIR.to_owned(),
        labels,
        ..ImageConfig::default()
    };
    match library.imported(&image.name) {
        None => ours,
        Some(imported) => ImageConfig {
            entrypoint: imported.entrypoint,
            cmd: imported.command,
            env: imported.env,
            workdir: imported.workdir.unwrap_or_default(),
            ..ours
        },
    }
}

fn components(image: &Image, lock: Option<&Lock>) -> Vec<Component> {
    let mut components = installed(&image.root);
    if let Some(lock) = lock {
        components.extend(lock.debs.iter().map(|deb| Component::debian(&deb.name, &deb.version)));
        components.extend(lock.wheels.iter().map(|wheel| Component::python(&wheel.name, &wheel.version)));
    }
    let agent = env!("CARGO_PKG_VERSION").to_owned();
    components.push(Component { name: "hood-agent".to_owned(), version: agent, purl: None });
    components.sort();
    components.dedup();
    components
}

/// Written beside, and moved when it is whole.
pub(super) fn to_file(recipe: &Recipe, to: &Path) -> Result<Exported, Failure> {
    let part = beside(to, ".part");
    let written = write_part(recipe, &part).and_then(|exported| {
        fs::rename(&part, to).map_err(|error| cannot_write(to, error))?;
        Ok(exported)
    });
    if written.is_err() {
        // It may be that it was never made.
        let _ = fs::remove_file(&part);
    }
    written
}

fn write_part(recipe: &Recipe, part: &Path) -> Result<Exported, Failure> {
    let spool_path = beside(part, ".layers");
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true);
    let open = |path: &Path| options.open(path).map_err(|error| cannot_write(path, error));
    let spool = open(&spool_path)?;
    // Open, it needs no name, and goes whatever happens.
    fs::remove_file(&spool_path).map_err(|error| cannot_write(&spool_path, error))?;
    export(recipe, open(part)?, spool).map_err(|error| Failure::new("cannot write the image").because(error))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn cannot_write(path: &Path, error: std::io::Error) -> Failure {
    Failure::new(format!("cannot write {}", path.display())).because(error)
}
