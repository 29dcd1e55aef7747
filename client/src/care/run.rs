//! The steward as a daemon: rounds over all datasets, with everything that matters on disk; and one round by hand.
//!
//! Decides the order of work in a round, that one dataset's trouble holds up no other, and that rounds of several stewards do
//! not coincide.

use std::path::PathBuf;
use std::time::Duration;

use dolmen_proto::ids::{SegmentId, Timestamp};
use dolmen_proto::limits::LEASE_DEFAULT;
use dolmen_proto::link::Link;
use dolmen_proto::placement::Candidate;
use dolmen_proto::repair::{Budget, Condition, RepairError, RepairQueue, SegmentState, plan, plan_all, turn_delay};
use dolmen_proto::standing::Verdict;
use dolmen_proto::table::RowKind;
use ed25519_dalek::SigningKey;

use super::audits::{Audits, Round, round};
use super::dataset::{Cared, NodesView};
use super::leases::{Renewed, renew};
use super::look::look;
use super::mend::{Bench, mend};
use super::moved::tell_moved;
use super::report::{DatasetCare, NodeCare, RepairReport, StewardStatus};
use super::state::{CareState, Tag};
use crate::audit::{Auditor, TranscriptFolder};
use crate::client::Client;
use crate::error::{ClientError, ErrorKind};
use crate::network::Nodes;

/// Repairs at a time.
const REPAIRS_AT_ONCE: usize = 2;
/// The table is read as a whole at least so often, also where its head says nothing new: overlays change too.
const SURVEY_EVERY_MS: u64 = 24 * 3_600_000;
/// Datasets of one steward's process.
const LINKS_MAX: usize = 1024;
/// Candidates that are asked for when something is to be placed.
const CANDIDATES_WANTED: usize = 64;

/// How a steward works.
#[derive(Debug, Clone)]
pub struct StewardOptions {
    /// Where what must not be forgotten is kept; made where it is not there.
    pub state: PathBuf,
    /// How long from one round to the next, before jitter.
    pub interval: Duration,
    /// Bytes a second that repairs may move on average.
    pub bandwidth_bytes_per_second: u64,
    /// Samples of every node in every round; by the rate if not given: 64 an hour for each 10^12 bytes, at least 8 a day.
    pub samples: Option<u32>,
    /// How long a silent node is waited for before what it holds counts as lost; less than a day is for networks that are
    /// watched by hand.
    pub grace: Duration,
}

impl Default for StewardOptions {
    fn default() -> Self {
        Self {
            state: PathBuf::from("steward"),
            interval: Duration::from_secs(3600),
            bandwidth_bytes_per_second: 50_000_000,
            samples: None,
            grace: dolmen_proto::standing::SILENCE_GRACE,
        }
    }
}

/// A steward at work.
pub struct StewardRun {
    client: Client,
    options: StewardOptions,
    state: CareState,
    links: Vec<Link>,
    open: Vec<Option<Kept>>,
    status: StewardStatus,
    readers: Nodes,
}

/// A dataset between rounds.
struct Kept {
    cared: Cared,
    queue: RepairQueue,
    care: DatasetCare,
    resurvey: bool,
}

impl std::fmt::Debug for StewardRun {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("StewardRun").field("datasets", &self.links.len()).finish_non_exhaustive()
    }
}

impl StewardRun {
    /// Opens the state and reads the links; nothing is asked of the network yet.
    ///
    /// # Errors
    /// `Usage` for what is no steward link, `Local` when the state cannot be opened.
    pub fn new(client: &Client, links: &[String], options: StewardOptions) -> Result<Self, ClientError> {
        if links.is_empty() || links.len() > LINKS_MAX {
            let why = format!("a steward looks after 1 to {LINKS_MAX} datasets");
            let advice = "give steward links; `dolmen steward-link` makes them";
            return Err(ClientError::new(ErrorKind::Usage, "there is nothing to look after", why, advice));
        }
        let links = links.iter().map(|text| steward_link(text)).collect::<Result<Vec<_>, _>>()?;
        let state = CareState::open(&options.state)?;
        let readers = client.readers()?;
        let open = links.iter().map(|_| None).collect();
        let status = StewardStatus { pid: std::process::id(), ..StewardStatus::default() };
        Ok(Self { client: client.clone(), options, state, links, open, status, readers })
    }

    /// One round over all datasets; gives the status that it wrote. A dataset that fails says so in its status.
    ///
    /// # Errors
    /// `Local`: the state folder.
    pub async fn round(&mut self) -> Result<&StewardStatus, ClientError> {
        let mut datasets = Vec::with_capacity(self.links.len());
        for number in 0..self.links.len() {
            let care = match self.dataset_round(number).await {
                Ok(care) => care,
                Err(error) if error.kind() == ErrorKind::Local => return Err(error),
                Err(error) => {
                    tracing::warn!(what = error.what(), why = error.why(), "a round failed");
                    let known = self.open.get(number).and_then(Option::as_ref).map(|kept| kept.care.clone());
                    DatasetCare { trouble: format!("{}: {}", error.what(), error.why()), ..known.unwrap_or_default() }
                }
            };
            datasets.push(care);
        }
        let now = self.client.nodes_known().now();
        self.status.rounds += 1;
        self.status.updated_at_ms = now.as_unix_ms();
        self.status.datasets = datasets;
        self.status.nodes = nodes_care(&self.state, now)?;
        self.status.write(self.state.folder())?;
        // What is put from here knows what is believed here.
        self.client.state().standings().keep(self.state.standings()?)?;
        Ok(&self.status)
    }

    /// Rounds until `stop` completes; a round under way is ended with its present step, and nothing is worse for it.
    ///
    /// # Errors
    /// As [`StewardRun::round`].
    pub async fn run_until(
        &mut self,
        stop: impl Future<Output = ()>,
        mut each: impl FnMut(&StewardStatus),
    ) -> Result<(), ClientError> {
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return Ok(()),
                status = self.round() => each(status?),
            }
            let wait = jittered(self.options.interval);
            tokio::select! {
                () = &mut stop => return Ok(()),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn dataset_round(&mut self, number: usize) -> Result<DatasetCare, ClientError> {
        let link = &self.links[number];
        let now = self.client.nodes_known().now();
        let mut kept = match self.open[number].take() {
            Some(mut kept) => {
                // After a failure it is opened anew in the next round.
                kept.resurvey |= kept.cared.steward.refresh().await?;
                kept
            }
            None => {
                let cared = Cared::open(&self.client, link, self.state.clone()).await?;
                let budget =
                    Budget { concurrent: REPAIRS_AT_ONCE, bytes_per_second: self.options.bandwidth_bytes_per_second };
                let care = counters(&cared)?;
                Kept { cared, queue: RepairQueue::new(budget, now), care, resurvey: true }
            }
        };
        let outcome = self.work(&mut kept).await;
        let care = kept.care.clone();
        self.open[number] = Some(kept);
        outcome.map(|()| care)
    }

    async fn work(&self, kept: &mut Kept) -> Result<(), ClientError> {
        let now = self.client.nodes_known().now();
        let surveyed = self.state.mark(&kept.cared.tag, "surveyed")?;
        if kept.resurvey || now.as_unix_ms().saturating_sub(surveyed) >= SURVEY_EVERY_MS {
            kept.cared.survey().await?;
            self.state.set_marks(&kept.cared.tag, &[("surveyed", now.as_unix_ms())])?;
            kept.resurvey = false;
        }
        look(&kept.cared).await?;
        let audits = Audits {
            auditor: Auditor::new(self.client.nodes_known().clone(), self.auditor_key(&kept.cared.tag)?),
            readers: self.readers.clone(),
            transcripts: TranscriptFolder::open(&self.state.folder().join("transcripts"))?,
            samples: self.options.samples,
        };
        let asked = round(&kept.cared, &audits, self.options.interval).await?;
        self.plan_repairs(kept).await?;
        self.repair(kept).await?;
        tell_moved(&kept.cared).await?;
        let renewed = renew(&kept.cared).await?;
        self.sum_up(kept, asked, renewed)
    }

    /// The auditor of a dataset has one key for all rounds, so that nodes can hold its audits together; it says nothing of the
    /// dataset.
    fn auditor_key(&self, tag: &Tag) -> Result<SigningKey, ClientError> {
        let path = self.state.folder().join("auditor.key");
        let secret = match std::fs::read(&path) {
            Ok(bytes) => <[u8; 32]>::try_from(bytes).map_err(|_| {
                let why = "it does not have 32 bytes";
                let advice = "remove it: a new one is made, and transcripts then name another auditor";
                ClientError::new(ErrorKind::Local, format!("{} is damaged", path.display()), why, advice)
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mut secret = [0; 32];
                getrandom::fill(&mut secret).map_err(|error| {
                    let advice = "check this machine's randomness";
                    ClientError::new(ErrorKind::Local, "could not make a key", error, advice)
                })?;
                write_private(&path, &secret).map_err(|error| ClientError::local("write", &path, &error))?;
                secret
            }
            Err(error) => return Err(ClientError::local("read", &path, &error)),
        };
        let secret = zeroize::Zeroizing::new(secret);
        let seed = zeroize::Zeroizing::new(*blake3::keyed_hash(&secret, tag).as_bytes());
        Ok(SigningKey::from_bytes(&seed))
    }

    /// Looks at every segment where anything speaks against a node; counts what is alive.
    async fn plan_repairs(&self, kept: &mut Kept) -> Result<(), ClientError> {
        let now = self.client.nodes_known().now();
        let nodes = self.state.nodes_of(&kept.cared.tag)?;
        let view = NodesView::load(&kept.cared, &nodes, now, self.options.grace)?;
        if view.all_well() && kept.care.segments > 0 && kept.queue.lengths() == (0, 0) && kept.care.waiting_repairs == 0
        {
            return Ok(());
        }
        let (stewards, own) = (kept.cared.steward.stewards(), kept.cared.steward.public_key());
        let mut tally = Tally::default();
        let mut segments = kept.cared.steward.segments()?;
        while let Some(batch) = kept.cared.steward.next_segments(&mut segments).await? {
            for segment in batch {
                let documents = segment.kind == RowKind::Documents;
                let state = kept.cared.segment_state(&segment.place, documents, &view, now).await;
                tally.add(&state);
                match plan(&state, now) {
                    Ok(Some(plan)) => {
                        tally.planned += 1;
                        let delay = turn_delay(stewards, &own, plan.segment, plan.urgency);
                        if let Err(error) = kept.queue.offer(plan, now.after(delay)) {
                            tracing::warn!(%error, "a repair has to wait");
                        }
                    }
                    Ok(None) => kept.queue.withdraw(segment.place.id),
                    Err(error @ RepairError::TooFewSources { .. }) => {
                        tracing::warn!(segment = %segment.place.id.short(), %error, "a segment cannot be repaired now");
                        tally.stuck += 1;
                    }
                    Err(error) => return Err(ClientError::bug("a segment could not be planned", error)),
                }
            }
        }
        tally.write(&mut kept.care);
        Ok(())
    }

    async fn repair(&self, kept: &mut Kept) -> Result<(), ClientError> {
        let now = self.client.nodes_known().now();
        if kept.queue.lengths() == (0, 0) {
            return Ok(());
        }
        let nodes = self.state.nodes_of(&kept.cared.tag)?;
        let view = NodesView::load(&kept.cared, &nodes, now, self.options.grace)?;
        let candidates = candidates(&self.client, &self.state, now).await?;
        let bench = Bench { cores: self.client.cores(), candidates: &candidates, view: &view, lease: LEASE_DEFAULT };
        while let Some(plan) = kept.queue.next(self.client.nodes_known().now()) {
            let done = mend(&kept.cared, &bench, &plan).await;
            let now = self.client.nodes_known().now();
            let finished = match done {
                Ok(mended) => {
                    tracing::info!(segment = %plan.segment.short(), placed = mended.placed, short = mended.short, "a segment was repaired");
                    kept.care.repaired_shards += mended.placed;
                    kept.care.repair_bytes += mended.read_bytes + mended.written_bytes;
                    kept.resurvey |= mended.placed > 0;
                    mended.short == 0
                }
                Err(error) if error.kind() == ErrorKind::Local => return Err(error),
                Err(error) => {
                    tracing::warn!(segment = %plan.segment.short(), why = error.why(), "a repair failed and waits");
                    false
                }
            };
            if let Err(error) = kept.queue.finish(plan.segment, finished, now) {
                tracing::debug!(%error, "a repair ended late");
            }
            // What is owed of the bandwidth is waited for, but not for so long that nothing else is looked at.
            let wait = kept.queue.paid_at(now).since(now);
            if wait > Duration::ZERO && wait <= self.options.interval {
                tokio::time::sleep(wait).await;
            }
        }
        Ok(())
    }

    fn sum_up(&self, kept: &mut Kept, asked: Round, renewed: Renewed) -> Result<(), ClientError> {
        let care = &mut kept.care;
        care.steward = data_encoding::HEXLOWER.encode(&kept.cared.tag[..8]);
        care.named = kept.cared.steward.is_named();
        care.segments = kept.cared.segments_known()?;
        care.waiting_repairs = kept.queue.lengths().0 as u64;
        care.challenges += asked.challenges;
        care.passed += asked.passed;
        care.samples += asked.samples;
        care.hard_evidence += asked.hard;
        care.renewed += renewed.renewed;
        care.earliest_lease_ms = renewed.earliest_ms;
        care.looked_at_ms = self.client.nodes_known().now().as_unix_ms();
        care.trouble = String::new();
        let marks = [
            ("repaired_shards", care.repaired_shards),
            ("repair_bytes", care.repair_bytes),
            ("challenges", care.challenges),
            ("passed", care.passed),
            ("samples", care.samples),
            ("hard_evidence", care.hard_evidence),
            ("renewed", care.renewed),
        ];
        self.state.set_marks(&kept.cared.tag, &marks)
    }
}

/// What was counted before a restart.
fn counters(cared: &Cared) -> Result<DatasetCare, ClientError> {
    let mark = |name| cared.state.mark(&cared.tag, name);
    Ok(DatasetCare {
        repaired_shards: mark("repaired_shards")?,
        repair_bytes: mark("repair_bytes")?,
        challenges: mark("challenges")?,
        passed: mark("passed")?,
        samples: mark("samples")?,
        hard_evidence: mark("hard_evidence")?,
        renewed: mark("renewed")?,
        ..DatasetCare::default()
    })
}

/// What a look at every segment counts.
#[derive(Default)]
struct Tally {
    segments: u64,
    shards: u64,
    alive: u64,
    planned: u64,
    stuck: u64,
    worst: Option<(i64, SegmentId, u64)>,
}

impl Tally {
    fn add(&mut self, state: &SegmentState) {
        self.segments += 1;
        let sound = |holders: &&Vec<dolmen_proto::repair::Holder>| {
            let there = |condition| matches!(condition, Condition::Alive | Condition::Suspect | Condition::Leaving);
            holders.iter().any(|holder| there(holder.condition))
        };
        let alive = state.shards.iter().filter(sound).count() as u64;
        self.shards += state.shards.len() as u64;
        self.alive += alive;
        let margin = i64::try_from(alive).unwrap_or(i64::MAX) - i64::from(state.policy.k());
        if self.worst.is_none_or(|(worst, ..)| margin < worst) {
            self.worst = Some((margin, state.segment, alive));
        }
    }

    fn write(&self, care: &mut DatasetCare) {
        (care.segments, care.shards, care.alive_shards) = (self.segments, self.shards, self.alive);
        if let Some((margin, segment, alive)) = self.worst {
            (care.worst_margin, care.worst_segment, care.worst_alive) = (margin, segment.short(), alive);
        }
    }
}

/// Nodes that may be given shards, by what is believed of them.
async fn candidates(client: &Client, state: &CareState, now: Timestamp) -> Result<Vec<Candidate>, ClientError> {
    let mut candidates = Vec::new();
    for record in client.nodes_known().sample(CANDIDATES_WANTED).await {
        let (standing, contact) = (state.standing(&record.node, now)?, state.contact(&record.node)?);
        let away = contact.absent_since_ms != 0 || contact.leaving_until_ms != 0;
        let weight = if away { 0 } else { standing.weight_per_mille(now) };
        candidates.extend(Candidate::from_record(&record, weight, 0).filter(|_| weight > 0));
    }
    Ok(candidates)
}

fn nodes_care(state: &CareState, now: Timestamp) -> Result<Vec<NodeCare>, ClientError> {
    let standings = state.standings()?;
    let care = standings.into_iter().map(|(node, standing)| {
        let contact = state.contact(&node)?;
        let verdict = match standing.verdict(now) {
            Verdict::Good => "good".to_owned(),
            Verdict::Vetting { .. } => "vetting".to_owned(),
            Verdict::Suspect(reason) => format!("suspect: {reason}"),
            Verdict::Bad(reason) => format!("bad: {reason}"),
        };
        Ok(NodeCare {
            node: node.to_string(),
            standing: verdict,
            weight_per_mille: standing.weight_per_mille(now),
            proven_samples: standing.proven_samples(),
            proven_at_ms: contact.proven_at_ms,
            absent_since_ms: contact.absent_since_ms,
            leaving_until_ms: contact.leaving_until_ms,
        })
    });
    care.collect()
}

fn steward_link(text: &str) -> Result<Link, ClientError> {
    let link = Link::parse(text.trim()).map_err(|error| {
        ClientError::new(ErrorKind::Usage, "that is not a link", error, "copy the link again, whole and unchanged")
    })?;
    if link.steward_secret().is_none() {
        let advice = "ask the dataset's owner for one: `dolmen steward-link`";
        let why = "it is a link of another kind";
        return Err(ClientError::new(ErrorKind::Usage, "this is no steward link", why, advice));
    }
    Ok(link)
}

fn write_private(path: &std::path::Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes).and_then(|()| file.sync_all())
}

/// Three quarters to five quarters of a time.
fn jittered(interval: Duration) -> Duration {
    let mut draw = [0; 2];
    // Where there is no randomness a fixed time does.
    let _ = getrandom::fill(&mut draw);
    interval * 3 / 4 + interval / 2 * u32::from(u16::from_le_bytes(draw)) / u32::from(u16::MAX)
}

/// Looks at every segment once and repairs what needs it, now: by hand, with what is found on the spot.
///
/// # Errors
/// As opening a steward link; what could not be repaired is in the report.
pub(crate) async fn repair_once(
    client: &Client,
    link: &str,
    bandwidth_bytes_per_second: u64,
) -> Result<RepairReport, ClientError> {
    let state = CareState::in_memory()?;
    let cared = Cared::open(client, &steward_link(link)?, state.clone()).await?;
    cared.survey().await?;
    look(&cared).await?;
    let mut report = RepairReport::default();
    let mut queue = {
        let budget = Budget { concurrent: 1, bytes_per_second: bandwidth_bytes_per_second.max(1) };
        RepairQueue::new(budget, client.nodes_known().now())
    };
    // Whoever is not there now counts as gone: somebody asked for it by hand.
    let before = plan_by_hand(&cared, &mut queue, &mut report).await?;
    report.worst_margin_before = before;
    let now = client.nodes_known().now();
    let nodes = state.nodes_of(&cared.tag)?;
    let view = NodesView::load(&cared, &nodes, now, Duration::ZERO)?;
    let candidates = candidates(client, &state, now).await?;
    let bench = Bench { cores: client.cores(), candidates: &candidates, view: &view, lease: LEASE_DEFAULT };
    loop {
        let now = client.nodes_known().now();
        let Some(plan) = queue.next(now) else {
            match queue.wake_at(now).map(|at| at.since(now)) {
                Some(wait) if queue.lengths().0 > 0 => {
                    tokio::time::sleep(wait.max(Duration::from_millis(10))).await;
                    continue;
                }
                _ => break,
            }
        };
        match mend(&cared, &bench, &plan).await {
            Ok(mended) => {
                report.repaired += u64::from(mended.short == 0);
                report.placed_shards += mended.placed;
                report.read_bytes += mended.read_bytes;
                report.written_bytes += mended.written_bytes;
                if mended.short > 0 {
                    report.failed.push(format!("{}: {} shards found no node", plan.segment.short(), mended.short));
                }
            }
            Err(error) if error.kind() == ErrorKind::Local => return Err(error),
            Err(error) => report.failed.push(format!("{}: {}", plan.segment.short(), error.why())),
        }
        // By hand everything is tried once.
        let finished = queue.finish(plan.segment, true, client.nodes_known().now());
        finished.map_err(|error| ClientError::bug("a repair was lost", error))?;
    }
    tell_moved(&cared).await?;
    let mut after = RepairReport::default();
    let mut nothing = queue;
    report.worst_margin = plan_by_hand(&cared, &mut nothing, &mut after).await?;
    Ok(report)
}

async fn plan_by_hand(cared: &Cared, queue: &mut RepairQueue, report: &mut RepairReport) -> Result<i64, ClientError> {
    let now = cared.steward.nodes().now();
    let nodes = cared.state.nodes_of(&cared.tag)?;
    let view = NodesView::load(cared, &nodes, now, Duration::ZERO)?;
    let mut tally = Tally::default();
    let mut segments = cared.steward.segments()?;
    while let Some(batch) = cared.steward.next_segments(&mut segments).await? {
        for segment in batch {
            let documents = segment.kind == RowKind::Documents;
            let state = cared.segment_state(&segment.place, documents, &view, now).await;
            tally.add(&state);
            match plan_all(&state, now) {
                Ok(Some(plan)) => {
                    report.planned += 1;
                    queue.offer(plan, now).map_err(|error| ClientError::bug("too much to repair", error))?;
                }
                Ok(None) => {}
                Err(error @ RepairError::TooFewSources { .. }) => {
                    report.failed.push(format!("{}: {error}", segment.place.id.short()));
                }
                Err(error) => return Err(ClientError::bug("a segment could not be planned", error)),
            }
        }
    }
    report.segments = tally.segments;
    Ok(tally.worst.map_or(0, |(margin, ..)| margin))
}
