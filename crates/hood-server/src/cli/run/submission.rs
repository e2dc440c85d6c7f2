//! From the command line to what is submitted.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hood_wire::api::{Build, InputFile, LimitsRequest, Submission};

use super::super::failure::Failure;
use super::Args;

/// More than any server takes in one request: what is larger is refused here, unread.
const INPUT_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// `LOCAL` or `LOCAL:REMOTE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileArg {
    local: PathBuf,
    remote: String,
}

impl FromStr for FileArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (local, remote) = match text.split_once(':') {
            Some((local, remote)) => (local, Some(remote.strip_prefix("./").unwrap_or(remote))),
            None => (text, None),
        };
        let local = PathBuf::from(local);
        let name = || local.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        match remote.map(str::to_owned).or_else(name).filter(|remote| !remote.is_empty()) {
            Some(remote) if !local.as_os_str().is_empty() => Ok(Self { local, remote }),
            _ => Err("write LOCAL, or LOCAL:REMOTE to give it another name in the sandbox".to_owned()),
        }
    }
}

impl FileArg {
    fn read(&self) -> Result<InputFile, Failure> {
        let content = read(&self.local)?;
        let mode = fs::metadata(&self.local).map(|metadata| metadata.permissions().mode()).unwrap_or(0);
        let (content, content_base64) = text_or_base64(content);
        let executable = mode & 0o111 != 0;
        Ok(InputFile { path: self.remote.clone(), content, content_base64, executable })
    }
}

/// Text as text, so that the submission stays readable; other bytes as base64.
fn text_or_base64(bytes: Vec<u8>) -> (Option<String>, Option<String>) {
    match String::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(error) => (None, Some(STANDARD.encode(error.as_bytes()))),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error| Failure::new(format!("cannot read {}", path.display())).because(error);
    let file = fs::File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_dir() {
        return Err(Failure::new(format!("{} is a directory", path.display()))
            .next("give its files one by one, each with --file LOCAL:REMOTE"));
    }
    read_bounded(file).map_err(failed)
}

fn read_stdin() -> Result<Vec<u8>, Failure> {
    read_bounded(io::stdin().lock())
        .map_err(|error| Failure::new("cannot read standard input").because(error))
}

fn read_bounded(source: impl io::Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        return Err(io::Error::other(format!("larger than {INPUT_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

impl Args {
    pub(super) fn submission(&self) -> Result<Submission, Failure> {
        let passes_stdin = self.stdin.as_deref() == Some(Path::new("-"));
        if passes_stdin && self.script.as_deref() == Some("-") {
            return Err(Failure::new("standard input cannot be both the script and the script's input")
                .next("put one of the two into a file"));
        }
        let (command, args) = match self.exec {
            true => (Some(self.args.clone()), Vec::new()),
            false => (None, self.args.clone()),
        };
        let files: Result<Vec<_>, _> = self.file.iter().map(super::FileArg::read).collect();
        let stdin = match &self.stdin {
            None => None,
            Some(_) if passes_stdin => Some(read_stdin()?),
            Some(path) => Some(read(path)?),
        };
        let (stdin, stdin_base64) = stdin.map_or((None, None), text_or_base64);
        Ok(Submission {
            code: self.script.as_deref().map(code).transpose()?,
            files: files?,
            build: self.build.request(),
            command,
            args,
            stdin,
            stdin_base64,
            env: self.variables.iter().cloned().collect(),
            environment: self.environment.clone(),
            limits: self.limits.request(),
            priority: self.order.priority,
            labels: self.order.labels.iter().cloned().collect(),
            risk_level: self.order.risk.into(),
            grace_ms: self.order.grace.map(millis),
            on_output_limit: self.limits.on_output_limit.into(),
            ..Submission::default()
        })
    }
}

fn code(script: &str) -> Result<String, Failure> {
    let bytes = if script == "-" { read_stdin()? } else { read(Path::new(script))? };
    String::from_utf8(bytes).map_err(|_| {
        let name = Path::new(script).file_name().unwrap_or_default().to_string_lossy();
        Failure::new(format!("{script} is no text, and so no source"))
            .next(format!("for another program: fumehood run --file {script} --exec -- ./{name}"))
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl super::Limits {
    fn request(&self) -> LimitsRequest {
        LimitsRequest {
            wall_ms: self.timeout.map(millis),
            cpu_ms: self.cpu.map(millis),
            memory_bytes: self.memory,
            processes: self.processes,
            file_bytes: self.file_size,
            disk_bytes: self.disk,
            disk_inodes: self.inodes,
            output_bytes: self.output_limit,
            open_files: self.open_files,
        }
    }
}

impl super::Build {
    /// `None` where nothing is said of it: the environment may build all the same.
    fn request(&self) -> Option<Build> {
        let limits = LimitsRequest {
            wall_ms: self.build_timeout.map(millis),
            cpu_ms: self.build_cpu.map(millis),
            memory_bytes: self.build_memory,
            processes: self.build_processes,
            output_bytes: self.build_output_limit,
            ..LimitsRequest::default()
        };
        let command = self.command.clone().map(|words| words.0);
        (command.is_some() || limits != LimitsRequest::default()).then_some(Build { command, limits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(local: &str, remote: &str) -> Result<FileArg, String> {
        Ok(FileArg { local: PathBuf::from(local), remote: remote.to_owned() })
    }

    #[test]
    fn a_file_keeps_its_name_unless_it_is_given_another() {
        assert_eq!("data.csv".parse(), file("data.csv", "data.csv"));
        assert_eq!("./bin/prog".parse(), file("./bin/prog", "prog"));
        assert_eq!("a:b/c".parse(), file("a", "b/c"));
        assert_eq!("a:./b".parse(), file("a", "b"));
        assert_eq!("a:/abs".parse(), file("a", "/abs"), "the server says what is wrong with it");
        for wrong in ["", ":b", "a:", "..", "/"] {
            assert!(wrong.parse::<FileArg>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_travel_as_base64() {
        assert_eq!(text_or_base64(b"a\0b".to_vec()), (Some("a\0b".to_owned()), None));
        assert_eq!(text_or_base64(vec![0xff, 0]), (None, Some("/wA=".to_owned())));
    }
}
