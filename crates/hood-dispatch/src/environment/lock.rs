//! What an environment is made of, to the byte: `<name>.lock` beside its declaration.
//!
//! ```text
//! fumehood-lock 1
//! request   HASH                               of what the declaration asked for
//! release   bookworm amd64
//! deb       NAME VERSION SIZE SHA256 PATH      PATH within a Debian repository
//! wheel     NAME VERSION SHA256 FILE           found by its hash wherever pip looks
//! ```

use std::fmt::Write as _;

/// The longest lock file that is read: ours have some hundred lines.
const LOCK_BYTES_MAX: usize = 4 << 20;

const FIRST_LINE: &str = "fumehood-lock 1";

/// A Debian package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deb {
    pub name: String,
    pub version: String,
    pub size: u64,
    pub sha256: String,
    /// Within a repository: `pool/main/…`.
    pub path: String,
}

/// A Python wheel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wheel {
    pub name: String,
    pub version: String,
    pub sha256: String,
    pub file: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    /// Hash of what was asked for: a declaration that asks for something else needs another lock.
    pub request: String,
    pub release: String,
    pub arch: String,
    pub debs: Vec<Deb>,
    pub wheels: Vec<Wheel>,
}

impl Lock {
    pub fn text(&self) -> String {
        let mut text =
            format!("{FIRST_LINE}\nrequest {}\nrelease {} {}\n", self.request, self.release, self.arch);
        // Writing to a String cannot fail.
        for Deb { name, version, size, sha256, path } in &self.debs {
            let _ = writeln!(text, "deb {name} {version} {size} {sha256} {path}");
        }
        for Wheel { name, version, sha256, file } in &self.wheels {
            let _ = writeln!(text, "wheel {name} {version} {sha256} {file}");
        }
        text
    }

    /// # Errors
    /// What is wrong, with its line.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > LOCK_BYTES_MAX {
            return Err(format!("is longer than {LOCK_BYTES_MAX} bytes"));
        }
        let mut lock = Self::default();
        for (n, line) in text.lines().enumerate() {
            let at = |what: &str| format!("line {}: {what}", n + 1);
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                _ if n == 0 && line == FIRST_LINE => {}
                _ if n == 0 => return Err(at("is not a lock of this version")),
                ["request", hash] => lock.request = (*hash).to_owned(),
                ["release", release, arch] => {
                    (lock.release, lock.arch) = ((*release).to_owned(), (*arch).to_owned());
                }
                ["deb", name, version, size, sha256, path] => lock.debs.push(Deb {
                    name: (*name).to_owned(),
                    version: (*version).to_owned(),
                    size: size.parse().map_err(|_| at("the size is no number"))?,
                    sha256: hash(sha256).ok_or_else(|| at("the hash is none"))?,
                    path: plain(path).ok_or_else(|| at("the path leaves its repository"))?,
                }),
                ["wheel", name, version, sha256, file] => lock.wheels.push(Wheel {
                    name: (*name).to_owned(),
                    version: (*version).to_owned(),
                    sha256: hash(sha256).ok_or_else(|| at("the hash is none"))?,
                    file: plain(file).ok_or_else(|| at("the file is no name"))?,
                }),
                _ => return Err(at("is neither deb nor wheel")),
            }
        }
        if lock.request.is_empty() || lock.release.is_empty() {
            return Err("says neither what was asked for nor of which release it is".to_owned());
        }
        Ok(lock)
    }

    /// Name and version of everything.
    pub fn packages(&self) -> Vec<(String, String)> {
        let debs = self.debs.iter().map(|deb| (deb.name.clone(), deb.version.clone()));
        debs.chain(self.wheels.iter().map(|wheel| (wheel.name.clone(), wheel.version.clone()))).collect()
    }
}

/// It becomes a file name.
fn hash(text: &str) -> Option<String> {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (text.len() == 64 && text.bytes().all(hex)).then(|| text.to_owned())
}

fn plain(path: &str) -> Option<String> {
    let sound = !path.is_empty()
        && path.bytes().all(|byte| byte.is_ascii_graphic())
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    sound.then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock() -> Lock {
        Lock {
            request: "ab".into(),
            release: "bookworm".into(),
            arch: "amd64".into(),
            debs: vec![Deb {
                name: "dash".into(),
                version: "0.5.12-2".into(),
                size: 7,
                sha256: "0".repeat(64),
                path: "pool/main/d/dash/dash.deb".into(),
            }],
            wheels: vec![Wheel {
                name: "numpy".into(),
                version: "2.0".into(),
                sha256: "f".repeat(64),
                file: "numpy-2.0-py3-none-any.whl".into(),
            }],
        }
    }

    #[test]
    fn a_lock_survives_its_file() {
        assert_eq!(Lock::parse(&lock().text()), Ok(lock()));
    }

    #[test]
    fn what_is_no_lock_is_refused_with_its_line() {
        let good = lock().text();
        for (from, to, said) in [
            (FIRST_LINE, "fumehood-lock 2", "line 1"),
            ("pool/main", "../main", "line 4: the path"),
            ("pool/main", "/main", "line 4: the path"),
            (" 7 ", " x ", "line 4: the size"),
            (&"f".repeat(64), "../../x", "line 5: the hash"),
            ("wheel ", "egg ", "line 5: is neither"),
            ("request ab\n", "", "neither what was asked"),
        ] {
            let error = Lock::parse(&good.replace(from, to)).expect_err("refused");
            assert!(error.contains(said), "{from} → {to}: {error}");
        }
    }
}
