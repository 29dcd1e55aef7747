//! What may be configured about the data plane, with the defaults and their relations.
//!
//! Decides bounds of one process. What holds for everybody is in [`dolmen_proto::limits`].

use std::time::Duration;

use crate::datagram::DATAGRAM_MAX_BYTES;
use dolmen_proto::limits::{KIB, MIB, PROGRESS_DEADLINE, WIRE_HEADER_MAX_BYTES};

/// The bounds that one end of the data plane keeps to. Start from the default and change fields.
#[derive(Debug, Clone)]
pub struct DataPlaneOptions {
    /// All receive and send windows together, in bytes. Bytes that were handed to a caller are the caller's.
    pub memory_budget_bytes: u64,
    /// What each connection may buffer in each direction from its start, in bytes; a connection for which the
    /// budget has not twice this left is refused.
    pub window_start_bytes: u64,
    /// What one connection's window may grow to in each direction, in bytes, while the budget allows.
    pub window_max_bytes: u64,
    /// Most connections at a time: accepted ones of a server, pooled ones of a client.
    pub connections_max: usize,
    /// Most connections at a time of one peer's key to a server.
    pub connections_per_peer_max: usize,
    /// Most connections at a time from one address (a /64 of IPv6) to a server; loopback is not counted.
    pub connections_per_address_max: usize,
    /// Most requests at a time on one connection.
    pub streams_per_connection_max: u32,
    /// Most requests at a time that a server works on; one peer's are at most a quarter of them.
    pub streams_max: usize,
    /// Most handshakes at a time that a server takes part in.
    pub handshakes_max: usize,
    /// With this many handshakes under way a server asks newcomers to prove their address first.
    pub handshakes_before_retry: usize,
    /// A stream on which no byte moves for this long is given up. Never a limit on a whole transfer.
    pub progress_deadline: Duration,
    /// The longest that dialling a node may take, over all of its addresses.
    pub dial_timeout: Duration,
    /// How long one address of a node is tried before the next is tried beside it.
    pub dial_stagger: Duration,
    /// A connection that hears nothing for this long is lost.
    pub idle_timeout: Duration,
    /// How often a client tells a silent connection's peer that it is there; under half of `idle_timeout`.
    pub keep_alive: Duration,
    /// A client closes a connection that was not used for this long.
    pub pool_idle: Duration,
    /// How long a server waits for a free place before it answers that it is busy.
    pub busy_patience: Duration,
    /// How long a server that shuts down waits for the requests that it works on.
    pub drain_deadline: Duration,
    /// Largest datagram that is tried, in bytes, where that is less than what the path's class allows; `None`: as the class
    /// allows. For paths that drop larger ones without a word.
    pub datagram_max_bytes: Option<u16>,
    /// What the sockets' buffers are raised to, as far as the system allows, in bytes.
    pub socket_buffer_bytes: usize,
}

impl Default for DataPlaneOptions {
    fn default() -> Self {
        Self {
            memory_budget_bytes: 256 * MIB,
            window_start_bytes: 256 * KIB,
            window_max_bytes: 8 * MIB,
            connections_max: 256,
            connections_per_peer_max: 4,
            connections_per_address_max: 32,
            streams_per_connection_max: 64,
            streams_max: 1024,
            handshakes_max: 64,
            handshakes_before_retry: 16,
            progress_deadline: PROGRESS_DEADLINE,
            dial_timeout: Duration::from_secs(5),
            dial_stagger: Duration::from_millis(250),
            idle_timeout: Duration::from_secs(20),
            keep_alive: Duration::from_secs(5),
            pool_idle: Duration::from_secs(60),
            busy_patience: Duration::from_secs(2),
            drain_deadline: Duration::from_secs(10),
            datagram_max_bytes: None,
            socket_buffer_bytes: 8 * 1024 * 1024,
        }
    }
}

/// Options that contradict each other: the caller's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("data plane options: {0}")]
pub struct OptionsError(&'static str);

impl DataPlaneOptions {
    /// Checks what the fields' descriptions demand of each other.
    ///
    /// # Errors
    /// [`OptionsError`] that names the relation that does not hold.
    pub fn validate(&self) -> Result<(), OptionsError> {
        let holds = [
            (self.window_start_bytes >= WIRE_HEADER_MAX_BYTES as u64, "window_start_bytes must fit a header"),
            (self.window_max_bytes >= self.window_start_bytes, "window_max_bytes is under window_start_bytes"),
            (self.window_max_bytes <= u64::from(u32::MAX), "window_max_bytes is over 4 GiB"),
            (self.memory_budget_bytes / 4 >= self.window_start_bytes, "memory_budget_bytes is under four windows"),
            (
                self.datagram_max_bytes.is_none_or(|bytes| (1200..=DATAGRAM_MAX_BYTES).contains(&bytes)),
                "datagram_max_bytes is not from 1,200 to 65,527",
            ),
            (self.connections_max > 0, "connections_max is zero"),
            (self.connections_per_peer_max > 0, "connections_per_peer_max is zero"),
            (self.connections_per_address_max > 0, "connections_per_address_max is zero"),
            (self.streams_per_connection_max > 0, "streams_per_connection_max is zero"),
            (self.streams_max > 0, "streams_max is zero"),
            (self.handshakes_max > 0, "handshakes_max is zero"),
            (!self.progress_deadline.is_zero(), "progress_deadline is zero"),
            (!self.dial_timeout.is_zero(), "dial_timeout is zero"),
            (self.idle_timeout >= Duration::from_millis(100), "idle_timeout is under 100 ms"),
            (self.idle_timeout <= Duration::from_secs(3600), "idle_timeout is over an hour"),
            (self.keep_alive * 2 <= self.idle_timeout, "keep_alive is over half of idle_timeout"),
            (!self.pool_idle.is_zero(), "pool_idle is zero"),
        ];
        match holds.into_iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(OptionsError(rule)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_and_a_contradiction_is_named() {
        assert_eq!(DataPlaneOptions::default().validate(), Ok(()));
        let tight = DataPlaneOptions { memory_budget_bytes: 1024, ..Default::default() };
        assert!(tight.validate().expect_err("too tight").to_string().contains("memory_budget_bytes"));
        let zero = DataPlaneOptions { progress_deadline: Duration::ZERO, ..Default::default() };
        assert!(zero.validate().is_err());
    }
}
