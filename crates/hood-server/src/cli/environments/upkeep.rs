//! `fumehood env rm` and `fumehood env gc`.

use hood_dispatch::environment::Removed;
use serde::Serialize;

use super::super::exit::Exit;
use super::super::failure::Failure;
use super::super::global::Global;
use super::super::output::{self, Format};
use super::super::units;
use super::{failed, library};

#[derive(Debug, Serialize)]
struct Gone<'a> {
    name: &'a str,
    /// Freed now; 0 where the image stays, because another environment has it or somebody runs from it.
    freed_bytes: u64,
    /// The image was there.
    removed: bool,
}

#[derive(Debug, Serialize)]
struct Swept {
    images: u64,
    downloads: u64,
    freed_bytes: u64,
}

pub(super) fn remove(names: &[String], format: Format, global: &Global) -> Result<Exit, Failure> {
    let library = library(global)?;
    let mut all = Vec::new();
    for name in names {
        let removed = library
            .remove(name)
            .map_err(|error| failed(format!("cannot remove the image of environment `{name}`"), error))?;
        let (freed_bytes, words) = match removed {
            Removed::Image { bytes } => (bytes, format!("removed, {} freed", units::show_bytes(bytes))),
            Removed::NameOnly => (0, "removed; its files go when nobody uses them".to_owned()),
            Removed::Nothing => (0, "was not built".to_owned()),
        };
        if format == Format::Text {
            output::text(&format!("{name}: {words}"))?;
        }
        all.push(Gone { name, freed_bytes, removed: removed != Removed::Nothing });
    }
    match format {
        Format::Json => output::json(&all),
        Format::Text => Ok(Exit::DONE),
    }
}

pub(super) fn collect(format: Format, global: &Global) -> Result<Exit, Failure> {
    let library = library(global)?;
    let swept = library.collect().map_err(|error| failed("cannot clear up the images".to_owned(), error))?;
    let Some(swept) = swept else {
        return Err(Failure::new("somebody has the images open and may run from them")
            .next("stop `fumehood serve` and other commands on this data directory first; the next start removes such images \
                 by itself"));
    };
    match format {
        Format::Json => output::json(&Swept {
            images: swept.images,
            downloads: swept.downloads,
            freed_bytes: swept.bytes,
        }),
        Format::Text => {
            let (images, downloads) = (swept.images, swept.downloads);
            let freed = units::show_bytes(swept.bytes);
            output::text(&format!("{images} images and {downloads} downloads removed, {freed} freed"))
        }
    }
}
