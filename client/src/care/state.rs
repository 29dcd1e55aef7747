//! What a steward keeps on disk: which node holds which shard, what it believes of nodes, what it has asked and not heard.
//!
//! Decides the database's shape, and that a run that is cut off loses at most its last step. All of it can be found again
//! by looking but standings, pending challenges and receipts; so the file is to be kept, and is small beside what it is about:
//! about 250 bytes a shard.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dolmen_proto::ids::{NodeId, ShardRoot};
use redb::{Database, ReadableDatabase, TableDefinition};

mod nodes;
mod shards;

use self::nodes::{CONTACTS, DUE, NODES};
pub(super) use self::nodes::{Contact, Due};
pub(super) use self::shards::{KnownShard, SHARD_KEY_BYTES, SHARDS, shard_key};
use self::shards::{LOST, bounds, place_of};
use super::receipts::RECEIPTS;
use crate::error::{ClientError, ErrorKind};

/// What the database may keep in memory.
const CACHE_BYTES: usize = 48 * 1024 * 1024;
/// Names a dataset among those of one steward: the first bytes of the steward's public key for it.
pub(super) type Tag = [u8; 16];
const NODE_KEY_BYTES: usize = 48;
/// (dataset, slot) to a transcript that waits for its answer.
const PENDING: TableDefinition<'static, &'static [u8; NODE_KEY_BYTES], &'static [u8]> =
    TableDefinition::new("pending 1");
/// (dataset, node that goes, root) to the receipt of whoever holds the shard now, until that node was told.
const UNTOLD: TableDefinition<'static, &'static [u8; SHARD_KEY_BYTES], &'static [u8]> =
    TableDefinition::new("untold 1");
/// (dataset, name) to a number or a hash.
const MARKS: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("marks 1");

/// The database of one steward's process.
#[derive(Clone)]
pub(super) struct CareState {
    pub(super) database: Arc<Database>,
    folder: PathBuf,
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use dolmen_proto::audit::SetShard;
    use dolmen_proto::ids::{SegmentId, ShardIndex, Timestamp};
    use dolmen_proto::standing::Standing;

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
