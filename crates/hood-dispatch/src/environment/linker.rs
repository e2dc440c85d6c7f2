//! Which file of this host a shared object's name means: the dynamic loader's rules, followed
//! without running anything.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::elf::{self, Machine, Object};

/// Objects that one executable with all its extensions may need; CPython needs about 30.
pub(super) const OBJECTS_MAX: usize = 512;

const CACHE: &str = "/etc/ld.so.cache";

/// Where loaders look without being told.
const DEFAULT_DIRS: [&str; 5] = ["/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib"];

#[derive(Debug)]
pub(super) enum LinkError {
    Missing { library: String, wanted_by: PathBuf },
    TooMany,
    Read { path: PathBuf, source: io::Error },
}

/// Shared objects found so far, by the name that asks for them.
pub(super) type Libraries = BTreeMap<String, PathBuf>;

#[derive(Debug)]
pub(super) struct Linker {
    machine: Machine,
    library_path: Vec<PathBuf>,
    default_dirs: Vec<PathBuf>,
    cache: HashMap<String, PathBuf>,
    /// The executable's own RPATH, which counts for everything that it loads.
    root_rpath: Vec<PathBuf>,
    found: Libraries,
}

impl Linker {
    /// For one executable. `library_path` is what LD_LIBRARY_PATH holds for it.
    pub(super) fn new(executable: &Path, root: &Object, library_path: &str) -> Self {
        let mut default_dirs: Vec<PathBuf> = DEFAULT_DIRS.map(PathBuf::from).to_vec();
        // A distribution with directories by architecture keeps its loader in one.
        let loader = root.interpreter.as_deref().and_then(|path| fs::canonicalize(path).ok());
        default_dirs.extend(loader.as_deref().and_then(Path::parent).map(Path::to_owned));
        Self {
            machine: root.machine,
            library_path: library_path
                .split(':')
                .filter(|dir| dir.starts_with('/'))
                .map(PathBuf::from)
                .collect(),
            default_dirs,
            cache: fs::read(CACHE).map(|bytes| parse_cache(&bytes)).unwrap_or_default(),
            root_rpath: if root.runpath.is_empty() { expand(&root.rpath, executable) } else { Vec::new() },
            found: BTreeMap::new(),
        }
    }

    pub(super) fn into_libraries(self) -> Libraries {
        self.found
    }

    /// Finds all that an object needs, and what that needs in turn. Where something is missing,
    /// nothing is added.
    pub(super) fn require(&mut self, path: &Path, object: &Object) -> Result<(), LinkError> {
        let mut added = Libraries::new();
        let mut queue = vec![(path.to_owned(), object.clone(), self.root_rpath.clone())];
        while let Some((path, object, inherited)) = queue.pop() {
            let (own, rpath) = if object.runpath.is_empty() {
                let mut rpath = expand(&object.rpath, &path);
                rpath.extend(inherited);
                (Vec::new(), rpath)
            } else {
                (expand(&object.runpath, &path), inherited)
            };
            for name in &object.needed {
                if self.found.contains_key(name) || added.contains_key(name) {
                    continue;
                }
                let search = if own.is_empty() { rpath.as_slice() } else { &[] };
                let (file, needed) = self
                    .find(name, search, &own)?
                    .ok_or_else(|| LinkError::Missing { library: name.clone(), wanted_by: path.clone() })?;
                added.insert(name.clone(), file.clone());
                if self.found.len() + added.len() > OBJECTS_MAX {
                    return Err(LinkError::TooMany);
                }
                queue.push((file, needed, rpath.clone()));
            }
        }
        self.found.append(&mut added);
        Ok(())
    }

    /// One object by its name alone: what a library opens at run time without needing it on paper.
    pub(super) fn require_if_there(&mut self, name: &str) -> Result<(), LinkError> {
        if self.found.contains_key(name) {
            return Ok(());
        }
        let Some((file, object)) = self.find(name, &[], &[])? else { return Ok(()) };
        self.require(&file, &object)?;
        self.found.insert(name.to_owned(), file);
        Ok(())
    }

    fn find(
        &self,
        name: &str,
        rpath: &[PathBuf],
        runpath: &[PathBuf],
    ) -> Result<Option<(PathBuf, Object)>, LinkError> {
        let absolute = name.starts_with('/').then(|| PathBuf::from(name));
        let dirs = rpath.iter().chain(&self.library_path).chain(runpath).map(|dir| dir.join(name));
        let defaults = self.default_dirs.iter().map(|dir| dir.join(name));
        let candidates = dirs.chain(self.cache.get(name).cloned()).chain(defaults);
        for candidate in absolute.into_iter().chain(candidates) {
            let Ok(file) = fs::canonicalize(&candidate) else { continue };
            let read = elf::read(&file).map_err(|source| LinkError::Read { path: file.clone(), source })?;
            // As the loader does, one of another architecture is passed over.
            if let Some(object) = read.filter(|object| object.machine == self.machine) {
                return Ok(Some((file, object)));
            }
        }
        Ok(None)
    }
}

fn expand(dirs: &[String], object: &Path) -> Vec<PathBuf> {
    let origin = object.parent().unwrap_or(Path::new("/")).to_string_lossy();
    dirs.iter()
        .map(|dir| PathBuf::from(dir.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin)))
        .filter(|dir| dir.is_absolute())
        .collect()
}

/// The loader's cache in glibc's format, as far as it can be read; variants for particular
/// processors are left out, because an image may outlive a move to another one.
fn parse_cache(bytes: &[u8]) -> HashMap<String, PathBuf> {
    const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
    const HEADER: usize = 48;
    const ENTRY: usize = 24;
    let mut libraries = HashMap::new();
    // An older format may come first, with this one behind it.
    let Some(start) = bytes.windows(MAGIC.len()).position(|window| window == MAGIC) else { return libraries };
    let bytes = &bytes[start..];
    let number = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let text = |at: u32| {
        let rest = bytes.get(usize::try_from(at).ok()?..)?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        std::str::from_utf8(&rest[..end]).ok()
    };
    let count = number(MAGIC.len()).map_or(0, |count| count as usize);
    let entries = bytes.get(HEADER..).unwrap_or_default().chunks_exact(ENTRY).take(count);
    for (index, entry) in entries.enumerate() {
        let at = HEADER + index * ENTRY;
        let variant = entry[16..].iter().any(|byte| *byte != 0);
        let named = || Some((text(number(at + 4)?)?, text(number(at + 8)?)?));
        if let Some((name, path)) = named().filter(|_| !variant) {
            // The first is the loader's choice.
            libraries.entry(name.to_owned()).or_insert_with(|| PathBuf::from(path));
        }
    }
    libraries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_is_cut_short_or_scrambled_gives_less_and_never_panics() {
        let Ok(cache) = fs::read(CACHE) else { return };
        let whole = parse_cache(&cache);
        for length in (0..cache.len()).step_by(97) {
            assert!(parse_cache(&cache[..length]).len() <= whole.len());
        }
        for at in (0..cache.len()).step_by(61) {
            let mut scrambled = cache.clone();
            scrambled[at] ^= 0xff;
            parse_cache(&scrambled);
        }
    }

    #[test]
    fn origin_is_where_the_object_lies_and_relative_paths_are_dropped() {
        let dirs = ["$ORIGIN/../lib", "${ORIGIN}/x", "lib", "/opt/lib"].map(str::to_owned);
        let expanded = expand(&dirs, Path::new("/a/bin/python3"));
        assert_eq!(expanded, ["/a/bin/../lib", "/a/bin/x", "/opt/lib"].map(PathBuf::from));
    }
}
