//! Whose turn it is: several stewards of one dataset begin one after the other, each with a different order for every segment.

use core::time::Duration;

use super::Urgency;
use crate::ids::SegmentId;

/// How long the next steward waits for the one before, so that the work of that one can be seen in his overlay.
const fn patience(urgency: Urgency) -> Duration {
    match urgency {
        Urgency::Floor { .. } => Duration::from_secs(15 * 60),
        Urgency::Triggered { .. } => Duration::from_secs(2 * 3600),
        Urgency::Move | Urgency::Leave => Duration::from_secs(12 * 3600),
    }
}

/// How long a steward waits before he begins with a segment, from the moment that he saw the need for it.
///
/// `stewards` are the public keys that the base table names, `own` is among them or comes last. The first begins at once; whoever comes after looks
/// at the overlays again when the time has come, and finds nothing to do. The order follows from keys and segment, so work is shared evenly
/// and everybody knows it without a word.
#[must_use]
pub fn turn_delay(stewards: &[[u8; 32]], own: &[u8; 32], segment: SegmentId, urgency: Urgency) -> Duration {
    let rank = |key: &[u8; 32]| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"dolmen repair turn v1\0").update(key).update(segment.as_bytes());
        *hasher.finalize().as_bytes()
    };
    let own_rank = rank(own);
    let before = if stewards.contains(own) {
        stewards.iter().filter(|key| *key != own && rank(key) < own_rank).count()
    } else {
        stewards.len()
    };
    patience(urgency).saturating_mul(u32::try_from(before).unwrap_or(u32::MAX))
}
