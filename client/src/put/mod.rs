//! An anonymous put, from paths to a link.
//!
//! Decides the order of things: contents, manifest, table, the secret kept, heads, then the long lease. Until the heads
//! are written nothing can be read; whatever is interrupted before resumes from the journal, whatever is interrupted
//! after has lost nothing but the long lease, which `renew` gives.

mod acknowledged;
mod content;
mod documents;
mod read;
mod segment;
mod send;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dolmen_proto::codec::Extensions;
use dolmen_proto::head::{Head, HeadOrder, ReadBody, TableBody};
use dolmen_proto::ids::{NodeId, ShardRoot, Timestamp};
use dolmen_proto::keys::{DatasetKeys, ReadKeys, TableKeys, VaultSecret};
use dolmen_proto::limits::{LEASE_INITIAL, MESSAGE_MAX_BYTES, SEGMENT_MAX_BYTES};
use dolmen_proto::link::{Link, LinkSecret};
use dolmen_proto::placement::{Candidate, Constraints, PlacementError, STANDING_UNKNOWN};
use dolmen_proto::policy::Policy;
use dolmen_proto::region::Region;
use dolmen_proto::wire::NodeRecord;

use self::acknowledged::Acknowledged;
use self::documents::{About, DOCUMENT_SEGMENT_BYTES, Manifest, Table};
use self::segment::Workshop;
use self::send::{Sender, Stored, too_few};
use self::walk::Tree;
use crate::budget::Budget;
use crate::config::{ClientConfig, PolicyChoice};
use crate::cores::Cores;
use crate::error::{ClientError, ErrorKind};
use crate::heads::{self, WholeNetwork};
use crate::lease;
use crate::network::{Account, Nodes};
use crate::options::PutOptions;
use crate::progress::{Progress, ProgressEvent, Stage};
use crate::report::{FailedFile, PutReport};
use crate::state::{Journal, JournalHeader, State};

/// Nodes that a put looks for: above the largest step of the policy table, so that all of a smaller network are found.
const CANDIDATES_WANTED: usize = 160;
/// An acknowledgement of an earlier run counts while its lease lasts so much longer.
const ACKNOWLEDGED_LIFE_MIN: Duration = Duration::from_secs(86_400);
const PLACEMENT_CONTEXT: &str = "dolmen 2026 client placement seed v1";

/// What a put works with.
pub(crate) struct PutContext<'a> {
    pub(crate) nodes: &'a Nodes,
    pub(crate) state: &'a State,
    pub(crate) config: &'a ClientConfig,
    pub(crate) cores: &'a Cores,
    pub(crate) progress: &'a Progress,
}

/// Puts paths as a new dataset of a throw-away vault, or resumes an interrupted put of the same paths.
///
/// # Errors
/// As [`crate::Client::put_anonymous`].
pub(crate) async fn put(
    context: &PutContext<'_>,
    paths: &[PathBuf],
    options: &PutOptions,
) -> Result<PutReport, ClientError> {
    let start = Instant::now();
    let progress = context.progress;
    if options.message.len() > MESSAGE_MAX_BYTES {
        let why = format!("it has {} bytes, {MESSAGE_MAX_BYTES} are allowed", options.message.len());
        return Err(ClientError::new(ErrorKind::Usage, "the message is too long", why, "write a shorter one"));
    }
    let regions = regions(&context.config.regions)?;
    progress.stage(Stage::Scanning);
    let tree = scan(paths, progress).await?;
    progress.stage(Stage::FindingNodes);
    let records = context.nodes.sample(CANDIDATES_WANTED).await;
    let candidates: Vec<Candidate> =
        records.iter().filter_map(|record| Candidate::from_record(record, STANDING_UNKNOWN, 0)).collect();
    let now = context.nodes.now();
    let choice = options.policy.unwrap_or(context.config.policy);
    let journal = open_journal(context, paths, choice, &candidates, &regions, now).await?;
    let header = journal.header().clone();
    let (policy, document_policy) = (policy_of(header.policy)?, policy_of(header.document_policy)?);

    let keys = Arc::new(DatasetKeys::derive(&header.vault, 0));
    let sender = Arc::new(Sender {
        nodes: context.nodes.clone(),
        account: Arc::new(Account::new(Arc::clone(&keys))),
        candidates,
        constraints: Constraints { regions, ..Constraints::default() },
        seed: blake3::derive_key(PLACEMENT_CONTEXT, keys.dedup.expose()),
        until: now.after(LEASE_INITIAL),
        acknowledged: Acknowledged::new(journal, now.after(ACKNOWLEDGED_LIFE_MIN)),
        require_full: options.require_full,
        progress: progress.clone(),
        failed: Mutex::default(),
        slow: Mutex::default(),
        unreachable: Mutex::default(),
        sent_bytes: AtomicU64::new(0),
        warned: Mutex::default(),
    });
    let budget_bytes = context.config.memory_budget_bytes;
    let segments_bytes = budget_bytes.saturating_sub(content::divide(budget_bytes).0);
    let budget = Budget::new(segments_bytes);
    let workshop = |policy: Policy, segment_bytes: usize| {
        Workshop::new(Arc::clone(&keys), policy, segment_bytes, context.cores.clone(), budget.clone())
    };
    progress.stage(Stage::Uploading);
    let contents = content::store(&tree, &workshop(policy, SEGMENT_MAX_BYTES), &sender, budget_bytes, progress).await?;
    progress.stage(Stage::Publishing);
    let contents = Arc::new(contents);
    let shop = workshop(document_policy, DOCUMENT_SEGMENT_BYTES);
    let about = About {
        created: header.created,
        message: options.message.clone(),
        salt: keys.snapshot_salt(header.created),
        single: tree.single,
    };
    let manifest = documents::manifest(&tree, &contents, about, &shop, &sender).await?;
    let table = documents::table(policy, &contents.segments, &manifest.segments, context.nodes, &shop, &sender).await?;

    let link = publish(context, options, &header, &keys, &manifest, &table, &records).await?;
    let all: Vec<&Stored> = contents.segments.iter().chain(&manifest.segments).chain(&table.segments).collect();
    let lease_until = renew(context, options, &sender, &all).await;
    sender.acknowledged.finish()?;

    let short_shards = all.iter().map(|stored| stored.missing()).sum();
    Ok(PutReport {
        link: link.to_text().to_string(),
        snapshot: manifest.id.to_string(),
        files: manifest.files,
        bytes: manifest.bytes,
        stored_bytes: all.iter().map(|stored| stored.stored_bytes()).sum(),
        new_bytes: sender.sent_bytes.load(Ordering::Relaxed),
        segments: contents.segments.len() as u64,
        mib_s: crate::report::mib_per_second(manifest.bytes, start.elapsed()),
        degraded: short_shards > 0,
        short_shards,
        lease_until,
        failed: failed_files(&tree, manifest.failed),
    })
}

fn failed_files(tree: &Tree, mut failed: Vec<FailedFile>) -> Vec<FailedFile> {
    failed.extend(tree.failed.iter().cloned());
    failed
}

async fn scan(paths: &[PathBuf], progress: &Progress) -> Result<Arc<Tree>, ClientError> {
    let paths = paths.to_vec();
    let tree = tokio::task::spawn_blocking(move || walk::walk(&paths))
        .await
        .map_err(|error| ClientError::bug("reading folders failed", error))??;
    for skipped in &tree.skipped {
        progress.warn(format!("left out {}: neither file, folder nor symbolic link", skipped.display()));
    }
    let files = tree.files().count() as u64;
    let bytes = tree.files().map(|file| tree.items[file as usize].size).sum();
    progress.event(ProgressEvent::Total { files, bytes });
    Ok(Arc::new(tree))
}

fn regions(texts: &[String]) -> Result<Vec<Region>, ClientError> {
    let parse = |text: &String| {
        text.parse().map_err(|error| {
            ClientError::new(ErrorKind::Usage, format!("{text:?} is not a region"), error, "correct it in client.toml")
        })
    };
    texts.iter().map(parse).collect()
}

fn policy_of((k, n): (u8, u8)) -> Result<Policy, ClientError> {
    Policy::new(k, n).map_err(|error| ClientError::bug("the journal has no policy", error))
}

/// The journal of an earlier run over these paths if it fits what is asked for now, else a new one.
async fn open_journal(
    context: &PutContext<'_>,
    paths: &[PathBuf],
    choice: PolicyChoice,
    candidates: &[Candidate],
    regions: &[Region],
    now: Timestamp,
) -> Result<Journal, ClientError> {
    let eligible = candidates
        .iter()
        .filter(|node| {
            let within = |region: &Region| regions.iter().any(|allowed| allowed.contains(region));
            node.free_bytes > 0 && (regions.is_empty() || node.region.as_ref().is_some_and(within))
        })
        .count();
    let fresh_policy = match choice {
        PolicyChoice::Fixed { k, n } => Policy::new(k, n),
        PolicyChoice::Auto => Policy::auto(eligible),
    };
    let fresh_policy = fresh_policy.map_err(|error| {
        let advice = "check the network and the bootstrap addresses, or name a policy with --policy k/n";
        ClientError::new(ErrorKind::NotNow, "too few nodes for this upload", error, advice)
    });
    let (state, paths) = (context.state.clone(), paths.to_vec());
    let journal = tokio::task::spawn_blocking(move || {
        let fits = |header: &JournalHeader| match choice {
            PolicyChoice::Auto => true,
            PolicyChoice::Fixed { k, n } => header.policy == (k, n),
        };
        Journal::open(&state, &paths, fits, || {
            let policy = fresh_policy?;
            let documents = policy.document_policy();
            let mut secret = zeroize::Zeroizing::new([0; 32]);
            getrandom::fill(&mut *secret).map_err(|error| {
                ClientError::new(
                    ErrorKind::Local,
                    "could not draw a secret",
                    error,
                    "check this machine's random numbers",
                )
            })?;
            Ok(JournalHeader {
                vault: VaultSecret::new(*secret),
                created: now,
                policy: (policy.k(), policy.n()),
                document_policy: (documents.k(), documents.n()),
            })
        })
    });
    let journal = journal.await.map_err(|error| ClientError::bug("the journal failed", error))??;
    let needed = usize::from(journal.header().policy.1.max(journal.header().document_policy.1));
    if eligible < needed {
        return Err(too_few(&PlacementError::TooFewNodes { eligible, needed }));
    }
    Ok(journal)
}

/// Keeps the secret, then writes both heads; from then on the link works.
async fn publish(
    context: &PutContext<'_>,
    options: &PutOptions,
    header: &JournalHeader,
    keys: &DatasetKeys,
    manifest: &Manifest,
    table: &Table,
    records: &[NodeRecord],
) -> Result<Link, ClientError> {
    let bug = |error: &dyn std::fmt::Display| ClientError::bug("could not write a head", error);
    let link =
        Link::new(LinkSecret::ReadFrozen(keys.read.clone()), options.link_bootstrap.clone()).map_err(|error| {
            let advice = "give at most eight short multiaddresses";
            ClientError::new(ErrorKind::Usage, "the link's bootstrap addresses cannot be written", error, advice)
        })?;
    context.state.keep_secret(keys.read.expose(), &header.vault)?;
    let first = HeadOrder::after(None);
    let body = TableBody { location: table.location.clone(), extensions: Extensions::default() };
    let table_head = Head::create_table(&keys.table, &keys.table_head, first, &body).map_err(|error| bug(&error))?;
    let body = ReadBody {
        read_opening: keys.read_opening.clone(),
        table_secret: keys.table.clone(),
        mask_secret: keys.mask.clone(),
        table_head_key: keys.table_head.verifying_key().to_bytes(),
        table: table.location.clone(),
        snapshot: manifest.root.clone(),
        snapshot_id: manifest.id,
        created: header.created,
        history: None,
        owner_note: None,
        extensions: Extensions::default(),
    };
    let read_head = Head::create_read(&keys.read, &keys.read_head, first, &body).map_err(|error| bug(&error))?;
    let until = context.nodes.now().after(lease_of(context, options));
    let everybody = (records.len() < CANDIDATES_WANTED)
        .then(|| records.iter().map(|record| (record.node, record.operator_id())).collect::<WholeNetwork>());
    let (table_locator, read_locator) = (TableKeys::derive(&keys.table).locator, ReadKeys::derive(&keys.read).locator);
    // The table's first: whoever finds the read head finds everything that it leads to.
    heads::publish(context.nodes, &table_locator, &table_head, until, everybody.as_ref()).await?;
    heads::publish(context.nodes, &read_locator, &read_head, until, everybody.as_ref()).await?;
    Ok(link)
}

fn lease_of(context: &PutContext<'_>, options: &PutOptions) -> Duration {
    options.lease.unwrap_or(context.config.lease)
}

/// Gives all shards the dataset's lease; what could not be renewed keeps the first, short one.
async fn renew(context: &PutContext<'_>, options: &PutOptions, sender: &Sender, segments: &[&Stored]) -> Timestamp {
    context.progress.stage(Stage::Renewing);
    let mut shards: BTreeMap<NodeId, BTreeSet<ShardRoot>> = BTreeMap::new();
    for stored in segments {
        for (root, node) in stored.roots.iter().zip(&stored.nodes) {
            if let Some(node) = node {
                shards.entry(*node).or_default().insert(*root);
            }
        }
    }
    let until = context.nodes.now().after(lease_of(context, options));
    if until <= sender.until {
        return sender.until;
    }
    let total: usize = shards.values().map(BTreeSet::len).sum();
    let renewed = lease::renew(context.nodes, &sender.account, &shards, until).await;
    if renewed < total {
        context.progress.warn(format!(
            "{} of {total} shards could not be leased beyond a week: run `dolmen renew` before then",
            total - renewed
        ));
        return sender.until;
    }
    until
}
