//! What this client believes of nodes, from its own audits and from a steward that runs with its state folder.
//!
//! Decides the file's form. Lost or damaged, nothing is believed of anybody: uploads then take every node for unknown.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use dolmen_proto::codec::{Reader, Writer};
use dolmen_proto::ids::{NodeId, Timestamp};
use dolmen_proto::standing::{STANDING_MAX_BYTES, Standing, Verdict};

use super::{State, write_durably};
use crate::error::ClientError;

const VERSION: u8 = 1;
/// Nodes that are kept; of more those are dropped that are named last.
const NODES_MAX: usize = 16_384;
const FILE_MAX_BYTES: u64 = 16 * 1024 * 1024;
/// Weight of a suspect node in an upload: it is taken where there are not enough others.
const SUSPECT_WEIGHT: u16 = 1;

/// The file of standings.
#[derive(Debug, Clone)]
pub(crate) struct Standings {
    path: PathBuf,
}

impl Standings {
    pub(super) fn new(state: &State) -> Self {
        Self { path: state.folder.join("standings") }
    }

    /// All standings that are kept.
    ///
    /// # Errors
    /// `Local` when the file cannot be read; a damaged one counts as none.
    pub(crate) fn load(&self) -> Result<BTreeMap<NodeId, Standing>, ClientError> {
        let failed =
            |error: &std::io::Error| ClientError::local("read what is believed of nodes in", &self.path, error);
        match fs::metadata(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(failed(&error)),
            Ok(file) if file.len() > FILE_MAX_BYTES => return Ok(BTreeMap::new()),
            Ok(_) => {}
        }
        let bytes = fs::read(&self.path).map_err(|error| failed(&error))?;
        Ok(decode(&bytes).unwrap_or_else(|| {
            tracing::warn!(file = %self.path.display(), "what was believed of nodes is damaged and counts as nothing");
            BTreeMap::new()
        }))
    }

    /// Keeps these standings beside those of other nodes.
    ///
    /// # Errors
    /// `Local`.
    pub(crate) fn keep(&self, newer: impl IntoIterator<Item = (NodeId, Standing)>) -> Result<(), ClientError> {
        let mut standings = self.load()?;
        standings.extend(newer);
        let mut writer = Writer::new();
        writer.u8(VERSION);
        writer.count32(standings.len().min(NODES_MAX));
        for (node, standing) in standings.iter().take(NODES_MAX) {
            let bytes = standing.to_bytes();
            writer.raw(node.as_bytes());
            writer.count16(bytes.len());
            writer.raw(&bytes);
        }
        let mut bytes = writer.into_bytes();
        let sum = blake3::hash(&bytes);
        bytes.extend_from_slice(&sum.as_bytes()[..8]);
        let failed = |error| ClientError::local("write what is believed of nodes in", &self.path, &error);
        write_durably(&self.path, &bytes).map_err(failed)
    }
}

/// The weight of a node in placement; `None`: it is given nothing.
pub(crate) fn weight(standing: Option<&Standing>, unknown: u16, now: Timestamp) -> Option<u16> {
    let Some(standing) = standing else { return Some(unknown) };
    match standing.verdict(now) {
        Verdict::Bad(_) => None,
        Verdict::Suspect(_) => Some(SUSPECT_WEIGHT),
        Verdict::Vetting { .. } | Verdict::Good => Some(standing.weight_per_mille(now).max(SUSPECT_WEIGHT)),
    }
}

fn decode(bytes: &[u8]) -> Option<BTreeMap<NodeId, Standing>> {
    let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(8)?)?;
    if blake3::hash(body).as_bytes()[..8] != *sum {
        return None;
    }
    let mut reader = Reader::new(body);
    if reader.u8("the version").ok()? != VERSION {
        return None;
    }
    let count = reader.count32(NODES_MAX, 34, "nodes").ok()?;
    let mut standings = BTreeMap::new();
    for _ in 0..count {
        let node = NodeId::new(reader.array("a node").ok()?);
        let standing = reader.bytes16(STANDING_MAX_BYTES, "a standing").ok()?;
        standings.insert(node, Standing::parse(standing).ok()?);
    }
    reader.finish().ok()?;
    Some(standings)
}

#[cfg(test)]
mod tests {
    use dolmen_proto::standing::{ChallengeKey, Observation};

    use super::*;

    #[test]
    fn what_is_believed_is_kept_beside_what_was_and_damage_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let standings = State::open(folder.path()).unwrap().standings();
        assert!(standings.load().unwrap().is_empty());
        let now = Timestamp::from_unix_ms(1_900_000_000_000);
        let (good, mut bad) = (Standing::new(now), Standing::new(now));
        for number in 0..4 {
            let challenge = ChallengeKey::new([number; 32]);
            bad.record(Observation::Answered { challenge, samples: 8, wrong: 8, not_held: 0 }, now).unwrap();
        }
        standings.keep([(NodeId::new([1; 32]), good.clone())]).unwrap();
        standings.keep([(NodeId::new([2; 32]), bad.clone())]).unwrap();
        let kept = standings.load().unwrap();
        assert_eq!(kept.get(&NodeId::new([1; 32])), Some(&good));
        assert_eq!(weight(kept.get(&NodeId::new([2; 32])), 500, now), None, "whoever showed wrong bytes gets nothing");
        assert!(weight(kept.get(&NodeId::new([1; 32])), 500, now).is_some_and(|weight| weight > 1));
        assert_eq!(weight(kept.get(&NodeId::new([3; 32])), 500, now), Some(500));
        let mut bytes = fs::read(&standings.path).unwrap();
        bytes[40] ^= 1;
        fs::write(&standings.path, bytes).unwrap();
        assert!(standings.load().unwrap().is_empty());
    }
}
