//! The published constants of standing, in one place, each with its reason. `docs/proofs.md` repeats them.

use core::time::Duration;

use super::score::ScoreRule;

/// Samples that a node must have proven before vetting ends: a node that misses one part in a hundred gets so far with a
/// probability of `0.99^460`, under 1 %.
pub const VETTING_SAMPLES: u64 = 460;
/// Age at which vetting may end: 504 hours, as Storj has it; long enough to see a node's weekends.
pub const VETTING_AGE: Duration = Duration::from_secs(21 * 86_400);

/// Wrong blocks, and silences whose grace is over; remembered over 1,000 audits.
///
/// A node reads a hash path before it signs it, so an honest one does not answer wrong. One event makes a node suspect at once. Above
/// 2.5 remembered events it has fallen: three in a row, or one in 400 audits for as long as one cares to look. Not the first one: a
/// machine that died between the grant of a slot and the proof has one.
pub const WRONG: ScoreRule = ScoreRule { memory: 1000, suspect_above_micro: 500_000, bad_above_micro: 2_500_000 };

/// Shards of which the node itself says, signed, that it does not hold them, each once; remembered over 2,000 samples.
///
/// Honest disks rot, so one event makes suspect and not bad. Above 10 remembered (0.5 % of the samples) the node has fallen: disks that lose
/// so much are not worth trusting again, and a node that goes on losing 1 % of what is asked cannot stay below whatever it does.
pub const NOT_HELD: ScoreRule = ScoreRule { memory: 2000, suspect_above_micro: 500_000, bad_above_micro: 10_000_000 };

/// Granted slots without a proof in time; remembered over 100 slots. Timeouts happen on honest lines: one in ten is tolerated,
/// four in ten are not a node (Storj's cut-off for unknown errors is 0.6 as well).
pub const NO_ANSWER: ScoreRule =
    ScoreRule { memory: 100, suspect_above_micro: 10_000_000, bad_above_micro: 40_000_000 };

/// Refused slots; remembered over 100 slots. Over one in ten further refusals count as silence, nothing else follows from it.
pub const REFUSED: ScoreRule = ScoreRule { memory: 100, suspect_above_micro: 10_000_000, bad_above_micro: 100_000_000 };

/// Minutes in which the node could not be reached; remembered over 30 days. Three days in thirty make suspect, twelve make bad: Storj's
/// window of 720 hours and cut-off of 0.6.
pub const OFFLINE: ScoreRule =
    ScoreRule { memory: 30 * 24 * 60, suspect_above_micro: 4_320_000_000, bad_above_micro: 17_280_000_000 };

/// The most that one look at a node may say about the time since the look before: half a day.
pub const OFFLINE_WINDOW: Duration = Duration::from_secs(12 * 3600);

/// Probes that were not served; remembered over 40 probes. Probes are few and readers suffer, so this forgets sooner than audits do: a node
/// that serves nothing is suspect at the fifth probe and bad at the twenty-first.
pub const NOT_SERVED: ScoreRule = ScoreRule { memory: 40, suspect_above_micro: 4_000_000, bad_above_micro: 16_000_000 };

/// How long after the first time an unanswered challenge is asked again: three times within 24 hours. The last lies near the end, so that a
/// machine has most of a day to come back.
pub const REPEATS: [Duration; 3] =
    [Duration::from_secs(3600), Duration::from_secs(6 * 3600), Duration::from_secs(23 * 3600)];

/// The grace of silence: within it a node that does not answer is suspect, and nothing that it holds counts as lost.
pub const SILENCE_GRACE: Duration = Duration::from_secs(24 * 3600);

/// Most events that one audit adds to the wrong score: so many wrong blocks of one draw have no honest explanation.
pub const WRONG_PER_AUDIT_MAX: u32 = 3;
/// Most samples of one audit that count.
pub const AUDIT_SAMPLES_MAX: u32 = 65_536;
/// Most challenges of one node that may be unanswered at a time.
pub const SILENCES_MAX: usize = 8;
/// Largest encoded standing.
pub const STANDING_MAX_BYTES: usize = 483;

const _: () = {
    assert!(REPEATS[0].as_secs() < REPEATS[1].as_secs() && REPEATS[1].as_secs() < REPEATS[2].as_secs());
    assert!(REPEATS[2].as_secs() < SILENCE_GRACE.as_secs());
    assert!(STANDING_MAX_BYTES == 1 + 4 * 8 + 6 * 8 + 9 + 1 + SILENCES_MAX * 49);
};
