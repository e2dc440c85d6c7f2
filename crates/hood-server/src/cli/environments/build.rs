//! `fumehood env build`: images before they are needed.

use std::io::{self, IsTerminal as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use hood_dispatch::environment::{Declaration, Image, Library, Progress, Stage, Status};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::super::connect::warn;
use super::super::exit::Exit;
use super::super::failure::Failure;
use super::super::global::Global;
use super::super::output::{self, Format};
use super::super::terminal::Text;
use super::super::units;
use super::{failed, library};
use crate::roles::BuildPlaces;

/// One environment that is ready now.
#[derive(Debug, Serialize)]
struct Built {
    name: String,
    digest: String,
    size_bytes: u64,
    files: u64,
    interpreter: String,
    /// False where it was there already, and was checked.
    built: bool,
    seconds: f64,
}

pub(super) async fn execute(names: &[String], format: Format, global: &Global) -> Result<Exit, Failure> {
    let library = Arc::new(library(global)?);
    let all = in_places(&library, names, global, each(&library, names, format)).await?;
    match format {
        Format::Json => output::json(&all),
        Format::Text => Ok(Exit::DONE),
    }
}

/// The image of one environment, built first where it must be.
pub(super) async fn image(library: &Arc<Library>, name: &str, global: &Global) -> Result<Image, Failure> {
    let (image, _) = in_places(library, &[name.to_owned()], global, ensure(library, name)).await?;
    Ok(image)
}

/// Does work that may build these environments, with places for it where one of them may need any.
async fn in_places<T>(
    library: &Arc<Library>,
    names: &[String],
    global: &Global,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let compiled = |one: &Declaration| names.contains(&one.name) && one.packages.python_version.is_some();
    let compiled: Vec<_> = library.declarations().into_iter().filter(compiled).collect();
    if compiled.is_empty() {
        return work.await;
    }
    let places = BuildPlaces::promise(global.load()?.config, library);
    // What is certain to need them should fail before anything is downloaded.
    if compiled.iter().any(|one| library.status(&one.name) == Status::NotBuilt) {
        places.make().await.map_err(|error| {
            Failure::new("cannot make the sandbox that builds run in")
                .because(error)
                .next("`fumehood doctor` says what this host lacks")
        })?;
    }
    let done = work.await;
    places.end().await;
    done
}

async fn each(library: &Arc<Library>, names: &[String], format: Format) -> Result<Vec<Built>, Failure> {
    let mut all = Vec::new();
    for name in names {
        let built = one(library, name).await?;
        if format == Format::Text {
            output::text(&line(&built))?;
        }
        all.push(built);
    }
    Ok(all)
}

async fn one(library: &Arc<Library>, name: &str) -> Result<Built, Failure> {
    let start = Instant::now();
    let (image, built) = ensure(library, name).await?;
    let Image { name, digest, size_bytes, files, interpreter, .. } = image;
    let seconds = start.elapsed().as_secs_f64();
    Ok(Built { name, digest, size_bytes, files, interpreter, built, seconds })
}

/// The image, and whether it was built now.
async fn ensure(library: &Arc<Library>, name: &str) -> Result<(Image, bool), Failure> {
    let (library, wanted) = (Arc::clone(library), name.to_owned());
    let task = tokio::task::spawn_blocking(move || {
        let show = Show::new(&wanted);
        let image = library.ensure(&wanted, &|progress| show.step(progress));
        (image, show.was_built())
    });
    let (image, built) =
        task.await.map_err(|panic| Failure::new(format!("the build of {name} broke off")).because(panic))?;
    let image = image.map_err(|error| failed(format!("cannot build environment `{name}`"), error))?;
    Ok((image, built))
}

fn line(built: &Built) -> String {
    let Built { name, digest, size_bytes, files, seconds, .. } = built;
    let how = if built.built { "built" } else { "checked" };
    let size = units::show_bytes(*size_bytes);
    format!("{name} {digest}\n  {size} in {files} files, {how} in {seconds:.1} s")
}

/// Tells how far a build is: on a terminal as a bar, off one as a line for each stage.
pub(super) struct Show {
    name: String,
    bar: Option<ProgressBar>,
    stage: Mutex<Option<Stage>>,
}

impl Show {
    pub(super) fn new(name: &str) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{msg} {wide_bar} {percent:>3} % {bytes}/{total_bytes}");
            style.map_or_else(|_| bar.clone(), |style| bar.clone().with_style(style))
        });
        Self { name: Text::line(name), bar, stage: Mutex::new(None) }
    }

    pub(super) fn step(&self, progress: Progress) {
        let mut last = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = *last != Some(progress.stage);
        let named = format!("{}: {}", self.name, progress.stage.as_str());
        match &self.bar {
            Some(bar) => {
                if changed {
                    bar.set_message(named);
                }
                bar.set_length(progress.bytes_total);
                bar.set_position(progress.bytes_done);
            }
            None if changed && progress.bytes_total > 0 => {
                warn(&format!("{named}, {}", units::show_bytes(progress.bytes_total)));
            }
            None if changed => warn(&named),
            None => {}
        }
        *last = Some(progress.stage);
    }

    fn was_built(&self) -> bool {
        let last = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|stage| !matches!(stage, Stage::Checking | Stage::Waiting))
    }
}

impl Drop for Show {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
