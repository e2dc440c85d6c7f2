//! What code runs in: declarations, and the root images made from them.
//!
//! An image is a copy of our own, never a part of the host that is mounted: no page of it is shared
//! with a program of the host. It is named by the digest of its content, built when it is first
//! needed, and belongs to an id that no place maps. `docs/environments.md` says what is in one.

mod compile;
mod contents;
mod declaration;
mod elf;
mod error;
mod fetch;
mod host;
mod image;
mod imported;
mod library;
mod linker;
mod lock;
mod progress;
mod record;
mod resolve;
mod tree;
mod unpack;

pub use compile::Workshop;
pub use contents::{Bounds, PATH_BYTES_MAX};
pub use declaration::{
    Base, DECLARATION_BYTES_MAX, DESCRIPTION_BYTES_MAX, Declaration, DeclarationError, NAME_BYTES_MAX,
    Packages, Problem, builtin, is_name,
};
pub use error::{EnvironmentError, PYTHON_MINIMUM};
pub use fetch::Sources;
pub use imported::Imported;
pub use library::{Collected, IMAGE_OWNER, Image, Library, Options, Removed, Staging, Status};
pub use lock::{Deb, Lock, Wheel};
pub use progress::{Progress, Stage};
pub use resolve::resolve;
