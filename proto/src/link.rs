//! Links: capability strings. Whoever holds one can do what its kind says, so it is a secret.
//!
//! Decides how a link is written, and that a link with any character changed is refused. Never decides what a link
//! leads to: see [`crate::keys`] and [`crate::head`]. Text: `dolmen1` and base32 of kind, secret, bootstrap
//! addresses and a checksum, as `docs/format.md` has it.

use std::sync::LazyLock;

use data_encoding::{Encoding, Specification};
use zeroize::{Zeroize, Zeroizing};

use crate::codec::{CodecError, Reader, Writer, check_limit};
use crate::keys::ReadSecret;
pub use crate::keys::{StewardSecret, ViewSecret};
use crate::limits::{LINK_ADDRESS_MAX_BYTES, LINK_BOOTSTRAP_MAX, LINK_MAX_CHARS};

/// What every link of this version begins with.
pub const LINK_PREFIX: &str = "dolmen1";

const CHECKSUM_BYTES: usize = 4;

/// Kind, secret, number of addresses and checksum.
const PAYLOAD_MIN_BYTES: usize = 1 + 32 + 1 + CHECKSUM_BYTES;

/// What a link lets its holder do, with the secret that does it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkSecret {
    /// Read a dataset, as it is now and as it will be.
    ReadLive(ReadSecret),
    /// Read a dataset as it was first written: heads of a sequence over 1 are refused.
    ReadFrozen(ReadSecret),
    /// Read a folder, a file or one snapshot of a dataset, and nothing above or beside it.
    View(ViewSecret),
    /// Audit and repair a dataset without reading it.
    Steward(StewardSecret),
}

/// The kind of a link, without the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkKind {
    /// See [`LinkSecret::ReadLive`].
    ReadLive,
    /// See [`LinkSecret::ReadFrozen`].
    ReadFrozen,
    /// See [`LinkSecret::View`].
    View,
    /// See [`LinkSecret::Steward`].
    Steward,
}

/// A capability string. Its text is a secret and so not its `Display`: ask for [`Link::to_text`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    secret: LinkSecret,
    bootstrap: Vec<String>,
}

/// Why a text is not a link, or a link cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The text is longer than any link.
    #[error("a link has at most {LINK_MAX_CHARS} characters, this text has {0}")]
    TooLong(usize),
    /// The text does not begin as a link does.
    #[error("a link begins with {LINK_PREFIX}")]
    Prefix,
    /// The text has a character that no link has, or its last one is impossible.
    #[error("character {0} cannot stand in a link: a link is {LINK_PREFIX}, then lowercase letters and digits 2 to 7")]
    Character(usize),
    /// The text is too short to be a link, or a part of it is missing.
    #[error("the link is cut off")]
    Truncated,
    /// A character was changed, or some are missing.
    #[error("the link's checksum does not match: it was mistyped or cut off")]
    Checksum,
    /// The link is of a kind that this release does not know.
    #[error("the link is of kind {0}, which this release does not know")]
    Kind(u8),
    /// A bootstrap address is malformed, or there are too many or too long ones.
    #[error("a bootstrap address of the link is malformed, too long or one too many")]
    Bootstrap,
}

pub(crate) static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    specification.encoding().expect("32 distinct symbols are an encoding")
});

impl Link {
    /// A link, with the text of multiaddresses at which its reader may enter the network.
    ///
    /// # Errors
    /// [`LinkError::Bootstrap`] or [`LinkError::TooLong`] when the addresses cannot be written.
    pub fn new(secret: LinkSecret, bootstrap: Vec<String>) -> Result<Self, LinkError> {
        check_limit(bootstrap.len(), LINK_BOOTSTRAP_MAX, "bootstrap addresses").map_err(|_| LinkError::Bootstrap)?;
        if !bootstrap.iter().all(|address| is_address(address.as_bytes())) {
            return Err(LinkError::Bootstrap);
        }
        let bytes: usize = bootstrap.iter().map(|address| 1 + address.len()).sum();
        let characters = LINK_PREFIX.len() + BASE32.encode_len(PAYLOAD_MIN_BYTES + bytes);
        if characters > LINK_MAX_CHARS {
            return Err(LinkError::TooLong(characters));
        }
        Ok(Self { secret, bootstrap })
    }

    /// What it lets its holder do.
    #[must_use]
    pub const fn secret(&self) -> &LinkSecret {
        &self.secret
    }

    /// The kind alone.
    #[must_use]
    pub const fn kind(&self) -> LinkKind {
        match self.secret {
            LinkSecret::ReadLive(_) => LinkKind::ReadLive,
            LinkSecret::ReadFrozen(_) => LinkKind::ReadFrozen,
            LinkSecret::View(_) => LinkKind::View,
            LinkSecret::Steward(_) => LinkKind::Steward,
        }
    }

    /// The secret of a read link, live or frozen; `None` for the other kinds.
    #[must_use]
    pub const fn read_secret(&self) -> Option<&ReadSecret> {
        match &self.secret {
            LinkSecret::ReadLive(secret) | LinkSecret::ReadFrozen(secret) => Some(secret),
            LinkSecret::View(_) | LinkSecret::Steward(_) => None,
        }
    }

    /// The secret of a view link; `None` for the other kinds.
    #[must_use]
    pub const fn view_secret(&self) -> Option<&ViewSecret> {
        match &self.secret {
            LinkSecret::View(secret) => Some(secret),
            LinkSecret::ReadLive(_) | LinkSecret::ReadFrozen(_) | LinkSecret::Steward(_) => None,
        }
    }

    /// The secret of a steward link; `None` for the other kinds.
    #[must_use]
    pub const fn steward_secret(&self) -> Option<&StewardSecret> {
        match &self.secret {
            LinkSecret::Steward(secret) => Some(secret),
            LinkSecret::ReadLive(_) | LinkSecret::ReadFrozen(_) | LinkSecret::View(_) => None,
        }
    }

    /// Multiaddresses as text; not checked beyond their first character.
    #[must_use]
    pub fn bootstrap(&self) -> &[String] {
        &self.bootstrap
    }

    /// The text, wiped when dropped.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut writer = Writer::new();
        writer.u8(self.kind().byte());
        writer.raw(self.secret_bytes());
        writer.count8(self.bootstrap.len());
        self.bootstrap.iter().for_each(|address| writer.bytes8(address.as_bytes()));
        let mut payload = Zeroizing::new(writer.into_bytes());
        let checksum = checksum(LINK_PREFIX, &payload);
        payload.extend_from_slice(&checksum);
        let mut text = Zeroizing::new(String::with_capacity(LINK_PREFIX.len() + BASE32.encode_len(payload.len())));
        text.push_str(LINK_PREFIX);
        BASE32.encode_append(&payload, &mut text);
        text
    }

    /// Reads a link; the text must be exactly the link, without spaces around it.
    ///
    /// # Errors
    /// [`LinkError`]: what is wrong with it. The error tells nothing of the secret.
    pub fn parse(text: &str) -> Result<Self, LinkError> {
        if text.len() > LINK_MAX_CHARS {
            return Err(LinkError::TooLong(text.len()));
        }
        let encoded = text.strip_prefix(LINK_PREFIX).ok_or(LinkError::Prefix)?;
        let mut payload = Zeroizing::new(vec![0; BASE32.decode_len(encoded.len()).map_err(|_| LinkError::Truncated)?]);
        BASE32
            .decode_mut(encoded.as_bytes(), &mut payload)
            .map_err(|partial| LinkError::Character(LINK_PREFIX.len() + partial.error.position + 1))?;
        let (body, found) = payload.split_last_chunk::<CHECKSUM_BYTES>().ok_or(LinkError::Truncated)?;
        if payload.len() < PAYLOAD_MIN_BYTES {
            return Err(LinkError::Truncated);
        }
        if *found != checksum(LINK_PREFIX, body) {
            return Err(LinkError::Checksum);
        }
        Self::read(body)
    }

    fn read(body: &[u8]) -> Result<Self, LinkError> {
        let mut reader = Reader::new(body);
        let kind = reader.u8("the kind").map_err(truncated)?;
        let mut bytes = Zeroizing::new(reader.array::<32>("the secret").map_err(truncated)?);
        let secret = match kind {
            1 => LinkSecret::ReadLive(ReadSecret::new(*bytes)),
            2 => LinkSecret::ReadFrozen(ReadSecret::new(*bytes)),
            3 => LinkSecret::View(ViewSecret::new(*bytes)),
            4 => LinkSecret::Steward(StewardSecret::new(*bytes)),
            unknown => return Err(LinkError::Kind(unknown)),
        };
        bytes.zeroize();
        let count = reader.u8("bootstrap addresses").map_err(truncated)?;
        let bootstrap = (0..count)
            .map(|_| {
                let address = reader.bytes8(LINK_ADDRESS_MAX_BYTES, "a bootstrap address").ok()?;
                core::str::from_utf8(address).ok().map(str::to_owned)
            })
            .collect::<Option<Vec<_>>>()
            .ok_or(LinkError::Bootstrap)?;
        reader.finish().map_err(|_| LinkError::Bootstrap)?;
        Self::new(secret, bootstrap)
    }

    const fn secret_bytes(&self) -> &[u8; 32] {
        match &self.secret {
            LinkSecret::ReadLive(secret) | LinkSecret::ReadFrozen(secret) => secret.expose(),
            LinkSecret::View(secret) => secret.expose(),
            LinkSecret::Steward(secret) => secret.expose(),
        }
    }
}

impl LinkKind {
    const fn byte(self) -> u8 {
        match self {
            Self::ReadLive => 1,
            Self::ReadFrozen => 2,
            Self::View => 3,
            Self::Steward => 4,
        }
    }
}

fn truncated(_: CodecError) -> LinkError {
    LinkError::Truncated
}

fn is_address(address: &[u8]) -> bool {
    address.len() <= LINK_ADDRESS_MAX_BYTES
        && address.first() == Some(&b'/')
        && address.iter().all(u8::is_ascii_graphic)
}

/// Covers the prefix too, so that a link of one version is none of another.
pub(crate) fn checksum(prefix: &str, payload: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(prefix.as_bytes()).update(payload);
    let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn link(bootstrap: &[&str]) -> Link {
        let secret = LinkSecret::ReadLive(ReadSecret::new([0x5a; 32]));
        Link::new(secret, bootstrap.iter().map(|address| (*address).to_owned()).collect()).expect("writable")
    }

    #[test]
    fn a_link_is_short_and_its_debug_form_hides_it() {
        let link = link(&[]);
        let text = link.to_text();
        assert_eq!(text.len(), 68);
        assert_eq!(Link::parse(&text), Ok(link.clone()));
        assert!(!format!("{link:?}").contains("5a") && !format!("{link:?}").contains("90"));
    }

    #[test]
    fn a_link_with_any_one_character_changed_is_refused() {
        let text = link(&["/ip4/192.0.2.1/udp/7000/quic-v1"]).to_text();
        let alphabet = b"abcdefghijklmnopqrstuvwxyz234567018AZ =/";
        for position in 0..text.len() {
            for symbol in alphabet {
                let mut changed = text.as_bytes().to_vec();
                if changed[position] != *symbol {
                    changed[position] = *symbol;
                    let changed = String::from_utf8(changed).expect("ASCII");
                    assert!(Link::parse(&changed).is_err(), "{position} {symbol}");
                }
            }
            assert!(Link::parse(&text[..position]).is_err(), "cut at {position}");
            assert!(Link::parse(&format!("{}a{}", &text[..position], &text[position..])).is_err());
        }
    }

    #[test]
    fn what_is_wrong_with_a_link_has_a_name() {
        let text = link(&[]).to_text();
        assert_eq!(Link::parse("https://example.org"), Err(LinkError::Prefix));
        assert_eq!(Link::parse(&text.to_uppercase()), Err(LinkError::Prefix));
        assert_eq!(Link::parse(&"a".repeat(LINK_MAX_CHARS + 1)), Err(LinkError::TooLong(LINK_MAX_CHARS + 1)));
        assert_eq!(Link::parse(&text.replacen("dolmen1", "dolmen1!", 1)).err(), Some(LinkError::Truncated));
        assert_eq!(Link::parse(&format!("{}!{}", &text[..9], &text[10..])), Err(LinkError::Character(10)));
        assert_eq!(Link::parse("dolmen1"), Err(LinkError::Truncated));
        assert_eq!(Link::parse(&sealed(&[9; 34])), Err(LinkError::Kind(9)));
        let mut body = [1; 34];
        assert_eq!(Link::parse(&sealed(&body)), Err(LinkError::Bootstrap), "an address is missing");
        body[33] = 0;
        assert!(Link::parse(&sealed(&body)).is_ok());
        assert_eq!(Link::parse(&sealed(&[&body[..], &[0]].concat())), Err(LinkError::Bootstrap), "a byte too many");
    }

    #[test]
    fn addresses_that_do_not_fit_are_refused_when_writing() {
        let secret = || LinkSecret::Steward(StewardSecret::new([1; 32]));
        let long = format!("/{}", "a".repeat(LINK_ADDRESS_MAX_BYTES - 1));
        assert!(matches!(Link::new(secret(), vec![long.clone(); 8]), Err(LinkError::TooLong(_))));
        assert_eq!(Link::new(secret(), vec!["/a".to_owned(); 9]), Err(LinkError::Bootstrap));
        assert_eq!(Link::new(secret(), vec![format!("{long}a")]), Err(LinkError::Bootstrap));
        assert_eq!(Link::new(secret(), vec!["/a b".to_owned()]), Err(LinkError::Bootstrap));
        assert_eq!(Link::new(secret(), vec!["example.org:1".to_owned()]), Err(LinkError::Bootstrap));
    }

    /// The text of a link with this body and the right checksum.
    fn sealed(body: &[u8]) -> String {
        format!("{LINK_PREFIX}{}", BASE32.encode(&[body, &checksum(LINK_PREFIX, body)].concat()))
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,200}", tail in "[a-z2-7]{0,300}") {
            let _ = Link::parse(&text);
            let _ = Link::parse(&format!("{LINK_PREFIX}{tail}"));
        }

        #[test]
        fn any_body_is_read_without_panic_and_has_one_text(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let text = sealed(&body);
            if let Ok(link) = Link::parse(&text) {
                prop_assert_eq!(&*link.to_text(), &text);
            }
        }

        #[test]
        fn links_round_trip(kind in 1u8..=4, secret: [u8; 32], bootstrap in proptest::collection::vec("/[!-~]{0,100}", 0..=8)) {
            let mut body = vec![kind];
            body.extend_from_slice(&secret);
            body.push(u8::try_from(bootstrap.len()).expect("few"));
            for address in &bootstrap {
                body.push(u8::try_from(address.len()).expect("short"));
                body.extend_from_slice(address.as_bytes());
            }
            let link = Link::parse(&sealed(&body)).expect("well formed");
            prop_assert_eq!(link.bootstrap(), &bootstrap[..]);
            prop_assert_eq!(Link::parse(&link.to_text()), Ok(link));
        }
    }
}
