//! White box.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake};

use hood_core::{EvaluationId, Timestamp};

use super::*;

/// How often somebody asked to be polled again.
#[derive(Debug, Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// One whose program ran, was killed from outside and has ended: the last word waits for a worker.
fn ended_long_ago() -> Live {
    let conduct = Conduct { grace: Duration::ZERO, fail_on_output_limit: false };
    let limits = Limits { wall_ms: 1, ..Limits::DEFAULT };
    let began = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
    let mut supervisor = Supervisor::new(limits, conduct.grace);
    supervisor.released(began);
    supervisor.started(began);
    let mut outbox = Outbox::default();
    outbox.push(1, ReportBody::Ended(Box::default()));
    Live {
        key: AttemptKey { evaluation: EvaluationId::new(Timestamp::from_micros(0), [0; 10]), attempt: 1 },
        body: None,
        wire: None,
        oom: None,
        outbox,
        supervisor,
        phase: Phase::Run,
        limits,
        later: None,
        built: None,
        logged: 0,
        conduct,
        stdin: VecDeque::new(),
        orphaned_at: None,
    }
}

/// Polled until nothing has happened, how often it had asked for another turn.
fn turns_asked_for(live: &mut Live) -> usize {
    let (_commands, mut heard) = mpsc::channel(1);
    let wakes = Arc::new(Wakes::default());
    let waker = Arc::clone(&wakes).into();
    let mut attending = std::pin::pin!(live.attend(&mut heard));
    assert_eq!(attending.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Pending);
    wakes.0.load(Ordering::SeqCst)
}

#[tokio::test]
async fn what_has_ended_waits_for_a_worker_without_waking() {
    let mut unattended = ended_long_ago();
    assert_eq!(turns_asked_for(&mut unattended), 0, "nobody attached");

    let mut abandoned = ended_long_ago();
    drop(abandoned.outbox.attach(0));
    assert_eq!(turns_asked_for(&mut abandoned), 0, "the worker died");
    assert!(abandoned.orphaned_at.is_some(), "and the end of waiting is still known");

    let mut silent = ended_long_ago();
    let _link = silent.outbox.attach(0);
    assert_eq!(turns_asked_for(&mut silent), 0, "the worker does not acknowledge");
}

#[tokio::test]
async fn what_nobody_came_for_in_time_is_dropped() {
    let mut live = ended_long_ago();
    live.orphaned_at = Some(Instant::now());
    let (_commands, mut heard) = mpsc::channel(1);
    live.attend(&mut heard).await;
    assert!(!live.outbox.is_empty());
}
