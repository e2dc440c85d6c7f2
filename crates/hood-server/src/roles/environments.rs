//! What code can run in here: the declarations that come with the binary, the operator's, and the
//! images that were made from them or imported.

use std::path::Path;

use anyhow::{Context as _, bail};
use hood_dispatch::environment::{self, Declaration, Library};

use super::data_dir::make_private;
use crate::config::Config;

/// The library of this data directory. Any number of processes may have it open.
pub fn open_library(config: &Config) -> anyhow::Result<Library> {
    make_private(&config.data_dir)?;
    let declarations = declarations(&config.environments.dir)?;
    Ok(Library::open(&config.environments.images_dir, declarations)?)
}

/// The built-in declarations and those of the operator, who may not redefine a built-in one: its name
/// would promise something else than on another machine.
fn declarations(dir: &Path) -> anyhow::Result<Vec<Declaration>> {
    let mut declarations = environment::builtin()?;
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(declarations),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", dir.display())),
    };
    let mut paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    for path in paths {
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let declaration = Declaration::parse(&text, &path.to_string_lossy())?;
        if declarations.iter().any(|known| known.name == declaration.name) {
            bail!(
                "{}: environment `{}` is declared twice; choose another name",
                path.display(),
                declaration.name
            );
        }
        declarations.push(declaration);
    }
    Ok(declarations)
}
