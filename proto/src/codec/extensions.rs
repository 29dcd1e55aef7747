//! Room for the future in documents: needs (what a reader must be able to do) and extensions (what it may skip).

use std::collections::BTreeMap;

use super::{CodecError, DocumentError, Reader, Writer, check_limit};
use crate::limits::{EXTENSIONS_MAX, EXTENSIONS_MAX_BYTES, NEEDS_RELEASE_MAX_BYTES};

/// The first release that understands the bit of the same place.
const NEEDS_RELEASES: [&str; 1] = ["0.1.0"];

/// What a reader of a document must understand: feature bits, of which follows the first release that has them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs(u32);

impl Needs {
    /// Every release can read the document.
    pub const NONE: Self = Self(0);
    /// Somewhere below a snapshot's root there is a chunk that was compressed before it was sealed.
    pub const COMPRESSED_CHUNKS: Self = Self(1);

    /// These needs and those of `other`.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is among these.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    fn release(self) -> &'static str {
        let newest = (0..NEEDS_RELEASES.len()).rev().find(|bit| self.0 >> bit & 1 == 1);
        newest.map_or("", |bit| NEEDS_RELEASES[bit])
    }

    pub(crate) fn write(self, writer: &mut Writer) {
        writer.u32(self.0);
        writer.bytes8(self.release().as_bytes());
    }

    /// Reads needs of which the document at hand can have those in `known`.
    pub(crate) fn read(reader: &mut Reader<'_>, known: Self) -> Result<Self, DocumentError> {
        let bits = reader.u32("needs")?;
        let release = reader.bytes8(NEEDS_RELEASE_MAX_BYTES, "the release of needs")?;
        if release.is_empty() != (bits == 0) || !release.iter().all(u8::is_ascii_graphic) {
            return Err(DocumentError::NeedsText);
        }
        if bits & !known.0 != 0 {
            let release = String::from_utf8_lossy(release).into_owned();
            return Err(DocumentError::Needs { bits: bits & !known.0, release });
        }
        // One encoding for each value: of bits that are all known the release is known too.
        let needs = Self(bits);
        if needs.release().as_bytes() == release { Ok(needs) } else { Err(DocumentError::NeedsText) }
    }
}

/// Fields that later releases add: a reader refuses odd keys that it does not know, and keeps even ones as they are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extensions(BTreeMap<u16, Vec<u8>>);

impl Extensions {
    /// Adds or replaces a field. Fields that this release understands are typed fields of their documents, so no odd key
    /// can be given here.
    ///
    /// # Errors
    /// [`DocumentError::UnknownExtension`] for an odd key; [`DocumentError::Codec`] when there are too many or too large ones.
    pub fn insert(&mut self, key: u16, value: Vec<u8>) -> Result<(), DocumentError> {
        if !key.is_multiple_of(2) {
            return Err(DocumentError::UnknownExtension { key });
        }
        self.set(key, value)
    }

    fn set(&mut self, key: u16, value: Vec<u8>) -> Result<(), DocumentError> {
        let others: usize = self.0.iter().filter(|(other, _)| **other != key).map(|(_, value)| value.len()).sum();
        check_limit(others.saturating_add(value.len()), EXTENSIONS_MAX_BYTES, "extensions")?;
        if !self.0.contains_key(&key) {
            check_limit(self.0.len() + 1, EXTENSIONS_MAX, "extensions")?;
        }
        self.0.insert(key, value);
        Ok(())
    }

    /// These and a field that a document holds as a typed one.
    ///
    /// # Errors
    /// [`DocumentError::ReservedExtension`] when the key is there already; else as [`Extensions::insert`].
    pub(crate) fn with_typed(mut self, key: u16, value: Option<Vec<u8>>) -> Result<Self, DocumentError> {
        if self.0.contains_key(&key) {
            return Err(DocumentError::ReservedExtension { key });
        }
        if let Some(value) = value {
            self.set(key, value)?;
        }
        Ok(self)
    }

    /// Takes a field out that a document holds as a typed one.
    pub(crate) fn take(&mut self, key: u16) -> Option<Vec<u8>> {
        self.0.remove(&key)
    }

    /// The value of a field.
    #[must_use]
    pub fn get(&self, key: u16) -> Option<&[u8]> {
        self.0.get(&key).map(Vec::as_slice)
    }

    /// All fields, by key.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &[u8])> {
        self.0.iter().map(|(key, value)| (*key, value.as_slice()))
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.count16(self.0.len());
        for (key, value) in &self.0 {
            writer.u16(*key);
            writer.bytes32(value);
        }
    }

    /// Reads the fields of a document that understands no odd key.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        Self::read_with_odd(reader, &[])
    }

    /// Reads the fields of a document that understands the odd keys in `odd`; the caller takes them out.
    pub(crate) fn read_with_odd(reader: &mut Reader<'_>, odd: &[u16]) -> Result<Self, DocumentError> {
        let count = reader.count16(EXTENSIONS_MAX, 6, "extensions")?;
        let mut fields = BTreeMap::new();
        let mut bytes = 0usize;
        for _ in 0..count {
            let key = reader.u16("an extension's key")?;
            let value = reader.bytes32(EXTENSIONS_MAX_BYTES - bytes, "an extension's value")?;
            if fields.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(DocumentError::Order { what: "extensions" });
            }
            if !key.is_multiple_of(2) && !odd.contains(&key) {
                return Err(DocumentError::UnknownExtension { key });
            }
            bytes += value.len();
            fields.insert(key, value.to_vec());
        }
        Ok(Self(fields))
    }
}

/// Version byte of every document.
pub(crate) const VERSION: u8 = 1;

pub(crate) fn read_version(reader: &mut Reader<'_>) -> Result<(), DocumentError> {
    match reader.u8("the version")? {
        VERSION => Ok(()),
        found => Err(DocumentError::Version { found }),
    }
}

/// A list in strictly ascending order.
pub(crate) fn check_ascending<T: Ord>(
    mut items: impl Iterator<Item = T>,
    what: &'static str,
) -> Result<(), DocumentError> {
    let Some(mut last) = items.next() else { return Ok(()) };
    for item in items {
        if last >= item {
            return Err(DocumentError::Order { what });
        }
        last = item;
    }
    Ok(())
}

/// A text with its length in two bytes.
pub(crate) fn read_text16(reader: &mut Reader<'_>, limit: usize, what: &'static str) -> Result<String, CodecError> {
    let bytes = reader.bytes16(limit, what)?;
    core::str::from_utf8(bytes).map(str::to_owned).map_err(|_| CodecError::Text { what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_needs_are_refused_by_release() {
        let mut writer = Writer::new();
        writer.u32(0x10);
        writer.bytes8(b"0.7");
        let bytes = writer.into_bytes();
        let error = Needs::read(&mut Reader::new(&bytes), Needs::COMPRESSED_CHUNKS).expect_err("bit 4 is unknown");
        assert_eq!(error, DocumentError::Needs { bits: 0x10, release: "0.7".to_owned() });
        assert_eq!(error.to_string(), "the document needs Dolmen 0.7 or later (feature bits 0x10)");
        for text in
            [&[0, 0, 0, 0, 1, b'1'][..], &[1, 0, 0, 0, 0], &[1, 0, 0, 0, 1, 7], &[1, 0, 0, 0, 3, b'0', b'.', b'2']]
        {
            let found = Needs::read(&mut Reader::new(text), Needs::COMPRESSED_CHUNKS);
            assert_eq!(found, Err(DocumentError::NeedsText), "{text:?}");
        }
    }

    #[test]
    fn needs_are_understood_where_they_can_stand() {
        let mut writer = Writer::new();
        Needs::COMPRESSED_CHUNKS.write(&mut writer);
        let bytes = writer.into_bytes();
        let read = |known| Needs::read(&mut Reader::new(&bytes), known);
        assert_eq!(read(Needs::COMPRESSED_CHUNKS), Ok(Needs::COMPRESSED_CHUNKS));
        assert_eq!(read(Needs::NONE), Err(DocumentError::Needs { bits: 1, release: "0.1.0".to_owned() }));
        assert!(Needs::NONE.and(Needs::COMPRESSED_CHUNKS).contains(Needs::COMPRESSED_CHUNKS));
        assert!(!Needs::NONE.contains(Needs::COMPRESSED_CHUNKS));
    }

    #[test]
    fn even_extensions_are_kept_and_odd_ones_refused() {
        let mut extensions = Extensions::default();
        extensions.insert(8, b"later".to_vec()).expect("even");
        extensions.insert(2, Vec::new()).expect("even");
        assert_eq!(extensions.insert(3, Vec::new()), Err(DocumentError::UnknownExtension { key: 3 }));
        let mut writer = Writer::new();
        extensions.write(&mut writer);
        let mut bytes = writer.into_bytes();
        assert_eq!(Extensions::read(&mut Reader::new(&bytes)), Ok(extensions));
        bytes[2] = 9;
        assert_eq!(Extensions::read(&mut Reader::new(&bytes)), Err(DocumentError::UnknownExtension { key: 9 }));
        bytes[2] = 8;
        assert_eq!(Extensions::read(&mut Reader::new(&bytes)), Err(DocumentError::Order { what: "extensions" }));
    }

    #[test]
    fn extensions_are_bounded_together() {
        let mut extensions = Extensions::default();
        extensions.insert(2, vec![0; EXTENSIONS_MAX_BYTES]).expect("as many as there may be");
        extensions.insert(2, vec![1; EXTENSIONS_MAX_BYTES]).expect("replaces the first");
        assert!(extensions.insert(4, vec![0]).is_err());
    }
}
