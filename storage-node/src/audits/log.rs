//! What a node keeps of its own audits, for its operator: a line for each, and the whole transcript of those that it did
//! not pass.
//!
//! Decides the files and their bounds. Never decides anything by them. A line is JSON; the older half is given up when the
//! file is full, and the oldest transcripts when there are too many.

use std::fs;
use std::io::{self, BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

const LOG_FILE: &str = "audits.jsonl";
const OLD_LOG_FILE: &str = "audits.old.jsonl";
const TRANSCRIPTS_FOLDER: &str = "transcripts";
/// Bytes of one of the two files.
const LOG_MAX_BYTES: u64 = 16 * 1024 * 1024;
const TRANSCRIPTS_MAX: usize = 256;
/// Bytes of all transcripts together.
const TRANSCRIPTS_MAX_BYTES: u64 = 64 * 1024 * 1024;
const LINE_MAX_BYTES: usize = 4096;

/// One audit as its node keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedAudit {
    /// When the auditor closed it, by the node's clock, in milliseconds since the epoch.
    pub at_ms: u64,
    /// Who asked, in hexadecimal.
    pub auditor: String,
    /// `passed`, `wrong`, `not_held`, `no_answer`, `late` or `refused`, as the auditor says.
    pub outcome: String,
    /// Samples asked for.
    pub samples: u32,
    /// Shards of which some were drawn.
    pub shards: u32,
    /// Of them, those that were not proven.
    pub failed: u32,
    /// Bytes that the auditor knows this node to hold.
    pub set_bytes: u64,
    /// Shards that it knows this node to hold.
    pub set_shards: u64,
    /// The transcript's file, where it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transcript: Option<PathBuf>,
}

/// The files of one node, in its state folder.
#[derive(Debug)]
pub struct AuditLog {
    folder: PathBuf,
    writing: Mutex<()>,
}

impl AuditLog {
    /// Keeps its files in this folder, which exists.
    #[must_use]
    pub const fn new(folder: PathBuf) -> Self {
        Self { folder, writing: Mutex::new(()) }
    }

    /// Adds an audit, and its transcript where there is one to keep.
    ///
    /// # Errors
    /// What the disk says.
    pub fn note(&self, mut audit: LoggedAudit, transcript: Option<&[u8]>) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = transcript {
            audit.transcript = Some(self.keep(audit.at_ms, bytes)?);
        }
        let path = self.folder.join(LOG_FILE);
        if fs::metadata(&path).is_ok_and(|file| file.len() >= LOG_MAX_BYTES) {
            fs::rename(&path, self.folder.join(OLD_LOG_FILE))?;
        }
        let mut line = serde_json::to_vec(&audit)?;
        line.push(b'\n');
        fs::OpenOptions::new().create(true).append(true).open(path)?.write_all(&line)
    }

    fn keep(&self, at_ms: u64, bytes: &[u8]) -> io::Result<PathBuf> {
        let folder = self.folder.join(TRANSCRIPTS_FOLDER);
        fs::create_dir_all(&folder)?;
        let sized = |entry: fs::DirEntry| Some((entry.path(), entry.metadata().ok()?.len()));
        let mut names: Vec<_> = fs::read_dir(&folder)?.filter_map(|entry| sized(entry.ok()?)).collect();
        names.sort();
        let mut kept_bytes = names.iter().map(|(_, length)| length).sum::<u64>() + bytes.len() as u64;
        let mut kept = names.len() + 1;
        for (path, length) in &names {
            if kept <= TRANSCRIPTS_MAX && kept_bytes <= TRANSCRIPTS_MAX_BYTES {
                break;
            }
            fs::remove_file(path)?;
            (kept, kept_bytes) = (kept - 1, kept_bytes.saturating_sub(*length));
        }
        let name = format!("{at_ms:016}-{}.transcript", blake3::hash(bytes).to_hex().get(..8).unwrap_or(""));
        let path = folder.join(name);
        fs::write(&path, bytes)?;
        Ok(path)
    }
}

/// The newest audits of a node, oldest first, at most `most`. Lines that are damaged are left out.
///
/// # Errors
/// What the disk says; that there is no file yet is none.
pub fn read_log(state_folder: &Path, most: usize) -> io::Result<Vec<LoggedAudit>> {
    let mut audits = std::collections::VecDeque::new();
    for name in [OLD_LOG_FILE, LOG_FILE] {
        let file = match fs::File::open(state_folder.join(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for line in io::BufReader::new(file).split(b'\n') {
            let line = line?;
            if let Some(audit) = (line.len() <= LINE_MAX_BYTES).then(|| serde_json::from_slice(&line).ok()).flatten() {
                audits.push_back(audit);
                if audits.len() > most {
                    audits.pop_front();
                }
            }
        }
    }
    Ok(audits.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audit(at_ms: u64) -> LoggedAudit {
        LoggedAudit {
            at_ms,
            auditor: "ab".repeat(32),
            outcome: "passed".to_owned(),
            samples: 64,
            shards: 60,
            failed: 0,
            set_bytes: 1 << 40,
            set_shards: 1000,
            transcript: None,
        }
    }

    #[test]
    fn what_was_noted_is_read_newest_last_and_a_damaged_line_is_left_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = AuditLog::new(folder.path().to_owned());
        assert_eq!(read_log(folder.path(), 10).expect("none yet"), []);
        for at in 0..5 {
            log.note(audit(at), (at == 4).then_some(&b"evidence"[..])).expect("a disk");
        }
        let mut file = fs::OpenOptions::new().append(true).open(folder.path().join(LOG_FILE)).expect("it is there");
        file.write_all(b"{ torn").expect("a disk");
        let read = read_log(folder.path(), 3).expect("a disk");
        assert_eq!(read.iter().map(|audit| audit.at_ms).collect::<Vec<_>>(), [2, 3, 4]);
        let kept = read[2].transcript.as_ref().expect("it was kept");
        assert_eq!(fs::read(kept).expect("it is there"), b"evidence");
    }

    #[test]
    fn transcripts_are_bounded_by_giving_up_the_oldest() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = AuditLog::new(folder.path().to_owned());
        for at in 0..TRANSCRIPTS_MAX as u64 + 10 {
            log.note(audit(at), Some(&at.to_le_bytes())).expect("a disk");
        }
        let kept = fs::read_dir(folder.path().join(TRANSCRIPTS_FOLDER)).expect("it is there").count();
        assert_eq!(kept, TRANSCRIPTS_MAX);
    }

    #[test]
    fn large_transcripts_do_not_fill_the_disk() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = AuditLog::new(folder.path().to_owned());
        let large = vec![7; 4 * 1024 * 1024];
        for at in 0..40 {
            log.note(audit(at), Some(&large)).expect("a disk");
        }
        let kept = fs::read_dir(folder.path().join(TRANSCRIPTS_FOLDER)).expect("it is there");
        let bytes: u64 = kept.map(|entry| entry.expect("a file").metadata().expect("a file").len()).sum();
        assert_eq!(bytes, TRANSCRIPTS_MAX_BYTES);
    }
}
