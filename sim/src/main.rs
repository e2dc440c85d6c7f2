use std::process::ExitCode;

fn main() -> ExitCode {
    hood_sim::cli::main()
}
