//! Passphrases: where they come from and what is done to them before they are used.
//!
//! Decides that equal text is one passphrase however a keyboard composes it (Unicode NFC), and what a file or the
//! environment may hold. Never stores one.

use std::fmt;
use std::io::Read;
use std::path::Path;

use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

use crate::error::{ClientError, ErrorKind};

/// The environment variable that machines may hold the passphrase in.
pub const PASSPHRASE_VARIABLE: &str = "DOLMEN_PASSPHRASE";
/// Longest passphrase, and longest file that one is read from.
const MAX_BYTES: usize = 4096;

/// What a vault's file is sealed with. Wiped when dropped.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl fmt::Debug for Passphrase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Passphrase(..)")
    }
}

fn refused(why: impl fmt::Display) -> ClientError {
    let advice = "give one with --passphrase-file, in DOLMEN_PASSPHRASE or at the terminal";
    ClientError::new(ErrorKind::Refused, "that is no passphrase", why, advice)
}

impl Passphrase {
    /// A passphrase as it was typed.
    ///
    /// # Errors
    /// `Refused` when it is empty or longer than 4,096 bytes.
    pub fn new(text: &str) -> Result<Self, ClientError> {
        if text.is_empty() {
            return Err(refused("it is empty"));
        }
        if text.len() > MAX_BYTES {
            return Err(refused(format!("it is longer than {MAX_BYTES} bytes")));
        }
        // Composed text is never longer than three times what it came from, so the buffer is never moved and left unwiped.
        let mut normal = Zeroizing::new(String::with_capacity(text.len() * 3));
        normal.extend(text.nfc());
        Ok(Self(normal))
    }

    /// The first line of a file.
    ///
    /// # Errors
    /// `Local` when it cannot be read, `Refused` when it holds no passphrase or more than one line.
    pub fn from_file(path: &Path) -> Result<Self, ClientError> {
        let failed = |error| ClientError::local("read the passphrase in", path, &error);
        let file = std::fs::File::open(path).map_err(failed)?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 3));
        file.take(MAX_BYTES as u64 + 3).read_to_end(&mut bytes).map_err(failed)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| refused("the file is not UTF-8 text"))?;
        let line = text.strip_suffix('\n').unwrap_or(text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.contains('\n') {
            return Err(refused("the file has more than one line"));
        }
        Self::new(line)
    }

    /// The passphrase in [`PASSPHRASE_VARIABLE`]; `None` when it is not set.
    ///
    /// # Errors
    /// `Refused` when it holds no passphrase.
    pub fn from_environment() -> Result<Option<Self>, ClientError> {
        match std::env::var(PASSPHRASE_VARIABLE) {
            Ok(text) => Self::new(&Zeroizing::new(text)).map(Some),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => Err(refused("the environment's is not UTF-8 text")),
        }
    }

    /// Asks at the terminal, without showing what is typed; `twice`: again, to be sure.
    ///
    /// # Errors
    /// `Refused` when there is no terminal, nothing is typed or the two are not the same.
    pub fn from_terminal(prompt: &str, twice: bool) -> Result<Self, ClientError> {
        let ask = |prompt: &str| {
            rpassword::prompt_password(prompt)
                .map(Zeroizing::new)
                .map_err(|error| refused(format!("there is no terminal to ask at: {error}")))
        };
        let first = ask(prompt)?;
        if twice && *ask("The same again: ")? != *first {
            return Err(refused("the two are not the same"));
        }
        Self::new(&first)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<u8>, ClientError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passphrase");
        std::fs::write(&path, bytes).unwrap();
        Passphrase::from_file(&path).map(|passphrase| passphrase.as_bytes().to_vec())
    }

    #[test]
    fn a_file_holds_one_line() {
        for text in ["correct horse", "correct horse\n", "correct horse\r\n"] {
            assert_eq!(read(text.as_bytes()).unwrap(), b"correct horse");
        }
        assert_eq!(read(b" spaces count ").unwrap(), b" spaces count ");
        for bytes in [&b""[..], b"\n", b"two\nlines\n", b"\xff", &[b'a'; MAX_BYTES + 1]] {
            assert_eq!(read(bytes).unwrap_err().kind(), ErrorKind::Refused);
        }
        assert!(read(&[b'a'; MAX_BYTES]).is_ok());
        let missing = Passphrase::from_file(Path::new("/no/such/file")).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::Local);
    }

    #[test]
    fn composed_and_decomposed_text_is_one_passphrase() {
        let composed = Passphrase::new("caf\u{e9}").unwrap();
        let decomposed = Passphrase::new("cafe\u{301}").unwrap();
        assert_eq!(composed.as_bytes(), decomposed.as_bytes());
        assert_eq!(format!("{composed:?}"), "Passphrase(..)");
    }
}
