//! What one run of a client learns of its line and of nodes for the next one.
//!
//! Decides what is worth keeping, and for how long. A hint and no more: whatever is wrong in it is found out within a few transfers.

use std::time::Duration;

use dolmen_proto::ids::{NodeId, Timestamp};
use dolmen_proto::pace::Silence;
use serde::{Deserialize, Serialize};

use super::gate::Transfers;

/// Most silent nodes that are kept, those found silent last.
pub(crate) const SILENT_NODES_MAX: usize = 256;
/// A node that was found silent longer ago than this is as good as any.
const SILENCE_KEPT: Duration = Duration::from_hours(24);

/// What is kept from run to run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Experience {
    /// How many transfers at a time were good.
    #[serde(flatten)]
    pub(crate) transfers: Transfers,
    /// How long it usually took until there was a connection to a node, in microseconds.
    #[serde(default)]
    reach_us: Option<u64>,
    /// Nodes that were silent when they were tried last.
    #[serde(default)]
    silent: Vec<SilentNode>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SilentNode {
    node: String,
    since_ms: u64,
    times: u8,
}

impl Experience {
    /// What a run learned, by its end at `now`.
    pub(crate) fn of(
        transfers: Transfers,
        reach: Option<Duration>,
        silences: impl IntoIterator<Item = (NodeId, Silence)>,
        now: Timestamp,
    ) -> Self {
        let kept = |(_, silence): &(NodeId, Silence)| silence.since <= now && now.since(silence.since) < SILENCE_KEPT;
        let mut silences: Vec<_> = silences.into_iter().filter(kept).collect();
        silences.sort_by_key(|(node, silence)| (std::cmp::Reverse(silence.since), *node));
        silences.truncate(SILENT_NODES_MAX);
        let silent = |(node, silence): (NodeId, Silence)| SilentNode {
            node: node.to_string(),
            since_ms: silence.since.as_unix_ms(),
            times: silence.times,
        };
        Self {
            transfers,
            reach_us: reach.map(|reach| u64::try_from(reach.as_micros()).unwrap_or(u64::MAX)),
            silent: silences.into_iter().map(silent).collect(),
        }
    }

    /// With what was known before where this run learned nothing: of a direction that it did not use, or of connections when it made none.
    pub(crate) fn or(self, before: &Self) -> Self {
        Self {
            transfers: Transfers {
                up: self.transfers.up.or(before.transfers.up),
                down: self.transfers.down.or(before.transfers.down),
            },
            reach_us: self.reach_us.or(before.reach_us),
            silent: self.silent,
        }
    }

    /// How long it usually took until there was a connection.
    pub(crate) fn reach(&self) -> Option<Duration> {
        self.reach_us.map(Duration::from_micros)
    }

    /// Nodes that were silent; what is no node is left out.
    pub(crate) fn silences(&self) -> impl Iterator<Item = (NodeId, Silence)> {
        self.silent.iter().take(SILENT_NODES_MAX).filter_map(|silent| {
            let silence = Silence { since: Timestamp::from_unix_ms(silent.since_ms), times: silent.times };
            Some((silent.node.parse().ok()?, silence))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silence(since_ms: u64, times: u8) -> Silence {
        Silence { since: Timestamp::from_unix_ms(since_ms), times }
    }

    #[test]
    fn what_was_learned_is_read_again_and_old_files_are_too() {
        let (now, node) = (Timestamp::from_unix_ms(100_000_000), NodeId::new([7; 32]));
        let old = NodeId::new([8; 32]);
        let transfers = Transfers { up: Some(3), down: None };
        let silences = [(node, silence(99_000_000, 2)), (old, silence(1, 1)), (old, silence(100_000_001, 1))];
        let learned = Experience::of(transfers, Some(Duration::from_millis(2)), silences, now);
        let read: Experience = serde_json::from_str(&serde_json::to_string(&learned).expect("json")).expect("read");
        assert_eq!(read, learned);
        assert_eq!(
            read.silences().collect::<Vec<_>>(),
            [(node, silence(99_000_000, 2))],
            "neither old ones nor future ones"
        );
        assert_eq!((read.reach(), read.transfers), (Some(Duration::from_millis(2)), transfers));
        let before: Experience = serde_json::from_str(r#"{"up":16,"down":8}"#).expect("a file of before");
        let merged = learned.or(&before);
        assert_eq!(merged.transfers, Transfers { up: Some(3), down: Some(8) });
        let wrong = r#"{"up":1,"down":null,"silent":[{"node":"x","since_ms":1,"times":0}]}"#;
        assert_eq!(serde_json::from_str::<Experience>(wrong).expect("read").silences().count(), 0);
    }

    #[test]
    fn the_newest_are_kept() {
        let node = |number: u64| NodeId::new(*blake3::hash(&number.to_le_bytes()).as_bytes());
        let silences = (0..1000).map(|number| (node(number), silence(number, 1)));
        let learned = Experience::of(Transfers::default(), None, silences, Timestamp::from_unix_ms(2000));
        assert_eq!(learned.silences().count(), SILENT_NODES_MAX);
        assert!(learned.silences().all(|(_, silence)| silence.since.as_unix_ms() >= 1000 - SILENT_NODES_MAX as u64));
    }
}
