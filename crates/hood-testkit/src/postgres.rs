//! PostgreSQL as the host has it, with a cluster of its own.

use std::fs;
use std::io::{self, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::process::{Pid, Signal};

use crate::guard::Guard;
use crate::service::{self, Location};

/// Debian keeps the server's programs out of the path.
const DEBIAN: &str = "/usr/lib/postgresql";

/// `initdb` and the server refuse to be root.
const USER: &str = "postgres";

/// Times that a start is tried where somebody else took the port.
const STARTS: u32 = 3;

/// Connections at once: more than the tests of one binary hold together.
const CONNECTIONS: u32 = 300;

pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let versions = fs::read_dir(DEBIAN).into_iter().flatten().filter_map(|version| {
        let path = version.ok()?.path();
        Some((path.file_name()?.to_str()?.parse::<u32>().ok()?, path.join("bin").join(name)))
    });
    let newest = versions.filter(|(_, at)| at.is_file()).max_by_key(|(version, _)| *version);
    newest.map(|(_, at)| at).or_else(|| service::program(name))
}

/// The one of this test binary, started by whoever asks first.
///
/// # Panics
///
/// Where it is not installed or does not start; see [`crate::missing`].
pub async fn postgres() -> &'static Postgres {
    static ONE: OnceLock<Postgres> = OnceLock::new();
    let start = || {
        ONE.get_or_init(|| {
            Postgres::start(PostgresOptions::default()).unwrap_or_else(|error| panic!("PostgreSQL: {error}"))
        })
    };
    tokio::task::spawn_blocking(start).await.expect("starts")
}

#[derive(Clone, Copy, Debug)]
pub struct PostgresOptions {
    /// Whether commits are flushed to the disk. Killing processes loses nothing without it, only a
    /// machine that dies does.
    pub fsync: bool,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self { fsync: true }
    }
}

#[derive(Debug)]
pub struct Postgres {
    dir: PathBuf,
    port: Mutex<u16>,
    options: PostgresOptions,
    location: Location,
    databases: AtomicU64,
    /// Last, so that it is dropped when nothing else is in use.
    _guard: Guard,
}

impl Postgres {
    pub fn start(options: PostgresOptions) -> io::Result<Self> {
        Self::start_at(options, Location::default())
    }

    pub fn start_at(options: PostgresOptions, location: Location) -> io::Result<Self> {
        let dir = service::directory("hood-postgres-")?;
        let guard = Guard::over(&dir, "data/postmaster.pid")?;
        let started = Self {
            dir,
            port: Mutex::new(service::free_port()?),
            options,
            location,
            databases: AtomicU64::new(0),
            _guard: guard,
        };
        started.init()?;
        started.launch()?;
        Ok(started)
    }

    /// Of an empty database that nobody else uses, with all rights.
    pub async fn fresh_database(&'static self) -> String {
        tokio::task::spawn_blocking(|| self.create_database()).await.expect("no panic").expect("a database")
    }

    pub fn create_database(&self) -> io::Result<String> {
        let name = format!("t{}_{}", std::process::id(), self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"))?;
        Ok(self.url(USER, &name))
    }

    /// How `user` connects to a database.
    pub fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@{}:{}/{database}", self.location.host, self.port())
    }

    pub fn port(&self) -> u16 {
        *self.port.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs statements as the owner of everything, and gives what they print, a row a line.
    pub fn sql(&self, database: &str, statements: &str) -> io::Result<String> {
        self.sql_as(USER, database, statements)
    }

    /// The same as another user.
    pub fn sql_as(&self, user: &str, database: &str, statements: &str) -> io::Result<String> {
        let psql = service::program("psql").ok_or_else(|| io::Error::other("psql is not installed"))?;
        let url = self.url(user, database);
        let arguments = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &url, "-c", statements];
        done(Command::new(psql).args(arguments).stdin(Stdio::null()).output()?)
    }

    /// As a power cut: no process of it gets a chance to tidy up.
    pub fn kill9(&self) -> io::Result<()> {
        let Some(postmaster) = self.postmaster() else { return Ok(()) };
        let mut all = children(postmaster);
        all.push(postmaster);
        // The postmaster first: it would otherwise restart what it misses.
        for pid in all.iter().rev() {
            service::signal(*pid, Signal::KILL)?;
        }
        service::until("PostgreSQL dies", || all.iter().all(|pid| service::is_gone(*pid)))
    }

    /// Disconnects everybody, and ends.
    pub fn stop(&self) -> io::Result<()> {
        let Some(postmaster) = self.postmaster() else { return Ok(()) };
        service::signal(postmaster, Signal::INT)?;
        service::until("PostgreSQL stops", || service::is_gone(postmaster))
    }

    /// Starts it again on the same port, whether it was stopped or killed.
    pub fn restart(&self) -> io::Result<()> {
        self.stop()?;
        self.launch()
    }

    /// SIGSTOP to each of its processes; [`Postgres::thaw`] lets them go on.
    pub fn freeze(&self) -> io::Result<()> {
        self.signal_all(Signal::STOP)
    }

    pub fn thaw(&self) -> io::Result<()> {
        self.signal_all(Signal::CONT)
    }

    fn signal_all(&self, signal: Signal) -> io::Result<()> {
        let Some(postmaster) = self.postmaster() else { return Ok(()) };
        service::signal(postmaster, signal)?;
        children(postmaster).into_iter().try_for_each(|pid| service::signal(pid, signal))
    }

    fn postmaster(&self) -> Option<Pid> {
        service::read_pid(&self.data().join("postmaster.pid")).filter(|pid| !service::is_gone(*pid))
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn init(&self) -> io::Result<()> {
        let data = self.data();
        fs::create_dir(&data)?;
        if rustix::process::geteuid().is_root() {
            done(Command::new("chown").arg(USER).arg(&data).output()?)?;
        }
        let mut initdb = self.command("initdb")?;
        initdb
            .args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username", USER, "-D"])
            .arg(&data);
        done(initdb.output()?)?;
        if !self.location.host.is_loopback() {
            // Whoever reaches it there is in a network that the test made.
            let mut access = fs::File::options().append(true).open(data.join("pg_hba.conf"))?;
            writeln!(access, "host all all {}/24 trust", self.location.host)?;
        }
        Ok(())
    }

    fn launch(&self) -> io::Result<()> {
        let mut last = io::Error::other("never tried");
        for _ in 0..STARTS {
            match self.launch_once() {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
            if self.databases.load(Ordering::Relaxed) == 0 {
                // Nobody knows the port yet.
                *self.port.lock().unwrap_or_else(PoisonError::into_inner) = service::free_port()?;
            }
        }
        Err(last)
    }

    fn launch_once(&self) -> io::Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.dir.join("log"))?;
        let (data, port) = (self.data(), self.port());
        let on_off = |on: bool| if on { "on" } else { "off" };
        let mut server = self.command("postgres")?;
        server
            .arg("-D")
            .arg(&data)
            .args(["-p", &port.to_string(), "-h", &self.location.host.to_string(), "-k"])
            .arg(&data);
        server.args(["-N", &CONNECTIONS.to_string(), "-c", &format!("fsync={}", on_off(self.options.fsync))]);
        // In reach of no terminal's signals, and of this process's death only through the guard.
        server.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        std::os::unix::process::CommandExt::process_group(&mut server, 0);
        let mut server = server.spawn()?;
        let mut ended = None;
        service::until("PostgreSQL answers", || {
            ended = server.try_wait().ok().flatten();
            ended.is_some() || self.answers()
        })?;
        if let Some(status) = ended {
            let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            return Err(io::Error::other(format!("PostgreSQL ended at once ({status}): {log}")));
        }
        // Waited for by a thread, so that a killed one leaves no zombie behind.
        std::thread::spawn(move || server.wait());
        Ok(())
    }

    fn answers(&self) -> bool {
        TcpStream::connect((self.location.host, self.port())).is_ok()
            && self.sql("postgres", "SELECT 1").is_ok()
    }

    /// One of the server's programs, as a user that it accepts.
    fn command(&self, name: &str) -> io::Result<Command> {
        let at = program(name)
            .ok_or_else(|| io::Error::other("PostgreSQL is not installed: apt-get install postgresql"))?;
        let mut command = if rustix::process::geteuid().is_root() {
            let mut command = self.location.command(Path::new("setpriv"));
            command.args(["--reuid", USER, "--regid", USER, "--init-groups", "--"]).arg(at);
            command
        } else {
            self.location.command(&at)
        };
        command.current_dir(&self.dir).env("LC_ALL", "C");
        Ok(command)
    }
}

fn children(of: Pid) -> Vec<Pid> {
    let parent = of.as_raw_nonzero().to_string();
    let processes = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    processes.filter_map(|process| child_of(&process.path(), &parent)).collect()
}

fn child_of(process: &Path, parent: &str) -> Option<Pid> {
    let pid = process.file_name()?.to_str()?.parse().ok().and_then(Pid::from_raw)?;
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    (after_name.split_whitespace().nth(1)? == parent).then_some(pid)
}

fn done(output: Output) -> io::Result<String> {
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
