//! `dolmen node audits`: what auditors asked of this node, from the files that it keeps.

use dolmen_storage_node::audits::{LoggedAudit, read_log};
use dolmen_storage_node::status;
use serde_json::json;

use super::status_failure;
use crate::arguments::NodeAudits;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::terminal::{local_time, size};

/// Lists the newest audits, oldest first.
///
/// # Errors
/// `NotFound` where the node never ran, `Local`.
pub(super) fn run(context: &Context, arguments: &NodeAudits) -> Result<Exit, Failure> {
    let config = context.node_config()?;
    let state = status::last_state(&config.data).map_err(|error| status_failure(&error))?;
    let (folder, _) = state.ok_or_else(super::never_ran)?;
    let most = usize::try_from(arguments.last).unwrap_or(usize::MAX);
    let audits =
        read_log(&folder, most).map_err(|error| Failure::local("could not read what is kept of audits", &error))?;
    let terminal = context.terminal();
    let passed = audits.iter().filter(|audit| audit.outcome == "passed").count();
    for audit in &audits {
        terminal.json(audit);
    }
    terminal.json(&json!({ "summary": {
        "audits": audits.len(),
        "passed": passed,
        "samples": audits.iter().map(|audit| u64::from(audit.samples)).sum::<u64>(),
    } }));
    if audits.is_empty() {
        terminal.result("nobody has audited this node so far");
        return Ok(Exit::Ok);
    }
    terminal.table(
        &["closed", "auditor", "outcome", "failed", "samples", "of shards", "bytes", "transcript"],
        audits.iter().map(row).collect(),
    );
    terminal.remark(&format!("{passed} of {} audits were passed", audits.len()));
    Ok(Exit::Ok)
}

fn row(audit: &LoggedAudit) -> Vec<String> {
    vec![
        local_time(audit.at_ms),
        audit.auditor.get(..8).unwrap_or(&audit.auditor).to_owned(),
        audit.outcome.clone(),
        format!("{}/{}", audit.failed, audit.shards),
        audit.samples.to_string(),
        audit.set_shards.to_string(),
        size(audit.set_bytes),
        audit.transcript.as_ref().map_or_else(String::new, |path| path.display().to_string()),
    ]
}
