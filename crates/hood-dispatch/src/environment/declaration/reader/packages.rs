//! What a declaration says of packages and links.

use std::collections::BTreeMap;

use super::super::{Base, Packages};
use super::{Reader, Table, article};

const KEYS: [&str; 4] = ["debian_release", "debian", "python_version", "python"];

/// Packages that a declaration may name; what they depend on is not counted.
const NAMED_MAX: usize = 1000;

impl Reader<'_> {
    pub(super) fn packages(&mut self, table: &Table<'_, '_>, base: Option<Base>) -> Packages {
        match base {
            Some(Base::Locked) => self.locked(table),
            Some(Base::HostPython) => {
                self.no_packages(table);
                Packages::default()
            }
            Some(Base::Imported) | None => Packages::default(),
        }
    }

    fn no_packages(&mut self, table: &Table<'_, '_>) {
        const WHY: &str =
            "base host-python takes none: its images hold the interpreter and its standard library alone";
        for key in ["packages", "links"] {
            let Some((span, value)) = table.get(key) else { continue };
            let empty = value.as_array().is_some_and(|packages| packages.is_empty());
            if !empty {
                self.problem(span.start, key, WHY);
            }
        }
    }

    fn locked(&mut self, table: &Table<'_, '_>) -> Packages {
        let Some((span, value)) = table.get("packages") else {
            self.problem(table.start, "packages", "is missing: base locked is made of packages");
            return Packages::default();
        };
        let Some(entries) = value.as_table() else {
            self.problem(span.start, "packages", format!("must be a table, and is {}", article(value)));
            return Packages::default();
        };
        let inner = Table { entries, start: span.start, prefix: "packages." };
        self.known_keys(&inner, &KEYS);
        let release = self.string(&inner, "debian_release").map(|(at, text)| (at, text.to_owned()));
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase()) && !text.is_empty();
        if let Some((at, text)) = release.as_ref().filter(|(_, text)| !plain(text)) {
            self.problem(*at, "packages.debian_release", format!("`{text}` is no name of a release"));
        }
        let debian =
            self.names(&inner, "debian", |byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        if debian.is_empty() {
            self.problem(span.start, "packages.debian", "is empty: an image needs at least a program");
        }
        let python = self.names(&inner, "python", |byte| byte.is_ascii_graphic() && byte != b'@');
        let python_version = inner.get("python_version").and_then(|_| self.string(&inner, "python_version"));
        let python_version = python_version.map(|(_, text)| text.to_owned());
        if !python.is_empty() && python_version.is_none() {
            let problem = "is missing: packages of Python are for one version, as in \"3.11\"";
            self.problem(span.start, "packages.python_version", problem);
        }
        let links = self.links(table);
        Packages {
            release: release.map(|(_, text)| text).unwrap_or_default(),
            debian,
            python_version,
            python,
            links,
        }
    }

    fn names(&mut self, table: &Table<'_, '_>, key: &str, allowed: fn(u8) -> bool) -> Vec<String> {
        let full = format!("packages.{key}");
        let Some((span, value)) = table.get(key) else { return Vec::new() };
        let Some(array) = value.as_array().filter(|array| array.len() <= NAMED_MAX) else {
            self.problem(span.start, &full, format!("must be an array of at most {NAMED_MAX} names"));
            return Vec::new();
        };
        let mut names = Vec::new();
        for item in array.iter() {
            let name = item.get_ref().as_str().unwrap_or_default();
            // What begins with a dash would be an option of whoever is asked for it.
            if name.is_empty() || name.starts_with('-') || !name.bytes().all(allowed) {
                self.problem(item.span().start, &full, "is no name of a package");
            }
            names.push(name.to_owned());
        }
        names
    }

    fn links(&mut self, table: &Table<'_, '_>) -> BTreeMap<String, String> {
        let mut links = BTreeMap::new();
        let Some((span, value)) = table.get("links") else { return links };
        let Some(entries) = value.as_table() else {
            self.problem(span.start, "links", format!("must be a table, and is {}", article(value)));
            return links;
        };
        for (path, target) in entries {
            let (name, at) = (path.get_ref().as_ref(), path.span().start);
            let sound = name.split('/').all(|part| !matches!(part, "" | "." | ".."));
            match target.get_ref().as_str() {
                Some(target) if sound && !target.is_empty() => {
                    links.insert(name.to_owned(), target.to_owned());
                }
                _ => self.problem(
                    at,
                    &format!("links.{name}"),
                    "must be a path beneath the root, and where it leads",
                ),
            }
        }
        links
    }
}
