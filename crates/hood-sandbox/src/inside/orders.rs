//! What the agent tells the program's starter, and what it hears back. Both are forks of one
//! process, so the encoding is plain and the sides cannot differ.

use std::ffi::CString;
use std::io::{self, Read};
use std::time::Duration;

use crate::sys;

/// What to execute, with which limits of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Run {
    /// Program and arguments.
    pub argv: Vec<Vec<u8>>,
    /// The whole environment.
    pub env: Vec<Vec<u8>>,
    /// Absolute working directory.
    pub cwd: Vec<u8>,
    /// RLIMIT_NOFILE.
    pub open_files: u64,
    /// RLIMIT_FSIZE.
    pub file_bytes: u64,
    /// RLIMIT_NPROC, only where no cgroup holds processes.
    pub processes: Option<u64>,
    /// RLIMIT_DATA, only where no cgroup holds memory.
    pub memory_bytes: Option<u64>,
}

const RUN: u8 = 1;
const FILE: u8 = 2;
const DATA: u8 = 3;
const GO: u8 = 4;

/// Bytes on their way to the starter.
#[derive(Debug, Default)]
pub struct Orders {
    bytes: Vec<u8>,
    sent: usize,
}

impl Orders {
    /// What to run.
    pub fn run(&mut self, run: &Run) {
        let mut payload = Vec::new();
        for number in [run.open_files, run.file_bytes] {
            payload.extend_from_slice(&number.to_le_bytes());
        }
        for number in [run.processes, run.memory_bytes] {
            payload.extend_from_slice(&number.unwrap_or(u64::MAX).to_le_bytes());
        }
        put(&mut payload, &run.cwd);
        for list in [&run.argv, &run.env] {
            payload.extend_from_slice(&length(list.len()));
            list.iter().for_each(|item| put(&mut payload, item));
        }
        self.order(RUN, &payload);
    }

    /// An input file, beneath `/eval`.
    pub fn file(&mut self, path: &[u8], executable: bool) {
        let mut payload = vec![u8::from(executable)];
        payload.extend_from_slice(path);
        self.order(FILE, &payload);
    }

    /// More bytes of that file.
    pub fn data(&mut self, bytes: &[u8]) {
        self.order(DATA, bytes);
    }

    /// Become the program.
    pub fn go(&mut self) {
        self.order(GO, &[]);
    }

    /// What is still to be sent.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Forgets everything: there is nobody to send it to.
    pub fn discard(&mut self) {
        *self = Self::default();
    }

    /// Forgets what was sent.
    pub fn advance(&mut self, sent: usize) {
        self.sent += sent;
        if self.sent >= self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
        }
    }

    fn order(&mut self, kind: u8, payload: &[u8]) {
        self.bytes.push(kind);
        put(&mut self.bytes, payload);
    }
}

fn length(value: usize) -> [u8; 4] {
    u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes()
}

fn put(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend_from_slice(&length(bytes.len()));
    to.extend_from_slice(bytes);
}

/// One order, as the starter reads it.
pub(super) enum Order {
    Run(Prepared),
    File { path: Vec<u8>, executable: bool },
    Data(Vec<u8>),
    Go,
}

/// A [`Run`] in the form that execve takes.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    pub(super) argv: Vec<CString>,
    pub(super) env: Vec<CString>,
    pub(super) cwd: CString,
    pub(super) open_files: u64,
    pub(super) file_bytes: u64,
    pub(super) processes: Option<u64>,
    pub(super) memory_bytes: Option<u64>,
}

impl Order {
    pub(super) fn read(from: &mut impl Read) -> io::Result<Self> {
        let [kind, length @ ..] = take::<5>(from)?;
        let mut payload = vec![0; u32::from_le_bytes(length) as usize];
        from.read_exact(&mut payload)?;
        match kind {
            RUN => Ok(Self::Run(Prepared::read(&mut payload.as_slice())?)),
            FILE => {
                let executable = payload.first().is_some_and(|flag| *flag != 0);
                Ok(Self::File { path: payload.split_off(1.min(payload.len())), executable })
            }
            DATA => Ok(Self::Data(payload)),
            GO => Ok(Self::Go),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl Prepared {
    fn read(from: &mut &[u8]) -> io::Result<Self> {
        let mut number = || Ok::<u64, io::Error>(u64::from_le_bytes(take(from)?));
        let (open_files, file_bytes) = (number()?, number()?);
        let given = |number: u64| (number != u64::MAX).then_some(number);
        let (processes, memory_bytes) = (given(number()?), given(number()?));
        let cwd = text(from)?;
        Ok(Self { cwd, argv: list(from)?, env: list(from)?, open_files, file_bytes, processes, memory_bytes })
    }
}

fn take<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A string for the kernel; one with a NUL inside is no string.
fn text(from: &mut &[u8]) -> io::Result<CString> {
    let length = u32::from_le_bytes(take(from)?) as usize;
    let (bytes, rest) = from.split_at_checked(length).ok_or(io::ErrorKind::InvalidData)?;
    *from = rest;
    Ok(CString::new(bytes)?)
}

fn list(from: &mut &[u8]) -> io::Result<Vec<CString>> {
    let count = u32::from_le_bytes(take(from)?);
    (0..count).map(|_| text(from)).collect()
}

/// The byte that says: every step is done, execve is next. The moment at which it was so follows: by
/// the time the agent hears of it, a short program may have ended.
const ABOUT_TO_EXECUTE: u8 = b'X';
const ANNOUNCEMENT_BYTES: usize = 9;

/// What the starter says just before the program can run its first instruction.
pub(super) fn announcement() -> [u8; ANNOUNCEMENT_BYTES] {
    let mut bytes = [ABOUT_TO_EXECUTE; ANNOUNCEMENT_BYTES];
    let nanos = u64::try_from(sys::monotonic().as_nanos()).unwrap_or(u64::MAX);
    bytes[1..].copy_from_slice(&nanos.to_le_bytes());
    bytes
}

/// A moment of the starter's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(Duration);

impl Moment {
    /// How long ago it was.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        sys::monotonic().saturating_sub(self.0)
    }
}

/// Which kind of step the starter did not get past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Our own preparation.
    Setup,
    /// Writing the input files.
    Inputs,
    /// The working directory.
    Cwd,
    /// execve.
    Exec,
}

/// What is lacking where nothing could be executed, beyond the kernel's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lacking {
    /// What a script names behind its `#!` is not to be had.
    Interpreter(Vec<u8>),
    /// The loader of an executable that is linked dynamically is not to be had.
    Loader(Vec<u8>),
    /// A file: what lies there, as was asked for or as a file names it, is a directory.
    Directory(Vec<u8>),
    /// A look at what this file names: it may be executed and not read.
    Unreadable(Vec<u8>),
    /// The rest of PATH, behind the first [`PATH_DIRECTORIES_MAX`](super::PATH_DIRECTORIES_MAX).
    Unsearched,
}

impl Lacking {
    pub(super) fn path(&self) -> &[u8] {
        match self {
            Self::Interpreter(path) | Self::Loader(path) | Self::Directory(path) | Self::Unreadable(path) => {
                path
            }
            Self::Unsearched => &[],
        }
    }
}

/// What the starter's socket has said so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// Nothing that is complete.
    Unfinished,
    /// execve has succeeded: the socket closed behind the announcement.
    Running {
        /// When it was announced: no instruction of the program ran before.
        since: Moment,
    },
    /// The starter is gone without a word; its wait status says more.
    Vanished,
    /// A step failed.
    Failed {
        /// Which.
        outcome: Outcome,
        /// What the kernel said.
        errno: i32,
        /// The step's name, or the path it was about.
        detail: Vec<u8>,
        /// Of [`Outcome::Exec`]: why, where it is not the path itself.
        lacking: Option<Lacking>,
    },
}

const INTERPRETER: u8 = b'I';
const LOADER: u8 = b'L';
const DIRECTORY: u8 = b'D';
const UNREADABLE: u8 = b'R';
const UNSEARCHED: u8 = b'P';

/// What [`encode_failure`] appends to the path that could not be executed, in which there is no NUL.
pub(super) fn encode_lacking(lacking: &Lacking) -> Vec<u8> {
    let kind = match lacking {
        Lacking::Interpreter(_) => INTERPRETER,
        Lacking::Loader(_) => LOADER,
        Lacking::Directory(_) => DIRECTORY,
        Lacking::Unreadable(_) => UNREADABLE,
        Lacking::Unsearched => UNSEARCHED,
    };
    [&[0, kind], lacking.path()].concat()
}

/// Splits what was about an execve into the path and what it lacks.
fn read_exec(detail: &[u8]) -> (Vec<u8>, Option<Lacking>) {
    let Some(end) = detail.iter().position(|byte| *byte == 0) else { return (detail.to_vec(), None) };
    let lacking = match detail.get(end + 1..) {
        Some([INTERPRETER, path @ ..]) => Some(Lacking::Interpreter(path.to_vec())),
        Some([LOADER, path @ ..]) => Some(Lacking::Loader(path.to_vec())),
        Some([DIRECTORY, path @ ..]) => Some(Lacking::Directory(path.to_vec())),
        Some([UNREADABLE, path @ ..]) => Some(Lacking::Unreadable(path.to_vec())),
        Some([UNSEARCHED]) => Some(Lacking::Unsearched),
        _ => None,
    };
    (detail[..end].to_vec(), lacking)
}

pub(super) fn encode_failure(outcome: Outcome, errno: i32, detail: &[u8]) -> Vec<u8> {
    let code = match outcome {
        Outcome::Setup => b'S',
        Outcome::Inputs => b'I',
        Outcome::Cwd => b'C',
        Outcome::Exec => b'E',
    };
    let mut bytes = vec![code];
    bytes.extend_from_slice(&errno.to_le_bytes());
    bytes.extend_from_slice(detail);
    bytes
}

/// Splits off the announcement, where it comes first.
fn read_announcement(bytes: &[u8]) -> (Option<Moment>, &[u8]) {
    match bytes.split_first_chunk::<ANNOUNCEMENT_BYTES>() {
        Some(([ABOUT_TO_EXECUTE, nanos @ ..], rest)) => {
            (Some(Moment(Duration::from_nanos(u64::from_le_bytes(*nanos)))), rest)
        }
        _ => (None, bytes),
    }
}

/// Reads what the starter has sent; `ended` says that its socket is closed.
#[must_use]
pub fn read_report(bytes: &[u8], ended: bool) -> Report {
    if !ended {
        return Report::Unfinished;
    }
    let (since, rest) = read_announcement(bytes);
    let (Some(code), Some(errno)) = (rest.first(), rest.get(1..5)) else {
        return match since {
            Some(since) if rest.is_empty() => Report::Running { since },
            _ => Report::Vanished,
        };
    };
    let outcome = match code {
        b'S' => Outcome::Setup,
        b'I' => Outcome::Inputs,
        b'C' => Outcome::Cwd,
        _ => Outcome::Exec,
    };
    let errno = errno.try_into().map(i32::from_le_bytes).unwrap_or_default();
    let (detail, lacking) = match outcome {
        Outcome::Exec => read_exec(&rest[5..]),
        Outcome::Setup | Outcome::Inputs | Outcome::Cwd => (rest[5..].to_vec(), None),
    };
    Report::Failed { outcome, errno, detail, lacking }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_arrives_as_it_was_sent() {
        let run = Run {
            argv: vec![b"a".to_vec(), vec![]],
            env: vec![b"K=\xff".to_vec()],
            cwd: b"/eval".to_vec(),
            open_files: 64,
            file_bytes: 1 << 40,
            processes: Some(3),
            memory_bytes: None,
        };
        let mut orders = Orders::default();
        orders.run(&run);
        orders.file(b"x/y", true);
        let mut from = orders.pending();
        let Ok(Order::Run(read)) = Order::read(&mut from) else { panic!("not a run") };
        assert_eq!(read.argv, [c"a".to_owned(), c"".to_owned()]);
        assert_eq!(read.env[0].as_bytes(), b"K=\xff");
        assert_eq!((read.processes, read.memory_bytes, read.file_bytes), (Some(3), None, 1 << 40));
        assert!(
            matches!(Order::read(&mut from), Ok(Order::File { path, executable: true }) if path == b"x/y")
        );
    }

    #[test]
    fn only_an_announced_end_is_a_start() {
        let said = announcement();
        let Report::Running { since } = read_report(&said, true) else { panic!("not a start") };
        assert!(since.elapsed() < Duration::from_secs(60), "{since:?}");
        assert_eq!(read_report(&said, false), Report::Unfinished);
        assert_eq!(read_report(b"", true), Report::Vanished);
        let failure = encode_failure(Outcome::Exec, 2, b"nope");
        let announced = [said.as_slice(), &failure].concat();
        let failed =
            |lacking| Report::Failed { outcome: Outcome::Exec, errno: 2, detail: b"nope".to_vec(), lacking };
        assert_eq!(read_report(&announced, true), failed(None));
        for lacking in [
            Lacking::Interpreter(b"/bin/bash".to_vec()),
            Lacking::Loader(b"/lib/ld.so".to_vec()),
            Lacking::Directory(b"/bin".to_vec()),
            Lacking::Unreadable(b"./it".to_vec()),
            Lacking::Unsearched,
        ] {
            let whole = [announced.as_slice(), &encode_lacking(&lacking)].concat();
            assert_eq!(read_report(&whole, true), failed(Some(lacking)));
        }
    }
}
