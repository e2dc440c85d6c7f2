//! Which addresses may be connected to. What belongs to this host, to its network, to a cloud's metadata
//! service or to nobody is refused, in each of the forms in which IPv6 writes an IPv4 address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Addresses that share their first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    bits: u8,
}

impl Network {
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.bits);
                let head = |address: Ipv4Addr| address.to_bits().checked_shr(shift).unwrap_or(0);
                head(first) == head(address)
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.bits);
                let head = |address: Ipv6Addr| address.to_bits().checked_shr(shift).unwrap_or(0);
                head(first) == head(address)
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = ();

    /// `10.0.0.0/8`, `fd00::/8`, or one address.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (first, bits) = match text.split_once('/') {
            Some((first, bits)) => (first, Some(bits)),
            None => (text, None),
        };
        let first: IpAddr = first.parse().map_err(drop)?;
        let most = if first.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), |bits| bits.parse().map_err(drop))?;
        if bits <= most { Ok(Self { first, bits }) } else { Err(()) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

/// The operator's exceptions, either way. What is refused stays so, whatever is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    pub allow: Vec<Network>,
    pub refuse: Vec<Network>,
}

impl Rules {
    /// The reason why an address is not connected to, if there is one.
    pub fn refusal(&self, address: IpAddr) -> Option<&'static str> {
        let meant = meant(address);
        let among = |networks: &[Network]| {
            networks.iter().any(|network| network.contains(meant) || network.contains(address))
        };
        if among(&self.refuse) {
            return Some("the operator refuses it");
        }
        if among(&self.allow) {
            return None;
        }
        match meant {
            IpAddr::V4(address) => refusal_v4(address),
            IpAddr::V6(address) => refusal_v6(address),
        }
    }
}

/// The IPv4 address that an IPv6 one stands for: mapped, compatible, NAT64, 6to4.
fn meant(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let low = || IpAddr::V4(Ipv4Addr::from_bits(v6.to_bits() as u32));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => low(),
        // `::` and `::1` are their own.
        [0, 0, 0, 0, 0, 0, high, last] if high != 0 || last > 1 => low(),
        [0x2002, high, low, ..] => IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))),
        _ => address,
    }
}

/// What is not to be reached from outside, and why: the special-purpose registry of IANA.
const V4: [(Ipv4Addr, u8, &str); 16] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8, "it is unspecified"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "it is private"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "it is a carrier's (CGNAT)"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "it is loopback"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "it is link-local, as metadata services are"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "it is private"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "it is reserved"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "it is for documentation"),
    (Ipv4Addr::new(192, 31, 196, 0), 24, "it is reserved"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "it is a relay's (6to4)"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "it is private"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "it is for benchmarks"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "it is for documentation"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "it is for documentation"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "it is multicast"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "it is reserved"),
];

fn refusal_v4(address: Ipv4Addr) -> Option<&'static str> {
    let inside = |(first, bits, _): &&(Ipv4Addr, u8, &str)| {
        Network { first: IpAddr::V4(*first), bits: *bits }.contains(IpAddr::V4(address))
    };
    // A cloud's metadata service outside the link-local range.
    const METADATA: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);
    if address == METADATA {
        return Some("it is a metadata service");
    }
    V4.iter().find(inside).map(|(_, _, why)| *why)
}

/// Within the global unicast range, what is not anybody's host.
const V6: [(Ipv6Addr, u8, &str); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, "it is a protocol's (Teredo and others)"),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, "it is for documentation"),
    (Ipv6Addr::new(0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0), 48, "it is reserved"),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, "it is for documentation"),
];

fn refusal_v6(address: Ipv6Addr) -> Option<&'static str> {
    const GLOBAL: Network =
        Network { first: IpAddr::V6(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0)), bits: 3 };
    if address.is_loopback() {
        return Some("it is loopback");
    }
    if address.is_unspecified() {
        return Some("it is unspecified");
    }
    if address.is_multicast() {
        return Some("it is multicast");
    }
    // Private, link-local, site-local, local NAT64, discard and whatever is not assigned.
    if !GLOBAL.contains(IpAddr::V6(address)) {
        return Some("it is not a global address");
    }
    let inside = |(first, bits, _): &&(Ipv6Addr, u8, &str)| {
        Network { first: IpAddr::V6(*first), bits: *bits }.contains(IpAddr::V6(address))
    };
    V6.iter().find(inside).map(|(_, _, why)| *why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(rules: &Rules, address: &str) -> bool {
        rules.refusal(address.parse().expect(address)).is_some()
    }

    #[test]
    fn what_is_not_a_host_of_the_internet_is_refused_in_every_form() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.169.254",
            "169.254.170.2",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.168.1.1",
            "192.0.2.1",
            "192.88.99.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "::",
            "::1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2001:10::1",
            "3fff::1",
            "4000::1",
            "64:ff9b:1::1",
            // The same hosts behind IPv6's ways to write IPv4.
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "::10.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b::10.0.0.1",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2002:a9fe:a9fe::1",
            "2002:c0a8:101::1",
        ] {
            assert!(refused(&Rules::default(), address), "{address}");
        }
    }

    #[test]
    fn hosts_of_the_internet_are_not() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "169.253.255.255",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700:4700::1111",
            "2a00:1450:4001:81b::200e",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
        ] {
            assert!(!refused(&Rules::default(), address), "{address}");
        }
    }

    #[test]
    fn the_operator_allows_and_refuses_and_refusing_wins() {
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().expect(text)).collect();
        let rules = Rules {
            allow: networks(&["10.1.0.0/16", "127.0.0.1", "fd00:1::/32"]),
            refuse: networks(&["10.1.2.0/24", "8.8.0.0/16", "2606:4700::/32"]),
        };
        for allowed in ["10.1.0.1", "127.0.0.1", "fd00:1::5", "::ffff:10.1.0.1", "64:ff9b::10.1.0.1"] {
            assert!(!refused(&rules, allowed), "{allowed}");
        }
        for refused_ in ["10.2.0.1", "127.0.0.2", "10.1.2.3", "::ffff:10.1.2.3", "8.8.8.8", "2606:4700::1"] {
            assert!(refused(&rules, refused_), "{refused_}");
        }
        for wrong in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "host", "10.0.0.0/-1"] {
            assert_eq!(wrong.parse::<Network>(), Err(()), "{wrong}");
        }
        let everything: Network = "0.0.0.0/0".parse().expect("a network");
        assert!(everything.contains("9.9.9.9".parse().expect("an address")));
        assert!(!everything.contains("::1".parse().expect("an address")));
    }
}
