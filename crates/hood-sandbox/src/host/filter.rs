//! Starting a process that only turns bytes into bytes.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use super::Error;
use super::launcher::sealed;
use crate::sys;

/// Executes a binary from memory that confines itself with [`become_filter`] before it reads
/// `input`: its standard output is piped, and it inherits nothing else.
///
/// [`become_filter`]: crate::inside::become_filter
///
/// # Errors
/// It cannot be started.
pub fn start_filter(binary: &[u8], argument: &str, input: File) -> Result<Child, Error> {
    let executable = sealed(binary).map_err(Error::host("seal an executable in memory"))?;
    let mut command = Command::new(format!("/proc/self/fd/{}", executable.as_raw_fd()));
    command
        .arg0("hood-filter")
        .arg(argument)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(input))
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    sys::keep_only(&mut command, [executable.as_raw_fd(); 2]);
    command.spawn().map_err(Error::host("execute a filter"))
}
