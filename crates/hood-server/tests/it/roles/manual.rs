//! The page that starts the roles on one machine, carried out as it is written. Only what belongs to
//! the whole machine is the test's own: packages, the databases' servers, ports and the directory.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hood_testkit::{Postgres, PostgresOptions, Redis};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::support::server::shared_images;

const PAGE: &str = "../../docs/operations/roles.md";
const ON_THIS_MACHINE: &str = "## All of them on one machine";

const HOST: &str = "127.0.0.1:";
/// What the ports begin with that the page gives to roles.
const OURS: [&str; 2] = ["74", "94"];

/// How long everything may take to find each other.
const PATIENCE: Duration = Duration::from_secs(60);

/// What stands in for the machine's own.
struct Machine {
    postgres: Postgres,
    redis: Redis,
    dir: tempfile::TempDir,
    ports: BTreeMap<String, u16>,
}

impl Machine {
    fn new() -> Self {
        let postgres = Postgres::start(PostgresOptions::default()).expect("PostgreSQL starts");
        let redis = Redis::start().expect("Redis starts");
        Self { postgres, redis, dir: tempfile::tempdir().expect("a directory"), ports: BTreeMap::new() }
    }

    /// A block of the page, as it is run here.
    fn translate(&mut self, block: &str) -> String {
        let superuser = format!("psql -v ON_ERROR_STOP=1 {}", self.postgres.url("postgres", "postgres"));
        let of_the_machine = |line: &&str| line.starts_with("apt-get ") || line.starts_with("service ");
        let kept: Vec<&str> = block.lines().filter(|line| !of_the_machine(line)).collect();
        let text = kept
            .join("\n")
            .replace("runuser -u postgres -- psql", &superuser)
            .replace("@127.0.0.1/fumehood", &format!("@127.0.0.1:{}/fumehood", self.postgres.port()))
            .replace("redis://127.0.0.1:6379", &self.redis.url())
            .replace("/srv/fumehood", &self.dir.path().join("fumehood").to_string_lossy());
        let mut pieces = text.split(HOST);
        let mut translated = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let digits = piece.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(piece.len());
            let (written, rest) = piece.split_at(digits);
            let is_ours = OURS.iter().any(|ours| written.starts_with(ours));
            let port = if is_ours { self.port(written).to_string() } else { written.to_owned() };
            translated.push_str(&format!("{HOST}{port}{rest}"));
        }
        translated
    }

    /// The free one that a port of the page is here.
    fn port(&mut self, written: &str) -> u16 {
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|bound| bound.local_addr());
        *self.ports.entry(written.to_owned()).or_insert_with(|| free().expect("a free port").port())
    }
}

/// A terminal in which the page is followed; whatever runs in it ends with it.
struct Terminal(Child);

impl Terminal {
    fn open(script: &str, log: &Path) -> Self {
        let binaries = Path::new(env!("CARGO_BIN_EXE_fumehood")).parent().expect("a directory");
        let path = std::env::var("PATH").expect("a path");
        let log = File::create(log).expect("a log");
        let mut command = Command::new("bash");
        command.args(["-euc", script]).env("PATH", format!("{}:{path}", binaries.display()));
        command.env("FUMEHOOD_ENVIRONMENTS_IMAGES_DIR", shared_images());
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log).process_group(0);
        Self(command.spawn().expect("bash starts"))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let group = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        // What has ended already is no matter.
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
        let _ = self.0.wait();
    }
}

fn blocks(page: &str) -> Vec<String> {
    let (_, rest) = page.split_once(ON_THIS_MACHINE).expect("the page has the part");
    let part = rest.split("\n## ").next().unwrap_or(rest);
    let fenced = part.split("```sh\n").skip(1);
    fenced.map(|block| block.split("```").next().unwrap_or(block).to_owned()).collect()
}

#[test]
fn the_page_on_roles_starts_them_as_it_is_written() {
    if let Some(why) = hood_testkit::missing() {
        println!("\nSKIPPED: roles: {why}");
        return;
    }
    let page = std::fs::read_to_string(PAGE).expect("the page");
    let mut machine = Machine::new();
    let scripts: Vec<String> = blocks(&page).iter().map(|block| machine.translate(block)).collect();
    let [prepare, roles @ .., ask] = &scripts[..] else { panic!("too few blocks: {scripts:?}") };
    let log = |name: &str| machine.dir.path().join(format!("{name}.log"));
    let said = |name: &str| std::fs::read_to_string(log(name)).unwrap_or_default();

    // What is exported in the first terminal is exported in each.
    let exports: Vec<&str> = prepare.lines().filter(|line| line.starts_with("export ")).collect();
    let status = Terminal::open(prepare, &log("prepare")).0.wait().expect("ends");
    assert!(status.success(), "{prepare}\n{}", said("prepare"));
    let running: Vec<Terminal> = roles
        .iter()
        .enumerate()
        .map(|(index, role)| {
            let script = format!("{}\n{role}", exports.join("\n"));
            Terminal::open(&script, &log(&format!("role{index}")))
        })
        .collect();
    let began = Instant::now();
    loop {
        let script = format!("{}\n{ask}", exports.join("\n"));
        let mut asking = Terminal::open(&script, &log("ask"));
        let asked = asking.0.wait().expect("ends");
        let answer = said("ask");
        if asked.success()
            && answer.contains(r#""verdict":"succeeded""#)
            && answer.contains(r#""preview":"42\n""#)
        {
            assert!(answer.contains(r#""status":"ok""#), "{answer}");
            break;
        }
        let logs: Vec<String> = (0..running.len()).map(|index| said(&format!("role{index}"))).collect();
        assert!(began.elapsed() < PATIENCE, "{answer}\n{}", logs.join("\n"));
        std::thread::sleep(Duration::from_millis(200));
    }
}
