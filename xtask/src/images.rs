//! Fumehood's own container images: the server, and the agent. Each holds one static program and
//! nothing else.

mod build;

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use hood_image::{Component, ImageConfig, Recipe, Source, bill_of_materials, export};

use build::MUSL;

/// Nobody's, and not root.
const USER: &str = "65532:65532";
const DATA_DIR: &str = "/var/lib/fumehood";

/// Writes `fumehood.tar` and `hood-agent.tar` into `to`, each with a list of what it is made of.
pub(crate) fn write(root: &Path, profile: &str, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    let built = build::server(root, profile)?;
    let config = ImageConfig {
        entrypoint: vec!["/usr/bin/fumehood".to_owned()],
        cmd: vec!["serve".to_owned()],
        // There is no /tmp in it, where locks and scratch would lie otherwise.
        env: ["FUMEHOOD_DATA_DIR", "TMPDIR"].map(|name| (name.to_owned(), DATA_DIR.to_owned())).to_vec(),
        labels: labels("fumehood", "Fumehood: runs untrusted programs, and judges how they end"),
        ..of_nobody()
    };
    // What it carries within itself counts.
    let carried = ["hood-server", "hood-agent", "hood-unpack"];
    image(to, "fumehood", (("usr/bin/fumehood", &built.server), config), &crates(root, &carried)?)?;
    let config = ImageConfig {
        entrypoint: vec!["/hood-agent".to_owned()],
        labels: labels("hood-agent", "Fumehood's agent, which is the first process of a sandbox"),
        ..of_nobody()
    };
    image(to, "hood-agent", (("hood-agent", &built.agent), config), &crates(root, &["hood-agent"])?)
}

fn of_nobody() -> ImageConfig {
    ImageConfig { user: USER.to_owned(), workdir: "/".to_owned(), ..ImageConfig::default() }
}

fn labels(title: &str, description: &str) -> Vec<(String, String)> {
    // No commit is among them: what changes nothing in the program changes nothing in its image.
    let labels = [
        ("dev.fumehood.read-only-root", "true"),
        ("org.opencontainers.image.description", description),
        ("org.opencontainers.image.licenses", env!("CARGO_PKG_LICENSE")),
        ("org.opencontainers.image.title", title),
        ("org.opencontainers.image.version", env!("CARGO_PKG_VERSION")),
    ];
    labels.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

fn image(
    to: &Path,
    name: &str,
    ((at, program), config): ((&str, &Path), ImageConfig),
    components: &[Component],
) -> anyhow::Result<()> {
    let program = fs::read(program).with_context(|| format!("read {}", program.display()))?;
    let layers = vec![Source::Programs(vec![(at.to_owned(), program)])];
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
        "{} {} ({} bytes, {} components)",
        path.display(),
        exported.digest,
        exported.bytes,
        components.len()
    );
    Ok(())
}

/// Every crate that is compiled into these of ours, and Rust's own library beneath them.
fn crates(root: &Path, of: &[&str]) -> anyhow::Result<Vec<Component>> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "-e", "normal", "--prefix", "none", "--target", MUSL])
        .args(of.iter().flat_map(|name| ["--package", name]))
        .current_dir(root)
        .output()
        .context("run cargo")?;
    if !output.status.success() {
        bail!("cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let mut crates: Vec<Component> = said.lines().filter_map(component).collect();
    let version = build::rust_version(root)?;
    let purl = Some(format!("pkg:generic/rust@{version}"));
    crates.push(Component { name: "rust".to_owned(), version, purl });
    crates.sort();
    crates.dedup();
    Ok(crates)
}

/// `name v1.2.3 (…)`
fn component(line: &str) -> Option<Component> {
    let mut words = line.split(' ');
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    Some(Component::rust(name, version))
}
