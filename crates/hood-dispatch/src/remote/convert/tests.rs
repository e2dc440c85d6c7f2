use hood_core::EvaluationId;
use hood_core::plan::Layer;

use super::*;

fn order() -> Order {
    let file = |path: &str, content: &[u8]| File {
        path: path.to_owned(),
        content: content.to_vec(),
        executable: path == "tool",
    };
    Order {
        key: AttemptKey { evaluation: EvaluationId::new(Timestamp::from_micros(7), [1; 10]), attempt: 3 },
        token: 9,
        assignment: Assignment {
            executor: "one".to_owned(),
            kind: PlaceKind::LocalRoot,
            class: ExecutorClass::Cpu,
            environment: "minimal".to_owned(),
            limits: Limits { wall_ms: 1, ..Limits::DEFAULT },
            unenforced: Limit::ALL.to_vec(),
            degraded: Layer::ALL.map(|layer| Degraded { layer, reason: "none".to_owned() }).to_vec(),
            capacity_version: 4,
            capacity_taken_at: Timestamp::from_micros(5),
            reasons: vec!["because".to_owned()],
        },
        program: Program {
            build: Some(Build {
                argv: vec!["cc".to_owned(), "main.c".to_owned()],
                limits: Limits { wall_ms: 2, ..Limits::DEFAULT },
            }),
            argv: vec!["python3".to_owned(), "main.py".to_owned()],
            env: vec![("A".to_owned(), "b".to_owned())],
            cwd: "/srv".to_owned(),
            files: vec![file("tool", b"\x7fELF\0"), file("empty", b""), file("main.py", b"print()")],
            stdin: b"in".to_vec(),
        },
        conduct: Conduct { grace: Duration::from_millis(500), fail_on_output_limit: true },
        traceparent: Some("00-1-2-01".to_owned()),
    }
}

/// One that knows of no builds must not run the program without one.
#[test]
fn an_older_dispatcher_finds_no_program_where_a_build_comes_first() {
    let sent = order_to_wire(order(), String::new());
    let head = serde_json::to_value(&sent.head).expect("serialises");
    assert!(head["program"].get("argv").is_none(), "{head:#}");
    let plain = Order { program: Program { build: None, ..order().program }, ..order() };
    let head = serde_json::to_value(order_to_wire(plain, String::new()).head).expect("serialises");
    assert_eq!(head["program"]["argv"][0], "python3");
    assert!(head["program"].get("build").is_none(), "{head:#}");
}

#[test]
fn an_order_is_the_same_at_the_other_end() {
    let sent = order_to_wire(order(), "1".to_owned());
    let bytes = wire::encode_order(&sent).expect("fits");
    let read = wire::decode_order(&bytes).expect("sound");
    let back = order_from_wire(order().key, &read).expect("known");
    // Who carries it out is the one who reads it.
    assert_eq!(back.assignment, Assignment { executor: String::new(), ..order().assignment });
    assert_eq!((back.token, back.conduct, back.traceparent), (9, order().conduct, order().traceparent));
    assert_eq!(back.program, order().program);
}

#[test]
fn everything_seen_is_the_same_at_the_other_end() {
    let causes = [
        KillCause::Cancel,
        KillCause::WallTime,
        KillCause::CpuTime,
        KillCause::Output(Stream::Stdout),
        KillCause::Output(Stream::Stderr),
        KillCause::SampledMemory,
        KillCause::SampledProcesses,
    ];
    for cause in causes {
        for by in [KilledBy::Agent, KilledBy::Supervisor] {
            let seen = Observation {
                wait: Some(WaitStatus::Signaled(9)),
                exec_error: Some(ExecError { errno: 2, message: "no".to_owned() }),
                kill: Some(Kill { cause, by }),
                oom_kills: 1,
                forks_refused: 2,
                violation: Some("x".to_owned()),
                lost: Some("y".to_owned()),
                usage: Usage { wall_us: Some(1), blocked_us: Some(7), ..Usage::default() },
                stdout: StreamEnd { written: 3, kept: 2, complete: true },
                stderr: StreamEnd { written: 5, kept: 4, complete: false },
                build: None,
            };
            let build = BuildSeen { limits: Limits { wall_ms: 6, ..Limits::DEFAULT }, seen: seen.clone() };
            let seen = Observation { build: Some(Box::new(build)), ..seen };
            let report = Report { number: 8, body: ReportBody::Ended(Box::new(seen)) };
            let frame = report_to_wire(report.clone());
            assert_eq!(report_from_wire(frame.body).expect("known"), Some(report.body));
        }
    }
}

#[test]
fn what_would_have_to_be_guessed_is_refused() {
    let mut unknown = order_to_wire(order(), "1".to_owned());
    unknown.head.assignment.place = "cloud".to_owned();
    assert!(order_from_wire(order().key, &unknown).is_err());
    let kill = wire::Kill { cause: "boredom".to_owned(), by: "agent".to_owned() };
    let seen = Box::new(wire::Observation { kill: Some(kill), ..wire::Observation::default() });
    assert!(report_from_wire(wire::FrameBody::Ended { seen }).is_err());
}

#[test]
fn a_layer_that_is_not_known_here_spares_nothing() {
    let mut newer = order_to_wire(order(), "1".to_owned());
    newer.head.assignment.degraded = vec![wire::Degraded { layer: "moat".to_owned(), reason: String::new() }];
    newer.head.assignment.unenforced = vec!["moat_metres".to_owned()];
    let read = order_from_wire(order().key, &newer).expect("understood");
    assert!(read.assignment.degraded.is_empty() && read.assignment.unenforced.is_empty());
}
