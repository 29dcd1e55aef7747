//! Vaults: all that one owner's words control.
//!
//! Decides how a vault comes into being, where its secret rests between two runs and how it is brought back from words
//! alone. Never decides what a dataset is.

mod file;
mod keychain;
mod name;
mod passphrase;
mod words;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use dolmen_proto::keys::VaultSecret;

use self::file::VaultFile;
pub(crate) use self::file::{Cost, Fingerprint};
pub(crate) use self::keychain::{Keychain, SystemKeychain};
pub use self::name::DatasetName;
pub use self::passphrase::{PASSPHRASE_VARIABLE, Passphrase};
pub use self::words::Words;
use crate::client::Client;
use crate::error::ClientError;

/// What keeps a vault closed between two runs.
#[derive(Debug, Clone)]
pub enum VaultLock {
    /// Its secret is in its file, sealed with this passphrase.
    Passphrase(Passphrase),
    /// The operating system's keychain keeps its secret.
    Keychain,
}

/// A vault that is open.
#[derive(Clone)]
pub struct Vault {
    #[expect(dead_code, reason = "the catalogue of datasets comes next")]
    client: Client,
    #[expect(dead_code, reason = "the catalogue of datasets comes next")]
    secret: VaultSecret,
    fingerprint: Fingerprint,
}

impl fmt::Debug for Vault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Vault({})", self.fingerprint.to_hex())
    }
}

/// How the file of a vault is made and opened; what tests have otherwise.
#[derive(Clone)]
pub(crate) struct Locksmith {
    pub(crate) path: PathBuf,
    pub(crate) cost: Cost,
    pub(crate) keychain: Arc<dyn Keychain>,
}

impl Locksmith {
    /// Runs what computes or waits for long on a thread where it may.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, ClientError> + Send + 'static,
    ) -> Result<T, ClientError> {
        let locksmith = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&locksmith)).await;
        done.map_err(|error| ClientError::bug("opening the vault failed", error))?
    }

    fn create(&self, words: &Words, lock: &VaultLock) -> Result<(), ClientError> {
        match lock {
            VaultLock::Passphrase(passphrase) => VaultFile::create_sealed(&self.path, words, passphrase, self.cost),
            VaultLock::Keychain => VaultFile::create_in_keychain(&self.path, words, &*self.keychain),
        }
    }
}

impl Vault {
    /// Makes a new vault: draws its words and writes its file where the client is configured to have it.
    ///
    /// The words are the only way back to what the vault will hold should the file be lost: show them once, and store
    /// them nowhere.
    ///
    /// # Errors
    /// `Refused` when there is a vault's file already or the keychain cannot be used, `Local` when it cannot be written.
    pub async fn create(client: &Client, lock: VaultLock) -> Result<(Self, Words), ClientError> {
        let words = Words::draw()?;
        let vault = Self::recover(client, &words, lock).await?;
        Ok((vault, words))
    }

    /// Writes the file of a vault that exists, from its words. Nothing else is needed from the machine that it was on.
    ///
    /// # Errors
    /// As [`Vault::create`].
    pub async fn recover(client: &Client, words: &Words, lock: VaultLock) -> Result<Self, ClientError> {
        let copy = words.clone();
        client.locksmith().run(move |locksmith| locksmith.create(&copy, &lock)).await?;
        Ok(Self::of(client, words))
    }

    /// Opens the vault whose file the client is configured to have. `passphrase` is asked only when one is wanted.
    ///
    /// # Errors
    /// `NotFound` when there is no vault, `Refused` when it does not open, `Local` when its file is damaged; whatever
    /// `passphrase` fails with.
    pub async fn open(
        client: &Client,
        passphrase: impl FnOnce() -> Result<Passphrase, ClientError>,
    ) -> Result<Self, ClientError> {
        let file = VaultFile::read(&client.locksmith().path)?;
        let passphrase = if file.wants_passphrase() { Some(passphrase()?) } else { None };
        let words =
            client.locksmith().run(move |locksmith| file.unlock(passphrase.as_ref(), &*locksmith.keychain)).await?;
        Ok(Self::of(client, &words))
    }

    /// Seals the vault's file with another passphrase; a secret that the keychain keeps comes into the file by this.
    ///
    /// `old` is asked only when one is wanted.
    ///
    /// # Errors
    /// As [`Vault::open`]; the file stays as it was unless this succeeds.
    pub async fn change_passphrase(
        client: &Client,
        old: impl FnOnce() -> Result<Passphrase, ClientError>,
        new: Passphrase,
    ) -> Result<(), ClientError> {
        let file = VaultFile::read(&client.locksmith().path)?;
        let old = if file.wants_passphrase() { Some(old()?) } else { None };
        let change = move |locksmith: &Locksmith| {
            file.change_passphrase(old.as_ref(), &new, locksmith.cost, &*locksmith.keychain)
        };
        client.locksmith().run(change).await
    }

    fn of(client: &Client, words: &Words) -> Self {
        let secret = words.secret();
        Self { client: client.clone(), fingerprint: Fingerprint::of(&secret), secret }
    }
}

#[cfg(test)]
mod tests;
