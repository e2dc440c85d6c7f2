//! Declarations as files: those that come with the binary, and the operator's.

use std::io;
use std::path::{Path, PathBuf};

use hood_dispatch::environment::{self, Declaration, DeclarationError};

use crate::config::Config;

/// What is wrong with one file of `environments.dir`.
#[derive(Debug, thiserror::Error)]
pub enum DeclarationsError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Declaration(#[from] DeclarationError),
    #[error("{}: {problem}", path.display())]
    Lock { name: String, path: PathBuf, problem: String },
    #[error("{}: environment `{name}` is declared already", path.display())]
    Twice { name: String, path: PathBuf },
}

impl DeclarationsError {
    /// What to do about it. Until then no command can tell which environments there are.
    pub fn next_step(&self) -> String {
        match self {
            Self::Read { path, .. } => format!("mend {} or move it away", path.display()),
            Self::Declaration(error) => format!("mend {} or move it away", error.file),
            Self::Lock { name, .. } => format!("`fumehood env lock {name}` makes the lock anew"),
            Self::Twice { path, .. } => format!("give it another name, or move {} away", path.display()),
        }
    }

    fn read(path: &Path, source: io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }
}

/// Every declaration, each with its lock where it has one.
pub(super) fn declarations(config: &Config) -> Result<Vec<Declaration>, DeclarationsError> {
    let (declarations, problems) = look(&config.environments.dir);
    problems.into_iter().next().map_or(Ok(declarations), Err)
}

/// What is wrong with any of the files.
pub fn problems(config: &Config) -> Vec<DeclarationsError> {
    look(&config.environments.dir).1
}

/// One declaration without its lock, which may be what is wrong. Other files are not looked at.
pub fn declaration(config: &Config, name: &str) -> Result<Option<Declaration>, DeclarationsError> {
    let ours = environment::builtin()?.into_iter().find(|known| known.name == name);
    let path = config.environments.dir.join(format!("{name}.toml"));
    if !environment::is_name(name) || !path.exists() {
        return Ok(ours);
    }
    match ours {
        Some(_) => Err(DeclarationsError::Twice { name: name.to_owned(), path }),
        None => parse(&path).map(Some),
    }
}

/// The built-in declarations and those of the operator, who may not redefine a built-in one: its name
/// would promise something else than on another machine.
fn look(dir: &Path) -> (Vec<Declaration>, Vec<DeclarationsError>) {
    let mut declarations = match environment::builtin() {
        Ok(declarations) => declarations,
        Err(error) => return (Vec::new(), vec![error.into()]),
    };
    let paths = match files(dir) {
        Ok(paths) => paths,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return (declarations, vec![DeclarationsError::read(dir, error)]),
    };
    let mut problems = Vec::new();
    for path in paths {
        match parse(&path).and_then(|declaration| with_lock(declaration, &path)) {
            Ok(Declaration { name, .. }) if declarations.iter().any(|known| known.name == name) => {
                problems.push(DeclarationsError::Twice { name, path });
            }
            Ok(declaration) => declarations.push(declaration),
            Err(error) => problems.push(error),
        }
    }
    (declarations, problems)
}

fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = std::fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<PathBuf>>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    Ok(paths)
}

fn parse(path: &Path) -> Result<Declaration, DeclarationsError> {
    let text = std::fs::read_to_string(path).map_err(|error| DeclarationsError::read(path, error))?;
    Ok(Declaration::parse(&text, &path.to_string_lossy())?)
}

fn with_lock(declaration: Declaration, path: &Path) -> Result<Declaration, DeclarationsError> {
    let (path, name) = (path.with_extension("lock"), declaration.name.clone());
    let damaged = |problem: String| DeclarationsError::Lock { name, path: path.clone(), problem };
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let problem = |error: DeclarationError| {
                error.problems.into_iter().map(|found| found.problem).collect::<Vec<_>>().join("; ")
            };
            let locked = declaration.with_lock(&text, &path.to_string_lossy());
            locked.map_err(|error| damaged(problem(error)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(declaration),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(damaged(error.to_string())),
        Err(error) => Err(DeclarationsError::read(&path, error)),
    }
}
