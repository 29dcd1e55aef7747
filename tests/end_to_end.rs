//! The commands of owners and readers against a network of real node processes, and what becomes of the files when
//! nodes, the client or the files themselves go away on the way.

use std::fs;
use std::path::Path;

use dolmen_cli::tree_compare::compare;
use dolmen_tests::network::{Network, make_source};
use dolmen_tests::processes::{Outcome, Running, run, wait_for};
use dolmen_tests::shards::shard;
use serde_json::Value;

const MIB: usize = 1024 * 1024;
/// Eight nodes mean 3 of 6 by the table of design.md: any three nodes may go.
const NODES: usize = 8;

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_dolmen-under-test"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

#[track_caller]
fn has_keys(value: &Value, keys: &str) {
    for key in keys.split(' ') {
        assert!(value.get(key).is_some_and(|value| !value.is_null()), "{key} is missing in {value}");
    }
}

#[track_caller]
fn put(network: &Network, path: &Path) -> Value {
    let value = run(&mut network.command(&["put", text(path), "--json"])).expect(0).json();
    has_keys(
        &value,
        "link snapshot files bytes stored_bytes new_bytes segments mib_s degraded short_shards lease_until",
    );
    value
}

fn link(put: &Value) -> String {
    put["link"].as_str().expect("a link").to_owned()
}

#[track_caller]
fn same(original: &Path, copy: &Path) {
    let comparison = compare(original, copy).expect("both are readable");
    assert!(comparison.differences.is_empty(), "{:#?}", comparison.differences);
    assert!(comparison.files > 0);
}

/// A failure as people see it: three lines at most, no panic, this exit code among those allowed.
#[track_caller]
fn fails_well(outcome: &Outcome, codes: &[i32]) {
    assert!(outcome.code.is_some_and(|code| codes.contains(&code)), "{codes:?} expected: {outcome:?}");
    assert!(outcome.errors.starts_with("error: "), "{outcome:?}");
    assert!(outcome.errors.lines().count() <= 3, "{outcome:?}");
    assert!(!outcome.errors.contains("panicked"), "{outcome:?}");
}

#[test]
fn every_command_does_what_the_contract_says() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    let (net, source) = (at("net"), at("source"));
    make_source(&source, 3 * MIB);
    let network = Network::start(program(), &net, NODES);
    let stored = put(&network, &source);
    let link = link(&stored);
    assert_eq!(stored["degraded"], false);
    assert!(
        stored["bytes"].as_u64() > stored["new_bytes"].as_u64().map(|bytes| bytes / 4),
        "equal files are stored once"
    );

    let copy = at("copy");
    let got = run(&mut network.command(&["get", &link, text(&copy), "--json"])).expect(0).json();
    has_keys(&got, "files bytes mib_s degraded_segments");
    assert_eq!(got["files"], stored["files"]);
    same(&source, &copy);

    resume_and_conflicts(&network, &link, &source, &copy);
    listings(&network, &link, &source);
    broken_links(&network, &link, &at("nothing"));
    piped_and_odd_sources(&network, folder.path());
    two_at_once(&network, folder.path());

    // Any m nodes may go; what is alive is counted honestly.
    let before = info(&network, &link);
    assert_eq!((before["alive_shards"].clone(), before["min_alive"].clone()), (before["shards"].clone(), 6.into()));
    for number in [1, 4, 6] {
        network.kill(number);
    }
    let after = info(&network, &link);
    let (shards, alive) =
        (after["shards"].as_u64().expect("a count"), after["alive_shards"].as_u64().expect("a count"));
    // Each segment has six shards on eight nodes, of which three died: between one and three of them are gone.
    assert!(alive < shards && alive * 2 >= shards, "{after}");
    assert!(after["min_alive"].as_u64() >= Some(3), "{after}");
    let copy = at("copy with three nodes dead");
    let _ = run(&mut network.command(&["get", &link, text(&copy)])).expect(0);
    same(&source, &copy);

    // More than m: a named error, and nothing that looks like a result.
    for number in [0, 2, 3] {
        network.kill(number);
    }
    let nothing = at("nothing at all");
    fails_well(&run(&mut network.command(&["get", &link, text(&nothing)])), &[4, 5]);
    no_half_files(&source, &nothing);
    fails_well(&run(&mut network.command(&["put", text(&source), "--policy", "3/6"])), &[4]);
    assert!(!network.logs().contains("panicked"), "{}", network.logs());
    network.stop();

    // The same folder is the same network with the same data.
    let network = Network::start(program(), &net, NODES);
    let copy = at("copy after a restart");
    let _ = run(&mut network.command(&["get", &link, text(&copy)])).expect(0);
    same(&source, &copy);
    let renewed = run(&mut network.command(&["renew", &link, "--lease", "500d", "--json"])).expect(0).json();
    assert!(renewed["lease_until"].as_str() > stored["lease_until"].as_str(), "{renewed} after {stored}");
    let _ = run(&mut network.command(&["rm", &link, "--json"])).expect(0).json();
    let copy = at("copy of what was removed");
    fails_well(&run(&mut network.command(&["get", &link, text(&copy)])), &[3, 5]);
    network.stop();
}

/// What a failed get leaves: perhaps folders, links and whole files, never a part of a file under any name.
fn no_half_files(source: &Path, copy: &Path) {
    for entry in fs::read_dir(copy).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        let original = source.join(path.file_name().expect("entries have names"));
        let kind = path.symlink_metadata().expect("it is there");
        if kind.is_dir() {
            assert!(original.is_dir(), "{} is left behind", path.display());
            no_half_files(&original, &path);
        } else if kind.is_file() {
            let (original, found) = (fs::read(original).expect("it has this name"), fs::read(&path).expect("a file"));
            assert!(original == found, "{} is half-written", path.display());
        }
    }
}

fn info(network: &Network, link: &str) -> Value {
    let info = run(&mut network.command(&["info", link, "--json"])).expect(0).json();
    has_keys(&info, "segments shards alive_shards min_alive k n by_policy largest_domain lease_until");
    info
}

/// A second get fetches what is missing and nothing else, and never replaces what differs unasked.
fn resume_and_conflicts(network: &Network, link: &str, source: &Path, copy: &Path) {
    let again = run(&mut network.command(&["get", link, text(copy), "--json"])).expect(0).json();
    assert_eq!(again["skipped"], again["files"], "{again}");
    fs::remove_file(copy.join("many/small 39.txt")).expect("removed");
    fs::remove_dir_all(copy.join("names")).expect("removed");
    let again = run(&mut network.command(&["get", link, text(copy), "--json"])).expect(0).json();
    let fetched = again["files"].as_u64().zip(again["skipped"].as_u64()).map(|(files, skipped)| files - skipped);
    assert_eq!(fetched, Some(5), "{again}");
    same(source, copy);

    fs::write(copy.join("a/b/c/d/e/deep"), b"somebody's own work").expect("written");
    fs::remove_file(copy.join("empty")).expect("removed");
    let outcome = run(&mut network.command(&["get", link, text(copy)])).expect(7);
    assert!(outcome.errors.contains("a/b/c/d/e/deep"), "{outcome:?}");
    assert_eq!(fs::read(copy.join("a/b/c/d/e/deep")).expect("a file"), b"somebody's own work");
    assert!(copy.join("empty").exists(), "the rest is done");
    let _ = run(&mut network.command(&["get", link, text(copy), "--overwrite"])).expect(0);
    same(source, copy);
}

fn listings(network: &Network, link: &str, source: &Path) {
    let listed = run(&mut network.command(&["ls", "-R", link])).expect(0).text();
    for name in ["large.bin", "a/b/c/d/e/deep", "empty folder/inside/", "names/-rf", "dangling link"] {
        assert!(listed.lines().any(|line| line == name), "{name} is not in\n{listed}");
    }
    let listed = run(&mut network.command(&["ls", link, "--json"])).expect(0);
    assert!(listed.json()["summary"]["entries"].as_u64() > Some(8), "{listed:?}");

    let inside = format!("{link}:large.bin");
    let large = shard(1, 3 * MIB);
    let whole = run(&mut network.command(&["cat", &inside])).expect(0);
    assert!(whole.output == large, "{} bytes", whole.output.len());
    let range = run(&mut network.command(&["cat", &inside, "--offset", "1000001", "--length", "70000"])).expect(0);
    assert!(range.output == large[1_000_001..1_070_001], "{} bytes", range.output.len());
    let streamed = run(&mut network.command(&["get", &inside, "-"])).expect(0);
    assert!(streamed.output == large, "{} bytes", streamed.output.len());
    let holes = run(&mut network.command(&["cat", &format!("{link}:holes"), "--offset", "5999998"])).expect(0);
    assert_eq!(holes.output, fs::read(source.join("holes")).expect("a file")[5_999_998..]);
    fails_well(&run(&mut network.command(&["cat", &format!("{link}:no such file")])), &[3]);

    let nodes = run(&mut network.command(&["nodes", "--json"])).expect(0);
    assert_eq!(nodes.json()["summary"]["nodes"], NODES, "{nodes:?}");
    has_keys(
        &serde_json::from_str(nodes.text().lines().next().expect("a line")).expect("JSON"),
        "id free_class version",
    );
}

/// A link with anything changed is refused by name before anything is asked or written.
fn broken_links(network: &Network, link: &str, destination: &Path) {
    for at in [0, 7, 8, link.len() / 2, link.len() - 1] {
        for bit in [0, 4] {
            let mut bytes = link.as_bytes().to_vec();
            bytes[at] ^= 1 << bit;
            let changed = String::from_utf8(bytes).expect("still ASCII");
            // A colon would begin a path.
            if changed.contains(':') || changed.starts_with(['@', '-']) {
                continue;
            }
            fails_well(&run(&mut network.command(&["get", &changed, text(destination)])), &[2, 6]);
        }
    }
    fails_well(&run(&mut network.command(&["get", &link[..link.len() - 5], text(destination)])), &[2, 6]);
    assert!(!destination.exists());
}

/// One plain result and nothing else where nobody watches; odd things are named and hold up nothing.
fn piped_and_odd_sources(network: &Network, folder: &Path) {
    let odd = folder.join("odd");
    fs::create_dir_all(&odd).expect("a folder");
    fs::write(odd.join("file"), b"content").expect("a file");
    let plain = run(&mut network.command(&["put", text(&odd)])).expect(0);
    assert_eq!(plain.text().lines().count(), 1, "{plain:?}");
    assert!(plain.text().starts_with("dolmen1") && plain.errors.is_empty(), "{plain:?}");
    // The link may come from a file, as argv is public.
    fs::write(folder.join("link"), plain.text()).expect("a file");
    let from_file = format!("@{}:file", text(&folder.join("link")));
    assert_eq!(run(&mut network.command(&["cat", &from_file])).expect(0).output, b"content");

    rustix::fs::mknodat(rustix::fs::CWD, odd.join("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .expect("a FIFO");
    let outcome = run(&mut network.command(&["put", text(&odd), "--json"]));
    assert!(outcome.code == Some(0) || outcome.code == Some(7), "{outcome:?}");
    assert!(outcome.errors.contains("pipe"), "what is left out is named: {outcome:?}");
    let copy = folder.join("copy of odd");
    let _ = run(&mut network.command(&["get", &link(&outcome.json()), text(&copy)])).expect(0);
    same(&odd, &copy);
    fails_well(&run(&mut network.command(&["put", text(&folder.join("no such folder"))])), &[3]);
}

fn two_at_once(network: &Network, folder: &Path) {
    let sources = ["first of two", "second of two"].map(|name| folder.join(name));
    for (number, source) in sources.iter().enumerate() {
        make_source(source, (2 + number) * MIB);
    }
    let puts = sources.each_ref().map(|source| Running::start(&mut network.command(&["put", text(source), "--json"])));
    let links = puts.map(|put| link(&put.finish().expect(0).json()));
    for (source, link) in sources.iter().zip(links) {
        let copy = folder.join("copy of one of two");
        let _ = run(&mut network.command(&["get", &link, text(&copy)])).expect(0);
        same(source, &copy);
        fs::remove_dir_all(copy).expect("removed");
    }
}

fn write_large(folder: &Path, megabytes: usize) {
    fs::create_dir_all(folder).expect("a folder");
    for number in 0..megabytes / 4 {
        fs::write(folder.join(format!("part {number:02}")), shard(9000 + number as u64, 4 * MIB)).expect("a file");
    }
}

#[test]
fn puts_and_gets_survive_kills_on_the_way() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    let mut network = Network::start(program(), &at("net"), NODES);

    // m nodes die while shards are on their way.
    let source = at("source");
    write_large(&source, 40);
    let putting = Running::start(&mut network.command(&["put", text(&source), "--json"]));
    wait_for("shards on nodes", || (network.volume_bytes() > 20 * MIB as u64).then_some(()));
    for number in [0, 3, 5] {
        network.kill(number);
    }
    let stored = putting.finish().expect(0).json();
    let first = link(&stored);
    let copy = at("copy one");
    let _ = run(&mut network.command(&["get", &first, text(&copy)])).expect(0);
    same(&source, &copy);

    // They come back, one of them without its index, and serve what they had.
    for number in [0, 3, 5] {
        network.revive(number, number == 3);
    }

    // The client dies while it puts; a file is changed; the same command goes on where it was.
    let second = at("second source");
    write_large(&second, 96);
    for number in 0..24 {
        // Other content than in the first source.
        fs::write(second.join(format!("part {number:02}")), shard(7000 + number, 4 * MIB)).expect("a file");
    }
    let putting = Running::start(&mut network.command(&["put", text(&second), "--json"]));
    // More than one segment has shards, so that not all of them are of the segment that changes.
    wait_for("acknowledged shards", || (network.acknowledged() > NODES).then_some(()));
    putting.kill();
    fs::write(second.join("part 23"), b"changed while nobody looked").expect("a file");
    let stored = put(&network, &second);
    let (new, all) =
        (stored["new_bytes"].as_u64().expect("a count"), stored["stored_bytes"].as_u64().expect("a count"));
    assert!(new < all, "nothing that was acknowledged is sent again: {stored}");
    let second_link = link(&stored);
    let copy = at("copy two");
    let _ = run(&mut network.command(&["get", &second_link, text(&copy)])).expect(0);
    same(&second, &copy);

    // m nodes die while a reader is at it.
    let copy = at("copy three");
    let getting = Running::start(&mut network.command(&["get", &second_link, text(&copy), "--json"]));
    wait_for("the copy to begin", || {
        fs::read_dir(&copy).is_ok_and(|mut entries| entries.next().is_some()).then_some(())
    });
    for number in [1, 3, 7] {
        network.kill(number);
    }
    let _ = getting.finish().expect(0);
    same(&second, &copy);
    assert!(!network.logs().contains("panicked"), "{}", network.logs());
    network.stop();
}
