//! Transcripts as files: kept by whoever audits, checked by anybody, offline.

use std::path::{Path, PathBuf};

use dolmen_proto::audit::{DrawKind, DrawTrust, Outcome, Transcript, TranscriptError};
use dolmen_proto::ids::Timestamp;
use dolmen_proto::limits::TRANSCRIPT_MAX_BYTES;
use serde::Serialize;

use crate::error::{ClientError, ErrorKind};

/// What a sound transcript says, as the command line tells it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TranscriptView {
    /// The node that was asked.
    pub node: String,
    /// The key of whoever asked.
    pub auditor: String,
    /// When, by the auditor's clock.
    #[serde(serialize_with = "crate::report::rfc3339")]
    pub asked_at: Timestamp,
    /// `passed`, `wrong`, `not_held`, `no_answer`, `late` or `refused`.
    pub outcome: &'static str,
    /// Whether it is evidence against the node that convinces anybody.
    pub hard_evidence: bool,
    /// `mixed`: three quarters of the samples by bytes, one quarter by shards; `each`: one block of every shard.
    pub draw: &'static str,
    /// Samples drawn.
    pub samples: u32,
    /// Blocks shown that are right.
    pub proven_blocks: u32,
    /// Shards of which some were drawn.
    pub shards_drawn: u32,
    /// Of them, those that were not proven.
    pub shards_failed: u32,
    /// Shards that were drawn from.
    pub set_shards: u64,
    /// Their bytes.
    pub set_bytes: u64,
    /// Probability that a node that lacks one hundredth of the bytes would have been found out by this audit alone.
    pub detects_one_percent: f64,
    /// Whom one has to trust that the draw was fair: `auditor` or `beacon`.
    pub draw_trusts: &'static str,
    /// The beacon's round, to be compared with what the beacon said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beacon_round: Option<u64>,
}

/// Checks a transcript's bytes; needs no network.
///
/// # Errors
/// Why it proves nothing.
pub fn check_transcript(bytes: &[u8]) -> Result<TranscriptView, TranscriptError> {
    let report = Transcript::parse(bytes)?.verify()?;
    let findings = report.findings.as_ref();
    let failed = match (findings, report.outcome) {
        (Some(findings), _) => findings.failed(),
        (None, Outcome::NoAnswer) => u32::try_from(report.drawn.len()).unwrap_or(u32::MAX),
        (None, _) => 0,
    };
    let beacon_round = match report.trust {
        DrawTrust::Auditor => None,
        DrawTrust::Beacon(round) => Some(round.round),
    };
    let passed = report.outcome == Outcome::Passed;
    Ok(TranscriptView {
        node: report.node.to_string(),
        auditor: data_encoding::HEXLOWER.encode(&report.auditor),
        asked_at: report.asked_at,
        outcome: report.outcome.name(),
        hard_evidence: report.is_hard_evidence(),
        draw: match report.draw {
            DrawKind::Mixed => "mixed",
            DrawKind::Each => "each",
        },
        samples: report.samples,
        proven_blocks: findings.map_or(0, |findings| findings.proven_blocks),
        shards_drawn: u32::try_from(report.drawn.len()).unwrap_or(u32::MAX),
        shards_failed: failed,
        set_shards: report.set.count,
        set_bytes: report.set.bytes,
        detects_one_percent: if passed { report.confidence.detection(0.01) } else { 0.0 },
        draw_trusts: if beacon_round.is_some() { "beacon" } else { "auditor" },
        beacon_round,
    })
}

/// A folder of transcripts.
#[derive(Debug, Clone)]
pub(crate) struct TranscriptFolder(PathBuf);

impl TranscriptFolder {
    /// Makes the folder where it is not there.
    ///
    /// # Errors
    /// `Local`.
    pub(crate) fn open(folder: &Path) -> Result<Self, ClientError> {
        std::fs::create_dir_all(folder).map_err(|error| ClientError::local("make", folder, &error))?;
        Ok(Self(folder.to_owned()))
    }

    /// Writes a transcript under a name that says when, whom and what; gives the file.
    ///
    /// # Errors
    /// `Local`; `Bug` when it is larger than any.
    pub(crate) fn keep(&self, transcript: &Transcript) -> Result<PathBuf, ClientError> {
        let bytes = transcript.to_bytes();
        if bytes.len() > TRANSCRIPT_MAX_BYTES {
            return Err(ClientError::new(
                ErrorKind::Bug,
                "a transcript is larger than any",
                format!("{} bytes", bytes.len()),
                "this is a mistake in dolmen: please report it with the command that led to it",
            ));
        }
        let close = transcript.close.claimed();
        let hash = blake3::hash(&bytes).to_hex();
        let name = format!(
            "{:016}-{}-{}-{}.transcript",
            close.received_at.as_unix_ms(),
            close.node.short(),
            close.outcome.name(),
            hash.get(..8).unwrap_or("")
        );
        let path = self.0.join(name);
        std::fs::write(&path, bytes).map_err(|error| ClientError::local("write", &path, &error))?;
        Ok(path)
    }
}
