//! Bytecode, made by the image's own interpreter in a place of its own: compiling is work on what
//! strangers wrote. Without it every start would compile what it imports, since nothing can be written.

use std::path::Path;

use super::error::EnvironmentError;
use super::progress::{Meter, Progress, Stage};
use super::tree::Tree;

/// Source that one run compiles: its bytecode is about as large and must fit the run's output.
const BATCH_BYTES_MAX: u64 = 12 << 20;

/// Each source and its bytecode may have this much at the most, or is left as it is.
const SOURCE_BYTES_MAX: u64 = 4 << 20;

/// What runs in the image. Reads paths from its input; for each writes the lengths of path and
/// bytecode, then both; an empty bytecode says that the source does not compile. The bytecode is
/// never held against its source: nothing in an image changes.
const PROGRAM: &str = r#"
import sys
from importlib.machinery import SourceFileLoader
from importlib._bootstrap_external import _code_to_hash_pyc
from importlib.util import source_hash
out = sys.stdout.buffer
def say(name, data):
    out.write(len(name).to_bytes(4, "little") + len(data).to_bytes(4, "little") + name + data)
say(b"", sys.implementation.cache_tag.encode())
for line in sys.stdin.buffer:
    name = line.rstrip(b"\n")
    path = "/" + name.decode()
    try:
        with open(path, "rb") as file:
            source = file.read()
        code = SourceFileLoader("<image>", path).source_to_code(source, path)
        say(name, bytes(_code_to_hash_pyc(code, source_hash(source), False)))
    except (SyntaxError, ValueError, UnicodeError, RecursionError):
        say(name, b"")
out.flush()
"#;

/// Something that can run a program of ours in an image that is being built.
pub trait Workshop: Send + Sync + std::fmt::Debug {
    /// What it wrote, if it ended well. Blocks.
    fn run(&self, root: &Path, argv: &[&str], stdin: Vec<u8>) -> Result<Vec<u8>, String>;
}

/// Adds bytecode for every source in the tree but tests.
pub(super) fn compile(
    workshop: &dyn Workshop,
    interpreter: &str,
    tree: &mut Tree<'_>,
    tell: &dyn Fn(Progress),
) -> Result<(), EnvironmentError> {
    let sources: Vec<(String, u64)> = tree
        .files()
        .filter(|(path, size)| {
            let test = path.contains("/tests/") || path.contains("/test/");
            path.ends_with(".py") && path.starts_with("usr/") && !test && *size <= SOURCE_BYTES_MAX
        })
        .map(|(path, size)| (path.to_owned(), size))
        .collect();
    let total = sources.iter().map(|(_, size)| size).sum();
    let meter = Meter::start(Progress::at(Stage::Compiling, sources.len() as u64, total), tell);
    tree.hush();
    let mut rest = sources.as_slice();
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|(_, size)| {
            bytes += size;
            bytes <= BATCH_BYTES_MAX
        });
        let (batch, later) = rest.split_at(fits.count().max(1));
        run(workshop, interpreter, batch, tree)?;
        batch.iter().for_each(|(_, size)| meter.file(*size));
        rest = later;
    }
    Ok(())
}

fn run(
    workshop: &dyn Workshop,
    interpreter: &str,
    batch: &[(String, u64)],
    tree: &mut Tree<'_>,
) -> Result<(), EnvironmentError> {
    let list: String = batch.iter().map(|(path, _)| format!("{path}\n")).collect();
    let failed = |why: &str| EnvironmentError::Compile { why: why.to_owned() };
    let root = tree.path("");
    let argv = [interpreter, "-I", "-S", "-c", PROGRAM];
    let said = workshop.run(&root, &argv, list.into_bytes()).map_err(|why| failed(&why))?;
    let mut from = said.as_slice();
    let (_, tag) = record(&mut from).ok_or_else(|| failed("its answer has no beginning"))?;
    let tag = std::str::from_utf8(tag)
        .ok()
        .filter(|tag| tag.len() < 64 && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'));
    let tag = tag.ok_or_else(|| failed("its bytecode has no name"))?.to_owned();
    for (path, _) in batch {
        let (name, code) = record(&mut from).ok_or_else(|| failed("its answer is cut short"))?;
        if name != path.as_bytes() {
            return Err(failed("its answer is about another file"));
        }
        if code.is_empty() {
            continue;
        }
        let (dir, file) = path.rsplit_once('/').unwrap_or(("", path));
        let to = format!("{dir}/__pycache__/{}.{tag}.pyc", file.trim_end_matches(".py"));
        tree.file(to.as_bytes(), false, code.len() as u64, &mut { code })?;
    }
    Ok(())
}

fn record<'a>(from: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let length = |from: &mut &[u8]| {
        let (bytes, rest) = from.split_first_chunk::<4>()?;
        *from = rest;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    };
    let (name, code) = (length(from)?, length(from)?);
    let (name, rest) = from.split_at_checked(name)?;
    let (code, rest) = rest.split_at_checked(code)?;
    *from = rest;
    Some((name, code))
}
