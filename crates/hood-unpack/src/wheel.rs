//! Python wheels: zip archives of files.

use std::io::{self, Read, Seek};

use hood_wire::unpack::Message;
use zip::ZipArchive;

use crate::speech::{Out, say_file, wrong};

pub(crate) fn unpack(from: impl Read + Seek, out: &mut Out<'_>) -> io::Result<()> {
    let mut archive =
        ZipArchive::new(from).map_err(|error| wrong(format!("it is no zip archive: {error}")))?;
    for index in 0..archive.len() {
        let file = archive.by_index(index).map_err(|error| wrong(error.to_string()))?;
        let path = file.name_raw().to_vec();
        if file.is_dir() {
            Message::Directory { path }.write(out)?;
        } else if file.is_symlink() {
            return Err(wrong(format!("/{} is a link, which no wheel has", String::from_utf8_lossy(&path))));
        } else {
            let executable = file.unix_mode().is_some_and(|mode| mode & 0o111 != 0);
            let size = file.size();
            say_file(&Message::File { path, executable, size }, size, file, out)?;
        }
    }
    Ok(())
}
