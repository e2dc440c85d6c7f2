//! A launcher, an image with the adversaries in it, and a dispatcher's side of the link.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use hood_sandbox::{GroupLimits, Launcher, LauncherConfig, Place, PlaceSpec, Sample, SystemCalls};
use hood_wire::agent::{
    AgentFrame, Assignment, Conversation, EarlyEnd, Ending, Exit, FrameReader, HostFrame, OnOutputLimit,
    Stream, encode,
};
use tempfile::TempDir;

pub(crate) const MIB: u64 = 1 << 20;

/// A launcher and an image. Dropping it checks that nothing is left.
pub(crate) struct Lab {
    pub(crate) launcher: Launcher,
    pub(crate) image: PathBuf,
    pub(crate) state: PathBuf,
    _dirs: (TempDir, TempDir),
}

impl Lab {
    pub(crate) fn new() -> Self {
        let (image, state) = (image(), tempfile::tempdir().unwrap());
        let launcher = start(state.path());
        Self {
            launcher,
            image: image.path().to_owned(),
            state: state.path().to_owned(),
            _dirs: (image, state),
        }
    }

    /// A launcher for an image made elsewhere.
    pub(crate) fn with_image(image: &Path) -> Self {
        let (none, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let launcher = start(state.path());
        Self { launcher, image: image.to_owned(), state: state.path().to_owned(), _dirs: (none, state) }
    }

    pub(crate) fn open(&self, job: &Job) -> Session {
        Session::open(&self.launcher, &self.image, job)
    }

    pub(crate) fn run(&self, job: &Job) -> Done {
        let mut session = self.open(job);
        session.assign(job);
        session.finish()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = hood_sandbox::bury_leftovers(&self.state);
            return;
        }
        let left: Vec<_> = std::fs::read_dir(self.state.join("places"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with("instance."))
            .collect();
        assert!(left.is_empty(), "places were left: {left:?}");
    }
}

/// Whether this user's places are in groups that hold memory and processes and count CPU time. What
/// must not run without them, a fork bomb above all, says here that it does not.
pub(crate) fn has_groups() -> bool {
    static LACKING: OnceLock<Vec<String>> = OnceLock::new();
    let lacking = LACKING.get_or_init(|| {
        let lab = Lab::new();
        let session = lab.open(&job(&["pause"]));
        let groups = ["memory_limit", "process_limit", "cpu_accounting"];
        let lacking = session.place.layers().iter().filter(|layer| !layer.proven);
        let lacking = lacking.map(|layer| layer.name.clone()).filter(|name| groups.contains(&name.as_str()));
        let lacking = lacking.collect();
        session.place.destroy().unwrap();
        lacking
    });
    if !lacking.is_empty() {
        skip(
            "sandbox",
            &format!("this user has no {}: run as root or in a delegated cgroup", lacking.join(", ")),
        );
    }
    lacking.is_empty()
}

/// Says that a test does not run, past the test runner's capture.
pub(crate) fn skip(suite: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "\nSKIPPED: {suite}: {reason}");
}

pub(crate) fn start(state: &Path) -> Launcher {
    let config = LauncherConfig { state_dir: state.to_owned(), ids: None, cgroup_parent: None };
    Launcher::start(agent(), &config).unwrap()
}

/// The agent as it ships, built once per test run.
pub(crate) fn agent() -> &'static [u8] {
    static AGENT: OnceLock<Vec<u8>> = OnceLock::new();
    AGENT.get_or_init(|| {
        // A test process of another user is given what it cannot build.
        if let Some(path) = std::env::var_os("HOOD_TEST_AGENT") {
            return std::fs::read(path).unwrap();
        }
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let target = musl_target();
        let target_dir = workspace.join("target/agent");
        let mut cargo = Command::new(env!("CARGO"));
        for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR", "CARGO_BUILD_TARGET"] {
            cargo.env_remove(name);
        }
        let status = cargo
            .current_dir(&workspace)
            .args([
                "build",
                "--locked",
                "--quiet",
                "-p",
                "hood-agent",
                "--profile",
                "agent",
                "--target",
                target,
            ])
            .arg("--target-dir")
            .arg(&target_dir)
            .status()
            .unwrap();
        assert!(
            status.success(),
            "the agent does not build; is the target there? rustup target add {target}"
        );
        std::fs::read(target_dir.join(target).join("agent/hood-agent")).unwrap()
    })
}

fn musl_target() -> &'static str {
    if cfg!(target_arch = "aarch64") { "aarch64-unknown-linux-musl" } else { "x86_64-unknown-linux-musl" }
}

/// A root image that holds the adversary alone, readable by everyone as images are.
pub(crate) fn image() -> TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let readable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.path(), readable.clone()).unwrap();
    let bin = dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::fs::write(bin.join("adversary"), adversary()).unwrap();
    std::fs::set_permissions(bin.join("adversary"), readable).unwrap();
    dir
}

/// The adversary, compiled once per test run.
fn adversary() -> &'static [u8] {
    static ADVERSARY: OnceLock<Vec<u8>> = OnceLock::new();
    ADVERSARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("HOOD_TEST_ADVERSARY") {
            return std::fs::read(path).unwrap();
        }
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/adversary.c");
        let dir = tempfile::tempdir().unwrap();
        let built = dir.path().join("adversary");
        let output = Command::new("musl-gcc")
            .args(["-static", "-O1", "-Wall", "-Wno-unused-result", "-o"])
            .args([&built, &source])
            .output()
            .expect("musl-gcc is needed (Debian: musl-tools)");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read(built).unwrap()
    })
}

/// What to run, with limits that fit most tests.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) assignment: Assignment,
    /// What runs before it.
    pub(crate) build: Option<Assignment>,
    pub(crate) files: Vec<(Vec<u8>, Vec<u8>, bool)>,
    pub(crate) stdin: Vec<u8>,
    pub(crate) limits: GroupLimits,
    pub(crate) disk_bytes: u64,
    pub(crate) disk_inodes: u64,
    pub(crate) calls: SystemCalls,
}

pub(crate) fn job(arguments: &[&str]) -> Job {
    let mut argv = vec![b"adversary".to_vec()];
    argv.extend(arguments.iter().map(|argument| argument.as_bytes().to_vec()));
    Job {
        build: None,
        assignment: Assignment {
            argv,
            env: vec![b"PATH=/bin".to_vec()],
            cwd: b"/eval".to_vec(),
            wall_ms: 20_000,
            grace_ms: 500,
            output_bytes: MIB,
            on_output_limit: OnOutputLimit::Truncate,
            open_files: 256,
            file_bytes: 1 << 40,
            orphan_after_ms: 10_000,
            ..Assignment::default()
        },
        files: Vec::new(),
        stdin: Vec::new(),
        limits: GroupLimits {
            memory_bytes: 64 * MIB,
            processes: 64,
            cpu_milli: None,
            build: None,
            agent_memory_bytes: GroupLimits::agent_memory(MIB, MIB),
        },
        disk_bytes: 16 * MIB,
        disk_inodes: 1024,
        calls: SystemCalls::Ordinary,
    }
}

/// How a run went.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) end: Result<Ending, EarlyEnd>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) sample: Sample,
    pub(crate) output_frames: usize,
}

impl Done {
    pub(crate) fn ending(&self) -> &Ending {
        self.end.as_ref().unwrap_or_else(|early| panic!("did not start: {early:?}"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn exit(&self) -> Exit {
        self.ending().exit
    }

    /// The adversary reports what it achieved that it must not: nothing.
    #[track_caller]
    pub(crate) fn assert_held(&self) {
        assert_eq!(self.exit(), Exit::Code(0), "{}{}", self.text(), String::from_utf8_lossy(&self.stderr));
        assert!(!self.text().contains("BROKEN"), "{}", self.text());
        assert!(self.text().contains("held"), "nothing was tried: {}", self.text());
    }
}

/// The dispatcher's side of one place.
pub(crate) struct Session {
    pub(crate) place: Place,
    pub(crate) link: UnixStream,
    reader: FrameReader<AgentFrame>,
    conversation: Conversation,
    next: u64,
    pub(crate) acknowledges: bool,
}

impl Session {
    pub(crate) fn open(launcher: &Launcher, image: &Path, job: &Job) -> Self {
        let spec = PlaceSpec {
            image: image.to_owned(),
            disk_bytes: job.disk_bytes,
            disk_inodes: job.disk_inodes,
            calls: job.calls,
            builds: job.build.is_some(),
        };
        let mut place = launcher
            .prepare(&spec)
            .unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)));
        place.bind(&job.limits).unwrap();
        let link = UnixStream::from(place.take_link().unwrap());
        link.set_nonblocking(false).unwrap();
        link.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self {
            place,
            link,
            reader: FrameReader::default(),
            conversation: match &job.build {
                Some(build) => Conversation::with_build(build.output_bytes, job.assignment.output_bytes),
                None => Conversation::new(job.assignment.output_bytes),
            },
            next: 1,
            acknowledges: true,
        }
    }

    pub(crate) fn send(&mut self, frame: &HostFrame) {
        let mut bytes = Vec::new();
        encode(self.next, frame, &mut bytes);
        self.next += 1;
        match self.link.write_all(&bytes) {
            // A place that has ended takes no more; its last words are still there to be read.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            other => other.unwrap(),
        }
    }

    pub(crate) fn assign(&mut self, job: &Job) {
        self.send(&HostFrame::Assignment(job.assignment.clone()));
        if let Some(build) = &job.build {
            self.send(&HostFrame::Build(build.clone()));
        }
        for (path, bytes, executable) in &job.files {
            self.send(&HostFrame::File { path: path.clone(), executable: *executable });
            for chunk in bytes.chunks(60_000) {
                self.send(&HostFrame::FileData(chunk.to_vec()));
            }
        }
        self.send(&HostFrame::Go);
        for chunk in job.stdin.chunks(60_000) {
            self.send(&HostFrame::Stdin(chunk.to_vec()));
        }
        self.send(&HostFrame::StdinEnd);
    }

    /// The next frame, or `None` at the link's end.
    pub(crate) fn receive(&mut self) -> Option<AgentFrame> {
        let mut buffer = [0; 65536];
        loop {
            if let Some((number, frame)) = self.reader.next_frame().unwrap() {
                self.conversation.accept(&frame).unwrap();
                if self.acknowledges {
                    let mut bytes = Vec::new();
                    encode(self.next, &HostFrame::Ack(number), &mut bytes);
                    self.next += 1;
                    // The agent may be gone once it has its last acknowledgement.
                    let _ = self.link.write_all(&bytes);
                }
                return Some(frame);
            }
            match self.link.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.reader.push(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => panic!("the agent is silent: {error}"),
            }
        }
    }

    pub(crate) fn await_start(&mut self) {
        while !matches!(self.receive().expect("the agent ended"), AgentFrame::Started { .. }) {}
    }

    /// Reads output until it contains `text`.
    pub(crate) fn await_output(&mut self, text: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(text) {
            match self.receive() {
                Some(AgentFrame::Output { bytes, .. }) => seen.push_str(&String::from_utf8_lossy(&bytes)),
                Some(AgentFrame::Ended(ending)) => panic!("ended with {ending:?} after {seen}"),
                Some(_) => {}
                None => panic!("the place ended after {seen}"),
            }
        }
        seen
    }

    pub(crate) fn finish(mut self) -> Done {
        let done = self.hear_out(hood_sandbox::Phase::Run);
        self.place.destroy().unwrap();
        done
    }

    /// Hears a build out, which must succeed, and lets the program go as a dispatcher does.
    pub(crate) fn finish_build(&mut self) -> Done {
        let built = self.hear_out(hood_sandbox::Phase::Build);
        assert_eq!(built.exit(), Exit::Code(0), "{}{}", built.text(), String::from_utf8_lossy(&built.stderr));
        self.place.end_build().unwrap();
        self.conversation.go_on();
        self.send(&HostFrame::Go);
        built
    }

    fn hear_out(&mut self, phase: hood_sandbox::Phase) -> Done {
        let (mut stdout, mut stderr, mut output_frames) = (Vec::new(), Vec::new(), 0);
        let end = loop {
            match self.receive().expect("the place ended without a terminal frame") {
                AgentFrame::Output { stream, bytes, .. } => {
                    output_frames += 1;
                    match stream {
                        Stream::Stdout => stdout.extend(bytes),
                        Stream::Stderr => stderr.extend(bytes),
                    }
                }
                AgentFrame::Ended(ending) => break Ok(ending),
                AgentFrame::NotStarted(early) => break Err(early),
                AgentFrame::Hello { .. } | AgentFrame::Started { .. } | AgentFrame::Truncated { .. } => {}
            }
        };
        let sample = self.place.sample(phase);
        Done { end, stdout, stderr, sample, output_frames }
    }
}

/// Runs one job in a lab of its own.
pub(crate) fn run(job: &Job) -> Done {
    Lab::new().run(job)
}

/// Polls until it is so; the kernel's own bookkeeping has no notification.
#[track_caller]
pub(crate) fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !check() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
