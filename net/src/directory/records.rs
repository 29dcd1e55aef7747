//! Which node records are believed, and which a server keeps for others.
//!
//! Decides that a record counts only when its own node signed it, it is unexpired, and it is not older than the
//! one known; and that a server stores it only under its node's key, from that node itself. Never fetches anything.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use dolmen_proto::ids::{NodeId, Timestamp};
use dolmen_proto::limits::{CLOCK_SKEW_MAX, NODE_RECORD_LIFE_MAX, NODE_RECORD_MAX_BYTES};
use dolmen_proto::placement::kad_distance;
use dolmen_proto::wire::record::decode_record;
use dolmen_proto::wire::{NodeRecord, Signed, WireError};
use libp2p::kad::store::{MemoryStore, RecordStore};
use libp2p::{Multiaddr, PeerId, kad};

use super::address::{node_id_of, socket_address_of};
use super::behaviour::STORED_RECORDS_MAX;

/// What comes before the node's 32 bytes in the key of its record.
const KEY_PREFIX: &[u8] = b"/dolmen/node/";

/// A record whose signature holds, with the bytes that it was read from.
#[derive(Debug, Clone)]
pub(super) struct BelievedRecord {
    pub(super) node: NodeId,
    pub(super) record: NodeRecord,
    pub(super) bytes: Bytes,
}

/// Why a record was refused: always the fault of the peer that handed it over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum RecordRefusal {
    /// Not a signed record, or not within bounds, or not signed by the node that it names.
    #[error("not a signed node record: {0}")]
    Forged(String),
    /// Another node's record where a certain one's was due.
    #[error("the record of another node")]
    Stranger,
    /// Past its expiry, or with a life longer than records may have.
    #[error("expired, or not of this time")]
    Expired,
    /// A newer record of that node is known.
    #[error("older than the record that is known")]
    Older,
    /// There is no room, and the records kept are all nearer.
    #[error("no room")]
    Full,
}

impl BelievedRecord {
    /// Reads a record and checks its signature, but not its expiry: an expired record still tells where a node was.
    pub(super) fn read(bytes: Bytes) -> Result<Self, RecordRefusal> {
        if bytes.len() > NODE_RECORD_MAX_BYTES {
            return Err(RecordRefusal::Forged(format!("{} bytes", bytes.len())));
        }
        let forged = |error: WireError| RecordRefusal::Forged(error.to_string());
        let signed: Signed<NodeRecord> = decode_record(bytes.clone()).map_err(forged)?;
        // Signatures and the length of its life are checked as of its first moment.
        let record = signed.verify(signed.claimed().issued_at).map_err(forged)?.clone();
        Ok(Self { node: record.node, record, bytes })
    }

    /// Reads a record that has to be `node`'s and of this time.
    pub(super) fn read_current(bytes: Bytes, node: NodeId, now: Timestamp) -> Result<Self, RecordRefusal> {
        let believed = Self::read(bytes)?;
        if believed.node != node {
            return Err(RecordRefusal::Stranger);
        }
        if !believed.is_current(now) {
            return Err(RecordRefusal::Expired);
        }
        Ok(believed)
    }

    pub(super) fn sequence(&self) -> u64 {
        self.record.sequence
    }

    pub(super) fn expires_at(&self) -> Timestamp {
        self.record.expires_at
    }

    /// Whether the record is of this time; clocks may differ by [`CLOCK_SKEW_MAX`].
    pub(super) fn is_current(&self, now: Timestamp) -> bool {
        self.record.issued_at <= now.after(CLOCK_SKEW_MAX) && self.record.expires_at.after(CLOCK_SKEW_MAX) > now
    }

    /// Where the node's control plane is, by its own word: only what can be dialled.
    pub(super) fn control_addresses(&self) -> Vec<Multiaddr> {
        let addresses = self.record.control_addresses.iter();
        addresses
            .filter_map(|address| address.parse().ok())
            .filter(|address| socket_address_of(address).is_some())
            .collect()
    }
}

/// The key under which a node's record is put into the directory.
pub(super) fn record_key(node: NodeId) -> kad::RecordKey {
    kad::RecordKey::new(&[KEY_PREFIX, node.as_bytes()].concat())
}

/// The record as it is put into the directory; `None` where it has expired.
pub(super) fn to_put(own: &BelievedRecord, now: Timestamp) -> Option<kad::Record> {
    let life = own.expires_at().since(now).min(NODE_RECORD_LIFE_MAX);
    (!life.is_zero()).then(|| kad::Record {
        key: record_key(own.node),
        value: own.bytes.to_vec(),
        publisher: None,
        expires: Some(Instant::now() + life),
    })
}

/// Keeps a record that `source` wants kept, or says why not.
///
/// Only a node itself puts its record, so that a stranger needs a connection for each key that it fills the store
/// with. Expired records make room first, then the one furthest from this server, if it is further than the new one.
pub(super) fn keep(
    store: &mut MemoryStore,
    own: &PeerId,
    source: &PeerId,
    put: &kad::Record,
    now: Timestamp,
) -> Result<(), RecordRefusal> {
    let node = node_id_of(source).ok_or(RecordRefusal::Stranger)?;
    if put.key != record_key(node) {
        return Err(RecordRefusal::Stranger);
    }
    let believed = BelievedRecord::read_current(Bytes::copy_from_slice(&put.value), node, now)?;
    let kept = store.get(&put.key).map(|kept| Bytes::copy_from_slice(&kept.value));
    if let Some(kept) = kept.and_then(|bytes| BelievedRecord::read(bytes).ok())
        && kept.is_current(now)
        && kept.sequence() > believed.sequence()
    {
        return Err(RecordRefusal::Older);
    }
    make_room(store, own, &put.key)?;
    let mut record = to_put(&believed, now).ok_or(RecordRefusal::Expired)?;
    record.publisher = Some(*source);
    store.put(record).map_err(|_| RecordRefusal::Full)
}

/// Forgets the records that have expired.
pub(super) fn forget_expired(store: &mut MemoryStore) {
    let now = Instant::now();
    store.retain(|_, record| !record.is_expired(now));
}

fn make_room(store: &mut MemoryStore, own: &PeerId, wanted: &kad::RecordKey) -> Result<(), RecordRefusal> {
    if store.get(wanted).is_some() || store.records().count() < STORED_RECORDS_MAX {
        return Ok(());
    }
    forget_expired(store);
    if store.records().count() < STORED_RECORDS_MAX {
        return Ok(());
    }
    let own = kad::KBucketKey::from(*own);
    let distance = |key: &kad::RecordKey| own.distance(&kad::KBucketKey::new(key.clone()));
    let furthest = store.records().map(|record| record.key.clone()).max_by_key(&distance).ok_or(RecordRefusal::Full)?;
    if distance(&furthest) <= distance(wanted) {
        return Err(RecordRefusal::Full);
    }
    store.remove(&furthest);
    Ok(())
}

/// The time by this machine's clock.
pub(super) fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp::from_unix_ms(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

/// Sorts by distance from `target` in kad's own metric, nearest first.
pub(super) fn sort_by_distance(records: &mut [BelievedRecord], target: &[u8]) {
    records.sort_by_cached_key(|record| kad_distance(target, &record.node));
}

#[cfg(test)]
mod tests {
    use super::super::address::peer_id_of;
    use super::super::testing::{identity, record, record_of};
    use super::*;

    fn store_of(own: PeerId) -> MemoryStore {
        MemoryStore::with_config(own, super::super::behaviour::store_limits())
    }

    fn put(node: NodeId, bytes: &Bytes) -> kad::Record {
        kad::Record { key: record_key(node), value: bytes.to_vec(), publisher: None, expires: None }
    }

    #[test]
    fn a_server_keeps_a_nodes_record_from_the_node_itself_and_nothing_else() {
        let (own, now) = (PeerId::random(), now());
        let (node, other) = (identity(1), identity(2));
        let (id, peer) = (node.node_id(), peer_id_of(node.node_id()));
        let mut store = store_of(own);
        let good = record(&node, 5, &[]);
        let mut attempt = |source: &PeerId, put: &kad::Record| keep(&mut store, &own, source, put, now);

        assert_eq!(attempt(&peer, &put(id, &good)), Ok(()));
        assert_eq!(attempt(&peer, &put(id, &good)), Ok(()), "the same again");
        assert_eq!(attempt(&peer_id_of(other.node_id()), &put(id, &good)), Err(RecordRefusal::Stranger));
        assert_eq!(attempt(&peer, &put(other.node_id(), &good)), Err(RecordRefusal::Stranger), "under a wrong key");
        assert_eq!(attempt(&peer, &put(id, &record(&other, 9, &[]))), Err(RecordRefusal::Stranger));
        assert_eq!(attempt(&peer, &put(id, &record(&node, 4, &[]))), Err(RecordRefusal::Older));
        assert_eq!(attempt(&PeerId::random(), &put(id, &good)), Err(RecordRefusal::Stranger), "not an Ed25519 key");

        let hour = Duration::from_secs(3600);
        let old = record_of(&node, 6, &[], now.before(hour * 2), hour);
        assert_eq!(attempt(&peer, &put(id, &old)), Err(RecordRefusal::Expired));
        let future = record_of(&node, 6, &[], now.after(hour), hour);
        assert_eq!(attempt(&peer, &put(id, &future)), Err(RecordRefusal::Expired));
        let lasting = record_of(&node, 6, &[], now, hour * 2);
        assert!(matches!(attempt(&peer, &put(id, &lasting)), Err(RecordRefusal::Forged(_))));
        for position in 0..good.len() {
            let mut forged = good.to_vec();
            forged[position] ^= 1;
            assert!(attempt(&peer, &put(id, &forged.into())).is_err(), "byte {position}");
        }
        assert!(attempt(&peer, &put(id, &vec![0; NODE_RECORD_MAX_BYTES + 1].into())).is_err());
        assert_eq!(attempt(&peer, &put(id, &record(&node, 6, &[]))), Ok(()));

        assert_eq!(store.records().count(), 1);
        let kept = store.get(&record_key(id)).expect("the last one").into_owned();
        assert_eq!(kept.publisher, Some(peer));
        assert!(kept.expires.expect("an expiry") <= Instant::now() + NODE_RECORD_LIFE_MAX);
        assert_eq!(BelievedRecord::read(kept.value.into()).expect("a record").sequence(), 6);
    }

    #[test]
    fn a_full_store_keeps_what_is_nearest() {
        let (own, now) = (peer_id_of(identity(1).node_id()), now());
        let mut store = store_of(own);
        let far_future = Some(Instant::now() + NODE_RECORD_LIFE_MAX);
        for index in 0..STORED_RECORDS_MAX {
            let key = kad::RecordKey::new(&format!("filler {index}"));
            store.put(kad::Record { key, value: Vec::new(), publisher: None, expires: far_future }).expect("room");
        }
        let own_key = kad::KBucketKey::from(own);
        let distance = |key: &kad::RecordKey| own_key.distance(&kad::KBucketKey::new(key.clone()));
        let furthest_of = |store: &MemoryStore| store.records().map(|kept| distance(&kept.key)).max();
        let (mut taken, mut refused) = (0, 0);
        for number in 2..40 {
            let node = identity(number);
            let before = furthest_of(&store);
            let wanted = put(node.node_id(), &record(&node, 1, &[]));
            let nearer = Some(distance(&wanted.key)) < before;
            let kept = keep(&mut store, &own, &peer_id_of(node.node_id()), &wanted, now);
            assert_eq!(kept, if nearer { Ok(()) } else { Err(RecordRefusal::Full) });
            if nearer {
                taken += 1
            } else {
                refused += 1
            }
            assert_eq!(store.records().count(), STORED_RECORDS_MAX);
        }
        assert!(taken > 0, "{taken} taken, {refused} refused");
    }

    #[test]
    fn expired_records_make_room() {
        let (own, now) = (PeerId::random(), now());
        let mut store = store_of(own);
        for index in 0..STORED_RECORDS_MAX {
            let key = kad::RecordKey::new(&format!("filler {index}"));
            store
                .put(kad::Record { key, value: Vec::new(), publisher: None, expires: Some(Instant::now()) })
                .expect("room");
        }
        let node = identity(1);
        let kept =
            keep(&mut store, &own, &peer_id_of(node.node_id()), &put(node.node_id(), &record(&node, 1, &[])), now);
        assert_eq!(kept, Ok(()));
        assert_eq!(store.records().count(), 1);
    }

    #[test]
    fn only_addresses_that_can_be_dialled_come_out_of_a_record() {
        let good = super::super::bootstrap_address("127.0.0.1:1".parse().expect("an address"), identity(1).node_id());
        let odd = "/dns4/localhost/tcp/80".parse().expect("a multiaddress");
        let believed = BelievedRecord::read(record(&identity(1), 1, &[odd, good.clone()])).expect("a record");
        assert_eq!(believed.control_addresses(), [good]);
    }

    #[test]
    fn placement_and_kademlia_measure_the_same_distances() {
        for number in 1..20 {
            let (node, target) = (identity(number).node_id(), vec![number; 32]);
            let key = kad::KBucketKey::new(target.clone());
            let peer = kad::KBucketKey::from(peer_id_of(node));
            let by_kad: Vec<_> =
                key.hashed_bytes().iter().zip(peer.hashed_bytes()).map(|(one, two)| one ^ two).collect();
            assert_eq!(kad_distance(&target, &node)[..], by_kad);
        }
    }
}
