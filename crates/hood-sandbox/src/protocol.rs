//! What the halves say to each other while a place is made. Both come from one build (the server
//! embeds the agent), so the packets carry no version; the agent's link, which outlives a build, is
//! hood-wire's.

use std::fmt::Write as _;

/// Longest packet in either direction.
pub(crate) const PACKET_BYTES: usize = 4096;

/// `go` where supplementary groups can and must be dropped.
pub(crate) const GO: u8 = b'G';
/// `go` where an ordinary user may not (a single mapped id).
pub(crate) const GO_KEEPING_GROUPS: u8 = b'g';
/// The agent shows itself, so that the kernel tells its pid.
pub(crate) const AGENT_HERE: u8 = b'A';
/// The program's starter does; before it that of a build, where there is one.
pub(crate) const PROGRAM_HERE: u8 = b'P';
/// It is in its cgroup.
pub(crate) const PLACED: u8 = b'p';
/// The child of the clone failed before it could execute the agent.
pub(crate) const BIRTH_FAILED: u8 = b'!';
/// The agent failed; [`Failure`] follows.
pub(crate) const FAILED: u8 = b'F';
/// The place waits for its assignment; layers follow.
pub(crate) const READY: u8 = b'R';

/// Namespaces that a place has of its own, as named in `/proc/self/ns`.
pub(crate) const NAMESPACES: [&str; 7] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];

/// Ids inside a place.
pub(crate) const AGENT_ID: u32 = 0;
pub(crate) const PROGRAM_ID: u32 = 1000;

/// Which system calls a place's program may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SystemCalls {
    /// What ordinary programs of every language use.
    #[default]
    Ordinary,
    /// What one process of an interpreter needs to compute, and to use its own files and threads.
    Least,
}

/// What the agent needs to know to build its place.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Blueprint {
    pub(crate) disk_bytes: u64,
    pub(crate) disk_inodes: u64,
    /// Agent and program are one id: the program must be nested.
    pub(crate) single_id: bool,
    /// A piped core_pattern: RLIMIT_CORE 0 is not honoured there, 1 is.
    pub(crate) core_piped: bool,
    pub(crate) calls: SystemCalls,
    /// Something is built before the program runs: two starters, one after the other.
    pub(crate) builds: bool,
    /// The server's own namespaces, which the place's must differ from.
    pub(crate) foreign: Vec<u64>,
}

impl Blueprint {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut text = format!(
            "{} {} {} {} {} {}",
            self.disk_bytes,
            self.disk_inodes,
            u8::from(self.single_id),
            u8::from(self.core_piped),
            u8::from(self.calls == SystemCalls::Least),
            u8::from(self.builds)
        );
        for inode in &self.foreign {
            // Writing to a String cannot fail.
            let _ = write!(text, " {inode}");
        }
        text.into_bytes()
    }

    pub(crate) fn decode(packet: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(packet).ok()?;
        let numbers = text.split(' ').map(str::parse).collect::<Result<Vec<u64>, _>>().ok()?;
        let [disk_bytes, disk_inodes, single_id, core_piped, least, builds, foreign @ ..] =
            numbers.as_slice()
        else {
            return None;
        };
        Some(Self {
            disk_bytes: *disk_bytes,
            disk_inodes: *disk_inodes,
            single_id: *single_id != 0,
            core_piped: *core_piped != 0,
            calls: if *least == 0 { SystemCalls::Ordinary } else { SystemCalls::Least },
            builds: *builds != 0,
            foreign: foreign.to_vec(),
        })
    }
}

/// Why a place could not be made, told from inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) step: String,
    pub(crate) errno: i32,
}

impl Failure {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut packet = vec![FAILED];
        packet.extend_from_slice(format!("{} {}", self.errno, self.step).as_bytes());
        packet.truncate(PACKET_BYTES);
        packet
    }

    pub(crate) fn decode(packet: &[u8]) -> Self {
        let text = String::from_utf8_lossy(packet);
        let (errno, step) = text.split_once(' ').unwrap_or(("0", &text));
        Self { step: step.to_owned(), errno: errno.parse().unwrap_or(0) }
    }
}

/// What the inside found to hold or not: `name` or `name: reason`, one a line.
pub(crate) fn encode_findings(findings: &[(&'static str, Option<String>)]) -> Vec<u8> {
    let mut packet = vec![READY];
    for (name, lacking) in findings {
        packet.extend_from_slice(name.as_bytes());
        if let Some(reason) = lacking {
            packet.extend_from_slice(b": ");
            packet.extend_from_slice(reason.replace('\n', " ").as_bytes());
        }
        packet.push(b'\n');
    }
    packet.truncate(PACKET_BYTES);
    packet
}

pub(crate) fn decode_findings(packet: &[u8]) -> Vec<(String, Option<String>)> {
    let text = String::from_utf8_lossy(packet);
    let line = |line: &str| match line.split_once(": ") {
        Some((name, reason)) => (name.to_owned(), Some(reason.to_owned())),
        None => (line.to_owned(), None),
    };
    text.lines().map(line).collect()
}

/// A request to the launcher; descriptors travel beside it in this order: setup, link, image,
/// then the lock of the ids and the cgroup if their flags are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Order {
    /// Comes back with the answer, so that one which is late is not taken for another's.
    pub(crate) sequence: u32,
    pub(crate) has_lock: bool,
    pub(crate) has_cgroup: bool,
    /// Owner of the new user namespace, so that what the kernel charges to a namespace's creator is
    /// charged to this place alone. `None` where the launcher may not change its id.
    pub(crate) owner: Option<u32>,
}

impl Order {
    pub(crate) fn encode(self) -> [u8; 10] {
        let mut packet = [0; 10];
        packet[..4].copy_from_slice(&self.sequence.to_le_bytes());
        packet[4] = u8::from(self.has_lock);
        packet[5] = u8::from(self.has_cgroup);
        packet[6..].copy_from_slice(&self.owner.unwrap_or(0).to_le_bytes());
        packet
    }

    pub(crate) fn decode(packet: &[u8]) -> Option<Self> {
        let (sequence, rest) = packet.split_first_chunk::<4>()?;
        let [lock, cgroup, owner @ ..] = rest else { return None };
        let owner = u32::from_le_bytes(<[u8; 4]>::try_from(owner).ok()?);
        Some(Self {
            sequence: u32::from_le_bytes(*sequence),
            has_lock: *lock != 0,
            has_cgroup: *cgroup != 0,
            owner: (owner != 0).then_some(owner),
        })
    }
}

/// The launcher's answer: a pid (its pidfd beside it), or a negative errno.
pub(crate) fn encode_answer(sequence: u32, number: i32) -> [u8; 8] {
    let mut packet = [0; 8];
    packet[..4].copy_from_slice(&sequence.to_le_bytes());
    packet[4..].copy_from_slice(&number.to_le_bytes());
    packet
}

pub(crate) fn decode_answer(packet: &[u8]) -> Option<(u32, i32)> {
    let (sequence, number) = packet.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*sequence), i32::from_le_bytes(<[u8; 4]>::try_from(number).ok()?)))
}
