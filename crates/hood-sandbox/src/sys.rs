//! The kernel calls that rustix has no safe form of. The only unsafe code of the project.
#![expect(unsafe_code, reason = "raw system calls live here and nowhere else")]

mod confine;
mod process;
mod rights;

pub(crate) use confine::*;
pub(crate) use process::*;
pub(crate) use rights::*;
