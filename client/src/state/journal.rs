//! The journal of one put: what decides that a rerun is byte-identical, and which shards nodes have acknowledged.
//!
//! Decides when two runs are the same upload: the same dataset and the same paths. Acknowledgements are records of a fixed length with a
//! checksum, appended and synced in batches; a torn or lost one means that a shard is offered again, which a node
//! answers at once.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use dolmen_proto::ids::{NodeId, ShardRoot, Timestamp};
use dolmen_proto::keys::VaultSecret;

use super::{State, sync_folder, to_hex};
use crate::error::ClientError;

const PATHS_CONTEXT: &str = "dolmen 2026 client journal name v1";
const HEADER_BYTES: usize = 64;
const RECORD_BYTES: usize = 80;
/// Records between two syncs: what a power cut can cost to send again.
const RECORDS_PER_SYNC: usize = 256;
const VERSION: u8 = 1;

/// What decides the bytes of an upload beside the files themselves.
#[derive(Debug, Clone)]
pub(crate) struct JournalHeader {
    /// Of the throw-away vault of an anonymous upload; all zero where a vault is at hand.
    pub(crate) vault: VaultSecret,
    pub(crate) created: Timestamp,
    /// Data and all shards of content segments.
    pub(crate) policy: (u8, u8),
    /// Data and all shards of document segments.
    pub(crate) document_policy: (u8, u8),
}

/// A shard that a node holds durably.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) root: ShardRoot,
    pub(crate) node: NodeId,
    /// Until when.
    pub(crate) until: Timestamp,
}

/// An open journal; no other put writes to it.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    header: JournalHeader,
    /// Acknowledged before this run.
    placed: BTreeMap<ShardRoot, Vec<(NodeId, Timestamp)>>,
    unsynced: usize,
}

impl Journal {
    /// Opens the journal of an earlier run of the same `scope` (which dataset and place; empty for an anonymous upload) over
    /// the same paths, or starts one with what `fresh` gives
    /// when there is none or it does not fit.
    ///
    /// While another process writes the journal of these paths, this run gets a journal of its own.
    ///
    /// # Errors
    /// `Local` when it cannot be read or written; whatever `fresh` fails with.
    pub(crate) fn open(
        state: &State,
        scope: &[u8],
        paths: &[PathBuf],
        fits: impl Fn(&JournalHeader) -> bool,
        fresh: impl FnOnce() -> Result<JournalHeader, ClientError>,
    ) -> Result<Self, ClientError> {
        let mut hasher = blake3::Hasher::new_derive_key(PATHS_CONTEXT);
        let mut canonical: Vec<PathBuf> =
            paths.iter().map(|path| fs::canonicalize(path).unwrap_or_else(|_| path.clone())).collect();
        canonical.sort();
        for path in &canonical {
            hasher.update(path.as_os_str().as_bytes()).update(&[0]);
        }
        if !scope.is_empty() {
            // No path is empty, so what follows is none.
            hasher.update(&[0]).update(scope);
        }
        let name = to_hex(&hasher.finalize().as_bytes()[..16]);
        for attempt in 0u32.. {
            let name = if attempt == 0 { name.clone() } else { format!("{name}-{attempt}") };
            let path = state.journals().join(name);
            let failed = |error| ClientError::local("use the journal", &path, &error);
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
            let file = file.map_err(failed)?;
            match file.try_lock() {
                Ok(()) => return Self::start(file, path.clone(), fits, fresh),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
        Err(ClientError::bug("no journal is free", "more puts of the same paths run than can be counted"))
    }

    fn start(
        mut file: File,
        path: PathBuf,
        fits: impl Fn(&JournalHeader) -> bool,
        fresh: impl FnOnce() -> Result<JournalHeader, ClientError>,
    ) -> Result<Self, ClientError> {
        let failed = |error| ClientError::local("use the journal", &path, &error);
        let mut bytes = [0; HEADER_BYTES];
        let header = match read_full(&mut file, &mut bytes).map_err(failed)? {
            true => decode_header(&bytes).filter(fits),
            false => None,
        };
        let mut placed: BTreeMap<ShardRoot, Vec<(NodeId, Timestamp)>> = BTreeMap::new();
        let header = match header {
            Some(header) => {
                let mut end = HEADER_BYTES as u64;
                let mut reader = std::io::BufReader::new(&mut file);
                let mut record = [0; RECORD_BYTES];
                while read_full(&mut reader, &mut record).map_err(failed)? {
                    let Some(found) = decode_record(&record) else { break };
                    placed.entry(found.root).or_default().push((found.node, found.until));
                    end += RECORD_BYTES as u64;
                }
                file.set_len(end).map_err(failed)?;
                file.seek(SeekFrom::End(0)).map_err(failed)?;
                header
            }
            None => {
                let header = fresh()?;
                file.set_len(0).map_err(failed)?;
                file.seek(SeekFrom::Start(0)).map_err(failed)?;
                file.write_all(&encode_header(&header)).map_err(failed)?;
                file.sync_all().map_err(failed)?;
                sync_folder(&path).map_err(failed)?;
                header
            }
        };
        Ok(Self { file, path, header, placed, unsynced: 0 })
    }

    pub(crate) fn header(&self) -> &JournalHeader {
        &self.header
    }

    /// Nodes that acknowledged a shard in an earlier run, with leases that last beyond `until`.
    pub(crate) fn holders(&self, root: &ShardRoot, until: Timestamp) -> impl Iterator<Item = NodeId> + '_ {
        let found = self.placed.get(root).map_or(&[][..], Vec::as_slice);
        found.iter().filter(move |(_, end)| *end > until).map(|(node, _)| *node)
    }

    /// Notes that nodes hold shards.
    ///
    /// # Errors
    /// `Local` when the journal cannot be written.
    pub(crate) fn note(&mut self, placed: &[Placed]) -> Result<(), ClientError> {
        let bytes: Vec<u8> = placed.iter().flat_map(encode_record).collect();
        let failed = |error| ClientError::local("write the journal", &self.path, &error);
        self.file.write_all(&bytes).map_err(failed)?;
        self.unsynced += placed.len();
        if self.unsynced >= RECORDS_PER_SYNC {
            self.file.sync_data().map_err(failed)?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// Removes the journal: the upload is complete.
    ///
    /// # Errors
    /// `Local` when it cannot be removed.
    pub(crate) fn finish(self) -> Result<(), ClientError> {
        fs::remove_file(&self.path).map_err(|error| ClientError::local("remove the journal", &self.path, &error))
    }
}

/// Whether the buffer could be filled.
fn read_full(reader: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn checksum(bytes: &[u8]) -> [u8; 8] {
    let hash = blake3::hash(bytes);
    *hash.as_bytes().first_chunk().expect("a hash has more than eight bytes")
}

fn encode_header(header: &JournalHeader) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[0] = VERSION;
    bytes[1..5].copy_from_slice(&[
        header.policy.0,
        header.policy.1,
        header.document_policy.0,
        header.document_policy.1,
    ]);
    bytes[8..16].copy_from_slice(&header.created.as_unix_ms().to_le_bytes());
    bytes[16..48].copy_from_slice(header.vault.expose());
    let sum = checksum(&bytes[..56]);
    bytes[56..].copy_from_slice(&sum);
    bytes
}

fn decode_header(bytes: &[u8; HEADER_BYTES]) -> Option<JournalHeader> {
    if bytes[0] != VERSION || checksum(&bytes[..56]) != bytes[56..] {
        return None;
    }
    Some(JournalHeader {
        vault: VaultSecret::new(*bytes[16..].first_chunk()?),
        created: Timestamp::from_unix_ms(u64::from_le_bytes(*bytes[8..].first_chunk()?)),
        policy: (bytes[1], bytes[2]),
        document_policy: (bytes[3], bytes[4]),
    })
}

fn encode_record(placed: &Placed) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    bytes[..32].copy_from_slice(placed.root.as_bytes());
    bytes[32..64].copy_from_slice(placed.node.as_bytes());
    bytes[64..72].copy_from_slice(&placed.until.as_unix_ms().to_le_bytes());
    let sum = checksum(&bytes[..72]);
    bytes[72..].copy_from_slice(&sum);
    bytes
}

fn decode_record(bytes: &[u8; RECORD_BYTES]) -> Option<Placed> {
    if checksum(&bytes[..72]) != bytes[72..] {
        return None;
    }
    Some(Placed {
        root: ShardRoot::new(*bytes.first_chunk()?),
        node: NodeId::new(*bytes[32..].first_chunk()?),
        until: Timestamp::from_unix_ms(u64::from_le_bytes(*bytes[64..].first_chunk()?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(byte: u8) -> JournalHeader {
        JournalHeader {
            vault: VaultSecret::new([byte; 32]),
            created: Timestamp::from_unix_ms(99),
            policy: (7, 16),
            document_policy: (3, 16),
        }
    }

    fn placed(byte: u8) -> Placed {
        Placed {
            root: ShardRoot::new([byte; 32]),
            node: NodeId::new([byte + 1; 32]),
            until: Timestamp::from_unix_ms(10),
        }
    }

    #[test]
    fn a_rerun_finds_what_was_acknowledged_up_to_the_first_torn_record() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path()).unwrap();
        let paths = [folder.path().to_path_buf()];
        let mut journal = Journal::open(&state, b"", &paths, |_| true, || Ok(header(1))).unwrap();
        journal.note(&[placed(1), placed(2)]).unwrap();
        let path = journal.path.clone();
        drop(journal);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&encode_record(&placed(3))[..40]).unwrap();
        drop(file);

        let mut journal = Journal::open(&state, b"", &paths, |_| true, || panic!("it is there")).unwrap();
        assert_eq!(journal.header().vault.expose(), &[1; 32]);
        assert_eq!(journal.header().policy, (7, 16));
        let now = Timestamp::from_unix_ms(9);
        let holders = |journal: &Journal, byte| journal.holders(&placed(byte).root, now).collect::<Vec<_>>();
        assert_eq!(holders(&journal, 2), [placed(2).node]);
        assert!(holders(&journal, 3).is_empty());
        assert_eq!(journal.holders(&placed(1).root, Timestamp::from_unix_ms(10)).count(), 0, "that lease is over");
        journal.note(&[placed(4)]).unwrap();
        drop(journal);
        let journal = Journal::open(&state, b"", &paths, |_| true, || panic!("it is there")).unwrap();
        assert_eq!(holders(&journal, 4), [placed(4).node], "what follows a torn record is found");
        journal.finish().unwrap();
        let journal = Journal::open(&state, b"", &paths, |_| true, || Ok(header(2))).unwrap();
        assert_eq!(journal.header().vault.expose(), &[2; 32]);
    }

    #[test]
    fn two_puts_at_once_do_not_share_a_journal() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path()).unwrap();
        let paths = [folder.path().to_path_buf()];
        let first = Journal::open(&state, b"", &paths, |_| true, || Ok(header(1))).unwrap();
        let second = Journal::open(&state, b"", &paths, |_| true, || Ok(header(2))).unwrap();
        assert_eq!((first.header().vault.expose()[0], second.header().vault.expose()[0]), (1, 2));
    }

    #[test]
    fn the_same_paths_for_another_dataset_are_another_upload() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path()).unwrap();
        let paths = [folder.path().to_path_buf()];
        for scope in [&b""[..], b"one", b"two"] {
            drop(Journal::open(&state, scope, &paths, |_| true, || Ok(header(scope.len() as u8))).unwrap());
        }
        let names = fs::read_dir(state.journals()).unwrap().count();
        assert_eq!(names, 3);
        let again = Journal::open(&state, b"one", &paths, |_| true, || panic!("it is there")).unwrap();
        assert_eq!(again.header().vault.expose()[0], 3);
    }

    #[test]
    fn a_damaged_header_starts_anew() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path()).unwrap();
        let paths = [folder.path().to_path_buf()];
        let journal = Journal::open(&state, b"", &paths, |_| true, || Ok(header(1))).unwrap();
        let path = journal.path.clone();
        drop(journal);
        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 1;
        fs::write(&path, bytes).unwrap();
        let journal = Journal::open(&state, b"", &paths, |_| true, || Ok(header(5))).unwrap();
        assert_eq!(journal.header().vault.expose(), &[5; 32]);
    }
}
