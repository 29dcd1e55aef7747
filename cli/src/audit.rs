//! `dolmen audit` and `dolmen audit verify`.

use std::path::{Path, PathBuf};

use dolmen_client::{AuditOptions, AuditReport, TranscriptView, check_transcript};
use dolmen_proto::limits::TRANSCRIPT_MAX_BYTES;
use serde_json::json;

use crate::arguments::{Audit, AuditCommand};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::opened::Opened;
use crate::source::{Named, Source};
use crate::terminal::{Terminal, local_time, size};

/// Runs one of these commands.
///
/// # Errors
/// As reading; exit 7 when some nodes do not prove what they should hold.
pub async fn run(context: &Context, arguments: &Audit) -> Result<Exit, Failure> {
    match &arguments.command {
        Some(AuditCommand::Verify { files }) => verify(context.terminal(), files),
        None => audit(context, arguments).await,
    }
}

async fn audit(context: &Context, arguments: &Audit) -> Result<Exit, Failure> {
    let typed = arguments.source.as_deref().unwrap_or_default();
    let options = AuditOptions { samples: Some(arguments.samples), transcripts: arguments.transcripts.clone() };
    let (client, report) = match Source::read(typed)?.named {
        Named::Link(link) => {
            let client = context.connect().await?;
            let report = client.audit(&link, &options).await?;
            (client, report)
        }
        Named::Dataset { .. } => {
            let Opened { client, snapshot, .. } = Opened::open(context, typed).await?;
            let report = client.audit_of(&snapshot, &options).await?;
            (client, report)
        }
    };
    client.shut_down().await;
    show(context.terminal(), &report);
    Ok(if report.passed == report.nodes { Exit::Ok } else { Exit::SomeFailed })
}

fn show(terminal: Terminal, report: &AuditReport) {
    let rows = report.each.iter().map(|node| {
        vec![
            node.node.get(..8).unwrap_or(&node.node).to_owned(),
            node.outcome.clone(),
            node.shards.to_string(),
            size(node.bytes),
            format!("{}/{}", node.proven_blocks, node.samples),
            node.probe_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0} ms")),
            node.reason.clone(),
        ]
    });
    terminal.table(&["node", "outcome", "shards", "bytes", "proven", "read", ""], rows.collect());
    terminal.result(&format!(
        "{} of {} nodes proved what they were asked for: {} blocks of {}. A node that lacks 1 % of its bytes would have \
         been found out with a probability of {:.1} %",
        report.passed,
        report.nodes,
        report.proven_blocks,
        size(report.bytes),
        report.detects_one_percent * 100.0
    ));
    terminal.json(report);
}

fn verify(terminal: Terminal, files: &[PathBuf]) -> Result<Exit, Failure> {
    let mut unsound = 0;
    for path in files {
        let bytes = read(path)?;
        match check_transcript(&bytes) {
            Ok(view) => show_view(terminal, path, &view),
            Err(error) => {
                unsound += 1;
                terminal.warning(&format!("{}: proves nothing: {error}", path.display()));
                terminal.json(&json!({ "file": path.to_string_lossy(), "sound": false, "reason": error.to_string() }));
            }
        }
    }
    terminal.json(&json!({ "summary": { "transcripts": files.len(), "unsound": unsound } }));
    Ok(if unsound == 0 { Exit::Ok } else { Exit::Gone })
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error: &std::io::Error| Failure::local(format!("could not read {}", path.display()), error);
    let length = std::fs::metadata(path).map_err(|error| failed(&error))?.len();
    if length > TRANSCRIPT_MAX_BYTES as u64 {
        return Err(Failure::usage(
            format!("{} is far too large to be a transcript", path.display()),
            "give another file",
        ));
    }
    std::fs::read(path).map_err(|error| failed(&error))
}

fn show_view(terminal: Terminal, path: &Path, view: &TranscriptView) {
    let mut value = serde_json::to_value(view).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.insert("file".to_owned(), json!(path.to_string_lossy()));
        object.insert("sound".to_owned(), json!(true));
    }
    terminal.json(&value);
    let verdict = match (view.outcome, view.hard_evidence) {
        ("passed", _) if view.draw == "each" => format!(
            "the node could show one block of each of {} shards, {} in all",
            view.shards_drawn,
            size(view.set_bytes)
        ),
        ("passed", _) => format!(
            "the node could show {} blocks of {} shards, drawn out of {} in {} shards; lacking 1 % of them it would have been \
             found out with {:.1} %",
            view.proven_blocks,
            view.shards_drawn,
            size(view.set_bytes),
            view.set_shards,
            view.detects_one_percent * 100.0
        ),
        (outcome, true) => format!(
            "{outcome}: the node's own signature convicts it, over {} of {} shards; nobody has to be trusted for that",
            view.shards_failed, view.shards_drawn
        ),
        ("not_held", false) => format!(
            "not_held: the node says itself that it lacks {} of {} shards; its receipt is not beside it, so no promise is shown to be broken",
            view.shards_failed, view.shards_drawn
        ),
        (outcome, false) => format!("{outcome}: that is the auditor's word, and proves nothing to others"),
    };
    terminal.result(&format!(
        "{}: node {} asked by {} at {}: {verdict}",
        path.display(),
        view.node.get(..8).unwrap_or(&view.node),
        view.auditor.get(..8).unwrap_or(&view.auditor),
        local_time(view.asked_at.as_unix_ms())
    ));
    terminal.result(&match view.beacon_round {
        Some(round) => format!("  the draw was fair if the beacon said this in round {round}"),
        None => "  that the draw was fair is the auditor's word: it chose the nonce before the node granted the slot"
            .to_owned(),
    });
}
