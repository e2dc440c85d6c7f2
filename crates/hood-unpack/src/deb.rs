//! Debian packages: an ar archive whose member `data.tar.*` holds the files. The member with the
//! scripts is never looked at.

use std::io::{self, BufRead, Read};

use hood_wire::unpack::Message;
use tar::{Archive, EntryType};

use crate::speech::{Out, say_file, wrong};

const MAGIC: &[u8] = b"!<arch>\n";
const HEADER_BYTES: usize = 60;
const NAME: std::ops::Range<usize> = 0..16;
const SIZE: std::ops::Range<usize> = 48..58;
const MARK: std::ops::Range<usize> = 58..60;

pub(crate) fn unpack(mut from: impl BufRead, out: &mut Out<'_>) -> io::Result<()> {
    let mut magic = [0; MAGIC.len()];
    from.read_exact(&mut magic)?;
    if magic != MAGIC {
        return Err(wrong("it is no Debian package"));
    }
    loop {
        let mut header = [0; HEADER_BYTES];
        from.read_exact(&mut header).map_err(|_| wrong("it has no member data.tar"))?;
        let field = |range| String::from_utf8_lossy(&header[range]).trim_end().to_owned();
        let size: u64 = field(SIZE).parse().map_err(|_| wrong("a member's size is no number"))?;
        if header[MARK] != *b"`\n" {
            return Err(wrong("a member's header is broken"));
        }
        let name = field(NAME);
        let mut member = from.by_ref().take(size);
        match name.trim_end_matches('/').strip_prefix("data.tar") {
            Some("") => return tree(member, out),
            Some(".xz") => return tree(lzma_rust2::XzReader::new(member, true), out),
            Some(".gz") => return tree(flate2::bufread::MultiGzDecoder::new(member), out),
            Some(".zst") => {
                let decoder = ruzstd::decoding::StreamingDecoder::new(member);
                return tree(decoder.map_err(|error| wrong(error.to_string()))?, out);
            }
            Some(other) => return Err(wrong(format!("its files are packed as {other}, which is not known"))),
            None => {
                // Members begin at even offsets.
                let skipped = io::copy(&mut member, &mut io::sink())?;
                if skipped != size {
                    return Err(wrong("a member is cut short"));
                }
                io::copy(&mut from.by_ref().take(size % 2), &mut io::sink())?;
            }
        }
    }
}

fn tree(from: impl Read, out: &mut Out<'_>) -> io::Result<()> {
    let mut archive = Archive::new(from);
    for entry in archive.entries()? {
        let entry = entry?;
        let path = entry.path_bytes().into_owned();
        let target = entry.link_name_bytes().map(|target| target.into_owned()).unwrap_or_default();
        match entry.header().entry_type() {
            EntryType::Directory => Message::Directory { path }.write(out)?,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let executable = entry.header().mode()? & 0o111 != 0;
                let size = entry.size();
                say_file(&Message::File { path, executable, size }, size, entry, out)?;
            }
            EntryType::Symlink => Message::Link { path, target }.write(out)?,
            EntryType::Link => Message::SameFile { path, target }.write(out)?,
            EntryType::XGlobalHeader => {}
            _ => {
                let path = String::from_utf8_lossy(&path);
                return Err(wrong(format!("/{path} is neither file, directory nor link")));
            }
        }
    }
    Ok(())
}
