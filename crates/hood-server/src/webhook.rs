//! Telling a client's address that an evaluation has ended. Addresses come from strangers, so what is
//! connected to is what was checked, and an answer is worth its status alone.

mod address;
mod send;
mod signature;
mod target;

pub use address::{Network, Rules};
pub use send::{SEND_TIME_MAX, Sender, SenderError, Sent};
pub use signature::{Signer, WrongSecret};
pub use target::{Target, WrongTarget};
