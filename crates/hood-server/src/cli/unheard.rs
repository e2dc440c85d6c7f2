//! Settings that a command was given and that a server which runs already cannot hear: it was started
//! with its own. A flag is meant for this very command, and without its effect the command would do
//! something else than it was told: that is refused. Variables and files are for many programs at
//! once: of those it is said.

use super::connect::warn;
use super::failure::Failure;
use super::global::Global;
use crate::config::{Entry, Loaded, Origin};
use crate::roles::Endpoint;

/// Where everything is, and what this process itself logs.
const OURS: [&str; 3] = ["data_dir", "log.filter", "log.format"];

/// For a command that speaks to a server which it was named.
pub(super) fn elsewhere(global: &Global, address: &str) -> Result<(), Failure> {
    // The data directory has the server's key, where that is on this machine.
    let unheard = global.set.iter().filter(|(key, _)| key != "data_dir");
    let flags: Vec<String> = unheard.map(|(key, _)| format!("`--set {key}=…`")).collect();
    if flags.is_empty() {
        return Ok(());
    }
    let why = anyhow::anyhow!(
        "--server, or else the variable FUMEHOOD_SERVER, names {address}, and it goes by its own configuration"
    );
    Err(Failure::new(format!("{} would have no effect", flags.join(", ")))
        .because(why)
        .next("give it to that server when it starts, or leave --server out"))
}

/// For a command that speaks to the server that holds the data directory.
pub(super) fn here(global: &Global, loaded: &Loaded, server: &Endpoint) -> Result<(), Failure> {
    let address = server.address;
    let other: Vec<Unheard<'_>> = loaded
        .entries
        .iter()
        .filter(|entry| !OURS.contains(&entry.key.name))
        .filter_map(|entry| Unheard::look(entry, server))
        .collect();
    let dir = loaded.config.data_dir.display();
    let (flags, others): (Vec<_>, Vec<_>) =
        other.into_iter().partition(|unheard| matches!(unheard.entry.origin, Origin::Flag(_)));
    let spoken_to = format!("this command speaks to the server that holds {dir} (http://{address})");
    if flags.is_empty() {
        let given: Vec<String> =
            others.iter().filter(|unheard| unheard.was_given(global)).map(Unheard::to_string).collect();
        if !given.is_empty() {
            warn(&format!("without effect here: {}; {spoken_to}: restart that with it", given.join(", ")));
        }
        return Ok(());
    }
    let given: Vec<String> = flags.iter().map(Unheard::to_string).collect();
    Err(Failure::new(format!("settings would have no effect: {}", given.join(", ")))
        .because(anyhow::anyhow!("{spoken_to}, and that was started with its own"))
        .next("give it to that server when it starts, or name another directory with --data-dir"))
}

/// One that differs from the server's.
struct Unheard<'a> {
    entry: &'a Entry,
    theirs: Option<&'a str>,
}

impl<'a> Unheard<'a> {
    /// Where it cannot be known whether the server has the same, as with a secret, a flag is taken to
    /// differ, and nothing else is.
    fn look(entry: &'a Entry, server: &'a Endpoint) -> Option<Self> {
        let theirs = server.settings.get(entry.key.name).map(String::as_str);
        let differs = match &entry.origin {
            Origin::Flag(_) if !entry.is_shown_whole() => true,
            Origin::Flag(_) => theirs != Some(entry.shown().as_str()),
            _ => theirs.is_some_and(|theirs| theirs != entry.shown()),
        };
        differs.then_some(Self { entry, theirs })
    }

    /// Whether it was given with this command in mind, as far as one can tell: the usual file is there for
    /// everybody, and so are the variables of other programs.
    fn was_given(&self, global: &Global) -> bool {
        match &self.entry.origin {
            Origin::Default | Origin::Flag(_) => false,
            Origin::File { .. } => global.config.is_some(),
            Origin::Environment(name) => name.starts_with("FUMEHOOD_"),
        }
    }
}

impl std::fmt::Display for Unheard<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Entry { key, origin, .. } = self.entry;
        write!(f, "{} = {} ({origin}", key.name, self.entry.shown())?;
        match self.theirs {
            Some(theirs) if self.entry.is_shown_whole() => write!(f, "; the server has {theirs})"),
            _ => f.write_str(")"),
        }
    }
}
