//! Benchmarks against a real server: `docs/benchmarks.md` holds figures and how to get them.

mod cli;
mod crowd;
mod environments;
mod figures;
mod fleet;
mod flood;
mod host;
mod humaneval;
mod live;
mod overhead;
mod python;
mod server;
mod status;
mod store;

fn main() -> anyhow::Result<()> {
    cli::main()
}
