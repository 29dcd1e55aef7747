//! Reading and writing of the fixed formats: integers, byte strings, counts and flags, all bounded.
//!
//! Decides how a primitive is encoded (little endian, one encoding for each value) and that a length is checked
//! against its limit and against the bytes that are there before anything is allocated for it. Never decides what
//! the fields of a format are: that is the business of the documents. The formats are written down in `docs/format.md`.

mod error;
mod extensions;

pub use error::DocumentError;
pub use extensions::{Extensions, Needs};
pub(crate) use extensions::{VERSION, check_ascending, read_text16, read_version};

/// Why bytes are not the encoding of anything: always the fault of whoever wrote or carried them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes end inside of a field.
    #[error("the bytes end inside of {what}")]
    Truncated {
        /// The field.
        what: &'static str,
    },
    /// Bytes follow the last field.
    #[error("{bytes} bytes follow the last field")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A length or a count is over its limit.
    #[error("{what}: {found} is over the limit of {limit}")]
    TooMuch {
        /// The field.
        what: &'static str,
        /// What is allowed.
        limit: u64,
        /// What was written.
        found: u64,
    },
    /// A byte that selects a variant has a value that stands for none.
    #[error("{what}: {found} is not a known value")]
    Unknown {
        /// The field.
        what: &'static str,
        /// What was written.
        found: u8,
    },
    /// A text is not UTF-8.
    #[error("{what} is not UTF-8")]
    Text {
        /// The field.
        what: &'static str,
    },
}

/// Takes fields off the front of a byte string; never copies more than it was asked for.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the first byte on.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// How many bytes are left.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] when there are fewer.
    pub fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(CodecError::Truncated { what })?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] when there are fewer.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], CodecError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(CodecError::Truncated { what })?;
        self.rest = rest;
        Ok(*taken)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] at the end.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, CodecError> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    /// Two bytes, little endian.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] when there are fewer.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, CodecError> {
        self.array(what).map(u16::from_le_bytes)
    }

    /// Four bytes, little endian.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] when there are fewer.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, CodecError> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// Eight bytes, little endian.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] when there are fewer.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, CodecError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// Eight bytes, little endian, in two's complement.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] when there are fewer.
    pub fn i64(&mut self, what: &'static str) -> Result<i64, CodecError> {
        self.array(what).map(i64::from_le_bytes)
    }

    /// A byte that is 0 or 1.
    ///
    /// # Errors
    /// [`CodecError::Unknown`] for every other value.
    pub fn flag(&mut self, what: &'static str) -> Result<bool, CodecError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(CodecError::Unknown { what, found }),
        }
    }

    /// What `read` reads when the flag before it is set.
    ///
    /// # Errors
    /// Those of the flag and of `read`.
    pub fn option<T, E: From<CodecError>>(
        &mut self,
        what: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        if self.flag(what)? { read(self).map(Some) } else { Ok(None) }
    }

    /// A byte string with its length in one byte.
    ///
    /// # Errors
    /// [`CodecError::TooMuch`] over `limit`, [`CodecError::Truncated`] when it is not all there.
    pub fn bytes8(&mut self, limit: usize, what: &'static str) -> Result<&'a [u8], CodecError> {
        let length = u64::from(self.u8(what)?);
        self.bounded(length, limit, what)
    }

    /// A byte string with its length in two bytes.
    ///
    /// # Errors
    /// [`CodecError::TooMuch`] over `limit`, [`CodecError::Truncated`] when it is not all there.
    pub fn bytes16(&mut self, limit: usize, what: &'static str) -> Result<&'a [u8], CodecError> {
        let length = u64::from(self.u16(what)?);
        self.bounded(length, limit, what)
    }

    /// A byte string with its length in four bytes.
    ///
    /// # Errors
    /// [`CodecError::TooMuch`] over `limit`, [`CodecError::Truncated`] when it is not all there.
    pub fn bytes32(&mut self, limit: usize, what: &'static str) -> Result<&'a [u8], CodecError> {
        let length = u64::from(self.u32(what)?);
        self.bounded(length, limit, what)
    }

    fn bounded(&mut self, found: u64, limit: usize, what: &'static str) -> Result<&'a [u8], CodecError> {
        let length = within(found, limit, what)?;
        self.take(length, what)
    }

    /// A count of items in two bytes, each item taking at least `item_min_bytes`.
    ///
    /// # Errors
    /// [`CodecError::TooMuch`] over `limit`, [`CodecError::Truncated`] when so many items cannot follow: so a
    /// count may be used for an allocation.
    pub fn count16(&mut self, limit: usize, item_min_bytes: usize, what: &'static str) -> Result<usize, CodecError> {
        let found = u64::from(self.u16(what)?);
        self.count(found, limit, item_min_bytes, what)
    }

    /// A count of items in four bytes, each item taking at least `item_min_bytes`.
    ///
    /// # Errors
    /// As [`Reader::count16`].
    pub fn count32(&mut self, limit: usize, item_min_bytes: usize, what: &'static str) -> Result<usize, CodecError> {
        let found = u64::from(self.u32(what)?);
        self.count(found, limit, item_min_bytes, what)
    }

    fn count(&self, found: u64, limit: usize, item_min_bytes: usize, what: &'static str) -> Result<usize, CodecError> {
        let count = within(found, limit, what)?;
        match count.checked_mul(item_min_bytes) {
            Some(bytes) if bytes <= self.remaining() => Ok(count),
            _ => Err(CodecError::Truncated { what }),
        }
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`CodecError::Trailing`] when bytes are left.
    pub const fn finish(self) -> Result<(), CodecError> {
        match self.rest.len() {
            0 => Ok(()),
            bytes => Err(CodecError::Trailing { bytes }),
        }
    }
}

fn within(found: u64, limit: usize, what: &'static str) -> Result<usize, CodecError> {
    match usize::try_from(found) {
        Ok(length) if length <= limit => Ok(length),
        _ => Err(CodecError::TooMuch { what, limit: u64::try_from(limit).unwrap_or(u64::MAX), found }),
    }
}

/// Appends fields to a byte string. Lengths must have been checked against their limits before.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty byte string.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    /// How many bytes have been written.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing has been written.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What has been written.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Bytes as they are, without a length.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// Two bytes, little endian.
    pub fn u16(&mut self, value: u16) {
        self.raw(&value.to_le_bytes());
    }

    /// Four bytes, little endian.
    pub fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    /// Eight bytes, little endian.
    pub fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    /// Eight bytes, little endian, in two's complement.
    pub fn i64(&mut self, value: i64) {
        self.raw(&value.to_le_bytes());
    }

    /// A flag, and what `write` writes when there is a value.
    pub fn option<T>(&mut self, value: Option<&T>, write: impl FnOnce(&mut Self, &T)) {
        self.u8(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    /// A count of items in one byte.
    pub fn count8(&mut self, count: usize) {
        self.u8(u8::try_from(count).expect("the count was checked against a limit below 2^8"));
    }

    /// A count of items in two bytes.
    pub fn count16(&mut self, count: usize) {
        self.u16(u16::try_from(count).expect("the count was checked against a limit below 2^16"));
    }

    /// A count of items in four bytes.
    pub fn count32(&mut self, count: usize) {
        self.u32(u32::try_from(count).expect("the count was checked against a limit below 2^32"));
    }

    /// A byte string with its length in one byte.
    pub fn bytes8(&mut self, bytes: &[u8]) {
        self.count8(bytes.len());
        self.raw(bytes);
    }

    /// A byte string with its length in two bytes.
    pub fn bytes16(&mut self, bytes: &[u8]) {
        self.count16(bytes.len());
        self.raw(bytes);
    }

    /// A byte string with its length in four bytes.
    pub fn bytes32(&mut self, bytes: &[u8]) {
        self.count32(bytes.len());
        self.raw(bytes);
    }
}

/// Version and kind: the first two bytes of every blob.
pub(crate) fn write_header(writer: &mut Writer, kind: u8) {
    writer.u8(VERSION);
    writer.u8(kind);
}

/// Refuses more than `limit` of something before it is written.
///
/// # Errors
/// [`CodecError::TooMuch`].
pub(crate) fn check_limit(found: usize, limit: usize, what: &'static str) -> Result<(), CodecError> {
    within(u64::try_from(found).unwrap_or(u64::MAX), limit, what).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_little_endian_and_bounded_by_the_input() {
        let mut writer = Writer::new();
        writer.u16(0x0102);
        writer.u32(0x0304_0506);
        writer.i64(-2);
        writer.bytes8(b"ab");
        let bytes = writer.into_bytes();
        assert_eq!(bytes, [2, 1, 6, 5, 4, 3, 0xfe, 255, 255, 255, 255, 255, 255, 255, 2, b'a', b'b']);
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.u16("a"), Ok(0x0102));
        assert_eq!(reader.u32("b"), Ok(0x0304_0506));
        assert_eq!(reader.i64("c"), Ok(-2));
        assert_eq!(reader.bytes8(2, "d"), Ok(&b"ab"[..]));
        assert_eq!(reader.u8("e"), Err(CodecError::Truncated { what: "e" }));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn a_count_that_the_rest_cannot_hold_is_refused_before_allocation() {
        let bytes = [0xff, 0xff, 0xff, 0xff, 1, 2];
        assert_eq!(
            Reader::new(&bytes).count32(1 << 20, 1, "items"),
            Err(CodecError::TooMuch { what: "items", limit: 1 << 20, found: 0xffff_ffff })
        );
        assert_eq!(Reader::new(&bytes).count32(usize::MAX, 1, "items"), Err(CodecError::Truncated { what: "items" }));
        assert_eq!(Reader::new(&[2, 0, 9, 9]).count16(10, 1, "items"), Ok(2));
        assert_eq!(Reader::new(&[2, 0, 9, 9]).count16(10, 2, "items"), Err(CodecError::Truncated { what: "items" }));
    }

    #[test]
    fn a_flag_is_zero_or_one_and_nothing_may_be_left() {
        assert_eq!(Reader::new(&[2]).flag("flag"), Err(CodecError::Unknown { what: "flag", found: 2 }));
        assert_eq!(Reader::new(&[2]).finish(), Err(CodecError::Trailing { bytes: 1 }));
    }
}
