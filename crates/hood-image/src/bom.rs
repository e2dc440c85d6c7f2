//! What an image is made of, as a CycloneDX document.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// The longest database of packages that is read.
const DATABASE_BYTES_MAX: u64 = 64 << 20;
const DPKG_STATUS: &str = "var/lib/dpkg/status";

/// One thing that an image holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Component {
    pub name: String,
    pub version: String,
    /// A package URL, where there is one.
    pub purl: Option<String>,
}

impl Component {
    /// A package of Debian's.
    pub fn debian(name: &str, version: &str) -> Self {
        Self::of("deb/debian", name, version)
    }

    /// A package of the Python index.
    pub fn python(name: &str, version: &str) -> Self {
        Self::of("pypi", name, version)
    }

    /// A crate of crates.io's.
    pub fn rust(name: &str, version: &str) -> Self {
        Self::of("cargo", name, version)
    }

    fn of(kind: &str, name: &str, version: &str) -> Self {
        // `+` and `:` mean something else in a URL.
        let encoded = version.replace('%', "%25").replace('+', "%2B").replace(':', "%3A");
        let purl = Some(format!("pkg:{kind}/{name}@{encoded}"));
        Self { name: name.to_owned(), version: version.to_owned(), purl }
    }
}

/// What the tree's own package database lists. An image without one lists nothing.
pub fn installed(root: &Path) -> Vec<Component> {
    let path = root.join(DPKG_STATUS);
    let plain =
        fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() <= DATABASE_BYTES_MAX);
    let text = if plain { fs::read(path).unwrap_or_default() } else { Vec::new() };
    let text = String::from_utf8_lossy(&text);
    let mut found: Vec<Component> = text.split("\n\n").filter_map(package).collect();
    found.sort();
    found.dedup();
    found
}

fn package(paragraph: &str) -> Option<Component> {
    let field = |name: &str| {
        paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::trim))
    };
    let there = field("Status").is_some_and(|status| status.ends_with(" installed"));
    there.then_some(())?;
    Some(Component::debian(field("Package")?, field("Version")?))
}

/// The document. Nothing in it depends on when or where it was written.
pub fn bill_of_materials(name: &str, digest: &str, components: &[Component]) -> Value {
    let components: Vec<Value> = components
        .iter()
        .map(|component| {
            let mut value =
                json!({ "type": "library", "name": component.name, "version": component.version });
            if let Some(purl) = &component.purl {
                value["purl"] = purl.clone().into();
                value["bom-ref"] = purl.clone().into();
            }
            value
        })
        .collect();
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": { "type": "container", "name": name, "version": digest } },
        "components": components,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_packages_are_listed_and_removed_ones_are_not() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join("var/lib/dpkg")).expect("made");
        let text = "Package: b\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:2+x~1\n\n\
                    Package: gone\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n\n\
                    Package: a\nStatus: install ok installed\nArchitecture: all\nVersion: 3\nDescription: x\n Version: 9\n";
        fs::write(dir.path().join(DPKG_STATUS), text).expect("written");
        let found = installed(dir.path());
        assert_eq!(
            found.iter().map(|c| (c.name.as_str(), c.version.as_str())).collect::<Vec<_>>(),
            [("a", "3"), ("b", "1:2+x~1")]
        );
        assert_eq!(found[1].purl.as_deref(), Some("pkg:deb/debian/b@1%3A2%2Bx~1"));
        let bill = bill_of_materials("x", "sha256:0", &found);
        assert_eq!(bill["components"].as_array().map(Vec::len), Some(2));
        assert!(installed(&dir.path().join("nothing")).is_empty());
    }
}
