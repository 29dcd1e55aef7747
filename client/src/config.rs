//! `client.toml`: where the network is entered, how much memory may be used, where secrets lie.
//!
//! Decides defaults and refuses what it does not know. Never decides anything that a document has fixed: `k`, `n`
//! and suites of what is stored already are the documents'.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use dolmen_proto::limits::{LEASE_DEFAULT, LEASE_INITIAL, LEASE_MAX, MIB};
use dolmen_proto::size::ByteSize;
use serde::Deserialize;

/// Memory that a client may fill with file contents and shards, unless configured: 256 MiB.
pub const MEMORY_BUDGET_DEFAULT_BYTES: u64 = 256 * MIB;
/// Smallest memory budget that a configuration may ask for: one segment of the largest policy and its input.
pub const MEMORY_BUDGET_MIN_BYTES: u64 = 16 * MIB;
/// Largest configuration file that is read.
const CONFIG_MAX_BYTES: u64 = 1024 * 1024;

/// Which code a new dataset gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PolicyChoice {
    /// By the number of eligible nodes, as design.md's table has it.
    #[default]
    Auto,
    /// As given.
    Fixed {
        /// Data shards.
        k: u8,
        /// All shards.
        n: u8,
    },
}

impl FromStr for PolicyChoice {
    type Err = ConfigError;

    /// Reads `auto` or `k/n`, such as `7/16`.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let bad =
            || ConfigError::Value { key: "policy", reason: format!("{text:?} is neither auto nor k/n such as 7/16") };
        let (k, n) = text.split_once('/').ok_or_else(bad)?;
        let (k, n): (u8, u8) = (k.parse().map_err(|_| bad())?, n.parse().map_err(|_| bad())?);
        if k == 0 || k > n {
            return Err(bad());
        }
        Ok(Self::Fixed { k, n })
    }
}

/// Why a configuration cannot be used: always the user's to mend.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Not TOML, or a key that is not known.
    #[error("{0}")]
    Syntax(String),
    /// A value outside of its bounds.
    #[error("{key}: {reason}")]
    Value {
        /// The key in the file.
        key: &'static str,
        /// What is wrong with its value.
        reason: String,
    },
}

/// What a client needs to know before it connects; `Default` works with bootstrap addresses added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// Multiaddresses of any nodes of the network; a link may bring more.
    pub bootstrap: Vec<String>,
    /// Bytes that file contents and shards may take in memory at once, whatever the size of files.
    pub memory_budget_bytes: u64,
    /// Folder for secrets of anonymous uploads, journals of interrupted ones and cached nodes.
    pub state_folder: PathBuf,
    /// The file of the vault; `None`: `vault.json` in the state folder.
    pub vault: Option<PathBuf>,
    /// Regions, such as `eu` or `eu-de`, that new shards may be placed in; empty: all.
    pub regions: Vec<String>,
    /// The code of new datasets.
    pub policy: PolicyChoice,
    /// How long new datasets are leased.
    pub lease: Duration,
    /// Largest datagram of the data plane, in bytes, for networks that drop larger ones without a word; `None`: found out.
    pub datagram_bytes: Option<u16>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            bootstrap: Vec::new(),
            memory_budget_bytes: MEMORY_BUDGET_DEFAULT_BYTES,
            state_folder: default_state_folder(),
            vault: None,
            regions: Vec::new(),
            policy: PolicyChoice::Auto,
            lease: LEASE_DEFAULT,
            datagram_bytes: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    bootstrap: Vec<String>,
    memory_budget: Option<String>,
    state_folder: Option<PathBuf>,
    vault: Option<PathBuf>,
    #[serde(default)]
    regions: Vec<String>,
    policy: Option<String>,
    lease_days: Option<u64>,
    datagram_bytes: Option<u16>,
}

impl ClientConfig {
    /// Reads and checks a configuration file.
    ///
    /// A relative `state_folder` or `vault` is relative to the file's own folder.
    ///
    /// # Errors
    /// When the file cannot be read, is not TOML, has unknown keys or values outside of their bounds.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let read = |error| ConfigError::Read { path: path.to_path_buf(), error };
        if std::fs::metadata(path).map_err(read)?.len() > CONFIG_MAX_BYTES {
            return Err(ConfigError::Syntax(format!("{} is too large for a configuration", path.display())));
        }
        let mut config = Self::from_toml(&std::fs::read_to_string(path).map_err(read)?)?;
        if let (true, Some(folder)) = (config.state_folder.is_relative(), path.parent()) {
            config.state_folder = folder.join(&config.state_folder);
        }
        if let (Some(vault), Some(folder)) = (&mut config.vault, path.parent())
            && vault.is_relative()
        {
            *vault = folder.join(&*vault);
        }
        Ok(config)
    }

    /// Parses and checks the text of a configuration file.
    ///
    /// # Errors
    /// When it is not TOML, has unknown keys or values outside of their bounds.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let file: File = toml::from_str(text).map_err(|error| ConfigError::Syntax(error.to_string()))?;
        let mut config =
            Self { bootstrap: file.bootstrap, regions: file.regions, vault: file.vault, ..Self::default() };
        if let Some(size) = file.memory_budget {
            let size: ByteSize = size.parse().map_err(|error: dolmen_proto::size::ByteSizeError| {
                ConfigError::Value { key: "memory_budget", reason: error.to_string() }
            })?;
            if size.bytes() < MEMORY_BUDGET_MIN_BYTES {
                return Err(ConfigError::Value {
                    key: "memory_budget",
                    reason: format!("{size} is too little, the least is {}", ByteSize::new(MEMORY_BUDGET_MIN_BYTES)),
                });
            }
            config.memory_budget_bytes = size.bytes();
        }
        if let Some(folder) = file.state_folder {
            config.state_folder = folder;
        }
        if let Some(policy) = file.policy {
            config.policy = policy.parse()?;
        }
        config.datagram_bytes = file.datagram_bytes;
        if file.datagram_bytes.is_some_and(|bytes| bytes < 1200) {
            return Err(ConfigError::Value { key: "datagram_bytes", reason: "QUIC needs 1200 at least".to_owned() });
        }
        if let Some(days) = file.lease_days {
            let lease = Duration::from_secs(days.saturating_mul(86_400));
            if !(LEASE_INITIAL..=LEASE_MAX).contains(&lease) {
                return Err(ConfigError::Value {
                    key: "lease_days",
                    reason: format!("{days} days is not between {} and {}", days_of(LEASE_INITIAL), days_of(LEASE_MAX)),
                });
            }
            config.lease = lease;
        }
        Ok(config)
    }

    /// The file of the vault.
    #[must_use]
    pub fn vault_file(&self) -> PathBuf {
        self.vault.clone().unwrap_or_else(|| self.state_folder.join("vault.json"))
    }
}

fn days_of(duration: Duration) -> u64 {
    duration.as_secs() / 86_400
}

/// `$XDG_STATE_HOME/dolmen`, else `~/.local/state/dolmen`, else `.dolmen` in the current folder.
fn default_state_folder() -> PathBuf {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map_or_else(|| PathBuf::from(".dolmen"), |base| base.join("dolmen"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read() {
        let config = ClientConfig::from_toml(
            "bootstrap = ['/ip4/127.0.0.1/udp/1/quic-v1']\nmemory_budget = '64MiB'\nstate_folder = '/s'\nvault = '/v'\nregions = ['eu']\npolicy = '2/4'\nlease_days = 30",
        )
        .unwrap();
        assert_eq!(config.memory_budget_bytes, 64 * MIB);
        assert_eq!(config.state_folder, PathBuf::from("/s"));
        assert_eq!(config.vault_file(), PathBuf::from("/v"));
        assert_eq!(config.regions, ["eu"]);
        assert_eq!(config.policy, PolicyChoice::Fixed { k: 2, n: 4 });
        assert_eq!(config.lease, Duration::from_secs(30 * 86_400));
        assert_eq!(config.bootstrap.len(), 1);
        assert_eq!(ClientConfig::from_toml("").unwrap(), ClientConfig::default());
    }

    #[test]
    fn what_is_unknown_or_out_of_bounds_is_refused() {
        for (text, named) in [
            ("memory = 1", "memory"),
            ("memory_budget = '1MiB'", "memory_budget"),
            ("memory_budget = 'lots'", "memory_budget"),
            ("policy = '5/4'", "policy"),
            ("policy = 'many'", "policy"),
            ("lease_days = 1", "lease_days"),
            ("datagram_bytes = 100", "datagram_bytes"),
            ("lease_days = 100000", "lease_days"),
        ] {
            let error = ClientConfig::from_toml(text).unwrap_err().to_string();
            assert!(error.contains(named), "{text} -> {error}");
        }
    }

    #[test]
    fn a_relative_state_folder_lies_beside_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("client.toml");
        std::fs::write(&path, "state_folder = 'state'").unwrap();
        let config = ClientConfig::load(&path).unwrap();
        assert_eq!(config.state_folder, folder.path().join("state"));
        assert_eq!(config.vault_file(), folder.path().join("state/vault.json"), "a vault for each network");
        std::fs::write(&path, "vault = 'v'").unwrap();
        assert_eq!(ClientConfig::load(&path).unwrap().vault_file(), folder.path().join("v"));
    }
}
