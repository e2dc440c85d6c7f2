//! `fumehood env lock`: which packages an environment is made of, decided once.

use std::path::{Path, PathBuf};

use hood_dispatch::environment::{Base, Declaration, Lock, resolve};
use serde::Serialize;

use super::super::exit::Exit;
use super::super::failure::Failure;
use super::super::global::Global;
use super::super::output::{self, Format};
use super::super::spinner::Spinner;
use super::failed;
use crate::roles::declarations::declaration;
use crate::roles::sources;

#[derive(Debug, Serialize)]
struct Locked {
    name: String,
    file: PathBuf,
    debs: usize,
    wheels: usize,
    /// Lines of the lock that were not in the one before.
    changed: usize,
}

pub(super) async fn execute(
    name: &str,
    out: Option<&Path>,
    format: Format,
    global: &Global,
) -> Result<Exit, Failure> {
    let config = global.load()?.config;
    let found = declaration(&config, name).map_err(|error| {
        let next = error.next_step();
        Failure::new(format!("cannot read the declaration of `{name}`")).because(error).next(next)
    })?;
    let Some(declaration) = found else {
        return Err(Failure::new(format!("no environment is called `{name}`"))
            .next("`fumehood env list` shows what there is")
            .exit(Exit::REFUSED));
    };
    if declaration.base != Base::Locked {
        let base = declaration.base.as_str();
        return Err(Failure::new(format!("`{name}` has base {base}: only base locked has packages to lock"))
            .exit(Exit::REFUSED));
    }
    let file = place(&declaration, out, &config.environments.dir)?;
    let spinner = Spinner::start(format!("asking apt and pip what `{name}` is made of"));
    let from = sources(&config);
    let task = tokio::task::spawn_blocking(move || {
        let scratch = tempfile::tempdir();
        scratch.map(|scratch| resolve(&declaration, &from, scratch.path()))
    });
    let broke = |error: anyhow::Error| Failure::new(format!("cannot lock `{name}`")).because(error);
    let lock = task.await.map_err(|panic| broke(panic.into()))?.map_err(|error| broke(error.into()))?;
    drop(spinner);
    let lock = lock.map_err(|error| failed(format!("cannot lock `{name}`"), error))?;
    say(name, file, &lock, format)
}

fn place(declaration: &Declaration, out: Option<&Path>, dir: &Path) -> Result<PathBuf, Failure> {
    if let Some(out) = out {
        return Ok(out.to_owned());
    }
    let name = &declaration.name;
    if !dir.join(format!("{name}.toml")).exists() {
        return Err(Failure::new(format!("`{name}` comes with fumehood, and so does its lock"))
            .next("copy its declaration under another name, or write the lock elsewhere with --out FILE"));
    }
    Ok(dir.join(format!("{name}.lock")))
}

fn say(name: &str, file: PathBuf, lock: &Lock, format: Format) -> Result<Exit, Failure> {
    let text = lock.text();
    let before = std::fs::read_to_string(&file).unwrap_or_default();
    let changed = text.lines().filter(|line| !before.lines().any(|old| old == *line)).count();
    std::fs::write(&file, &text)
        .map_err(|error| Failure::new(format!("cannot write {}", file.display())).because(error))?;
    let locked =
        Locked { name: name.to_owned(), file, debs: lock.debs.len(), wheels: lock.wheels.len(), changed };
    match format {
        Format::Json => output::json(&locked),
        Format::Text => {
            let Locked { name, file, debs, wheels, changed } = locked;
            let file = file.display();
            output::text(&format!(
                "{name}: {debs} Debian packages, {wheels} wheels, {changed} lines new in {file}"
            ))
        }
    }
}
