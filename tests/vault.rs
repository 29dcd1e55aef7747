//! Vaults through real processes: what an owner does from `init` to `gc`, a second machine that has only the words, and
//! somebody who has only a link.

use std::fs;
use std::path::Path;
use std::process::Command;

use dolmen_cli::tree_compare::compare;
use dolmen_tests::network::{Network, make_source};
use dolmen_tests::processes::{Running, dolmen, run, wait_for};
use serde_json::Value;

const MIB: usize = 1024 * 1024;

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_dolmen-under-test"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

/// A machine: its configuration, with a state folder of its own.
struct Machine<'a> {
    config: &'a Path,
}

impl Machine<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = dolmen(program());
        command.arg("--config").arg(self.config).args(arguments).env("DOLMEN_PASSPHRASE", "a passphrase for tests");
        command
    }

    /// The JSON objects that a command prints.
    #[track_caller]
    fn says(&self, arguments: &[&str]) -> Vec<Value> {
        let outcome = run(&mut self.command(&[arguments, &["--json"]].concat())).expect(0);
        outcome.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    #[track_caller]
    fn fails(&self, arguments: &[&str], code: i32) {
        let outcome = run(&mut self.command(arguments)).expect(code);
        assert!(outcome.errors.starts_with("error: ") && outcome.errors.lines().count() <= 3, "{outcome:?}");
    }

    #[track_caller]
    fn same(&self, source: &str, original: &Path, copy: &Path) {
        let _ = self.says(&["get", source, text(copy)]);
        let comparison = compare(original, copy).expect("both are readable");
        assert!(comparison.differences.is_empty() && comparison.files > 0, "{:#?}", comparison.differences);
    }
}

fn last(said: &[Value]) -> &Value {
    said.last().expect("something was said")
}

#[test]
fn an_owner_a_second_machine_and_a_guest() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    let network = Network::start(program(), &at("net"), 6);
    let config = at("net").join("client.toml");
    let owner = Machine { config: &config };
    let other_config = at("net").join("other.toml");
    let toml = fs::read_to_string(&config).expect("a configuration");
    fs::write(&other_config, toml.replace("client-state", "other-state")).expect("written");
    let other = Machine { config: &other_config };

    owner.fails(&["ls"], 3);
    let words = last(&owner.says(&["init"]))["words"].as_str().expect("words").to_owned();
    assert_eq!(words.split(' ').count(), 24);
    owner.fails(&["init"], 6);
    let source = at("source");
    make_source(&source, 2 * MIB);
    let first = last(&owner.says(&["put", text(&source), "lab/scans", "-m", "first"])).clone();
    let again = last(&owner.says(&["put", text(&source), "lab/scans", "--checksum"])).clone();
    assert_eq!(again["segments"], 0, "no content is stored twice: {again}");
    assert_eq!(first["files"], again["files"]);
    owner.same("lab/scans", &source, &at("copy"));

    // From the words alone, on another machine.
    fs::write(at("words"), &words).expect("written");
    let mut recover = other.command(&["init", "--recover", "--json"]);
    recover.stdin(fs::File::open(at("words")).expect("a file"));
    let said = run(&mut recover).expect(0).text();
    assert!(said.contains("lab/scans") && said.contains(again["snapshot"].as_str().expect("an id")), "{said}");
    other.same("lab/scans", &source, &at("copy elsewhere"));

    // Both write at once; nothing is lost.
    fs::write(at("one"), "one").expect("written");
    fs::write(at("two"), "two").expect("written");
    let puts = [(&owner, "one"), (&other, "two")].map(|(machine, name)| {
        Running::start(&mut machine.command(&["put", text(&at(name)), "--to", "lab/scans:notes", "--json"]))
    });
    puts.into_iter().for_each(|put| drop(put.finish().expect(0)));
    let listed = owner.says(&["ls", "lab/scans:notes"]);
    let names: Vec<_> = listed.iter().filter_map(|entry| entry["path"].as_str()).collect();
    assert_eq!(names, ["notes/one", "notes/two"]);

    // A guest sees what he was shown, and nothing else.
    let share = last(&owner.says(&["share", "lab/scans:notes"])).clone();
    let link = share["link"].as_str().expect("a link");
    let guest_config = at("net").join("guest.toml");
    fs::write(&guest_config, toml.replace("client-state", "guest-state")).expect("written");
    let guest = Machine { config: &guest_config };
    let shown: Vec<_> =
        guest.says(&["ls", "-R", link]).iter().filter_map(|e| e["path"].as_str().map(str::to_owned)).collect();
    assert_eq!(shown, ["one", "two"]);
    guest.fails(&["ls", "lab/scans"], 3);
    let number = share["number"].to_string();
    let _ = owner.says(&["unshare", "lab/scans", &number]);
    assert_eq!(last(&guest.says(&["ls", link]))["summary"]["entries"], 0);

    // History, names, what changed, and the root that a paper quotes.
    let _ = owner.says(&["tag", &format!("lab/scans@{}", &first["snapshot"].as_str().expect("an id")[..12]), "paper"]);
    owner.same("lab/scans@paper", &source, &at("as quoted"));
    let changes = owner.says(&["diff", "lab/scans@paper", "lab/scans"]);
    assert_eq!(last(&changes)["summary"]["added_files"], 2, "{changes:?}");
    let root = last(&owner.says(&["root", "lab/scans@paper"]))["root"].as_str().expect("a root").to_owned();
    assert_eq!(last(&guest.says(&["check", text(&at("as quoted")), &root]))["matches"], true);
    let _ = run(&mut guest.command(&["check", text(&at("net")), &root])).expect(5);

    // Dropping snapshots and freeing what only they needed.
    let _ = owner.says(&["rm", "lab/scans:notes"]);
    owner.fails(&["rm", "lab/scans:notes"], 3);
    owner.fails(&["forget", "lab/scans"], 2);
    let _ = owner.says(&["forget", "lab/scans", "--keep-last", "1", "--keep-tag", "paper"]);
    assert_eq!(last(&owner.says(&["log", "lab/scans"]))["summary"]["snapshots"], 2);
    let freed = last(&owner.says(&["gc", "lab/scans"])).clone();
    assert!(freed["leaving_segments"].as_u64() > Some(0) && freed["freed_segments"] == 0, "{freed}");
    other.same("lab/scans@paper", &source, &at("after the collection"));
    assert_eq!(last(&owner.says(&["verify", "lab/scans"]))["failed"], Value::Null);

    let old_link = last(&owner.says(&["share", "lab/scans"]))["link"].as_str().expect("a link").to_owned();
    let _ = owner.says(&["rekey", "lab/scans"]);
    let _ = owner.says(&["put", text(&at("one")), "--to", "lab/scans:later"]);
    let seen = guest.says(&["ls", &old_link]);
    assert!(seen.iter().all(|entry| entry["path"] != "later"), "{seen:?}");
    assert!(owner.says(&["ls", "lab/scans"]).iter().any(|entry| entry["path"] == "later"));

    // Standard input as one file; then the whole dataset goes, and what it took can be freed.
    fs::write(at("dump"), b"a dump").expect("written");
    let from_input = |arguments: &[&str]| {
        let mut command = owner.command(arguments);
        command.stdin(fs::File::open(at("dump")).expect("a file"));
        run(&mut command)
    };
    let _ = from_input(&["put", "-", "--to", "lab/scans:dumps/today"]).expect(0);
    assert_eq!(run(&mut owner.command(&["cat", "lab/scans:dumps/today"])).expect(0).output, b"a dump");
    let _ = from_input(&["put", "-", "--to", "lab/scans"]).expect(2);
    let _ = from_input(&["put", "-"]).expect(2);
    owner.fails(&["ls", &format!("@{}", text(&at("no such link")))], 3);
    owner.fails(&["check", text(&at("no such folder")), &root], 3);
    let _ = run(&mut owner.command(&["gc", "lab/scans", "--removed"])).expect(2);
    let _ = owner.says(&["rm", "lab/scans", "--all"]);
    assert_eq!(last(&owner.says(&["ls"]))["summary"]["datasets"], 0);
    owner.fails(&["gc", "lab/scans"], 3);
    let freed = owner.says(&["gc", "--removed"]);
    assert_eq!(freed[0]["dataset"], "lab/scans");
    assert_eq!(last(&freed)["summary"]["datasets"], 1);
    assert!(freed[0]["leaving_segments"].as_u64() > Some(0), "{freed:?}");
    assert!(!network.logs().contains("panicked"), "{}", network.logs());
    network.stop();
}

#[test]
fn a_put_that_is_killed_goes_on_where_it_was() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    let network = Network::start(program(), &at("net"), 6);
    let config = at("net").join("client.toml");
    let owner = Machine { config: &config };
    let _ = owner.says(&["init"]);
    let source = at("source");
    make_source(&source, 48 * MIB);
    let _ = owner.says(&["put", text(&at("net").join("client.toml")), "--to", "data"]);
    let before = network.acknowledged();
    let putting = Running::start(&mut owner.command(&["put", text(&source), "data", "--json"]));
    wait_for("some shards to be acknowledged", || (network.acknowledged() > before).then_some(()));
    putting.kill();
    let resumed = last(&owner.says(&["put", text(&source), "data"])).clone();
    assert!(
        resumed["new_bytes"].as_u64() < resumed["stored_bytes"].as_u64(),
        "what was acknowledged is not sent again: {resumed}"
    );
    let _ = owner.says(&["put", text(&source), "data", "--delete"]);
    owner.same("data", &source, &at("copy"));
    network.stop();
}
