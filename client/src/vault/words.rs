//! The 24 words: a vault's only backup.
//!
//! Decides how words are read and written: BIP 39, English, 24 of them, which are 32 random bytes and a checksum of one.
//! Never stores or prints them.

use std::fmt;

use bip39::{Language, Mnemonic};
use dolmen_proto::keys::VaultSecret;
use zeroize::Zeroizing;

use crate::error::{ClientError, ErrorKind};

/// How many words a vault has.
const COUNT: usize = 24;
/// Longest text that is looked at: 24 of the longest words with more space between them than anybody types.
const TEXT_MAX_BYTES: usize = 1024;

/// The words of a vault, from which everything that it holds can be found and read again. Wiped when dropped.
#[derive(Clone)]
pub struct Words(Zeroizing<[u8; 32]>);

impl fmt::Debug for Words {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Words(..)")
    }
}

impl Words {
    /// Draws new words.
    ///
    /// # Errors
    /// `Local` when this machine has no random numbers.
    pub fn draw() -> Result<Self, ClientError> {
        let mut entropy = Zeroizing::new([0; 32]);
        fill_random(&mut *entropy)?;
        Ok(Self(entropy))
    }

    /// Reads words as a person types them: any spaces and line breaks between them, capitals or not.
    ///
    /// ```
    /// use dolmen_client::vault::Words;
    /// let words = Words::draw()?;
    /// assert_eq!(*Words::parse(&words.to_text())?.to_text(), *words.to_text());
    /// assert!(Words::parse("abandon ability able").is_err());
    /// # Ok::<(), dolmen_client::ClientError>(())
    /// ```
    ///
    /// # Errors
    /// `Usage`, which says the number of the first word that is none, but never repeats a word.
    pub fn parse(text: &str) -> Result<Self, ClientError> {
        let wrong = |why: String| {
            let advice = "type all 24 words as they were shown, in their order";
            ClientError::new(ErrorKind::Usage, "these are not the words of a vault", why, advice)
        };
        if text.len() > TEXT_MAX_BYTES {
            return Err(wrong(format!("the text is longer than {COUNT} words can be")));
        }
        let lower = Zeroizing::new(text.to_ascii_lowercase());
        let count = lower.split_whitespace().count();
        if count != COUNT {
            return Err(wrong(format!("a vault has {COUNT} words, these are {count}")));
        }
        let list = Language::English;
        if let Some(place) = lower.split_whitespace().position(|word| list.find_word(word).is_none()) {
            return Err(wrong(format!("word {} is not in the list of words", place + 1)));
        }
        let mut joined = Zeroizing::new(String::with_capacity(TEXT_MAX_BYTES));
        for word in lower.split_whitespace() {
            joined.push_str(word);
            joined.push(' ');
        }
        let mnemonic = Mnemonic::parse_in_normalized(list, joined.trim_end())
            .map_err(|_| wrong("their checksum does not match: a word is wrong, or two are swapped".to_owned()))?;
        let (mut bytes, length) = mnemonic.to_entropy_array();
        let entropy = bytes[..length].try_into().map(Zeroizing::new);
        zeroize::Zeroize::zeroize(&mut bytes);
        entropy.map(Self).map_err(|_| wrong(format!("they hold {length} bytes, not 32")))
    }

    /// The words, lowercase, one space between them.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let mnemonic = Mnemonic::from_entropy(&*self.0).expect("32 bytes are 24 words");
        let mut text = Zeroizing::new(String::with_capacity(TEXT_MAX_BYTES));
        for word in mnemonic.words() {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(word);
        }
        text
    }

    /// Takes the 32 bytes that the words stand for.
    pub(crate) fn from_entropy(entropy: Zeroizing<[u8; 32]>) -> Self {
        Self(entropy)
    }

    /// The 32 bytes that the words stand for.
    pub(crate) fn entropy(&self) -> &[u8; 32] {
        &self.0
    }

    /// The secret of the vault.
    pub(crate) fn secret(&self) -> VaultSecret {
        VaultSecret::from_entropy(&self.0)
    }
}

/// Fills with random bytes of the operating system.
///
/// # Errors
/// `Local` when it has none.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<(), ClientError> {
    getrandom::fill(bytes).map_err(|error| {
        let advice = "check this machine's random numbers";
        ClientError::new(ErrorKind::Local, "could not draw a secret", error, advice)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last vector of BIP 39's own list.
    const VECTOR: &str = "void come effort suffer camp survey warrior heavy shoot primary clutch crush open amazing screen patrol group space point ten exist slush involve unfold";

    #[test]
    fn words_are_those_of_the_standard() {
        let words = Words::parse(VECTOR).unwrap();
        let hex: String = words.entropy().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "f585c11aec520db57dd353c69554b21a89b20fb0650966fa0a9d6f74fd989d8f");
        assert_eq!(*words.to_text(), VECTOR);
        assert_eq!(format!("{words:?}"), "Words(..)");
    }

    #[test]
    fn words_may_be_typed_carelessly_but_not_wrongly() {
        let typed = VECTOR.replace(' ', " \n\t ").to_uppercase();
        assert_eq!(*Words::parse(&typed).unwrap().to_text(), VECTOR);
        let why = |text: &str| {
            let error = Words::parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage);
            error.why().to_owned()
        };
        assert!(why("").contains("these are 0"));
        assert!(why(&VECTOR.replacen("void ", "", 1)).contains("these are 23"));
        let misspelt = why(&VECTOR.replacen("camp", "kamp", 1));
        assert!(misspelt.contains("word 5") && !misspelt.contains("kamp"), "{misspelt}");
        assert!(why(&VECTOR.replacen("void come", "come void", 1)).contains("checksum"));
        assert!(why(&"a ".repeat(2000)).contains("longer"));
    }

    #[test]
    fn no_two_draws_are_the_same() {
        assert_ne!(Words::draw().unwrap().entropy(), Words::draw().unwrap().entropy());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,300}") {
            let _ = Words::parse(&text);
        }

        #[test]
        fn all_entropy_has_words_and_comes_back(entropy: [u8; 32]) {
            let words = Words::from_entropy(Zeroizing::new(entropy));
            let again = Words::parse(&words.to_text()).unwrap();
            proptest::prop_assert_eq!(again.entropy(), &entropy);
        }
    }
}
