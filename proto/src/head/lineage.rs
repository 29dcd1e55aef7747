//! Which earlier heads a read head has in it, so that two writers can tell a head that one of them lost from one that was
//! followed.
//!
//! Decides what is written of it and for how long a head is remembered. What becomes of a head that is in no other is the
//! client's to decide: `docs/decisions/0011-lineage-of-heads.md`.

use std::collections::BTreeSet;

use super::{Head, NO_HEAD, ReadBody};
use crate::codec::{CodecError, DocumentError, Extensions, Reader, Writer, check_ascending, check_limit};
use crate::heads::HeadVersion;
use crate::ids::HeadHash;
use crate::limits::LINEAGE_MAX;

/// Among the extensions of a read head: the heads that are in it.
const EXTENSION: u16 = 8;
/// As much of a head's hash as tells it from the others of one writer.
const MARK_BYTES: usize = 16;

type Mark = [u8; MARK_BYTES];

/// What is known of a head from the lineage of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kinship {
    /// Its changes are in the other one, or were given up by who made them.
    Within,
    /// They are not.
    Outside,
    /// It is older than the lineage tells of.
    Unknown,
}

/// The heads whose changes are in a head, itself included. At most [`LINEAGE_MAX`] before it are remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    /// No head of this sequence or a later one is in it but those that are listed.
    floor: u64,
    members: BTreeSet<(u64, Mark)>,
}

impl Lineage {
    /// A lineage that begins: nothing below this sequence is told of.
    #[must_use]
    pub const fn beginning(floor: u64) -> Self {
        Self { floor, members: BTreeSet::new() }
    }

    /// That of a read head, as far as it tells: itself and the one that it replaced at least.
    ///
    /// # Errors
    /// [`DocumentError`] when what it tells is malformed.
    pub fn of(head: &Head, body: &ReadBody) -> Result<Self, DocumentError> {
        let written = body.extensions.get(EXTENSION).map(|value| Self::parse(value, head.sequence())).transpose()?;
        // A release that did not know of lineages carries on one of an earlier head.
        let mut lineage = written.flatten().unwrap_or_else(|| Self::beginning(head.sequence().saturating_sub(1)));
        if head.previous() != NO_HEAD {
            lineage.members.insert((head.sequence().saturating_sub(1), mark(head.previous())));
        }
        lineage.add(HeadVersion::from(head));
        Ok(lineage)
    }

    /// Says that a head is in it, or was given up.
    pub fn add(&mut self, head: HeadVersion) {
        self.members.insert((head.sequence, mark(head.hash)));
    }

    /// Says that all that is in another one is in it too.
    pub fn join(&mut self, other: &Self) {
        self.floor = self.floor.max(other.floor);
        self.members.extend(&other.members);
    }

    /// What it tells of a head.
    #[must_use]
    pub fn kinship(&self, head: HeadVersion) -> Kinship {
        let mark = mark(head.hash);
        if self.members.iter().any(|(_, member)| *member == mark) {
            Kinship::Within
        } else if head.sequence >= self.floor {
            Kinship::Outside
        } else {
            Kinship::Unknown
        }
    }

    /// These extensions of the read head of this sequence, in which all of this lineage is.
    ///
    /// # Errors
    /// [`DocumentError`] when there is no room.
    pub fn write(&self, mut extensions: Extensions, sequence: u64) -> Result<Extensions, DocumentError> {
        let mut floor = self.floor;
        let mut kept = Vec::new();
        for (member, mark) in self.members.iter().rev() {
            let back = sequence.checked_sub(*member).and_then(|back| u32::try_from(back).ok());
            match back.filter(|_| kept.len() < LINEAGE_MAX) {
                Some(back) => kept.push((back, *mark)),
                None => floor = floor.max(member.saturating_add(1)),
            }
        }
        kept.sort_unstable();
        let mut writer = Writer::new();
        writer.u64(sequence);
        writer.u64(floor.min(sequence));
        writer.count8(kept.len());
        for (back, mark) in kept {
            writer.u32(back);
            writer.raw(&mark);
        }
        extensions.take(EXTENSION);
        extensions.insert(EXTENSION, writer.into_bytes())?;
        Ok(extensions)
    }

    /// `None`: it was written in a head of another sequence.
    fn parse(value: &[u8], sequence: u64) -> Result<Option<Self>, DocumentError> {
        let mut reader = Reader::new(value);
        let of = reader.u64("the sequence of a lineage")?;
        let floor = reader.u64("the floor of a lineage")?;
        let count = usize::from(reader.u8("heads of a lineage")?);
        check_limit(count, LINEAGE_MAX, "heads of a lineage")?;
        let mut rows = Vec::new();
        for _ in 0..count {
            rows.push((reader.u32("how far back a head is")?, reader.array::<MARK_BYTES>("a head's hash")?));
        }
        reader.finish()?;
        check_ascending(rows.iter(), "heads of a lineage")?;
        if of != sequence {
            return Ok(None);
        }
        let too_much = |found| CodecError::TooMuch { what: "the floor of a lineage", limit: sequence, found };
        if floor > sequence {
            return Err(too_much(floor).into());
        }
        let member = |(back, mark): (u32, Mark)| {
            let at = sequence.checked_sub(u64::from(back)).ok_or_else(|| too_much(u64::from(back)))?;
            Ok::<_, DocumentError>((at, mark))
        };
        Ok(Some(Self { floor, members: rows.into_iter().map(member).collect::<Result<_, _>>()? }))
    }
}

fn mark(hash: HeadHash) -> Mark {
    let mut mark = [0; MARK_BYTES];
    mark.copy_from_slice(&hash.as_bytes()[..MARK_BYTES]);
    mark
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(sequence: u64, hash: u8) -> HeadVersion {
        HeadVersion { sequence, hash: HeadHash::new([hash; 32]) }
    }

    fn through(lineage: &Lineage, sequence: u64) -> Lineage {
        let extensions = lineage.write(Extensions::default(), sequence).expect("it fits");
        let value = extensions.get(EXTENSION).expect("it was written");
        Lineage::parse(value, sequence).expect("well formed").expect("of this head")
    }

    #[test]
    fn heads_are_within_outside_or_too_old_to_tell() {
        let mut lineage = Lineage::beginning(3);
        lineage.add(version(3, 1));
        lineage.add(version(4, 2));
        for lineage in [&lineage, &through(&lineage, 5)] {
            assert_eq!(lineage.kinship(version(3, 1)), Kinship::Within);
            assert_eq!(lineage.kinship(version(4, 2)), Kinship::Within);
            assert_eq!(lineage.kinship(version(4, 1)), Kinship::Within, "the hash alone names a head");
            assert_eq!(lineage.kinship(version(3, 9)), Kinship::Outside);
            assert_eq!(lineage.kinship(version(7, 9)), Kinship::Outside);
            assert_eq!(lineage.kinship(version(2, 9)), Kinship::Unknown);
        }
        let mut other = Lineage::beginning(4);
        other.add(version(4, 5));
        other.join(&lineage);
        assert_eq!(other.kinship(version(4, 5)), Kinship::Within);
        assert_eq!(other.kinship(version(3, 1)), Kinship::Within);
        assert_eq!(other.kinship(version(3, 9)), Kinship::Unknown, "one of the two does not tell");
    }

    #[test]
    fn the_oldest_heads_are_forgotten_and_nothing_is_said_of_them() {
        let mut lineage = Lineage::beginning(0);
        for number in 0..200 {
            lineage.add(version(u64::from(number), number));
        }
        let written = through(&lineage, 200);
        assert_eq!(written.members.len(), LINEAGE_MAX);
        let oldest = 200 - LINEAGE_MAX as u64;
        assert_eq!(written.kinship(version(oldest, u8::try_from(oldest).expect("small"))), Kinship::Within);
        assert_eq!(written.kinship(version(oldest, 255)), Kinship::Outside);
        assert_eq!(written.kinship(version(oldest - 1, 255)), Kinship::Unknown);
        assert_eq!(through(&written, 201).floor, oldest);
    }

    #[test]
    fn malformed_lineages_are_refused_and_one_of_another_head_is_none() {
        let mut lineage = Lineage::beginning(3);
        lineage.add(version(3, 1));
        lineage.add(version(4, 2));
        let extensions = lineage.write(Extensions::default(), 5).expect("it fits");
        let good = extensions.get(EXTENSION).expect("it was written").to_vec();
        let head = |back: u8, hash: u8| [&[back, 0, 0, 0][..], &[hash; MARK_BYTES]].concat();
        let written = [&[5, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 2][..], &head(1, 2), &head(2, 1)].concat();
        assert_eq!(good, written, "as docs/format.md has it");
        assert_eq!(Lineage::parse(&good, 6), Ok(None), "carried on by a release that does not know it");
        for length in 0..good.len() {
            assert!(Lineage::parse(&good[..length], 5).is_err(), "{length}");
        }
        let changed = |at: usize, value: u8| {
            let mut bad = good.clone();
            bad[at] = value;
            Lineage::parse(&bad, 5)
        };
        assert!(changed(8, 6).is_err(), "a floor above the head");
        assert!(changed(16, 49).is_err(), "too many");
        assert!(changed(17, 9).is_err(), "out of order");
        assert!(changed(37, 9).is_err(), "before the first");
        assert!(Lineage::parse(&[good.clone(), vec![0]].concat(), 5).is_err());
    }
}
