//! Something named on the command line, opened for reading: a link's snapshot, or one of a dataset of the vault.

use dolmen_client::vault::{Dataset, DatasetName, Selector, Vault};
use dolmen_client::{Client, Snapshot};

use crate::context::Context;
use crate::failure::Failure;
use crate::source::{Named, Source};

/// An open snapshot and the path in it that was named.
pub struct Opened {
    /// What it was opened through.
    pub client: Client,
    /// The snapshot.
    pub snapshot: Snapshot,
    /// The path; empty for the root folder.
    pub path: Vec<u8>,
}

impl Opened {
    /// Opens what was typed.
    ///
    /// # Errors
    /// [`Failure`] when it does not exist or cannot be read.
    pub async fn open(context: &Context, typed: &str) -> Result<Self, Failure> {
        let source = Source::read(typed)?;
        let path = source.path.into_bytes();
        match source.named {
            Named::Link(link) => {
                let client = context.connect().await?;
                let snapshot = client.snapshot(&link).await?;
                Ok(Self { client, snapshot, path })
            }
            Named::Dataset { name, snapshot } => {
                let (client, _, dataset) = open_dataset(context, &name).await?;
                let snapshot = dataset.snapshot(&selector(snapshot)).await?;
                Ok(Self { client, snapshot, path })
            }
        }
    }
}

/// Opens the vault and a dataset of it.
///
/// # Errors
/// [`Failure`] when there is no vault, it does not open or it has no such dataset.
pub async fn open_dataset(context: &Context, name: &str) -> Result<(Client, Vault, Dataset), Failure> {
    let name: DatasetName = name.parse()?;
    let (client, vault) = context.open_vault().await?;
    let dataset = vault.dataset(&name).await?;
    Ok((client, vault, dataset))
}

/// Which snapshot was named.
#[must_use]
pub fn selector(snapshot: Option<String>) -> Selector {
    snapshot.map_or(Selector::Newest, Selector::Named)
}
