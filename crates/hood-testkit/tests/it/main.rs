//! Black box: that what is started answers, comes back, and leaves nothing behind.

use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hood_testkit::{Postgres, PostgresOptions, Redis};

const PATIENCE: Duration = Duration::from_secs(30);
const CHILD: &str = "HOOD_TESTKIT_CHILD";

fn can_run() -> bool {
    let Some(why) = hood_testkit::missing() else { return true };
    let _ = writeln!(std::io::stderr(), "\nSKIPPED: postgres: {why}");
    false
}

#[tokio::test]
async fn each_database_is_its_own_and_outlives_a_kill() {
    if !can_run() {
        return;
    }
    let postgres = Postgres::start(PostgresOptions { fsync: false }).expect("starts");
    let [one, two] = [(); 2].map(|()| postgres.create_database().expect("a database"));
    assert_ne!(one, two);
    let name = one.rsplit_once('/').expect("a path").1;
    postgres.sql(name, "CREATE TABLE kept (n INT); INSERT INTO kept VALUES (7)").expect("is done");
    postgres.kill9().expect("dies");
    assert!(postgres.sql(name, "SELECT 1").is_err(), "it is gone");
    postgres.restart().expect("comes back");
    assert_eq!(postgres.sql(name, "SELECT n FROM kept").expect("answers"), "7");
    postgres.stop().expect("stops");
    postgres.restart().expect("comes back");
    assert_eq!(postgres.sql(name, "SHOW fsync").expect("answers"), "off");
}

#[test]
fn redis_comes_back_on_its_port() {
    if !can_run() {
        return;
    }
    let redis = Redis::start().expect("starts");
    redis.kill9().expect("dies");
    assert!(TcpStream::connect(("127.0.0.1", redis.port())).is_err());
    redis.restart().expect("comes back");
    TcpStream::connect(("127.0.0.1", redis.port())).expect("listens");
}

/// Does nothing unless the test below started it: then it starts both, says where, and waits.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let postgres = Postgres::start(PostgresOptions { fsync: false }).expect("starts");
    let redis = Redis::start().expect("starts");
    println!("\nports {} {}", postgres.port(), redis.port());
    loop {
        std::thread::park();
    }
}

#[test]
fn a_killed_test_leaves_nothing_behind() {
    if !can_run() {
        return;
    }
    let temporary = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(temporary.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("opens it");
    let mut child = Command::new(std::env::current_exe().expect("is a program"))
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, "1")
        .env("TMPDIR", temporary.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().expect("a pipe")));
    let line = lines.map_while(Result::ok).find(|line| line.starts_with("ports ")).expect("both start");
    let ports: Vec<u16> = line.split(' ').skip(1).map(|port| port.parse().expect("a port")).collect();
    assert_eq!(entries(temporary.path()).len(), 2, "a directory each");
    child.kill().expect("SIGKILL");
    child.wait().expect("is gone");
    let deadline = Instant::now() + PATIENCE;
    let listens = |port: &u16| TcpStream::connect(("127.0.0.1", *port)).is_ok();
    while ports.iter().any(listens) || !entries(temporary.path()).is_empty() {
        assert!(Instant::now() < deadline, "left: {:?}", entries(temporary.path()));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).expect("lists").map(|entry| entry.expect("is there").path()).collect()
}
