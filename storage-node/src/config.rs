//! node.toml: what an operator decides about a node, parsed and then validated before anything is opened.
//!
//! Decides which keys exist, their defaults and which values make sense together. Never holds what the documents
//! or the protocol fix (k, m, shard lengths, suites), and never opens a disk or a socket.

mod edit;
mod template;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use dolmen_proto::audit::AuditClass;
use dolmen_proto::ids::{AccountId, OperatorId};
use dolmen_proto::limits;
use dolmen_proto::region::{Region, RegionError};
use dolmen_proto::size::ByteSize;
use serde::{Deserialize, Deserializer};

use crate::bandwidth::{Period, RATE_MIN, Rates, Schedule};

pub(crate) use self::edit::replace_file;
pub use self::edit::{add_data_folder, remove_data_folder};
pub use self::template::{DEFAULT_LISTEN, InitOptions, write_new};

/// Smallest memory budget that a node runs with.
pub const MEMORY_MIN: ByteSize = ByteSize::new(16 * limits::MIB);
const MEMORY_DEFAULT: ByteSize = ByteSize::new(128 * limits::MIB);
const DISK_RESERVE_DEFAULT: ByteSize = ByteSize::new(limits::GIB);
const SCRUB_RATE_DEFAULT: ByteSize = ByteSize::new(8 * limits::MIB);
const AUDIT_SHARE_DEFAULT_PERCENT: u8 = 1;
const HEADS_QUOTA_DEFAULT: ByteSize = ByteSize::new(256 * limits::MIB);
const KEY_FILE_DEFAULT: &str = "node.key";
const DATA_FOLDERS_MAX: usize = 64;
const ALLOWED_ACCOUNTS_MAX: usize = 65_536;
const CONFIG_FILE_MAX_BYTES: u64 = 16 * limits::MIB;

/// Why a configuration cannot be used. Always the operator's to mend; every message says how.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read or written.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML, names a key that does not exist, or a value is of the wrong kind.
    #[error("{path}, line {line}: {what}\ncorrect or remove that line; `dolmen node init` writes a commented example")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, counted from one.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// A value makes no sense, by itself or beside another.
    #[error("{path}: `{key}`: {what}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What is wrong and what to write instead.
        what: String,
    },
    /// `node init` was pointed at a file that is there already.
    #[error("{0} exists already and is never overwritten\nmove it away, or choose another place with --config")]
    Exists(PathBuf),
}

/// Which puts a node takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AcceptingMode {
    /// New shards and renewals.
    #[default]
    All,
    /// Renewals of what is held; no new shards. The way to empty a node slowly.
    RenewOnly,
    /// Neither. Reads and deletes go on.
    None,
}

impl AcceptingMode {
    /// As node.toml writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::RenewOnly => "renew-only",
            Self::None => "none",
        }
    }
}

/// What the disks of a node are: how long an auditor has to wait for an answer, and how many reads they can spare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskClass {
    /// Spinning disks.
    #[default]
    Hdd,
    /// Solid state.
    Ssd,
}

impl From<DiskClass> for AuditClass {
    fn from(class: DiskClass) -> Self {
        match class {
            DiskClass::Hdd => Self::Spinning,
            DiskClass::Ssd => Self::SolidState,
        }
    }
}

/// The name under which others reach this node, where that is not the address it listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announce {
    /// A DNS name or an IP address without brackets.
    pub host: String,
    /// The data port as seen from outside; the control port is the next one. `None`: the ports listened on.
    pub port: Option<u16>,
    /// The control port as seen from outside, where it is not that.
    pub control_port: Option<u16>,
}

impl FromStr for Announce {
    type Err = String;

    /// Reads `HOST`, `HOST:PORT`, an IPv6 address, or `[IPv6]:PORT`.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not HOST or HOST:PORT; write an IPv6 address with a port as [ADDRESS]:PORT");
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self { host: address.ip().to_string(), port: Some(address.port()), control_port: None });
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse::<std::net::IpAddr>() {
            return Ok(Self { host: address.to_string(), port: None, control_port: None });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port.parse::<u16>().map_err(|_| bad())?)),
            None => (text, None),
        };
        let named = host.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.');
        if host.is_empty() || host.len() > limits::NODE_TEXT_MAX_BYTES || !named || port == Some(0) {
            return Err(bad());
        }
        Ok(Self { host: host.to_owned(), port, control_port: None })
    }
}

/// An operator's claim of this node: the key and its signature over the node key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OperatorClaim {
    /// The operator.
    pub operator: OperatorId,
    /// Signature of kind `Operator` over the 32 bytes of the node key; checked against it when the node starts.
    pub signature: [u8; 64],
}

/// An account with a quota of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllowedAccount {
    /// The account as `dolmen` shows it to its owner for this node.
    pub account: AccountId,
    /// Bytes that its leases may hold.
    pub quota: ByteSize,
}

/// A validated node.toml.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// Data folders, one a disk; the first one also keeps the node's small state. Never empty, no two equal.
    pub data: Vec<PathBuf>,
    /// The node's private key, mode 0600.
    pub key_file: PathBuf,
    /// UDP address of the data plane.
    pub listen: SocketAddr,
    /// UDP address of the directory.
    pub control: SocketAddr,
    /// Where others reach this node; `None`: where it listens.
    pub announce: Option<Announce>,
    /// Multiaddresses of other nodes; empty: a network of its own until others name this node.
    pub bootstrap: Vec<String>,
    /// Most bytes on all disks together, dead bytes included; `None`: what the disks hold less the reserve.
    pub quota: Option<ByteSize>,
    /// Most bytes of all accounts that are not allowed by name; `None`: a tenth of the quota.
    pub open_quota: Option<ByteSize>,
    /// Most bytes of those from one subnet; `None`: a quarter of the open quota.
    pub open_quota_per_subnet: Option<ByteSize>,
    /// Most bytes of heads.
    pub heads_quota: ByteSize,
    /// Where the node stands, from the large to the small: `eu-de`.
    pub region: Option<Region>,
    /// Who runs the node.
    pub operator: Option<OperatorClaim>,
    /// Accounts with quotas of their own.
    pub allow: Vec<AllowedAccount>,
    /// Which puts are taken.
    pub accepting: AcceptingMode,
    /// Bytes that transfers in flight may hold in memory together.
    pub memory: ByteSize,
    /// How fast shards may go out and come in.
    pub bandwidth: Schedule,
    /// Largest datagram of the data plane, in bytes; `None`: by the path.
    pub datagram_bytes: Option<u16>,
    /// Bytes that stay free on every disk.
    pub disk_reserve: ByteSize,
    /// Bytes a second that the monthly re-reading of everything may take.
    pub scrub_rate: ByteSize,
    /// Share of disk time that audits may take, in percent.
    pub audit_share_percent: u8,
    /// What the disks are.
    pub disk_class: DiskClass,
    /// The clock is right although it jumped: the operator's word, for as long as the line stands.
    pub trust_clock: bool,
}

impl NodeConfig {
    /// A configuration with all defaults for these folders, key and data address; the control port is the next one.
    #[must_use]
    pub fn new(data: Vec<PathBuf>, key_file: PathBuf, listen: SocketAddr) -> Self {
        Self {
            data,
            key_file,
            listen,
            control: next_port(listen),
            announce: None,
            bootstrap: Vec::new(),
            quota: None,
            open_quota: None,
            open_quota_per_subnet: None,
            heads_quota: HEADS_QUOTA_DEFAULT,
            region: None,
            operator: None,
            allow: Vec::new(),
            accepting: AcceptingMode::All,
            memory: MEMORY_DEFAULT,
            bandwidth: Schedule::default(),
            datagram_bytes: None,
            disk_reserve: DISK_RESERVE_DEFAULT,
            scrub_rate: SCRUB_RATE_DEFAULT,
            audit_share_percent: AUDIT_SHARE_DEFAULT_PERCENT,
            disk_class: DiskClass::default(),
            trust_clock: false,
        }
    }

    /// Blocks that are proven in an hour at most: what `audit_share_percent` of the disks' time is good for, a sample
    /// being two random reads.
    #[must_use]
    pub fn audit_samples_per_hour(&self) -> u64 {
        let samples_of_an_hour = match self.disk_class {
            DiskClass::Hdd => 3_600_000 / 20,
            DiskClass::Ssd => 3_600_000 * 2,
        };
        samples_of_an_hour * u64::from(self.audit_share_percent) / 100 * self.data.len() as u64
    }

    /// Reads and validates a file. Relative paths in it count from the folder that it lies in.
    ///
    /// # Errors
    /// [`ConfigError`] with the file, the line or key, and what to do.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read_text(path)?;
        Self::parse(&text, path)
    }

    /// Validates the text of the file `path`, which is not opened.
    ///
    /// # Errors
    /// [`ConfigError`] with the file, the line or key, and what to do.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let file: File = toml::from_str(text).map_err(|error| syntax_error(text, path, &error))?;
        file.validate(path)
    }
}

/// The port after this one, or this one where there is none after it or it is 0 (any).
fn next_port(address: SocketAddr) -> SocketAddr {
    let port = match address.port() {
        0 => 0,
        port => port.saturating_add(1),
    };
    SocketAddr::new(address.ip(), port)
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::File { action: "read", path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > CONFIG_FILE_MAX_BYTES {
        return Err(failed(std::io::Error::other("it is far too large to be a node.toml")));
    }
    std::fs::read_to_string(path).map_err(failed)
}

fn syntax_error(text: &str, path: &Path, error: &toml::de::Error) -> ConfigError {
    let end = error.span().map_or(0, |span| span.start.min(text.len()));
    let line = text.as_bytes()[..end].iter().filter(|byte| **byte == b'\n').count() + 1;
    let what = error.message().lines().collect::<Vec<_>>().join(" ");
    ConfigError::Syntax { path: path.to_owned(), line, what }
}

/// The file as it is written; [`File::validate`] turns it into a [`NodeConfig`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    data: toml::Spanned<Vec<PathBuf>>,
    key: Option<PathBuf>,
    listen: SocketAddr,
    control: Option<SocketAddr>,
    announce: Option<String>,
    announce_control_port: Option<u16>,
    #[serde(default)]
    bootstrap: Vec<String>,
    #[serde(default, deserialize_with = "optional_size")]
    quota: Option<ByteSize>,
    #[serde(default, deserialize_with = "optional_size")]
    open_quota: Option<ByteSize>,
    #[serde(default, deserialize_with = "optional_size")]
    open_quota_per_subnet: Option<ByteSize>,
    #[serde(default, deserialize_with = "optional_size")]
    heads_quota: Option<ByteSize>,
    region: Option<String>,
    operator: Option<OperatorTable>,
    #[serde(default)]
    allow: Vec<AllowTable>,
    #[serde(default)]
    accepting: AcceptingMode,
    #[serde(default, deserialize_with = "optional_size")]
    memory: Option<ByteSize>,
    datagram_bytes: Option<u16>,
    #[serde(default, deserialize_with = "optional_size")]
    egress: Option<ByteSize>,
    #[serde(default, deserialize_with = "optional_size")]
    ingress: Option<ByteSize>,
    #[serde(default)]
    schedule: Vec<PeriodTable>,
    #[serde(default, deserialize_with = "optional_size")]
    disk_reserve: Option<ByteSize>,
    #[serde(default, deserialize_with = "optional_size")]
    scrub_rate: Option<ByteSize>,
    audit_share_percent: Option<u8>,
    #[serde(default)]
    disk_class: DiskClass,
    #[serde(default)]
    trust_clock: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OperatorTable {
    key: String,
    signature: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PeriodTable {
    from: String,
    to: String,
    #[serde(default, deserialize_with = "optional_size")]
    egress: Option<ByteSize>,
    #[serde(default, deserialize_with = "optional_size")]
    ingress: Option<ByteSize>,
}

/// Rates that a transfer can live with.
fn rates(egress: Option<ByteSize>, ingress: Option<ByteSize>) -> Result<Rates, String> {
    match [egress, ingress].into_iter().flatten().find(|rate| *rate < RATE_MIN) {
        Some(rate) => {
            Err(format!("{rate} a second is less than {RATE_MIN}, and transfers would be given up as stalled"))
        }
        None => Ok(Rates { egress, ingress }),
    }
}

impl PeriodTable {
    fn parse(self) -> Result<Period, String> {
        Ok(Period { from: self.from.parse()?, to: self.to.parse()?, rates: rates(self.egress, self.ingress)? })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AllowTable {
    account: String,
    #[serde(deserialize_with = "size")]
    quota: ByteSize,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a size is text with a unit, such as \"500GB\", or a number of bytes")]
enum SizeText {
    Bytes(u64),
    Text(String),
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
    match SizeText::deserialize(deserializer)? {
        SizeText::Bytes(bytes) => Ok(ByteSize::new(bytes)),
        SizeText::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

fn optional_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ByteSize>, D::Error> {
    size(deserializer).map(Some)
}

impl File {
    fn validate(self, path: &Path) -> Result<NodeConfig, ConfigError> {
        let invalid = |key, what: String| ConfigError::Invalid { path: path.to_owned(), key, what };
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        let data: Vec<PathBuf> = self.data.into_inner().iter().map(|data| folder.join(data)).collect();
        check_data(&data).map_err(|what| invalid("data", what))?;
        let key_file = folder.join(self.key.unwrap_or_else(|| PathBuf::from(KEY_FILE_DEFAULT)));
        let mut config = NodeConfig::new(data, key_file, self.listen);
        if let Some(control) = self.control {
            config.control = control;
        }
        if config.control.port() != 0 && config.control.port() == config.listen.port() {
            let what = "it has the port of `listen`; the two planes need a UDP port each, take the next one".to_owned();
            return Err(invalid("control", what));
        }
        config.announce =
            self.announce.map(|text| text.parse()).transpose().map_err(|what| invalid("announce", what))?;
        if self.announce_control_port == Some(0) {
            return Err(invalid("announce_control_port", "0 is no port".to_owned()));
        }
        if let Some(announce) = &mut config.announce {
            announce.control_port = self.announce_control_port;
        }
        config.bootstrap = self.bootstrap;
        let region = self.region.map(|text| text.parse()).transpose();
        config.region = region.map_err(|error: RegionError| invalid("region", error.to_string()))?;
        config.quota = self.quota;
        config.open_quota = self.open_quota;
        config.open_quota_per_subnet = self.open_quota_per_subnet;
        if let (Some(quota), Some(open)) = (config.quota, config.open_quota)
            && open > quota
        {
            return Err(invalid("open_quota", format!("{open} is more than the whole quota of {quota}; lower it")));
        }
        if let (Some(open), Some(subnet)) = (config.open_quota, config.open_quota_per_subnet)
            && subnet > open
        {
            let what = format!("{subnet} is more than the open quota of {open}; lower it");
            return Err(invalid("open_quota_per_subnet", what));
        }
        config.operator =
            self.operator.map(OperatorTable::parse).transpose().map_err(|what| invalid("operator", what))?;
        config.allow = parse_allowed(self.allow).map_err(|what| invalid("allow", what))?;
        config.accepting = self.accepting;
        config.heads_quota = self.heads_quota.unwrap_or(HEADS_QUOTA_DEFAULT);
        config.datagram_bytes = self.datagram_bytes;
        if config.datagram_bytes.is_some_and(|bytes| bytes < 1200) {
            return Err(invalid("datagram_bytes", "QUIC needs 1200 at least".to_owned()));
        }
        let usual = rates(self.egress, self.ingress).map_err(|what| invalid("egress or ingress", what))?;
        let periods = self.schedule.into_iter().map(PeriodTable::parse).collect::<Result<_, _>>();
        config.bandwidth = Schedule { usual, periods: periods.map_err(|what| invalid("schedule", what))? };
        config.memory = self.memory.unwrap_or(MEMORY_DEFAULT);
        if config.memory < MEMORY_MIN {
            return Err(invalid("memory", format!("a node needs {MEMORY_MIN} at least")));
        }
        config.disk_reserve = self.disk_reserve.unwrap_or(DISK_RESERVE_DEFAULT);
        config.scrub_rate = self.scrub_rate.unwrap_or(SCRUB_RATE_DEFAULT);
        if config.scrub_rate.bytes() == 0 {
            return Err(invalid("scrub_rate", "bit rot is only found by reading; write 1MB or more".to_owned()));
        }
        config.audit_share_percent = self.audit_share_percent.unwrap_or(AUDIT_SHARE_DEFAULT_PERCENT);
        if !(1..=100).contains(&config.audit_share_percent) {
            return Err(invalid("audit_share_percent", "write a number from 1 to 100".to_owned()));
        }
        config.disk_class = self.disk_class;
        config.trust_clock = self.trust_clock;
        Ok(config)
    }
}

fn check_data(data: &[PathBuf]) -> Result<(), String> {
    if data.is_empty() || data.len() > DATA_FOLDERS_MAX {
        return Err(format!("name 1 to {DATA_FOLDERS_MAX} folders, one a disk"));
    }
    match data.iter().enumerate().find(|(index, folder)| data[..*index].contains(folder)) {
        Some((_, twice)) => Err(format!("{} is named twice; every disk has one folder", twice.display())),
        None => Ok(()),
    }
}

impl OperatorTable {
    fn parse(self) -> Result<OperatorClaim, String> {
        let operator = self.key.parse().map_err(|error| format!("`key`: {error}"))?;
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(self.signature.as_bytes()).unwrap_or_default();
        let signature = <[u8; 64]>::try_from(bytes).map_err(|_| "`signature` is 128 hexadecimal digits".to_owned())?;
        Ok(OperatorClaim { operator, signature })
    }
}

fn parse_allowed(tables: Vec<AllowTable>) -> Result<Vec<AllowedAccount>, String> {
    if tables.len() > ALLOWED_ACCOUNTS_MAX {
        return Err(format!("there are more than {ALLOWED_ACCOUNTS_MAX} accounts"));
    }
    let mut seen = BTreeSet::new();
    let mut allowed = Vec::with_capacity(tables.len());
    for AllowTable { account, quota } in tables {
        let account: AccountId = account.parse().map_err(|error| format!("account {account:?}: {error}"))?;
        if !seen.insert(account) {
            return Err(format!("account {account} is there twice; leave the one with the right quota"));
        }
        allowed.push(AllowedAccount { account, quota });
    }
    Ok(allowed)
}

#[cfg(test)]
mod tests;
