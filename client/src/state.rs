//! What a client keeps between runs: secrets of anonymous uploads, journals of uploads that were cut off, heads seen,
//! when leases are to be looked at.
//!
//! Decides names, modes and durability of these files. Never holds content: everything in a journal only saves
//! work, and whatever of it is lost or wrong costs time, never data.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use dolmen_proto::keys::VaultSecret;
use serde::{Deserialize, Serialize};

use crate::error::{ClientError, ErrorKind};
use crate::network::experience::{Experience, SILENT_NODES_MAX};

mod journal;
mod leases;
mod seen;
mod standings;

pub(crate) use journal::{Journal, JournalHeader, Placed};
pub(crate) use leases::{LeaseNote, LeaseNotes, Pass};
pub(crate) use seen::SeenHeads;
pub(crate) use standings::{Standings, weight};

/// What earlier runs found out about the line.
const LINE_FILE: &str = "line.json";
/// Each silent node takes some 110 bytes.
const LINE_FILE_MAX_BYTES: u64 = 4096 + 160 * SILENT_NODES_MAX as u64;
/// Largest secret file that is read.
const SECRET_MAX_BYTES: u64 = 4096;
const FINGERPRINT_CONTEXT: &str = "dolmen 2026 client link fingerprint v1";

/// The folder that outlives a process.
#[derive(Debug, Clone)]
pub(crate) struct State {
    folder: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretFile {
    version: u8,
    vault: String,
    dataset: u64,
}

impl State {
    /// Opens the folder, making it (mode 0700) where it is not there.
    ///
    /// # Errors
    /// `Local` when it cannot be made.
    pub(crate) fn open(folder: &Path) -> Result<Self, ClientError> {
        for name in ["uploads", "journals", "seen", "vaults", "index"] {
            let path = folder.join(name);
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(|error| ClientError::local("make the state folder", &path, &error))?;
        }
        Ok(Self { folder: folder.to_path_buf() })
    }

    /// Where the directory may cache nodes.
    pub(crate) fn node_cache(&self) -> PathBuf {
        self.folder.join("nodes")
    }

    /// What earlier runs learned of the line and of nodes; a file that cannot be read says nothing.
    pub(crate) fn experience(&self) -> Experience {
        let file = File::open(self.folder.join(LINE_FILE)).ok();
        let text = file.and_then(|file| {
            let mut text = String::new();
            file.take(LINE_FILE_MAX_BYTES).read_to_string(&mut text).ok().map(|_| text)
        });
        text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    /// Notes for the next run what this one learned; nothing is lost when that fails.
    pub(crate) fn keep_experience(&self, learned: Experience) {
        let before = self.experience();
        let learned = learned.or(&before);
        if learned != before
            && let Ok(text) = serde_json::to_string(&learned)
        {
            let _ = fs::write(self.folder.join(LINE_FILE), text);
        }
    }

    /// Where catalogues of vaults lie, the heads written last, and what is known of leases.
    pub(crate) fn vaults(&self) -> PathBuf {
        self.folder.join("vaults")
    }

    /// Where the chunk index of the dataset that this client calls `name` lies.
    pub(crate) fn index(&self, name: &str) -> PathBuf {
        self.folder.join("index").join(name)
    }

    /// What is known of the leases of the dataset that this client calls `name`.
    pub(crate) fn leases(&self, name: &str) -> LeaseNotes {
        LeaseNotes::new(self, name)
    }

    /// What this client believes of nodes.
    pub(crate) fn standings(&self) -> Standings {
        Standings::new(self)
    }

    /// The newest heads that this client has seen.
    pub(crate) fn seen_heads(&self) -> SeenHeads {
        SeenHeads::new(self)
    }

    /// Keeps the vault secret of the anonymous upload with this link secret; durable when it returns.
    ///
    /// # Errors
    /// `Local` when it cannot be written.
    pub(crate) fn keep_secret(&self, link_secret: &[u8; 32], vault: &VaultSecret) -> Result<(), ClientError> {
        let path = self.secret_path(link_secret);
        let text = serde_json::to_vec(&SecretFile { version: 1, vault: to_hex(vault.expose()), dataset: 0 })
            .map_err(|error| ClientError::bug("could not write a secret as JSON", error))?;
        write_durably(&path, &text).map_err(|error| ClientError::local("keep the upload's secret in", &path, &error))
    }

    /// The vault secret of an anonymous upload made by this client.
    ///
    /// # Errors
    /// `Refused` when there is none, `Local` when it cannot be read.
    pub(crate) fn secret(&self, link_secret: &[u8; 32]) -> Result<VaultSecret, ClientError> {
        let path = self.secret_path(link_secret);
        let metadata = fs::metadata(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => ClientError::new(
                ErrorKind::Refused,
                "this client may not change that upload",
                "its secret is not in this client's state folder",
                "run the command on the machine, and with the configuration, that made the upload",
            ),
            _ => ClientError::local("read", &path, &error),
        })?;
        let damaged = |why: String| {
            let what = format!("{} is damaged", path.display());
            ClientError::new(ErrorKind::Local, what, why, "restore the file from a backup of the state folder")
        };
        if metadata.len() > SECRET_MAX_BYTES {
            return Err(damaged("it is too large".to_owned()));
        }
        let text = fs::read(&path).map_err(|error| ClientError::local("read", &path, &error))?;
        let file: SecretFile = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if file.version != 1 || file.dataset != 0 {
            return Err(damaged("it was written by another version of dolmen".to_owned()));
        }
        let bytes =
            from_hex(&file.vault).ok_or_else(|| damaged("the secret is not 64 hexadecimal digits".to_owned()))?;
        Ok(VaultSecret::new(bytes))
    }

    /// Forgets the vault secret of an anonymous upload.
    ///
    /// # Errors
    /// `Local` when the file cannot be removed.
    pub(crate) fn forget_secret(&self, link_secret: &[u8; 32]) -> Result<(), ClientError> {
        let path = self.secret_path(link_secret);
        fs::remove_file(&path).map_err(|error| ClientError::local("remove", &path, &error))
    }

    fn secret_path(&self, link_secret: &[u8; 32]) -> PathBuf {
        self.folder.join("uploads").join(to_hex(&blake3::derive_key(FINGERPRINT_CONTEXT, link_secret)[..16]))
    }

    /// Where files lie that mean nothing to anybody but the process that made them.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.journals()
    }

    fn journals(&self) -> PathBuf {
        self.folder.join("journals")
    }
}

/// Lowercase hexadecimal digits.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    text.parse::<dolmen_proto::ids::HeadHash>().ok().map(|id| *id.as_bytes())
}

/// Writes a file of mode 0600 beside `path`, syncs it, renames it over `path` and syncs the folder.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let beside = path.with_extension(format!("new-{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    sync_folder(path)
}

/// Makes durable that the folder of `path` names it.
pub(crate) fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

/// The folder that a file is in; a bare name is in the one where the process is.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secret_comes_back_for_its_link_only_and_is_nobody_elses_to_read() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path()).unwrap();
        state.keep_secret(&[1; 32], &VaultSecret::new([7; 32])).unwrap();
        assert_eq!(state.secret(&[1; 32]).unwrap().expose(), &[7; 32]);
        assert_eq!(state.secret(&[2; 32]).unwrap_err().kind(), ErrorKind::Refused);
        let path = state.secret_path(&[1; 32]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!path.display().to_string().contains("0101"), "the name does not give the link away");
        state.forget_secret(&[1; 32]).unwrap();
        assert_eq!(state.secret(&[1; 32]).unwrap_err().kind(), ErrorKind::Refused);
    }

    #[test]
    fn a_bare_name_is_in_the_folder_where_the_process_is() {
        assert_eq!(folder_of(Path::new("vault.json")), Path::new("."));
        assert_eq!(folder_of(Path::new("a/vault.json")), Path::new("a"));
    }

    #[test]
    fn a_damaged_secret_is_named_not_trusted() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path()).unwrap();
        for text in ["", "{}", r#"{"version":1,"vault":"00","dataset":0}"#, r#"{"version":9,"vault":"","dataset":0}"#] {
            fs::write(state.secret_path(&[1; 32]), text).unwrap();
            assert_eq!(state.secret(&[1; 32]).unwrap_err().kind(), ErrorKind::Local);
        }
    }
}
