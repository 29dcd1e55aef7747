//! An anonymous put, from paths to a link.
//!
//! Decides the order of things: contents and manifest, table, the secret kept, heads, then the long lease. Until the
//! heads are written nothing can be read.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dolmen_proto::codec::Extensions;
use dolmen_proto::head::{Head, HeadOrder, ReadBody, TableBody};
use dolmen_proto::ids::{SnapshotId, Timestamp};
use dolmen_proto::keys::{DatasetKeys, ReadKeys, TableKeys, VaultSecret};
use dolmen_proto::limits::MESSAGE_MAX_BYTES;
use dolmen_proto::link::{Link, LinkSecret};
use dolmen_proto::policy::Policy;
use dolmen_proto::table::RowKind;
use dolmen_proto::tree::BlobPointer;

use super::prepare::Input;
use super::table::Table;
use super::{About, Candidates, PutContext, Source, Store, TableChange, Terms, prepare, write_snapshot, write_table};
use crate::config::PolicyChoice;
use crate::error::{ClientError, ErrorKind};
use crate::heads;
use crate::options::PutOptions;
use crate::progress::Stage;
use crate::report::PutReport;
use crate::state::{Journal, JournalHeader};

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
    progress.stage(Stage::Scanning);
    let roots = Source::Paths(paths.to_vec()).roots().await?;
    let candidates = Candidates::find(context).await?;
    let journal = open_journal(context, paths, options, &candidates).await?;
    let header = journal.header().clone();
    let (policy, document_policy) = (policy_of(header.policy)?, policy_of(header.document_policy)?);
    candidates.check(policy, document_policy)?;
    let keys = Arc::new(DatasetKeys::derive(&header.vault, 0));
    let terms = Terms {
        keys: Arc::clone(&keys),
        policy,
        document_policy,
        require_full: options.require_full,
        after: None,
        journal,
    };
    let mut store = Store::new(context, &candidates, terms);
    let input = Input {
        roots,
        parent: None,
        to: Vec::new(),
        options,
        created: header.created,
        index: PathBuf::new(),
        scratch: context.state.scratch(),
    };
    let prepared = prepare(&mut store, input).await?;
    progress.stage(Stage::Publishing);
    let about = About {
        created: header.created,
        message: options.message.clone(),
        salt: keys.snapshot_salt(header.created),
        parent: None,
        single: prepared.single,
        needs: prepared.needs,
    };
    let files = prepared.root.totals.files;
    let (root, id) = write_snapshot(&mut store, prepared.root, about).await?;
    let table = write_table(&mut store, None, TableChange::default()).await?;
    let snapshot = (store.settled(root), id);

    let link = publish(context, options, &header, &keys, snapshot, &table, &candidates).await?;
    let lease = lease_of(context, options);
    let lease_until = store.renew(lease, lease).await;
    store.finish()?;

    let short_shards = store.stored.iter().map(|(_, stored)| stored.missing()).sum();
    Ok(PutReport {
        link: link.to_text().to_string(),
        snapshot: id.to_string(),
        files,
        bytes: prepared.tally.bytes,
        stored_bytes: store.stored.iter().map(|(_, stored)| stored.stored_bytes()).sum(),
        new_bytes: store.sent_bytes(),
        segments: store.stored.iter().filter(|(kind, _)| *kind == RowKind::Content).count() as u64,
        mib_s: crate::report::mib_per_second(prepared.tally.bytes, start.elapsed()),
        degraded: short_shards > 0,
        short_shards,
        lease_until,
        failed: prepared.tally.failed,
        conflicts: Vec::new(),
    })
}

fn policy_of((k, n): (u8, u8)) -> Result<Policy, ClientError> {
    Policy::new(k, n).map_err(|error| ClientError::bug("the journal has no policy", error))
}

/// The journal of an earlier run over these paths if it fits what is asked for now, else a new one.
async fn open_journal(
    context: &PutContext<'_>,
    paths: &[PathBuf],
    options: &PutOptions,
    candidates: &Candidates,
) -> Result<Journal, ClientError> {
    let choice = options.policy.unwrap_or(context.config.policy);
    let fresh_policy = candidates.policy(choice);
    let (state, paths, now) = (context.state.clone(), paths.to_vec(), context.nodes.now());
    let journal = tokio::task::spawn_blocking(move || {
        let fits = |header: &JournalHeader| match choice {
            PolicyChoice::Auto => true,
            PolicyChoice::Fixed { k, n } => header.policy == (k, n),
        };
        Journal::open(&state, b"", &paths, fits, || fresh_header(fresh_policy?, now))
    });
    journal.await.map_err(|error| ClientError::bug("the journal failed", error))?
}

fn fresh_header(policy: Policy, created: Timestamp) -> Result<JournalHeader, ClientError> {
    let documents = policy.document_policy();
    let mut secret = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(&mut *secret).map_err(|error| {
        ClientError::new(ErrorKind::Local, "could not draw a secret", error, "check this machine's random numbers")
    })?;
    Ok(JournalHeader {
        vault: VaultSecret::new(*secret),
        created,
        policy: (policy.k(), policy.n()),
        document_policy: (documents.k(), documents.n()),
    })
}

/// Keeps the secret, then writes both heads; from then on the link works.
async fn publish(
    context: &PutContext<'_>,
    options: &PutOptions,
    header: &JournalHeader,
    keys: &DatasetKeys,
    (snapshot, snapshot_id): (BlobPointer, SnapshotId),
    table: &Table,
    candidates: &Candidates,
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
        snapshot,
        snapshot_id,
        created: header.created,
        history: None,
        owner_note: None,
        extensions: Extensions::default(),
    };
    let read_head = Head::create_read(&keys.read, &keys.read_head, first, &body).map_err(|error| bug(&error))?;
    let until = context.nodes.now().after(lease_of(context, options));
    let everybody = candidates.everybody();
    let (table_locator, read_locator) = (TableKeys::derive(&keys.table).locator, ReadKeys::derive(&keys.read).locator);
    // The table's first: whoever finds the read head finds everything that it leads to.
    heads::publish(context.nodes, &table_locator, &table_head, until, everybody.as_ref()).await?;
    heads::publish(context.nodes, &read_locator, &read_head, until, everybody.as_ref()).await?;
    Ok(link)
}

fn lease_of(context: &PutContext<'_>, options: &PutOptions) -> Duration {
    options.lease.unwrap_or(context.config.lease)
}
