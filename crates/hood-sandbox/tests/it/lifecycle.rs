//! From assignment to end.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use hood_sandbox::SystemCalls;
use hood_sandbox::inside::PATH_DIRECTORIES_MAX;
use hood_wire::agent::{EarlyEnd, Exit, HostFrame, KillCause, Lacking, OnOutputLimit, Stage, Stream};

use crate::harness::{Job, Lab, MIB, eventually, has_groups, job, run};

#[test]
fn tells_exit_codes_and_signals_apart() {
    let lab = Lab::new();
    assert_eq!(lab.run(&job(&["exit", "0"])).exit(), Exit::Code(0));
    assert_eq!(lab.run(&job(&["exit", "200"])).exit(), Exit::Code(200));
    for signal in [1, 2, 3, 6, 8, 9, 11, 13, 14, 15] {
        assert_eq!(lab.run(&job(&["signal", &signal.to_string()])).exit(), Exit::Signal(signal));
    }
}

#[test]
fn shows_exactly_the_arguments_and_environment_given() {
    let mut job = job(&["arguments", "", "a b"]);
    job.assignment.env.push(b"X=1=2".to_vec());
    job.assignment.cwd = b"/tmp".to_vec();
    assert_eq!(run(&job).text(), "[adversary]\n[arguments]\n[]\n[a b]\n<PATH=/bin>\n<X=1=2>\n{/tmp}\n");
}

#[test]
fn writes_input_files_and_runs_one() {
    let lab = Lab::new();
    let program = std::fs::read(lab.image.join("bin/adversary")).unwrap();
    let mut job = job(&[]);
    job.assignment.argv = vec![b"deep/er/program".to_vec(), b"exit".to_vec(), b"7".to_vec()];
    job.files =
        vec![(b"deep/er/program".to_vec(), program, true), (b"data".to_vec(), vec![0; 100_000], false)];
    assert_eq!(lab.run(&job).exit(), Exit::Code(7));
}

#[test]
fn says_at_which_step_a_program_did_not_start() {
    let lab = Lab::new();
    let refused = |job| match lab.run(&job).end {
        Err(EarlyEnd::Refused { stage, errno, .. }) => (stage, errno),
        other => panic!("{other:?}"),
    };
    let mut missing = job(&[]);
    missing.assignment.argv = vec![b"nope".to_vec()];
    assert_eq!(refused(missing.clone()), (Stage::Exec, 2));
    missing.files = vec![(b"plain".to_vec(), b"text".to_vec(), false)];
    missing.assignment.argv = vec![b"./plain".to_vec()];
    assert_eq!(refused(missing.clone()), (Stage::Exec, 13));
    missing.assignment.cwd = b"/nowhere".to_vec();
    assert_eq!(refused(missing), (Stage::Cwd, 2));
    let with_file = |path: &[u8], bytes: usize| {
        let mut job = job(&["exit", "0"]);
        job.files = vec![(path.to_vec(), vec![1; bytes], false)];
        job
    };
    for path in [b"../up".as_slice(), b"/abs", b"a/../../b", b"", b"dir/"] {
        assert_eq!(refused(with_file(path, 1)), (Stage::Inputs, 22));
    }
    assert_eq!(refused(with_file(b"large", 17 * MIB as usize)), (Stage::Inputs, 28));
    let mut twice = with_file(b"same", 1);
    twice.files.push((b"same".to_vec(), vec![], false));
    assert_eq!(refused(twice), (Stage::Inputs, 17));
}

#[test]
fn a_program_that_is_there_and_lacks_its_interpreter_says_which() {
    let lab = Lab::new();
    let start = |calls, content: &[u8]| {
        let mut job = Job { calls, ..job(&[]) };
        job.assignment.argv = vec![b"./it".to_vec()];
        job.files = vec![(b"it".to_vec(), content.to_vec(), true), (b"text".to_vec(), b"#!".to_vec(), false)];
        match lab.run(&job).end {
            Err(EarlyEnd::Refused { stage: Stage::Exec, errno, lacking, .. }) => (errno, lacking),
            other => panic!("{other:?}"),
        }
    };
    let interpreter = |path: &[u8]| Some(Lacking::Interpreter(path.to_vec()));
    // What looks is already under the program's own filter.
    for calls in [SystemCalls::Ordinary, SystemCalls::Least] {
        assert_eq!(start(calls, b"#!/bin/bash -e\n"), (2, interpreter(b"/bin/bash")));
        assert_eq!(start(calls, b"#!/eval/text\n"), (13, interpreter(b"/eval/text")));
        assert_eq!(start(calls, b"#!/bin/adversary/x\n"), (2, interpreter(b"/bin/adversary/x")));
        assert_eq!(start(calls, b"no program"), (8, None));
    }
    // One of the host's own, linked for a loader that this image lacks.
    let dynamic = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let (errno, lacking) = start(SystemCalls::Ordinary, &dynamic[..dynamic.len().min(8 << 20)]);
    let Some(Lacking::Loader(path)) = lacking else { panic!("{errno}: {lacking:?}") };
    assert!(errno == 2 && path.starts_with(b"/lib"), "{}", String::from_utf8_lossy(&path));
}

#[test]
fn what_is_there_and_is_no_program_says_what_it_is() {
    let lab = Lab::new();
    // Of the image's owner, who is not the program: it may not be read.
    let unreadable = lab.image.join("bin/unreadable");
    std::fs::write(&unreadable, "#!/nope\n").unwrap();
    std::fs::set_permissions(&unreadable, Permissions::from_mode(0o711)).unwrap();
    for calls in [SystemCalls::Ordinary, SystemCalls::Least] {
        let refused = |name: &[u8]| {
            let mut job = Job { calls, ..job(&[]) };
            job.assignment.argv = vec![name.to_vec()];
            job.files = vec![(b"it".to_vec(), b"#!/bin\n".to_vec(), true)];
            refusal(&lab, &job)
        };
        assert_eq!(refused(b"/bin"), (13, Some(Lacking::Directory(b"/bin".to_vec()))));
        assert_eq!(refused(b"./it"), (13, Some(Lacking::Directory(b"/bin".to_vec()))));
        // What the kernel answers depends on the file system beneath the image.
        assert_eq!(refused(b"unreadable").1, Some(Lacking::Unreadable(b"/bin/unreadable".to_vec())));
    }
}

#[test]
fn as_much_of_path_is_searched_as_is_said_and_one_file_executed() {
    let lab = Lab::new();
    let with_path = |path: String, name: &[u8]| {
        let mut job = job(&[]);
        job.assignment.env = vec![format!("PATH={path}").into_bytes()];
        job.assignment.argv = vec![name.to_vec(), b"exit".to_vec(), b"7".to_vec()];
        let script = |path: &[u8], executable| (path.to_vec(), b"#!/nope\n".to_vec(), executable);
        job.files =
            vec![script(b"adversary", true), script(b"plain/it", false), script(b"deep/adversary/x", true)];
        job
    };
    let behind = |count: usize| "/nowhere:".repeat(count) + "/bin";
    assert_eq!(lab.run(&with_path(behind(PATH_DIRECTORIES_MAX - 1), b"adversary")).exit(), Exit::Code(7));
    let refused = |path, name: &[u8]| refusal(&lab, &with_path(path, name));
    assert_eq!(refused(behind(PATH_DIRECTORIES_MAX), b"adversary"), (2, Some(Lacking::Unsearched)));
    assert_eq!(refused("/nowhere:/bin".to_owned(), b"it"), (2, None));
    assert_eq!(refused("plain:/bin".to_owned(), b"it"), (13, None));
    let interpreter = Some(Lacking::Interpreter(b"/nope".to_vec()));
    assert_eq!(refused(":/bin".to_owned(), b"adversary"), (2, interpreter.clone()), "no other is tried");
    assert_eq!(refused(".:".repeat(60_000), b"adversary"), (2, interpreter));
    assert_eq!(
        lab.run(&with_path("deep:/bin".to_owned(), b"adversary")).exit(),
        Exit::Code(7),
        "a directory"
    );
}

fn refusal(lab: &Lab, job: &Job) -> (i32, Option<Lacking>) {
    match lab.run(job).end {
        Err(EarlyEnd::Refused { stage: Stage::Exec, errno, lacking, .. }) => (errno, lacking),
        other => panic!("{other:?}"),
    }
}

#[test]
fn inputs_are_paid_for_by_the_program() {
    if !has_groups() {
        return;
    }
    let mut job = job(&["exit", "0"]);
    job.limits.memory_bytes = 4 * MIB;
    job.files = vec![(b"large".to_vec(), vec![1; 8 * MIB as usize], false)];
    let done = run(&job);
    assert_eq!(done.end, Err(EarlyEnd::Died { exit: Exit::Signal(9), cause: None }));
    assert!(done.sample.oom_kills > Some(0), "{:?}", done.sample);
}

#[test]
fn feeds_stdin_larger_than_the_pipe_and_ends_it() {
    let mut job = job(&["echo"]);
    job.stdin = (0..900_000u32).map(|n| n as u8).collect();
    let done = run(&job);
    assert_eq!(done.stdout, job.stdin);
    assert!(done.ending().stdout.complete);
    job.assignment.argv[1] = b"exit".to_vec();
    assert_eq!(run(&job).exit(), Exit::Code(0), "unread stdin is no reason to fail");
}

#[test]
fn wall_time_ends_in_term_then_grace_then_kill() {
    let lab = Lab::new();
    let mut polite = job(&["handle-term"]);
    polite.assignment.wall_ms = 150;
    polite.assignment.grace_ms = 5_000;
    let done = lab.run(&polite);
    let ending = done.ending();
    assert_eq!((ending.exit, ending.cause, ending.killed), (Exit::Code(3), Some(KillCause::Deadline), false));
    assert!(ending.usage.wall_us < 2_000_000, "the grace was waited out: {ending:?}");
    assert_eq!(done.text(), "ready\ngoodbye\n");
    let mut stubborn = job(&["ignore-term"]);
    stubborn.assignment.wall_ms = 100;
    stubborn.assignment.grace_ms = 200;
    let ending = *lab.run(&stubborn).ending();
    assert_eq!(
        (ending.exit, ending.cause, ending.killed),
        (Exit::Signal(9), Some(KillCause::Deadline), true)
    );
    assert!((300_000..1_500_000).contains(&ending.usage.wall_us), "{ending:?}");
    let mut spinning = job(&["spin"]);
    spinning.assignment.wall_ms = 300;
    spinning.assignment.grace_ms = 0;
    let done = lab.run(&spinning);
    assert_eq!(done.exit(), Exit::Signal(9));
    // The machine may be busy with others; that it is measured at all is the point.
    if has_groups() {
        assert!(done.sample.user_us > Some(20_000), "{:?}", done.sample);
    }
}

#[test]
fn wall_time_is_no_shorter_than_what_the_program_itself_measured() {
    let lab = Lab::new();
    for _ in 0..10 {
        let done = lab.run(&job(&["measure-itself"]));
        let measured: u64 = done.text().trim().parse().unwrap();
        let wall = done.ending().usage.wall_us;
        assert!(measured >= 3000 && wall >= measured, "{wall} µs of wall time, and it saw {measured}");
    }
}

#[test]
fn cancel_and_kill_end_a_program_at_any_stage() {
    let lab = Lab::new();
    let waiting = job(&["pause"]);
    let mut session = lab.open(&waiting);
    session.send(&HostFrame::Kill);
    let done = session.finish();
    assert_eq!(done.end, Err(EarlyEnd::Died { exit: Exit::Signal(9), cause: Some(KillCause::Kill) }));
    let mut session = lab.open(&waiting);
    session.assign(&waiting);
    session.await_output("ready");
    session.send(&HostFrame::Cancel { grace_ms: 10_000 });
    let ending = *session.finish().ending();
    assert_eq!((ending.exit, ending.cause), (Exit::Signal(15), Some(KillCause::Cancel)));
}

#[test]
fn what_a_program_leaves_behind_ends_with_it() {
    let start = Instant::now();
    let done = run(&job(&["survivor"]));
    assert_eq!(done.exit(), Exit::Code(0));
    assert!(done.ending().stdout.complete, "the pipes are closed: {:?}", done.ending());
    assert!(done.ending().usage.reaped >= 4, "{:?}", done.ending());
    assert!(start.elapsed() < Duration::from_secs(5), "end of file was awaited");
}

#[test]
fn keeps_and_counts_output() {
    let lab = Lab::new();
    let mut both = job(&["flood", "100000000", "both"]);
    both.limits.agent_memory_bytes = 20 * MIB;
    let done = lab.run(&both);
    let ending = done.ending();
    assert_eq!(ending.exit, Exit::Code(0));
    for (totals, bytes) in [(ending.stdout, &done.stdout), (ending.stderr, &done.stderr)] {
        assert_eq!((totals.written, totals.kept, totals.complete), (100_000_000, MIB, true));
        assert_eq!(bytes.len() as u64, MIB);
    }
    both.assignment.on_output_limit = OnOutputLimit::Fail;
    let ending = *lab.run(&both).ending();
    assert!(
        matches!(ending.cause, Some(KillCause::OutputLimit(Stream::Stdout | Stream::Stderr))),
        "{ending:?}"
    );
    let done = lab.run(&job(&["tiny-writes", "10000"]));
    let expected: String = (0..10_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(done.text(), expected);
    assert!(done.output_frames < 2_000, "{} frames", done.output_frames);
    let done = lab.run(&job(&["close-all"]));
    assert_eq!((done.exit(), done.stdout.len()), (Exit::Code(0), 0));
}

#[test]
fn the_program_may_open_its_streams_again() {
    let done = run(&job(&["reopen"]));
    done.assert_held();
    assert!(done.text().ends_with("again\n"));
}

#[test]
fn an_absent_reader_blocks_nothing() {
    let lab = Lab::new();
    let mut noisy = job(&["flood", "8000000"]);
    noisy.assignment.output_bytes = 8 * MIB;
    noisy.limits.agent_memory_bytes = hood_sandbox::GroupLimits::agent_memory(8 * MIB, 0);
    let mut session = lab.open(&noisy);
    session.assign(&noisy);
    let (agent, _) = session.place.pids();
    // The program ends although nobody has read a frame: its starter, and so its pid, is gone.
    let children = format!("/proc/{agent}/task/{agent}/children");
    eventually("the program has ended", || {
        std::fs::read_to_string(&children).is_ok_and(|children| children.trim().is_empty())
    });
    assert_eq!(session.finish().stdout.len(), 8_000_000);
}

#[test]
fn a_place_waits_for_its_last_acknowledgement_but_not_for_ever() {
    let lab = Lab::new();
    let mut short = job(&["exit", "0"]);
    short.assignment.orphan_after_ms = 300;
    let mut session = lab.open(&short);
    session.acknowledges = false;
    session.assign(&short);
    while !matches!(session.receive().expect("it ends with a word"), hood_wire::agent::AgentFrame::Ended(_)) {
    }
    assert_eq!(session.receive(), None);
    session.place.destroy().unwrap();
}

#[test]
fn a_closed_link_ends_the_place() {
    let lab = Lab::new();
    let waiting = job(&["pause"]);
    let mut session = lab.open(&waiting);
    session.assign(&waiting);
    session.await_output("ready");
    drop(session.link);
    let (agent, _) = session.place.pids();
    eventually("the agent has ended", || !std::path::Path::new(&format!("/proc/{agent}")).exists());
    session.place.destroy().unwrap();
}

#[test]
fn frames_out_of_order_end_the_place() {
    use std::io::Write as _;
    let lab = Lab::new();
    let waiting = job(&["pause"]);
    for bytes in [b"\xff\xff\xff\xff".to_vec(), vec![9, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 4]] {
        let mut session = lab.open(&waiting);
        session.link.write_all(&bytes).unwrap();
        while session.receive().is_some() {}
        session.place.destroy().unwrap();
    }
}
