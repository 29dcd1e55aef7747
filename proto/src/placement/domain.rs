//! Domains: what nodes share, so that they may fail or be seized together.

use core::fmt;
use core::net::IpAddr;
use std::collections::BTreeMap;

use super::Candidate;
use crate::ids::OperatorId;

/// Something that several nodes may have in common. The order is that of the soft rules.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Domain {
    /// Who runs them.
    Operator(OperatorId),
    /// The first three bytes of an IPv4 address.
    SubnetV4([u8; 3]),
    /// The first six bytes of an IPv6 address.
    SubnetV6([u8; 6]),
    /// The two largest places of a region.
    Region(String),
}

impl Domain {
    /// All domains of a node. Loopback, private and link-local addresses are in none.
    pub(super) fn of(candidate: &Candidate) -> Vec<Self> {
        let mut domains: Vec<Self> = candidate.operator.map(Self::Operator).into_iter().collect();
        domains.extend(candidate.addresses.iter().copied().filter_map(Self::subnet));
        domains.extend(candidate.region.as_ref().map(|region| Self::Region(region.domain().to_owned())));
        domains.sort_unstable();
        domains.dedup();
        domains
    }

    /// The subnet of a public address.
    fn subnet(address: IpAddr) -> Option<Self> {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let [first, second, third, _] = address.octets();
                let shared = first == 100 && (64..128).contains(&second);
                let local = address.is_loopback()
                    || address.is_private()
                    || address.is_link_local()
                    || address.is_unspecified()
                    || shared;
                (!local).then_some(Self::SubnetV4([first, second, third]))
            }
            IpAddr::V6(address) => {
                let local = address.is_loopback()
                    || address.is_unique_local()
                    || address.is_unicast_link_local()
                    || address.is_unspecified();
                let [a, b, c, d, e, f, ..] = address.octets();
                (!local).then_some(Self::SubnetV6([a, b, c, d, e, f]))
            }
        }
    }

    /// The place of this kind of domain among the soft rules.
    pub(super) const fn rank(&self) -> usize {
        match self {
            Self::Operator(_) => 0,
            Self::SubnetV4(_) | Self::SubnetV6(_) => 1,
            Self::Region(_) => 2,
        }
    }
}

/// Ranks of domains: operator, subnet, region.
pub(super) const RANKS: usize = 3;

impl fmt::Display for Domain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator(operator) => write!(formatter, "operator {}", operator.short()),
            Self::SubnetV4([a, b, c]) => write!(formatter, "subnet {a}.{b}.{c}.0/24"),
            Self::SubnetV6([a, b, c, d, e, f]) => {
                write!(formatter, "subnet {a:02x}{b:02x}:{c:02x}{d:02x}:{e:02x}{f:02x}::/48")
            }
            Self::Region(region) => write!(formatter, "region {region}"),
        }
    }
}

/// The domains that hold the most shards of one segment, with their counts; `None` where no node has such a domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LargestDomains {
    /// The operator with the most.
    pub operator: Option<(Domain, usize)>,
    /// The subnet with the most.
    pub subnet: Option<(Domain, usize)>,
    /// The region with the most.
    pub region: Option<(Domain, usize)>,
}

/// The largest domains among the nodes that hold the shards of one segment, for `info`.
#[must_use]
pub fn largest_domains<'a>(holders: impl IntoIterator<Item = &'a Candidate>) -> LargestDomains {
    let mut loads: BTreeMap<Domain, usize> = BTreeMap::new();
    for domain in holders.into_iter().flat_map(Domain::of) {
        *loads.entry(domain).or_default() += 1;
    }
    let mut largest: [Option<(Domain, usize)>; RANKS] = [None, None, None];
    for (domain, load) in loads {
        let slot = &mut largest[domain.rank()];
        if slot.as_ref().is_none_or(|(_, most)| load > *most) {
            *slot = Some((domain, load));
        }
    }
    let [operator, subnet, region] = largest;
    LargestDomains { operator, subnet, region }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(address: &str) -> Option<String> {
        Domain::subnet(address.parse().expect("an address of the test")).map(|domain| domain.to_string())
    }

    #[test]
    fn public_addresses_have_subnets_and_local_ones_have_none() {
        assert_eq!(subnet("203.0.113.7").as_deref(), Some("subnet 203.0.113.0/24"));
        assert_eq!(subnet("::ffff:203.0.113.7").as_deref(), Some("subnet 203.0.113.0/24"));
        assert_eq!(subnet("2001:db8:1:2::3").as_deref(), Some("subnet 2001:0db8:0001::/48"));
        for local in [
            "127.0.0.1",
            "10.1.2.3",
            "192.168.1.1",
            "169.254.0.1",
            "100.64.0.1",
            "0.0.0.0",
            "::1",
            "fe80::1",
            "fd00::1",
            "::",
        ] {
            assert_eq!(subnet(local), None, "{local}");
        }
        assert!(subnet("100.128.0.1").is_some() && subnet("172.32.0.1").is_some());
    }
}
