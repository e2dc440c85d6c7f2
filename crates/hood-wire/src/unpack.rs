//! What an unpacker says of an archive: entry after entry, as flat as an archive is, and an end.
//!
//! A message is a header of `HEADER_BYTES` and what it counts: kind, executable bit, the lengths of
//! path and target, the size of the content; then path, target, and the content itself. Numbers are
//! little-endian. Both ends are of one build, so there is no version.

use std::io::{self, Read, Write};

/// The longest path, and the longest target of a link.
pub const NAME_BYTES_MAX: usize = 4096;

/// Kind, executable, two lengths of 16 bits, a size of 64.
const HEADER_BYTES: usize = 1 + 1 + 2 + 2 + 8;

/// What stands in an archive, with paths as the archive has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A directory.
    Directory {
        /// Its path.
        path: Vec<u8>,
    },
    /// A file, whose `size` bytes follow.
    File {
        /// Its path.
        path: Vec<u8>,
        /// Whether anybody may execute it.
        executable: bool,
        /// How many bytes follow.
        size: u64,
    },
    /// A symbolic link.
    Link {
        /// Its path.
        path: Vec<u8>,
        /// Where it leads, as written.
        target: Vec<u8>,
    },
    /// Another name of a file that came before.
    SameFile {
        /// The new name.
        path: Vec<u8>,
        /// The name that came before.
        target: Vec<u8>,
    },
    /// The archive was read to its end.
    End,
    /// It cannot be read, for a reason in words.
    Failed {
        /// Why.
        why: Vec<u8>,
    },
}

impl Message {
    /// Writes it. A file's content is the caller's to write behind it.
    ///
    /// # Errors
    /// A name is too long, or the other end is gone.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let none: &[u8] = &[];
        let (kind, executable, path, target, size) = match self {
            Self::Directory { path } => (b'd', false, &**path, none, 0),
            Self::File { path, executable, size } => (b'f', *executable, &**path, none, *size),
            Self::Link { path, target } => (b'l', false, &**path, &**target, 0),
            Self::SameFile { path, target } => (b'h', false, &**path, &**target, 0),
            Self::End => (b'e', false, none, none, 0),
            Self::Failed { why } => (b'x', false, &why[..why.len().min(NAME_BYTES_MAX)], none, 0),
        };
        let mut header = vec![kind, u8::from(executable)];
        header.extend(length(path)?.to_le_bytes());
        header.extend(length(target)?.to_le_bytes());
        header.extend(size.to_le_bytes());
        to.write_all(&header)?;
        to.write_all(path)?;
        to.write_all(target)
    }

    /// Reads the next one. A file's content is the caller's to read behind it.
    ///
    /// # Errors
    /// The stream ends too early, or what it says is no message.
    pub fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut header = [0; HEADER_BYTES];
        from.read_exact(&mut header)?;
        let [kind, executable, p0, p1, t0, t1, size @ ..] = header;
        let path = name(from, u16::from_le_bytes([p0, p1]))?;
        let target = name(from, u16::from_le_bytes([t0, t1]))?;
        let size = u64::from_le_bytes(size);
        Ok(match kind {
            b'd' => Self::Directory { path },
            b'f' => Self::File { path, executable: executable != 0, size },
            b'l' => Self::Link { path, target },
            b'h' => Self::SameFile { path, target },
            b'e' => Self::End,
            b'x' => Self::Failed { why: path },
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "an unknown kind of message")),
        })
    }
}

fn length(name: &[u8]) -> io::Result<u16> {
    u16::try_from(name.len())
        .ok()
        .filter(|_| name.len() <= NAME_BYTES_MAX)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a name that is too long"))
}

fn name(from: &mut impl Read, length: u16) -> io::Result<Vec<u8>> {
    if usize::from(length) > NAME_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a name that is too long"));
    }
    let mut name = vec![0; usize::from(length)];
    from.read_exact(&mut name)?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_pipe() {
        let path = b"a/\xff".to_vec();
        let all = [
            Message::Directory { path: path.clone() },
            Message::File { path: path.clone(), executable: true, size: u64::MAX },
            Message::Link { path: path.clone(), target: b"../b".to_vec() },
            Message::SameFile { path, target: b"c".to_vec() },
            Message::Failed { why: b"no".to_vec() },
            Message::End,
        ];
        let mut bytes = Vec::new();
        all.iter().for_each(|message| message.write(&mut bytes).expect("fits"));
        let mut from = bytes.as_slice();
        for message in all {
            assert_eq!(Message::read(&mut from).expect("whole"), message);
        }
        assert!(Message::read(&mut from).is_err());
    }

    #[test]
    fn what_is_cut_short_or_too_long_is_an_error() {
        let mut bytes = Vec::new();
        Message::Directory { path: b"abc".to_vec() }.write(&mut bytes).expect("fits");
        for end in 0..bytes.len() {
            assert!(Message::read(&mut &bytes[..end]).is_err(), "{end}");
        }
        let long = Message::Directory { path: vec![b'a'; NAME_BYTES_MAX + 1] };
        assert!(long.write(&mut Vec::new()).is_err());
        let mut forged = bytes.clone();
        forged[2..4].copy_from_slice(&u16::MAX.to_le_bytes());
        forged.resize(100_000, b'a');
        assert!(Message::read(&mut forged.as_slice()).is_err());
    }
}
