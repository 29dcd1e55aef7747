//! The commented node.toml that `dolmen node init` writes.
//!
//! Decides the file's words and that nothing is ever overwritten. Never decides what a value means: the text is
//! parsed by the same rules as any other before it is written.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};

use dolmen_proto::size::ByteSize;

use super::{ConfigError, NodeConfig, next_port};

/// Where a node listens unless it is told otherwise.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 4711));

/// What `dolmen node init` was asked for.
#[derive(Debug, Clone, Default)]
pub struct InitOptions {
    /// Data folders, one a disk; at least one.
    pub data: Vec<PathBuf>,
    /// Most bytes on all disks.
    pub quota: Option<ByteSize>,
    /// Most bytes of all accounts that are not allowed by name.
    pub open_quota: Option<ByteSize>,
    /// Where the node stands.
    pub region: Option<String>,
    /// Address of the data plane; `None`: [`DEFAULT_LISTEN`].
    pub listen: Option<SocketAddr>,
    /// Address of the directory; `None`: the port after the data plane's.
    pub control: Option<SocketAddr>,
    /// Where others reach the node, as HOST or HOST:PORT.
    pub announce: Option<String>,
    /// The port of the directory as others see it, where `announce` is given and it is not the next one.
    pub announce_control_port: Option<u16>,
    /// Largest datagram of the data plane, in bytes.
    pub datagram_bytes: Option<u16>,
    /// Multiaddresses of other nodes.
    pub bootstrap: Vec<String>,
}

/// Writes a commented node.toml that says what `options` say, and returns it validated.
///
/// Creates missing folders above the file. The key and the data folders are made by whoever starts the node.
///
/// # Errors
/// [`ConfigError::Exists`] when there is such a file, [`ConfigError::Invalid`] when an option makes no sense.
pub fn write_new(path: &Path, options: &InitOptions) -> Result<NodeConfig, ConfigError> {
    let failed = |action, path: &Path, source| ConfigError::File { action, path: path.to_owned(), source };
    let text = render(options);
    let config = NodeConfig::parse(&text, path)?;
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|source| failed("create", folder, source))?;
    }
    let mut file = match std::fs::File::create_new(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(ConfigError::Exists(path.to_owned()));
        }
        Err(source) => return Err(failed("write", path, source)),
    };
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|source| failed("write", path, source))?;
    Ok(config)
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn quoted_list<'a>(items: impl Iterator<Item = &'a str>) -> String {
    let mut list = String::from("[\n");
    for item in items {
        // Writing to a String cannot fail.
        let _ = writeln!(list, "    {},", quoted(item));
    }
    list.push(']');
    list
}

/// One key: in force with `value`, or commented out with an example.
fn key(text: &mut String, comment: &str, name: &str, value: Option<String>, example: &str) {
    for line in comment.lines() {
        let _ = writeln!(text, "# {line}");
    }
    let _ = match value {
        Some(value) => writeln!(text, "{name} = {value}\n"),
        None => writeln!(text, "#{name} = {example}\n"),
    };
}

fn render(options: &InitOptions) -> String {
    let listen = options.listen.unwrap_or(DEFAULT_LISTEN);
    let control = options.control.unwrap_or_else(|| next_port(listen));
    let folders: Vec<_> = options.data.iter().map(|folder| folder.to_string_lossy().into_owned()).collect();
    let mut text = String::from(
        "# A Dolmen storage node. Sizes: 500GB is 500 * 10^9 bytes, 500GiB is 500 * 2^30.\n\
         # Relative paths count from the folder that this file lies in. Unknown keys are refused.\n\n",
    );
    let text_ref = &mut text;
    key(
        text_ref,
        "One folder a disk. Never put two on one disk, and never delete one with shards in it:\n\
         `dolmen node disk` adds and removes them.",
        "data",
        Some(quoted_list(folders.iter().map(String::as_str))),
        "",
    );
    key(
        text_ref,
        "The node's private key: its identity. Back it up, show it to nobody.",
        "key",
        Some(quoted("node.key")),
        "",
    );
    key(
        text_ref,
        "UDP ports of the data plane and of the directory; open both in the firewall.",
        "listen",
        Some(quoted(&listen.to_string())),
        "",
    );
    key(text_ref, "", "control", Some(quoted(&control.to_string())), "");
    key(
        text_ref,
        "Where others reach this node when that is not the address above: HOST or HOST:PORT (data port;\n\
         the control port is the next one).",
        "announce",
        options.announce.as_deref().map(quoted),
        "\"node.example.org\"",
    );
    key(
        text_ref,
        "The control port as others see it, where a router forwards another one than the next.",
        "announce_control_port",
        options.announce_control_port.map(|port| port.to_string()),
        "4800",
    );
    key(
        text_ref,
        "Other nodes to begin with. Empty: others must name this one.",
        "bootstrap",
        Some(quoted_list(options.bootstrap.iter().map(String::as_str))),
        "",
    );
    key(
        text_ref,
        "Most bytes on all disks together, with what is deleted but not yet reclaimed.\n\
         Left out: all that the disks hold, less `disk_reserve`.",
        "quota",
        options.quota.map(|size| quoted(&size.to_string())),
        "\"500GB\"",
    );
    key(
        text_ref,
        "How much of that owners who are not listed under [[allow]] may use together.\n\
         Left out: a tenth. \"0\": listed owners only.",
        "open_quota",
        options.open_quota.map(|size| quoted(&size.to_string())),
        "\"50GB\"",
    );
    key(
        text_ref,
        "... and those of one subnet (/24, /48). Left out: a quarter of open_quota. Local networks are exempt.",
        "open_quota_per_subnet",
        None,
        "\"12500MB\"",
    );
    key(
        text_ref,
        "Where the node stands, from the large to the small.",
        "region",
        options.region.as_deref().map(quoted),
        "\"eu-de\"",
    );
    key(
        text_ref,
        "\"all\", \"renew-only\" (keep what is here, take nothing new) or \"none\".",
        "accepting",
        Some(quoted("all")),
        "",
    );
    key(text_ref, "Bytes that stay free on every disk.", "disk_reserve", None, "\"1GiB\"");
    key(text_ref, "Bytes that transfers in flight may hold in memory.", "memory", None, "\"128MiB\"");
    key(
        text_ref,
        "Bytes a second that shards may leave at; as fast as it goes if not given.",
        "egress",
        None,
        "\"50MB\"",
    );
    key(text_ref, "Bytes a second that shards may come in at.", "ingress", None, "\"50MB\"");
    key(
        text_ref,
        "Other rates at other times, local to this machine; the first period that holds counts.",
        "schedule",
        None,
        "[{ from = \"08:00\", to = \"18:00\", egress = \"5MB\", ingress = \"5MB\" }]",
    );
    key(
        text_ref,
        "Largest datagram of the data plane, for networks that drop larger ones without a word.\nFound out by itself if not given.",
        "datagram_bytes",
        options.datagram_bytes.map(|bytes| bytes.to_string()),
        "1452",
    );
    key(
        text_ref,
        "Bytes a second that the monthly re-reading of everything, which finds bit rot, may take.",
        "scrub_rate",
        None,
        "\"8MiB\"",
    );
    key(text_ref, "Share of disk time that audits may take, in percent.", "audit_share_percent", None, "1");
    key(
        text_ref,
        "What the disks are, \"hdd\" or \"ssd\": how long an auditor waits, and how many reads audits may cost.",
        "disk_class",
        None,
        "\"hdd\"",
    );
    key(text_ref, "Most bytes of heads, the small records that links are found by.", "heads_quota", None, "\"256MiB\"");
    key(
        text_ref,
        "A node whose clock jumped by more than a day deletes nothing until its peers agree with the clock.\n\
         Say true for one start when you have checked the clock yourself.",
        "trust_clock",
        None,
        "false",
    );
    text.push_str(
        "# Who runs this node: nodes of one operator count as one when shards are spread.\n\
         #[operator]\n#key = \"64 hexadecimal digits\"\n#signature = \"128 hexadecimal digits, over the node key\"\n\n\
         # Owners with a quota of their own; `dolmen` shows an owner the account it has at this node.\n\
         #[[allow]]\n#account = \"64 hexadecimal digits\"\n#quota = \"1TB\"\n",
    );
    text
}
