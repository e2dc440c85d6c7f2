//! From what a declaration asks for to what it is made of: asked once, written down for everybody.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use super::declaration::Declaration;
use super::error::EnvironmentError;
use super::fetch::{PIP_TARGET, Sources, output, pip};
use super::lock::{Deb, Lock, Wheel};

/// The machines that locks are made for.
const ARCH: &str = "amd64";

/// Decides which packages an environment is made of, as this host's apt and pip know them today.
/// `scratch` is an empty directory.
pub fn resolve(
    declaration: &Declaration,
    sources: &Sources,
    scratch: &Path,
) -> Result<Lock, EnvironmentError> {
    let packages = &declaration.packages;
    let debs = debian(&packages.debian, &packages.release, scratch)?;
    if let Some(declared) = &packages.python_version {
        has_python(declared, &debs)?;
    }
    let wheels = match &packages.python_version {
        Some(version) if !packages.python.is_empty() => python(&packages.python, version, sources, scratch)?,
        _ => Vec::new(),
    };
    let (release, arch) = (packages.release.clone(), ARCH.to_owned());
    Ok(Lock { request: declaration.request(), release, arch, debs, wheels })
}

/// Wheels are chosen for the declared version, and lie where that one looks: no other finds them.
fn has_python(declared: &str, debs: &[Deb]) -> Result<(), EnvironmentError> {
    let found = pythons(debs);
    if found.iter().any(|version| version == declared) {
        return Ok(());
    }
    Err(EnvironmentError::OtherPython { declared: declared.to_owned(), found })
}

/// Versions of the interpreters among Debian's packages.
pub(super) fn pythons(debs: &[Deb]) -> Vec<String> {
    let version = |deb: &Deb| deb.name.strip_prefix("python")?.strip_suffix("-minimal").map(str::to_owned);
    debs.iter().filter_map(version).filter(|version| version.contains('.')).collect()
}

fn failed(what: &str) -> impl FnOnce(String) -> EnvironmentError {
    let what = what.to_owned();
    move |why| EnvironmentError::Fetch { what, why }
}

/// Everything that these packages need on a system that has nothing.
fn debian(names: &[String], release: &str, scratch: &Path) -> Result<Vec<Deb>, EnvironmentError> {
    let status = scratch.join("status");
    fs::write(&status, "").map_err(EnvironmentError::io("write", &status))?;
    let mut apt = Command::new("apt-get");
    apt.args(["install", "--print-uris", "-qq", "-y", "--no-install-recommends"])
        .arg(format!("-oDir::State::status={}", status.display()))
        .arg(format!("-oAPT::Architecture={ARCH}"))
        // What another distribution or a newer release offers under the same name is not meant.
        .args([
            "-oAPT::Architectures::=",
            &format!("-oAPT::Default-Release=/^{release}(-security|-updates)?$/"),
        ])
        .args(names);
    let listed = output(apt, "apt-get").map_err(failed("the Debian packages"))?;
    let files: Vec<(&str, &str)> = listed.lines().filter_map(uri_and_name).collect();
    let mut wanted = Vec::new();
    for (uri, file) in &files {
        let mut parts = file.trim_end_matches(".deb").split('_');
        let (Some(name), Some(version)) = (parts.next(), parts.next()) else { continue };
        wanted.push((name, unescape(version), *uri));
    }
    let mut show = Command::new("apt-cache");
    show.args(["show", "--no-all-versions"]).arg(format!("-oAPT::Architecture={ARCH}"));
    show.args(wanted.iter().map(|(name, version, _)| format!("{name}={version}")));
    let shown = output(show, "apt-cache").map_err(failed("the Debian packages' hashes"))?;
    let known: HashMap<(String, String), Deb> = shown
        .split("\n\n")
        .filter_map(deb)
        .map(|deb| ((deb.name.clone(), deb.version.clone()), deb))
        .collect();
    let mut debs = Vec::new();
    for (name, version, _) in wanted {
        let found = known.get(&(name.to_owned(), version.clone())).cloned();
        debs.push(found.ok_or_else(|| EnvironmentError::Fetch {
            what: format!("{name} {version}"),
            why: "apt knows no hash of it; run `apt-get update`".to_owned(),
        })?);
    }
    debs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(debs)
}

/// `'URI' FILE SIZE HASH`.
fn uri_and_name(line: &str) -> Option<(&str, &str)> {
    let (uri, rest) = line.strip_prefix('\'')?.split_once("' ")?;
    Some((uri, rest.split(' ').next()?))
}

/// apt writes the colon of an epoch as `%3a` in the names of files.
fn unescape(version: &str) -> String {
    version.replace("%3a", ":")
}

fn deb(stanza: &str) -> Option<Deb> {
    let field = |name: &str| {
        let found = stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        found.map(str::to_owned)
    };
    Some(Deb {
        name: field("Package")?,
        version: field("Version")?,
        size: field("Size")?.parse().ok()?,
        sha256: field("SHA256")?,
        path: field("Filename")?.trim_start_matches("./").to_owned(),
    })
}

#[derive(Deserialize)]
struct Report {
    install: Vec<Install>,
}

#[derive(Deserialize)]
struct Install {
    download_info: DownloadInfo,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct DownloadInfo {
    url: String,
    archive_info: ArchiveInfo,
}

#[derive(Deserialize)]
struct ArchiveInfo {
    hashes: HashMap<String, String>,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    version: String,
}

fn python(
    names: &[String],
    version: &str,
    sources: &Sources,
    scratch: &Path,
) -> Result<Vec<Wheel>, EnvironmentError> {
    let report = scratch.join("report.json");
    let mut pip = pip(sources);
    pip.args(["install", "--quiet", "--dry-run", "--ignore-installed", "--no-cache-dir"])
        .args(PIP_TARGET)
        .args(["--python-version", version])
        .arg("--target")
        .arg(scratch.join("target"))
        .arg("--report")
        .arg(&report)
        .args(names);
    output(pip, "pip").map_err(failed("the Python packages"))?;
    let text = fs::read(&report).map_err(EnvironmentError::io("read", &report))?;
    let unread = |error: serde_json::Error| format!("pip's report cannot be read: {error}");
    let report: Report =
        serde_json::from_slice(&text).map_err(unread).map_err(failed("the Python packages"))?;
    let mut wheels = Vec::new();
    for Install { download_info, metadata } in report.install {
        let Metadata { name, version } = metadata;
        let file = download_info.url.split(['#', '?']).next().and_then(|url| url.rsplit('/').next());
        let file = file.unwrap_or_default().replace("%2B", "+");
        let Some(sha256) = download_info.archive_info.hashes.get("sha256").cloned() else {
            return Err(failed(&format!("{name} {version}"))("its index gives no SHA-256".to_owned()));
        };
        wheels.push(Wheel { name, version, sha256, file });
    }
    wheels.sort_by_key(|wheel| wheel.name.to_ascii_lowercase());
    Ok(wheels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declared_python_is_among_the_packages() {
        let deb = |name: &str| Deb {
            name: name.to_owned(),
            version: String::new(),
            size: 0,
            sha256: String::new(),
            path: String::new(),
        };
        let debs = ["python3.11", "python3.11-minimal", "python3-minimal", "libpython3.11-minimal"].map(deb);
        has_python("3.11", &debs).expect("is there");
        let error =
            |declared, debs: &[Deb]| has_python(declared, debs).expect_err("is not there").to_string();
        assert_eq!(
            error("3.12", &debs),
            "`python_version` is 3.12, and the packages have 3.11: give the one that they have"
        );
        assert!(error("3.11", &debs[3..]).contains("the packages have no Python: add \"python3.11\""));
    }

    #[test]
    fn what_apt_says_is_understood() {
        let line = "'http://a.example/debian/pool/z/zlib1g_1%3a1.2_amd64.deb' zlib1g_1%3a1.2_amd64.deb 86684 MD5Sum:0";
        assert_eq!(
            uri_and_name(line),
            Some(("http://a.example/debian/pool/z/zlib1g_1%3a1.2_amd64.deb", "zlib1g_1%3a1.2_amd64.deb"))
        );
        let stanza = "Package: zlib1g\nVersion: 1:1.2\nFilename: pool/z/zlib1g.deb\nSize: 5\nSHA256: ab";
        let found = deb(stanza).expect("whole");
        assert_eq!(
            (found.version.as_str(), found.size, found.path.as_str()),
            ("1:1.2", 5, "pool/z/zlib1g.deb")
        );
        assert_eq!(deb("Package: x"), None);
    }
}
