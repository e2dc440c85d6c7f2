//! Grey box: the local executor with real places, and a small driver in the worker's stead.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hood_core::outcome::{Stream, judge};
use hood_core::plan::{Demand, ExecutorClass, PolicyMode, plan};
use hood_core::program::Source;
use hood_core::{EvaluationId, Limits, Observation, Timestamp, Verdict};
use hood_dispatch::environment::{self, Library};
use hood_dispatch::local::{Local, LocalConfig};
use hood_dispatch::{AttemptKey, Conduct, Dispatch, Link, Order, ReportBody};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal};

/// Longer than anything takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// One executor over a temporary state directory; images are shared by the whole test run.
pub(crate) struct Bench {
    pub(crate) local: Local,
    pub(crate) limits: Limits,
    state: tempfile::TempDir,
}

/// Everything that came over a link, acknowledged as it came.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) seen: Option<Observation>,
}

impl Bench {
    pub(crate) fn new(stock: u32) -> Self {
        let state = tempfile::tempdir().expect("a temporary directory");
        let config = LocalConfig {
            state_dir: state.path().join("sandbox"),
            ids: None,
            cgroup_parent: None,
            places: 8,
            stock,
            memory_bytes_max: 8 << 30,
        };
        let (local, buried) = Local::start(config, library()).expect("starts");
        assert!(buried.is_empty());
        Self { local, limits: Limits::DEFAULT, state }
    }

    pub(crate) fn order(&self, n: u8, code: &str) -> Order {
        let catalogue = self.local.capacity();
        let demand = Demand { limits: self.limits, class: ExecutorClass::Cpu };
        let facts = &catalogue.environment("minimal").expect("built in").facts;
        // What an ordinary user's places lack is no concern of these tests.
        let is_root = rustix::process::geteuid().is_root();
        let policy = if is_root { PolicyMode::Strict } else { PolicyMode::Development };
        let assignment = plan(&demand, facts, &catalogue.capacity, policy).expect("every layer is proven");
        let source = Source { code: Some(code.to_owned()), ..Source::default() };
        Order {
            key: AttemptKey { evaluation: EvaluationId::new(Timestamp::from_micros(1), [n; 10]), attempt: 1 },
            token: 1,
            assignment,
            program: source.lay_out().expect("sound"),
            conduct: Conduct { grace: Duration::from_millis(500), fail_on_output_limit: false },
            traceparent: None,
        }
    }

    /// Ends everything and looks for what is left of it.
    pub(crate) async fn close(&self) {
        self.local.shut_down(PATIENCE).await;
        let places = self.state.path().join("sandbox/places");
        let left: Vec<_> =
            std::fs::read_dir(places).expect("readable").flatten().map(|e| e.file_name()).collect();
        let left: Vec<_> =
            left.iter().filter(|name| !name.to_string_lossy().starts_with("instance.")).collect();
        assert!(left.is_empty(), "places are left: {left:?}");
    }

    pub(crate) async fn run(&self, order: Order) -> (Verdict, Heard) {
        let mut link = self.local.execute(order).await.expect("a place");
        let heard = listen(&mut link).await;
        let seen = heard.seen.as_ref().expect("a last word");
        let outcome = judge(seen, &self.limits).unwrap_or_else(|| panic!("lost: {seen:?}"));
        (outcome.verdict, heard)
    }
}

/// Images never change, so every test of this process may have the same library.
fn library() -> Arc<Library> {
    static LIBRARY: OnceLock<Arc<Library>> = OnceLock::new();
    let open = || {
        let name = format!("fumehood-test-images-{}", rustix::process::geteuid().as_raw());
        let declarations = environment::builtin().expect("sound");
        let library = Library::open(&std::env::temp_dir().join(name), declarations).expect("opens");
        library.ensure("minimal", &|_| ()).expect("builds");
        Arc::new(library)
    };
    Arc::clone(LIBRARY.get_or_init(open))
}

pub(crate) async fn listen(link: &mut Link) -> Heard {
    let mut heard = Heard::default();
    loop {
        let report = tokio::time::timeout(PATIENCE, link.next()).await.expect("in time");
        let Some(report) = report else { return heard };
        let ended = take(&mut heard, report.body);
        link.acknowledge(report.number);
        if ended {
            return heard;
        }
    }
}

/// Adds one report; true for the last.
pub(crate) fn take(heard: &mut Heard, body: ReportBody) -> bool {
    match body {
        ReportBody::Ready { environment_digest } => assert!(!environment_digest.is_empty()),
        ReportBody::Output { stream, offset, bytes } => {
            let kept = match stream {
                Stream::Stdout => &mut heard.stdout,
                Stream::Stderr => &mut heard.stderr,
            };
            assert_eq!(offset, kept.len() as u64, "a gap or a repetition");
            kept.extend(bytes);
        }
        ReportBody::Ended(seen) => heard.seen = Some(*seen),
    }
    heard.seen.is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_runs_and_its_bytes_come_back() {
    let bench = Bench::new(0);
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
        assert!(usage.cpu_user_us > Some(0) && usage.memory_peak_bytes > Some(0), "{usage:?}");
    }
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stock_is_used_once_and_refilled_and_the_dead_are_not_handed_out() {
    let bench = Bench::new(2);
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

fn kill_and_wait(pid: Pid) {
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).expect("alive");
    rustix::process::pidfd_send_signal(&pidfd, Signal::KILL).expect("killed");
    rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).expect("dies");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_do_not_meet() {
    let bench = Arc::new(Bench::new(4));
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
