//! The HTTP client of Fumehood's API: what the command line and the tests talk through. It retries
//! what is safe to send again, obeys the server when it says "later", and takes streams up again
//! where they broke off, without loss or repetition.

mod call;
mod client;
mod error;
mod follow;
mod query;
mod retry;
mod sse;
mod token;

pub use client::{Client, ClientBuilder, Submitted};
pub use error::{Error, WrongAddress};
pub use follow::{EventStream, Heard, OutputStream, Stream};
pub use hood_wire::api;
pub use query::{DeadQuery, ListQuery};
pub use retry::{Pause, Retry};
pub use token::Token;
