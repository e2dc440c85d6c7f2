//! What is common to all archives: the confinement, and how they are told of.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, StdoutLock, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;

use hood_wire::unpack::Message;

use crate::{deb, wheel};

/// What is read and written at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// Where what is read goes.
pub(crate) type Out<'a> = BufWriter<StdoutLock<'a>>;

/// Says what is in the archive on standard input.
pub(crate) fn answer(kind: &str) -> ExitCode {
    // Taken before the confinement, which knows no way to make a second descriptor.
    let Ok(input) = io::stdin().as_fd().try_clone_to_owned() else { return ExitCode::FAILURE };
    let mut out = BufWriter::with_capacity(CHUNK_BYTES, io::stdout().lock());
    let said = match hood_sandbox::inside::become_filter(input.as_fd()) {
        Ok(()) => say(kind, input, &mut out),
        Err(error) => Err(io::Error::other(format!("it cannot be confined: {error}"))),
    };
    let end = match said {
        Ok(()) => Message::End,
        Err(error) => Message::Failed { why: error.to_string().into_bytes() },
    };
    // Whoever reads this knows that it is not whole without its end.
    let told = end.write(&mut out).and_then(|()| out.flush());
    ExitCode::from(u8::from(told.is_err()))
}

fn say(kind: &str, input: OwnedFd, out: &mut Out<'_>) -> io::Result<()> {
    let file = BufReader::with_capacity(CHUNK_BYTES, File::from(input));
    match kind {
        "deb" => deb::unpack(file, out),
        "wheel" => wheel::unpack(file, out),
        _ => Err(io::Error::other("an unknown kind of archive")),
    }
}

/// A file's entry and its content, which must be as long as the archive says.
pub(crate) fn say_file(
    message: &Message,
    size: u64,
    content: impl Read,
    out: &mut Out<'_>,
) -> io::Result<()> {
    message.write(out)?;
    let copied = io::copy(&mut content.take(size), out)?;
    if copied == size {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file in it is shorter than it says"))
}

pub(crate) fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}
