//! What code can run in here: the images that were made from declarations or imported.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Context as _;
use hood_dispatch::environment::{Library, Options, Sources, Workshop};
use hood_dispatch::local::{Local, LocalConfig};
use hood_sandbox::IdRange;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use super::data_dir::make_private;
use super::declarations::declarations;
use crate::config::Config;

/// How long killed places may take to be proven dead at the end.
const BURIAL_PATIENCE: Duration = Duration::from_secs(10);

/// The library of this data directory. Any number of processes may have it open.
pub fn open_library(config: &Config) -> anyhow::Result<Library> {
    make_private(&config.data_dir)?;
    let declarations = declarations(config)?;
    let options = Options { sources: sources(config), ..Options::default() };
    Ok(Library::open_with(&config.environments.images_dir, declarations, options)?)
}

/// Places that builds outside of a server run in, with records of their own: made when a build first
/// needs one, because an image that looks ready may turn out damaged, and is then built anew.
#[derive(Debug)]
pub struct BuildPlaces {
    config: Config,
    /// The library has this.
    library: Weak<Library>,
    runtime: Handle,
    made: Mutex<Option<Made>>,
}

#[derive(Debug)]
struct Made {
    local: Local,
    workshop: Arc<dyn Workshop>,
    state_dir: PathBuf,
}

impl BuildPlaces {
    /// Gives a library somewhere to run its builds. Must be called within a runtime.
    pub fn promise(config: Config, library: &Arc<Library>) -> Arc<Self> {
        let (made, runtime) = (Mutex::default(), Handle::current());
        let places = Arc::new(Self { config, library: Arc::downgrade(library), runtime, made });
        library.set_workshop(Arc::<Self>::clone(&places));
        places
    }

    /// Makes them, if they are not there. Those that killed commands left behind are buried.
    pub async fn make(&self) -> anyhow::Result<Arc<dyn Workshop>> {
        let mut made = self.made.lock().await;
        if let Some(made) = made.as_ref() {
            return Ok(Arc::clone(&made.workshop));
        }
        let library = self.library.upgrade().context("nobody has the images open any more")?;
        let fresh = Made::start(&self.config, library).await?;
        let workshop = Arc::clone(&fresh.workshop);
        *made = Some(fresh);
        Ok(workshop)
    }

    /// Ends them, and leaves nothing.
    pub async fn end(&self) {
        if let Some(Made { local, state_dir, .. }) = self.made.lock().await.take() {
            local.shut_down(BURIAL_PATIENCE).await;
            drop(local);
            // What cannot be removed now is looked at by the next build.
            let _ = std::fs::remove_dir_all(state_dir);
        }
    }
}

impl Workshop for BuildPlaces {
    fn run(&self, root: &Path, argv: &[&str], stdin: Vec<u8>) -> Result<Vec<u8>, String> {
        let workshop = self
            .runtime
            .block_on(self.make())
            .map_err(|error| format!("{error:#}; `fumehood doctor` says what this host lacks"))?;
        workshop.run(root, argv, stdin)
    }
}

impl Made {
    async fn start(config: &Config, library: Arc<Library>) -> anyhow::Result<Self> {
        let parent = config.data_dir.join("sandbox-build");
        let state_dir = parent.join(std::process::id().to_string());
        let local = LocalConfig {
            state_dir: state_dir.clone(),
            ids: config.sandbox.id_range.map(|range| IdRange { first: range.first, pairs: range.count / 2 }),
            cgroup_parent: config.sandbox.cgroup_parent.clone(),
            places: 1,
            stock: 0,
            memory_bytes_max: config.sandbox.memory_bytes_max,
        };
        let started = tokio::task::spawn_blocking(move || {
            bury_the_dead(&parent)?;
            std::fs::create_dir_all(&local.state_dir)?;
            anyhow::Ok(Local::start(local, library)?.0)
        });
        let local = started.await?.context("cannot start the sandbox that builds run in")?;
        Ok(Self { workshop: local.workshop(), local, state_dir })
    }
}

/// Records of commands that are gone.
fn bury_the_dead(parent: &Path) -> anyhow::Result<()> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        let pid = path.file_name().unwrap_or_default();
        if !Path::new("/proc").join(pid).exists() {
            hood_sandbox::bury_leftovers(&path)?;
            std::fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

/// Where packages come from.
pub fn sources(config: &Config) -> Sources {
    Sources { debian: config.environments.debian_repositories.clone(), ..Sources::default() }
}
