//! Real processes under random deaths: evaluations are submitted without pause while every part of a
//! running Fumehood is killed or frozen, and afterwards the complete history is read and judged.

mod balancer;
mod check;
mod cli;
mod database;
mod dice;
mod fleet;
mod gather;
mod history;
mod load;
mod member;
mod network;
mod plan;
mod report;
mod roles;
mod rolling;
mod storm;
mod upgrade;
mod witness;
mod work;

fn main() -> std::process::ExitCode {
    cli::main()
}
