//! A package into a tree. The archive is read by a process that is able to do nothing else; what it
//! says is held against the tree's rules here.

use std::fs::File;
use std::io::{self, BufReader, Read};

use hood_wire::unpack::Message;

use super::error::EnvironmentError;
use super::tree::Tree;
use crate::UNPACKER;

/// What is read from the unpacker at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// Of what a Debian package holds, what no program needs: documentation but licences, translations,
/// what belongs to a desktop or to an installed system.
const LEFT_OF_DEBIAN: [&str; 19] = [
    "usr/share/man/",
    "usr/share/info/",
    "usr/share/locale/",
    "usr/share/lintian/",
    "usr/share/bug/",
    "usr/share/doc-base/",
    "usr/share/menu/",
    "usr/share/icons/",
    "usr/share/pixmaps/",
    "usr/share/applications/",
    "usr/share/bash-completion/",
    "usr/share/zsh/",
    "usr/share/gdb/",
    "usr/share/perl5/Debian/",
    "usr/share/python3/",
    "usr/share/binfmts/",
    "usr/lib/systemd/",
    // No place has it, and no import brings it.
    "sys/",
    "var/",
];
const DOCUMENTS: &str = "usr/share/doc/";
const LICENCE: &str = "/copyright";

/// Directories that lie beneath `/usr` and keep a link at the top, as Debian has it since 12.
const MERGED: [&str; 6] = ["bin", "sbin", "lib", "lib64", "lib32", "libx32"];

/// Which archive it is, and where its content goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind<'a> {
    Deb,
    /// Into this directory.
    Wheel(&'a str),
}

/// Adds a package to a tree.
pub(super) fn unpack(
    name: &str,
    kind: Kind<'_>,
    archive: File,
    tree: &mut Tree<'_>,
) -> Result<(), EnvironmentError> {
    let argument = match kind {
        Kind::Deb => "deb",
        Kind::Wheel(_) => "wheel",
    };
    let broken = |why: String| EnvironmentError::Package { name: name.to_owned(), why };
    let mut child = hood_sandbox::start_filter(UNPACKER, argument, archive)
        .map_err(|error| broken(format!("the unpacker cannot be started: {error}")))?;
    let said = match child.stdout.take() {
        Some(stdout) => add(kind, &mut BufReader::with_capacity(CHUNK_BYTES, stdout), tree),
        None => Err(Trouble::Archive("the unpacker has no output".to_owned())),
    };
    // Its output is closed, so that it ends by itself; where it was wrong, it is not waited for.
    if said.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| broken(format!("the unpacker's end is not known: {error}")))?;
    match said {
        Ok(()) => Ok(()),
        Err(Trouble::Tree(error)) => Err(broken(error.reason())),
        Err(Trouble::Archive(why)) => Err(broken(why)),
        Err(Trouble::Silent(error)) => Err(broken(format!("the unpacker broke off ({status}): {error}"))),
    }
}

enum Trouble {
    Tree(EnvironmentError),
    Archive(String),
    Silent(io::Error),
}

impl From<EnvironmentError> for Trouble {
    fn from(error: EnvironmentError) -> Self {
        Self::Tree(error)
    }
}

fn add(kind: Kind<'_>, from: &mut impl Read, tree: &mut Tree<'_>) -> Result<(), Trouble> {
    loop {
        match Message::read(from).map_err(Trouble::Silent)? {
            Message::End => return Ok(()),
            Message::Failed { why } => {
                return Err(Trouble::Archive(String::from_utf8_lossy(&why).into_owned()));
            }
            Message::Directory { path } => {
                // A wheel's directories come with their files.
                if let (Kind::Deb, Some(path)) = (kind, place(kind, &path)) {
                    tree.dir(&path)?;
                }
            }
            Message::Link { path, target } => {
                if let Some(path) = place(kind, &path) {
                    tree.link(&path, &target)?;
                }
            }
            Message::SameFile { path, target } => {
                if let (Some(path), Some(target)) = (place(kind, &path), place(kind, &target)) {
                    tree.same_file(&path, &target)?;
                }
            }
            Message::File { path, executable, size } => match place(kind, &path) {
                Some(path) => tree.file(&path, executable, size, &mut from.by_ref().take(size))?,
                None => {
                    let skipped = io::copy(&mut from.by_ref().take(size), &mut io::sink());
                    if skipped.map_err(Trouble::Silent)? != size {
                        return Err(Trouble::Silent(io::ErrorKind::UnexpectedEof.into()));
                    }
                }
            },
        }
    }
}

/// Where an entry goes; `None` for what stays behind. What is wrong with a path is the tree's to say.
fn place(kind: Kind<'_>, path: &[u8]) -> Option<Vec<u8>> {
    match kind {
        Kind::Deb => place_of_debian(path),
        Kind::Wheel(site) => place_of_wheel(path, site),
    }
}

fn place_of_debian(path: &[u8]) -> Option<Vec<u8>> {
    let path = path.strip_prefix(b"./").unwrap_or(path);
    let path = path.strip_suffix(b"/").unwrap_or(path);
    if path.is_empty() || path == b"." {
        return None;
    }
    let top = path.split(|byte| *byte == b'/').next().unwrap_or_default();
    let path = if MERGED.iter().any(|dir| dir.as_bytes() == top) {
        [b"usr/".as_slice(), path].concat()
    } else {
        path.to_vec()
    };
    let beneath =
        |dir: &str| path.starts_with(dir.as_bytes()) || path == dir.trim_end_matches('/').as_bytes();
    if beneath(DOCUMENTS) {
        return path.ends_with(LICENCE.as_bytes()).then_some(path);
    }
    (!LEFT_OF_DEBIAN.iter().any(|dir| beneath(dir))).then_some(path)
}

/// Its packages, and what it brings for the prefix; no scripts, headers, or compiled code of its maker's.
fn place_of_wheel(path: &[u8], site: &str) -> Option<Vec<u8>> {
    if path.ends_with(b".pyc") || path.ends_with(b"/") {
        return None;
    }
    let mut parts = path.splitn(3, |byte| *byte == b'/');
    let (top, scheme, rest) = (parts.next()?, parts.next(), parts.next());
    let (base, rest) = match (top.ends_with(b".data"), scheme, rest) {
        (true, Some(b"purelib" | b"platlib"), Some(rest)) => (site, rest),
        (true, Some(b"data"), Some(rest)) => ("usr/local", rest),
        (true, ..) => return None,
        _ => (site, path),
    };
    Some([base.as_bytes(), b"/", rest].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_paths_lie_beneath_usr_and_documentation_stays_behind() {
        let at = |path: &str| place_of_debian(path.as_bytes()).map(|p| String::from_utf8(p).expect("text"));
        assert_eq!(
            at("./lib/x86_64-linux-gnu/libc.so.6").as_deref(),
            Some("usr/lib/x86_64-linux-gnu/libc.so.6")
        );
        assert_eq!(at("./bin/sh").as_deref(), Some("usr/bin/sh"));
        assert_eq!(at("./library/x").as_deref(), Some("library/x"));
        assert_eq!(at("./usr/share/doc/a/copyright").as_deref(), Some("usr/share/doc/a/copyright"));
        for left in [
            "./",
            "./sys/",
            "./usr/share/doc/a/changelog.gz",
            "./usr/share/man/man1/a.1.gz",
            "./var/",
            "./var/lib/x",
        ] {
            assert_eq!(at(left), None, "{left}");
        }
        assert_eq!(at("./../etc/passwd").as_deref(), Some("../etc/passwd"), "the tree refuses it");
    }

    #[test]
    fn a_wheel_goes_where_python_looks() {
        let at =
            |path: &str| place_of_wheel(path.as_bytes(), "s").map(|p| String::from_utf8(p).expect("text"));
        assert_eq!(at("numpy/core.py").as_deref(), Some("s/numpy/core.py"));
        assert_eq!(at("numpy-1.data/purelib/a.py").as_deref(), Some("s/a.py"));
        assert_eq!(at("numpy-1.data/data/share/x").as_deref(), Some("usr/local/share/x"));
        for left in ["numpy-1.data/scripts/f2py", "numpy-1.data/headers/x.h", "a/b.pyc", "a/"] {
            assert_eq!(at(left), None, "{left}");
        }
        assert_eq!(at("/etc/passwd").as_deref(), Some("s//etc/passwd"), "the tree refuses it");
    }
}
