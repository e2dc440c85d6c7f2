//! The one small binary of every place: `launcher` on the host's side clones places, `place` is
//! PID 1 of one. Both are executed from memory by the server; neither reads a file or an
//! environment variable of the host.

mod agent;
mod link;
mod output;
mod sampling;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["launcher", control, executable] => match (control.parse(), executable.parse()) {
            (Ok(control), Ok(executable)) => {
                hood_sandbox::inside::serve_launches(control, executable).is_ok()
            }
            _ => false,
        },
        ["place"] => hood_sandbox::inside::enter().is_ok_and(|cell| agent::Agent::new(cell).serve().is_ok()),
        _ => false,
    };
    ExitCode::from(u8::from(!done))
}
