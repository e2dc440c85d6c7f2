//! Everything is in the library, so that tests reach it.

use std::process::ExitCode;

/// musl's own has one lock for all threads, which a server has many of.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    hood_server::cli::main()
}
