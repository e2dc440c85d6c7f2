//! Giving a new user namespace its ids.

use std::fs;
use std::io;
use std::process::Command;

use super::Error;
use super::ids::{IdLease, Source, find_tool};
use crate::protocol::{AGENT_ID, PROGRAM_ID};

const NO_MAP: &str = "unprivileged user namespaces may be switched off (sysctl \
                      kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns, \
                      user.max_user_namespaces)";

/// Maps the place's ids. The process waits and holds its pid until then.
pub(super) fn write(pid: u32, source: &Source, ids: &IdLease) -> Result<(), Error> {
    let failed = |step| move |source: io::Error| Error::Host { step, fix: Some(NO_MAP), source };
    match source {
        Source::Privileged => {
            let map = |agent: u32, program: u32| format!("{AGENT_ID} {agent} 1\n{PROGRAM_ID} {program} 1\n");
            fs::write(format!("/proc/{pid}/uid_map"), map(ids.agent.0, ids.program.0))
                .and_then(|()| fs::write(format!("/proc/{pid}/gid_map"), map(ids.agent.1, ids.program.1)))
                .map_err(failed("map the place's ids"))
        }
        Source::Subordinate => helper("newuidmap", pid, ids.agent.0, ids.program.0)
            .and_then(|()| helper("newgidmap", pid, ids.agent.1, ids.program.1))
            .map_err(failed("map the place's ids with newuidmap and newgidmap")),
        Source::Single => fs::write(format!("/proc/{pid}/setgroups"), "deny")
            .and_then(|()| {
                fs::write(format!("/proc/{pid}/uid_map"), format!("{AGENT_ID} {} 1\n", ids.agent.0))
            })
            .and_then(|()| {
                fs::write(format!("/proc/{pid}/gid_map"), format!("{AGENT_ID} {} 1\n", ids.agent.1))
            })
            .map_err(failed("map the user's own id")),
    }
}

fn helper(tool: &str, pid: u32, agent: u32, program: u32) -> io::Result<()> {
    let path = find_tool(tool).ok_or(io::ErrorKind::NotFound)?;
    let numbers = [pid, AGENT_ID, agent, 1, PROGRAM_ID, program, 1];
    let output = Command::new(path).args(numbers.map(|number| number.to_string())).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}
