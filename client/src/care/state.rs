//! What a steward keeps on disk: which node holds which shard, what it believes of nodes, what it has asked and not heard.
//!
//! Decides the database's shape, and that a run that is cut off loses at most its last step. All of it can be found again
//! by looking but standings, pending challenges and receipts; so the file is to be kept, and is small beside what it is about:
//! about 250 bytes a shard.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dolmen_proto::audit::SetShard;
use dolmen_proto::ids::{NodeId, SegmentId, ShardIndex, ShardRoot, Timestamp};
use dolmen_proto::standing::Standing;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::receipts::{RECEIPT_KEY_BYTES, RECEIPTS, ReceiptNumber, receipt_key, sweep};
use crate::error::{ClientError, ErrorKind};

/// What the database may keep in memory.
const CACHE_BYTES: usize = 48 * 1024 * 1024;
/// Names a dataset among those of one steward: the first bytes of the steward's public key for it.
pub(super) type Tag = [u8; 16];
/// Lost shards that are looked at at a time; others wait until these are repaired.
const LOST_MAX: usize = 500_000;
const NODE_KEY_BYTES: usize = 48;
pub(super) const SHARD_KEY_BYTES: usize = 80;

pub(super) const SHARD_BYTES: usize = 58;

/// (dataset, node, root) to length, index, kind, segment, generation, end of the lease and receipt.
pub(super) const SHARDS: TableDefinition<'static, &'static [u8; SHARD_KEY_BYTES], &'static [u8; SHARD_BYTES]> =
    TableDefinition::new("shards 2");
/// (dataset, node, root) to when the node was found not to hold what it should, with [`SIGNED`] where it has signed that.
const LOST: TableDefinition<'static, &'static [u8; SHARD_KEY_BYTES], u64> = TableDefinition::new("lost 1");
/// In a value of [`LOST`]: the node's own signature says so, not only a look.
const SIGNED: u64 = 1 << 63;
/// Node to its standing.
const NODES: TableDefinition<'static, &'static [u8; 32], &'static [u8]> = TableDefinition::new("nodes 1");
/// Node to since when it is not reached, when it goes away, and until when it was last proven; each 0: not.
const CONTACTS: TableDefinition<'static, &'static [u8; 32], &'static [u8; 24]> = TableDefinition::new("contacts 1");
/// (dataset, node) to when it is asked next for samples, for documents and by a probe.
const DUE: TableDefinition<'static, &'static [u8; NODE_KEY_BYTES], &'static [u8; 24]> = TableDefinition::new("due 1");
/// (dataset, slot) to a transcript that waits for its answer.
const PENDING: TableDefinition<'static, &'static [u8; NODE_KEY_BYTES], &'static [u8]> =
    TableDefinition::new("pending 1");
/// (dataset, node that goes, root) to the receipt of whoever holds the shard now, until that node was told.
const UNTOLD: TableDefinition<'static, &'static [u8; SHARD_KEY_BYTES], &'static [u8]> =
    TableDefinition::new("untold 1");
/// (dataset, name) to a number or a hash.
const MARKS: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("marks 1");

/// A shard as a steward knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KnownShard {
    pub(super) shard: SetShard,
    pub(super) index: ShardIndex,
    pub(super) documents: bool,
    pub(super) segment: SegmentId,
    /// The look at the table in which it was seen last.
    pub(super) generation: u32,
    /// The end of its lease as its node says; 0: not known.
    pub(super) until_ms: u64,
    /// Which of the node's receipts names it; 0: none is kept.
    pub(super) receipt: ReceiptNumber,
}

/// What a node's presence is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Contact {
    pub(super) absent_since_ms: u64,
    pub(super) leaving_until_ms: u64,
    pub(super) proven_at_ms: u64,
}

/// When a node of a dataset is asked next, in milliseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Due {
    pub(super) samples_ms: u64,
    pub(super) documents_ms: u64,
    pub(super) probe_ms: u64,
}

/// The database of one steward's process.
#[derive(Clone)]
pub(super) struct CareState {
    pub(super) database: Arc<Database>,
    folder: PathBuf,
}

pub(super) fn shard_key(tag: &Tag, node: &NodeId, root: &ShardRoot) -> [u8; SHARD_KEY_BYTES] {
    let mut key = [0; SHARD_KEY_BYTES];
    key[..16].copy_from_slice(tag);
    key[16..48].copy_from_slice(node.as_bytes());
    key[48..].copy_from_slice(root.as_bytes());
    key
}

fn node_key(tag: &Tag, node: &[u8; 32]) -> [u8; NODE_KEY_BYTES] {
    let mut key = [0; NODE_KEY_BYTES];
    key[..16].copy_from_slice(tag);
    key[16..].copy_from_slice(node);
    key
}

fn mark_key(tag: &Tag, name: &str) -> Vec<u8> {
    [tag.as_slice(), name.as_bytes()].concat()
}

fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map(u64::from_le_bytes).unwrap_or(0)
}

fn three(numbers: [u64; 3]) -> [u8; 24] {
    let mut bytes = [0; 24];
    for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    bytes
}

impl KnownShard {
    pub(super) fn to_bytes(self) -> [u8; SHARD_BYTES] {
        let mut bytes = [0; SHARD_BYTES];
        bytes[..4].copy_from_slice(&self.shard.length_bytes.to_le_bytes());
        bytes[4] = self.index.to_byte();
        bytes[5] = u8::from(self.documents);
        bytes[6..38].copy_from_slice(self.segment.as_bytes());
        bytes[38..42].copy_from_slice(&self.generation.to_le_bytes());
        bytes[42..50].copy_from_slice(&self.until_ms.to_le_bytes());
        bytes[50..].copy_from_slice(&self.receipt.to_le_bytes());
        bytes
    }

    pub(super) fn parse(key: &[u8; SHARD_KEY_BYTES], bytes: &[u8; SHARD_BYTES]) -> Self {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let mut segment = [0; 32];
        segment.copy_from_slice(&bytes[6..38]);
        let mut root = [0; 32];
        root.copy_from_slice(&key[48..]);
        Self {
            shard: SetShard { root: ShardRoot::new(root), length_bytes: word(0) },
            index: ShardIndex::new(bytes[4]),
            documents: bytes[5] != 0,
            segment: SegmentId::new(segment),
            generation: word(38),
            until_ms: number(&bytes[42..50]),
            receipt: number(&bytes[50..]),
        }
    }
}

pub(super) fn failed(error: impl Into<redb::Error>) -> ClientError {
    let advice =
        "check the disk of the steward's state folder; without the file it begins anew, and believes nothing of nodes";
    ClientError::new(ErrorKind::Local, "the steward's database failed", error.into(), advice)
}

impl std::fmt::Debug for CareState {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("CareState").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl CareState {
    /// Opens the state in a folder, which is made where it is not there.
    ///
    /// # Errors
    /// `Local`: the disk, or another process has it open.
    pub(super) fn open(folder: &Path) -> Result<Self, ClientError> {
        std::fs::create_dir_all(folder).map_err(|error| ClientError::local("make", folder, &error))?;
        let path = folder.join("steward.redb");
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(&path).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => ClientError::new(
                ErrorKind::Local,
                format!("another process uses {}", folder.display()),
                "one steward runs in one folder",
                "end it, or give another --state",
            ),
            other => failed(other),
        })?;
        Self::over(database, folder)
    }

    /// A state that ends with the process.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn in_memory() -> Result<Self, ClientError> {
        let backend = redb::backends::InMemoryBackend::new();
        let database = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend).map_err(failed)?;
        Self::over(database, Path::new(""))
    }

    fn over(database: Database, folder: &Path) -> Result<Self, ClientError> {
        let write = database.begin_write().map_err(failed)?;
        {
            write.open_table(SHARDS).map_err(failed)?;
            write.open_table(LOST).map_err(failed)?;
            write.open_table(NODES).map_err(failed)?;
            write.open_table(CONTACTS).map_err(failed)?;
            write.open_table(DUE).map_err(failed)?;
            write.open_table(PENDING).map_err(failed)?;
            write.open_table(UNTOLD).map_err(failed)?;
            write.open_table(RECEIPTS).map_err(failed)?;
            write.open_table(MARKS).map_err(failed)?;
        }
        write.commit().map_err(failed)?;
        Ok(Self { database: Arc::new(database), folder: folder.to_owned() })
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes down shards of nodes; what is known of the end of a lease and of a receipt stays.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn learn(&self, tag: &Tag, shards: &[(NodeId, KnownShard)]) -> Result<(), ClientError> {
        let write = self.database.begin_write().map_err(failed)?;
        {
            let mut table = write.open_table(SHARDS).map_err(failed)?;
            for (node, shard) in shards {
                let key = shard_key(tag, node, &shard.shard.root);
                let before = table.get(&key).map_err(failed)?.map(|value| KnownShard::parse(&key, value.value()));
                let until_ms = shard.until_ms.max(before.map_or(0, |before| before.until_ms));
                let receipt = before.map_or(0, |before| before.receipt);
                table.insert(&key, &KnownShard { until_ms, receipt, ..*shard }.to_bytes()).map_err(failed)?;
            }
        }
        write.commit().map_err(failed)
    }

    /// Forgets shards that were not seen in this look at the table, and receipts that name none any more; gives how many shards.
    /// Those of `kept` stay, whatever their look.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn forget_older(
        &self,
        tag: &Tag,
        generation: u32,
        kept: &HashSet<(NodeId, ShardRoot)>,
    ) -> Result<u64, ClientError> {
        let write = self.database.begin_write().map_err(failed)?;
        let mut forgotten = 0;
        let mut named: HashSet<[u8; RECEIPT_KEY_BYTES - 16]> = HashSet::new();
        {
            let mut table = write.open_table(SHARDS).map_err(failed)?;
            let mut lost = write.open_table(LOST).map_err(failed)?;
            let (first, last) = bounds(tag);
            let stale = table
                .extract_from_if::<&[u8; SHARD_KEY_BYTES], _>(&first..=&last, |key, value| {
                    let known = KnownShard::parse(key, value);
                    let node = node_of(key);
                    let stays = known.generation == generation
                        || (!kept.is_empty() && kept.contains(&(node, known.shard.root)));
                    if stays && known.receipt != 0 {
                        let key = receipt_key(tag, &node, known.receipt);
                        named.insert(key[16..].try_into().expect("a key is longer than a tag"));
                    }
                    !stays
                })
                .map_err(failed)?;
            for entry in stale {
                let (key, _) = entry.map_err(failed)?;
                lost.remove(key.value()).map_err(failed)?;
                forgotten += 1;
            }
            sweep(&mut write.open_table(RECEIPTS).map_err(failed)?, tag, &named)?;
        }
        write.commit().map_err(failed)?;
        Ok(forgotten)
    }

    /// Shards that were not seen in this look at the table although a receipt of a node's is kept: at most `most`.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn unseen(
        &self,
        tag: &Tag,
        generation: u32,
        most: usize,
    ) -> Result<Vec<(NodeId, KnownShard)>, ClientError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(SHARDS).map_err(failed)?;
        let (first, last) = bounds(tag);
        let mut unseen = Vec::new();
        for entry in table.range::<&[u8; SHARD_KEY_BYTES]>(&first..=&last).map_err(failed)? {
            let (key, value) = entry.map_err(failed)?;
            let known = KnownShard::parse(key.value(), value.value());
            if known.generation != generation && known.receipt != 0 {
                unseen.push((node_of(key.value()), known));
                if unseen.len() == most {
                    break;
                }
            }
        }
        Ok(unseen)
    }

    /// As [`CareState::shards_of`], without those that the node has signed not to hold: they were counted, and are lost.
    ///
    /// # Errors
    /// As [`CareState::shards_of`].
    pub(super) fn held_of(
        &self,
        tag: &Tag,
        node: &NodeId,
    ) -> Result<impl Iterator<Item = Result<KnownShard, ClientError>> + use<>, ClientError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(LOST).map_err(failed)?;
        let first = shard_key(tag, node, &ShardRoot::new([0; 32]));
        let last = shard_key(tag, node, &ShardRoot::new([0xff; 32]));
        let mut lost = table.range::<&[u8; SHARD_KEY_BYTES]>(&first..=&last).map_err(failed)?;
        let mut next_lost = move || -> Result<Option<ShardRoot>, ClientError> {
            for entry in lost.by_ref() {
                let (key, value) = entry.map_err(failed)?;
                if value.value() & SIGNED != 0 {
                    return Ok(Some(root_of_key(key.value())));
                }
            }
            Ok(None)
        };
        // Both ascend by root, so one pass over both is enough.
        let mut gone = next_lost()?;
        Ok(self.shards_of(tag, node)?.filter_map(move |known| {
            let root = match &known {
                Ok(known) => known.shard.root,
                Err(_) => return Some(known),
            };
            while gone.is_some_and(|gone| gone < root) {
                match next_lost() {
                    Ok(next) => gone = next,
                    Err(error) => return Some(Err(error)),
                }
            }
            (gone != Some(root)).then_some(known)
        }))
    }

    /// Visits the shards of one node, ascending by root.
    ///
    /// # Errors
    /// `Local`, and what `visit` says.
    pub(super) fn shards_of(
        &self,
        tag: &Tag,
        node: &NodeId,
    ) -> Result<impl Iterator<Item = Result<KnownShard, ClientError>> + use<>, ClientError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(SHARDS).map_err(failed)?;
        let first = shard_key(tag, node, &ShardRoot::new([0; 32]));
        let last = shard_key(tag, node, &ShardRoot::new([0xff; 32]));
        let range = table.range::<&[u8; SHARD_KEY_BYTES]>(&first..=&last).map_err(failed)?;
        Ok(range.map(|entry| {
            let (key, value) = entry.map_err(failed)?;
            Ok(KnownShard::parse(key.value(), value.value()))
        }))
    }

    /// The nodes that should hold something of a dataset, ascending.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn nodes_of(&self, tag: &Tag) -> Result<Vec<NodeId>, ClientError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(SHARDS).map_err(failed)?;
        let (mut first, last) = bounds(tag);
        let mut nodes = Vec::new();
        loop {
            let next = table.range::<&[u8; SHARD_KEY_BYTES]>(&first..=&last).map_err(failed)?.next();
            let Some(entry) = next else { return Ok(nodes) };
            let (key, _) = entry.map_err(failed)?;
            let mut node = [0; 32];
            node.copy_from_slice(&key.value()[16..48]);
            nodes.push(NodeId::new(node));
            // On to the next node: behind the last root that this one can have.
            first = shard_key(tag, &NodeId::new(node), &ShardRoot::new([0xff; 32]));
        }
    }

    /// Writes down until when leases are, as nodes say.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn leased(&self, tag: &Tag, node: &NodeId, until: &[(ShardRoot, Timestamp)]) -> Result<(), ClientError> {
        let write = self.database.begin_write().map_err(failed)?;
        {
            let mut table = write.open_table(SHARDS).map_err(failed)?;
            for (root, until) in until {
                let key = shard_key(tag, node, root);
                let known = table.get(&key).map_err(failed)?.map(|value| KnownShard::parse(&key, value.value()));
                if let Some(known) = known
                    && known.until_ms != until.as_unix_ms()
                {
                    let known = KnownShard { until_ms: until.as_unix_ms(), ..known };
                    table.insert(&key, &known.to_bytes()).map_err(failed)?;
                }
            }
        }
        write.commit().map_err(failed)
    }

    /// Notes that a node does not hold these shards by what it has signed: they are not asked for again.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn set_lost_signed(
        &self,
        tag: &Tag,
        node: &NodeId,
        lost: &[ShardRoot],
        now: Timestamp,
    ) -> Result<(), ClientError> {
        if lost.is_empty() {
            return Ok(());
        }
        let write = self.database.begin_write().map_err(failed)?;
        {
            let mut table = write.open_table(LOST).map_err(failed)?;
            for root in lost {
                table.insert(&shard_key(tag, node, root), now.as_unix_ms() | SIGNED).map_err(failed)?;
            }
        }
        write.commit().map_err(failed)
    }

    /// Notes that a node does not hold these shards, or that it does after all, by what a look or a read shows. That proves
    /// nothing to others, so they stay in what it is asked to prove.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn set_lost(
        &self,
        tag: &Tag,
        node: &NodeId,
        lost: &[ShardRoot],
        held: &[ShardRoot],
        now: Timestamp,
    ) -> Result<(), ClientError> {
        if lost.is_empty() && held.is_empty() {
            return Ok(());
        }
        let write = self.database.begin_write().map_err(failed)?;
        {
            let mut table = write.open_table(LOST).map_err(failed)?;
            for root in lost {
                let key = shard_key(tag, node, root);
                if table.get(&key).map_err(failed)?.is_none() {
                    table.insert(&key, now.as_unix_ms()).map_err(failed)?;
                }
            }
            for root in held {
                table.remove(&shard_key(tag, node, root)).map_err(failed)?;
            }
        }
        write.commit().map_err(failed)
    }

    /// All shards of a dataset that nodes were found not to hold.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn all_lost(&self, tag: &Tag) -> Result<HashSet<(NodeId, ShardRoot)>, ClientError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(LOST).map_err(failed)?;
        let (first, last) = bounds(tag);
        let range = table.range::<&[u8; SHARD_KEY_BYTES]>(&first..=&last).map_err(failed)?;
        range.take(LOST_MAX).map(|entry| Ok(place_of(entry.map_err(failed)?.0.value()))).collect()
    }

    /// A node's standing; a new one where nothing is known, or what is known is damaged.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn standing(&self, node: &NodeId, now: Timestamp) -> Result<Standing, ClientError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(NODES).map_err(failed)?;
        let known = table.get(node.as_bytes()).map_err(failed)?;
        Ok(known.and_then(|bytes| Standing::parse(bytes.value()).ok()).unwrap_or_else(|| Standing::new(now)))
    }

    /// All standings.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn standings(&self) -> Result<Vec<(NodeId, Standing)>, ClientError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(NODES).map_err(failed)?;
        let mut standings = Vec::new();
        for entry in table.iter().map_err(failed)? {
            let (node, bytes) = entry.map_err(failed)?;
            if let Ok(standing) = Standing::parse(bytes.value()) {
                standings.push((NodeId::new(*node.value()), standing));
            }
        }
        Ok(standings)
    }

    /// Keeps a node's standing and presence.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn keep_node(&self, node: &NodeId, standing: &Standing, contact: Contact) -> Result<(), ClientError> {
        let write = self.database.begin_write().map_err(failed)?;
        {
            let bytes = standing.to_bytes();
            write.open_table(NODES).map_err(failed)?.insert(node.as_bytes(), bytes.as_slice()).map_err(failed)?;
            let contact = three([contact.absent_since_ms, contact.leaving_until_ms, contact.proven_at_ms]);
            write.open_table(CONTACTS).map_err(failed)?.insert(node.as_bytes(), &contact).map_err(failed)?;
        }
        write.commit().map_err(failed)
    }

    /// A node's presence.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn contact(&self, node: &NodeId) -> Result<Contact, ClientError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(CONTACTS).map_err(failed)?;
        let Some(bytes) = table.get(node.as_bytes()).map_err(failed)? else { return Ok(Contact::default()) };
        let bytes = bytes.value();
        Ok(Contact {
            absent_since_ms: number(&bytes[..8]),
            leaving_until_ms: number(&bytes[8..16]),
            proven_at_ms: number(&bytes[16..]),
        })
    }

    /// When a node is asked next.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn due(&self, tag: &Tag, node: &NodeId) -> Result<Due, ClientError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(DUE).map_err(failed)?;
        let Some(bytes) = table.get(&node_key(tag, node.as_bytes())).map_err(failed)? else {
            return Ok(Due::default());
        };
        let bytes = bytes.value();
        Ok(Due { samples_ms: number(&bytes[..8]), documents_ms: number(&bytes[8..16]), probe_ms: number(&bytes[16..]) })
    }

    /// Says when a node is asked next.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn set_due(&self, tag: &Tag, node: &NodeId, due: Due) -> Result<(), ClientError> {
        let write = self.database.begin_write().map_err(failed)?;
        {
            let bytes = three([due.samples_ms, due.documents_ms, due.probe_ms]);
            let mut table = write.open_table(DUE).map_err(failed)?;
            table.insert(&node_key(tag, node.as_bytes()), &bytes).map_err(failed)?;
        }
        write.commit().map_err(failed)
    }

    /// Keeps a challenge that waits for its answer, by the hash of its slot; `None`: it is over.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn set_pending(
        &self,
        tag: &Tag,
        slot_hash: &[u8; 32],
        transcript: Option<&[u8]>,
    ) -> Result<(), ClientError> {
        let write = self.database.begin_write().map_err(failed)?;
        {
            let mut table = write.open_table(PENDING).map_err(failed)?;
            let key = node_key(tag, slot_hash);
            match transcript {
                Some(bytes) => table.insert(&key, bytes).map_err(failed)?.map(drop),
                None => table.remove(&key).map_err(failed)?.map(drop),
            };
        }
        write.commit().map_err(failed)
    }

    /// The challenges of a dataset that wait for their answers.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn pending(&self, tag: &Tag) -> Result<Vec<Vec<u8>>, ClientError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(PENDING).map_err(failed)?;
        let (first, last) = (node_key(tag, &[0; 32]), node_key(tag, &[0xff; 32]));
        let range = table.range::<&[u8; NODE_KEY_BYTES]>(&first..=&last).map_err(failed)?;
        range.map(|entry| Ok(entry.map_err(failed)?.1.value().to_vec())).collect()
    }

    /// Notes of shards that lie elsewhere now that the node that goes is to be told so, with the new holder's receipt.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn add_untold(&self, tag: &Tag, moved: &[(NodeId, ShardRoot, Vec<u8>)]) -> Result<(), ClientError> {
        let write = self.database.begin_write().map_err(failed)?;
        {
            let mut table = write.open_table(UNTOLD).map_err(failed)?;
            for (node, root, receipt) in moved {
                table.insert(&shard_key(tag, node, root), receipt.as_slice()).map_err(failed)?;
            }
        }
        write.commit().map_err(failed)
    }

    /// What nodes that go are to be told, by node, at most `most`.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn untold(&self, tag: &Tag, most: usize) -> Result<Vec<(NodeId, ShardRoot, Vec<u8>)>, ClientError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(UNTOLD).map_err(failed)?;
        let (first, last) = bounds(tag);
        let range = table.range::<&[u8; SHARD_KEY_BYTES]>(&first..=&last).map_err(failed)?;
        let taken = range.take(most).map(|entry| {
            let (key, receipt) = entry.map_err(failed)?;
            let (node, root) = place_of(key.value());
            Ok((node, root, receipt.value().to_vec()))
        });
        taken.collect()
    }

    /// Forgets what a node need not be told any more.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn forget_untold(&self, tag: &Tag, node: &NodeId, roots: &[ShardRoot]) -> Result<(), ClientError> {
        if roots.is_empty() {
            return Ok(());
        }
        let write = self.database.begin_write().map_err(failed)?;
        {
            let mut table = write.open_table(UNTOLD).map_err(failed)?;
            for root in roots {
                table.remove(&shard_key(tag, node, root)).map_err(failed)?;
            }
        }
        write.commit().map_err(failed)
    }

    /// A number that was kept under a name; 0 if none was.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn mark(&self, tag: &Tag, name: &str) -> Result<u64, ClientError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(MARKS).map_err(failed)?;
        Ok(table.get(mark_key(tag, name).as_slice()).map_err(failed)?.map_or(0, |bytes| number(bytes.value())))
    }

    /// Keeps numbers under names.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn set_marks(&self, tag: &Tag, marks: &[(&str, u64)]) -> Result<(), ClientError> {
        let write = self.database.begin_write().map_err(failed)?;
        {
            let mut table = write.open_table(MARKS).map_err(failed)?;
            for (name, value) in marks {
                table.insert(mark_key(tag, name).as_slice(), value.to_le_bytes().as_slice()).map_err(failed)?;
            }
        }
        write.commit().map_err(failed)
    }
}

/// The node and the shard that a key names.
fn place_of(key: &[u8; SHARD_KEY_BYTES]) -> (NodeId, ShardRoot) {
    let (mut node, mut root) = ([0; 32], [0; 32]);
    node.copy_from_slice(&key[16..48]);
    root.copy_from_slice(&key[48..]);
    (NodeId::new(node), ShardRoot::new(root))
}

fn node_of(key: &[u8; SHARD_KEY_BYTES]) -> NodeId {
    let mut node = [0; 32];
    node.copy_from_slice(&key[16..48]);
    NodeId::new(node)
}

fn root_of_key(key: &[u8; SHARD_KEY_BYTES]) -> ShardRoot {
    let mut root = [0; 32];
    root.copy_from_slice(&key[48..]);
    ShardRoot::new(root)
}

fn bounds(tag: &Tag) -> ([u8; SHARD_KEY_BYTES], [u8; SHARD_KEY_BYTES]) {
    let (lowest, highest) = (NodeId::new([0; 32]), NodeId::new([0xff; 32]));
    (shard_key(tag, &lowest, &ShardRoot::new([0; 32])), shard_key(tag, &highest, &ShardRoot::new([0xff; 32])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(root: u8, generation: u32) -> KnownShard {
        KnownShard {
            shard: SetShard { root: ShardRoot::new([root; 32]), length_bytes: 1000 + u32::from(root) },
            index: ShardIndex::new(root),
            documents: root.is_multiple_of(2),
            segment: SegmentId::new([root; 32]),
            generation,
            until_ms: 0,
            receipt: 0,
        }
    }

    #[test]
    fn what_a_node_has_signed_not_to_hold_is_asked_no_more_and_hearsay_still_is() {
        let state = CareState::in_memory().unwrap();
        let (tag, node, now) = ([1; 16], NodeId::new([1; 32]), Timestamp::from_unix_ms(1_900_000_000_000));
        let shards: Vec<_> = (1..=6).map(|root| (node, shard(root, 1))).collect();
        state.learn(&tag, &shards).unwrap();
        let root = |byte| ShardRoot::new([byte; 32]);
        state.set_lost(&tag, &node, &[root(1), root(5)], &[], now).unwrap();
        state.set_lost_signed(&tag, &node, &[root(2), root(5), root(6), root(9)], now).unwrap();
        let held = state.held_of(&tag, &node).unwrap().map(|known| known.unwrap().shard.root.as_bytes()[0]);
        assert_eq!(held.collect::<Vec<_>>(), [1, 3, 4]);
        assert_eq!(state.shards_of(&tag, &node).unwrap().count(), 6);
        assert_eq!(state.all_lost(&tag).unwrap().len(), 5, "and all of it is lost to whoever repairs");
    }

    #[test]
    fn what_is_kept_is_there_after_a_restart_and_older_looks_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let (tag, other) = ([1; 16], [2; 16]);
        let node = |byte| NodeId::new([byte; 32]);
        let now = Timestamp::from_unix_ms(1_900_000_000_000);
        {
            let state = CareState::open(folder.path()).unwrap();
            assert!(CareState::open(folder.path()).is_err(), "one process only");
            state.learn(&tag, &[(node(1), shard(9, 1)), (node(1), shard(3, 1)), (node(2), shard(4, 1))]).unwrap();
            state.learn(&other, &[(node(7), shard(1, 1))]).unwrap();
            state.leased(&tag, &node(1), &[(ShardRoot::new([3; 32]), now)]).unwrap();
            state.set_lost(&tag, &node(2), &[ShardRoot::new([4; 32])], &[], now).unwrap();
            let contact = Contact { absent_since_ms: 5, leaving_until_ms: 6, proven_at_ms: 7 };
            state.keep_node(&node(1), &Standing::new(now), contact).unwrap();
            state.set_pending(&tag, &[8; 32], Some(b"transcript")).unwrap();
            state.set_marks(&tag, &[("generation", 1)]).unwrap();
            let untold = |byte| (node(1), ShardRoot::new([byte; 32]), vec![byte; 3]);
            state.add_untold(&tag, &[untold(3), untold(9)]).unwrap();
        }
        let state = CareState::open(folder.path()).unwrap();
        assert_eq!(state.nodes_of(&tag).unwrap(), [node(1), node(2)]);
        let of_first: Vec<_> = state.shards_of(&tag, &node(1)).unwrap().map(Result::unwrap).collect();
        assert_eq!(of_first.iter().map(|shard| shard.shard.root.as_bytes()[0]).collect::<Vec<_>>(), [3, 9]);
        assert_eq!(of_first[0].until_ms, now.as_unix_ms());
        assert!(state.all_lost(&tag).unwrap().contains(&(node(2), ShardRoot::new([4; 32]))));
        assert_eq!(state.contact(&node(1)).unwrap().leaving_until_ms, 6);
        assert_eq!(state.pending(&tag).unwrap(), [b"transcript".to_vec()]);
        state.set_pending(&tag, &[8; 32], None).unwrap();
        assert_eq!(state.untold(&tag, 10).unwrap().len(), 2);
        state.forget_untold(&tag, &node(1), &[ShardRoot::new([3; 32])]).unwrap();
        assert_eq!(state.untold(&tag, 10).unwrap(), [(node(1), ShardRoot::new([9; 32]), vec![9; 3])]);
        assert!(state.untold(&other, 10).unwrap().is_empty());
        assert!(state.pending(&tag).unwrap().is_empty());
        state.learn(&tag, &[(node(1), shard(3, 2))]).unwrap();
        assert_eq!(state.forget_older(&tag, 2, &HashSet::new()).unwrap(), 2);
        let kept: Vec<_> = state.shards_of(&tag, &node(1)).unwrap().map(Result::unwrap).collect();
        assert_eq!(kept[0].until_ms, now.as_unix_ms(), "a look at the table does not forget leases");
        assert_eq!(state.nodes_of(&other).unwrap(), [node(7)]);
        assert_eq!(state.mark(&tag, "generation").unwrap(), 1);
    }
}
