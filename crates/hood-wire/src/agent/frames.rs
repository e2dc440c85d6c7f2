//! The nouns of the link. Numbers of kinds and tags are fixed for ever: a new meaning takes a new
//! number, and what is absent reads as its default.

use super::codec::{Body, Fields, FrameError, Writer};

/// What to do when a stream has given more than `output_bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnOutputLimit {
    /// Keep the first bytes, count and drop the rest.
    #[default]
    Truncate,
    /// End the program.
    Fail,
}

/// Everything about one run but the bytes of its files and stdin, which follow in frames of their
/// own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assignment {
    /// The program and its arguments; the first is looked up in the `PATH` of `env`.
    pub argv: Vec<Vec<u8>>,
    /// The whole environment, `KEY=value`. The agent adds nothing.
    pub env: Vec<Vec<u8>>,
    /// Working directory, absolute.
    pub cwd: Vec<u8>,
    /// Wall time from exec to SIGTERM.
    pub wall_ms: u64,
    /// Time between SIGTERM and SIGKILL at the deadline.
    pub grace_ms: u64,
    /// How much of each stream is kept.
    pub output_bytes: u64,
    /// What happens past `output_bytes`.
    pub on_output_limit: OnOutputLimit,
    /// RLIMIT_NOFILE.
    pub open_files: u64,
    /// RLIMIT_FSIZE.
    pub file_bytes: u64,
    /// Only where no cgroup holds memory: the agent samples and kills at this sum.
    pub sampled_memory_bytes: Option<u64>,
    /// Only where no cgroup holds the number of processes: RLIMIT_NPROC and the agent's count.
    pub sampled_processes: Option<u64>,
    /// How long the agent waits after the end for the last acknowledgement.
    pub orphan_after_ms: u64,
    /// W3C trace context, carried for whoever reads the agent's record.
    pub traceparent: String,
}

/// One of the two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// Dispatcher to agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostFrame {
    /// The first frame: what to run.
    Assignment(Assignment),
    /// Behind it, where something is built first: what, and under which limits of its own. Then files,
    /// [`HostFrame::Go`], what [`AgentFrame`] says of a run, and another `Go` for the program, or none.
    Build(Assignment),
    /// Opens an input file beneath `/eval`; [`HostFrame::FileData`] appends to it.
    File {
        /// Relative, without `.` or `..`.
        path: Vec<u8>,
        /// Mode 0755 instead of 0644.
        executable: bool,
    },
    /// Bytes of the file that was opened last.
    FileData(Vec<u8>),
    /// All files are there: run. Where something is built first, it comes twice.
    Go,
    /// Bytes for stdin, before or after [`HostFrame::Go`].
    Stdin(Vec<u8>),
    /// Stdin ends here. A program without input gets this alone.
    StdinEnd,
    /// Every frame up to this number is kept elsewhere and may be forgotten.
    Ack(u64),
    /// SIGTERM now, SIGKILL after the grace.
    Cancel {
        /// Zero kills at once.
        grace_ms: u64,
    },
    /// SIGKILL now.
    Kill,
}

/// Which step a run did not get past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Our own preparation (credentials, Landlock, seccomp …): never the program's fault.
    Setup,
    /// Writing the input files, as the program's user and on its account.
    Inputs,
    /// Entering the working directory.
    Cwd,
    /// execve.
    Exec,
}

/// How a process ended, as wait(2) tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It called exit.
    Code(u8),
    /// A signal ended it.
    Signal(u8),
}

/// The first reason for which the agent itself made the program end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillCause {
    /// Wall time was over.
    Deadline,
    /// The dispatcher cancelled.
    Cancel,
    /// The dispatcher ordered a kill.
    Kill,
    /// A stream passed `output_bytes` and the assignment asked for the end.
    OutputLimit(Stream),
    /// The sampled memory passed its bound (no cgroup).
    SampledMemory,
    /// The sampled number of processes passed its bound (no cgroup).
    SampledProcesses,
    /// It entered the kernel as another architecture's program: see [`Ending::foreign_call`].
    ForeignCall,
}

/// A system call through the entry of a foreign architecture, which nothing but an attempt to get
/// around the filter makes. The agent's own record: no program can forge it by raising SIGSYS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForeignCall {
    /// The kernel's `AUDIT_ARCH_*`.
    pub arch: u32,
    /// The number asked for.
    pub number: u32,
}

/// What became of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Streams {
    /// Bytes that the program wrote.
    pub written: u64,
    /// Bytes that were kept and sent.
    pub kept: u64,
    /// End of file was seen: nothing more can have been written.
    pub complete: bool,
}

/// What wait4(2) and the agent's clock measured. Group counters are read by the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// From exec to the end of the main process.
    pub wall_us: u64,
    /// User CPU of every process that was reaped.
    pub user_us: u64,
    /// System CPU of every process that was reaped.
    pub system_us: u64,
    /// Largest resident set of a single process.
    pub max_rss_bytes: u64,
    /// Processes reaped, the main one included.
    pub reaped: u64,
    /// Time in which output waited in the pipe because the agent held no room for it. The agent
    /// always drains, so this is 0 from version 1.
    pub blocked_us: u64,
}

/// The terminal frame of a program that ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// The main process's wait status.
    pub exit: Exit,
    /// Why the agent ended it, if it did.
    pub cause: Option<KillCause>,
    /// The grace was over and SIGKILL was sent.
    pub killed: bool,
    /// Measured by the agent.
    pub usage: Usage,
    /// Descriptor 1.
    pub stdout: Streams,
    /// Descriptor 2.
    pub stderr: Streams,
    /// The call behind [`KillCause::ForeignCall`].
    pub foreign_call: Option<ForeignCall>,
}

/// What is lacking where nothing could be executed. Paths are the files' own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lacking {
    /// What a script names behind its `#!` is not to be had.
    Interpreter(Vec<u8>),
    /// The loader of an executable that is linked dynamically is not to be had.
    Loader(Vec<u8>),
    /// What lies there, as was asked for or as a file names it, is a directory.
    Directory(Vec<u8>),
    /// It may be executed and not read, so that what it names cannot be told.
    Unreadable(Vec<u8>),
    /// PATH names more directories than are searched.
    Unsearched,
}

/// The terminal frame of a program that never ran its first instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EarlyEnd {
    /// A step said no.
    Refused {
        /// Which.
        stage: Stage,
        /// What the kernel answered.
        errno: i32,
        /// For [`Stage::Setup`], the step's name; else the path that it was about.
        detail: Vec<u8>,
        /// For [`Stage::Exec`]: why, where the file itself is there.
        lacking: Option<Lacking>,
    },
    /// The starter was killed before exec, as by the OOM killer while it wrote the inputs.
    Died {
        /// How it ended.
        exit: Exit,
        /// Why the agent ended it, if it did.
        cause: Option<KillCause>,
    },
}

/// Agent to dispatcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentFrame {
    /// The first frame.
    Hello {
        /// What the agent speaks.
        version: u32,
        /// The oldest that it still understands.
        oldest: u32,
    },
    /// exec has succeeded. Wall time counts from the moment just before it, which lies `setup_us` after
    /// the order.
    Started {
        /// From [`HostFrame::Go`] to just before exec.
        setup_us: u64,
    },
    /// Output, in order per stream.
    Output {
        /// Which.
        stream: Stream,
        /// Bytes of this stream before these.
        offset: u64,
        /// At most [`super::MAX_CHUNK_BYTES`].
        bytes: Vec<u8>,
    },
    /// A stream has reached `output_bytes`; no more of it follows.
    Truncated {
        /// Which.
        stream: Stream,
    },
    /// Terminal: it ran. A build's end is not the last word, if the program is let go after it.
    Ended(Ending),
    /// Terminal: it did not run.
    NotStarted(EarlyEnd),
}

impl Body for HostFrame {
    fn kind(&self) -> u8 {
        match self {
            Self::Assignment(_) => 1,
            Self::File { .. } => 2,
            Self::FileData(_) => 3,
            Self::Go => 4,
            Self::Stdin(_) => 5,
            Self::StdinEnd => 6,
            Self::Ack(_) => 7,
            Self::Cancel { .. } => 8,
            Self::Kill => 9,
            Self::Build(_) => 10,
        }
    }

    fn write(&self, to: &mut Writer<'_>) {
        match self {
            Self::Assignment(assignment) | Self::Build(assignment) => assignment.write(to),
            Self::File { path, executable } => {
                to.bytes(1, path);
                to.number(2, u64::from(*executable));
            }
            Self::FileData(bytes) | Self::Stdin(bytes) => to.bytes(1, bytes),
            Self::Go | Self::StdinEnd | Self::Kill => {}
            Self::Ack(number) => to.number(1, *number),
            Self::Cancel { grace_ms } => to.number(1, *grace_ms),
        }
    }

    fn read(kind: u8, from: &Fields<'_>) -> Result<Self, FrameError> {
        Ok(match kind {
            1 => Self::Assignment(Assignment::read(from)?),
            2 => Self::File { path: from.bytes(1)?.to_vec(), executable: from.maybe(2)?.unwrap_or(0) != 0 },
            3 => Self::FileData(from.bytes(1)?.to_vec()),
            4 => Self::Go,
            5 => Self::Stdin(from.bytes(1)?.to_vec()),
            6 => Self::StdinEnd,
            7 => Self::Ack(from.number(1)?),
            8 => Self::Cancel { grace_ms: from.number(1)? },
            9 => Self::Kill,
            10 => Self::Build(Assignment::read(from)?),
            _ => return Err(FrameError::UnknownKind(kind)),
        })
    }
}

impl Assignment {
    fn write(&self, to: &mut Writer<'_>) {
        self.argv.iter().for_each(|argument| to.bytes(1, argument));
        self.env.iter().for_each(|pair| to.bytes(2, pair));
        to.bytes(3, &self.cwd);
        to.number(4, self.wall_ms);
        to.number(5, self.grace_ms);
        to.number(6, self.output_bytes);
        to.number(7, u64::from(self.on_output_limit == OnOutputLimit::Fail));
        to.number(8, self.open_files);
        to.number(9, self.file_bytes);
        to.maybe(10, self.sampled_memory_bytes);
        to.maybe(11, self.sampled_processes);
        to.number(12, self.orphan_after_ms);
        to.bytes(13, self.traceparent.as_bytes());
    }

    fn read(from: &Fields<'_>) -> Result<Self, FrameError> {
        let owned = |tag| from.all(tag).map(<[u8]>::to_vec).collect::<Vec<_>>();
        Ok(Self {
            argv: owned(1),
            env: owned(2),
            cwd: from.bytes(3)?.to_vec(),
            wall_ms: from.number(4)?,
            grace_ms: from.number(5)?,
            output_bytes: from.number(6)?,
            on_output_limit: match from.maybe(7)? {
                None | Some(0) => OnOutputLimit::Truncate,
                Some(_) => OnOutputLimit::Fail,
            },
            open_files: from.number(8)?,
            file_bytes: from.number(9)?,
            sampled_memory_bytes: from.maybe(10)?,
            sampled_processes: from.maybe(11)?,
            orphan_after_ms: from.number(12)?,
            traceparent: String::from_utf8_lossy(from.bytes(13).unwrap_or_default()).into_owned(),
        })
    }
}

impl Stream {
    fn code(self) -> u64 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }

    fn read(from: &Fields<'_>, tag: u8) -> Result<Self, FrameError> {
        match from.number(tag)? {
            1 => Ok(Self::Stdout),
            2 => Ok(Self::Stderr),
            _ => Err(from.bad(tag)),
        }
    }
}

impl Body for AgentFrame {
    fn kind(&self) -> u8 {
        match self {
            Self::Hello { .. } => 1,
            Self::Started { .. } => 2,
            Self::Output { .. } => 3,
            Self::Truncated { .. } => 4,
            Self::Ended(_) => 5,
            Self::NotStarted(_) => 6,
        }
    }

    fn write(&self, to: &mut Writer<'_>) {
        match self {
            Self::Hello { version, oldest } => {
                to.number(1, u64::from(*version));
                to.number(2, u64::from(*oldest));
            }
            Self::Started { setup_us } => to.number(1, *setup_us),
            Self::Output { stream, offset, bytes } => {
                to.number(1, stream.code());
                to.number(2, *offset);
                to.bytes(3, bytes);
            }
            Self::Truncated { stream } => to.number(1, stream.code()),
            Self::Ended(ending) => ending.write(to),
            Self::NotStarted(early) => early.write(to),
        }
    }

    fn read(kind: u8, from: &Fields<'_>) -> Result<Self, FrameError> {
        let version = |tag| u32::try_from(from.number(tag)?).map_err(|_| from.bad(tag));
        Ok(match kind {
            1 => Self::Hello { version: version(1)?, oldest: version(2)? },
            2 => Self::Started { setup_us: from.number(1)? },
            3 => Self::Output {
                stream: Stream::read(from, 1)?,
                offset: from.number(2)?,
                bytes: from.bytes(3)?.to_vec(),
            },
            4 => Self::Truncated { stream: Stream::read(from, 1)? },
            5 => Self::Ended(Ending::read(from)?),
            6 => Self::NotStarted(EarlyEnd::read(from)?),
            _ => return Err(FrameError::UnknownKind(kind)),
        })
    }
}

impl Exit {
    fn code(self) -> u64 {
        match self {
            Self::Code(code) => u64::from(code),
            Self::Signal(signal) => 0x100 | u64::from(signal),
        }
    }

    fn read(from: &Fields<'_>, tag: u8) -> Result<Self, FrameError> {
        let [low, high, ..] = from.number(tag)?.to_le_bytes();
        match high {
            0 => Ok(Self::Code(low)),
            1 => Ok(Self::Signal(low)),
            _ => Err(from.bad(tag)),
        }
    }
}

impl KillCause {
    fn code(self) -> u64 {
        match self {
            Self::Deadline => 1,
            Self::Cancel => 2,
            Self::Kill => 3,
            Self::OutputLimit(Stream::Stdout) => 4,
            Self::OutputLimit(Stream::Stderr) => 5,
            Self::SampledMemory => 6,
            Self::SampledProcesses => 7,
            Self::ForeignCall => 8,
        }
    }

    fn read(from: &Fields<'_>, tag: u8) -> Result<Option<Self>, FrameError> {
        Ok(Some(match from.maybe(tag)? {
            None => return Ok(None),
            Some(1) => Self::Deadline,
            Some(2) => Self::Cancel,
            Some(3) => Self::Kill,
            Some(4) => Self::OutputLimit(Stream::Stdout),
            Some(5) => Self::OutputLimit(Stream::Stderr),
            Some(6) => Self::SampledMemory,
            Some(7) => Self::SampledProcesses,
            Some(8) => Self::ForeignCall,
            Some(_) => return Err(from.bad(tag)),
        }))
    }
}

impl Streams {
    fn write(self, to: &mut Writer<'_>, first: u8) {
        to.number(first, self.written);
        to.number(first + 1, self.kept);
        to.number(first + 2, u64::from(self.complete));
    }

    fn read(from: &Fields<'_>, first: u8) -> Result<Self, FrameError> {
        Ok(Self {
            written: from.number(first)?,
            kept: from.number(first + 1)?,
            complete: from.number(first + 2)? != 0,
        })
    }
}

impl Ending {
    fn write(&self, to: &mut Writer<'_>) {
        to.number(1, self.exit.code());
        to.maybe(2, self.cause.map(KillCause::code));
        to.number(3, u64::from(self.killed));
        to.number(4, self.usage.wall_us);
        to.number(5, self.usage.user_us);
        to.number(6, self.usage.system_us);
        to.number(7, self.usage.max_rss_bytes);
        to.number(8, self.usage.reaped);
        to.number(9, self.usage.blocked_us);
        self.stdout.write(to, 10);
        self.stderr.write(to, 13);
        to.maybe(16, self.foreign_call.map(|call| u64::from(call.arch)));
        to.maybe(17, self.foreign_call.map(|call| u64::from(call.number)));
    }

    fn read(from: &Fields<'_>) -> Result<Self, FrameError> {
        Ok(Self {
            exit: Exit::read(from, 1)?,
            cause: KillCause::read(from, 2)?,
            killed: from.number(3)? != 0,
            usage: Usage {
                wall_us: from.number(4)?,
                user_us: from.number(5)?,
                system_us: from.number(6)?,
                max_rss_bytes: from.number(7)?,
                reaped: from.number(8)?,
                blocked_us: from.maybe(9)?.unwrap_or(0),
            },
            stdout: Streams::read(from, 10)?,
            stderr: Streams::read(from, 13)?,
            foreign_call: match (from.maybe(16)?, from.maybe(17)?) {
                (Some(arch), Some(number)) => Some(ForeignCall {
                    arch: u32::try_from(arch).map_err(|_| from.bad(16))?,
                    number: u32::try_from(number).map_err(|_| from.bad(17))?,
                }),
                _ => None,
            },
        })
    }
}

impl Stage {
    fn code(self) -> u64 {
        match self {
            Self::Setup => 1,
            Self::Inputs => 2,
            Self::Cwd => 3,
            Self::Exec => 4,
        }
    }

    fn read(from: &Fields<'_>, tag: u8) -> Result<Self, FrameError> {
        match from.number(tag)? {
            1 => Ok(Self::Setup),
            2 => Ok(Self::Inputs),
            3 => Ok(Self::Cwd),
            4 => Ok(Self::Exec),
            _ => Err(from.bad(tag)),
        }
    }
}

impl EarlyEnd {
    fn write(&self, to: &mut Writer<'_>) {
        match self {
            Self::Refused { stage, errno, detail, lacking } => {
                to.number(1, stage.code());
                to.number(2, u64::from(errno.unsigned_abs()));
                to.bytes(3, detail);
                match lacking {
                    Some(Lacking::Interpreter(path)) => to.bytes(6, path),
                    Some(Lacking::Loader(path)) => to.bytes(7, path),
                    Some(Lacking::Directory(path)) => to.bytes(8, path),
                    Some(Lacking::Unreadable(path)) => to.bytes(9, path),
                    Some(Lacking::Unsearched) => to.number(10, 1),
                    None => {}
                }
            }
            Self::Died { exit, cause } => {
                to.number(4, exit.code());
                to.maybe(5, cause.map(KillCause::code));
            }
        }
    }

    fn read(from: &Fields<'_>) -> Result<Self, FrameError> {
        if from.maybe(4)?.is_some() {
            return Ok(Self::Died { exit: Exit::read(from, 4)?, cause: KillCause::read(from, 5)? });
        }
        Ok(Self::Refused {
            stage: Stage::read(from, 1)?,
            errno: i32::try_from(from.number(2)?).map_err(|_| from.bad(2))?,
            detail: from.bytes(3)?.to_vec(),
            lacking: Lacking::read(from)?,
        })
    }
}

impl Lacking {
    fn read(from: &Fields<'_>) -> Result<Option<Self>, FrameError> {
        let path = |field, kind: fn(Vec<u8>) -> Self| from.all(field).next().map(|path| kind(path.to_vec()));
        let about_a_path = path(6, Self::Interpreter)
            .or_else(|| path(7, Self::Loader))
            .or_else(|| path(8, Self::Directory))
            .or_else(|| path(9, Self::Unreadable));
        Ok(about_a_path.or(from.maybe(10)?.map(|_| Self::Unsearched)))
    }
}
