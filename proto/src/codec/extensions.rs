//! Room for the future in documents: needs (what a reader must be able to do) and extensions (what it may skip).

use std::collections::BTreeMap;

use super::{CodecError, DocumentError, Reader, Writer, check_limit};
use crate::limits::{EXTENSIONS_MAX, EXTENSIONS_MAX_BYTES, NEEDS_RELEASE_MAX_BYTES};

/// Feature bits that this release understands.
const NEEDS_KNOWN: u32 = 0;

/// What a reader of a document must understand: feature bits and the first release that has them all.
///
/// This release knows of no bit, so the only value that can be read or written is [`Needs::NONE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs(());

impl Needs {
    /// Every release can read the document.
    pub const NONE: Self = Self(());

    pub(crate) fn write(self, writer: &mut Writer) {
        writer.u32(0);
        writer.bytes8(&[]);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        let bits = reader.u32("needs")?;
        let release = reader.bytes8(NEEDS_RELEASE_MAX_BYTES, "the release of needs")?;
        if release.is_empty() != (bits == 0) || !release.iter().all(u8::is_ascii_graphic) {
            return Err(DocumentError::NeedsText);
        }
        if bits & !NEEDS_KNOWN != 0 {
            let release = String::from_utf8_lossy(release).into_owned();
            return Err(DocumentError::Needs { bits: bits & !NEEDS_KNOWN, release });
        }
        Ok(Self(()))
    }
}

/// Fields that later releases add: a reader refuses odd keys that it does not know, and keeps even ones as they are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extensions(BTreeMap<u16, Vec<u8>>);

impl Extensions {
    /// Adds or replaces a field. This release knows no odd key, so it writes none.
    ///
    /// # Errors
    /// [`DocumentError::UnknownExtension`] for an odd key; [`DocumentError::Codec`] when there are too many or too large ones.
    pub fn insert(&mut self, key: u16, value: Vec<u8>) -> Result<(), DocumentError> {
        if !key.is_multiple_of(2) {
            return Err(DocumentError::UnknownExtension { key });
        }
        let others: usize = self.0.iter().filter(|(other, _)| **other != key).map(|(_, value)| value.len()).sum();
        check_limit(others.saturating_add(value.len()), EXTENSIONS_MAX_BYTES, "extensions")?;
        if !self.0.contains_key(&key) {
            check_limit(self.0.len() + 1, EXTENSIONS_MAX, "extensions")?;
        }
        self.0.insert(key, value);
        Ok(())
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

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        let count = reader.count16(EXTENSIONS_MAX, 6, "extensions")?;
        let mut fields = BTreeMap::new();
        let mut bytes = 0usize;
        for _ in 0..count {
            let key = reader.u16("an extension's key")?;
            let value = reader.bytes32(EXTENSIONS_MAX_BYTES - bytes, "an extension's value")?;
            if fields.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(DocumentError::Order { what: "extensions" });
            }
            if !key.is_multiple_of(2) {
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
        let error = Needs::read(&mut Reader::new(&bytes)).expect_err("bit 4 is unknown");
        assert_eq!(error, DocumentError::Needs { bits: 0x10, release: "0.7".to_owned() });
        assert_eq!(error.to_string(), "the document needs Dolmen 0.7 or later (feature bits 0x10)");
        assert_eq!(Needs::read(&mut Reader::new(&[0, 0, 0, 0, 1, b'1'])), Err(DocumentError::NeedsText));
        assert_eq!(Needs::read(&mut Reader::new(&[1, 0, 0, 0, 0])), Err(DocumentError::NeedsText));
        assert_eq!(Needs::read(&mut Reader::new(&[1, 0, 0, 0, 1, 7])), Err(DocumentError::NeedsText));
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
