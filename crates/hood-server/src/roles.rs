//! The roles that the binary can play. Each builds only what it needs, and is started the same way
//! by the command line and by a test.

mod apart;
pub mod api;
mod bus;
mod data_dir;
pub mod declarations;
pub mod dispatcher;
mod environments;
mod keeping;
pub mod key;
pub mod notifier;
pub(crate) mod offer;
pub mod serve;
mod side;
mod webhooks;
pub mod worker;

pub use data_dir::{DataDir, DataDirError, Endpoint};
pub use environments::{BuildPlaces, open_library, sources};
