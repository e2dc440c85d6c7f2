//! The host's Python: found, and asked what it is.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::error::{EnvironmentError, PYTHON_MINIMUM};

/// How long an interpreter may take to say what it is. A version manager's shim on a cold disk
/// takes seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// The longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Asks for as little as an interpreter can have: not even `json` is in every package named Python.
/// `/proc/self/exe` sees through shims, virtual environments and links alike.
const QUESTION: &str = r#"
import os, sys
from importlib.util import MAGIC_NUMBER
for key, value in (
    ("implementation", sys.implementation.name),
    ("version", "%d.%d.%d" % sys.version_info[:3]),
    ("executable", os.readlink("/proc/self/exe")),
    ("prefix", sys.base_prefix),
    ("stdlib", os.path.realpath(os.path.dirname(os.__file__))),
    ("stdlib_name", os.path.basename(os.path.dirname(os.__file__))),
    ("lib", getattr(sys, "platlibdir", "lib")),
    ("dynload", ([p for p in sys.path if os.path.basename(p) == "lib-dynload"] or [""])[0]),
    ("cache_tag", sys.implementation.cache_tag or ""),
    ("magic", "".join("%02x" % byte for byte in MAGIC_NUMBER)),
    ("library_path", os.environ.get("LD_LIBRARY_PATH", "")),
):
    print("%s=%s" % (key, value))
"#;

/// Modules whose absence means that a distribution has split the library and only a part is here.
const WHOLE_LIBRARY: [&str; 3] = ["json/__init__.py", "asyncio/__init__.py", "subprocess.py"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostPython {
    pub(super) version: String,
    pub(super) executable: PathBuf,
    /// Where it was installed: the text that its build configuration is full of.
    pub(super) prefix: String,
    pub(super) stdlib: PathBuf,
    /// The library's directory by its name in the image: `python3.11`.
    pub(super) stdlib_name: String,
    /// `lib`, or `lib64` where the distribution says so.
    pub(super) lib: String,
    pub(super) dynload: Option<PathBuf>,
    pub(super) cache_tag: String,
    pub(super) magic: [u8; 4],
    pub(super) library_path: String,
}

/// Where the interpreter's name leads to, which may be a shim.
pub(super) fn find(interpreter: &str) -> Result<PathBuf, EnvironmentError> {
    let missing = |looked_in| EnvironmentError::NoPython { interpreter: interpreter.to_owned(), looked_in };
    if interpreter.starts_with('/') {
        let path = PathBuf::from(interpreter);
        return if is_program(&path) { Ok(path) } else { Err(missing(Vec::new())) };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> = std::env::split_paths(&path).filter(|dir| dir.is_absolute()).collect();
    let found = dirs.iter().map(|dir| dir.join(interpreter)).find(|path| is_program(path));
    found.ok_or_else(|| missing(dirs))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Starts the interpreter and asks. It runs isolated and without `site`, so that nothing that was
/// installed into it has a say.
pub(super) fn ask(found: &Path) -> Result<HostPython, EnvironmentError> {
    let not_python = |problem: String| EnvironmentError::NotPython { interpreter: found.to_owned(), problem };
    let answer = answer(found)?;
    let facts: HashMap<&str, &str> = answer.lines().filter_map(|line| line.split_once('=')).collect();
    let fact = |key: &str| {
        facts.get(key).copied().ok_or_else(|| not_python(format!("its answer has no `{key}`: {answer:?}")))
    };
    let (implementation, version) = (fact("implementation")?, fact("version")?);
    let unsuitable = |problem: String| EnvironmentError::Unsuitable {
        interpreter: found.to_owned(),
        found: format!("{implementation} {version}"),
        problem,
    };
    if implementation != "cpython" {
        return Err(unsuitable("only CPython is laid out as an image expects".to_owned()));
    }
    let newest_refused = || format!("the oldest that will do is {}.{}", PYTHON_MINIMUM.0, PYTHON_MINIMUM.1);
    if two_numbers(version).is_none_or(|version| version < PYTHON_MINIMUM) {
        return Err(unsuitable(newest_refused()));
    }
    let stdlib = PathBuf::from(fact("stdlib")?);
    if let Some(missing) = WHOLE_LIBRARY.into_iter().find(|module| !stdlib.join(module).is_file()) {
        let dir = stdlib.display();
        return Err(unsuitable(format!(
            "its standard library is not complete: {dir} has no {missing} (Debian, Ubuntu: python3-minimal \
             alone is not enough, apt install python3)"
        )));
    }
    let magic: Option<Vec<u8>> = (0..4).map(|i| byte(fact("magic").ok()?.get(2 * i..2 * i + 2)?)).collect();
    Ok(HostPython {
        version: version.to_owned(),
        executable: PathBuf::from(fact("executable")?),
        prefix: fact("prefix")?.to_owned(),
        stdlib,
        stdlib_name: fact("stdlib_name")?.to_owned(),
        lib: fact("lib")?.to_owned(),
        dynload: Some(fact("dynload")?).filter(|dir| !dir.is_empty()).map(PathBuf::from),
        cache_tag: fact("cache_tag")?.to_owned(),
        magic: magic
            .and_then(|magic| magic.try_into().ok())
            .ok_or_else(|| not_python("its bytecode has no magic number".to_owned()))?,
        library_path: fact("library_path")?.to_owned(),
    })
}

fn byte(hex: &str) -> Option<u8> {
    u8::from_str_radix(hex, 16).ok()
}

fn two_numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

fn answer(interpreter: &Path) -> Result<String, EnvironmentError> {
    let not_python =
        |problem: String| EnvironmentError::NotPython { interpreter: interpreter.to_owned(), problem };
    let silent = |problem: String| EnvironmentError::Silent { interpreter: interpreter.to_owned(), problem };
    let mut child = Command::new(interpreter)
        .args(["-I", "-S", "-c", QUESTION])
        // A version manager looks for its settings upwards from here: `/` makes the choice the
        // host's and not the current directory's.
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| {
            let problem = format!("it does not start: {error}");
            // Anything else is the machine's: no memory, no processes, a file that is being written.
            let its_own = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
                || error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error());
            if its_own { not_python(problem) } else { silent(problem) }
        })?;
    let output = drain(child.stdout.take());
    let errors = drain(child.stderr.take());
    let received = output.recv_timeout(ANSWER_WITHIN);
    if received.is_err() {
        // It may have ended by now, which is as good.
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| silent(format!("its end cannot be learnt: {error}")))?;
    let output = match received {
        Ok(output) => output,
        Err(RecvTimeoutError::Timeout) => {
            return Err(silent(format!("no answer within {} s", ANSWER_WITHIN.as_secs())));
        }
        Err(RecvTimeoutError::Disconnected) => return Err(silent("its output cannot be read".to_owned())),
    };
    if status.success() {
        return Ok(String::from_utf8_lossy(&output).into_owned());
    }
    let errors = errors.recv_timeout(ANSWER_WITHIN).unwrap_or_default();
    let errors = String::from_utf8_lossy(&errors);
    let last = errors.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message");
    let problem = format!("it ended with {status}: {last}");
    Err(if status.code().is_some() { not_python(problem) } else { silent(problem) })
}

/// Reads a pipe to its end on a thread of its own and keeps the beginning, so that a talkative
/// child is not blocked.
fn drain(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let Some(mut pipe) = pipe else { return };
        let mut kept = Vec::new();
        let read = pipe.by_ref().take(ANSWER_BYTES_MAX).read_to_end(&mut kept);
        if read.and_then(|_| io::copy(&mut pipe, &mut io::sink())).is_ok() {
            // Nobody listens any more after a timeout.
            let _ = sender.send(kept);
        }
    });
    receiver
}
