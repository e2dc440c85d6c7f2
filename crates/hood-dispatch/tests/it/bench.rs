//! Places that are real, and a small driver in the worker's stead.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use hood_core::outcome::{Stream, judge};
use hood_core::plan::{Demand, ExecutorClass, PolicyMode, SystemCalls, plan};
use hood_core::program::Source;
use hood_core::{EvaluationId, Limits, Observation, Timestamp, Verdict};
use hood_dispatch::environment::{self, Library};
use hood_dispatch::local::{Local, LocalConfig};
use hood_dispatch::{AttemptKey, Catalogue, Conduct, Dispatch, Link, Order, ReportBody};

/// Longer than anything takes on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// One executor over a temporary state directory; images are shared by the whole test run.
pub(crate) struct Bench {
    pub(crate) local: Local,
    /// The way to it that is tried.
    pub(crate) dispatch: Arc<dyn Dispatch>,
    pub(crate) another: Another,
    pub(crate) limits: Limits,
    /// An acknowledgement that is under way when its worker goes may be lost on a wire. What it was for
    /// is then said again to the next one, word for word, and a store that has it passes it over.
    may_repeat: bool,
    state: tempfile::TempDir,
}

/// Makes another worker's way to the same places.
pub(crate) type Another = Box<dyn Fn() -> BoxFuture<'static, Arc<dyn Dispatch>> + Send + Sync>;

/// Everything that came over a link, acknowledged as it came.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) build: Vec<u8>,
    pub(crate) seen: Option<Observation>,
    may_repeat: bool,
}

impl Bench {
    pub(crate) async fn new(stock: u32) -> Self {
        Self::of(start(stock, library()))
    }

    /// Places whose `minimal` is declared with these.
    pub(crate) async fn with_calls(calls: SystemCalls) -> Self {
        let mut declarations = environment::builtin().expect("sound");
        declarations[0].system_calls = calls;
        let images = Library::open(&images(), declarations).expect("opens");
        let images = Arc::new(images);
        let first = Arc::clone(&images);
        let built = tokio::task::spawn_blocking(move || first.ensure("minimal", &|_| ())).await;
        built.expect("runs").expect("builds");
        Self::of(start(0, images))
    }

    fn of((local, state): (Local, tempfile::TempDir)) -> Self {
        let dispatch: Arc<dyn Dispatch> = Arc::new(local.clone());
        let another = Arc::clone(&dispatch);
        let another: Another = Box::new(move || std::future::ready(Arc::clone(&another)).boxed());
        Self { local, dispatch, another, limits: Limits::DEFAULT, may_repeat: false, state }
    }

    /// The same places behind whatever `way` makes of them.
    pub(crate) async fn behind(way: impl FnOnce(Local) -> Another) -> Self {
        let (local, state) = start(0, library());
        let another = way(local.clone());
        let dispatch = another().await;
        Self { local, dispatch, another, limits: Limits::DEFAULT, may_repeat: true, state }
    }

    /// What one worker after the other hears.
    pub(crate) fn heard(&self) -> Heard {
        Heard { may_repeat: self.may_repeat, ..Heard::default() }
    }

    pub(crate) async fn another(&self) -> Arc<dyn Dispatch> {
        (self.another)().await
    }

    pub(crate) fn order(&self, n: u8, code: &str) -> Order {
        order(&self.dispatch.capacity(), n, code)
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
        let mut link = self.dispatch.execute(order).await.expect("a place");
        let heard = listen(&mut link).await;
        let seen = heard.seen.as_ref().expect("a last word");
        let outcome = judge(seen, &self.limits).unwrap_or_else(|| panic!("lost: {seen:?}"));
        (outcome.verdict, heard)
    }
}

fn start(stock: u32, images: Arc<Library>) -> (Local, tempfile::TempDir) {
    let state = tempfile::tempdir().expect("a temporary directory");
    let config = LocalConfig {
        state_dir: state.path().join("sandbox"),
        ids: None,
        cgroup_parent: None,
        places: 8,
        stock,
        memory_bytes_max: 8 << 30,
    };
    let (local, buried) = Local::start(config, images).expect("starts");
    assert!(buried.is_empty());
    (local, state)
}

pub(crate) fn order(catalogue: &Catalogue, n: u8, code: &str) -> Order {
    let demand = Demand { limits: Limits::DEFAULT, build: None, class: ExecutorClass::Cpu };
    let facts = &catalogue.environment("minimal").expect("built in").facts;
    // What an ordinary user's places lack is no concern of these tests.
    let is_root = rustix::process::geteuid().is_root();
    let policy = if is_root { PolicyMode::Strict } else { PolicyMode::Development };
    let mut offers = catalogue.offers.clone();
    // A bad wire may have kept the last word about it away.
    offers.iter_mut().for_each(|offer| offer.open = true);
    let assignment = plan(&demand, facts, &offers, policy).expect("every layer is proven");
    let source = Source { code: Some(code.to_owned()), ..Source::default() };
    Order {
        key: AttemptKey { evaluation: EvaluationId::new(Timestamp::from_micros(1), [n; 10]), attempt: 1 },
        token: 1,
        assignment,
        program: source.lay_out(&hood_core::program::Start::default(), &Limits::DEFAULT).expect("sound"),
        conduct: Conduct { grace: Duration::from_millis(500), fail_on_output_limit: false },
        traceparent: None,
    }
}

fn images() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("fumehood-test-images-{}", rustix::process::geteuid().as_raw()))
}

/// Images never change, so every test of this process may have the same library.
fn library() -> Arc<Library> {
    static LIBRARY: OnceLock<Arc<Library>> = OnceLock::new();
    let open = || {
        let declarations = environment::builtin().expect("sound");
        let library = Library::open(&images(), declarations).expect("opens");
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
                Stream::Build => &mut heard.build,
            };
            let at = usize::try_from(offset).expect("small");
            if heard.may_repeat && at < kept.len() {
                assert_eq!(kept.get(at..at + bytes.len()), Some(&bytes[..]), "not what was said before");
            } else {
                assert_eq!(at, kept.len(), "a gap or a repetition");
                kept.extend(bytes);
            }
        }
        ReportBody::Ended(seen) => heard.seen = Some(*seen),
    }
    heard.seen.is_some()
}
