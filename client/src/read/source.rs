//! Where a dataset's newest table is found once the one that is known no longer names what is looked for.
//!
//! Decides when a table's head is looked up again: when a segment is not in the known table or cannot be had, and not more
//! often than every few seconds. Never decides which head is newest: see [`crate::heads`].

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use dolmen_proto::head::TableLocation;
use dolmen_proto::keys::{MaskKey, TableSecret, ViewSecret};
use tokio::sync::Mutex;

use super::documents::Documents;
use super::table::Table;
use crate::error::ClientError;
use crate::heads::{Wanted, find};
use crate::network::Nodes;
use crate::state::SeenHeads;

/// How long an answer that there is no newer table is believed.
const BELIEVED: Duration = Duration::from_secs(10);

/// Whose head names the table.
#[derive(Clone)]
pub(crate) enum TableHead {
    /// The table's own, signed by this key.
    OfDataset(TableSecret, [u8; 32]),
    /// That of a view.
    OfView(ViewSecret),
}

/// The table of a dataset, the newest that was needed so far. Clones share it.
#[derive(Clone)]
pub(crate) struct NewestTable(Arc<Inner>);

struct Inner {
    nodes: Nodes,
    seen: Option<SeenHeads>,
    head: TableHead,
    table: RwLock<Arc<Table>>,
    /// When nothing newer was found last; held while somebody looks.
    looked: Mutex<Option<Instant>>,
}

/// Where a table's root lies, and the mask key of its segment for the holder of a view.
type Where = (TableLocation, Option<MaskKey>);

async fn look(nodes: &Nodes, seen: Option<&SeenHeads>, head: &TableHead) -> Result<Where, ClientError> {
    match head {
        TableHead::OfDataset(secret, key) => {
            Ok((find(nodes, &Wanted::of_table(secret, *key), seen).await?.body.location, None))
        }
        TableHead::OfView(secret) => {
            let body = find(nodes, &Wanted::of_view(secret), seen).await?.body;
            Ok((body.table, Some(body.table_mask)))
        }
    }
}

impl NewestTable {
    /// Reads the table that another head named; where that cannot be had, the one that its own head names.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when neither can be read.
    pub(crate) async fn open(
        nodes: &Nodes,
        seen: Option<SeenHeads>,
        documents: &Documents,
        head: TableHead,
        (location, mask_key): Where,
    ) -> Result<Self, ClientError> {
        let table = match Table::open(nodes, documents, &location, mask_key).await {
            Ok(table) => table,
            Err(error) => {
                let newer = look(nodes, seen.as_ref(), &head).await;
                match newer {
                    Ok((newer, mask_key)) if newer != location => {
                        Table::open(nodes, documents, &newer, mask_key).await?
                    }
                    _ => return Err(error),
                }
            }
        };
        documents.follow(&table.root);
        let table = RwLock::new(Arc::new(table));
        Ok(Self(Arc::new(Inner { nodes: nodes.clone(), seen, head, table, looked: Mutex::new(None) })))
    }

    /// The table as it is known.
    pub(crate) fn get(&self) -> Arc<Table> {
        Arc::clone(&self.0.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks for a newer table than `known`; tells whether there is one now. That none can be looked for is no failure of
    /// its own: whoever asks has one to tell.
    pub(crate) async fn renew(&self, documents: &Documents, known: &Arc<Table>) -> bool {
        let inner = &*self.0;
        let mut looked = inner.looked.lock().await;
        if !Arc::ptr_eq(&self.get(), known) {
            return true;
        }
        if looked.is_some_and(|looked| looked.elapsed() < BELIEVED) {
            return false;
        }
        let newer = match look(&inner.nodes, inner.seen.as_ref(), &inner.head).await {
            Ok((location, _)) if location == known.location => None,
            Ok((location, mask_key)) => Some(Table::open(&inner.nodes, documents, &location, mask_key).await),
            Err(error) => Some(Err(error)),
        };
        *looked = Some(Instant::now());
        match newer {
            Some(Ok(table)) => {
                documents.follow(&table.root);
                *inner.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
                true
            }
            Some(Err(error)) => {
                tracing::debug!(what = error.what(), why = error.why(), "no newer table could be read");
                false
            }
            None => false,
        }
    }
}
