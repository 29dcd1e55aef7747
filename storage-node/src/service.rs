//! What a node answers: one function a call, from a request, the time and where it came from to a reply.
//!
//! Decides admission, quotas, who may renew and delete, and what a reply says. Never touches a socket, a clock or a
//! runtime, so the simulator runs this very code. Calls block on the disk; whoever serves peers runs them on threads
//! that may block.

mod get;
mod heads;
mod items;
mod moved;
mod prove;
mod put;
mod upkeep;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use dolmen_proto::audit::AuditClass;
use dolmen_proto::ids::{NodeId, Timestamp};
use dolmen_proto::limits;
use dolmen_proto::wire::{self, Accepting, DescribeReply, ErrorCode, NodeRecord, Reply, Request, Signed, WireError};
use ed25519_dalek::SigningKey;

pub use self::get::{GetPlan, PIECE_MAX_BYTES};
pub use self::moved::LeavingCount;
pub use self::put::{Pending, PutInProgress, PutStart, Settlement};
pub use self::upkeep::ExpiryReport;
use crate::accounts::{Ledger, LedgerUsage, QuotaPolicy, charged_bytes};
use crate::admission::RateLimiter;
use crate::audits::AuditLog;
use crate::claims::Claims;
use crate::clock::ClockGuard;
use crate::config::AcceptingMode;
use crate::disk::Disk;
use crate::lease::payer_of;
use crate::leaving::{Leaving, Moved};
use crate::store::{FolderState, Store, StoreError};
use crate::subnet::Subnet;

/// When a peer may come back to a node that has not read all of its disks.
const INDEXING_RETRY: Duration = Duration::from_secs(5);
/// Leases read from the store at a time when the books are opened.
const RESTORE_BATCH: usize = 1024;
/// Locks that serialise writes of heads at one point; points share them by their first byte.
const HEAD_STRIPES: usize = 64;
/// Heads that one subnet may write at once, and a minute in the long run.
const HEAD_BURST: u32 = 600;
const HEADS_PER_MINUTE: u32 = 120;

/// What an operator decides about the service, in bytes and counts.
#[derive(Debug, Clone)]
pub struct ServiceOptions {
    /// Most bytes of all volumes together, dead ones included; `None`: what the disks hold.
    pub quota_bytes: Option<u64>,
    /// Accounts with quotas of their own.
    pub allowed: BTreeMap<dolmen_proto::ids::AccountId, u64>,
    /// Most bytes of all other accounts; `None`: a tenth of the quota or of the disks.
    pub open_quota_bytes: Option<u64>,
    /// Most bytes of those from one subnet; `None`: a quarter of the open quota.
    pub open_quota_per_subnet_bytes: Option<u64>,
    /// Most bytes of heads.
    pub heads_quota_bytes: u64,
    /// Which puts are taken.
    pub accepting: AcceptingMode,
    /// Some data folders are not even open in the store, so that "not held" would be a guess.
    pub absent_folders: bool,
    /// Largest shard that is taken, in bytes; at most what the store takes.
    pub shard_max_bytes: u64,
    /// Blocks that are proven in an hour at most, to all auditors together.
    pub audit_samples_per_hour: u64,
    /// What the disks are.
    pub audit_class: AuditClass,
    /// Where audits are noted for the operator; `None`: nowhere.
    pub audit_log: Option<PathBuf>,
    /// When the node goes away, where its operator said so.
    pub leaving: Option<Leaving>,
    /// Where it is noted what others hold of a node that goes; `None`: in memory.
    pub moved_log: Option<PathBuf>,
    /// Name and version of the software, as `Describe` gives it.
    pub software: String,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        Self {
            quota_bytes: None,
            allowed: BTreeMap::new(),
            open_quota_bytes: None,
            open_quota_per_subnet_bytes: None,
            heads_quota_bytes: 256 * limits::MIB,
            accepting: AcceptingMode::All,
            absent_folders: false,
            shard_max_bytes: limits::SHARD_MAX_BYTES as u64,
            audit_samples_per_hour: 1800,
            audit_class: AuditClass::Spinning,
            audit_log: None,
            leaving: None,
            moved_log: None,
            software: concat!("dolmen/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// A node's answers over one store.
pub struct Service<D: Disk> {
    store: Store<D>,
    node: NodeId,
    key: SigningKey,
    options: ServiceOptions,
    /// Empty until every lease is known: what the books must bear out waits for them.
    ledger: OnceLock<Arc<Ledger>>,
    clock: ClockGuard,
    claims: Claims,
    /// Admission of a new lease, one at a time, or two puts could both find the last room.
    admission: Mutex<()>,
    /// Bytes of admitted puts that the store does not count yet.
    admitting: Arc<AtomicU64>,
    /// Held shared by whoever changes a lease that may be over, alone by expiry: a lease ends once, and is given back
    /// once. Expiry never waits for it, so that a disk that hangs under one call holds up no other.
    expiry: RwLock<()>,
    head_stripes: [Mutex<()>; HEAD_STRIPES],
    head_rate: RateLimiter,
    head_bytes: AtomicU64,
    accepting: AtomicU8,
    record: RwLock<Option<Signed<NodeRecord>>>,
    audits: prove::Audits,
    leaving: RwLock<Option<Leaving>>,
    moved: Moved,
}

impl<D: Disk> Service<D> {
    /// A service over an open store. Over one that is whole it opens the books at once; over one that is being rebuilt it
    /// serves the shards that are found and puts off all else until [`Service::open_books`].
    ///
    /// # Errors
    /// What the store says; it is the node's own fault or its disk's.
    pub fn open(
        store: Store<D>,
        key: SigningKey,
        clock: ClockGuard,
        options: ServiceOptions,
    ) -> Result<Self, StoreError> {
        let service = Self {
            node: NodeId::new(key.verifying_key().to_bytes()),
            key,
            accepting: AtomicU8::new(accepting_to_byte(options.accepting)),
            ledger: OnceLock::new(),
            clock,
            claims: Claims::default(),
            admission: Mutex::new(()),
            admitting: Arc::default(),
            expiry: RwLock::new(()),
            head_stripes: std::array::from_fn(|_| Mutex::new(())),
            head_rate: RateLimiter::new(HEAD_BURST, HEADS_PER_MINUTE),
            head_bytes: AtomicU64::new(0),
            record: RwLock::new(None),
            audits: prove::Audits::new(
                options.audit_samples_per_hour,
                options.audit_class,
                options.audit_log.clone().map(AuditLog::new),
            ),
            leaving: RwLock::new(options.leaving),
            moved: options.moved_log.as_deref().map(Moved::new).unwrap_or_default(),
            options,
            store,
        };
        service.open_books()?;
        Ok(service)
    }

    /// Reads every lease and head once, and from then on answers every call; does nothing while the store is not whole. Says
    /// whether the books are open.
    ///
    /// # Errors
    /// What the store says; it is the node's own fault or its disk's.
    pub fn open_books(&self) -> Result<bool, StoreError> {
        if self.ledger.get().is_some() {
            return Ok(true);
        }
        if !self.store.is_whole() {
            return Ok(false);
        }
        // Nobody changes a lease or a head before the ledger is in its place.
        let options = &self.options;
        let open_bytes = options.open_quota_bytes.unwrap_or(self.quota_bytes() / 10);
        let open_subnet_bytes = options.open_quota_per_subnet_bytes.unwrap_or(open_bytes / 4);
        let ledger = Ledger::new(QuotaPolicy { allowed: options.allowed.clone(), open_bytes, open_subnet_bytes });
        let mut after = None;
        loop {
            let batch = self.store.leases(after, RESTORE_BATCH)?;
            for lease in &batch {
                ledger.restore(&payer_of(lease.account, &lease.mark), charged_bytes(lease.length_bytes.into()));
            }
            match batch.last() {
                Some(last) => after = Some((last.root, last.account)),
                None => break,
            }
        }
        self.count_heads()?;
        // Where two open them at once, both have counted the same.
        let _ = self.ledger.set(ledger);
        Ok(true)
    }

    /// Whether the books are open: the node knows all that it holds, and answers every call.
    #[must_use]
    pub fn has_books(&self) -> bool {
        self.ledger.get().is_some()
    }

    /// The ledger; until the books are open, that it is too early.
    fn books(&self) -> Result<&Arc<Ledger>, WireError> {
        self.ledger.get().ok_or_else(still_indexing)
    }

    /// Answers any call but `Put` and `Get`, which move payload: [`Service::begin_put`] and [`Service::begin_get`].
    /// `from` is the peer's subnet, `None` for one of a local network.
    #[must_use]
    pub fn answer(&self, request: &Request, now: Timestamp, from: Option<Subnet>) -> Reply {
        // An auditor is told so in a signed slot.
        let any_time = matches!(request, Request::Describe | Request::Prove(_));
        let early = if any_time { None } else { self.books().err() };
        if let Some(error) = early {
            return Reply::Error(error);
        }
        let reply = match request {
            Request::Describe => Ok(Reply::Describe(Box::new(self.describe(now)))),
            Request::Stat(roots) => Ok(self.stat(roots)),
            Request::Renew(renew) => self.renew(renew, now),
            Request::Delete(delete) => self.delete(delete, now),
            Request::List(list) => self.list(list, now),
            Request::Prove(prove) => self.prove(prove, now, from),
            Request::PutHead(put) => self.put_head(put, now, from),
            Request::GetHead(get) => self.get_head(get),
            Request::Moved(receipts) => self.note_moved(receipts, now),
            Request::Put(_) | Request::Get(_) => {
                Err(WireError::new(ErrorCode::Internal, "a call with payload took the way of those without"))
            }
        };
        reply.unwrap_or_else(Reply::Error)
    }

    /// What the node says of itself.
    #[must_use]
    pub fn describe(&self, now: Timestamp) -> DescribeReply {
        DescribeReply {
            protocol_min: wire::PROTOCOL_MIN,
            protocol_max: wire::PROTOCOL_MAX,
            software: self.options.software.clone(),
            suites: wire::SUITES.to_vec(),
            now,
            shard_max_bytes: self.options.shard_max_bytes,
            lease_max_ms: u64::try_from(limits::LEASE_MAX.as_millis()).unwrap_or(u64::MAX),
            free_class: self.free_class(),
            accepting: self.wire_accepting(),
            record: self.record.read().unwrap_or_else(PoisonError::into_inner).clone(),
            audit_samples_per_hour: self.audits.samples_per_hour(),
            audit_class: self.audits.class(),
            leaving_until: self.leaving().map(|leaving| leaving.until),
        }
    }

    /// When the node goes away, where its operator said so.
    #[must_use]
    pub fn leaving(&self) -> Option<Leaving> {
        *self.leaving.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that the node goes away, or that it stays; it takes nothing new while it goes. What was noted as moved counts for
    /// one going only.
    ///
    /// # Errors
    /// What was noted cannot be removed; it counts no more all the same.
    pub fn set_leaving(&self, leaving: Option<Leaving>) -> std::io::Result<()> {
        let mut current = self.leaving.write().unwrap_or_else(PoisonError::into_inner);
        let goes_on = current.map(|before| before.since) == leaving.map(|after| after.since);
        *current = leaving;
        if goes_on { Ok(()) } else { self.moved.forget() }
    }

    /// Takes in the record that the node published last; [`Service::describe`] hands it out.
    pub fn set_record(&self, record: Signed<NodeRecord>) {
        *self.record.write().unwrap_or_else(PoisonError::into_inner) = Some(record);
    }

    /// Which puts are taken: what the operator wants, and of a node that goes renewals at most.
    #[must_use]
    pub fn accepting(&self) -> AcceptingMode {
        match accepting_from_byte(self.accepting.load(Ordering::Relaxed)) {
            AcceptingMode::All if self.leaving().is_some() => AcceptingMode::RenewOnly,
            wanted => wanted,
        }
    }

    /// Changes which puts are taken, until the next start.
    pub fn set_accepting(&self, accepting: AcceptingMode) {
        self.accepting.store(accepting_to_byte(accepting), Ordering::Relaxed);
    }

    /// Which puts are taken now, as the wire says it: none while the books are not open.
    #[must_use]
    pub fn wire_accepting(&self) -> Accepting {
        if !self.has_books() {
            return Accepting::None;
        }
        match self.accepting() {
            AcceptingMode::All => Accepting::All,
            AcceptingMode::RenewOnly => Accepting::RenewOnly,
            AcceptingMode::None => Accepting::None,
        }
    }

    /// Bytes that the node would still take: what is left of the quota, and no more than the disks have. 0 while the books
    /// are not open.
    #[must_use]
    pub fn room_bytes(&self) -> u64 {
        if !self.has_books() {
            return 0;
        }
        // Before the store is asked, or a put could pass from one to the other unseen.
        let admitting = self.admitting.load(Ordering::Acquire);
        let usage = self.store.usage();
        let left = self.options.quota_bytes.map_or(u64::MAX, |quota| quota.saturating_sub(usage.total_bytes));
        left.min(usage.free_bytes).saturating_sub(admitting)
    }

    /// Base-2 logarithm of [`Service::room_bytes`], rounded down; 0 where there is no room.
    #[must_use]
    pub fn free_class(&self) -> u8 {
        u8::try_from(self.room_bytes().checked_ilog2().unwrap_or(0)).unwrap_or(u8::MAX)
    }

    /// Most bytes of all volumes together: the operator's quota, or all that the disks hold.
    #[must_use]
    pub fn quota_bytes(&self) -> u64 {
        self.options.quota_bytes.unwrap_or_else(|| {
            let usage = self.store.usage();
            usage.total_bytes.saturating_add(usage.free_bytes)
        })
    }

    /// The node's id.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The store underneath.
    #[must_use]
    pub fn store(&self) -> &Store<D> {
        &self.store
    }

    /// The node's watch over its clock.
    #[must_use]
    pub fn clock(&self) -> &ClockGuard {
        &self.clock
    }

    /// What all leases are charged; all zero while the books are not open.
    #[must_use]
    pub fn ledger_usage(&self) -> LedgerUsage {
        self.ledger.get().map(|ledger| ledger.usage()).unwrap_or_default()
    }

    /// What to answer for a root that no folder in use knows: that it is not held only when all folders were asked.
    fn miss(&self) -> ErrorCode {
        let all = self
            .store
            .folders()
            .iter()
            .all(|folder| matches!(folder.state, FolderState::Ready | FolderState::ReadOnly(_)));
        if all && !self.options.absent_folders { ErrorCode::NotHeld } else { ErrorCode::DiskFailed }
    }
}

const fn accepting_to_byte(accepting: AcceptingMode) -> u8 {
    match accepting {
        AcceptingMode::All => 0,
        AcceptingMode::RenewOnly => 1,
        AcceptingMode::None => 2,
    }
}

const fn accepting_from_byte(byte: u8) -> AcceptingMode {
    match byte {
        0 => AcceptingMode::All,
        1 => AcceptingMode::RenewOnly,
        _ => AcceptingMode::None,
    }
}

/// The number that a peer is told. Names of folders and the system's words stay in the node's log.
fn code_of(error: &StoreError) -> ErrorCode {
    match error {
        StoreError::WrongRoot { .. } => ErrorCode::RootMismatch,
        StoreError::WrongLength { .. } => ErrorCode::LengthMismatch,
        StoreError::TooLarge { .. } => ErrorCode::TooLarge,
        StoreError::OutOfRange { .. } => ErrorCode::Malformed,
        StoreError::NotHeld => ErrorCode::NotHeld,
        StoreError::Damaged(_) => ErrorCode::Damaged,
        StoreError::Rebuilding => ErrorCode::StillIndexing,
        StoreError::DiskFull { .. } => ErrorCode::DiskFull,
        StoreError::Io { kind: std::io::ErrorKind::StorageFull, .. } => ErrorCode::DiskFull,
        StoreError::Folder { .. }
        | StoreError::SyncFailed { .. }
        | StoreError::Io { .. }
        | StoreError::Index { .. }
        | StoreError::NoFolder(_) => ErrorCode::DiskFailed,
        StoreError::Closed => ErrorCode::ShuttingDown,
    }
}

/// The node has not read all of its disks, so that it cannot say what it lacks.
pub(crate) fn still_indexing() -> WireError {
    WireError::new(ErrorCode::StillIndexing, "the node is still reading its disks").with_retry_after(INDEXING_RETRY)
}

/// A store's error as a peer is told it; the node's own troubles are logged in full.
fn wire_error(error: &StoreError) -> WireError {
    let code = code_of(error);
    match code {
        ErrorCode::DiskFailed => {
            tracing::warn!(%error, "a disk failed");
            WireError::new(code, "the node's disk failed")
        }
        ErrorCode::StillIndexing => still_indexing(),
        ErrorCode::DiskFull => WireError::new(code, "there is no room left on the node's disks"),
        _ => WireError::new(code, error.to_string()),
    }
}

#[cfg(test)]
mod tests;
