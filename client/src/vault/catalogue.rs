//! The datasets of a vault: found by asking for one after the other, remembered to be found sooner.
//!
//! Decides when all have been found: after twenty places in a row that have none. What is remembered is checked against the
//! network before it is used, and may be lost at any time.

use std::collections::BTreeMap;

use dolmen_proto::ids::{SnapshotId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{DatasetName, Vault};
use crate::commit::{Owner, is_retired};
use crate::error::{ClientError, ErrorKind};
use crate::state::write_durably;

/// So many places in a row without a dataset are the end of the vault.
const MISSES_MAX: usize = 20;
/// Places that are asked for at a time.
const AT_ONCE: u64 = 8;
/// Largest remembered catalogue that is read.
const FILE_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// A dataset as a vault lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetInfo {
    /// Its name.
    pub name: DatasetName,
    /// Its place in the vault.
    pub index: u64,
    /// Its newest snapshot; `None` when nothing was put into it yet.
    pub snapshot: Option<SnapshotId>,
    /// When that was made, or else the dataset.
    pub created: Timestamp,
}

/// What lies at one place.
pub(super) enum Place {
    Listed(DatasetInfo),
    /// Removed, but its place stays taken; the name that it had.
    Retired(String),
    /// There is a dataset that cannot be read.
    Unreadable(ClientError),
}

/// What is remembered.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Remembered {
    version: u32,
    names: BTreeMap<String, u64>,
}

impl Vault {
    /// All places that have a dataset.
    pub(super) async fn scan(&self) -> Result<BTreeMap<u64, Place>, ClientError> {
        let mut places = BTreeMap::new();
        let (mut next, mut misses) = (0, 0);
        while misses < MISSES_MAX {
            let batch: Vec<u64> = (next..next + AT_ONCE).collect();
            let looked = batch.iter().map(|index| self.look(*index));
            for (index, found) in batch.iter().zip(futures::future::join_all(looked).await) {
                match found? {
                    Some(place) => {
                        misses = 0;
                        places.insert(*index, place);
                    }
                    None => misses += 1,
                }
            }
            next += AT_ONCE;
        }
        self.remember(&places);
        Ok(places)
    }

    /// What lies at a place; `None`: nothing.
    pub(super) async fn look(&self, index: u64) -> Result<Option<Place>, ClientError> {
        let newest = match Owner::new(&self.client, &self.secret, index).newest().await {
            Ok(newest) => newest,
            Err(error) => {
                return match error.kind() {
                    ErrorKind::NotFound => Ok(None),
                    ErrorKind::Refused | ErrorKind::Damaged => Ok(Some(Place::Unreadable(error))),
                    _ => Err(error),
                };
            }
        };
        if is_retired(&newest.note) {
            return Ok(Some(Place::Retired(newest.note.name)));
        }
        let name = match newest.note.name.parse() {
            Ok(name) => name,
            Err(error) => return Ok(Some(Place::Unreadable(error))),
        };
        let body = &newest.body;
        let snapshot = body.history.as_ref().map(|_| body.snapshot_id);
        Ok(Some(Place::Listed(DatasetInfo { name, index, snapshot, created: body.created })))
    }

    /// Where a dataset of this name was last.
    pub(super) fn remembered(&self, name: &DatasetName) -> Option<u64> {
        let path = self.catalogue_file();
        let length = std::fs::metadata(&path).ok()?.len();
        if length > FILE_MAX_BYTES {
            return None;
        }
        let remembered: Remembered = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
        (remembered.version == 1).then(|| remembered.names.get(name.as_str()).copied()).flatten()
    }

    fn remember(&self, places: &BTreeMap<u64, Place>) {
        let mut names = BTreeMap::new();
        for place in places.values() {
            if let Place::Listed(info) = place {
                names.entry(info.name.as_str().to_owned()).or_insert(info.index);
            }
        }
        let written = serde_json::to_vec(&Remembered { version: 1, names })
            .map_err(std::io::Error::from)
            .and_then(|text| write_durably(&self.catalogue_file(), &text));
        if let Err(error) = written {
            tracing::warn!(%error, "the list of datasets could not be remembered");
        }
    }

    /// Forgets what is remembered: the next look asks the network.
    pub(super) fn forget_catalogue(&self) {
        let _ = std::fs::remove_file(self.catalogue_file());
    }

    fn catalogue_file(&self) -> std::path::PathBuf {
        self.client.state().vaults().join(format!("{}.catalogue", self.fingerprint.to_hex()))
    }
}
