//! How large datagrams are on which path, and what a connection really uses.
//!
//! Decides quinn's transport parameters by where the peer is. Never decides windows (see [`crate::windows`]) beyond
//! their start.
//!
//! The datagram size decides a factor of five in cost. The trap: quinn sends up to ten datagrams in one segmented
//! send, and the kernel refuses more than 64 KiB a send, so datagrams over 6,550 bytes need segmentation off;
//! with both, sends fail, quinn takes the path for a black hole and falls to 1,200 bytes.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use crate::courtesy::CourteousConfig;
use crate::options::DataPlaneOptions;

/// The largest datagram that our endpoints accept: all that UDP over IPv6 can carry.
pub(crate) const DATAGRAM_MAX_BYTES: u16 = 65_527;
/// Datagrams on loopback, where its MTU is the usual 65,536.
const LOOPBACK_DATAGRAM_BYTES: u16 = 65_000;
/// What loopback falls back to when losses look like a black hole: small socket buffers overflow when many nodes send at
/// once, and at 1,200 bytes that costs a factor of four. First packets are padded to this size, and quinn panics where
/// their length does not fit 14 bits.
const LOOPBACK_LEAST_DATAGRAM_BYTES: u16 = 16_000;
/// Ten of these fit one segmented send.
const JUMBO_DATAGRAM_BYTES: u16 = 6_400;
/// Ethernet's MTU less the headers of IPv6 and UDP.
const INTERNET_DATAGRAM_BYTES: u16 = 1_452;
/// QUIC's smallest datagram, which every path carries.
const SAFE_DATAGRAM_BYTES: u16 = 1_200;

/// Where a peer is, as far as its address tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathClass {
    /// On this machine: datagrams of nearly 64 KiB, no segmentation.
    Loopback,
    /// On a private network: perhaps jumbo frames, which discovery finds.
    Private,
    /// Anywhere else: Ethernet's size, segmentation on.
    Internet,
}

impl PathClass {
    /// The class of a peer's address.
    #[must_use]
    pub fn of(address: SocketAddr) -> Self {
        match address.ip().to_canonical() {
            ip if ip.is_loopback() => Self::Loopback,
            IpAddr::V4(ip) if ip.is_private() || ip.is_link_local() => Self::Private,
            IpAddr::V6(ip) if ip.is_unique_local() || ip.is_unicast_link_local() => Self::Private,
            IpAddr::V4(_) | IpAddr::V6(_) => Self::Internet,
        }
    }

    /// Largest datagram that is tried.
    fn datagram_max_bytes(self) -> u16 {
        match self {
            Self::Loopback => loopback_datagram_bytes().max(INTERNET_DATAGRAM_BYTES),
            Self::Private => JUMBO_DATAGRAM_BYTES,
            Self::Internet => INTERNET_DATAGRAM_BYTES,
        }
    }

    /// The transport of a connection on such a path.
    pub(crate) fn transport(self, options: &DataPlaneOptions, side: quinn::Side) -> Arc<TransportConfig> {
        let most = options.datagram_max_bytes.unwrap_or(u16::MAX).min(self.datagram_max_bytes());
        // Loopback that may carry only what other paths do is one of them.
        let class = match self {
            Self::Loopback if most <= INTERNET_DATAGRAM_BYTES => Self::Internet,
            Self::Loopback if most < LOOPBACK_LEAST_DATAGRAM_BYTES => Self::Private,
            class => class,
        };
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(most);
        let mut acknowledgements = AckFrequencyConfig::default();
        let mut transport = TransportConfig::default();
        match class {
            Self::Loopback => {
                // The kernel says what loopback carries, so small transfers need not wait for discovery; a supposed
                // black hole is looked at again at once. Few datagrams are under way, so each second one is acknowledged.
                discovery.black_hole_cooldown(Duration::from_secs(1));
                acknowledgements.max_ack_delay(Some(Duration::from_millis(1)));
                let mut congestion = CubicConfig::default();
                congestion.initial_window(LOOPBACK_CONGESTION_WINDOW_BYTES);
                transport
                    .initial_mtu(most)
                    .min_mtu(most.min(LOOPBACK_LEAST_DATAGRAM_BYTES))
                    .enable_segmentation_offload(false)
                    .congestion_controller_factory(Arc::new(congestion));
            }
            Self::Private | Self::Internet => {
                acknowledgements.ack_eliciting_threshold(VarInt::from_u32(10));
                transport.initial_mtu(SAFE_DATAGRAM_BYTES).enable_segmentation_offload(true);
                // Over short ways with short queues, as in one building, Cubic moves half as much again.
                if class == Self::Internet {
                    transport.congestion_controller_factory(Arc::new(CourteousConfig));
                }
            }
        }
        let window = VarInt::from_u64(options.window_start_bytes).unwrap_or(VarInt::MAX);
        // The connection's window bounds all of its streams together and can be changed while it lives; a stream's
        // own cannot, so it is left wide.
        let stream_window = VarInt::from_u64(options.window_max_bytes).unwrap_or(VarInt::MAX);
        let streams = match side {
            quinn::Side::Server => options.streams_per_connection_max,
            quinn::Side::Client => 0,
        };
        transport
            .mtu_discovery_config(Some(discovery))
            .ack_frequency_config(Some(acknowledgements))
            .receive_window(window)
            .stream_receive_window(stream_window)
            .send_window(options.window_start_bytes)
            .max_concurrent_bidi_streams(VarInt::from_u32(streams))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .datagram_receive_buffer_size(None)
            .max_idle_timeout(IdleTimeout::try_from(options.idle_timeout).ok())
            .keep_alive_interval((side == quinn::Side::Client).then_some(options.keep_alive))
            .allow_spin(false);
        Arc::new(transport)
    }
}

/// In flight on loopback from the start: nothing is between the ends but a socket buffer of several times this.
const LOOPBACK_CONGESTION_WINDOW_BYTES: u64 = 1024 * 1024;

/// What loopback's MTU carries in one datagram; QUIC's minimum where the system does not tell.
fn loopback_datagram_bytes() -> u16 {
    static BYTES: OnceLock<u16> = OnceLock::new();
    *BYTES.get_or_init(|| {
        // The headers of IPv6 and UDP, the larger of both families.
        let payload = |mtu: u32| u16::try_from(mtu.saturating_sub(48)).unwrap_or(u16::MAX);
        std::fs::read_to_string("/sys/class/net/lo/mtu")
            .ok()
            .and_then(|text| text.trim().parse::<u32>().ok())
            .map_or(SAFE_DATAGRAM_BYTES, payload)
            .clamp(SAFE_DATAGRAM_BYTES, LOOPBACK_DATAGRAM_BYTES)
    })
}

/// What a connection's path is like at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathReport {
    /// The peer's address.
    pub address: SocketAddr,
    /// What its address says of the path.
    pub class: PathClass,
    /// The datagram size in use, in bytes.
    pub datagram_bytes: u16,
    /// How often the path looked like a black hole; more than zero on a slow path is worth a look.
    pub black_holes_detected: u64,
    /// The estimated round trip.
    pub round_trip: Duration,
    /// Packets sent.
    pub packets_sent: u64,
    /// Packets of those that were lost.
    pub packets_lost: u64,
    /// Bytes sent in datagrams.
    pub bytes_sent: u64,
    /// Bytes received in datagrams.
    pub bytes_received: u64,
    /// Datagrams sent for each system call, on average and times a hundred.
    pub datagrams_per_100_sends: u64,
}

impl PathReport {
    pub(crate) fn of(connection: &quinn::Connection) -> Self {
        let stats = connection.stats();
        let address = canonical(connection.remote_address());
        Self {
            address,
            class: PathClass::of(address),
            datagram_bytes: stats.path.current_mtu,
            black_holes_detected: stats.path.black_holes_detected,
            round_trip: stats.path.rtt,
            packets_sent: stats.path.sent_packets,
            packets_lost: stats.path.lost_packets,
            bytes_sent: stats.udp_tx.bytes,
            bytes_received: stats.udp_rx.bytes,
            datagrams_per_100_sends: stats.udp_tx.datagrams.saturating_mul(100) / stats.udp_tx.ios.max(1),
        }
    }
}

/// An address without the mapping of IPv4 into IPv6.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_their_class() {
        let class = |text: &str| PathClass::of(text.parse().expect("an address"));
        for loopback in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(class(loopback), PathClass::Loopback, "{loopback}");
        }
        for private in ["10.1.2.3:1", "192.168.0.1:1", "169.254.0.1:1", "[fd00::1]:1", "[fe80::1]:1"] {
            assert_eq!(class(private), PathClass::Private, "{private}");
        }
        for internet in ["203.0.113.7:1", "[2001:db8::1]:1", "100.64.0.1:1"] {
            assert_eq!(class(internet), PathClass::Internet, "{internet}");
        }
    }

    #[tokio::test]
    async fn a_limit_below_what_loopback_carries_makes_it_a_path_like_others() {
        let options = DataPlaneOptions { datagram_max_bytes: Some(1452), ..DataPlaneOptions::default() };
        let text = format!("{:?}", PathClass::Loopback.transport(&options, quinn::Side::Client));
        assert!(text.contains("initial_mtu: 1200") && text.contains("upper_bound: 1452"), "{text}");
        let free = format!("{:?}", PathClass::Loopback.transport(&DataPlaneOptions::default(), quinn::Side::Client));
        assert!(!free.contains("upper_bound: 1452"), "{free}");
    }

    #[test]
    fn segmented_sends_stay_under_64_kib() {
        for class in [PathClass::Private, PathClass::Internet] {
            assert!(u32::from(class.datagram_max_bytes()) * 10 < 65_536, "{class:?}");
        }
        assert!(PathClass::Loopback.datagram_max_bytes() <= DATAGRAM_MAX_BYTES);
        const { assert!(LOOPBACK_LEAST_DATAGRAM_BYTES < 1 << 14, "a first packet's length has 14 bits") };
    }
}
