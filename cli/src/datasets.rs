//! Commands that change or list datasets of the vault: `log`, `tag`, `forget`, `share`, `rekey` and others.

use dolmen_client::GcReport;
use dolmen_client::vault::{Earlier, ForgetPolicy, ShareInfo, Vault};
use serde_json::json;

use crate::arguments::{Forget, Gc, OneSource, Rekey, Rm, Share, Shares, Tag, Unshare};
use crate::context::Context;
use crate::data::printable;
use crate::failure::{Exit, Failure};
use crate::opened::{open_dataset, selector};
use crate::source::{Named, Source};
use crate::terminal::{local_time, size, utc_time};

/// Digits of an id that people are shown.
const SHORT_ID_DIGITS: usize = 12;

fn short(id: &str) -> String {
    id.chars().take(SHORT_ID_DIGITS).collect()
}

/// Lists the datasets of a vault, each with its newest snapshot.
///
/// # Errors
/// [`Failure`] when too few nodes answer.
pub async fn list_all(context: &Context, vault: &Vault) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    let datasets = vault.datasets().await?;
    let mut rows = Vec::new();
    for dataset in &datasets {
        let snapshot = dataset.snapshot.map(|id| id.to_string());
        rows.push(vec![
            dataset.name.to_string(),
            snapshot.as_deref().map_or_else(|| "-".to_owned(), short),
            local_time(dataset.created.as_unix_ms()),
        ]);
        terminal.json(&json!({
            "dataset": dataset.name.as_str(), "snapshot": snapshot, "created": utc_time(dataset.created.as_unix_ms()),
        }));
    }
    terminal.table(&["dataset", "newest snapshot", "made"], rows);
    terminal.json(&json!({ "summary": { "datasets": datasets.len() } }));
    Ok(Exit::Ok)
}

/// `dolmen log`
///
/// # Errors
/// As reading.
pub async fn log(context: &Context, arguments: &OneSource) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    let name = Source::dataset(&arguments.source)?;
    let (client, _, dataset) = open_dataset(context, &name).await?;
    let log = dataset.log().await?;
    client.shut_down().await;
    let mut rows = Vec::new();
    for entry in &log {
        rows.push(vec![
            short(&entry.snapshot),
            local_time(entry.created.as_unix_ms()),
            entry.files.to_string(),
            size(entry.bytes),
            entry.tags.join(" "),
            printable(&entry.message),
        ]);
        terminal.json(entry);
    }
    terminal.table(&["snapshot", "made", "files", "size", "tags", "message"], rows);
    terminal.json(&json!({ "summary": { "snapshots": log.len() } }));
    Ok(Exit::Ok)
}

/// A dataset and a snapshot of it as typed, without a path.
fn dataset_and_snapshot(typed: &str) -> Result<(String, Option<String>), Failure> {
    match Source::read(typed)? {
        Source { named: Named::Dataset { name, snapshot }, path } if path.is_empty() => Ok((name, snapshot)),
        _ => Err(Failure::usage("that is no dataset of the vault", "give DATASET or DATASET@SNAPSHOT")),
    }
}

/// `dolmen tag`
///
/// # Errors
/// [`Failure`] when there is no such snapshot or the name is impossible.
pub async fn tag(context: &Context, arguments: &Tag) -> Result<Exit, Failure> {
    let (name, snapshot) = dataset_and_snapshot(&arguments.source)?;
    let (client, _, dataset) = open_dataset(context, &name).await?;
    if arguments.delete {
        dataset.untag(&arguments.name).await?;
    } else {
        dataset.tag(&selector(snapshot), &arguments.name).await?;
    }
    client.shut_down().await;
    context.terminal().json(&json!({ "tag": arguments.name, "deleted": arguments.delete }));
    Ok(Exit::Ok)
}

/// `dolmen forget`
///
/// # Errors
/// [`Failure`] when the policy keeps nothing.
pub async fn forget(context: &Context, arguments: &Forget) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    let named = arguments.sources.iter().map(|typed| dataset_and_snapshot(typed)).collect::<Result<Vec<_>, _>>()?;
    let Some((name, _)) = named.first().cloned() else {
        return Err(Failure::usage("no dataset was named", "give DATASET or DATASET@SNAPSHOT"));
    };
    let single: Option<Vec<_>> =
        named.iter().map(|(_, snapshot)| snapshot.clone().map(|snapshot| selector(Some(snapshot)))).collect();
    if named.iter().any(|(other, _)| *other != name) || (single.is_none() && named.len() > 1) {
        let advice = "give one DATASET with rules, or DATASET@SNAPSHOT as often as needed";
        return Err(Failure::usage("these are not snapshots of one dataset", advice));
    }
    let policy = ForgetPolicy {
        last: arguments.keep_last,
        hourly: arguments.keep_hourly,
        daily: arguments.keep_daily,
        weekly: arguments.keep_weekly,
        monthly: arguments.keep_monthly,
        yearly: arguments.keep_yearly,
        tags: arguments.keep_tag.clone(),
    };
    let (client, _, dataset) = open_dataset(context, &name).await?;
    let dropped = match (single, arguments.dry_run) {
        (Some(_), _) if policy != ForgetPolicy::default() => {
            let advice = "leave out the --keep rules, or the @SNAPSHOT";
            return Err(Failure::usage("rules are for a whole dataset, not for single snapshots", advice));
        }
        (Some(snapshots), true) => dataset.would_forget_snapshots(&snapshots).await?,
        (Some(snapshots), false) => dataset.forget_snapshots(&snapshots).await?,
        (None, true) => dataset.would_forget(&policy).await?,
        (None, false) => dataset.forget(&policy).await?,
    };
    client.shut_down().await;
    for entry in &dropped {
        terminal.json(entry);
        terminal.result(&format!("{} {}", short(&entry.snapshot), local_time(entry.created.as_unix_ms())));
    }
    terminal.json(&json!({ "summary": { "dropped": dropped.len(), "dry_run": arguments.dry_run } }));
    Ok(Exit::Ok)
}

/// `dolmen gc`
///
/// # Errors
/// [`Failure`] when something that is needed cannot be read: then nothing is freed.
pub async fn gc(context: &Context, arguments: &Gc) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    let Some(source) = &arguments.source else { return gc_removed(context, arguments.dry_run).await };
    let name = Source::dataset(source)?;
    let (client, _, dataset) = open_dataset(context, &name).await?;
    let report = dataset.gc(arguments.dry_run).await?;
    client.shut_down().await;
    terminal.result(&freed(&report));
    terminal.json(&report);
    Ok(Exit::Ok)
}

/// Frees what removed datasets took, one after the other.
async fn gc_removed(context: &Context, dry_run: bool) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    let (client, vault) = context.open_vault().await?;
    let removed = vault.removed().await?;
    for dataset in &removed {
        let report = dataset.gc(dry_run).await?;
        terminal.result(&format!("{}: {}", dataset.name(), freed(&report)));
        let mut line = json!(report);
        line["dataset"] = json!(dataset.name().as_str());
        terminal.json(&line);
    }
    client.shut_down().await;
    terminal.json(&json!({ "summary": { "datasets": removed.len() } }));
    Ok(Exit::Ok)
}

fn freed(report: &GcReport) -> String {
    format!(
        "{} of {} segments leave ({} dead, {} packed anew); {} that left a week ago are deleted, {} wait",
        report.leaving_segments,
        report.segments,
        size(report.leaving_bytes),
        size(report.moved_bytes),
        report.freed_segments,
        report.waiting_segments,
    )
}

fn show_share(context: &Context, share: &ShareInfo) {
    context.terminal().json(&json!({
        "number": share.number,
        "path": String::from_utf8_lossy(&share.path),
        "snapshot": share.snapshot.map(|id| id.to_string()),
        "created": utc_time(share.created.as_unix_ms()),
        "ended": share.ended.map(|ended| utc_time(ended.as_unix_ms())),
        "link": *share.link,
    }));
}

/// `dolmen share`
///
/// # Errors
/// [`Failure`] when there is no such path or snapshot.
pub async fn share(context: &Context, arguments: &Share) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    let source = Source::read(&arguments.source)?;
    let Named::Dataset { name, snapshot } = source.named else {
        return Err(Failure::usage("a link is shared by handing it on", "give DATASET[@SNAPSHOT][:PATH]"));
    };
    if arguments.live && snapshot.is_some() {
        return Err(Failure::usage("a live share follows the newest snapshot", "leave out @SNAPSHOT or --live"));
    }
    let frozen = arguments.frozen || snapshot.is_some();
    let (client, _, dataset) = open_dataset(context, &name).await?;
    if source.path.is_empty() && !frozen {
        let link = dataset.read_link(&[]).await?;
        terminal.remark("this link reads the whole dataset and its history, now and later; `dolmen rekey` ends that");
        terminal.result(&link);
        terminal.json(&json!({ "link": *link }));
    } else {
        let selected = frozen.then(|| selector(snapshot));
        let share = dataset.share(source.path.as_bytes(), selected.as_ref(), &[]).await?;
        terminal.remark(&format!("share {}: end it with `dolmen unshare {name} {}`", share.number, share.number));
        terminal.result(&share.link);
        show_share(context, &share);
    }
    client.shut_down().await;
    Ok(Exit::Ok)
}

/// `dolmen shares`
///
/// # Errors
/// As reading.
pub async fn shares(context: &Context, arguments: &Shares) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    let name = Source::dataset(&arguments.source)?;
    let (client, _, dataset) = open_dataset(context, &name).await?;
    if arguments.refresh {
        dataset.refresh_shares().await?;
    }
    let shares = dataset.shares().await?;
    client.shut_down().await;
    let mut rows = Vec::new();
    for share in &shares {
        show_share(context, share);
        rows.push(vec![
            share.number.to_string(),
            share.snapshot.map_or_else(|| "live".to_owned(), |id| short(&id.to_string())),
            local_time(share.created.as_unix_ms()),
            share.ended.map_or_else(|| "-".to_owned(), |ended| local_time(ended.as_unix_ms())),
            format!("/{}", printable(&String::from_utf8_lossy(&share.path))),
            share.link.to_string(),
        ]);
    }
    terminal.table(&["number", "snapshot", "made", "ended", "path", "link"], rows);
    terminal.json(&json!({ "summary": { "shares": shares.len() } }));
    Ok(Exit::Ok)
}

/// `dolmen unshare`
///
/// # Errors
/// [`Failure`] when there is no such share.
pub async fn unshare(context: &Context, arguments: &Unshare) -> Result<Exit, Failure> {
    let name = Source::dataset(&arguments.source)?;
    let (client, _, dataset) = open_dataset(context, &name).await?;
    dataset.unshare(arguments.number).await?;
    client.shut_down().await;
    let terminal = context.terminal();
    terminal.remark("the link shows an empty folder now; what its holder has read or kept the keys of stays readable");
    terminal.json(&json!({ "unshared": arguments.number }));
    Ok(Exit::Ok)
}

/// `dolmen rekey`
///
/// # Errors
/// As putting.
pub async fn rekey(context: &Context, arguments: &Rekey) -> Result<Exit, Failure> {
    let name = Source::dataset(&arguments.source)?;
    let (client, _, dataset) = open_dataset(context, &name).await?;
    let resealed = if arguments.reseal {
        let earlier = match (arguments.keep_earlier, arguments.forget_earlier) {
            (true, _) => Some(Earlier::Keep),
            (_, true) => Some(Earlier::Forget),
            _ => None,
        };
        Some(dataset.reseal(earlier).await?)
    } else {
        dataset.rekey().await?;
        None
    };
    let link = dataset.read_link(&[]).await?;
    client.shut_down().await;
    let terminal = context.terminal();
    if let Some(report) = &resealed {
        terminal.remark(&format!(
            "{} files ({}) are stored again under new keys; {} earlier snapshots are forgotten, {} stay under the old ones",
            report.files,
            size(report.bytes),
            report.forgotten_snapshots,
            report.kept_snapshots,
        ));
        terminal.remark(&format!(
            "{} old segments left: run `dolmen gc {name}` in a week to have them deleted; until then old keys open them",
            report.leaving_segments
        ));
        if report.old_shares > 0 {
            terminal.remark(&format!(
                "{} frozen shares still show what is stored under old keys: end them with `dolmen unshare`",
                report.old_shares
            ));
        }
    }
    terminal.remark("links given out before show nothing that comes from now on; this is the new one");
    terminal.result(&link);
    terminal.json(&json!({ "link": *link, "reseal": resealed }));
    Ok(Exit::Ok)
}

/// `dolmen rm DATASET:PATH`, `dolmen rm DATASET --all`
///
/// # Errors
/// [`Failure`] when there is no such path.
pub async fn remove(context: &Context, name: &str, path: &str, arguments: &Rm) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    if path.is_empty() && !arguments.all {
        let advice = "name a path as DATASET:PATH, or say --all to remove the whole dataset";
        return Err(Failure::usage("no path was named", advice));
    }
    let (client, _, dataset) = open_dataset(context, name).await?;
    if path.is_empty() {
        dataset.remove().await?;
        terminal.result(&format!(
            "the dataset {name} is gone; `dolmen gc --removed` frees what it took, now and again in a week"
        ));
        terminal.json(&json!({ "removed": name }));
    } else {
        let snapshot = dataset.remove_path(path.as_bytes(), &arguments.message).await?.to_string();
        terminal.result(&snapshot);
        terminal.json(&json!({ "snapshot": snapshot }));
    }
    client.shut_down().await;
    Ok(Exit::Ok)
}
