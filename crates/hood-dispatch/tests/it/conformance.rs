//! Black box: what every `Dispatch` owes the worker. Written against the trait alone, for the local
//! executor now and for every one that follows.

use std::time::Duration;

use hood_core::Verdict;
use hood_core::outcome::{KillCause, judge};
use hood_dispatch::{Dispatch, DispatchError, ReportBody};

use crate::local::{Bench, Heard, listen, take};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_runs_before_the_first_report_is_acknowledged() {
    let bench = Bench::new(0);
    let order = bench.order(1, "print('ran')");
    let mut link = bench.local.execute(order).await.expect("a place");
    let first = link.next().await.expect("a report");
    assert!(matches!(first.body, ReportBody::Ready { .. }) && first.number == 1);
    let early = tokio::time::timeout(Duration::from_millis(300), link.next()).await;
    assert!(early.is_err(), "something was said before the release: {early:?}");
    link.acknowledge(1);
    assert_eq!(listen(&mut link).await.stdout, b"ran\n");
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_attempt_twice_is_one_execution() {
    let bench = Bench::new(0);
    let order = bench.order(1, "import os\nprint(os.urandom(8).hex())");
    let mut first = bench.local.execute(order.clone()).await.expect("a place");
    let report = first.next().await.expect("ready");
    first.acknowledge(report.number);
    let mut second = bench.local.execute(order).await.expect("the same place");
    let heard = listen(&mut second).await;
    assert!(heard.seen.is_some() && heard.stdout.len() == 17, "{heard:?}");
    assert!(first.next().await.is_none_or(|report| report.number > 1), "the first link is not fed any more");
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_attaches_later_gets_what_was_not_acknowledged_and_nothing_else() {
    let bench = Bench::new(0);
    let order = bench.order(1, "import time\nfor n in range(50): print(n, flush=True); time.sleep(0.005)");
    let key = order.key;
    let mut heard = Heard::default();
    let mut link = bench.local.execute(order).await.expect("a place");
    let mut token = 1;
    loop {
        let Some(report) = link.next().await else { panic!("the place went silent") };
        // What a worker had not written down when it went is said again to the next one.
        if report.number % 3 == 0 && token < 12 {
            drop(link);
            token += 1;
            link = bench.local.attach(key, token, 0).await.expect("still there");
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
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_obeys_the_highest_token_that_it_has_seen() {
    let bench = Bench::new(0);
    let order = bench.order(1, "import time\ntime.sleep(30)");
    let key = order.key;
    let _first = bench.local.execute(order.clone()).await.expect("a place");
    let _second = bench.local.attach(key, 7, 0).await.expect("a higher token");
    for stale in [bench.local.attach(key, 6, 0).await.err(), bench.local.execute(order).await.err()] {
        assert!(matches!(stale, Some(DispatchError::Stale { highest: 7, .. })), "{stale:?}");
    }
    bench.local.cancel(key, Duration::ZERO);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_gone() {
    let bench = Bench::new(0);
    let order = bench.order(9, "pass");
    let gone = bench.local.attach(order.key, 1, 0).await;
    assert!(matches!(gone, Err(DispatchError::Gone(_))), "{gone:?}");
    bench.local.cancel(order.key, Duration::ZERO);
    let key = order.key;
    bench.run(order).await;
    // Ended, said and acknowledged: nothing of it is kept.
    while bench.local.live() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(matches!(bench.local.attach(key, 2, 0).await, Err(DispatchError::Gone(_))));
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_gives_the_grace_and_a_second_one_takes_it_away() {
    let bench = Bench::new(0);
    let stubborn = "import signal, time\nsignal.signal(15, lambda *_: print('term', flush=True))\nprint('up', flush=True)\nwhile True: time.sleep(1)";
    let order = bench.order(1, stubborn);
    let key = order.key;
    let mut link = bench.local.execute(order).await.expect("a place");
    let mut heard = Heard::default();
    let mut cancelled = 0;
    loop {
        let report = link.next().await.expect("more");
        let ended = take(&mut heard, report.body);
        link.acknowledge(report.number);
        if ended {
            break;
        }
        if heard.stdout.starts_with(b"up\n") && cancelled == 0 {
            bench.local.cancel(key, Duration::from_secs(60));
            cancelled = 1;
        }
        if heard.stdout.ends_with(b"term\n") && cancelled == 1 {
            bench.local.cancel(key, Duration::ZERO);
            cancelled = 2;
        }
    }
    let seen = heard.seen.expect("ended");
    assert_eq!(judge(&seen, &bench.limits).map(|outcome| outcome.verdict), Some(Verdict::Cancelled));
    assert_eq!((seen.kill.map(|kill| kill.cause), cancelled), (Some(KillCause::Cancel), 2));
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_before_the_release_ends_it_without_a_first_instruction() {
    let bench = Bench::new(0);
    let order = bench.order(1, "print('ran')");
    let key = order.key;
    let mut link = bench.local.execute(order).await.expect("a place");
    let ready = link.next().await.expect("ready");
    bench.local.cancel(key, Duration::from_secs(60));
    let heard = listen(&mut link).await;
    link.acknowledge(ready.number);
    let seen = heard.seen.expect("ended");
    assert!(heard.stdout.is_empty());
    assert_eq!(judge(&seen, &bench.limits).map(|outcome| outcome.verdict), Some(Verdict::Cancelled));
    bench.close().await;
}
