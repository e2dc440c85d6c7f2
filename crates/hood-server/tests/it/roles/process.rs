//! A role as a process of its own.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use hood_server::config::TlsFiles;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::server::shared_images;

pub(crate) struct Process {
    child: Child,
    /// What it said on stdout when it was there.
    pub(crate) greeting: String,
    pub(crate) log: PathBuf,
}

impl Process {
    /// Starts `fumehood ROLE` over a data directory beneath `dir`, and waits for its greeting.
    pub(crate) fn start(role: &str, dir: &Path, settings: &[(&str, String)]) -> Self {
        let data = dir.join(role);
        let log = dir.join(format!("{role}.log"));
        let log_file = fs::File::options().create(true).append(true).open(&log).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_fumehood"));
        command.arg(role.split('-').next().unwrap_or(role)).arg("--data-dir").arg(&data);
        for (key, value) in settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        let mut child = command
            .env("FUMEHOOD_ENVIRONMENTS_IMAGES_DIR", shared_images())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log_file)
            .spawn()
            .expect("it starts");
        let mut greeting = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut greeting).expect("readable");
        let said = fs::read_to_string(&log).unwrap_or_default();
        assert!(!greeting.is_empty(), "{role} did not start:\n{said}");
        Self { child, greeting, log }
    }

    /// The address after `scheme` in its greeting.
    pub(crate) fn address(&self, scheme: &str) -> String {
        let (_, rest) = self.greeting.split_once(scheme).expect("it names its address");
        let end = rest.find([';', '\n', ' ']).unwrap_or(rest.len());
        rest[..end].to_owned()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")).expect("a pid");
        kill_process(pid, signal).expect("signalled");
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().expect("SIGKILL");
        self.child.wait().expect("dies");
    }

    /// Asks it to end, and says how it did.
    pub(crate) fn stop(mut self) -> std::process::ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        self.child.wait().expect("ends")
    }

    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // What a failed test left; one that has ended already is no matter.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn tls(files: &TlsFiles) -> Vec<(&'static str, String)> {
    let text = |path: &PathBuf| path.to_string_lossy().into_owned();
    vec![("tls.cert", text(&files.cert)), ("tls.key", text(&files.key)), ("tls.ca", text(&files.ca))]
}
