//! The binary as somebody types it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Output, Stdio};

use super::server::shared_images;

pub(crate) struct Shell {
    pub(crate) dir: tempfile::TempDir,
}

impl Shell {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn file(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).expect("written");
    }

    /// A command line, ready to be started in a directory of its own over data of its own.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fumehood"));
        command.args(arguments);
        self.at_home(command)
    }

    /// The same, executed by another program with arguments of its own.
    pub(crate) fn command_by(&self, program: &str, own: &[&str], arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(own).arg(env!("CARGO_BIN_EXE_fumehood")).args(arguments);
        self.at_home(command)
    }

    fn at_home(&self, mut command: Command) -> Command {
        command
            .current_dir(self.dir.path())
            .env("FUMEHOOD_DATA_DIR", self.path("data"))
            .env("FUMEHOOD_ENVIRONMENTS_IMAGES_DIR", shared_images())
            .env_remove("FUMEHOOD_SERVER")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> (i32, Output) {
        let output = self.command(arguments).output().expect("it runs");
        (output.status.code().expect("an exit status"), output)
    }

    pub(crate) fn run_with_stdin(&self, arguments: &[&str], stdin: &[u8]) -> (i32, Output) {
        let mut command = self.command(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.as_mut().expect("it runs");
        child.stdin.take().expect("piped").write_all(stdin).expect("read");
        let output = wait(child);
        (output.status.code().expect("an exit status"), output)
    }
}

/// A server as somebody starts it, which answers once this returns; it ends with this.
#[derive(Debug)]
pub(crate) struct Serving {
    child: Child,
    pub(crate) address: String,
}

impl Serving {
    pub(crate) fn start(shell: &Shell, arguments: &[&str]) -> Self {
        let arguments = [&["serve", "--listen", "127.0.0.1:0"], arguments].concat();
        let mut command = shell.command(&arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it runs");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("it greets");
        assert!(line.contains("http://"), "it did not start: {line:?}");
        let address = line.trim().rsplit(' ').next().expect("its address").to_owned();
        Self { child, address }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn wait(child: &mut std::process::Child) -> Output {
    use std::io::Read as _;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    child.stdout.take().expect("piped").read_to_end(&mut stdout).expect("read");
    child.stderr.take().expect("piped").read_to_end(&mut stderr).expect("read");
    Output { status: child.wait().expect("ends"), stdout, stderr }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
