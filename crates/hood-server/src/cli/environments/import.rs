//! `fumehood env import`: an image from elsewhere becomes an environment.

use std::fs::File;
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use hood_dispatch::environment::{IMAGE_OWNER, Image, Imported, Library, Progress, Stage};
use hood_image::{LeftOut, Step, Unpacked};
use serde::Serialize;

use super::super::exit::Exit;
use super::super::failure::Failure;
use super::super::global::Global;
use super::super::output::{self, Format};
use super::super::terminal::Text;
use super::super::units;
use super::build::Show;
use super::{Output, failed, library};
use crate::unpacker::{Input, Job};

const EXAMPLES: &str = "\
Examples:
  docker save debian:12-slim | fumehood env import - --name debian
  fumehood env import image.tar --name tools
  fumehood env import layout/ --name tools --image v2
  fumehood run --env tools -- ls -l /

The image's layers become a tree of files in which nothing is set-user-id, a device or has attributes;
everything in it can be read. It is unpacked by a process that can do nothing else. Code runs in it as in
any environment: docs/environments.md says what of the image's own settings counts.";

/// Make an image that `docker save` wrote, or an OCI layout, an environment of this machine.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The archive (with gzip or zstd or without), the directory of a layout, or - for standard input.
    #[arg(value_name = "ARCHIVE")]
    archive: PathBuf,
    /// What the environment is called from now on; an earlier import of the name is replaced.
    #[arg(long, value_name = "NAME")]
    name: String,
    /// Which image, where the archive holds several: a tag.
    #[arg(long, value_name = "TAG")]
    image: Option<String>,
    #[command(flatten)]
    output: Output,
}

/// An environment that was made of an image.
#[derive(Debug, Serialize)]
pub(super) struct Made {
    name: String,
    digest: String,
    size_bytes: u64,
    files: u64,
    reference: String,
    source_digest: String,
    /// Null where it was there already, as is what was left out.
    layers: Option<u64>,
    has_python: bool,
    left_out: Option<LeftOut>,
}

pub(super) async fn execute(args: Args, global: &Global) -> Result<Exit, Failure> {
    let library = library(global)?;
    let format = args.output.format;
    let task = tokio::task::spawn_blocking(move || import(&library, &args));
    let made = task.await.map_err(|panic| Failure::new("the import broke off").because(panic))??;
    say(&made, format)
}

pub(super) fn say(made: &Made, format: Format) -> Result<Exit, Failure> {
    match format {
        Format::Json => output::json(made),
        Format::Text => output::text(&text(made)),
    }
}

fn import(library: &Library, args: &Args) -> Result<Made, Failure> {
    let shown = args.archive.display();
    nameable(library, &args.name).map_err(|failure| failure.about(format!("cannot import {shown}")))?;
    let (input, reference) = if args.archive.as_os_str() == "-" {
        (Input::Stdin, "standard input".to_owned())
    } else if args.archive.is_dir() {
        (Input::Layout(args.archive.clone()), file_name(&args.archive))
    } else {
        let file = File::open(&args.archive)
            .map_err(|error| Failure::new(format!("cannot open {shown}")).because(error))?;
        (Input::File(file), file_name(&args.archive))
    };
    let reference = match &args.image {
        Some(image) => format!("{reference}, {image}"),
        None => reference,
    };
    make(library, &args.name, input, (reference, args.image.as_deref()))
        .map_err(|failure| failure.about(format!("cannot import {shown}")))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Before anything of the image is read: a bad name is known at once.
pub(super) fn nameable(library: &Library, name: &str) -> Result<(), Failure> {
    let refused = |error| failed(format!("cannot make environment `{name}`"), error);
    library.may_import(name).map_err(|error| refused(error).next("choose another --name").exit(Exit::REFUSED))
}

/// Unpacks an archive and makes its tree the environment `name`. `of` says what to call the image's
/// origin, and which of the archive's images is meant.
pub(super) fn make(
    library: &Library,
    name: &str,
    input: Input,
    (reference, image): (String, Option<&str>),
) -> Result<Made, Failure> {
    let wrong = || Failure::new(format!("cannot make environment `{name}`"));
    let staging =
        library.staging().map_err(|error| failed(format!("cannot make environment `{name}`"), error))?;
    let show = Show::new(name);
    let job = Job { input, name: image, root: &staging.root(), id: IMAGE_OWNER };
    let unpacked = job.run(&|step| show.step(progress(step))).map_err(|error| wrong().because(error))?;
    let Unpacked { config, digest, layers, has_python, left_out, .. } = unpacked;
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    let imported = Imported {
        reference: reference.clone(),
        source_digest: digest.clone(),
        entrypoint: config.entrypoint,
        command: config.cmd,
        env: config.env,
        workdir: given(config.workdir),
        user: given(config.user),
        has_python,
    };
    let added = library.add_imported(staging, name, &imported, &|progress| show.step(progress));
    let Image { name, digest: tree, size_bytes, files, .. } =
        added.map_err(|error| failed(format!("cannot make environment `{name}`"), error))?;
    Ok(Made {
        name,
        digest: tree,
        size_bytes,
        files,
        reference,
        source_digest: digest,
        layers: Some(layers),
        has_python,
        left_out: Some(left_out),
    })
}

/// An environment that is there already, as if it had been made now.
pub(super) fn present(library: &Library, name: &str, imported: Imported) -> Result<Made, Failure> {
    let image = library.ensure(name, &|_| ());
    let image = image.map_err(|error| failed(format!("cannot use environment `{name}`"), error))?;
    Ok(Made {
        name: image.name,
        digest: image.digest,
        size_bytes: image.size_bytes,
        files: image.files,
        reference: imported.reference,
        source_digest: imported.source_digest,
        layers: None,
        has_python: imported.has_python,
        left_out: None,
    })
}

fn progress(step: Step) -> Progress {
    let stage = if step.writing { Stage::Copying } else { Stage::Checking };
    Progress { stage, files_done: 0, files_total: 0, bytes_done: step.done, bytes_total: step.total }
}

fn text(made: &Made) -> String {
    let Made { name, digest, size_bytes, files, reference, source_digest, layers, has_python, left_out } =
        made;
    let of = layers.map_or_else(|| ", there already".to_owned(), |layers| format!(", of {layers} layers"));
    let mut lines = vec![
        format!("{name} {digest}"),
        format!("  {} in {files} files{of}", units::show_bytes(*size_bytes)),
        format!("  from {}, {}", Text::line(reference), Text::line(source_digest)),
    ];
    let left = left_out.unwrap_or_default();
    let left = [(left.devices, "devices"), (left.set_id, "set-id bits"), (left.attributes, "attributes")];
    let left: Vec<String> =
        left.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    if !left.is_empty() {
        lines.push(format!("  left out: {}", left.join(", ")));
    }
    if !has_python {
        lines.push("  has no python3: code needs a command that runs it".to_owned());
    }
    lines.join("\n")
}
