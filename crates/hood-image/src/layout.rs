//! An OCI layout in a directory, as the one stream that images are read from.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::digest::Digest;
use crate::error::ImageError;

const DOCUMENTS: [&str; 2] = ["oci-layout", "index.json"];
const BLOBS: &str = "blobs/sha256";

/// Writes the layout in `dir` as a tar file. Only what a layout has is read, and no link is followed.
pub fn stream_layout(dir: &Path, to: impl Write) -> Result<(), ImageError> {
    let mut builder = tar::Builder::new(to);
    for name in DOCUMENTS {
        append(&mut builder, dir, name)?;
    }
    let reading = || ImageError::io("read the directory of the layout");
    for entry in fs::read_dir(dir.join(BLOBS)).map_err(reading())? {
        let name = entry.map_err(reading())?.file_name();
        // Whatever else lies there is nobody's blob.
        let Some(name) = name.to_str().filter(|name| format!("sha256:{name}").parse::<Digest>().is_ok())
        else {
            continue;
        };
        append(&mut builder, dir, &format!("{BLOBS}/{name}"))?;
    }
    builder.into_inner().map(drop).map_err(ImageError::io("pass the layout on"))
}

fn append<W: Write>(builder: &mut tar::Builder<W>, dir: &Path, name: &str) -> Result<(), ImageError> {
    let file = open(&dir.join(name)).map_err(ImageError::io("open a file of the layout"))?;
    let size = file.metadata().map_err(ImageError::io("look at a file of the layout"))?.len();
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    builder.append_data(&mut header, name, file.take(size)).map_err(ImageError::io("pass the layout on"))
}

fn open(path: &Path) -> io::Result<File> {
    let no_follow = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    if no_follow.metadata()?.is_file() { Ok(no_follow) } else { Err(io::ErrorKind::InvalidInput.into()) }
}
