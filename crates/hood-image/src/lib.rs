//! Container images, read and written: `docker save` archives and OCI layouts.
//!
//! What comes in is hostile. An image is read twice: the first reading checks every digest and merges
//! the layers into a tree of names in memory, where links lead nowhere but inside it; the second
//! writes each file that is left, once, beneath one directory. So nothing is ever followed on disk,
//! and nothing is written of an image that does not hold. `docs/environments.md` says what of an
//! image stays behind.

mod archive;
mod bom;
mod bounds;
mod digest;
mod error;
mod export;
#[cfg(fuzzing)]
pub mod fuzzing;
mod layer;
mod layout;
mod manifest;
#[cfg(feature = "registry")]
pub mod registry;
mod tar;
mod tree;
mod unpack;

pub use bom::{Component, bill_of_materials, installed};
pub use bounds::Bounds;
pub use digest::Digest;
pub use error::ImageError;
pub use export::{Exported, Recipe, Source, export};
pub use layout::stream_layout;
pub use manifest::{ImageConfig, Pick};
pub use unpack::{LeftOut, Step, Unpacked, unpack};
