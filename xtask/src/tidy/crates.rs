//! Who may see whom. The rooms of ARCHITECTURE.md are crates so that the compiler keeps them apart;
//! this keeps the manifests honest.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use serde::Deserialize;

use super::{Finding, Tree};

/// Each crate of ours, and those of ours that it may depend on.
const MAY_SEE: &[(&str, &[&str])] = &[
    ("hood-core", &[]),
    ("hood-wire", &[]),
    ("hood-sandbox", &[]),
    ("hood-image", &[]),
    ("hood-store", &["hood-core"]),
    ("hood-client", &["hood-wire"]),
    ("hood-agent", &["hood-wire", "hood-sandbox"]),
    ("hood-unpack", &["hood-wire", "hood-sandbox"]),
    ("hood-dispatch", &["hood-core", "hood-wire", "hood-sandbox"]),
    (
        "hood-server",
        &[
            "hood-core",
            "hood-wire",
            "hood-sandbox",
            "hood-store",
            "hood-client",
            "hood-dispatch",
            "hood-image",
        ],
    ),
    ("hood-testkit", &[]),
    ("hood-bench", &["hood-client", "hood-core", "hood-store", "hood-testkit", "hood-wire"]),
    ("hood-sim", &["hood-core", "hood-wire", "hood-store", "hood-dispatch", "hood-server"]),
    ("hood-chaos", &["hood-client", "hood-testkit", "hood-wire"]),
    ("xtask", &["hood-image"]),
];

/// What must not be found anywhere beneath a crate, and what would be lost if it were.
const ABSENT: &[(&str, &[&str], &str)] = &[
    ("hood-dispatch", &["hood-store", "sqlx"], "a dispatcher is stateless and holds no rights to a database"),
    (
        "hood-agent",
        &["tokio", "sqlx", "kube", "serde", "reqwest", "hood-core"],
        "the agent is small enough to be read",
    ),
    ("hood-unpack", &["tokio", "sqlx", "serde", "reqwest", "hood-core"], "it reads what strangers wrote"),
    (
        "hood-core",
        &["tokio", "serde", "rand", "getrandom", "libc", "rustix", "tracing", "reqwest"],
        "the core does no I/O, has no clock and no chance",
    ),
    ("hood-sandbox", &["tokio", "serde"], "what runs between clone and exec is synchronous and small"),
    ("hood-image", &["tokio"], "an image is unpacked by a process that can do nothing else"),
    ("hood-wire", &["tokio"], "wire types describe bytes and move none"),
];

/// Who alone may depend on it directly.
const ONLY_IN: &[(&str, &[&str])] = &[
    // The bench has a peer of the store to compare it with.
    ("sqlx", &["hood-store", "hood-bench"]),
    ("axum", &["hood-server"]),
    ("seccompiler", &["hood-sandbox"]),
    ("landlock", &["hood-sandbox"]),
    ("anyhow", &["hood-server", "hood-bench", "hood-chaos", "xtask"]),
];

#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) license: Option<String>,
    /// None for ours.
    pub(crate) source: Option<String>,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
    /// None, `dev` or `build`.
    kind: Option<String>,
}

impl Metadata {
    pub(crate) fn read(root: &Path) -> anyhow::Result<Self> {
        let json = cargo(root, &["metadata", "--format-version", "1", "--locked"])?;
        serde_json::from_str(&json).context("read cargo's metadata")
    }

    fn ours(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| package.source.is_none())
    }
}

pub(super) fn check(root: &Path, tree: &Tree, metadata: &Metadata) -> anyhow::Result<Vec<Finding>> {
    let mut findings = check_edges(metadata);
    for (name, absent, reason) in ABSENT {
        let beneath =
            cargo(root, &["tree", "--locked", "-p", name, "-e", "normal,build", "--prefix", "none"])?;
        findings.extend(check_absences(name, absent, reason, &beneath));
    }
    findings.extend(check_lints(tree));
    Ok(findings)
}

fn check_edges(metadata: &Metadata) -> Vec<Finding> {
    let table: BTreeMap<&str, &[&str]> = MAY_SEE.iter().copied().collect();
    let mut findings = Vec::new();
    for package in metadata.ours() {
        let at = manifest(&package.name);
        let Some(may_see) = table.get(package.name.as_str()) else {
            findings.push(Finding::new(&at, 0, "a crate that the table in xtask/src/tidy/crates.rs lacks"));
            continue;
        };
        let edges = package.dependencies.iter().filter(|edge| edge.kind.as_deref() != Some("dev"));
        for edge in edges {
            let name = edge.name.as_str();
            if table.contains_key(name) && !may_see.contains(&name) {
                findings.push(Finding::new(&at, 0, format!("must not see {name}")));
            }
            let only = ONLY_IN.iter().find(|(dependency, _)| *dependency == name);
            if let Some((_, users)) = only
                && !users.contains(&package.name.as_str())
            {
                findings.push(Finding::new(&at, 0, format!("{name} is for {} alone", users.join(", "))));
            }
        }
    }
    findings
}

/// `beneath` is what `cargo tree` prints: a crate a line, its name first.
fn check_absences(name: &str, absent: &[&str], reason: &str, beneath: &str) -> Vec<Finding> {
    let seen = |absent: &str| beneath.lines().any(|line| line.split(' ').next() == Some(absent));
    let found = absent.iter().filter(|absent| seen(absent));
    found.map(|absent| Finding::new(&manifest(name), 0, format!("sees {absent}: {reason}"))).collect()
}

/// Every crate takes the workspace's lints; hood-sandbox has a table of its own, which differs in
/// nothing but unsafe code.
fn check_lints(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    // The fuzzer's crate is no part of the workspace.
    let apart = ["Cargo.toml", "fuzz/Cargo.toml"];
    let manifests = tree.files.iter().filter(|file| file.name() == "Cargo.toml");
    for file in manifests.filter(|file| !apart.contains(&file.path.as_str())) {
        let Ok(manifest) = file.text.parse::<toml::Table>() else {
            findings.push(Finding::new(&file.path, 0, "is no TOML"));
            continue;
        };
        let inherits = manifest.get("lints").and_then(|lints| lints.get("workspace"));
        if file.path == "crates/hood-sandbox/Cargo.toml" {
            if !same_but_unsafe(tree, &manifest) {
                let message = "its lints differ from the workspace's in more than `unsafe_code`";
                findings.push(Finding::new(&file.path, 0, message));
            }
        } else if inherits.and_then(toml::Value::as_bool) != Some(true) {
            findings.push(Finding::new(&file.path, 0, "does not take the workspace's lints"));
        }
    }
    findings
}

fn same_but_unsafe(tree: &Tree, manifest: &toml::Table) -> bool {
    let Some(root) = tree.file("Cargo.toml").and_then(|file| file.text.parse::<toml::Table>().ok()) else {
        return false;
    };
    let Some(mut expected) = root.get("workspace").and_then(|table| table.get("lints")).cloned() else {
        return false;
    };
    let denied = toml::Value::String("deny".to_owned());
    match expected.get_mut("rust").and_then(toml::Value::as_table_mut) {
        Some(rust) => rust.insert("unsafe_code".to_owned(), denied),
        None => return false,
    };
    manifest.get("lints") == Some(&expected)
}

fn manifest(package: &str) -> String {
    match package {
        "hood-bench" => "bench/Cargo.toml".to_owned(),
        "hood-sim" => "sim/Cargo.toml".to_owned(),
        "hood-chaos" => "tests/chaos/Cargo.toml".to_owned(),
        "xtask" => "xtask/Cargo.toml".to_owned(),
        name => format!("crates/{name}/Cargo.toml"),
    }
}

fn cargo(root: &Path, args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(env!("CARGO")).args(args).current_dir(root).output().context("run cargo")?;
    if !output.status.success() {
        bail!("cargo {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8(output.stdout).context("read cargo's output")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Metadata {
        let dependencies = dependencies
            .iter()
            .map(|(name, kind)| Dependency { name: (*name).to_owned(), kind: kind.map(str::to_owned) })
            .collect();
        let version = "0.1.0".to_owned();
        let package = Package { name: name.to_owned(), version, license: None, source: None, dependencies };
        Metadata { packages: vec![package] }
    }

    #[test]
    fn edges_follow_the_table() {
        assert_eq!(check_edges(&package("hood-store", &[("hood-core", None), ("sqlx", None)])), []);
        assert_eq!(check_edges(&package("hood-core", &[("hood-wire", Some("dev"))])), []);
        for (name, edge) in [
            ("hood-dispatch", "hood-store"),
            ("hood-core", "hood-wire"),
            ("hood-server", "hood-agent"),
            ("hood-server", "sqlx"),
            ("hood-store", "anyhow"),
        ] {
            assert_eq!(check_edges(&package(name, &[(edge, None)])).len(), 1, "{name} → {edge}");
        }
        assert_eq!(check_edges(&package("hood-new", &[])).len(), 1);
    }

    #[test]
    fn absences_reach_all_the_way_down() {
        let beneath = "hood-agent v0.1.0 (/x)\nlibc v0.2.1\ntokio-stream v0.1.0\n";
        assert_eq!(check_absences("hood-agent", &["tokio"], "", beneath), []);
        let found = check_absences("hood-agent", &["tokio"], "small", &format!("{beneath}tokio v1.0.0\n"));
        assert_eq!(found.len(), 1);
        assert!(found[0].message.contains("small"));
    }
}
