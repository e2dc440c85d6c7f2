//! Fumehood's own container images: the server, and the agent. Each holds one program, what that needs
//! to start, and nothing else.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use hood_image::{Component, ImageConfig, Recipe, Source, bill_of_materials, export};

/// Nobody's, and not root.
const USER: &str = "65532:65532";
const DATA_DIR: &str = "/var/lib/fumehood";
const MUSL: &str = "x86_64-unknown-linux-musl";

/// Writes `fumehood.tar` and `hood-agent.tar` into `to`, each with a list of what it is made of.
pub(crate) fn write(root: &Path, server: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    let mut files = vec![("usr/bin/fumehood".to_owned(), read(server)?)];
    for library in libraries(server)? {
        let name = library.to_string_lossy().trim_start_matches('/').to_owned();
        files.push((name, read(&library)?));
    }
    let config = ImageConfig {
        entrypoint: vec!["/usr/bin/fumehood".to_owned()],
        cmd: vec!["serve".to_owned()],
        env: vec![("FUMEHOOD_DATA_DIR".to_owned(), DATA_DIR.to_owned())],
        user: USER.to_owned(),
        workdir: "/".to_owned(),
        ..ImageConfig::default()
    };
    let crates = crates(root, &["-p", "hood-server"])?;
    image(to, "fumehood", (files, config), &crates)?;
    let agent = build_agent(root)?;
    let config = ImageConfig {
        entrypoint: vec!["/hood-agent".to_owned()],
        user: USER.to_owned(),
        ..ImageConfig::default()
    };
    let crates = self::crates(root, &["-p", "hood-agent", "--target", MUSL])?;
    image(to, "hood-agent", (vec![("hood-agent".to_owned(), read(&agent)?)], config), &crates)
}

fn image(
    to: &Path,
    name: &str,
    (files, config): (Vec<(String, Vec<u8>)>, ImageConfig),
    components: &[Component],
) -> anyhow::Result<()> {
    let layers = vec![Source::Programs(files)];
    let recipe = Recipe { layers, config, reference: format!("{name}:{}", env!("CARGO_PKG_VERSION")) };
    let path = to.join(format!("{name}.tar"));
    let spool_path = to.join(format!("{name}.layers"));
    let spool = File::options().read(true).write(true).create(true).truncate(true).open(&spool_path)?;
    // Open, it needs no name.
    fs::remove_file(&spool_path)?;
    let file = File::create(&path).with_context(|| format!("make {}", path.display()))?;
    let exported = export(&recipe, file, spool)?;
    let bill = bill_of_materials(name, &exported.digest.to_string(), components);
    let text = serde_json::to_string_pretty(&bill).context("write the bill of materials")? + "\n";
    fs::write(to.join(format!("{name}.tar.cdx.json")), text)?;
    println!(
        "{} {} ({} bytes, {} crates)",
        path.display(),
        exported.digest,
        exported.bytes,
        components.len()
    );
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// The shared objects that a program needs, its loader among them; none where it is static.
fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("run ldd")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let mut found: Vec<PathBuf> = said
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from))
        .collect();
    if said.contains("not found") {
        bail!("{} needs what is not on this host: {said}", program.display());
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn build_agent(root: &Path) -> anyhow::Result<PathBuf> {
    let target = root.join("target/agent");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--quiet", "-p", "hood-agent", "--profile", "agent", "--target", MUSL])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(root)
        .status()
        .context("run cargo")?;
    if !status.success() {
        bail!("the agent does not build; is the target there? rustup target add {MUSL}");
    }
    Ok(target.join(MUSL).join("agent/hood-agent"))
}

/// Every crate that is compiled in.
fn crates(root: &Path, of: &[&str]) -> anyhow::Result<Vec<Component>> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "-e", "normal", "--prefix", "none"])
        .args(of)
        .current_dir(root)
        .output()
        .context("run cargo")?;
    if !output.status.success() {
        bail!("cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let mut crates: Vec<Component> = said.lines().filter_map(component).collect();
    crates.sort();
    crates.dedup();
    Ok(crates)
}

/// `name v1.2.3 (…)`
fn component(line: &str) -> Option<Component> {
    let mut words = line.split(' ');
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    let purl = Some(format!("pkg:cargo/{name}@{version}"));
    Some(Component { name: name.to_owned(), version: version.to_owned(), purl })
}
