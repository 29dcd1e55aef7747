//! The network that a peer speaks from, as far as limits on strangers care: /24 of IPv4, /48 of IPv6.
//!
//! Decides which addresses share a limit and which are exempt. Never decides the limit.

use std::net::IpAddr;

/// A network that counts as one stranger. Keys are free and addresses nearly so; networks are neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subnet {
    /// The first 24 bits of an IPv4 address.
    V4([u8; 3]),
    /// The first 48 bits of an IPv6 address.
    V6([u8; 6]),
}

impl Subnet {
    /// The network of an address; `None` for loopback, private and link-local ones, which no limit counts.
    #[must_use]
    pub fn of(address: IpAddr) -> Option<Self> {
        match address.to_canonical() {
            IpAddr::V4(v4) if v4.is_loopback() || v4.is_private() || v4.is_link_local() => None,
            IpAddr::V4(v4) => {
                let [a, b, c, _] = v4.octets();
                Some(Self::V4([a, b, c]))
            }
            IpAddr::V6(v6) if v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local() => None,
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, ..] = v6.octets();
                Some(Self::V6([a, b, c, d, e, f]))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<Subnet> {
        Subnet::of(text.parse().expect("an address"))
    }

    #[test]
    fn neighbours_share_a_subnet_and_local_addresses_have_none() {
        assert_eq!(of("203.0.113.7"), Some(Subnet::V4([203, 0, 113])));
        assert_eq!(of("203.0.113.7"), of("203.0.113.250"));
        assert_ne!(of("203.0.113.7"), of("203.0.114.7"));
        assert_eq!(of("::ffff:203.0.113.7"), of("203.0.113.7"), "a mapped address is the IPv4 one");
        assert_eq!(of("2001:db8:1:2::3"), of("2001:db8:1:ffff::4"));
        assert_ne!(of("2001:db8:1::"), of("2001:db8:2::"));
        for local in ["127.0.0.1", "10.1.2.3", "192.168.0.9", "169.254.1.1", "::1", "fe80::1", "fd00::1"] {
            assert_eq!(of(local), None, "{local}");
        }
    }
}
