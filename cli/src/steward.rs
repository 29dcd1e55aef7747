//! Commands about stewards: appoint, list, revoke.

use std::time::Duration;

use dolmen_client::vault::StewardInfo;
use dolmen_client::{RepairReport, StewardOptions};
use dolmen_proto::ids::Timestamp;
use serde_json::{Value, json};

use crate::arguments::{Repair, Steward, StewardLink, StewardList, StewardRevoke, StewardRun, StewardStatus};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::opened::open_dataset;
use crate::source::{Named, Source};
use crate::terminal::{Terminal, local_time, size, utc_time};

fn described(steward: &StewardInfo) -> Value {
    json!({
        "number": steward.number,
        "created": utc_time(steward.created.as_unix_ms()),
        "ended": steward.ended.map(|ended| utc_time(ended.as_unix_ms())),
        "quota_bytes_per_node": steward.quota_bytes,
        "granted_nodes": steward.granted_nodes,
        "granted_until": utc_time(steward.granted_until.as_unix_ms()),
        "link": *steward.link,
    })
}

/// `dolmen steward-link`
///
/// # Errors
/// [`Failure`] when there are too many stewards; as putting.
pub async fn link(context: &Context, arguments: &StewardLink) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    let name = Source::dataset(&arguments.source)?;
    let (client, _, dataset) = open_dataset(context, &name).await?;
    let lasting = Duration::from_secs(u64::from(arguments.days) * 86_400);
    let steward = dataset.steward_link(arguments.quota.bytes(), lasting, &[]).await?;
    client.shut_down().await;
    let number = steward.number;
    terminal.remark(&format!(
        "steward {number}: may audit, renew and repair, cannot read; end it with `dolmen steward revoke {name} {number}`"
    ));
    terminal.result(&steward.link);
    terminal.json(&described(&steward));
    Ok(Exit::Ok)
}

/// `dolmen steward ...`
///
/// # Errors
/// [`Failure`] of the subcommand.
pub async fn run(context: &Context, command: Steward) -> Result<Exit, Failure> {
    match command {
        Steward::List(arguments) => list(context, &arguments).await,
        Steward::Revoke(arguments) => revoke(context, &arguments).await,
        Steward::Run(arguments) => look_after(context, &arguments).await,
        Steward::Status(arguments) => status(context, &arguments),
    }
}

async fn list(context: &Context, arguments: &StewardList) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    let name = Source::dataset(&arguments.source)?;
    let (client, _, dataset) = open_dataset(context, &name).await?;
    let stewards = dataset.stewards().await?;
    client.shut_down().await;
    let mut rows = Vec::new();
    for steward in &stewards {
        terminal.json(&described(steward));
        rows.push(vec![
            steward.number.to_string(),
            local_time(steward.created.as_unix_ms()),
            steward.ended.map_or_else(|| "-".to_owned(), |ended| local_time(ended.as_unix_ms())),
            size(steward.quota_bytes),
            steward.granted_nodes.to_string(),
            local_time(steward.granted_until.as_unix_ms()),
            steward.link.to_string(),
        ]);
    }
    terminal.table(&["number", "made", "revoked", "quota a node", "nodes", "granted until", "link"], rows);
    terminal.json(&json!({ "summary": { "stewards": stewards.len() } }));
    Ok(Exit::Ok)
}

async fn revoke(context: &Context, arguments: &StewardRevoke) -> Result<Exit, Failure> {
    let name = Source::dataset(&arguments.source)?;
    let (client, _, dataset) = open_dataset(context, &name).await?;
    dataset.revoke_steward(arguments.number).await?;
    client.shut_down().await;
    let terminal = context.terminal();
    terminal.remark("what was granted ends by itself; `dolmen rekey` keeps what comes from now on from him");
    terminal.json(&json!({ "revoked": arguments.number }));
    Ok(Exit::Ok)
}

/// What an owner grants himself when he repairs without having appointed anybody.
const OWN_QUOTA_BYTES: u64 = 1_000_000_000_000;
const OWN_LASTING: Duration = Duration::from_secs(400 * 86_400);

/// `dolmen repair`
///
/// # Errors
/// As reading; exit 7 when some segments could not be repaired.
pub async fn repair(context: &Context, arguments: &Repair) -> Result<Exit, Failure> {
    let (client, link) = match Source::read(&arguments.source)?.named {
        Named::Link(link) => (context.connect().await?, link),
        Named::Dataset { name, .. } => {
            let (client, _, dataset) = open_dataset(context, &name).await?;
            let appointed = dataset.stewards().await?.into_iter().find(|steward| steward.ended.is_none());
            let steward = match appointed {
                Some(steward) => steward,
                // Repairs are published by a steward, so the owner is one to his own dataset.
                None => dataset.steward_link(OWN_QUOTA_BYTES, OWN_LASTING, &[]).await?,
            };
            (client, steward.link.to_string())
        }
    };
    let report = client.repair(&link, arguments.bandwidth.bytes()).await?;
    client.shut_down().await;
    Ok(show_repair(context.terminal(), &report))
}

fn show_repair(terminal: Terminal, report: &RepairReport) -> Exit {
    for failed in &report.failed {
        terminal.warning(failed);
    }
    terminal.result(&format!(
        "{} of {} segments needed something, {} were repaired: {} shards on new nodes, {} read, {} written; the worst segment can \
         lose {} more shards (before: {})",
        report.planned,
        report.segments,
        report.repaired,
        report.placed_shards,
        size(report.read_bytes),
        size(report.written_bytes),
        report.worst_margin,
        report.worst_margin_before
    ));
    terminal.json(report);
    if report.failed.is_empty() { Exit::Ok } else { Exit::SomeFailed }
}

async fn look_after(context: &Context, arguments: &StewardRun) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    let mut links = Vec::with_capacity(arguments.links.len());
    for typed in &arguments.links {
        match Source::read(typed)?.named {
            Named::Link(link) => links.push(link),
            Named::Dataset { .. } => {
                let advice = "make one with `dolmen steward-link DATASET`, and give it as @FILE";
                return Err(Failure::usage("a steward works with steward links", advice));
            }
        }
    }
    let options = StewardOptions {
        state: arguments.state.clone(),
        interval: arguments.interval,
        bandwidth_bytes_per_second: arguments.bandwidth.bytes(),
        samples: arguments.samples,
        grace: arguments.grace,
    };
    let client = context.connect().await?;
    let mut steward = dolmen_client::StewardRun::new(&client, &links, options)?;
    let (over, mut ended) = tokio::sync::watch::channel(false);
    let interrupted = crate::interrupted();
    let stop = async move {
        tokio::select! {
            () = interrupted => {}
            // Its sender lives as long as the rounds do.
            _ = ended.wait_for(|over| *over) => {}
        }
    };
    let most = arguments.rounds.unwrap_or(u64::MAX);
    let ran = steward
        .run_until(stop, |status| {
            for care in &status.datasets {
                terminal.story(&line(care));
            }
            terminal.json(status);
            if status.rounds >= most {
                over.send_replace(true);
            }
        })
        .await;
    client.shut_down().await;
    ran?;
    Ok(Exit::Ok)
}

/// A dataset in one line.
fn line(care: &dolmen_client::DatasetCare) -> String {
    if !care.trouble.is_empty() {
        return format!("{}: {}", care.steward, care.trouble);
    }
    format!(
        "{}: {} of {} shards alive, the worst segment can lose {} more, {} repairs wait, {} of {} challenges passed",
        care.steward,
        care.alive_shards,
        care.shards,
        care.worst_margin,
        care.waiting_repairs,
        care.passed,
        care.challenges
    )
}

fn time_of(unix_ms: u64) -> String {
    if unix_ms == 0 { "-".to_owned() } else { local_time(Timestamp::from_unix_ms(unix_ms).as_unix_ms()) }
}

fn status(context: &Context, arguments: &StewardStatus) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    let status = dolmen_client::StewardStatus::read(&arguments.state)?;
    let datasets = status.datasets.iter().map(|care| {
        vec![
            care.steward.clone(),
            care.segments.to_string(),
            format!("{}/{}", care.alive_shards, care.shards),
            format!("{} +{}", care.worst_segment, care.worst_margin),
            format!("{} ({} wait)", care.repaired_shards, care.waiting_repairs),
            format!("{}/{}", care.passed, care.challenges),
            care.hard_evidence.to_string(),
            time_of(care.earliest_lease_ms),
            care.trouble.clone(),
        ]
    });
    let head = ["dataset", "segments", "alive", "worst", "repaired", "passed", "evidence", "leased until", ""];
    terminal.table(&head, datasets.collect());
    let nodes = status.nodes.iter().map(|node| {
        vec![
            node.node.get(..8).unwrap_or(&node.node).to_owned(),
            node.standing.clone(),
            node.proven_samples.to_string(),
            time_of(node.proven_at_ms),
            time_of(node.absent_since_ms),
            time_of(node.leaving_until_ms),
        ]
    });
    terminal.table(&["node", "standing", "proven", "last proof", "absent since", "leaves"], nodes.collect());
    terminal.json(&status);
    Ok(Exit::Ok)
}
