//! Commands about stewards: appoint, list, revoke.

use std::time::Duration;

use dolmen_client::vault::StewardInfo;
use serde_json::{Value, json};

use crate::arguments::{Steward, StewardLink, StewardList, StewardRevoke};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::opened::open_dataset;
use crate::source::Source;
use crate::terminal::{local_time, size};

fn described(steward: &StewardInfo) -> Value {
    json!({
        "number": steward.number,
        "created_unix_ms": steward.created.as_unix_ms(),
        "ended_unix_ms": steward.ended.map(|ended| ended.as_unix_ms()),
        "quota_bytes_per_node": steward.quota_bytes,
        "granted_nodes": steward.granted_nodes,
        "granted_until_unix_ms": steward.granted_until.as_unix_ms(),
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
