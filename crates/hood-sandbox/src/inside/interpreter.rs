//! Why a file that is there could not be executed: what it names to run it is not there, or something
//! is no file at all. The kernel's answer is the same for what was asked for and for what that names.
//!
//! The file is the program's own, so nothing that it says is believed: little of it is read, at places
//! within bounds, and what comes of it is text for people.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{Access, Mode, OFlags};
use rustix::io::Errno;

use super::orders::Lacking;

/// As much of a file as the kernel reads to see what it is.
const HEAD_BYTES: usize = 256;
/// How often the kernel goes on to what a file names.
const DEPTH: usize = 5;

const EXECUTABLE_HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
/// Linkers write about a dozen, and that of the loader among the first.
const PROGRAM_HEADERS_MAX: usize = 64;
const NAMES_A_LOADER: u32 = 3;

/// What this file lacks to be run, or one that it names.
pub(super) fn lacking(path: &CStr) -> Option<Lacking> {
    let mut file = path.to_owned();
    // Of the one that was asked for, the kernel's answer says whether it is there.
    let mut named_by_another = None;
    for _ in 0..DEPTH {
        if is_directory(&file) {
            return Some(Lacking::Directory(file.into_bytes()));
        }
        if !is_executable(&file) {
            return named_by_another;
        }
        let named = match named_by(&file) {
            Err(Errno::ACCESS) => return Some(Lacking::Unreadable(file.into_bytes())),
            named => named.ok()??,
        };
        file = CString::new(named.path()).ok()?;
        named_by_another = Some(named);
    }
    None
}

pub(super) fn is_directory(path: &CStr) -> bool {
    std::fs::metadata(Path::new(OsStr::from_bytes(path.to_bytes()))).is_ok_and(|found| found.is_dir())
}

fn is_executable(path: &CStr) -> bool {
    rustix::fs::access(path, Access::EXEC_OK).is_ok()
}

fn named_by(path: &CStr) -> Result<Option<Lacking>, Errno> {
    // A pipe must not make this wait, and a terminal not become ours.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata().is_ok_and(|found| found.is_file()) {
        return Ok(None);
    }
    Ok(named_in(|at, into| file.read_at(into, at).ok()))
}

/// `read` fills the buffer from a place in the file, as far as there is something.
fn named_in(read: impl Fn(u64, &mut [u8]) -> Option<usize>) -> Option<Lacking> {
    let mut head = [0; HEAD_BYTES];
    let length = read(0, &mut head)?;
    let head = head.get(..length)?;
    match head.strip_prefix(b"#!") {
        Some(line) => interpreter(line).map(Lacking::Interpreter),
        None => loader(head, read).map(Lacking::Loader),
    }
}

/// The first word behind `#!`, as the kernel takes it: blanks are spaces and tabs alone.
fn interpreter(line: &[u8]) -> Option<Vec<u8>> {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let is_end = |byte: &u8| matches!(byte, b'\n' | b'\0');
    let begin = line.iter().position(|byte| !is_blank(byte))?;
    let rest = &line[begin..];
    // One that goes on beyond what the kernel reads is no interpreter to it.
    let length = rest.iter().position(|byte| is_blank(byte) || is_end(byte))?;
    (length > 0).then(|| rest[..length].to_vec())
}

/// The loader of a 64-bit executable that is linked dynamically, little-endian as all that we run on.
fn loader(head: &[u8], read: impl Fn(u64, &mut [u8]) -> Option<usize>) -> Option<Vec<u8>> {
    const MAGIC: &[u8] = b"\x7fELF\x02\x01";
    let header = head.first_chunk::<EXECUTABLE_HEADER>().filter(|header| header.starts_with(MAGIC))?;
    let count = usize::from(u16::from_le_bytes(field(header, 56)?)).min(PROGRAM_HEADERS_MAX);
    if usize::from(u16::from_le_bytes(field(header, 54)?)) != PROGRAM_HEADER {
        return None;
    }
    let mut table = [0; PROGRAM_HEADER * PROGRAM_HEADERS_MAX];
    let table = &mut table[..count * PROGRAM_HEADER];
    let length = read(u64::from_le_bytes(field(header, 32)?), table)?;
    let mut entries = table.get(..length)?.chunks_exact(PROGRAM_HEADER);
    let entry = entries.find(|entry| field(entry, 0).map(u32::from_le_bytes) == Some(NAMES_A_LOADER))?;
    let mut name = [0; HEAD_BYTES];
    let wanted = usize::try_from(u64::from_le_bytes(field(entry, 32)?)).ok()?;
    let name = name.get_mut(..wanted)?;
    let length = read(u64::from_le_bytes(field(entry, 8)?), name)?;
    let name = CStr::from_bytes_until_nul(name.get(..length)?).ok()?.to_bytes();
    (!name.is_empty()).then(|| name.to_vec())
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(bytes: &[u8]) -> Option<Lacking> {
        named_in(|at, into| {
            let from = bytes.get(usize::try_from(at).ok()?..)?;
            let length = from.len().min(into.len());
            into[..length].copy_from_slice(&from[..length]);
            Some(length)
        })
    }

    fn script(text: &str) -> Option<Vec<u8>> {
        match named(text.as_bytes()) {
            Some(Lacking::Interpreter(path)) => Some(path),
            None => None,
            Some(other) => panic!("no interpreter: {other:?}"),
        }
    }

    #[test]
    fn a_scripts_interpreter_is_read_as_the_kernel_reads_it() {
        assert_eq!(script("#!/bin/bash\necho"), Some(b"/bin/bash".to_vec()));
        assert_eq!(script("#! \t/usr/bin/env -S node\n"), Some(b"/usr/bin/env".to_vec()));
        assert_eq!(script("#!/bin/sh\r\n"), Some(b"/bin/sh\r".to_vec()));
        assert_eq!(script("#!bin/sh\0rest"), Some(b"bin/sh".to_vec()));
        let longest = format!("#!/{}\n", "x".repeat(HEAD_BYTES - 4));
        assert_eq!(script(&longest).map(|path| path.len()), Some(HEAD_BYTES - 3));
        for none in
            ["", "#", "#!", "#!\n", "#!  \n", "echo #!/bin/sh\n", &longest.replace('x', "xx"), "#!/bin/sh"]
        {
            assert_eq!(script(none), None, "{none:?}");
        }
    }

    /// The smallest that names a loader.
    fn executable(loader: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; EXECUTABLE_HEADER + 2 * PROGRAM_HEADER];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[32] = EXECUTABLE_HEADER as u8;
        bytes[54] = PROGRAM_HEADER as u8;
        bytes[56] = 2;
        let (entry, end) = (EXECUTABLE_HEADER + PROGRAM_HEADER, bytes.len() as u8);
        bytes[entry] = NAMES_A_LOADER as u8;
        bytes[entry + 8] = end;
        bytes[entry + 32] = loader.len() as u8;
        bytes.extend_from_slice(loader);
        bytes
    }

    #[test]
    fn an_executables_loader_is_found_and_one_without_is_none() {
        let loader = b"/lib/ld-musl-x86_64.so.1\0";
        let whole = executable(loader);
        assert_eq!(named(&whole), Some(Lacking::Loader(b"/lib/ld-musl-x86_64.so.1".to_vec())));
        let this = std::fs::read("/proc/self/exe").unwrap();
        if let Some(Lacking::Loader(path)) = named(&this) {
            assert!(path.starts_with(b"/") && std::fs::metadata(std::str::from_utf8(&path).unwrap()).is_ok());
        }
        for without in [executable(b"/lib/ld-musl-x86_64.so.1"), executable(b"\0"), executable(b"")] {
            assert_eq!(named(&without), None);
        }
        let mut strange = whole.clone();
        strange[54] = 55;
        assert_eq!(named(&strange), None);
    }

    /// Every byte of the headers in turn says the most and the least that it can, and the file ends
    /// anywhere: nothing is read beyond its bounds.
    #[test]
    fn a_file_that_lies_about_itself_is_only_not_understood() {
        let whole = executable(b"/lib/ld.so\0");
        for end in 0..whole.len() {
            let _ = named(&whole[..end]);
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut lying = whole.clone();
                lying[end..].iter_mut().take(8).for_each(|byte| *byte = value);
                if let Some(found) = named(&lying) {
                    assert!(found.path().len() < HEAD_BYTES);
                }
            }
        }
    }
}
