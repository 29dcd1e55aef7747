//! Commands of dataset owners and readers: `put`, `get`, `ls`, `cat`, `info`, `renew`, `rm`, `nodes`.

use std::path::Path;

use dolmen_client::vault::DatasetName;
use dolmen_client::{
    Compression, Destination, EntryKind, FailedFile, GetOptions, GetReport, InfoReport, ListedEntry, PolicyChoice,
    PutOptions, PutReport,
};
use dolmen_proto::ids::Timestamp;
use dolmen_proto::limits::LEASE_WARNING;
use serde_json::json;

use crate::arguments::{Cat, Command, Compress, Get, Ls, Nodes, OneSource, Put, Renew, Rm};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::opened::{Opened, open_dataset};
use crate::source::{Named, Source};
use crate::terminal::{Terminal, local_time, rate, size};
use crate::{audit, datasets, inspect, steward, vault};

/// Runs one of these commands.
///
/// # Errors
/// [`Failure`] with the exit code of the contract.
pub async fn run(context: &Context, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Put(arguments) => put(context, &arguments).await,
        Command::Init(arguments) => vault::init(context, &arguments).await,
        Command::Passphrase(arguments) => vault::change_passphrase(context, &arguments).await,
        Command::Du(arguments) => inspect::usage(context, &arguments).await,
        Command::Find(arguments) => inspect::find(context, &arguments).await,
        Command::Diff(arguments) => inspect::diff(context, &arguments).await,
        Command::Verify(arguments) => inspect::verify(context, &arguments).await,
        Command::Root(arguments) => inspect::root(context, &arguments).await,
        Command::Check(arguments) => inspect::check(context, &arguments).await,
        Command::Log(arguments) => datasets::log(context, &arguments).await,
        Command::Tag(arguments) => datasets::tag(context, &arguments).await,
        Command::Forget(arguments) => datasets::forget(context, &arguments).await,
        Command::Share(arguments) => datasets::share(context, &arguments).await,
        Command::Shares(arguments) => datasets::shares(context, &arguments).await,
        Command::Unshare(arguments) => datasets::unshare(context, &arguments).await,
        Command::Gc(arguments) => datasets::gc(context, &arguments).await,
        Command::Rekey(arguments) => datasets::rekey(context, &arguments).await,
        Command::Audit(arguments) => audit::run(context, &arguments).await,
        Command::Repair(arguments) => steward::repair(context, &arguments).await,
        Command::StewardLink(arguments) => steward::link(context, &arguments).await,
        Command::Steward(command) => steward::run(context, command).await,
        Command::Get(arguments) => get(context, &arguments).await,
        Command::Ls(arguments) => list(context, &arguments).await,
        Command::Cat(arguments) => cat(context, &arguments).await,
        Command::Info(arguments) => info(context, &arguments).await,
        Command::Renew(arguments) => renew(context, &arguments).await,
        Command::Rm(arguments) => remove(context, &arguments).await,
        Command::Nodes(arguments) => nodes(context, &arguments).await,
        Command::Demo(_)
        | Command::Devnet(_)
        | Command::Bench(_)
        | Command::BenchReceiver(_)
        | Command::BenchShaper
        | Command::Node(_)
        | Command::Durability(_)
        | Command::Completions { .. }
        | Command::Man { .. } => Err(Failure::bug("a command went the wrong way", "it is not one of data")),
    }
}

pub(crate) fn list_failed(terminal: Terminal, failed: &[FailedFile]) -> Exit {
    for file in failed {
        terminal.warning(&format!("{}: {}", file.path, file.reason));
    }
    if failed.is_empty() { Exit::Ok } else { Exit::SomeFailed }
}

/// Where a put goes: a dataset and a path in it, or nowhere but to a link.
fn destination(arguments: &Put) -> Result<Option<(DatasetName, Vec<u8>)>, Failure> {
    let typed = match (&arguments.to, arguments.paths.as_slice()) {
        (Some(to), _) => to.clone(),
        (None, [_, second]) if !arguments.anonymous => {
            if std::fs::symlink_metadata(second).is_ok() {
                let what = format!("{} is a path here, and might be meant as a dataset", second.display());
                return Err(Failure::usage(what, "say --to DATASET, or --anonymous to store both without a vault"));
            }
            let text = second.to_str().map(str::to_owned);
            text.ok_or_else(|| Failure::usage("the name of a dataset is text", "give another name"))?
        }
        (None, _) => return Ok(None),
    };
    match Source::read(&typed)? {
        Source { named: Named::Dataset { name, snapshot: None }, path } => Ok(Some((name.parse()?, path.into_bytes()))),
        _ => Err(Failure::usage("that is no place in a dataset", "give DATASET[:PATH]")),
    }
}

/// Refuses what is not there.
pub(crate) fn there(path: &Path) -> Result<(), Failure> {
    std::fs::symlink_metadata(path).map(drop).map_err(|error| {
        let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Local };
        Failure::new(exit, format!("could not read {}", path.display()), error.to_string(), "check the path")
    })
}

async fn put(context: &Context, arguments: &Put) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    let destination = destination(arguments)?;
    let short_form = destination.is_some() && arguments.to.is_none();
    let paths = if short_form { &arguments.paths[..1] } else { &arguments.paths[..] };
    let stream = paths.iter().any(|path| path.as_os_str() == "-");
    if stream {
        if paths.len() > 1 || arguments.dry_run || arguments.delete {
            let advice = "give `-` alone, without --dry-run and --delete";
            return Err(Failure::usage("standard input is put as one file", advice));
        }
        if destination.as_ref().is_none_or(|(_, to)| to.is_empty()) {
            let advice = "say --to DATASET:PATH, which the file gets";
            return Err(Failure::usage("standard input has no name", advice));
        }
    } else {
        paths.iter().try_for_each(|path| there(path))?;
    }
    let policy = arguments.policy.map(|policy| PolicyChoice::Fixed { k: policy.k(), n: policy.n() });
    let options = PutOptions {
        policy,
        lease: arguments.lease,
        require_full: arguments.require_full,
        message: arguments.message.clone(),
        exclude: arguments.exclude.clone(),
        delete: arguments.delete,
        checksum: arguments.checksum,
        compress: match arguments.compress {
            Compress::Auto => Compression::Auto,
            Compress::Off => Compression::Off,
            Compress::Zstd => Compression::Zstd,
        },
        ..PutOptions::default()
    };
    let Some((name, to)) = destination else {
        if arguments.delete || arguments.dry_run || arguments.checksum {
            let advice = "name one with --to, or leave out --delete, --dry-run and --checksum";
            return Err(Failure::usage("there is no dataset to compare with", advice));
        }
        let client = context.connect().await?;
        let report = client.put_anonymous(paths, &options).await?;
        client.shut_down().await;
        return Ok(show_put(terminal, &report));
    };
    let (client, vault) = context.open_vault().await?;
    let dataset = match vault.find(&name).await? {
        Some(dataset) => dataset,
        None if arguments.dry_run => {
            return Err(Failure::new(
                Exit::NotFound,
                format!("there is no dataset {name}"),
                "all would be new",
                "leave out --dry-run to make it",
            ));
        }
        None => vault.create_dataset(&name, policy).await?,
    };
    if arguments.dry_run {
        let estimate = dataset.estimate(paths, &to, &options).await?;
        client.shut_down().await;
        let exit = list_failed(terminal, &estimate.failed);
        terminal.result(&format!(
            "{} files new, {} changed, {} unchanged, {} removed; {} to store",
            estimate.new,
            estimate.changed,
            estimate.unchanged,
            estimate.removed,
            size(estimate.new_bytes)
        ));
        terminal.json(&estimate);
        return Ok(exit);
    }
    let report = if stream {
        dataset.put_stream(tokio::io::stdin(), &to, &options).await?
    } else {
        dataset.put(paths, &to, &options).await?
    };
    client.shut_down().await;
    for conflict in &report.conflicts {
        terminal.warning(&format!(
            "another writer changed {} at the same time: this version is kept as {}",
            printable(&conflict.path),
            printable(&conflict.kept_as)
        ));
    }
    Ok(show_put(terminal, &report))
}

/// Shows what a put came to; the link, or else the snapshot's id, is the last line of standard output.
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
    terminal.result(if report.link.is_empty() { &report.snapshot } else { &report.link });
    terminal.json(report);
    exit
}

async fn get(context: &Context, arguments: &Get) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    let opened = Opened::open(context, &arguments.source).await?;
    let options = GetOptions {
        path: opened.path,
        check_existing: arguments.checksum,
        overwrite: arguments.overwrite,
        include: arguments.include.clone(),
    };
    let destination = if arguments.destination.as_os_str() == "-" {
        Destination::Writer(Box::new(std::io::stdout()))
    } else {
        Destination::Path(arguments.destination.clone())
    };
    let report = opened.snapshot.get(destination, &options).await?;
    opened.client.shut_down().await;
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
    let Some(source) = &arguments.source else {
        let (client, vault) = context.open_vault().await?;
        let exit = datasets::list_all(context, &vault).await;
        client.shut_down().await;
        return exit;
    };
    let opened = Opened::open(context, source).await?;
    let mut listing = opened.snapshot.list(&opened.path, arguments.recursive).await?;
    let (mut entries, mut bytes) = (0_u64, 0_u64);
    while let Some(entry) = listing.next().await? {
        entries += 1;
        // What lies in a folder that is listed may be listed too.
        bytes += if entry.kind == EntryKind::File || !arguments.recursive { entry.size } else { 0 };
        terminal.json(&entry);
        terminal.result(&listed(&entry, arguments.long));
    }
    terminal.json(&json!({ "summary": { "entries": entries, "bytes": bytes } }));
    opened.client.shut_down().await;
    Ok(Exit::Ok)
}

pub(crate) fn listed(entry: &ListedEntry, long: bool) -> String {
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
    // Of a time before 1970 or beyond all clocks, what programs are told.
    let time = entry.mtime.parse::<jiff::Timestamp>().ok().and_then(|time| u64::try_from(time.as_millisecond()).ok());
    let time = time.map_or_else(|| entry.mtime.clone(), local_time);
    format!("{kind}{:04o} {:>12} {time:>16} {path}{mark}{target}", entry.mode & 0o7777, entry.size)
}

/// A stored name must not be able to drive the terminal that shows it.
pub(crate) fn printable(name: &str) -> String {
    name.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

async fn cat(context: &Context, arguments: &Cat) -> Result<Exit, Failure> {
    let opened = Opened::open(context, &arguments.source).await?;
    let start = arguments.offset.bytes();
    let range = match arguments.length {
        Some(length) => Some(start..start.saturating_add(length.bytes())),
        None if start > 0 => Some(start..u64::MAX),
        None => None,
    };
    let bytes = opened.snapshot.cat(&opened.path, range, Box::new(std::io::stdout())).await?;
    opened.client.shut_down().await;
    context.terminal().json(&json!({ "bytes": bytes }));
    Ok(Exit::Ok)
}

async fn info(context: &Context, arguments: &OneSource) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    let opened = Opened::open(context, &arguments.source).await?;
    let report = opened.client.info_of(&opened.snapshot).await?;
    opened.client.shut_down().await;
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
    let until = arguments.lease.map(|lease| now().after(lease));
    let report = match Source::read(&arguments.source)?.named {
        Named::Link(link) => {
            let client = context.connect().await?;
            let report = client.renew(&link, until).await?;
            client.shut_down().await;
            report
        }
        Named::Dataset { .. } => {
            let (client, _, dataset) = open_dataset(context, &Source::dataset(&arguments.source)?).await?;
            let report = dataset.renew(until).await?;
            client.shut_down().await;
            report
        }
    };
    terminal.result(&format!(
        "{} of {} shards are kept until {}",
        report.renewed_shards,
        report.shards,
        local_time(report.lease_until.as_unix_ms())
    ));
    terminal.json(&report);
    Ok(Exit::Ok)
}

async fn remove(context: &Context, arguments: &Rm) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    let source = Source::read(&arguments.source)?;
    let link = match source.named {
        Named::Link(link) if source.path.is_empty() => link,
        Named::Dataset { name, snapshot: None } => {
            return datasets::remove(context, &name, &source.path, arguments).await;
        }
        Named::Link(_) | Named::Dataset { .. } => {
            return Err(Failure::usage("snapshots never change", "give DATASET:PATH, or a link without a path"));
        }
    };
    let client = context.connect().await?;
    let report = client.remove(&link).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_an_entry_is_one_line_and_drives_no_terminal() {
        let entry = ListedEntry {
            path: "new\nline \u{1b}[31m and \u{9b}more".to_owned(),
            kind: EntryKind::Symlink,
            size: 7,
            mode: 0o777,
            mtime: "2026-11-22T11:40:28.214042585Z".to_owned(),
            target: Some("a\tb".to_owned()),
        };
        for long in [false, true] {
            let shown = listed(&entry, long);
            assert!(shown.lines().count() == 1 && !shown.contains(char::is_control), "{shown:?}");
        }
        assert!(listed(&entry, true).contains("2026-11-2"), "a time for people");
        let before_all = ListedEntry { mtime: "-000001-01-01T00:00:00Z".to_owned(), ..entry };
        assert!(listed(&before_all, true).contains("-000001-01-01"));
    }
}
