use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::RegistryError;
use crate::digest::Digest;

const DOCKER_NAME: &str = "docker.io";
const DOCKER_HOST: &str = "registry-1.docker.io";
const TAG_DEFAULT: &str = "latest";
const TAG_BYTES_MAX: usize = 128;
const TEXT_BYTES_MAX: usize = 512;

/// An image in a registry: `registry.example:5000/team/image:tag`, or with `@sha256:…` in place of the
/// tag or after it. Without a registry it is Docker's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    name: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Where it is asked for.
    pub fn host(&self) -> &str {
        if self.name == DOCKER_NAME { DOCKER_HOST } else { &self.name }
    }

    pub fn repository(&self) -> &str {
        &self.repository
    }

    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// What is asked for: the digest where there is one, since a tag may move.
    pub(super) fn wanted(&self) -> String {
        match self.digest {
            Some(digest) => digest.to_string(),
            None => self.tag.clone().unwrap_or_else(|| TAG_DEFAULT.to_owned()),
        }
    }

    pub(super) fn is_loopback(&self) -> bool {
        let host = match self.name.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => self.name.split(':').next().unwrap_or_default(),
        };
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// Registry and repository, as credentials are kept by.
    pub fn registry(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.repository)?;
        match (&self.tag, &self.digest) {
            (Some(tag), None) => write!(f, ":{tag}"),
            (None, None) => write!(f, ":{TAG_DEFAULT}"),
            (_, Some(digest)) => write!(f, "@{digest}"),
        }
    }
}

impl FromStr for Reference {
    type Err = RegistryError;

    fn from_str(text: &str) -> Result<Self, RegistryError> {
        let wrong = |problem: &str| RegistryError::Reference {
            text: text.chars().take(TEXT_BYTES_MAX).collect::<String>().escape_default().to_string(),
            problem: problem.to_owned(),
        };
        if text.len() > TEXT_BYTES_MAX {
            return Err(wrong("it is too long"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                (rest, Some(digest.parse::<Digest>().map_err(|problem| wrong(&problem))?))
            }
            None => (text, None),
        };
        let (name, path) = match rest.split_once('/') {
            Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => {
                (first, path.to_owned())
            }
            Some(_) => (DOCKER_NAME, rest.to_owned()),
            None => (DOCKER_NAME, format!("library/{rest}")),
        };
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository.to_owned(), Some(tag.to_owned())),
            None => (path, None),
        };
        let host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
        if name.is_empty() || !name.chars().all(host) {
            return Err(wrong("its registry is no host"));
        }
        let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
        let part = |part: &str| {
            part.chars().all(inside)
                && part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.ends_with(|c: char| c.is_ascii_alphanumeric())
        };
        if !repository.split('/').all(part) {
            return Err(wrong("its name is made of a-z, 0-9, and . _ - between them"));
        }
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if tag.as_ref().is_some_and(|tag| {
            tag.is_empty()
                || tag.len() > TAG_BYTES_MAX
                || !tag.chars().all(word)
                || tag.starts_with(['.', '-'])
        }) {
            return Err(wrong("its tag is none"));
        }
        Ok(Self { name: name.to_owned(), repository, tag, digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_says_where_and_what() {
        let digest = Digest::of(b"x");
        for (text, host, repository, wanted, loopback) in [
            ("debian", DOCKER_HOST, "library/debian", "latest".to_owned(), false),
            ("team/app:1", DOCKER_HOST, "team/app", "1".to_owned(), false),
            ("reg.example:5000/a/b/c:v1.2_x", "reg.example:5000", "a/b/c", "v1.2_x".to_owned(), false),
            ("localhost/app", "localhost", "app", "latest".to_owned(), true),
            ("127.0.0.1:5000/app", "127.0.0.1:5000", "app", "latest".to_owned(), true),
            ("[::1]:5000/app", "[::1]:5000", "app", "latest".to_owned(), true),
            (&format!("reg.example/app:1@{digest}"), "reg.example", "app", digest.to_string(), false),
        ] {
            let reference: Reference = text.parse().expect("sound");
            let found =
                (reference.host(), reference.repository(), reference.wanted(), reference.is_loopback());
            assert_eq!(found, (host, repository, wanted, loopback), "{text}");
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "",
            "/",
            "a//b",
            "reg.example/",
            "reg.example/../x",
            "Team/App",
            "app:",
            "app:-x",
            "app@sha256:x",
            "user@reg.example/app",
            "reg.example/a?b",
            "reg.example/a#b",
            "a b",
            "reg.example:80:90/app/:x",
            "a/b\n",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
    }
}
