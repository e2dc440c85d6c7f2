//! The program's starter: forked while the place is made, so that it can be put into the program's
//! cgroup before anything depends on it; later it writes the inputs on the program's account, gives
//! up every right, and becomes the program.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, BufReader, Write as _};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Component, Path};

use rustix::fs::Access;
use rustix::process::{Gid, Resource, Rlimit, Uid, setrlimit};
use rustix::thread::CapabilitySet;

use super::orders::{Lacking, Order, Outcome, Prepared, announcement, encode_failure, encode_lacking};
use super::{filters, interpreter, landlock, nest, privilege};
use crate::packets;
use crate::protocol::{Blueprint, PROGRAM_HERE, PROGRAM_ID};
use crate::sys::{self, Instruction};

/// Signals that may wait for the program at once, which the kernel also charges to its creator.
const PENDING_SIGNALS: u64 = 256;
/// Memory that it may lock.
const LOCKED_BYTES: u64 = 64 << 10;
/// How readily the kernel's global OOM killer takes it: before everything of the host.
const OOM_SCORE: &[u8] = b"1000";
/// Searched where the environment names no PATH, as execvp(3) does.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";
/// Directories of PATH that are searched: several times what any image names. All this is done before
/// the program's clock runs, and a PATH has room for sixty thousand.
pub const PATH_DIRECTORIES_MAX: usize = 64;

/// The starter's descriptors: its side of the command socket and of the program's pipes.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) command: OwnedFd,
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// A step that failed, ready to be told to the agent.
struct Failed {
    outcome: Outcome,
    errno: i32,
    detail: Vec<u8>,
}

trait Tell<T> {
    fn tell(self, outcome: Outcome, detail: impl AsRef<[u8]>) -> Result<T, Failed>;
}

impl<T, E: Into<io::Error>> Tell<T> for Result<T, E> {
    fn tell(self, outcome: Outcome, detail: impl AsRef<[u8]>) -> Result<T, Failed> {
        self.map_err(|error| Failed {
            outcome,
            errno: error.into().raw_os_error().unwrap_or(libc::EINVAL),
            detail: detail.as_ref().to_vec(),
        })
    }
}

/// Compiled before the program's time begins.
struct Filters {
    first: Vec<Instruction>,
    on_top: Option<Vec<Instruction>>,
}

/// Runs in the forked child and never returns: it becomes the program or ends.
pub(super) fn run(ends: Ends, setup: OwnedFd, blueprint: &Blueprint) -> ! {
    let mut command = File::from(ends.command);
    let pipes = (ends.stdin, ends.stdout, ends.stderr);
    if let Err(failed) = serve(&mut command, pipes, setup, blueprint) {
        // If the agent is gone, so is this process in a moment.
        let _ = command.write_all(&encode_failure(failed.outcome, failed.errno, &failed.detail));
    }
    sys::exit_now(70)
}

fn serve(
    command: &mut File,
    (stdin, stdout, stderr): (OwnedFd, OwnedFd, OwnedFd),
    setup: OwnedFd,
    blueprint: &Blueprint,
) -> Result<(), Failed> {
    let setting_up = Outcome::Setup;
    sys::reset_signals();
    rustix::stdio::dup2_stdin(&stdin).tell(setting_up, "connect stdin")?;
    rustix::stdio::dup2_stdout(&stdout).tell(setting_up, "connect stdout")?;
    rustix::stdio::dup2_stderr(&stderr).tell(setting_up, "connect stderr")?;
    std::fs::write("/proc/self/oom_score_adj", OOM_SCORE)
        .tell(setting_up, "offer itself to the OOM killer")?;
    packets::send(&setup, &[PROGRAM_HERE], &[]).tell(setting_up, "show itself")?;
    drop((setup, stdin, stdout, stderr));
    let mut orders = BufReader::new(command.try_clone().tell(setting_up, "read orders")?);
    let mut placed = [0];
    io::Read::read_exact(&mut orders, &mut placed).tell(setting_up, "await its cgroup")?;
    if blueprint.single_id {
        nest::enter(command).map_err(|failed| failed.source).tell(setting_up, "nest the program")?;
    } else {
        sys::unshare(own_namespaces(blueprint)).tell(setting_up, "enter namespaces of its own")?;
    }
    privilege::keep(CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::SETPCAP)
        .tell(setting_up, "drop the starter's capabilities")?;
    let filters =
        Filters { first: filters::for_program(blueprint.calls), on_top: filters::on_top(blueprint.calls) };
    if !blueprint.single_id {
        command.write_all(&[0]).tell(setting_up, "say that it is ready")?;
    }
    let run = receive_inputs(&mut orders, blueprint)?;
    drop(orders);
    become_program(command, &run, &filters, blueprint)
}

/// What a starter enters by itself, in the place's user namespace.
const fn own_namespaces(blueprint: &Blueprint) -> libc::c_int {
    // From the program's leaf, so that this is what the program takes for the root of all cgroups.
    let cgroup = libc::CLONE_NEWCGROUP;
    // Segments, semaphores and queues outlive whoever made them and end with their namespace: those of a
    // build end with its last process, and its program never sees them.
    if blueprint.builds { cgroup | libc::CLONE_NEWIPC } else { cgroup }
}

/// Takes orders until it is told to go. Files are written with the program's ids and in its cgroup.
fn receive_inputs(orders: &mut BufReader<File>, blueprint: &Blueprint) -> Result<Prepared, Failed> {
    let mut run = Prepared::default();
    let mut file: Option<(File, Vec<u8>)> = None;
    if !blueprint.single_id {
        sys::set_file_ids(PROGRAM_ID, PROGRAM_ID).tell(Outcome::Setup, "write as the program's user")?;
    }
    loop {
        match Order::read(orders).tell(Outcome::Setup, "read orders")? {
            Order::Run(given) => run = given,
            Order::File { path, executable } => {
                let opened = create(&path, executable).tell(Outcome::Inputs, &path)?;
                file = Some((opened, path));
            }
            Order::Data(bytes) => {
                let Some((file, path)) = &mut file else {
                    return Err(io::Error::from(io::ErrorKind::InvalidInput)).tell(Outcome::Inputs, "");
                };
                file.write_all(&bytes).tell(Outcome::Inputs, path)?;
            }
            Order::Go => return Ok(run),
        }
    }
}

/// Opens a new file beneath `/eval`. Nothing of the program runs yet, so the path means what it
/// says; it is checked all the same, for it came over the link.
fn create(path: &[u8], executable: bool) -> io::Result<File> {
    let relative = Path::new(std::ffi::OsStr::from_bytes(path));
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || !plain || path.ends_with(b"/") {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let absolute = Path::new("/eval").join(relative);
    if let Some(parent) = absolute.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    let mode = if executable { 0o755 } else { 0o644 };
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .custom_flags(libc::O_NOFOLLOW)
        .open(absolute)
}

/// The order is that of docs/sandbox.md; each step relies on the ones before it.
fn become_program(
    command: &mut File,
    run: &Prepared,
    filters: &Filters,
    blueprint: &Blueprint,
) -> Result<(), Failed> {
    let setting_up = Outcome::Setup;
    rustix::process::setsid().tell(setting_up, "begin a session")?;
    limit(run, blueprint).tell(setting_up, "set resource limits")?;
    if !blueprint.single_id {
        change_ids().tell(setting_up, "become the program's user")?;
    }
    privilege::keep(CapabilitySet::SETPCAP).tell(setting_up, "raise what empties the bounding set")?;
    sys::empty_bounding_set().tell(setting_up, "empty the bounding set")?;
    privilege::keep(CapabilitySet::empty()).tell(setting_up, "drop all capabilities")?;
    rustix::thread::set_no_new_privs(true).tell(setting_up, "renounce new privileges")?;
    sys::close_all_but(command.as_raw_fd()).tell(setting_up, "close descriptors")?;
    rustix::process::chdir(run.cwd.as_c_str()).tell(Outcome::Cwd, run.cwd.as_bytes())?;
    // With the program's own rights, and not more than one is ever given to execve, which copies all
    // arguments and the whole environment before it finds out that it cannot go on.
    let path = find(run)?;
    landlock::confine().tell(setting_up, "install the Landlock rules")?;
    let listener =
        sys::install_filter_with_listener(&filters.first).tell(setting_up, "install the seccomp filter")?;
    // The listener goes to the agent with the announcement; this process's copy ends at exec.
    packets::send(&*command, &announcement(), &[listener.as_fd()])
        .tell(setting_up, "announce the program")?;
    if let Some(filter) = &filters.on_top {
        sys::install_filter(filter).tell(setting_up, "install the least filter")?;
    }
    let error = sys::execute(&path, &run.argv, &run.env);
    // Any other answer is about something else, as arguments that are too long.
    let is_about_a_file = matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::EACCES));
    let lacking = is_about_a_file.then(|| interpreter::lacking(&path)).flatten();
    Err(not_executed(run, error, lacking.as_ref()))
}

fn not_executed(run: &Prepared, error: io::Error, lacking: Option<&Lacking>) -> Failed {
    let name = run.argv.first().map(|name| name.as_bytes()).unwrap_or_default();
    let detail = [name, &lacking.map(encode_lacking).unwrap_or_default()].concat();
    let errno = match error.raw_os_error() {
        // A path that leads through a file leads nowhere: what it names is as missing as any.
        Some(libc::ENOTDIR) => libc::ENOENT,
        errno => errno.unwrap_or(libc::EINVAL),
    };
    Failed { outcome: Outcome::Exec, errno, detail }
}

fn limit(run: &Prepared, blueprint: &Blueprint) -> io::Result<()> {
    let set = |resource, value| setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) });
    set(Resource::Nofile, run.open_files)?;
    set(Resource::Fsize, run.file_bytes)?;
    // With a piped core_pattern the kernel runs the host's crash handler even at 0; 1 keeps it out.
    set(Resource::Core, u64::from(blueprint.core_piped))?;
    set(Resource::Sigpending, PENDING_SIGNALS)?;
    set(Resource::Msgqueue, 0)?;
    set(Resource::Memlock, LOCKED_BYTES)?;
    set(Resource::Rtprio, 0)?;
    set(Resource::Nice, 0)?;
    if let Some(processes) = run.processes {
        set(Resource::Nproc, processes)?;
    }
    if let Some(bytes) = run.memory_bytes {
        // A bar behind the agent's sampling, not before it: what crosses the bound should be seen
        // to, and end as out of memory, before allocations fail.
        set(Resource::Data, bytes.saturating_mul(2))?;
    }
    Ok(())
}

fn change_ids() -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(PROGRAM_ID), Gid::from_raw(PROGRAM_ID));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(Some(gid), Some(gid), Some(gid))?;
    // What is permitted survives the change of user, as one more step needs a capability.
    rustix::thread::set_keep_capabilities(true)?;
    rustix::thread::set_thread_res_uid(Some(uid), Some(uid), Some(uid))?;
    Ok(rustix::thread::set_keep_capabilities(false)?)
}

/// Where the program lies: as a shell finds it, the first file on its own PATH that may be executed.
fn find(run: &Prepared) -> Result<CString, Failed> {
    let missing = || io::Error::from_raw_os_error(libc::ENOENT);
    let Some(name) = run.argv.first() else { return Err(not_executed(run, missing(), None)) };
    if name.as_bytes().contains(&b'/') {
        return Ok(name.clone());
    }
    let path = run.env.iter().find_map(|pair| pair.as_bytes().strip_prefix(b"PATH="));
    let mut directories = path.unwrap_or(DEFAULT_PATH).split(|byte| *byte == b':');
    let mut worst = missing();
    for directory in directories.by_ref().take(PATH_DIRECTORIES_MAX) {
        let directory = if directory.is_empty() { b"." } else { directory };
        let Ok(candidate) = CString::new([directory, b"/", name.as_bytes()].concat()) else { continue };
        match rustix::fs::access(&candidate, Access::EXEC_OK) {
            Ok(()) if interpreter::is_directory(&candidate) => {}
            Ok(()) => return Ok(candidate),
            // That a file may not be executed says more than that another is missing.
            Err(refused) if refused == rustix::io::Errno::ACCESS => worst = refused.into(),
            Err(_) => {}
        }
    }
    let rest = directories.next().map(|_| Lacking::Unsearched);
    Err(not_executed(run, worst, rest.as_ref()))
}
