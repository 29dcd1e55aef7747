//! `dolmen node leave`: tells a node that it goes, and shows how far it has come.
//!
//! Decides nothing: the mark lies in the node's state folder, the running node acts by it and writes what is left into its
//! status.

use std::path::Path;
use std::time::Duration;

use dolmen_proto::limits::LEASE_MAX;
use dolmen_storage_node::leaving::{self, Leaving};
use dolmen_storage_node::status::{self, LeavingStatus, NodeStatus};
use serde_json::{Value, json};

use super::{never_ran, status_failure};
use crate::arguments::NodeLeave;
use crate::context::Context;
use crate::data::now;
use crate::failure::{Exit, Failure};
use crate::terminal::{local_time, size};

const WITHIN_DEFAULT: Duration = Duration::from_secs(30 * 86_400);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A node that writes no status for so long does not run, whoever has its process id now.
const SILENCE_MAX_MS: u64 = 60_000;

/// Has a node go, or stay after all.
///
/// # Errors
/// `Usage` for a date that is over or too far, `NotFound` where the node never ran, `NotNow` when it was waited for and the
/// node does not run, or has not moved everything by its date; `Local`.
pub(super) fn run(context: &Context, arguments: &NodeLeave) -> Result<Exit, Failure> {
    let config = context.node_config()?;
    let state = status::last_state(&config.data).map_err(|error| status_failure(&error))?;
    let (folder, status) = state.ok_or_else(never_ran)?;
    let terminal = context.terminal();
    let failed = |error: &std::io::Error| Failure::local("could not tell the node", error);
    let before = leaving::read(&folder).map_err(|error| failed(&error))?;
    if arguments.cancel {
        leaving::write(&folder, None).map_err(|error| failed(&error))?;
        terminal.result(if before.is_some() { "the node stays" } else { "the node stays; it was not going" });
        terminal.json(&json!({ "leaving": Value::Null, "was_leaving": before.is_some() }));
        return Ok(Exit::Ok);
    }
    let leaving = wanted(arguments.within, before)?;
    if before != Some(leaving) {
        leaving::write(&folder, Some(leaving)).map_err(|error| failed(&error))?;
    }
    let running = runs(&status);
    if arguments.wait {
        return wait(context, &folder, leaving);
    }
    let known = status.leaving.filter(|known| is_about(known, leaving));
    terminal.result(&known.as_ref().map_or_else(
        || format!("the node goes by {}; nothing new is taken", local_time(leaving.until.as_unix_ms())),
        progress,
    ));
    if !running {
        terminal.warning("the node does not run: start it, it has to serve until its shards are elsewhere");
    }
    terminal.remark("it serves until you stop it; `dolmen node leave` shows how far it is, `--cancel` ends it");
    terminal.json(&to_json(leaving, known.as_ref(), running));
    Ok(Exit::Ok)
}

/// What is to be written down. Without a date a node that goes already keeps its own.
fn wanted(within: Option<Duration>, before: Option<Leaving>) -> Result<Leaving, Failure> {
    let now = now();
    let within = match (within, before) {
        (None, Some(before)) => return Ok(before),
        (within, _) => within.unwrap_or(WITHIN_DEFAULT),
    };
    if within.is_zero() || within > LEASE_MAX {
        return Err(Failure::usage(
            "a node goes within 1 second to 800 days",
            "say how long it will still serve, such as --within 30d",
        ));
    }
    // What was moved so far stays moved when only the date changes.
    Ok(Leaving { until: now.after(within), since: before.map_or(now, |before| before.since) })
}

fn runs(status: &NodeStatus) -> bool {
    status.process_is_alive() && now().as_unix_ms().saturating_sub(status.updated_at_ms) < SILENCE_MAX_MS
}

/// Whether a status is of a node that has heard of this.
fn is_about(status: &LeavingStatus, leaving: Leaving) -> bool {
    status.until_ms == leaving.until.as_unix_ms() && status.since_ms == leaving.since.as_unix_ms()
}

fn to_json(leaving: Leaving, known: Option<&LeavingStatus>, running: bool) -> Value {
    json!({
        "leaving": {
            "until_ms": leaving.until.as_unix_ms(),
            "since_ms": leaving.since.as_unix_ms(),
            "counted_at_ms": known.map(|known| known.counted_at_ms).filter(|at| *at != 0),
            "shards_here": known.map(|known| known.shards_here),
            "bytes_here": known.map(|known| known.bytes_here),
            "shards_moved": known.map(|known| known.shards_moved),
            "bytes_moved": known.map(|known| known.bytes_moved),
            "bytes_per_second": known.map(LeavingStatus::bytes_per_second),
            "done_at_ms": known.and_then(LeavingStatus::done_at_ms),
        },
        "running": running,
        "safe_to_stop": known.is_some_and(LeavingStatus::is_done),
    })
}

/// How far a node has come, in one line.
pub(super) fn progress(status: &LeavingStatus) -> String {
    let by = local_time(status.until_ms);
    if status.counted_at_ms == 0 {
        return format!("the node goes by {by}; what it holds is being counted");
    }
    if status.is_done() {
        return format!(
            "safe to stop: all {} shards ({}) are elsewhere too",
            status.shards_moved,
            size(status.bytes_moved)
        );
    }
    let left = format!(
        "the node goes by {by}; {} shards ({}) are still only here, {} ({}) are elsewhere",
        status.shards_here,
        size(status.bytes_here),
        status.shards_moved,
        size(status.bytes_moved)
    );
    match status.done_at_ms() {
        None => format!("{left}; nothing has moved so far"),
        Some(done) => {
            format!("{left}; {}/s so far, the rest by {}", size(status.bytes_per_second()), local_time(done))
        }
    }
}

/// Shows progress until everything is elsewhere or the date has come.
fn wait(context: &Context, folder: &Path, leaving: Leaving) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    let bar = terminal.bar("leaving", Some(0));
    loop {
        let status = status::read(folder).map_err(|error| status_failure(&error))?.ok_or_else(never_ran)?;
        let running = runs(&status);
        let known = status.leaving.filter(|known| is_about(known, leaving));
        if let Some(known) = &known {
            bar.set_length(known.bytes_here.saturating_add(known.bytes_moved));
            bar.set_position(known.bytes_moved);
            bar.set_message(format!("{} shards left", known.shards_here));
            if known.is_done() {
                bar.finish_and_clear();
                terminal.result(&progress(known));
                terminal.json(&to_json(leaving, Some(known), running));
                return Ok(Exit::Ok);
            }
        }
        let not_now = |why: String, remedy: &str| {
            bar.finish_and_clear();
            Err(Failure::new(Exit::NotNow, "not everything is elsewhere", why, remedy))
        };
        if !running {
            return not_now(
                "the node does not run".to_owned(),
                "start it: it has to serve until its shards are elsewhere",
            );
        }
        if leaving::read(folder).ok().flatten() != Some(leaving) {
            return not_now(
                "somebody changed the date or has the node stay".to_owned(),
                "run `dolmen node leave` again to see",
            );
        }
        if now() >= leaving.until {
            let left = known.as_ref().map_or_else(|| "it was not counted".to_owned(), progress);
            return not_now(
                left,
                "serve on with a later --within, or stop: what nobody moved is then lost with this node",
            );
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use dolmen_proto::ids::Timestamp;

    use super::*;

    #[test]
    fn another_date_keeps_what_was_moved_and_none_keeps_the_date() {
        let at = Timestamp::from_unix_ms;
        let before = Leaving { until: at(9_000_000_000_000), since: at(5) };
        assert_eq!(wanted(None, Some(before)).expect("fine"), before);
        let later = wanted(Some(Duration::from_secs(86_400)), Some(before)).expect("fine");
        assert_eq!(later.since, before.since);
        assert!(later.until < before.until);
        let first = wanted(None, None).expect("fine");
        assert_eq!(first.until.since(first.since), WITHIN_DEFAULT);
        assert!(wanted(Some(Duration::ZERO), None).is_err());
        assert!(wanted(Some(LEASE_MAX * 2), None).is_err());
    }

    #[test]
    fn what_is_said_fits_what_is_known() {
        let status = LeavingStatus {
            until_ms: 1_900_000_000_000,
            since_ms: 1_800_000_000_000,
            counted_at_ms: 0,
            shards_here: 0,
            bytes_here: 0,
            shards_moved: 0,
            bytes_moved: 0,
        };
        assert!(progress(&status).contains("being counted"));
        let counted = LeavingStatus { counted_at_ms: 1_800_000_100_000, shards_here: 7, bytes_here: 7_000, ..status };
        assert!(progress(&counted).contains("7 shards") && progress(&counted).contains("nothing has moved"));
        let half = LeavingStatus { shards_moved: 7, bytes_moved: 7_000, ..counted };
        assert!(progress(&half).contains("70 B/s"), "{}", progress(&half));
        let done = LeavingStatus { shards_here: 0, bytes_here: 0, ..half };
        assert!(progress(&done).starts_with("safe to stop"));
        let leaving = Leaving { until: Timestamp::from_unix_ms(1_900_000_000_000), since: Timestamp::from_unix_ms(1) };
        assert!(!is_about(&done, leaving), "of another going");
        assert_eq!(to_json(leaving, Some(&done), true)["safe_to_stop"], true);
        assert_eq!(to_json(leaving, None, true)["safe_to_stop"], false);
    }
}
