//! Data folders: made once, opened at every start, added, removed and listed by their operator.
//!
//! Decides what becomes of a folder that is locked, missing or not ours. Never writes to a folder without a marker,
//! but to make it a data folder when the operator says so.

use std::io;
use std::path::{Path, PathBuf};

use dolmen_net::{Identity, IdentityError};
use dolmen_proto::ids::{NodeId, Timestamp};

use crate::config::{self, ConfigError, InitOptions, NodeConfig};
use crate::disk::FileDisk;
use crate::status::{DiskState, DiskStatus};
use crate::store::{
    DataFolder, FolderReport, FolderState, FolderUsage, IndexPlace, OpenReport, Store, StoreError, StoreOptions,
    initialise,
};
use crate::tasks::disk_status;

/// The folder in each data folder that the index lies in; disposable.
const INDEX_FOLDER: &str = "index";

/// Why data folders cannot be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// node.toml is in the way.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The node's key is in the way.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Another process has the folder.
    #[error("the data folder {0} is in use by another process\nstop the node first")]
    InUse(PathBuf),
    /// A folder cannot be made, read or written.
    #[error("cannot {action} {path}: {source}")]
    Folder {
        /// What was tried.
        action: &'static str,
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder to remove still holds something.
    #[error(
        "{path} still holds {shards} shards and {heads} heads; removing it would lose them\n\
         set `accepting = \"renew-only\"` and wait until their leases are over, or keep the disk"
    )]
    NotEmpty {
        /// The folder.
        path: PathBuf,
        /// Shards on it.
        shards: u64,
        /// Heads on it.
        heads: u64,
    },
    /// The folder to remove cannot be looked into, so nobody knows what is on it.
    #[error("{path} cannot be looked into ({reason}); mount the disk before it is removed")]
    Unknown {
        /// The folder.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The system has no random bytes.
    #[error("the operating system gives no random bytes: {0}")]
    Random(String),
    /// The store does not open.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What was found when the folders were opened.
#[derive(Debug)]
pub(crate) struct OpenFolders {
    /// The first folder in use: status, clock and the directory's memory are kept there.
    pub(crate) state_folder: PathBuf,
    /// Folders of the configuration that are not even there.
    pub(crate) absent: Vec<DiskStatus>,
}

/// Writes node.toml, makes the node's key and the data folders. Never overwrites anything.
///
/// # Errors
/// [`FolderError`] that names the file in the way; what was made until then stays.
pub fn init(path: &Path, options: &InitOptions) -> Result<(NodeConfig, NodeId), FolderError> {
    let config = config::write_new(path, options)?;
    if let Some(folder) = config.key_file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(failed("create", folder))?;
    }
    let node = Identity::load_or_create(&config.key_file)?.node_id();
    for folder in &config.data {
        make(folder, node)?;
    }
    Ok((config, node))
}

/// Makes `folder` a data folder of the node and adds it to node.toml; it is used from the next start on.
///
/// # Errors
/// [`FolderError`], also when the folder is another node's or holds volumes already.
pub fn add(path: &Path, folder: &Path) -> Result<NodeConfig, FolderError> {
    let config = NodeConfig::load(path)?;
    let node = Identity::load_or_create(&config.key_file)?.node_id();
    let base = path.parent().unwrap_or_else(|| Path::new(""));
    make(&base.join(folder), node)?;
    Ok(config::add_data_folder(path, folder)?)
}

/// Takes an empty data folder out of node.toml. The node must not be running. The folder itself stays.
///
/// # Errors
/// [`FolderError::NotEmpty`] when it holds anything, [`FolderError::InUse`] while the node runs.
pub fn remove(path: &Path, folder: &Path, now: Timestamp) -> Result<NodeConfig, FolderError> {
    let config = NodeConfig::load(path)?;
    let node = Identity::load_or_create(&config.key_file)?.node_id();
    let base = path.parent().unwrap_or_else(|| Path::new(""));
    let full = base.join(folder);
    let data = open_folder(&full, None)?;
    let (store, report) = Store::open_whole(vec![data], store_options(&config, node), now)?;
    let usage = store.usage();
    store.close()?;
    let usable = report.folders.iter().all(|folder| folder.state == FolderState::Ready);
    if !usable {
        let reason = report.folders.iter().map(|folder| format!("{:?}", folder.state)).collect::<Vec<_>>().join(", ");
        return Err(FolderError::Unknown { path: full, reason });
    }
    if usage.shards + usage.damaged + usage.heads > 0 {
        return Err(FolderError::NotEmpty { path: full, shards: usage.shards + usage.damaged, heads: usage.heads });
    }
    Ok(config::remove_data_folder(path, folder)?)
}

/// How the data folders of a node that is not running are.
///
/// # Errors
/// [`FolderError::InUse`] while the node runs; its status file says the same then.
pub fn list(config: &NodeConfig, now: Timestamp) -> Result<Vec<DiskStatus>, FolderError> {
    let node = Identity::load_or_create(&config.key_file)?.node_id();
    let (store, folders) = open(config, node)?;
    store.rebuild(now)?;
    let disks = store.folders().into_iter().map(disk_status).chain(folders.absent).collect();
    store.close()?;
    Ok(disks)
}

/// Throws the indexes away and rebuilds them from the volumes. The node must not be running.
///
/// # Errors
/// [`FolderError::InUse`] while the node runs, else what the disks say.
pub fn reindex(config: &NodeConfig, now: Timestamp) -> Result<(OpenReport, FolderUsage), FolderError> {
    let node = Identity::load_or_create(&config.key_file)?.node_id();
    for folder in &config.data {
        // Locked while the index goes, so that no running node loses it.
        let _locked = match FileDisk::open(folder) {
            Ok(disk) => disk,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(open_error(folder, error)),
        };
        let index = folder.join(INDEX_FOLDER);
        match std::fs::remove_dir_all(&index) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &index)(error)),
            Ok(()) | Err(_) => {}
        }
    }
    let (store, _) = open(config, node)?;
    let report = store.rebuild(now)?;
    let usage = store.usage();
    store.close()?;
    Ok((report, usage))
}

/// Opens the store over all folders that are there; their indexes may be still to be rebuilt.
pub(crate) fn open(config: &NodeConfig, node: NodeId) -> Result<(Store<FileDisk>, OpenFolders), FolderError> {
    let (mut present, mut absent) = (Vec::new(), Vec::new());
    // With one disk the quota is also the disk's bound; with several the service holds the sum to it.
    let capacity = config.quota.map(dolmen_proto::size::ByteSize::bytes).filter(|_| config.data.len() == 1);
    for folder in &config.data {
        match open_folder(folder, capacity) {
            Ok(data) => present.push(data),
            Err(FolderError::Folder { path, source, .. }) => absent.push(absent_status(path, &source)),
            Err(error) => return Err(error),
        }
    }
    let (store, report) = Store::open(present, store_options(config, node))?;
    for folder in &report.folders {
        tracing::info!(folder = folder.name, state = ?folder.state, index = ?folder.index, "opened");
    }
    let whole_or_to_be =
        |folder: &&FolderReport| matches!(folder.state, FolderState::Ready | FolderState::Rebuilding { .. });
    let usable = report.folders.iter().find(whole_or_to_be);
    let usable =
        usable.or_else(|| report.folders.iter().find(|folder| matches!(folder.state, FolderState::ReadOnly(_))));
    let Some(usable) = usable else {
        return Err(StoreError::NoFolder("none is mounted, or none was made by `dolmen node init`".to_owned()).into());
    };
    let state_folder = PathBuf::from(&usable.name);
    Ok((store, OpenFolders { state_folder, absent }))
}

fn absent_status(path: PathBuf, error: &io::Error) -> DiskStatus {
    let missing = error.kind() == io::ErrorKind::NotFound;
    let state = if missing { DiskState::Unmounted } else { DiskState::Failed };
    tracing::error!(folder = %path.display(), %error, "a data folder is not there");
    let reason = error.to_string();
    DiskStatus { path, state, reason, rebuilding: None, live_bytes: 0, dead_bytes: 0, free_bytes: 0 }
}

fn store_options(config: &NodeConfig, node: NodeId) -> StoreOptions {
    StoreOptions { reserve_bytes: config.disk_reserve.bytes(), ..StoreOptions::new(node) }
}

fn open_folder(folder: &Path, capacity_bytes: Option<u64>) -> Result<DataFolder<FileDisk>, FolderError> {
    let disk = FileDisk::open(folder).map_err(|error| open_error(folder, error))?;
    let index = IndexPlace::Sled(folder.join(INDEX_FOLDER));
    Ok(DataFolder { disk, name: folder.to_string_lossy().into_owned(), index, capacity_bytes })
}

/// Makes a folder, and its marker where it has none.
fn make(folder: &Path, node: NodeId) -> Result<(), FolderError> {
    std::fs::create_dir_all(folder).map_err(failed("create", folder))?;
    let disk = FileDisk::open(folder).map_err(|error| open_error(folder, error))?;
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|error| FolderError::Random(error.to_string()))?;
    initialise(&disk, node, secret).map_err(failed("make a data folder of", folder))?;
    Ok(())
}

fn open_error(folder: &Path, source: io::Error) -> FolderError {
    if source.kind() == io::ErrorKind::WouldBlock {
        return FolderError::InUse(folder.to_owned());
    }
    failed("open", folder)(source)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FolderError {
    let path = path.to_owned();
    move |source| FolderError::Folder { action, path, source }
}
