//! Commands of dataset owners and readers: `put`, `get`, `ls`, `cat`, `info`, `renew`, `rm`, `nodes`.

use dolmen_client::{
    Destination, EntryKind, FailedFile, GetOptions, GetReport, InfoReport, ListedEntry, PolicyChoice, PutOptions,
    PutReport,
};
use dolmen_proto::ids::Timestamp;
use dolmen_proto::limits::LEASE_WARNING;
use serde_json::json;

use crate::arguments::{Cat, Command, Get, Ls, Nodes, OneLink, Put, Renew};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::source::Source;
use crate::terminal::{Terminal, local_time, rate, size};

/// Runs one of these commands.
///
/// # Errors
/// [`Failure`] with the exit code of the contract.
pub async fn run(context: &Context, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Put(arguments) => put(context, &arguments).await,
        Command::Get(arguments) => get(context, &arguments).await,
        Command::Ls(arguments) => list(context, &arguments).await,
        Command::Cat(arguments) => cat(context, &arguments).await,
        Command::Info(arguments) => info(context, &arguments).await,
        Command::Renew(arguments) => renew(context, &arguments).await,
        Command::Rm(arguments) => remove(context, &arguments).await,
        Command::Nodes(arguments) => nodes(context, &arguments).await,
        Command::Demo(_)
        | Command::Devnet(_)
        | Command::Node(_)
        | Command::Completions { .. }
        | Command::Man { .. } => Err(Failure::bug("a command went the wrong way", "it is not one of data")),
    }
}

fn list_failed(terminal: Terminal, failed: &[FailedFile]) -> Exit {
    for file in failed {
        terminal.warning(&format!("{}: {}", file.path, file.reason));
    }
    if failed.is_empty() { Exit::Ok } else { Exit::SomeFailed }
}

async fn put(context: &Context, arguments: &Put) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    for path in &arguments.paths {
        std::fs::symlink_metadata(path).map_err(|error| {
            let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Local };
            Failure::new(exit, format!("could not read {}", path.display()), error.to_string(), "check the path")
        })?;
    }
    let options = PutOptions {
        policy: arguments.policy.map(|policy| PolicyChoice::Fixed { k: policy.k(), n: policy.n() }),
        lease: Some(arguments.lease),
        require_full: arguments.require_full,
        ..PutOptions::default()
    };
    let client = context.connect().await?;
    let report = client.put_anonymous(&arguments.paths, &options).await?;
    client.shut_down().await;
    Ok(show_put(terminal, &report))
}

/// Shows what a put came to; the link is the last line of standard output.
fn show_put(terminal: Terminal, report: &PutReport) -> Exit {
    let exit = list_failed(terminal, &report.failed);
    if report.degraded {
        terminal.warning(&format!(
            "{} shards could not be placed; run `dolmen info` on the link later",
            report.short_shards
        ));
    }
    terminal.remark(&format!(
        "{} files, {} in {} segments, {} on the nodes, {}, kept until {}",
        report.files,
        size(report.bytes),
        report.segments,
        size(report.stored_bytes),
        rate(report.mib_s),
        local_time(report.lease_until.as_unix_ms()),
    ));
    terminal.result(&report.link);
    terminal.json(report);
    exit
}

async fn get(context: &Context, arguments: &Get) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    let source = Source::read(&arguments.source)?;
    let options = GetOptions {
        path: source.path.into_bytes(),
        check_existing: arguments.checksum,
        overwrite: arguments.overwrite,
        include: Vec::new(),
    };
    let destination = if arguments.destination.as_os_str() == "-" {
        Destination::Writer(Box::new(std::io::stdout()))
    } else {
        Destination::Path(arguments.destination.clone())
    };
    let client = context.connect().await?;
    let report = client.get(&source.link, destination, &options).await?;
    client.shut_down().await;
    Ok(show_get(terminal, &report))
}

fn show_get(terminal: Terminal, report: &GetReport) -> Exit {
    let exit = list_failed(terminal, &report.failed);
    terminal.remark(&format!(
        "{} files, {}, {}{}",
        report.files,
        size(report.bytes),
        rate(report.mib_s),
        if report.skipped > 0 { format!(", {} were there already", report.skipped) } else { String::new() },
    ));
    terminal.json(report);
    exit
}

async fn list(context: &Context, arguments: &Ls) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    let source = Source::read(&arguments.source)?;
    let client = context.connect().await?;
    let mut listing = client.list(&source.link, source.path.as_bytes(), arguments.recursive).await?;
    let (mut entries, mut bytes) = (0_u64, 0_u64);
    while let Some(entry) = listing.next().await? {
        entries += 1;
        bytes += entry.size;
        terminal.json(&entry);
        terminal.result(&listed(&entry, arguments.long));
    }
    terminal.json(&json!({ "summary": { "entries": entries, "bytes": bytes } }));
    client.shut_down().await;
    Ok(Exit::Ok)
}

fn listed(entry: &ListedEntry, long: bool) -> String {
    let mark = if entry.kind == EntryKind::Folder { "/" } else { "" };
    let path = printable(&entry.path);
    if !long {
        return format!("{path}{mark}");
    }
    let kind = match entry.kind {
        EntryKind::File => '-',
        EntryKind::Folder => 'd',
        EntryKind::Symlink => 'l',
    };
    let target = entry.target.as_deref().map(|target| format!(" -> {}", printable(target))).unwrap_or_default();
    format!("{kind}{:04o} {:>12} {} {path}{mark}{target}", entry.mode & 0o7777, entry.size, entry.mtime)
}

/// A stored name must not be able to drive the terminal that shows it.
fn printable(name: &str) -> String {
    name.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

async fn cat(context: &Context, arguments: &Cat) -> Result<Exit, Failure> {
    let source = Source::read(&arguments.source)?;
    let start = arguments.offset.bytes();
    let range = match arguments.length {
        Some(length) => Some(start..start.saturating_add(length.bytes())),
        None if start > 0 => Some(start..u64::MAX),
        None => None,
    };
    let client = context.connect().await?;
    let bytes = client.cat(&source.link, source.path.as_bytes(), range, Box::new(std::io::stdout())).await?;
    client.shut_down().await;
    context.terminal().json(&json!({ "bytes": bytes }));
    Ok(Exit::Ok)
}

async fn info(context: &Context, arguments: &OneLink) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    let source = Source::read(&arguments.source)?;
    let client = context.connect().await?;
    let report = client.info(&source.link).await?;
    client.shut_down().await;
    show_info(terminal, &report);
    Ok(Exit::Ok)
}

fn show_info(terminal: Terminal, report: &InfoReport) {
    let policies = report.by_policy.iter().map(|(policy, count)| format!("{count} of {policy}")).collect::<Vec<_>>();
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    terminal.table(
        &[],
        vec![
            row("segments", format!("{} ({})", report.segments, policies.join(", "))),
            row("shards alive", format!("{} of {}", report.alive_shards, report.shards)),
            row("worst segment", format!("{} of {} alive, {} needed", report.min_alive, report.n, report.k)),
            row("largest domain", format!("{} shards of one segment", report.largest_domain)),
            row("lease until", local_time(report.lease_until.as_unix_ms())),
        ],
    );
    terminal.json(report);
    let left = report.lease_until.since(now());
    if left < LEASE_WARNING {
        terminal.warning(&format!(
            "the lease ends in {} days: run `dolmen renew` where it was put from",
            left.as_secs() / 86_400
        ));
    }
}

async fn renew(context: &Context, arguments: &Renew) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    let source = Source::read(&arguments.source)?;
    let client = context.connect().await?;
    let report = client.renew(&source.link, Some(now().after(arguments.lease))).await?;
    client.shut_down().await;
    terminal.result(&format!(
        "{} of {} shards are kept until {}",
        report.renewed_shards,
        report.shards,
        local_time(report.lease_until.as_unix_ms())
    ));
    terminal.json(&report);
    Ok(Exit::Ok)
}

async fn remove(context: &Context, arguments: &OneLink) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    let source = Source::read(&arguments.source)?;
    let client = context.connect().await?;
    let report = client.remove(&source.link).await?;
    client.shut_down().await;
    terminal.result(&format!("{} of {} shards were let go", report.removed_shards, report.shards));
    terminal.json(&report);
    Ok(Exit::Ok)
}

async fn nodes(context: &Context, arguments: &Nodes) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    let client = context.connect().await?;
    let nodes = client.nodes(arguments.sample).await?;
    client.shut_down().await;
    let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { printable(text) };
    let rows = nodes
        .iter()
        .map(|node| {
            vec![
                node.id.chars().take(16).collect(),
                dash(&node.region),
                dash(&node.operator.chars().take(16).collect::<String>()),
                size(1_u64.checked_shl(node.free_class).unwrap_or(0)),
                printable(&node.version),
                node.round_trip_ms.map_or_else(|| "no answer".to_owned(), |ms| format!("{ms:.1} ms")),
            ]
        })
        .collect();
    terminal.table(&["id", "region", "operator", "free (at least)", "version", "round trip"], rows);
    for node in &nodes {
        terminal.json(node);
    }
    terminal.json(&json!({ "summary": { "nodes": nodes.len() } }));
    Ok(Exit::Ok)
}

/// This machine's time.
#[must_use]
pub fn now() -> Timestamp {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}
