//! From assignment to end.

use hood_wire::agent::Exit;

use crate::harness::{job, run};

#[test]
fn runs_a_program_and_tells_its_end() {
    let done = run(&job(&["hello", "a", "b"]));
    assert_eq!(done.exit(), Exit::Code(2));
    assert_eq!(done.text(), "hello 2\n");
}
