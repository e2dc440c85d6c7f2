//! Grey box: the local executor with real places.

use std::sync::Arc;
use std::time::Duration;

use hood_core::program::Build;
use hood_core::{Limits, Verdict};
use hood_dispatch::DispatchError;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::bench::Bench;

#[tokio::test(flavor = "multi_thread")]
async fn a_program_runs_and_its_bytes_come_back() {
    let bench = Bench::new(0).await;
    let (verdict, heard) =
        bench.run(bench.order(1, "import sys\nprint('out')\nprint('err', file=sys.stderr)")).await;
    assert_eq!(
        (verdict, &heard.stdout[..], &heard.stderr[..]),
        (Verdict::Succeeded, &b"out\n"[..], &b"err\n"[..])
    );
    let usage = heard.seen.expect("seen").usage;
    assert!(usage.wall_us > Some(0), "{usage:?}");
    // Counted by groups, which an ordinary user may not have.
    if rustix::process::geteuid().is_root() {
        // In ticks under cgroup v1: a short program's may all fall to one side.
        let cpu_us = usage.cpu_user_us.zip(usage.cpu_system_us).map(|(user, system)| user + system);
        assert!(cpu_us > Some(0) && usage.memory_peak_bytes > Some(0), "{usage:?}");
    }
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stock_is_used_once_and_refilled_and_the_dead_are_not_handed_out() {
    let bench = Bench::new(2).await;
    bench.run(bench.order(1, "pass")).await;
    for n in 2..8 {
        while bench.local.ready() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if n == 5 {
            // The launcher's children are the places that stand ready: all of them die.
            for pid in bench.local.ready_pids() {
                kill_and_wait(pid);
            }
        }
        let (verdict, heard) = bench
            .run(bench.order(n, "import os\nprint(os.listdir('/tmp'), os.getpid())\nopen('/tmp/mark', 'w')"))
            .await;
        assert_eq!(verdict, Verdict::Succeeded);
        let text = String::from_utf8_lossy(&heard.stdout).into_owned();
        assert!(text.starts_with("[] "), "an earlier evaluation left something: {text}");
    }
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_past_the_executors_own_bound_is_refused_in_words_and_makes_nothing() {
    let bench = Bench::new(0).await;
    let most = bench.dispatch.capacity().offers[0].capacity.memory_bytes_max;
    let mut orders = Vec::new();
    for past in [most + 1, 64 << 40, u64::MAX] {
        let (mut memory, mut output, mut build) =
            (bench.order(1, "pass"), bench.order(1, "pass"), bench.order(1, "pass"));
        memory.assignment.limits.memory_bytes = past;
        output.assignment.limits.output_bytes = past;
        let limits = Limits { memory_bytes: past, ..Limits::DEFAULT };
        build.program.build = Some(Build { argv: vec!["true".to_owned()], limits });
        orders.extend([
            (memory, format!("limits.memory_bytes is {past},")),
            (output, format!("limits.output_bytes is {past},")),
            (build, format!("build.limits.memory_bytes is {past},")),
        ]);
    }
    for (order, words) in orders {
        let key = order.key;
        match bench.dispatch.execute(order).await {
            Err(DispatchError::TooLarge(reason)) => {
                assert!(reason.starts_with(&words) && reason.contains(&most.to_string()), "{reason}");
            }
            other => panic!("{words} {other:?}"),
        }
        assert!(matches!(bench.dispatch.holds(key).await, Ok(false)));
    }
    let mut most_of_it = bench.order(1, "pass");
    most_of_it.assignment.limits.memory_bytes = most;
    assert_eq!(bench.run(most_of_it).await.0, Verdict::Succeeded);
    bench.close().await;
}

fn kill_and_wait(pid: Pid) {
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).expect("alive");
    rustix::process::pidfd_send_signal(&pidfd, Signal::KILL).expect("killed");
    rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).expect("dies");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_do_not_meet() {
    let bench = Arc::new(Bench::new(4).await);
    let runs = (0..24).map(|n| {
        let bench = Arc::clone(&bench);
        tokio::spawn(async move {
            let code = format!("import os\nopen('/tmp/x', 'x').write('{n}')\nprint({n}, len([p for p in os.listdir('/proc') if p.isdigit()]))");
            let (verdict, heard) = bench.run(bench.order(n, &code)).await;
            assert_eq!((verdict, String::from_utf8_lossy(&heard.stdout).into_owned()), (Verdict::Succeeded, format!("{n} 1\n")));
        })
    });
    for run in runs.collect::<Vec<_>>() {
        run.await.expect("ran");
    }
    bench.close().await;
}
