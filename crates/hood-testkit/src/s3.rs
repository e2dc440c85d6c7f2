//! An S3 server over a directory: versitygw, which `scripts/test-services` builds from its Go module.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal};

use crate::guard::Guard;
use crate::service;

const PID_FILE: &str = "pid";
const PROGRAM: &str = "versitygw";

#[derive(Debug)]
pub struct S3 {
    dir: PathBuf,
    port: u16,
    _guard: Guard,
}

impl S3 {
    pub const BUCKET: &str = "bucket";
    pub const ACCESS_KEY: &str = "test";
    pub const SECRET_KEY: &str = "test-secret";
    pub const REGION: &str = "us-east-1";

    /// Why a test that needs it cannot run here, and what would help.
    pub fn missing() -> Option<String> {
        let lacking = program().is_none();
        lacking.then(|| format!("no {PROGRAM}: scripts/test-services builds it where there is Go"))
    }

    /// With one bucket, which is empty.
    pub fn start() -> io::Result<Self> {
        let dir = service::directory("hood-s3-")?;
        let guard = Guard::over(&dir, PID_FILE)?;
        let s3 = Self { dir, port: service::free_port()?, _guard: guard };
        fs::create_dir_all(s3.bucket_dir())?;
        fs::create_dir_all(s3.dir.join("meta"))?;
        s3.launch()?;
        Ok(s3)
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where the server keeps the bucket's objects, each as a file.
    pub fn bucket_dir(&self) -> PathBuf {
        self.dir.join("data").join(Self::BUCKET)
    }

    pub fn kill9(&self) -> io::Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        service::signal(pid, Signal::KILL)?;
        service::until("the S3 server ends", || service::is_gone(pid))
    }

    /// Starts it again on the same port, with what it had.
    pub fn restart(&self) -> io::Result<()> {
        self.kill9()?;
        self.launch()
    }

    pub fn freeze(&self) -> io::Result<()> {
        self.pid().map_or(Ok(()), |pid| service::signal(pid, Signal::STOP))
    }

    pub fn thaw(&self) -> io::Result<()> {
        self.pid().map_or(Ok(()), |pid| service::signal(pid, Signal::CONT))
    }

    fn pid(&self) -> Option<Pid> {
        service::read_pid(&self.dir.join(PID_FILE)).filter(|pid| !service::is_gone(*pid))
    }

    fn launch(&self) -> io::Result<()> {
        let at = program().ok_or_else(|| io::Error::other(Self::missing().unwrap_or_default()))?;
        let log = fs::File::options().create(true).append(true).open(self.dir.join("log"))?;
        let mut server = Command::new(at)
            .args(["--quiet", "--port", &format!("127.0.0.1:{}", self.port), "--region", Self::REGION])
            .args(["--access", Self::ACCESS_KEY, "--secret", Self::SECRET_KEY])
            // Extended attributes and unnamed files are not to be had everywhere.
            .args(["posix", "--disableotmp", "--sidecar"])
            .args([self.dir.join("meta"), self.dir.join("data")])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        fs::write(self.dir.join(PID_FILE), format!("{}\n", server.id()))?;
        let mut ended = None;
        service::until("the S3 server listens", || {
            ended = server.try_wait().ok().flatten();
            ended.is_some() || TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok()
        })?;
        if let Some(status) = ended {
            let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            return Err(io::Error::other(format!("the S3 server ended at once ({status}): {log}")));
        }
        std::thread::spawn(move || server.wait());
        Ok(())
    }
}

/// On the PATH, or where `scripts/test-services` puts it.
fn program() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools").join(PROGRAM);
    service::program(PROGRAM).or_else(|| Some(built).filter(|at| at.is_file()))
}
