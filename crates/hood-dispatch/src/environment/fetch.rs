//! Packages on their way here: by the ordinary clients of their registries, each held against its
//! hash, kept in the library's directory under that hash.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::FlockOperation;
use sha2::{Digest as _, Sha256};

use super::error::EnvironmentError;
use super::library::files::{clear, lock_file};
use super::lock::{Deb, Wheel};

/// Of what a client said when it failed, this much is repeated.
const REASON_BYTES_MAX: usize = 600;

const CHUNK_BYTES: usize = 256 * 1024;

/// The largest wheel: several times the largest that is known, CUDA's.
const WHEEL_BYTES_MAX: u64 = 4 << 30;

/// What is not whole yet is called that, and its hash.
pub(super) const PARTIAL: &str = "partial-";

/// Where packages come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// Debian repositories, in the order in which they are asked; empty: those of this host's apt.
    pub debian: Vec<String>,
    /// What runs pip: its own configuration says where packages are.
    pub pip: Vec<String>,
    /// apt's client for single files.
    pub apt_helper: PathBuf,
}

impl Default for Sources {
    fn default() -> Self {
        Self {
            debian: Vec::new(),
            pip: ["python3", "-m", "pip"].map(str::to_owned).to_vec(),
            apt_helper: PathBuf::from("/usr/lib/apt/apt-helper"),
        }
    }
}

/// Packages that are here, each a file named by its hash.
#[derive(Debug)]
pub(super) struct Downloads<'a> {
    pub(super) dir: &'a Path,
    /// Where whoever downloads a package says so.
    pub(super) locks: &'a Path,
    pub(super) sources: &'a Sources,
}

impl Downloads<'_> {
    /// The repositories to ask, for a build that will ask often.
    pub(super) fn repositories(&self) -> Result<Vec<String>, EnvironmentError> {
        if !self.sources.debian.is_empty() {
            return Ok(self.sources.debian.clone());
        }
        let mut apt = Command::new("apt-get");
        apt.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]);
        let listed = output(apt, "apt-get").map_err(|why| EnvironmentError::Fetch {
            what: "this host's Debian repositories".to_owned(),
            why: format!("{why}; install apt, or name repositories in environments.debian_repositories"),
        })?;
        let mut repositories: Vec<String> = listed.lines().map(str::to_owned).collect();
        repositories.dedup();
        Ok(repositories)
    }

    /// One that was cut short is gone on with: the client asks for the rest of what lies there.
    pub(super) fn deb(&self, deb: &Deb, repositories: &[String]) -> Result<File, EnvironmentError> {
        let _turn = self.turn(&deb.sha256)?;
        if let Some(file) = self.kept(&deb.sha256)? {
            return Ok(file);
        }
        let name = format!("{} {}", deb.name, deb.version);
        let partial = self.partial(&deb.sha256);
        let mut why = "no repository is named".to_owned();
        for repository in repositories {
            let begun = fs::metadata(&partial).map_or(0, |meta| meta.len());
            if begun > deb.size {
                clear(&partial)?;
            }
            match self.fetch_deb(deb, repository, &partial) {
                Ok(()) => {}
                Err(said) => {
                    why = said;
                    continue;
                }
            }
            match self.keep(&partial, &deb.sha256, &name) {
                // What lay there was no beginning of it.
                Err(EnvironmentError::WrongHash { .. }) if begun > 0 => {
                    if let Err(said) = self.fetch_deb(deb, repository, &partial) {
                        why = said;
                        continue;
                    }
                    return self.keep(&partial, &deb.sha256, &name);
                }
                other => return other,
            }
        }
        let why = format!(
            "no repository has it ({why}); a newer one may have taken its place: `fumehood env lock`"
        );
        Err(EnvironmentError::Fetch { what: name, why })
    }

    fn fetch_deb(&self, deb: &Deb, repository: &str, to: &Path) -> Result<(), String> {
        let url = format!("{}/{}", repository.trim_end_matches('/'), escape(&deb.path));
        let mut helper = Command::new(&self.sources.apt_helper);
        helper.arg("download-file").arg(url).arg(to);
        bounded(&helper, "apt-helper", deb.size).map(drop)
    }

    /// pip goes on with nothing that was cut short: a wheel is fetched whole.
    pub(super) fn wheel(&self, wheel: &Wheel, python: &str) -> Result<File, EnvironmentError> {
        let _turn = self.turn(&wheel.sha256)?;
        if let Some(file) = self.kept(&wheel.sha256)? {
            return Ok(file);
        }
        let name = format!("{} {}", wheel.name, wheel.version);
        let failed = |why: String| EnvironmentError::Fetch { what: name.clone(), why };
        let partial = Scratch(self.partial(&wheel.sha256));
        clear(&partial.0)?;
        fs::create_dir(&partial.0).map_err(EnvironmentError::io("make", &partial.0))?;
        let wanted = partial.0.join("requirements.txt");
        let line = format!("{}=={} --hash=sha256:{}\n", wheel.name, wheel.version, wheel.sha256);
        fs::write(&wanted, line).map_err(EnvironmentError::io("write", &wanted))?;
        let mut pip = pip(self.sources);
        pip.args(["download", "--quiet", "--no-deps", "--require-hashes", "--no-cache-dir"]);
        pip.args(PIP_TARGET).args(["--python-version", python]);
        pip.arg("--dest").arg(&partial.0).arg("--requirement").arg(&wanted);
        let fetched = bounded(&pip, "pip", WHEEL_BYTES_MAX);
        fetched.map_err(|why| failed(format!("{why}; it needs pip (apt install python3-pip)")))?;
        self.keep(&partial.0.join(&wheel.file), &wheel.sha256, &name)
    }

    /// One that is here already and still is what it was.
    fn kept(&self, sha256: &str) -> Result<Option<File>, EnvironmentError> {
        let path = self.dir.join(sha256);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(EnvironmentError::io("read", path)(error)),
        };
        if hash(&mut file).map_err(EnvironmentError::io("read", &path))? == sha256 {
            return Ok(Some(file));
        }
        clear(&path)?;
        Ok(None)
    }

    /// Takes a file into the store, if it is what was asked for.
    fn keep(&self, from: &Path, sha256: &str, name: &str) -> Result<File, EnvironmentError> {
        let mut file = File::open(from).map_err(EnvironmentError::io("read", from))?;
        let found = hash(&mut file).map_err(EnvironmentError::io("read", from))?;
        if found != sha256 {
            clear(from)?;
            let wanted = sha256.to_owned();
            return Err(EnvironmentError::WrongHash { what: name.to_owned(), wanted, found });
        }
        let to = self.dir.join(sha256);
        fs::rename(from, &to).map_err(EnvironmentError::io("move", from))?;
        Ok(file)
    }

    fn partial(&self, sha256: &str) -> PathBuf {
        self.dir.join(format!("{PARTIAL}{sha256}"))
    }

    /// Waits until nobody else downloads it, in this process or another.
    fn turn(&self, sha256: &str) -> Result<File, EnvironmentError> {
        let path = self.locks.join(format!("download-{sha256}"));
        let lock = lock_file(&path)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)
            .map_err(|error| EnvironmentError::io("lock", &path)(error.into()))?;
        Ok(lock)
    }
}

/// Where a client works; gone when this is.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now goes with the next clear-up.
        let _ = clear(&self.0);
    }
}

/// Wheels for these machines and no others, whatever this one is: what is locked is the same anywhere.
pub(super) const PIP_TARGET: [&str; 9] = [
    "--only-binary=:all:",
    "--implementation=cp",
    "--platform=manylinux_2_36_x86_64",
    "--platform=manylinux_2_34_x86_64",
    "--platform=manylinux_2_28_x86_64",
    "--platform=manylinux_2_27_x86_64",
    "--platform=manylinux_2_17_x86_64",
    "--platform=manylinux2014_x86_64",
    "--platform=linux_x86_64",
];

pub(super) fn pip(sources: &Sources) -> Command {
    let mut words = sources.pip.iter();
    let mut command = Command::new(words.next().map_or("pip", String::as_str));
    // A version manager's choice is the host's, not the current directory's.
    command.args(words).current_dir("/");
    command
}

/// As [`output`]; it can write no file that is longer, to the block, whatever it is sent.
fn bounded(command: &Command, name: &str, file_bytes: u64) -> Result<String, String> {
    const BLOCK_BYTES: u64 = 512;
    // The limit must be there before the client is: a shell sets it and becomes the client.
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "ulimit -f \"$0\" && exec \"$@\""]).arg(file_bytes.div_ceil(BLOCK_BYTES).to_string());
    shell.arg(command.get_program()).args(command.get_args());
    if let Some(dir) = command.get_current_dir() {
        shell.current_dir(dir);
    }
    output(shell, name)
}

/// Runs a client and gives what it said, or why it failed.
pub(super) fn output(mut command: Command, name: &str) -> Result<String, String> {
    let run = command.stdin(Stdio::null()).env("LC_ALL", "C.UTF-8").output();
    let output = run.map_err(|error| format!("{name} cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = [output.stderr, output.stdout].concat();
    let said = String::from_utf8_lossy(&said);
    let mut lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.sort_by_key(|line| !line.trim_start().to_ascii_lowercase().starts_with("err"));
    let mut reason = lines.join(" / ");
    reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
    Err(format!("{name} failed: {reason}"))
}

/// Of the whole file, which stands at its beginning after.
fn hash(file: &mut File) -> io::Result<String> {
    file.rewind()?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
    }
    file.rewind()?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What a path has that a URL would read otherwise.
fn escape(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-._".contains(c);
    path.chars().map(|c| if plain(c) { c.to_string() } else { format!("%{:02x}", u32::from(c)) }).collect()
}
