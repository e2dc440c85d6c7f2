//! What a build leaves to the program that comes after it in the same place: files, and nothing else.

use crate::harness::{Job, Lab, job};

/// The first runs as the build of the second.
fn two(build: &[&str], program: &[&str]) -> Job {
    Job { build: Some(job(build).assignment), ..job(program) }
}

#[test]
fn objects_of_system_v_and_posix_queues_end_with_the_build() {
    leaves_no_objects(&Lab::new());
}

pub(crate) fn leaves_no_objects(lab: &Lab) {
    let both = two(&["leave-objects"], &["find-objects"]);
    let mut session = lab.open(&both);
    session.assign(&both);
    let left = session.finish_build().text();
    for objects in ["segments: 2\n", "semaphore sets: 1\n", "message queues: 1\n"] {
        assert!(left.contains(objects), "nothing was left: {left}");
    }
    assert!(left.contains("held: a POSIX queue"), "{left}");
    session.finish().assert_held();
}
