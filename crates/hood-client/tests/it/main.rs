//! The client against a server that misbehaves as told. Each module says whether it is black, grey
//! or white box.

mod address;
mod calls;
mod fake;
mod follow;
