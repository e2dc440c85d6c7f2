//! A network of the run's own: this process is in one namespace with a bridge, each party in another,
//! and between any two of them packets can be made to vanish. Nothing of it outlives the run, since a
//! namespace ends with its last process.

use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

const BRIDGE: &str = "switch";
/// In each party's namespace, the end of its wire.
const WIRE: &str = "wire";
/// Of the bridge. The parties count on from it.
const FIRST: [u8; 4] = [10, 77, 0, 1];
/// Nobody's: what is sent to it is heard by nobody.
const NOBODY: &str = "02:00:00:00:00:01";

/// How long a namespace may take to come about.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(2);

/// The flag that says that this process is in its own network already.
pub(crate) const INSIDE: &str = "--inside-own-network";

/// Starts this program again in a network of its own. Returns only where that fails.
pub(crate) fn enter() -> anyhow::Error {
    let again = || -> anyhow::Result<std::io::Error> {
        let own = std::env::current_exe().context("find this program")?;
        let mut command = Command::new("unshare");
        command.args(["--net", "--"]).arg(own).args(std::env::args_os().skip(1)).arg(INSIDE);
        Ok(command.exec())
    };
    match again() {
        Ok(error) => anyhow::Error::new(error).context("enter a network namespace (it takes root)"),
        Err(error) => error,
    }
}

#[derive(Debug, Default)]
pub(crate) struct Network {
    parties: Vec<Party>,
}

#[derive(Debug)]
struct Party {
    address: Ipv4Addr,
    /// Keeps the namespace, and dies with this process.
    holder: Child,
}

impl Network {
    /// The bridge. This process must be in a namespace of its own.
    pub(crate) fn make() -> anyhow::Result<Self> {
        ip(&["link", "set", "lo", "up"])?;
        ip(&["link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["addr", "add", &format!("{}/24", Ipv4Addr::from(FIRST)), "dev", BRIDGE])?;
        ip(&["link", "set", BRIDGE, "up"])?;
        Ok(Self::default())
    }

    /// Another party: its number, its address, and what a command begins with that is to run there.
    pub(crate) fn party(&mut self) -> anyhow::Result<(usize, Ipv4Addr, Vec<String>)> {
        let number = self.parties.len();
        let [a, b, c, d] = FIRST;
        let last = u8::try_from(number).ok().and_then(|number| d.checked_add(1)?.checked_add(number));
        let address = Ipv4Addr::new(a, b, c, last.context("too many parties")?);
        let mut holder = Command::new("setpriv");
        holder.args(["--pdeathsig", "KILL", "--", "unshare", "--net", "--", "sleep", "infinity"]);
        let holder = holder.stdin(Stdio::null()).spawn().context("make a network namespace")?;
        let pid = holder.id();
        self.parties.push(Party { address, holder });
        until_apart(pid)?;
        let port = format!("port{number}");
        ip(&["link", "add", &port, "type", "veth", "peer", "name", WIRE, "netns", &pid.to_string()])?;
        ip(&["link", "set", &port, "master", BRIDGE, "up"])?;
        let prefix = within(pid);
        for line in [
            vec!["link", "set", "lo", "up"],
            vec!["addr", "add", &format!("{address}/24"), "dev", WIRE],
            vec!["link", "set", WIRE, "up"],
        ] {
            run(&prefix, &line)?;
        }
        Ok((number, address, prefix))
    }

    /// Whatever either sends the other vanishes, without a word to anybody, on open connections too.
    pub(crate) fn cut(&self, one: usize, other: usize) -> anyhow::Result<()> {
        self.both(one, other, |address| {
            let words = ["neigh", "replace", address, "lladdr", NOBODY, "nud", "permanent", "dev", WIRE];
            words.map(str::to_owned).to_vec()
        })
    }

    pub(crate) fn mend(&self, one: usize, other: usize) -> anyhow::Result<()> {
        self.both(one, other, |address| ["neigh", "del", address, "dev", WIRE].map(str::to_owned).to_vec())
    }

    fn both(&self, one: usize, other: usize, words: impl Fn(&str) -> Vec<String>) -> anyhow::Result<()> {
        let (Some(one), Some(other)) = (self.parties.get(one), self.parties.get(other)) else {
            bail!("there are no such parties: {one} and {other}");
        };
        for (at, to) in [(one, other), (other, one)] {
            let words = words(&to.address.to_string());
            run(&within(at.holder.id()), &words.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// `ip netns exec` would hide the control groups' mounts.
fn within(pid: u32) -> Vec<String> {
    ["nsenter".to_owned(), format!("--net=/proc/{pid}/ns/net"), "--".to_owned()].to_vec()
}

/// Until the holder has left this process's namespace, which happens just before it sleeps.
fn until_apart(pid: u32) -> anyhow::Result<()> {
    let of = |who: &str| std::fs::read_link(PathBuf::from(format!("/proc/{who}/ns/net")));
    let own = of("self").context("look at this process's namespace")?;
    let deadline = Instant::now() + PATIENCE;
    while of(&pid.to_string()).context("look at a namespace")? == own {
        if Instant::now() > deadline {
            bail!("no network namespace came about");
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

fn ip(words: &[&str]) -> anyhow::Result<()> {
    run(&[], words)
}

fn run(prefix: &[String], words: &[&str]) -> anyhow::Result<()> {
    let mut whole: Vec<&str> = prefix.iter().map(String::as_str).collect();
    whole.push("ip");
    whole.extend(words);
    let output = Command::new(whole[0]).args(&whole[1..]).output().context("run ip (package iproute2)")?;
    if !output.status.success() {
        bail!("{}: {}", whole.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
