//! A small CA for development, and for whoever has no other: one authority in a directory, and the
//! certificates that it gives to roles. On a cluster cert-manager does the same.

use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, string::Ia5String,
};
use time::{Duration, OffsetDateTime};

use super::Identity;

const CA_CERT: &str = "ca.crt";
const CA_KEY: &str = "ca.key";

/// Clocks of two machines differ.
const BACKDATED: Duration = Duration::minutes(5);

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("{} is there already", .0.display())]
    Exists(PathBuf),
    #[error("no CA in {}", .0.display())]
    NoAuthority(PathBuf),
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{0}` is neither a host name nor an address")]
    Host(String),
    #[error("cannot make the certificate")]
    Make(#[source] rcgen::Error),
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub ca: PathBuf,
    pub expires_at: OffsetDateTime,
}

/// What a certificate is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    pub identity: Identity,
    /// Names and addresses under which it is called; for roles that are.
    pub hosts: Vec<String>,
    pub days: u32,
    /// Over files that are there.
    pub renew: bool,
}

/// Makes the CA. One that is there is never replaced: everything that it gave out would be worthless.
pub fn init(dir: &Path, days: u32) -> Result<Issued, PkiError> {
    let (cert, key) = (dir.join(CA_CERT), dir.join(CA_KEY));
    if let Some(there) = [&cert, &key].into_iter().find(|path| path.exists()) {
        return Err(PkiError::Exists(there.clone()));
    }
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| PkiError::Write { path: dir.to_owned(), source })?;
    let pair = KeyPair::generate().map_err(PkiError::Make)?;
    let mut params = CertificateParams::default();
    let expires_at = validity(&mut params, days);
    params.distinguished_name.push(DnType::CommonName, "Fumehood CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let made = params.self_signed(&pair).map_err(PkiError::Make)?;
    write(&key, pair.serialize_pem().as_bytes(), 0o600)?;
    write(&cert, made.pem().as_bytes(), 0o644)?;
    Ok(Issued { ca: cert.clone(), cert, key, expires_at })
}

/// Gives a role its certificate: for clients or for servers, never both.
pub fn issue(dir: &Path, request: &Request) -> Result<Issued, PkiError> {
    let Request { identity, hosts, days, renew } = request;
    let ca = dir.join(CA_CERT);
    let (ca_pem, ca_key) = (read(dir, CA_CERT)?, read(dir, CA_KEY)?);
    let ca_key = KeyPair::from_pem(&ca_key).map_err(PkiError::Make)?;
    let issuer = Issuer::from_ca_cert_pem(&ca_pem, ca_key).map_err(PkiError::Make)?;
    let stem = format!("{}-{}", identity.role, identity.name);
    let (cert, key) = (dir.join(format!("{stem}.crt")), dir.join(format!("{stem}.key")));
    if !renew && let Some(there) = [&cert, &key].into_iter().find(|path| path.exists()) {
        return Err(PkiError::Exists(there.clone()));
    }
    let mut params = CertificateParams::default();
    let expires_at = validity(&mut params, *days);
    params.distinguished_name.push(DnType::CommonName, stem);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.extended_key_usages = vec![if identity.role.is_called() {
        ExtendedKeyUsagePurpose::ServerAuth
    } else {
        ExtendedKeyUsagePurpose::ClientAuth
    }];
    let uri = Ia5String::try_from(identity.to_string()).map_err(PkiError::Make)?;
    params.subject_alt_names.push(SanType::URI(uri));
    for host in hosts {
        params.subject_alt_names.push(host_name(host)?);
    }
    let pair = KeyPair::generate().map_err(PkiError::Make)?;
    let made = params.signed_by(&pair, &issuer).map_err(PkiError::Make)?;
    write(&key, pair.serialize_pem().as_bytes(), 0o600)?;
    write(&cert, made.pem().as_bytes(), 0o644)?;
    Ok(Issued { cert, key, ca, expires_at })
}

fn validity(params: &mut CertificateParams, days: u32) -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BACKDATED;
    params.not_after = now + Duration::days(days.into());
    params.not_after
}

fn host_name(host: &str) -> Result<SanType, PkiError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let sound = !host.is_empty()
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'*' | b'_'));
    let name = sound.then(|| Ia5String::try_from(host.to_owned()).ok()).flatten();
    name.map(SanType::DnsName).ok_or_else(|| PkiError::Host(host.to_owned()))
}

fn read(dir: &Path, name: &str) -> Result<String, PkiError> {
    let path = dir.join(name);
    fs::read_to_string(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => PkiError::NoAuthority(dir.to_owned()),
        _ => PkiError::Read { path, source },
    })
}

/// Aside, durable, then renamed: whoever reads it meanwhile has the old file or the new one.
fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), PkiError> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let written = || {
        // What an interrupted one left may be readable by others.
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(mode).open(&aside)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&aside, path)
    };
    written().map_err(|source| PkiError::Write { path: path.to_owned(), source })
}
