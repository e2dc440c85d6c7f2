//! The role and the name that a certificate carries, and the table of who may call whom.

use std::fmt;

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::IdentityError;

const SCHEME: &str = "spiffe://fumehood/role/";

/// Bytes of a name.
const NAME_BYTES_MAX: usize = 63;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Api,
    Worker,
    Dispatcher,
    Notifier,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Api, Self::Worker, Self::Dispatcher, Self::Notifier];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Worker => "worker",
            Self::Dispatcher => "dispatcher",
            Self::Notifier => "notifier",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }

    /// Whether others connect to it as this role. Its certificate is a server's then and nobody's
    /// client, the others' the other way round: what leaks from one end does not serve at the other.
    pub const fn is_called(self) -> bool {
        matches!(self, Self::Dispatcher)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which role may call which: what is not named here is refused.
pub const fn may_call(caller: Role, callee: Role) -> bool {
    matches!((caller, callee), (Role::Worker, Role::Dispatcher))
}

/// A role, and which one of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    pub role: Role,
    pub name: String,
}

impl Identity {
    /// `None` where the name is none: 1 to 63 of `a-z`, `0-9`, `-` and `.`.
    pub fn new(role: Role, name: &str) -> Option<Self> {
        let sound = (1..=NAME_BYTES_MAX).contains(&name.len())
            && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'));
        sound.then(|| Self { role, name: name.to_owned() })
    }

    fn parse(uri: &str) -> Option<Self> {
        let (role, name) = uri.strip_prefix(SCHEME)?.split_once('/')?;
        Self::new(Role::parse(role)?, name)
    }

    pub(super) fn of_certificate(der: &[u8]) -> Result<Self, IdentityError> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| IdentityError::NotX509)?;
        let names = certificate.subject_alternative_name().map_err(|_| IdentityError::NotX509)?;
        let mut roles =
            names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
                GeneralName::URI(uri) if uri.starts_with(SCHEME) => Some(*uri),
                _ => None,
            });
        let uri = roles.next().ok_or(IdentityError::NoRole)?;
        if roles.next().is_some() {
            return Err(IdentityError::SeveralRoles);
        }
        Self::parse(uri).ok_or(IdentityError::UnknownRole)
    }
}

/// As the certificate carries it.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.role, self.name)
    }
}

/// Who the other end of a finished handshake is, from the chain that it presented.
pub fn peer(chain: Option<&[CertificateDer<'_>]>) -> Result<Identity, IdentityError> {
    let leaf = chain.and_then(<[_]>::first).ok_or(IdentityError::Absent)?;
    Identity::of_certificate(leaf)
}

#[cfg(test)]
mod tests {
    use super::{Identity, Role, may_call};

    #[test]
    fn an_identity_reads_as_it_was_written() {
        let identity = Identity::new(Role::Worker, "w-1.example").expect("sound");
        assert_eq!(Identity::parse(&identity.to_string()), Some(identity));
        for wrong in [
            "spiffe://fumehood/role/worker",
            "spiffe://fumehood/role/worker/",
            "spiffe://fumehood/role/worker/a/b",
            "spiffe://fumehood/role/root/a",
            "spiffe://fumehood/role/worker/A",
            "spiffe://elsewhere/role/worker/a",
        ] {
            assert_eq!(Identity::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Identity::new(Role::Api, &"a".repeat(64)), None);
    }

    #[test]
    fn only_a_worker_calls_and_only_a_dispatcher() {
        for caller in Role::ALL {
            for callee in Role::ALL {
                let allowed = caller == Role::Worker && callee == Role::Dispatcher;
                assert_eq!(may_call(caller, callee), allowed, "{caller} → {callee}");
            }
        }
    }
}
