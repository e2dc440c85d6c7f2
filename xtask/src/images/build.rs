//! The programs that the images hold: static, and the same bytes wherever the sources lie.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde::Deserialize;

pub(super) const MUSL: &str = "x86_64-unknown-linux-musl";

/// Of everything in an image, its programs' own words included: 2 January 1980, in seconds since 1970.
const TIME: &str = "315619200";

/// Where they were built.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) server: PathBuf,
    /// The very file that the server carries.
    pub(super) agent: PathBuf,
}

/// What cargo says of its work, as far as it tells where things are.
#[derive(Deserialize)]
struct Message {
    reason: String,
    package_id: Option<String>,
    executable: Option<PathBuf>,
    out_dir: Option<PathBuf>,
}

pub(super) fn server(root: &Path, profile: &str) -> anyhow::Result<Built> {
    let home = cargo_home()?;
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
    let places = [(root, "/fumehood"), (home.as_path(), "/cargo"), (target.as_path(), "/target")];
    // Whatever the environment asks for, so that two who build get the same. Of several that fit, the last counts.
    let rust: Vec<String> =
        places.iter().map(|(at, name)| format!("--remap-path-prefix={}={name}", at.display())).collect();
    let c: Vec<String> =
        places.iter().map(|(at, name)| format!("-ffile-prefix-map={}={name}", at.display())).collect();
    let output = Command::new(env!("CARGO"))
        .args(["rustc", "--locked", "--quiet", "--package", "hood-server", "--bin", "fumehood"])
        .args(["--profile", profile, "--target", MUSL, "--message-format", "json-render-diagnostics"])
        // As `release` does it, whatever the profile.
        // The linker's id would be of what is stripped too, and that has lines of generated code with their paths.
        .args(["--", "-Cstrip=debuginfo", "-Clink-arg=-Wl,--build-id=none"])
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", rust.join("\x1f"))
        // What the C compiler says that the time is.
        .env("SOURCE_DATE_EPOCH", TIME)
        .env(format!("CFLAGS_{}", MUSL.replace('-', "_")), c.join(" "))
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .context("run cargo")?;
    if !output.status.success() {
        bail!("the server does not build for {MUSL}; scripts/setup installs what that needs");
    }
    let said = String::from_utf8(output.stdout).context("read what cargo says")?;
    let messages = said.lines().map(serde_json::from_str::<Message>).collect::<Result<Vec<_>, _>>();
    let (mut server, mut agent) = (None, None);
    for message in messages.context("read what cargo says")? {
        let of = |name: &str| message.package_id.as_deref().is_some_and(|id| id.contains(name));
        match message.reason.as_str() {
            "compiler-artifact" if of("hood-server") => server = message.executable.or(server),
            "build-script-executed" if of("hood-dispatch") => agent = message.out_dir.or(agent),
            _ => {}
        }
    }
    let server = server.context("cargo does not say where the server is")?;
    let agent = agent.context("cargo does not say where the agent is")?.join("hood-agent");
    Ok(Built { server, agent })
}

/// Where the sources of other people's crates lie.
fn cargo_home() -> anyhow::Result<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    home.context("neither CARGO_HOME nor HOME is set")
}

/// Of the compiler, whose library is in every program.
pub(super) fn rust_version(root: &Path) -> anyhow::Result<String> {
    let output = Command::new("rustc").arg("--version").current_dir(root).output().context("run rustc")?;
    let said = String::from_utf8_lossy(&output.stdout);
    // `rustc 1.95.0 (…)`
    said.split(' ').nth(1).map(str::to_owned).with_context(|| format!("rustc says of itself: {said}"))
}
