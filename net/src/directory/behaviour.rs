//! What the control plane speaks and how much of it, as one libp2p behaviour.
//!
//! Decides protocol names, limits and time-outs. Never reacts to anything: see [`super::task`]. Autonat is left
//! out: nodes say themselves where they are reached, and peers list them only where they were seen.

use std::num::NonZeroUsize;
use std::time::Duration;

use dolmen_proto::limits::{NODE_RECORD_LIFE_MAX, NODE_RECORD_MAX_BYTES};
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::identity::Keypair;
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::NetworkBehaviour;
use libp2p::{StreamProtocol, Swarm, SwarmBuilder, identify, kad, ping};

use super::backoff;
use super::record_protocol::{RECORD_PROTOCOL, RecordCodec};

/// Our Kademlia's name: nobody else's network ever mixes with ours.
pub(super) const KAD_PROTOCOL: StreamProtocol = StreamProtocol::new("/dolmen/kad/1");
/// What identify says we speak; peers that say anything else are not listed and not kept.
pub(super) const PROTOCOL_VERSION: &str = "dolmen/1";

/// Node records that one node keeps for others.
pub(super) const STORED_RECORDS_MAX: usize = 1024;
/// Disjoint paths of a lookup, and requests under way on each.
const LOOKUP_PARALLELISM: NonZeroUsize = NonZeroUsize::new(6).expect("six is not zero");
/// A lookup ends by then with what it has.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(10);
/// One question to one peer, after the connection stands.
const QUESTION_DEADLINE: Duration = Duration::from_secs(5);
/// A handshake; long enough for two lost packets.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(4);
/// A connection on which nothing is asked is closed after this long.
const IDLE_CONNECTION_LIFE: Duration = Duration::from_secs(30);
/// How often identify repeats itself on a connection that stays.
const IDENTIFY_INTERVAL: Duration = Duration::from_secs(15 * 60);
/// How often a server refreshes its routing table.
const REFRESH_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// Flow-control window of a stream: several times the largest message, which is a kad packet of 16 KiB.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// Flow-control window of a connection, so that 512 connections hold at most 64 MiB.
const CONNECTION_WINDOW_BYTES: u32 = 128 * 1024;
/// Streams that a peer may have open on one connection.
const STREAMS_MAX: u32 = 64;

/// Everything that the control plane speaks.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    pub(super) backoff: backoff::Behaviour,
    pub(super) kad: kad::Behaviour<MemoryStore>,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    pub(super) records: request_response::Behaviour<RecordCodec>,
}

/// The libp2p endpoint of a server (a storage node) or a client; it neither listens nor dials yet.
///
/// # Errors
/// Never in practice: libp2p's builder wants it so.
pub(super) fn swarm(keypair: Keypair, server: bool) -> Result<Swarm<Behaviour>, super::DirectoryError> {
    let built = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_quic_config(|mut config| {
            config.handshake_timeout = HANDSHAKE_DEADLINE;
            config.max_idle_timeout = 20_000;
            config.keep_alive_interval = Duration::from_secs(8);
            config.max_stream_data = STREAM_WINDOW_BYTES;
            config.max_connection_data = CONNECTION_WINDOW_BYTES;
            config.max_concurrent_stream_limit = STREAMS_MAX;
            // Connections are short and messages small: probing for larger datagrams costs more than it brings.
            config.disable_path_mtu_discovery()
        })
        .with_behaviour(|keypair| behaviour(keypair, server))
        .map_err(|error| super::DirectoryError::Libp2p(error.to_string()))?
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE_CONNECTION_LIFE))
        .build();
    Ok(built)
}

/// What a server keeps for others: records of nodes, no provider records.
pub(super) fn store_limits() -> MemoryStoreConfig {
    MemoryStoreConfig {
        max_records: STORED_RECORDS_MAX + 1,        // and our own
        max_value_bytes: NODE_RECORD_MAX_BYTES + 1, // the store refuses what reaches its maximum
        max_providers_per_key: 1,
        max_provided_keys: 0,
    }
}

fn behaviour(keypair: &Keypair, server: bool) -> Behaviour {
    let own = keypair.public().to_peer_id();
    let limits = ConnectionLimits::default()
        .with_max_pending_incoming(Some(128))
        .with_max_pending_outgoing(Some(512))
        .with_max_established_incoming(Some(if server { 384 } else { 0 }))
        .with_max_established_outgoing(Some(512))
        .with_max_established(Some(512))
        .with_max_established_per_peer(Some(4));

    let mut config = kad::Config::new(KAD_PROTOCOL);
    config
        .set_query_timeout(LOOKUP_DEADLINE)
        .set_substreams_timeout(QUESTION_DEADLINE)
        .set_parallelism(LOOKUP_PARALLELISM)
        .disjoint_query_paths(true)
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_record_ttl(Some(NODE_RECORD_LIFE_MAX))
        // Each node puts its own record and nobody else's: kad's background jobs are not needed, and one of them
        // remembers every key that peers put.
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None)
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_caching(kad::Caching::Disabled)
        .set_periodic_bootstrap_interval(server.then_some(REFRESH_INTERVAL));
    let mut kad = kad::Behaviour::with_config(own, MemoryStore::with_config(own, store_limits()), config);
    kad.set_mode(Some(if server { kad::Mode::Server } else { kad::Mode::Client }));

    let identify = identify::Config::new(PROTOCOL_VERSION.to_owned(), keypair.public())
        .with_agent_version(format!("dolmen/{}", env!("CARGO_PKG_VERSION")))
        .with_interval(IDENTIFY_INTERVAL)
        .with_cache_size(0); // addresses by hearsay are not dialled; the routing table has those that were seen
    let support = if server { ProtocolSupport::Full } else { ProtocolSupport::Outbound };
    let exchange =
        request_response::Config::default().with_request_timeout(QUESTION_DEADLINE).with_max_concurrent_streams(8);

    Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        backoff: backoff::Behaviour::default(),
        kad,
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_secs(60))),
        records: request_response::Behaviour::with_codec(RecordCodec, [(RECORD_PROTOCOL, support)], exchange),
    }
}
