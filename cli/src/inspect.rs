//! Commands that look into snapshots without restoring them: `du`, `find`, `diff`, `verify`, `root`, `check`.

use dolmen_client::{
    ChangeKind, DiffEntry, EntryKind, FindOptions, ListedEntry, UsageEntry, VerifyOptions, check_folder,
};
use serde_json::json;

use crate::arguments::{Check, Diff, Du, Find, Kind, OneSource, Verify};
use crate::context::Context;
use crate::data::{list_failed, listed, printable, there};
use crate::failure::{Exit, Failure};
use crate::opened::Opened;
use crate::terminal::size;

/// `dolmen du`
///
/// # Errors
/// As reading.
pub async fn usage(context: &Context, arguments: &Du) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    let opened = Opened::open(context, &arguments.source).await?;
    let show = |entry: &UsageEntry| {
        terminal.json(entry);
        let path = if entry.path.is_empty() { "." } else { &entry.path };
        terminal.result(&format!("{:>10} {:>9} {}", size(entry.bytes), entry.files, printable(path)));
    };
    let whole = opened.snapshot.usage(&opened.path, arguments.depth, |entry| show(&entry)).await?;
    if !terminal.is_json() {
        show(&whole);
    }
    terminal.json(&json!({ "summary": whole }));
    opened.client.shut_down().await;
    Ok(Exit::Ok)
}

/// `dolmen find`
///
/// # Errors
/// As reading.
pub async fn find(context: &Context, arguments: &Find) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    let opened = Opened::open(context, &arguments.source).await?;
    let options = FindOptions {
        names: arguments.name.iter().cloned().collect(),
        kind: arguments.kind.map(|kind| match kind {
            Kind::File => EntryKind::File,
            Kind::Folder => EntryKind::Folder,
            Kind::Symlink => EntryKind::Symlink,
        }),
        least_bytes: arguments.larger.map(|size| size.bytes()),
        most_bytes: arguments.smaller.map(|size| size.bytes()),
    };
    let show = |entry: ListedEntry| {
        terminal.json(&entry);
        terminal.result(&listed(&entry, false));
    };
    let found = opened.snapshot.find(&opened.path, &options, show).await?;
    terminal.json(&json!({ "summary": { "entries": found } }));
    opened.client.shut_down().await;
    Ok(Exit::Ok)
}

/// `dolmen diff`
///
/// # Errors
/// As reading.
pub async fn diff(context: &Context, arguments: &Diff) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    let old = Opened::open(context, &arguments.old).await?;
    let new = Opened::open(context, &arguments.new).await?;
    if !old.path.is_empty() || !new.path.is_empty() {
        let advice = "name two snapshots, such as photos@before photos";
        return Err(Failure::usage("only whole snapshots are compared", advice));
    }
    let show = |entry: DiffEntry| {
        terminal.json(&entry);
        let mark = match entry.change {
            ChangeKind::Added => '+',
            ChangeKind::Removed => '-',
            ChangeKind::Changed => 'M',
            ChangeKind::Metadata => 'U',
        };
        let slash = if entry.kind == EntryKind::Folder { "/" } else { "" };
        terminal.result(&format!("{mark} {}{slash}", printable(&entry.path)));
    };
    let report = old.snapshot.diff(&new.snapshot, show).await?;
    terminal.remark(&format!(
        "{} files added ({}), {} removed ({}), {} changed ({})",
        report.added_files,
        size(report.added_bytes),
        report.removed_files,
        size(report.removed_bytes),
        report.changed_files,
        size(report.changed_bytes),
    ));
    terminal.json(&json!({ "summary": report }));
    old.client.shut_down().await;
    new.client.shut_down().await;
    Ok(Exit::Ok)
}

/// `dolmen verify`
///
/// # Errors
/// As reading; files that fail are listed.
pub async fn verify(context: &Context, arguments: &Verify) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    let opened = Opened::open(context, &arguments.source).await?;
    let mut seed = [0; 8];
    getrandom::fill(&mut seed)
        .map_err(|error| Failure::new(Exit::Local, "could not draw a sample", error.to_string(), "try again"))?;
    let options = VerifyOptions {
        path: opened.path,
        sample_percent: arguments.sample.map_or(100.0, f64::from),
        seed: u64::from_le_bytes(seed),
    };
    let report = opened.snapshot.verify(&options).await?;
    opened.client.shut_down().await;
    let exit = list_failed(terminal, &report.failed);
    terminal.result(&format!(
        "{} of {} files read back and checked, {}",
        report.verified,
        report.files,
        size(report.verified_bytes)
    ));
    terminal.json(&report);
    Ok(exit)
}

/// `dolmen root`
///
/// # Errors
/// As reading.
pub async fn root(context: &Context, arguments: &OneSource) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    let opened = Opened::open(context, &arguments.source).await?;
    if !opened.path.is_empty() {
        return Err(Failure::usage("a root names a whole snapshot", "leave the path out"));
    }
    let report = opened.snapshot.root().await?;
    opened.client.shut_down().await;
    terminal.result(&report.root);
    terminal.json(&report);
    Ok(Exit::Ok)
}

/// `dolmen check`
///
/// # Errors
/// [`Failure`] when the folder cannot be read or the root is none; exit 5 when the folder is another.
pub async fn check(context: &Context, arguments: &Check) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    there(&arguments.folder)?;
    let (folder, root) = (arguments.folder.clone(), arguments.root.clone());
    let checked = tokio::task::spawn_blocking(move || check_folder(&folder, &root)).await;
    let report = checked.map_err(|error| Failure::bug("checking a folder failed", error.to_string()))??;
    terminal.json(&report);
    if report.matches {
        terminal.result(&format!("{} files, {}: the same", report.files, size(report.bytes)));
        return Ok(Exit::Ok);
    }
    terminal.result(&format!("{} files, {}: NOT the same", report.files, size(report.bytes)));
    Ok(Exit::Gone)
}
