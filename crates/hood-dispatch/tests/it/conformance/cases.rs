//! Black box: what every `Dispatch` owes the worker. Written against the trait alone; each way to
//! dispatch has a module that runs all of them.

use std::collections::BTreeMap;
use std::time::Duration;

use hood_core::outcome::{KillCause, WaitStatus, judge};
use hood_core::program::Build;
use hood_core::{Limits, Verdict};
use hood_dispatch::{DispatchError, Link, Order, ReportBody};

use super::bench::{Bench, PATIENCE, listen, take};

/// Every case, as a test in a module of its own.
macro_rules! conformance {
    ($name:ident, $bench:expr) => {
        mod $name {
            use super::*;

            conformance! { @cases $bench;
                nothing_runs_before_the_first_report_is_acknowledged
                the_same_attempt_twice_is_one_execution
                an_order_that_is_repeated_at_once_is_one_execution
                who_attaches_later_gets_what_was_not_acknowledged_and_nothing_else
                who_takes_over_goes_on_from_the_last_acknowledged_report
                a_place_obeys_the_highest_token_that_it_has_seen
                an_acknowledgement_that_runs_ahead_keeps_nothing_for_ever
                what_is_not_there_is_gone
                a_cancel_gives_the_grace_and_a_second_one_takes_it_away
                a_cancel_before_the_release_ends_it_without_a_first_instruction
                a_build_comes_before_the_program_under_limits_of_its_own
                a_build_that_fails_is_the_end
                a_cancel_while_something_is_built_ends_both
            }
        }
    };
    (@cases $bench:expr; $($case:ident)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $case() {
            let bench = $bench.await;
            cases::$case(&bench).await;
            bench.close().await;
        })*
    };
}

pub(crate) async fn nothing_runs_before_the_first_report_is_acknowledged(bench: &Bench) {
    let order = bench.order(1, "print('ran')");
    let mut link = bench.dispatch.execute(order).await.expect("a place");
    let first = link.next().await.expect("a report");
    assert!(matches!(first.body, ReportBody::Ready { .. }) && first.number == 1);
    let early = tokio::time::timeout(Duration::from_millis(300), link.next()).await;
    assert!(early.is_err(), "something was said before the release: {early:?}");
    link.acknowledge(1);
    assert_eq!(listen(&mut link).await.stdout, b"ran\n");
}

pub(crate) async fn the_same_attempt_twice_is_one_execution(bench: &Bench) {
    let order = bench.order(1, "import os\nprint(os.urandom(8).hex())");
    let mut first = bench.dispatch.execute(order.clone()).await.expect("a place");
    let report = first.next().await.expect("ready");
    first.acknowledge(report.number);
    let mut second = bench.dispatch.execute(order).await.expect("the same place");
    let heard = listen(&mut second).await;
    assert!(heard.seen.is_some() && heard.stdout.len() == 17, "{heard:?}");
    assert!(first.next().await.is_none_or(|report| report.number > 1), "the first link is not fed any more");
}

pub(crate) async fn an_order_that_is_repeated_at_once_is_one_execution(bench: &Bench) {
    let order = bench.order(1, "import os\nprint(os.urandom(8).hex())");
    let again = || bench.dispatch.execute(order.clone());
    let (a, b, c) = tokio::join!(again(), again(), again());
    let mut links = [a.expect("a place"), b.expect("the same"), c.expect("the same")];
    // Of several links one is fed at a time: what each hears is a part of the one run's output.
    let all = futures::future::join_all(links.iter_mut().map(pieces));
    let heard = tokio::time::timeout(PATIENCE, all).await.expect("all end");
    let mut stdout: BTreeMap<u64, u8> = BTreeMap::new();
    for (at, byte) in heard.into_iter().flatten() {
        assert!(stdout.insert(at, byte).is_none_or(|before| before == byte), "run twice");
    }
    assert_eq!(stdout.keys().copied().collect::<Vec<_>>(), (0..17).collect::<Vec<_>>());
    while bench.local.live() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Every byte of stdout that comes over a link, with its place in the stream.
async fn pieces(link: &mut Link) -> Vec<(u64, u8)> {
    let mut heard = Vec::new();
    while let Some(report) = link.next().await {
        if let ReportBody::Output { offset, bytes, .. } = report.body {
            heard.extend((offset..).zip(bytes));
        }
        link.acknowledge(report.number);
    }
    heard
}

pub(crate) async fn who_takes_over_goes_on_from_the_last_acknowledged_report(bench: &Bench) {
    let order = bench.order(1, "import time\nfor n in range(60): print(n, flush=True); time.sleep(0.005)");
    let (key, other) = (order.key, bench.another().await);
    let mut first = bench.dispatch.execute(order).await.expect("a place");
    let (mut durable, mut unwritten) = (bench.heard(), bench.heard());
    // The first worker writes some of it down, hears more, and freezes before it has written that.
    while durable.stdout.len() < 20 {
        let report = first.next().await.expect("more");
        take(&mut durable, report.body);
        first.acknowledge(report.number);
    }
    unwritten.stdout.clone_from(&durable.stdout);
    take(&mut unwritten, first.next().await.expect("more").body);
    let mut second = other.attach(key, 2, 0).await.expect("still there");
    loop {
        let report = tokio::time::timeout(PATIENCE, second.next()).await.expect("in time").expect("more");
        let ended = take(&mut durable, report.body);
        second.acknowledge(report.number);
        if ended {
            break;
        }
    }
    let wanted: String = (0..60).map(|n| format!("{n}\n")).collect();
    assert_eq!(String::from_utf8_lossy(&durable.stdout), wanted, "lost, repeated, or run twice");
    // The first thaws. What it acknowledges now is nothing to anybody, and its link ends.
    first.acknowledge(u64::MAX);
    let end = async { while first.next().await.is_some() {} };
    tokio::time::timeout(PATIENCE, end).await.expect("its link ends");
    let late = bench.dispatch.attach(key, 1, 0).await;
    assert!(matches!(late, Err(DispatchError::Stale(_) | DispatchError::Gone(_))), "{late:?}");
}

pub(crate) async fn who_attaches_later_gets_what_was_not_acknowledged_and_nothing_else(bench: &Bench) {
    let order = bench.order(1, "import time\nfor n in range(50): print(n, flush=True); time.sleep(0.005)");
    let key = order.key;
    let mut heard = bench.heard();
    let mut link = bench.dispatch.execute(order).await.expect("a place");
    let mut token = 1;
    loop {
        let Some(report) = link.next().await else { panic!("the place went silent") };
        // What a worker had not written down when it went is said again to the next one.
        if report.number % 3 == 0 && token < 12 {
            drop(link);
            token += 1;
            link = bench.dispatch.attach(key, token, 0).await.expect("still there");
            continue;
        }
        let ended = take(&mut heard, report.body);
        link.acknowledge(report.number);
        if ended {
            break;
        }
    }
    let wanted: String = (0..50).map(|n| format!("{n}\n")).collect();
    assert_eq!(String::from_utf8_lossy(&heard.stdout), wanted);
    assert!(token > 2, "the link was dropped now and then");
}

pub(crate) async fn a_place_obeys_the_highest_token_that_it_has_seen(bench: &Bench) {
    let order = bench.order(1, "import time\ntime.sleep(30)");
    let key = order.key;
    let _first = bench.dispatch.execute(order.clone()).await.expect("a place");
    let _second = bench.dispatch.attach(key, 7, 0).await.expect("a higher token");
    for stale in [bench.dispatch.attach(key, 6, 0).await.err(), bench.dispatch.execute(order).await.err()] {
        assert!(matches!(stale, Some(DispatchError::Stale(_))), "{stale:?}");
    }
    bench.dispatch.cancel(key, Duration::ZERO);
}

pub(crate) async fn an_acknowledgement_that_runs_ahead_keeps_nothing_for_ever(bench: &Bench) {
    let order = bench.order(1, "print('ran')");
    let (key, other) = (order.key, bench.another().await);
    let mut first = bench.dispatch.execute(order).await.expect("a place");
    first.next().await.expect("ready");
    first.acknowledge(u64::MAX);
    drop(first);
    // Only what had been said is taken for durable, and what comes after it is heard and let go of.
    let mut second = other.attach(key, 2, 0).await.expect("still there");
    let mut heard = bench.heard();
    loop {
        let report = tokio::time::timeout(PATIENCE, second.next()).await.expect("in time").expect("more");
        let ended = take(&mut heard, report.body);
        second.acknowledge(report.number);
        if ended {
            break;
        }
    }
    assert_eq!(heard.stdout, b"ran\n");
    let gone = async {
        while bench.local.live() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("nothing of it is kept");
}

pub(crate) async fn what_is_not_there_is_gone(bench: &Bench) {
    let never = bench.order(8, "pass").key;
    let gone = bench.dispatch.attach(never, 1, 0).await;
    assert!(matches!(gone, Err(DispatchError::Gone(_))), "{gone:?}");
    assert!(matches!(bench.dispatch.holds(never).await, Ok(false)));
    bench.dispatch.cancel(never, Duration::ZERO);
    let order = bench.order(9, "pass");
    let key = order.key;
    bench.run(order).await;
    // Ended, said and acknowledged: nothing of it is kept.
    while bench.local.live() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(matches!(bench.dispatch.attach(key, 2, 0).await, Err(DispatchError::Gone(_))));
}

pub(crate) async fn a_cancel_gives_the_grace_and_a_second_one_takes_it_away(bench: &Bench) {
    let stubborn = "import signal, time\nsignal.signal(15, lambda *_: print('term', flush=True))\nprint('up', flush=True)\nwhile True: time.sleep(1)";
    let order = bench.order(1, stubborn);
    let key = order.key;
    let mut link = bench.dispatch.execute(order).await.expect("a place");
    let mut heard = bench.heard();
    let mut cancelled = 0;
    loop {
        let report = link.next().await.expect("more");
        let ended = take(&mut heard, report.body);
        link.acknowledge(report.number);
        if ended {
            break;
        }
        if heard.stdout.starts_with(b"up\n") && cancelled == 0 {
            bench.dispatch.cancel(key, Duration::from_secs(60));
            cancelled = 1;
        }
        if heard.stdout.ends_with(b"term\n") && cancelled == 1 {
            bench.dispatch.cancel(key, Duration::ZERO);
            cancelled = 2;
        }
    }
    let seen = heard.seen.expect("ended");
    assert_eq!(judge(&seen, &bench.limits).map(|outcome| outcome.verdict), Some(Verdict::Cancelled));
    assert_eq!((seen.kill.map(|kill| kill.cause), cancelled), (Some(KillCause::Cancel), 2));
}

pub(crate) async fn a_cancel_before_the_release_ends_it_without_a_first_instruction(bench: &Bench) {
    let order = bench.order(1, "print('ran')");
    let key = order.key;
    let mut link = bench.dispatch.execute(order).await.expect("a place");
    let ready = link.next().await.expect("ready");
    bench.dispatch.cancel(key, Duration::from_secs(60));
    let heard = listen(&mut link).await;
    link.acknowledge(ready.number);
    let seen = heard.seen.expect("ended");
    assert!(heard.stdout.is_empty());
    assert_eq!(judge(&seen, &bench.limits).map(|outcome| outcome.verdict), Some(Verdict::Cancelled));
}

/// What builds runs in the same place before `code`.
fn building(bench: &Bench, build: &str, code: &str) -> Order {
    let mut order = bench.order(1, code);
    let limits = Limits { wall_ms: 20_000, output_bytes: 1000, ..Limits::DEFAULT };
    let argv = ["python3", "-c", build].map(str::to_owned).to_vec();
    order.program.build = Some(Build { argv, limits });
    order
}

pub(crate) async fn a_build_comes_before_the_program_under_limits_of_its_own(bench: &Bench) {
    let build = "import sys\nopen('made', 'w').write('product')\nprint('building', flush=True)\n\
                 print('x' * 5000, file=sys.stderr)";
    let (verdict, heard) = bench.run(building(bench, build, "print(open('made').read())")).await;
    assert_eq!((verdict, heard.stdout.as_slice()), (Verdict::Succeeded, &b"product\n"[..]));
    assert!(heard.stderr.is_empty(), "the program wrote nothing there");
    assert!(heard.build.starts_with(b"building\n"), "{:?}", String::from_utf8_lossy(&heard.build));
    assert_eq!(heard.build.len(), "building\n".len() + 1000, "the build's own bound");
    let built = heard.seen.and_then(|seen| seen.build).expect("both are told of");
    assert_eq!(built.limits.output_bytes, 1000);
    assert_eq!(
        (built.seen.wait, built.output().kept),
        (Some(WaitStatus::Exited(0)), heard.build.len() as u64)
    );
    assert_eq!(built.output().written, "building\n".len() as u64 + 5001);
}

pub(crate) async fn a_build_that_fails_is_the_end(bench: &Bench) {
    let order = building(bench, "print('no'); raise SystemExit(3)", "print('ran')");
    let (verdict, heard) = bench.run(order).await;
    assert_eq!(
        (verdict, heard.stdout.len(), heard.build.as_slice()),
        (Verdict::BuildFailed, 0, &b"no\n"[..])
    );
    let seen = heard.seen.expect("a last word");
    assert_eq!((seen.wait, seen.build.expect("there").seen.wait), (None, Some(WaitStatus::Exited(3))));
}

pub(crate) async fn a_cancel_while_something_is_built_ends_both(bench: &Bench) {
    let order = building(bench, "print('up', flush=True)\nimport time\ntime.sleep(60)", "print('ran')");
    let key = order.key;
    let mut link = bench.dispatch.execute(order).await.expect("a place");
    let mut heard = bench.heard();
    loop {
        let report = tokio::time::timeout(PATIENCE, link.next()).await.expect("in time").expect("more");
        let ended = take(&mut heard, report.body);
        link.acknowledge(report.number);
        if ended {
            break;
        }
        if heard.build.starts_with(b"up\n") {
            bench.dispatch.cancel(key, Duration::ZERO);
        }
    }
    let outcome = judge(&heard.seen.expect("ended"), &bench.limits).expect("judged");
    assert_eq!((outcome.verdict, heard.stdout.len()), (Verdict::Cancelled, 0));
}
