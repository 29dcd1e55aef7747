//! Vaults: all that one owner's words control.
//!
//! Decides how a vault comes into being, where its secret rests between two runs and how it is brought back from words
//! alone. Never decides what a dataset is.

mod catalogue;
mod dataset;
mod file;
mod keychain;
mod name;
mod passphrase;
mod words;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use dolmen_proto::ids::HeadHash;
use dolmen_proto::keys::VaultSecret;

pub use self::catalogue::DatasetInfo;
use self::catalogue::Place;
pub use self::dataset::{Dataset, ShareInfo, StewardInfo};
use self::file::VaultFile;
pub(crate) use self::file::{Cost, Fingerprint};
pub(crate) use self::keychain::{Keychain, SystemKeychain};
pub use self::name::DatasetName;
pub use self::passphrase::{PASSPHRASE_VARIABLE, Passphrase};
pub use self::words::Words;
pub(crate) use self::words::fill_random;
use crate::client::Client;
use crate::commit::{CommitOptions, Created, Owner, create, first_policy};
pub use crate::commit::{Earlier, ForgetPolicy, Selector};
use crate::config::PolicyChoice;
use crate::error::{ClientError, ErrorKind};
use crate::progress::Stage;

/// Places in a row that are tried for a new dataset.
const PLACES_TRIED: u64 = 8;

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
    client: Client,
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

    /// All datasets, by their place in the vault. Nothing but the words and any node of the network is needed for it.
    ///
    /// ```no_run
    /// # async fn example(vault: &dolmen_client::vault::Vault) -> Result<(), dolmen_client::ClientError> {
    /// for dataset in vault.datasets().await? {
    ///     println!("{} {:?}", dataset.name, dataset.snapshot);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `NotNow` when too few nodes answer to know of all. A dataset that cannot be read is left out with a warning.
    pub async fn datasets(&self) -> Result<Vec<DatasetInfo>, ClientError> {
        self.client.progress().stage(Stage::ReadingDocuments);
        let mut datasets = Vec::new();
        for (index, place) in self.scan().await? {
            match place {
                Place::Listed(info) => datasets.push(info),
                Place::Retired(_) => {}
                Place::Unreadable(error) => {
                    let why = error.why();
                    self.client.progress().warn(format!("dataset number {index} of the vault cannot be read: {why}"));
                }
            }
        }
        Ok(datasets)
    }

    /// Datasets that were removed, for [`Dataset::gc`]: what they took is freed by it, and nothing else can be done with them. They stay
    /// in this list for good, as they keep their places in the vault.
    ///
    /// # Errors
    /// As [`Vault::datasets`].
    pub async fn removed(&self) -> Result<Vec<Dataset>, ClientError> {
        self.client.progress().stage(Stage::ReadingDocuments);
        let dataset = |(index, place)| match place {
            Place::Retired(name) => Some(Dataset::new(self, index, name.parse().ok()?)),
            Place::Listed(_) | Place::Unreadable(_) => None,
        };
        Ok(self.scan().await?.into_iter().filter_map(dataset).collect())
    }

    /// The dataset of this name.
    ///
    /// # Errors
    /// `NotFound` when there is none; as [`Vault::datasets`].
    pub async fn dataset(&self, name: &DatasetName) -> Result<Dataset, ClientError> {
        self.find(name).await?.ok_or_else(|| {
            ClientError::new(
                ErrorKind::NotFound,
                format!("there is no dataset {:?}", name.as_str()),
                "no dataset of the vault has that name",
                "list them with `dolmen ls`, or make it by putting something into it",
            )
        })
    }

    /// The dataset of this name, if there is one.
    ///
    /// # Errors
    /// As [`Vault::datasets`].
    pub async fn find(&self, name: &DatasetName) -> Result<Option<Dataset>, ClientError> {
        if let Some(index) = self.remembered(name)
            && let Some(Place::Listed(info)) = self.look(index).await?
            && info.name == *name
        {
            return Ok(Some(Dataset::new(self, index, info.name)));
        }
        let found = self.datasets().await?.into_iter().find(|info| info.name == *name);
        Ok(found.map(|info| Dataset::new(self, info.index, info.name)))
    }

    /// Makes an empty dataset; its code is `policy`, or as configured, for good.
    ///
    /// # Errors
    /// `Usage` when the vault has one of that name, `NotNow` with too few nodes, `Conflict` when other writers took one place
    /// after the other; as [`Vault::datasets`].
    pub async fn create_dataset(
        &self,
        name: &DatasetName,
        policy: Option<PolicyChoice>,
    ) -> Result<Dataset, ClientError> {
        let places = self.scan().await?;
        let is_it = |place: &Place| matches!(place, Place::Listed(info) if info.name == *name);
        if places.values().any(is_it) {
            return Err(taken(name));
        }
        let options = CommitOptions {
            lease: self.client.config().lease,
            require_full: false,
            paths: Vec::new(),
            place: Vec::new(),
        };
        let (candidates, policy) = first_policy(&self.client, policy).await?;
        let first = places.last_key_value().map_or(0, |(last, _)| last + 1);
        let mut contested = Vec::new();
        for index in first..first + PLACES_TRIED {
            let owner = Owner::new(&self.client, &self.secret, index);
            match create(&owner, &options, &candidates, policy, name.as_str()).await? {
                Created::Taken => {}
                Created::Contested(head) => contested.push((index, head)),
                Created::Done => {
                    self.forget_catalogue();
                    self.give_up(contested, name).await?;
                    return Ok(Dataset::new(self, index, name.clone()));
                }
            }
        }
        Err(ClientError::new(
            ErrorKind::Conflict,
            format!("the dataset {:?} could not be made", name.as_str()),
            "other writers took one place of the vault after the other",
            "run the command again",
        ))
    }

    /// Takes off the list what was made in places that another writer came to at the same time and did not keep either.
    async fn give_up(&self, places: Vec<(u64, HeadHash)>, name: &DatasetName) -> Result<(), ClientError> {
        for (index, head) in places {
            let newest = Owner::new(&self.client, &self.secret, index).newest().await?;
            if newest.head.hash() == head {
                Dataset::new(self, index, name.clone()).remove().await?;
            }
        }
        Ok(())
    }

    fn of(client: &Client, words: &Words) -> Self {
        let secret = words.secret();
        Self { client: client.clone(), fingerprint: Fingerprint::of(&secret), secret }
    }
}

fn taken(name: &DatasetName) -> ClientError {
    ClientError::new(
        ErrorKind::Usage,
        format!("there is a dataset {:?} already", name.as_str()),
        "names are used once in a vault",
        "take another name",
    )
}

#[cfg(test)]
mod tests;
