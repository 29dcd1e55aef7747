//! The operating system's keychain, as another place for a vault's secret.
//!
//! Decides under which name the secret lies there. What the system calls a keychain differs (Secret Service on Linux,
//! Keychain on macOS); where there is none, that is an error that says so, and a passphrase is the other way.

use zeroize::Zeroizing;

use crate::error::{ClientError, ErrorKind};

/// The name of the application at the keychain.
pub(super) const SERVICE: &str = "dolmen vault";

/// A keychain: secrets by account. All calls may block.
pub(crate) trait Keychain: Send + Sync {
    /// Keeps a secret; replaces the one of the same account.
    ///
    /// # Errors
    /// `Refused` when there is no keychain or it does not take it.
    fn store(&self, account: &str, secret: &[u8]) -> Result<(), ClientError>;

    /// The secret of an account; `None` when the keychain has none.
    ///
    /// # Errors
    /// `Refused` when there is no keychain or it is locked.
    fn fetch(&self, account: &str) -> Result<Option<Zeroizing<Vec<u8>>>, ClientError>;
}

/// The system's own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SystemKeychain;

fn refused(error: &keyring::Error) -> ClientError {
    ClientError::new(
        ErrorKind::Refused,
        "the system's keychain cannot be used",
        error,
        "unlock the keychain or log in where one runs; without one, make the vault with a passphrase",
    )
}

impl SystemKeychain {
    fn entry(account: &str) -> Result<keyring::Entry, ClientError> {
        if let Err(error) = keyring::Entry::store_status() {
            return Err(refused(error));
        }
        keyring::Entry::new(SERVICE, account).map_err(|error| refused(&error))
    }
}

impl Keychain for SystemKeychain {
    fn store(&self, account: &str, secret: &[u8]) -> Result<(), ClientError> {
        Self::entry(account)?.set_secret(secret).map_err(|error| refused(&error))
    }

    fn fetch(&self, account: &str) -> Result<Option<Zeroizing<Vec<u8>>>, ClientError> {
        match Self::entry(account)?.get_secret() {
            Ok(secret) => Ok(Some(Zeroizing::new(secret))),
            Err(keyring::Error::NoEntry) => Ok(None),
            Err(error) => Err(refused(&error)),
        }
    }
}

/// One that is kept in memory, for tests.
#[cfg(test)]
#[derive(Default)]
pub(crate) struct MemoryKeychain(std::sync::Mutex<std::collections::BTreeMap<String, Vec<u8>>>);

#[cfg(test)]
impl Keychain for MemoryKeychain {
    fn store(&self, account: &str, secret: &[u8]) -> Result<(), ClientError> {
        self.0.lock().unwrap().insert(account.to_owned(), secret.to_vec());
        Ok(())
    }

    fn fetch(&self, account: &str) -> Result<Option<Zeroizing<Vec<u8>>>, ClientError> {
        Ok(self.0.lock().unwrap().get(account).cloned().map(Zeroizing::new))
    }
}
