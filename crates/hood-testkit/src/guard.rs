//! Whoever cleans up after a test process that may be killed: a shell that waits for the end of its
//! input, which comes when the last holder of the pipe is gone, and then ends the service and removes
//! its directory.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// `$1` is the directory, `$2` the file in it whose first line is the service's process id. The
/// service is a child of nobody here, so that its end is looked for.
const SCRIPT: &str = r#"
read -r _
pid=$(head -n 1 "$1/$2" 2>/dev/null)
if [ -n "$pid" ]; then
  kill -CONT "$pid" 2>/dev/null
  kill -QUIT "$pid" 2>/dev/null
  for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "$pid" 2>/dev/null
fi
rm -rf "$1"
"#;

/// Dropping it is what the end of the process is: the service ends and its directory goes.
#[derive(Debug)]
pub(crate) struct Guard {
    shell: Child,
}

impl Guard {
    pub(crate) fn over(dir: &Path, pid_file: &str) -> io::Result<Self> {
        let shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "guard"])
            .arg(dir)
            .arg(pid_file)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Not in reach of a terminal's Ctrl-C, after which there is the most to clean up.
            .process_group(0)
            .spawn()?;
        Ok(Self { shell })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        // It ends by itself; that it did is no business of whoever drops it.
        let _ = self.shell.wait();
    }
}
