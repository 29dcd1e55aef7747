//! What one operation stores with: nodes, keys, memory, documents that are being written, and what is stored so far.
//!
//! Decides how the memory budget is shared and which nodes are candidates. Never decides what is stored, and never
//! writes a head: until one is written nobody can read what was stored.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dolmen_proto::ids::{NodeId, SnapshotId, Timestamp};
use dolmen_proto::keys::DatasetKeys;
use dolmen_proto::limits::{LEASE_INITIAL, SEGMENT_MAX_BYTES};
use dolmen_proto::placement::{Candidate, Constraints, PlacementError, STANDING_UNKNOWN};
use dolmen_proto::policy::Policy;
use dolmen_proto::region::Region;
use dolmen_proto::table::RowKind;
use dolmen_proto::tree::BlobPointer;
use dolmen_proto::wire::NodeRecord;

use super::PutContext;
use super::acknowledged::Acknowledged;
use super::content;
use super::documents::{DOCUMENT_SEGMENT_BYTES, Documents, Sink};
use super::parent::Known;
use super::segment::Workshop;
use super::send::{Sender, Stored, too_few};
use crate::budget::Budget;
use crate::config::PolicyChoice;
use crate::error::{ClientError, ErrorKind};
use crate::heads::WholeNetwork;
use crate::lease::{self, ByNode};
use crate::network::{Account, Nodes};
use crate::progress::{Progress, Stage};
use crate::state::{Journal, weight};

/// Nodes that a put looks for: above the largest step of the policy table, so that all of a smaller network are found.
const CANDIDATES_WANTED: usize = 160;
/// An acknowledgement of an earlier run counts while its lease lasts so much longer.
const ACKNOWLEDGED_LIFE_MIN: Duration = Duration::from_secs(86_400);
const PLACEMENT_CONTEXT: &str = "dolmen 2026 client placement seed v1";

/// Nodes that may be asked to hold shards.
#[derive(Debug)]
pub(crate) struct Candidates {
    records: Vec<NodeRecord>,
    candidates: Vec<Candidate>,
    regions: Vec<Region>,
}

impl Candidates {
    /// Looks for nodes.
    ///
    /// # Errors
    /// `Usage` when a configured region is none.
    pub(crate) async fn find(context: &PutContext<'_>) -> Result<Self, ClientError> {
        let regions = regions(&context.config.regions)?;
        context.progress.stage(Stage::FindingNodes);
        let records = context.nodes.sample(CANDIDATES_WANTED).await;
        let (standings, now) = (context.state.standings().load()?, context.nodes.now());
        let candidate = |record: &NodeRecord| {
            let weight = weight(standings.get(&record.node), STANDING_UNKNOWN, now)?;
            Candidate::from_record(record, weight, 0)
        };
        let candidates = records.iter().filter_map(candidate).collect();
        Ok(Self { records, candidates, regions })
    }

    /// All of them.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.records.iter().map(|record| record.node)
    }

    /// How many of them would take a shard.
    fn eligible(&self) -> usize {
        let within = |region: &Region| self.regions.iter().any(|allowed| allowed.contains(region));
        let eligible = |node: &&Candidate| {
            node.free_bytes > 0 && (self.regions.is_empty() || node.region.as_ref().is_some_and(within))
        };
        self.candidates.iter().filter(eligible).count()
    }

    /// The code of a new dataset.
    ///
    /// # Errors
    /// `NotNow` when there are too few nodes for any.
    pub(crate) fn policy(&self, choice: PolicyChoice) -> Result<Policy, ClientError> {
        let policy = match choice {
            PolicyChoice::Fixed { k, n } => Policy::new(k, n),
            PolicyChoice::Auto => Policy::auto(self.eligible()),
        };
        policy.map_err(|error| {
            let advice = "check the network and the bootstrap addresses, or name a policy with --policy k/n";
            ClientError::new(ErrorKind::NotNow, "too few nodes for this upload", error, advice)
        })
    }

    /// Refuses a code that these nodes are too few for.
    ///
    /// # Errors
    /// `NotNow`, with both numbers.
    pub(crate) fn check(&self, policy: Policy, documents: Policy) -> Result<(), ClientError> {
        let (eligible, needed) = (self.eligible(), usize::from(policy.n().max(documents.n())));
        if eligible < needed {
            return Err(too_few(&PlacementError::TooFewNodes { eligible, needed }));
        }
        Ok(())
    }

    /// Refuses a code of documents that these nodes are too few for.
    ///
    /// # Errors
    /// `NotNow`, with both numbers.
    pub(crate) fn check_documents(&self, documents: Policy) -> Result<(), ClientError> {
        self.check(documents, documents)
    }

    /// All nodes there are, when these are all.
    pub(crate) fn everybody(&self) -> Option<WholeNetwork> {
        let whole = self.records.len() < CANDIDATES_WANTED;
        whole.then(|| self.records.iter().map(|record| (record.node, record.operator_id())).collect())
    }
}

fn regions(texts: &[String]) -> Result<Vec<Region>, ClientError> {
    let parse = |text: &String| {
        text.parse().map_err(|error| {
            ClientError::new(ErrorKind::Usage, format!("{text:?} is not a region"), error, "correct it in client.toml")
        })
    };
    texts.iter().map(parse).collect()
}

/// How an operation stores.
pub(crate) struct Terms {
    pub(crate) keys: Arc<DatasetKeys>,
    /// The code of contents.
    pub(crate) policy: Policy,
    /// The code of documents.
    pub(crate) document_policy: Policy,
    /// Fail rather than accept fewer than `n` shards of a segment.
    pub(crate) require_full: bool,
    /// The snapshot that is extended: segments of one snapshot after the other start at other nodes.
    pub(crate) after: Option<SnapshotId>,
    pub(crate) journal: Journal,
}

/// What one operation stores with, and what it has stored so far.
pub(crate) struct Store {
    pub(crate) nodes: Nodes,
    pub(crate) keys: Arc<DatasetKeys>,
    pub(crate) policy: Policy,
    pub(crate) progress: Progress,
    /// For contents.
    pub(crate) workshop: Workshop,
    pub(crate) sender: Arc<Sender>,
    pub(crate) budget_bytes: u64,
    /// Blobs of documents that need not be stored again.
    pub(crate) known: Known,
    pub(crate) documents: Documents,
    /// What is stored so far.
    pub(crate) stored: Vec<(RowKind, Stored)>,
}

impl Store {
    /// Takes over nodes and terms.
    pub(crate) fn new(context: &PutContext<'_>, candidates: &Candidates, terms: Terms) -> Self {
        let account = Arc::new(Account::new(Arc::clone(&terms.keys)));
        Self::in_name_of(context, candidates, terms, account)
    }

    /// The same for somebody who stores in another's name where he may.
    pub(crate) fn in_name_of(
        context: &PutContext<'_>,
        candidates: &Candidates,
        terms: Terms,
        account: Arc<Account>,
    ) -> Self {
        let now = context.nodes.now();
        let Terms { keys, policy, document_policy, require_full, after, journal } = terms;
        let seed = [&keys.dedup.expose()[..], after.as_ref().map_or(&[][..], |id| id.as_bytes())].concat();
        let sender = Arc::new(Sender {
            nodes: context.nodes.clone(),
            account,
            candidates: candidates.candidates.clone(),
            constraints: Constraints { regions: candidates.regions.clone(), ..Constraints::default() },
            seed: blake3::derive_key(PLACEMENT_CONTEXT, &seed),
            until: now.after(LEASE_INITIAL),
            acknowledged: Acknowledged::new(journal, now.after(ACKNOWLEDGED_LIFE_MIN)),
            require_full,
            progress: context.progress.clone(),
            failed: Mutex::default(),
            slow: Mutex::default(),
            unreachable: Mutex::default(),
            sent_bytes: AtomicU64::new(0),
            warned: Mutex::default(),
        });
        // Blocks have a part of their own; the open document segment, a few megabytes, is beside the budget.
        let budget_bytes = context.config.memory_budget_bytes;
        let budget = Budget::new(budget_bytes.saturating_sub(content::divide(budget_bytes).0));
        let workshop = |policy: Policy, segment_bytes: usize| {
            Workshop::new(Arc::clone(&keys), policy, segment_bytes, context.cores.clone(), budget.clone())
        };
        let known = Known::default();
        let shop = workshop(document_policy, DOCUMENT_SEGMENT_BYTES);
        Self {
            nodes: context.nodes.clone(),
            policy,
            progress: context.progress.clone(),
            workshop: workshop(policy, SEGMENT_MAX_BYTES),
            documents: Documents::new(shop, Arc::clone(&sender), known.clone()),
            sender,
            budget_bytes,
            known,
            stored: Vec::new(),
            keys,
        }
    }

    /// Writes documents: whatever `build` puts into the sink. Pointers carry provisional ids until
    /// [`Store::close_documents`].
    ///
    /// # Errors
    /// Whatever `build` fails with.
    pub(crate) async fn write<T: Send + 'static>(
        &mut self,
        build: impl FnOnce(&mut Sink) -> Result<T, ClientError> + Send + 'static,
    ) -> Result<T, ClientError> {
        self.documents.build(build).await
    }

    /// Stores all documents written so far.
    ///
    /// # Errors
    /// As [`Sender::send`].
    pub(crate) async fn close_documents(&mut self) -> Result<Vec<Stored>, ClientError> {
        let stored = self.documents.close().await?;
        self.stored.extend(stored.iter().map(|stored| (RowKind::Documents, stored.clone())));
        Ok(stored)
    }

    /// A pointer that came out of [`Store::write`], with the id of its segment, after [`Store::close_documents`].
    pub(crate) fn settled(&self, pointer: BlobPointer) -> BlobPointer {
        self.documents.settled(pointer)
    }

    /// Gives all shards that were stored a lease of so long, those of documents another; what could not be renewed keeps the first,
    /// short one. Gives until when all are leased.
    pub(crate) async fn renew(&self, contents: Duration, documents: Duration) -> Timestamp {
        self.progress.stage(Stage::Renewing);
        let now = self.nodes.now();
        let (mut until, mut total, mut renewed) = (None::<Timestamp>, 0, 0);
        for (wanted, lease) in [(RowKind::Content, contents), (RowKind::Documents, documents)] {
            let mut shards = ByNode::new();
            for (_, stored) in self.stored.iter().filter(|(kind, _)| *kind == wanted) {
                for (root, node) in stored.roots.iter().zip(&stored.nodes) {
                    if let Some(node) = node {
                        shards.entry(*node).or_default().insert(*root);
                    }
                }
            }
            let end = now.after(lease).max(self.sender.until);
            until = Some(until.map_or(end, |until| until.min(end)));
            if end > self.sender.until {
                total += shards.values().map(BTreeSet::len).sum::<usize>();
                renewed += lease::renew(&self.nodes, &self.sender.account, &shards, end).await;
            }
        }
        if renewed < total {
            self.progress.warn(format!(
                "{} of {total} shards could not be leased beyond a week: run `dolmen renew` before then",
                total - renewed
            ));
            return self.sender.until;
        }
        until.unwrap_or(self.sender.until)
    }

    /// Bytes of shards that this run has sent.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sender.sent_bytes.load(Ordering::Relaxed)
    }

    /// Forgets the journal: the operation is complete.
    ///
    /// # Errors
    /// `Local` when it cannot be removed.
    pub(crate) fn finish(&self) -> Result<(), ClientError> {
        self.sender.acknowledged.finish()
    }
}
