//! The name that a request was sent to must be one of ours: a page of a foreign name that resolves
//! to this address (DNS rebinding) sends its own name, and is turned away.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;

use crate::api::ApiState;
use crate::api::error::{ApiError, ErrorCode};

const LOOPBACK_NAMES: [&str; 3] = ["127.0.0.1", "[::1]", "localhost"];

/// The port of `http` where a name carries none.
const DEFAULT_PORT: u16 = 80;

/// Which names a server answers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPolicy {
    port: u16,
    /// Lower case, without a port: they count with our port.
    names: Vec<String>,
    /// Configured names. Without a port they count with any: a proxy in front has its own.
    configured: Vec<(String, Option<u16>)>,
    /// An address cannot be rebound as a name can: listening elsewhere, any literal one is ours.
    any_address: bool,
}

impl HostPolicy {
    /// For a server that listens on `address` and is also known as the `configured` names, each
    /// with or without a port.
    pub fn new(address: SocketAddr, configured: &[String]) -> Self {
        Self {
            port: address.port(),
            names: LOOPBACK_NAMES.map(str::to_owned).to_vec(),
            configured: configured.iter().map(|name| configured_name(name)).collect(),
            any_address: !address.ip().is_loopback(),
        }
    }

    /// Whether an authority (`name` or `name:port`) is one of ours.
    pub fn allows(&self, authority: &str) -> bool {
        let (name, port) = split(authority);
        let name = name.to_ascii_lowercase();
        if self.configured.iter().any(|(n, p)| *n == name && (p.is_none() || *p == port)) {
            return true;
        }
        let named = self.names.contains(&name) || (self.any_address && is_address(&name));
        named && port.unwrap_or(DEFAULT_PORT) == self.port
    }
}

fn configured_name(text: &str) -> (String, Option<u16>) {
    let (name, port) = split(text);
    (name.to_ascii_lowercase(), port)
}

/// Splits `name:port`. What stands where a port belongs and is none makes the whole a name, which
/// then is nobody's.
fn split(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && (!name.contains(':') || name.ends_with(']')) => {
            match port.parse() {
                Ok(port) => (name, Some(port)),
                Err(_) => (authority, None),
            }
        }
        _ => (authority, None),
    }
}

fn is_address(name: &str) -> bool {
    let v6 = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match v6 {
        Some(v6) => v6.parse::<Ipv6Addr>().is_ok(),
        None => name.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4()),
    }
}

pub(crate) async fn check_host(
    State(state): State<ApiState>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let hosts = &state.config().hosts;
    let mut named = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (named.next(), named.next()) else {
        return Err(ApiError::new(ErrorCode::MalformedRequest, "exactly one `Host` header is needed"));
    };
    let in_target = request.uri().authority().map(|authority| authority.as_str());
    let host = host.to_str().unwrap_or_default();
    if !hosts.allows(host) || in_target.is_some_and(|authority| !hosts.allows(authority)) {
        return Err(ApiError::new(
            ErrorCode::MisdirectedRequest,
            "the request's `Host` is not this server's: use the address that `fumehood serve` printed, or add the name to the server's allowed hosts",
        ));
    }
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(address: &str, configured: &[&str]) -> HostPolicy {
        let configured: Vec<String> = configured.iter().map(|&name| name.to_owned()).collect();
        HostPolicy::new(address.parse().expect("an address"), &configured)
    }

    #[test]
    fn on_loopback_only_its_own_names_with_its_own_port() {
        let policy = policy("127.0.0.1:8080", &[]);
        for ours in ["127.0.0.1:8080", "localhost:8080", "LocalHost:8080", "[::1]:8080"] {
            assert!(policy.allows(ours), "{ours}");
        }
        for foreign in [
            "",
            ":",
            ":8080",
            "localhost",
            "localhost:",
            "localhost:8081",
            "localhost:80800",
            "localhost:8080:8080",
            "evil.example:8080",
            "localhost.evil.example:8080",
            "127.0.0.1.nip.io:8080",
            "127.0.0.2:8080",
            "10.0.0.1:8080",
            "[::2]:8080",
            "::1:8080",
            "evil@localhost:8080",
            "localhost :8080",
        ] {
            assert!(!policy.allows(foreign), "{foreign}");
        }
    }

    #[test]
    fn port_80_need_not_be_named() {
        assert!(policy("127.0.0.1:80", &[]).allows("localhost"));
        assert!(policy("[::1]:80", &[]).allows("[::1]"));
    }

    #[test]
    fn elsewhere_addresses_and_configured_names_are_ours() {
        let policy = policy("0.0.0.0:8080", &["hood.example", "Other.example:9000"]);
        for ours in
            ["10.1.2.3:8080", "[fd00::1]:8080", "hood.example", "hood.example:443", "other.example:9000"]
        {
            assert!(policy.allows(ours), "{ours}");
        }
        for foreign in ["10.1.2.3:9", "other.example", "other.example:8080", "evil.example:8080"] {
            assert!(!policy.allows(foreign), "{foreign}");
        }
    }
}
