//! The records of a volume: header, checks and the lease inside of a tail, as `docs/format.md` has them.
//!
//! Decides what bytes are a valid record of which volume. Never decides which of several records counts, and never
//! touches a disk.

use bytes::Bytes;
use dolmen_proto::ids::{AccountId, ShardRoot, Timestamp};
use dolmen_proto::limits;

use super::{EVIDENCE_MAX_BYTES, LEASE_TERMS_MAX_BYTES, LeaseRecord};

/// Bytes of a header; also what every record is aligned to, so that a header never crosses a sector.
pub(crate) const HEADER_BYTES: usize = 128;
/// [`HEADER_BYTES`] as an offset.
pub(crate) const ALIGN: u64 = 128;
/// Bytes of a check.
pub(crate) const CHECK_BYTES: usize = 16;
/// Bytes of a header that its check covers.
const CHECKED_BYTES: usize = HEADER_BYTES - CHECK_BYTES;
/// First bytes of every header.
pub(crate) const RECORD_MAGIC: [u8; 4] = *b"DREC";
const VERSION: u8 = 1;
/// Bytes of one row of a table of contents.
pub(crate) const ROW_BYTES: usize = 120;
/// Longest table of contents that is read, in bytes: far above what any node writes.
pub(crate) const TABLE_MAX_BYTES: u32 = 256 * 1024 * 1024;
/// Bytes of a lease before its terms.
const LEASE_FIXED_BYTES: usize = 96;

/// Reads 32 bytes at an offset that the caller has checked.
pub(crate) fn bytes_32(bytes: &[u8], at: usize) -> [u8; 32] {
    bytes[at..at + 32].try_into().expect("a slice of 32 bytes")
}

/// Reads a u64 at an offset that the caller has checked.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of 8 bytes"))
}

/// Reads a u32 at an offset that the caller has checked.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of 4 bytes"))
}

/// Reads the mark of a lease at an offset that the caller has checked.
fn mark_at(bytes: &[u8], at: usize) -> [u8; 16] {
    bytes[at..at + 16].try_into().expect("a slice of 16 bytes")
}

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A shard with its outboard.
    Shard,
    /// The bytes of a leased shard are damaged or gone.
    ShardLost,
    /// A lease, new or changed.
    Lease,
    /// The end of a lease.
    LeaseEnd,
    /// A head.
    Head,
    /// The end of a head.
    HeadEnd,
    /// Space of an abandoned put.
    Void,
    /// A table of contents.
    Table,
    /// The last record of a closed volume.
    End,
}

/// Which records replace each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Keyed by root.
    Shard,
    /// Keyed by root and account.
    Lease,
    /// Keyed by point and head key.
    Head,
}

impl Kind {
    /// The number in formats.
    pub(crate) const fn to_byte(self) -> u8 {
        match self {
            Self::Shard => 1,
            Self::ShardLost => 2,
            Self::Lease => 3,
            Self::LeaseEnd => 4,
            Self::Head => 5,
            Self::HeadEnd => 6,
            Self::Void => 7,
            Self::Table => 8,
            Self::End => 9,
        }
    }

    /// The kind with that number.
    pub(crate) const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Shard,
            2 => Self::ShardLost,
            3 => Self::Lease,
            4 => Self::LeaseEnd,
            5 => Self::Head,
            6 => Self::HeadEnd,
            7 => Self::Void,
            8 => Self::Table,
            9 => Self::End,
            _ => return None,
        })
    }

    /// What it shares its key with; `None` for records that are about the volume itself.
    pub(crate) const fn class(self) -> Option<Class> {
        match self {
            Self::Shard | Self::ShardLost => Some(Class::Shard),
            Self::Lease | Self::LeaseEnd => Some(Class::Lease),
            Self::Head | Self::HeadEnd => Some(Class::Head),
            Self::Void | Self::Table | Self::End => None,
        }
    }

    /// Whether these lengths are possible for this kind.
    fn admits(self, body_bytes: u32, tail_bytes: u32) -> bool {
        let tail = tail_bytes as usize;
        match self {
            Self::Shard => body_bytes > 0 && tail_bytes == outboard_bytes(body_bytes),
            Self::ShardLost | Self::HeadEnd | Self::End => body_bytes == 0 && tail == 0,
            Self::Lease => {
                body_bytes == 0 && (LEASE_FIXED_BYTES..=LEASE_FIXED_BYTES + LEASE_TERMS_MAX_BYTES).contains(&tail)
            }
            Self::LeaseEnd => body_bytes == 0 && tail <= EVIDENCE_MAX_BYTES,
            Self::Head => body_bytes == 0 && (1..=limits::HEAD_MAX_BYTES).contains(&tail),
            Self::Void => true,
            Self::Table => body_bytes == 0 && tail_bytes <= TABLE_MAX_BYTES && tail.is_multiple_of(ROW_BYTES),
        }
    }
}

/// Bytes of the outboard of a shard: one pair of hashes for each 16 KiB group but one.
pub(crate) const fn outboard_bytes(shard_bytes: u32) -> u32 {
    let group = 16 * 1024;
    const { assert!(limits::HASH_GROUP_BYTES == 16 * 1024) };
    let groups = shard_bytes.div_ceil(group);
    if groups < 2 { 0 } else { (groups - 1) * 64 }
}

/// One record, but for its body and tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) kind: Kind,
    /// Of the header, in its volume.
    pub(crate) offset: u64,
    pub(crate) generation: u64,
    pub(crate) body_bytes: u32,
    pub(crate) tail_bytes: u32,
    /// Everything below was known to be on disk when this was written; zero in a record read from a table.
    pub(crate) durable: u64,
    pub(crate) a: [u8; 32],
    pub(crate) b: [u8; 32],
    pub(crate) value: u64,
    /// Of a lease: the service's mark, which stands in its tail and in a table's row, not in the header.
    pub(crate) mark: [u8; 16],
}

/// Bytes that a record of these lengths takes in a volume.
pub(crate) fn span(body_bytes: u32, tail_bytes: u32) -> u64 {
    let check = if tail_bytes == 0 { 0 } else { CHECK_BYTES as u64 };
    (ALIGN + u64::from(body_bytes) + u64::from(tail_bytes) + check).next_multiple_of(ALIGN)
}

impl Record {
    /// Bytes that it takes in its volume.
    pub(crate) fn span(&self) -> u64 {
        span(self.body_bytes, self.tail_bytes)
    }

    /// First offset after it.
    pub(crate) fn end(&self) -> u64 {
        self.offset.saturating_add(self.span())
    }

    /// Where its body begins.
    pub(crate) fn body_offset(&self) -> u64 {
        self.offset + ALIGN
    }

    /// Where its tail begins.
    pub(crate) fn tail_offset(&self) -> u64 {
        self.body_offset() + u64::from(self.body_bytes)
    }

    fn checked_bytes(&self) -> [u8; CHECKED_BYTES] {
        let mut bytes = [0; CHECKED_BYTES];
        bytes[..4].copy_from_slice(&RECORD_MAGIC);
        bytes[4] = VERSION;
        bytes[5] = self.kind.to_byte();
        bytes[8..16].copy_from_slice(&self.offset.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.generation.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.tail_bytes.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.durable.to_le_bytes());
        bytes[40..72].copy_from_slice(&self.a);
        bytes[72..104].copy_from_slice(&self.b);
        bytes[104..112].copy_from_slice(&self.value.to_le_bytes());
        bytes
    }

    /// Whether a header that was read is that of a record known from elsewhere.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Self { durable: 0, mark: [0; 16], ..*self } == Self { durable: 0, mark: [0; 16], ..*other }
    }

    /// The same record with what its tail says about it; `None` where the tail of a lease is not one.
    pub(crate) fn with_tail(self, tail: &[u8]) -> Option<Self> {
        if self.kind != Kind::Lease {
            return Some(self);
        }
        decode_lease(&self, tail).map(|(lease, _)| Self { mark: lease.mark, ..self })
    }

    /// The header as it is written.
    pub(crate) fn encode(&self, salt: &[u8; 32]) -> [u8; HEADER_BYTES] {
        let checked = self.checked_bytes();
        let mut bytes = [0; HEADER_BYTES];
        bytes[..CHECKED_BYTES].copy_from_slice(&checked);
        bytes[CHECKED_BYTES..].copy_from_slice(&blake3::keyed_hash(salt, &checked).as_bytes()[..CHECK_BYTES]);
        bytes
    }

    /// The header in these bytes, if it is a valid one of this volume and offset.
    pub(crate) fn decode(bytes: &[u8], salt: &[u8; 32], offset: u64) -> Option<Self> {
        let bytes = bytes.get(..HEADER_BYTES)?;
        if bytes[..4] != RECORD_MAGIC || bytes[4] != VERSION || u64_at(bytes, 8) != offset {
            return None;
        }
        let hash = blake3::keyed_hash(salt, &bytes[..CHECKED_BYTES]);
        if hash.as_bytes()[..CHECK_BYTES] != bytes[CHECKED_BYTES..] || bytes[6..8] != [0; 2] {
            return None;
        }
        let record = Self {
            kind: Kind::from_byte(bytes[5])?,
            offset,
            generation: u64_at(bytes, 16),
            body_bytes: u32_at(bytes, 24),
            tail_bytes: u32_at(bytes, 28),
            durable: u64_at(bytes, 32),
            a: bytes_32(bytes, 40),
            b: bytes_32(bytes, 72),
            value: u64_at(bytes, 104),
            mark: [0; 16],
        };
        record.kind.admits(record.body_bytes, record.tail_bytes).then_some(record)
    }

    /// The check that follows the tail.
    pub(crate) fn tail_check(&self, salt: &[u8; 32], tail: &[u8]) -> [u8; CHECK_BYTES] {
        let mut hasher = blake3::Hasher::new_keyed(salt);
        hasher.update(&self.checked_bytes());
        hasher.update(tail);
        hasher.finalize().as_bytes()[..CHECK_BYTES].try_into().expect("16 of 32 bytes")
    }

    /// A record without body, as it is written: header, tail, check, padding.
    pub(crate) fn encode_small(&self, salt: &[u8; 32], tail: &[u8]) -> Vec<u8> {
        debug_assert!(self.body_bytes == 0 && self.tail_bytes as usize == tail.len());
        let mut bytes = Vec::with_capacity(usize::try_from(self.span()).expect("small records fit memory"));
        bytes.extend_from_slice(&self.encode(salt));
        if !tail.is_empty() {
            bytes.extend_from_slice(tail);
            bytes.extend_from_slice(&self.tail_check(salt, tail));
        }
        bytes.resize(bytes.len().next_multiple_of(HEADER_BYTES), 0);
        bytes
    }

    /// Appends this record's row of a table of contents.
    pub(crate) fn encode_row(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.kind.to_byte(), 0, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.body_bytes.to_le_bytes());
        out.extend_from_slice(&self.tail_bytes.to_le_bytes());
        out.extend_from_slice(&self.a);
        out.extend_from_slice(&self.b);
        out.extend_from_slice(&self.value.to_le_bytes());
        out.extend_from_slice(&self.mark);
    }

    /// The record that a row describes, if it is a possible one.
    pub(crate) fn decode_row(row: &[u8]) -> Option<Self> {
        let row = row.get(..ROW_BYTES)?;
        let record = Self {
            kind: Kind::from_byte(row[0])?,
            offset: u64_at(row, 8),
            generation: u64_at(row, 16),
            body_bytes: u32_at(row, 24),
            tail_bytes: u32_at(row, 28),
            durable: 0,
            a: bytes_32(row, 32),
            b: bytes_32(row, 64),
            value: u64_at(row, 96),
            mark: mark_at(row, 104),
        };
        let possible = record.kind.class().is_some()
            && record.kind.admits(record.body_bytes, record.tail_bytes)
            && record.offset.is_multiple_of(ALIGN);
        possible.then_some(record)
    }
}

/// A lease with the length of its shard, as a tail.
pub(crate) fn encode_lease(lease: &LeaseRecord, shard_bytes: u32) -> Vec<u8> {
    let mut tail = Vec::with_capacity(LEASE_FIXED_BYTES + lease.terms.len());
    tail.extend_from_slice(&[VERSION, 0, 0, 0]);
    tail.extend_from_slice(&shard_bytes.to_le_bytes());
    tail.extend_from_slice(&lease.mark);
    tail.extend_from_slice(&lease.delete_key);
    tail.extend_from_slice(&lease.renew_key);
    tail.extend_from_slice(&lease.issued_at.as_unix_ms().to_le_bytes());
    tail.extend_from_slice(&lease.terms);
    tail
}

/// The lease in a tail whose check held, and the length of its shard.
pub(crate) fn decode_lease(record: &Record, tail: &[u8]) -> Option<(LeaseRecord, u32)> {
    if tail.len() < LEASE_FIXED_BYTES || tail[..4] != [VERSION, 0, 0, 0] {
        return None;
    }
    let lease = LeaseRecord {
        account: AccountId::new(record.b),
        delete_key: bytes_32(tail, 24),
        renew_key: bytes_32(tail, 56),
        until: Timestamp::from_unix_ms(record.value),
        issued_at: Timestamp::from_unix_ms(u64_at(tail, 88)),
        mark: mark_at(tail, 8),
        terms: Bytes::copy_from_slice(&tail[LEASE_FIXED_BYTES..]),
    };
    Some((lease, u32_at(tail, 4)))
}

/// Whether these bytes are the shard's.
pub(crate) fn is_root(root: &[u8; 32], hash: &blake3::Hash) -> bool {
    ShardRoot::new(*root) == ShardRoot::new(*hash.as_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SALT: [u8; 32] = [7; 32];

    fn lease() -> LeaseRecord {
        LeaseRecord {
            account: AccountId::new([2; 32]),
            delete_key: [3; 32],
            renew_key: [4; 32],
            until: Timestamp::from_unix_ms(99),
            issued_at: Timestamp::from_unix_ms(5),
            mark: [6; 16],
            terms: Bytes::from_static(b"signed"),
        }
    }

    fn lease_record(tail: &[u8]) -> Record {
        Record {
            kind: Kind::Lease,
            offset: 8192,
            generation: 41,
            body_bytes: 0,
            tail_bytes: u32::try_from(tail.len()).unwrap(),
            durable: 8192,
            a: [1; 32],
            b: [2; 32],
            value: 99,
            mark: [6; 16],
        }
    }

    #[test]
    fn records_and_rows_round_trip() {
        let tail = encode_lease(&lease(), 4096);
        let record = lease_record(&tail);
        let bytes = record.encode_small(&SALT, &tail);
        assert_eq!(bytes.len() as u64, record.span());
        let header = Record::decode(&bytes, &SALT, 8192).unwrap();
        assert_eq!(header, Record { mark: [0; 16], ..record });
        assert_eq!(header.with_tail(&tail), Some(record));
        assert_eq!(decode_lease(&record, &tail), Some((lease(), 4096)));
        let mut row = Vec::new();
        record.encode_row(&mut row);
        assert_eq!(row.len(), ROW_BYTES);
        assert_eq!(Record::decode_row(&row), Some(Record { durable: 0, ..record }));
    }

    #[test]
    fn a_record_of_another_place_or_volume_is_none() {
        let tail = encode_lease(&lease(), 4096);
        let bytes = lease_record(&tail).encode_small(&SALT, &tail);
        assert_eq!(Record::decode(&bytes, &SALT, 8320), None);
        assert_eq!(Record::decode(&bytes, &[8; 32], 8192), None);
    }

    #[test]
    fn the_outboard_has_a_pair_for_each_group_but_one() {
        for (shard, outboard) in [(1, 0), (16_384, 0), (16_385, 64), (32_768, 64), (32_769, 128), (32 << 20, 2047 * 64)]
        {
            assert_eq!(outboard_bytes(shard), outboard, "{shard}");
        }
    }

    proptest! {
        #[test]
        fn any_flipped_bit_of_a_header_is_seen(bit in 0usize..HEADER_BYTES * 8) {
            let tail = encode_lease(&lease(), 4096);
            let mut bytes = lease_record(&tail).encode(&SALT);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Record::decode(&bytes, &SALT, 8192), None);
        }

        #[test]
        fn any_flipped_bit_of_a_tail_is_seen(bit in 0usize..(LEASE_FIXED_BYTES + 6) * 8) {
            let tail = encode_lease(&lease(), 4096);
            let record = lease_record(&tail);
            let mut flipped = tail.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert_ne!(record.tail_check(&SALT, &tail), record.tail_check(&SALT, &flipped));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), offset: u64) {
            let _ = Record::decode(&bytes, &SALT, offset);
            let _ = Record::decode_row(&bytes);
            let _ = decode_lease(&lease_record(&bytes), &bytes);
        }

        #[test]
        fn rows_round_trip(kind in 1u8..7, generation: u64, value: u64, slot in 0u64..1 << 40, length in 1u32..=32 << 20) {
            let kind = Kind::from_byte(kind).unwrap();
            let (body_bytes, tail_bytes) = match kind {
                Kind::Shard => (length, outboard_bytes(length)),
                Kind::Lease => (0, 96 + length % 4096),
                Kind::Head => (0, 1 + length % 8192),
                Kind::LeaseEnd => (0, length % 4097),
                _ => (0, 0),
            };
            let record = Record { kind, offset: slot * ALIGN, generation, body_bytes, tail_bytes, durable: 0, a: [1; 32], b: [2; 32], value, mark: [0; 16] };
            let mut row = Vec::new();
            record.encode_row(&mut row);
            prop_assert_eq!(Record::decode_row(&row), Some(record));
            prop_assert_eq!(Record::decode(&record.encode(&SALT), &SALT, record.offset), Some(record));
        }
    }
}
