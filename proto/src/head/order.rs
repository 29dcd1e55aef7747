//! Which of two heads wins, everywhere the same.

use super::Head;
use crate::limits::HEAD_SEQUENCE_LEAP_MAX;

/// What a node does with a head that it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Keep the new one instead.
    Accept {
        /// Both follow the same place in the order: somebody else wrote too, and must be told.
        forked: bool,
    },
    /// It is the one that is there.
    Unchanged,
    /// Keep the one that is there, and answer with it.
    Refuse(Refusal),
}

/// Why a node keeps the head that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The new one is older.
    Older,
    /// Both have one sequence, and the one that is there has the smaller hash.
    LosesFork,
    /// The new one is further ahead than [`HEAD_SEQUENCE_LEAP_MAX`].
    LeapsAhead,
    /// The two are of different keys and so of no order.
    OtherKey,
}

impl Head {
    /// Whether this head wins over `other`, by the same key: a higher sequence, or at equal sequence a smaller hash.
    #[must_use]
    pub fn supersedes(&self, other: &Self) -> bool {
        self.public_key == other.public_key
            && (self.sequence > other.sequence || (self.sequence == other.sequence && self.hash < other.hash))
    }
}

/// What a node that has `current` by the same key at a point does with `new`. A node without one takes any.
#[must_use]
pub fn accept(current: Option<&Head>, new: &Head) -> Verdict {
    let Some(current) = current else { return Verdict::Accept { forked: false } };
    if current.public_key != new.public_key {
        return Verdict::Refuse(Refusal::OtherKey);
    }
    if current.hash == new.hash {
        return Verdict::Unchanged;
    }
    match new.sequence.checked_sub(current.sequence) {
        None => Verdict::Refuse(Refusal::Older),
        Some(0) if new.hash < current.hash => Verdict::Accept { forked: true },
        Some(0) => Verdict::Refuse(Refusal::LosesFork),
        Some(leap) if leap > HEAD_SEQUENCE_LEAP_MAX => Verdict::Refuse(Refusal::LeapsAhead),
        Some(leap) => Verdict::Accept { forked: leap == 1 && new.previous != current.hash },
    }
}
