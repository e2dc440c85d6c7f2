//! Reads one archive on its standard input and says on its standard output what is in it. Archives
//! are written by strangers, so before the first byte is read this process gives up everything but
//! its two descriptors: it can open no file, reach no network, start and signal nobody.

mod deb;
mod speech;
mod wheel;

use std::process::ExitCode;

fn main() -> ExitCode {
    speech::answer(&std::env::args().nth(1).unwrap_or_default())
}
