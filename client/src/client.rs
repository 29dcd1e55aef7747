//! The client as callers see it: one value a network, one method a command.
//!
//! Decides which pipeline an operation runs. Never contains a pipeline.

use std::fmt;
use std::io::Write;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use dolmen_net::PathReport;
use dolmen_proto::ids::Timestamp;
use dolmen_proto::keys::DatasetKeys;
use dolmen_proto::limits::LEASE_MAX;
use dolmen_proto::link::Link;
use dolmen_proto::manifest::{Entry, EntryKind};
use futures::StreamExt;

use crate::audit::{self, AuditOptions, AuditReport};
use crate::care::{self, RepairReport};
use crate::config::ClientConfig;
use crate::cores::Cores;
use crate::error::{ClientError, ErrorKind};
use crate::get;
use crate::info;
use crate::lease::{self, NODES_AT_ONCE};
use crate::listing::Listing;
use crate::network::{Account, Live, Network, Nodes};
use crate::options::{Destination, GetOptions, PutOptions};
use crate::progress::{Progress, ProgressEvent, Stage};
use crate::put::{self, PutContext};
use crate::read::{BlobCache, Dataset, Place, Reading};
use crate::report::{GetReport, InfoReport, NodeView, PutReport, RemoveReport, RenewReport};
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::steward::Stewardship;
use crate::vault::{Cost, Locksmith, SystemKeychain};

/// A connection to one network. Clones share it; each operation keeps to the memory budget by itself.
#[derive(Clone)]
pub struct Client {
    config: Arc<ClientConfig>,
    progress: Progress,
    state: State,
    nodes: Nodes,
    cores: Cores,
    live: Option<Arc<Live>>,
    locksmith: Locksmith,
}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Client").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Client {
    /// Enters the network through the configured bootstrap addresses, with a key made for this process.
    ///
    /// That no bootstrap node answers is found out by the first operation.
    ///
    /// # Errors
    /// `Local` when sockets or the state folder cannot be opened, `Usage` for malformed addresses.
    pub async fn connect(config: ClientConfig, progress: Progress) -> Result<Self, ClientError> {
        let state = State::open(&config.state_folder)?;
        let live = Arc::new(Live::connect(&config, &state).await?);
        let mut client = Self::over(Arc::clone(&live) as Arc<dyn Network>, config, progress)?;
        client.live = Some(live);
        Ok(client)
    }

    /// A client over any network.
    pub(crate) fn over(
        network: Arc<dyn Network>,
        config: ClientConfig,
        progress: Progress,
    ) -> Result<Self, ClientError> {
        let state = State::open(&config.state_folder)?;
        let locksmith =
            Locksmith { path: config.vault_file(), cost: Cost::DEFAULT, keychain: Arc::new(SystemKeychain) };
        Ok(Self {
            config: Arc::new(config),
            progress,
            nodes: Nodes::new(network, &state.experience()),
            state,
            cores: Cores::all(),
            live: None,
            locksmith,
        })
    }

    /// What pipelines that store work with.
    pub(crate) fn put_context(&self) -> PutContext<'_> {
        PutContext {
            nodes: &self.nodes,
            state: &self.state,
            config: &self.config,
            cores: &self.cores,
            progress: &self.progress,
        }
    }

    /// The same client with so many bytes for its work.
    pub(crate) fn with_memory(&self, bytes: u64) -> Self {
        let mut config = (*self.config).clone();
        config.memory_budget_bytes = bytes;
        Self { config: Arc::new(config), ..self.clone() }
    }

    /// The nodes as this client knows them.
    pub(crate) fn nodes_known(&self) -> &Nodes {
        &self.nodes
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    pub(crate) fn config(&self) -> &ClientConfig {
        &self.config
    }

    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }

    pub(crate) fn locksmith(&self) -> &Locksmith {
        &self.locksmith
    }

    /// The same client with another way to make and open vaults.
    #[cfg(test)]
    pub(crate) fn with_locksmith(mut self, change: impl FnOnce(&mut Locksmith)) -> Self {
        change(&mut self.locksmith);
        self
    }

    /// Ends connections and remembers the nodes that were met. Dropping a client does less of it.
    pub async fn shut_down(&self) {
        self.state.keep_experience(self.nodes.experience());
        if let Some(live) = &self.live {
            live.shut_down().await;
        }
    }

    /// What the path of every open connection to a node is like: datagram sizes in use, round trips, losses.
    #[must_use]
    pub fn paths(&self) -> Vec<PathReport> {
        self.live.iter().flat_map(|live| live.paths()).map(|(_, path)| path).collect()
    }

    /// Puts files and folders as a new dataset with a throw-away vault; the report has its frozen read link.
    ///
    /// One folder becomes the snapshot's root; one file, or several paths, become entries of the root.
    /// Interrupted, the same call with the same paths resumes.
    ///
    /// # Errors
    /// `NotNow` with too few nodes, `Refused` when nodes refuse, `Local` when nothing can be read.
    /// Single files that fail are in the report.
    pub async fn put_anonymous(&self, paths: &[PathBuf], options: &PutOptions) -> Result<PutReport, ClientError> {
        put::put(&self.put_context(), paths, options).await
    }

    /// Opens the newest snapshot that a link leads to, for reading.
    ///
    /// # Errors
    /// `Usage` for what is no link, `NotFound` when nothing lies there, `NotNow`, `Damaged` or `Refused` when it cannot
    /// be read.
    pub async fn snapshot(&self, link: &str) -> Result<Snapshot, ClientError> {
        Snapshot::open(self.open(link, false).await?, self.progress.clone()).await
    }

    /// Restores what a link names.
    ///
    /// # Errors
    /// `NotFound`, `NotNow`, `Damaged` for the snapshot as a whole, or when nothing of it could be restored; single
    /// files that fail are in the report.
    pub async fn get(&self, link: &str, to: Destination, options: &GetOptions) -> Result<GetReport, ClientError> {
        let dataset = self.open(link, true).await?;
        get::get(&dataset, to, options, &self.progress).await
    }

    /// Lists the entries at a path (components separated by `/`), all below it too when `recursive`.
    ///
    /// # Errors
    /// As [`Client::get`]; `NotFound` when there is no such path.
    pub async fn list(&self, link: &str, path: &[u8], recursive: bool) -> Result<Listing, ClientError> {
        Listing::open(self.open(link, recursive && path.is_empty()).await?, path, recursive).await
    }

    /// Writes a file's bytes, or a range of them, in order to `writer`; gives the number of bytes written.
    ///
    /// A range is cut at the file's end.
    ///
    /// # Errors
    /// As [`Client::get`]; `NotFound` when there is no such file, `Local` when writing fails.
    pub async fn cat(
        &self,
        link: &str,
        path: &[u8],
        range: Option<Range<u64>>,
        writer: Box<dyn Write + Send>,
    ) -> Result<u64, ClientError> {
        let dataset = self.open(link, false).await?;
        match dataset.entry(path).await? {
            Some(Entry { kind: EntryKind::File(file), .. }) => {
                self.progress.stage(Stage::Downloading);
                get::write_file(&dataset, &file, range, writer, &self.progress).await
            }
            _ => Err(ClientError::new(
                ErrorKind::NotFound,
                format!("{:?} is no file", String::from_utf8_lossy(path)),
                "it is a folder or a symbolic link",
                "name a file of the snapshot; `dolmen ls` lists them",
            )),
        }
    }

    /// Asks every node that should hold a shard whether it does.
    ///
    /// # Errors
    /// As [`Client::get`] for the documents; nodes that do not answer count as not holding.
    pub async fn info(&self, link: &str) -> Result<InfoReport, ClientError> {
        let dataset = self.open(link, true).await?;
        self.progress.stage(Stage::Asking);
        info::info(&self.nodes, &dataset).await
    }

    /// As [`Client::info`], of the dataset that a snapshot was opened in.
    ///
    /// # Errors
    /// As [`Client::info`].
    pub async fn info_of(&self, snapshot: &Snapshot) -> Result<InfoReport, ClientError> {
        self.progress.stage(Stage::Asking);
        info::info(&self.nodes, &snapshot.dataset).await
    }

    /// Asks every node of the dataset that a read or steward link leads to for proof of what it should hold; see
    /// [`AuditOptions`].
    ///
    /// # Errors
    /// As [`Client::get`] for the documents; what nodes do is in the report.
    pub async fn audit(&self, link: &str, options: &AuditOptions) -> Result<AuditReport, ClientError> {
        let parsed = parse(link)?;
        if parsed.steward_secret().is_none() {
            return self.audit_dataset(&self.open(link, true).await?, options).await;
        }
        let steward = Stewardship::open(self, &parsed).await?;
        let (mut segments, mut places) = (steward.segments()?, Vec::new());
        while let Some(batch) = steward.next_segments(&mut segments).await? {
            places.extend(batch.into_iter().map(|segment| segment.place));
        }
        self.audit_places(&places, options).await
    }

    /// As [`Client::audit`], of the dataset that a snapshot was opened in.
    ///
    /// # Errors
    /// As [`Client::audit`].
    pub async fn audit_of(&self, snapshot: &Snapshot, options: &AuditOptions) -> Result<AuditReport, ClientError> {
        self.audit_dataset(&snapshot.dataset, options).await
    }

    async fn audit_dataset(&self, dataset: &Dataset, options: &AuditOptions) -> Result<AuditReport, ClientError> {
        self.audit_places(&info::places(dataset).await?, options).await
    }

    async fn audit_places(&self, places: &[Arc<Place>], options: &AuditOptions) -> Result<AuditReport, ClientError> {
        self.progress.stage(Stage::Auditing);
        let readers = self.readers()?;
        audit::audit(&self.nodes, &readers, places, options, &self.state.standings(), &self.progress).await
    }

    /// Looks at every segment of a dataset through a steward link and repairs what needs it, now.
    ///
    /// # Errors
    /// `Usage` for what is no steward link; as [`Client::get`] for the documents. What could not be repaired is in the report.
    pub async fn repair(&self, link: &str, bandwidth_bytes_per_second: u64) -> Result<RepairReport, ClientError> {
        self.progress.stage(Stage::Repairing);
        care::repair_once(self, link, bandwidth_bytes_per_second).await
    }

    /// The same nodes, asked by somebody whom they cannot tell to be this client.
    pub(crate) fn readers(&self) -> Result<Nodes, ClientError> {
        Ok(match &self.live {
            Some(live) => self.nodes.through(Arc::new(live.another()?)),
            None => self.nodes.clone(),
        })
    }

    pub(crate) fn cores(&self) -> &Cores {
        &self.cores
    }

    /// Extends all leases of an anonymous upload made by this client; `None`: by the configured lease from now.
    ///
    /// # Errors
    /// `Refused` when this client's state folder has no secret for the link, `Usage` for a time in the past or too far
    /// ahead; otherwise as [`Client::get`].
    pub async fn renew(&self, link: &str, until: Option<Timestamp>) -> Result<RenewReport, ClientError> {
        let now = self.nodes.now();
        let until = until.unwrap_or_else(|| now.after(self.config.lease));
        if until <= now || until > now.after(LEASE_MAX) {
            let why = format!("a lease ends within the next {} days", LEASE_MAX.as_secs() / 86_400);
            return Err(ClientError::new(ErrorKind::Usage, "that is no end of a lease", why, "give another time"));
        }
        let account = self.account(link)?;
        let dataset = self.open(link, true).await?;
        self.progress.stage(Stage::Renewing);
        let shards = info::by_node(&info::places(&dataset).await?);
        let total: usize = shards.values().map(std::collections::BTreeSet::len).sum();
        self.progress.event(ProgressEvent::Total { files: total as u64, bytes: 0 });
        let renewed = lease::renew(&self.nodes, &account, &shards, until).await;
        Ok(RenewReport { shards: total as u64, renewed_shards: renewed as u64, lease_until: until })
    }

    /// Deletes the leases of an anonymous upload made by this client, then, when all are gone, its secret.
    ///
    /// # Errors
    /// As [`Client::renew`].
    pub async fn remove(&self, link: &str) -> Result<RemoveReport, ClientError> {
        let account = self.account(link)?;
        let dataset = self.open(link, true).await?;
        self.progress.stage(Stage::Asking);
        let shards = info::by_node(&info::places(&dataset).await?);
        let total: usize = shards.values().map(std::collections::BTreeSet::len).sum();
        let removed = lease::delete(&self.nodes, &account, &shards).await;
        if removed == total
            && let Some(secret) = parse(link)?.read_secret()
        {
            self.state.forget_secret(secret.expose())?;
        }
        Ok(RemoveReport { shards: total as u64, removed_shards: removed as u64 })
    }

    /// The nodes that the directory finds, at least `sample` of them when there are as many, each asked to
    /// describe itself.
    ///
    /// # Errors
    /// `NotNow` when no node can be found.
    pub async fn nodes(&self, sample: usize) -> Result<Vec<NodeView>, ClientError> {
        self.progress.stage(Stage::FindingNodes);
        let records = self.nodes.sample(sample).await;
        if records.is_empty() {
            return Err(ClientError::new(
                ErrorKind::NotNow,
                "no node was found",
                "no bootstrap node answers, or none knows another",
                "check the bootstrap addresses: --bootstrap, DOLMEN_BOOTSTRAP or client.toml",
            ));
        }
        let views = futures::stream::iter(records).map(|record| async move {
            let answer = self.nodes.round_trip(record.node).await.ok();
            NodeView {
                id: record.node.to_string(),
                region: record.region.as_ref().map(ToString::to_string).unwrap_or_default(),
                operator: record.operator_id().map(|operator| operator.to_string()).unwrap_or_default(),
                free_class: answer.as_ref().map_or(record.free_class, |(description, _)| description.free_class).into(),
                version: record.software.clone(),
                addresses: record.data_addresses.iter().map(ToString::to_string).collect(),
                round_trip_ms: answer.map(|(_, elapsed)| elapsed.as_secs_f64() * 1000.0),
            }
        });
        Ok(views.buffered(NODES_AT_ONCE).collect().await)
    }

    async fn open(&self, link: &str, everything: bool) -> Result<Dataset, ClientError> {
        self.progress.stage(Stage::ReadingDocuments);
        Dataset::open(&self.reading(), &parse(link)?, everything).await
    }

    /// What reading needs.
    pub(crate) fn reading(&self) -> Reading {
        Reading {
            nodes: self.nodes.clone(),
            cores: self.cores.clone(),
            budget_bytes: self.config.memory_budget_bytes,
            cache: Some(BlobCache::new(&self.config.state_folder.join("blobs"))),
            seen: Some(self.state.seen_heads()),
        }
    }

    /// The account of an anonymous upload made by this client.
    fn account(&self, link: &str) -> Result<Account, ClientError> {
        let link = parse(link)?;
        let secret = link.read_secret().ok_or_else(|| {
            ClientError::new(
                ErrorKind::Refused,
                "this link changes nothing",
                "it is no read link",
                "use the upload's link",
            )
        })?;
        let vault = self.state.secret(secret.expose())?;
        Ok(Account::new(Arc::new(DatasetKeys::derive(&vault, 0))))
    }
}

fn parse(link: &str) -> Result<Link, ClientError> {
    Link::parse(link.trim()).map_err(|error| {
        ClientError::new(ErrorKind::Usage, "that is not a link", error, "copy the link again, whole and unchanged")
    })
}
