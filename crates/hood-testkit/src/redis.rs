//! Redis as the host has it, in memory alone: it is never the only copy of anything.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::guard::Guard;
use crate::service::{self, Location};

const PID_FILE: &str = "pid";

/// How long an answer may take before it counts as none.
const ANSWER: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Redis {
    dir: PathBuf,
    port: u16,
    options: Vec<String>,
    location: Location,
    _guard: Guard,
}

impl Redis {
    pub fn start() -> io::Result<Self> {
        Self::with(&[])
    }

    /// With options of its own, as on the command line: `["--maxmemory", "1mb"]`.
    pub fn with(options: &[&str]) -> io::Result<Self> {
        Self::start_at(options, Location::default())
    }

    pub fn start_at(options: &[&str], location: Location) -> io::Result<Self> {
        let dir = service::directory("hood-redis-")?;
        let guard = Guard::over(&dir, PID_FILE)?;
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let redis = Self { dir, port: service::free_port()?, options, location, _guard: guard };
        redis.launch()?;
        Ok(redis)
    }

    pub fn url(&self) -> String {
        format!("redis://{}:{}", self.location.host, self.port)
    }

    pub const fn port(&self) -> u16 {
        self.port
    }

    pub fn kill9(&self) -> io::Result<()> {
        self.end(Signal::KILL)
    }

    pub fn stop(&self) -> io::Result<()> {
        self.end(Signal::TERM)
    }

    /// Starts it again on the same port, empty.
    pub fn restart(&self) -> io::Result<()> {
        self.stop()?;
        self.launch()
    }

    pub fn freeze(&self) -> io::Result<()> {
        self.pid().map_or(Ok(()), |pid| service::signal(pid, Signal::STOP))
    }

    pub fn thaw(&self) -> io::Result<()> {
        self.pid().map_or(Ok(()), |pid| service::signal(pid, Signal::CONT))
    }

    fn end(&self, how: Signal) -> io::Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        service::signal(pid, how)?;
        service::until("Redis ends", || service::is_gone(pid))
    }

    fn pid(&self) -> Option<Pid> {
        service::read_pid(&self.dir.join(PID_FILE)).filter(|pid| !service::is_gone(*pid))
    }

    fn launch(&self) -> io::Result<()> {
        let at = service::program("redis-server")
            .ok_or_else(|| io::Error::other("Redis is not installed: apt-get install redis-server"))?;
        let log = fs::File::options().create(true).append(true).open(self.dir.join("log"))?;
        let mut server = self
            .location
            .command(&at)
            .args([
                "--port",
                &self.port.to_string(),
                "--bind",
                &self.location.host.to_string(),
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .args(["--daemonize", "no", "--pidfile"])
            .arg(self.dir.join(PID_FILE))
            .arg("--dir")
            .arg(&self.dir)
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        let mut ended = None;
        service::until("Redis answers", || {
            ended = server.try_wait().ok().flatten();
            ended.is_some() || self.answers().is_ok()
        })?;
        if let Some(status) = ended {
            let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            return Err(io::Error::other(format!("Redis ended at once ({status}): {log}")));
        }
        std::thread::spawn(move || server.wait());
        Ok(())
    }

    /// Whether anything but silence comes back: with a password it is a refusal, and an answer.
    fn answers(&self) -> io::Result<()> {
        let mut connection = TcpStream::connect((self.location.host, self.port))?;
        connection.set_read_timeout(Some(ANSWER))?;
        connection.write_all(b"PING\r\n")?;
        connection.read_exact(&mut [0; 1])
    }
}
