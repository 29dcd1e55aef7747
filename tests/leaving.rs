//! A node that goes, in real processes: a steward copies its shards elsewhere and tells it so, its operator hears when it is
//! safe to stop, and nobody misses it.

use std::fs;
use std::path::Path;
use std::process::Command;

use dolmen_cli::tree_compare::compare;
use dolmen_storage_node::serve::wall_clock;
use dolmen_tests::network::{Network, make_source};
use dolmen_tests::processes::{Running, TestNode, dolmen, run, wait_for};
use rustix::process::Signal;
use serde_json::Value;

const MIB: usize = 1024 * 1024;
/// With the one that leaves more than a segment has shards, so that there is somewhere to go.
const OTHERS: usize = 11;

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_dolmen-under-test"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

/// The JSON objects that a command prints.
#[track_caller]
fn says(command: &mut Command) -> Vec<Value> {
    let outcome = run(command.arg("--json").env("DOLMEN_PASSPHRASE", "a passphrase for tests")).expect(0);
    outcome.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[track_caller]
fn operator(node: &TestNode, arguments: &[&str]) -> Vec<Value> {
    let mut command = dolmen(program());
    says(command.arg("node").args(arguments).arg("--config").arg(node.config()))
}

fn last(said: &[Value]) -> &Value {
    said.last().expect("something was said")
}

/// One of the addresses that clients of a network begin with.
fn bootstrap(client_toml: &Path) -> String {
    let toml = fs::read_to_string(client_toml).expect("a configuration");
    let line = toml.lines().find(|line| line.starts_with("bootstrap")).expect("addresses");
    line.split('"').nth(1).expect("an address").to_owned()
}

#[test]
fn a_node_that_leaves_is_told_when_it_is_safe_to_stop_and_is_not_missed_then() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    let network = Network::start(program(), &at("net"), OTHERS);
    let owner = |arguments: &[&str]| says(&mut network.command(arguments));
    let _ = owner(&["init"]);
    let source = at("source");
    make_source(&source, MIB);
    let _ = owner(&["put", text(&source), "scans"]);
    let link = last(&owner(&["steward-link", "scans"]))["link"].as_str().expect("a link").to_owned();
    fs::write(at("steward.link"), link).expect("written");

    // It joins when all this is there, so that whatever it holds is of the newest snapshot.
    let mut node = TestNode::make(program(), &at("node"), &["data"], "");
    node.start_with(&["--bootstrap", &bootstrap(&at("net").join("client.toml"))]);
    wait_for("the new node to be found", || {
        let listed = owner(&["nodes"]);
        let id = node.status().node;
        listed.iter().any(|listed| listed["node"] == id.as_str() || listed["id"] == id.as_str()).then_some(())
    });
    let mut number = 0;
    wait_for("the new node to hold something", || {
        number += 1;
        fs::write(at("more"), format!("{number} more")).expect("written");
        let _ = owner(&["put", text(&at("more")), "--to", &format!("scans:more {number}")]);
        // One put more than needed would leave documents behind that no steward looks after.
        let put_at = wall_clock().as_unix_ms();
        let status = wait_for("a newer status", || Some(node.status()).filter(|status| status.updated_at_ms > put_at));
        (status.shards > 0).then_some(())
    });

    let mut steward = dolmen(program());
    steward.arg("--config").arg(at("net").join("client.toml")).args(["steward", "run", "--state"]);
    steward.arg(at("care")).args(["--interval", "1s", "--samples", "8"]);
    let mut steward = Running::start(steward.arg(format!("@{}", at("steward.link").display())));
    wait_for("the steward to audit the node", || {
        assert!(steward.process().ended().is_none(), "{}", steward.errors());
        (last(&operator(&node, &["audits"]))["summary"]["passed"].as_u64() > Some(0)).then_some(())
    });
    let audits = operator(&node, &["audits", "--last", "1"]);
    assert_eq!((audits.len(), &audits[0]["outcome"]), (2, &Value::from("passed")), "{audits:?}");

    let told = operator(&node, &["leave", "--within", "1d"]);
    assert_eq!((&last(&told)["running"], &last(&told)["safe_to_stop"]), (&Value::from(true), &Value::from(false)));
    let done = operator(&node, &["leave", "--wait"]);
    let done = last(&done);
    assert_eq!(done["safe_to_stop"], true, "{done}");
    assert!(done["leaving"]["shards_moved"].as_u64() > Some(0), "{done}");
    assert_eq!(done["leaving"]["until_ms"], last(&told)["leaving"]["until_ms"], "the date stays");
    let status = operator(&node, &["status"]);
    assert_eq!(last(&status)["accepting"], "renew-only", "{status:?}");

    // What it knows outlasts a restart.
    node.terminate();
    node.start();
    assert_eq!(last(&operator(&node, &["leave", "--wait"]))["safe_to_stop"], true);
    node.terminate();
    let copy = at("copy");
    let _ = owner(&["get", "scans", text(&copy)]);
    for number in 1..=number {
        let folder = copy.join(format!("more {number}"));
        let more = fs::read_to_string(folder.join("more")).expect("what was put in the end");
        assert_eq!(more, format!("{number} more"));
        fs::remove_dir_all(folder).expect("removed");
    }
    let comparison = compare(&source, &copy).expect("both are readable");
    assert!(comparison.differences.is_empty() && comparison.files > 0, "{:#?}", comparison.differences);

    assert_eq!(last(&operator(&node, &["leave", "--cancel"]))["was_leaving"], true);
    steward.process().signal(Signal::TERM);
    let ended = steward.finish();
    assert_eq!(ended.code, Some(0), "a steward told to stop ends in order: {ended:?}");
    assert!(!network.logs().contains("panicked") && !node.log().contains("panicked"), "{}", node.log());
    network.stop();
}
