//! The benchmark as its users run it, small: every figure it promises is there, and nothing else is left behind.
//!
//! A file of its own, so that nothing runs beside it: test files run one after another.

use std::fs;
use std::path::Path;
use std::time::Duration;

use dolmen_tests::processes::{Running, dolmen};

/// How long the whole benchmark may take. It sets up two networks, and in an unoptimised program it takes more than a minute
/// on a machine that does nothing else.
const DEADLINE_OF_ALL: Duration = Duration::from_secs(900);

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_dolmen-under-test"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

#[test]
fn the_benchmark_measures_all_that_it_promises_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (work, out) = (folder.path().join("work"), folder.path().join("out"));
    fs::create_dir(&work).expect("a folder");
    let copies = folder.path().join("copies");
    fs::create_dir(&copies).expect("a folder");
    let mut command = dolmen(program());
    command.args(["bench", "--size", "2MiB", "--nodes", "6", "--rounds", "1", "--small-files", "100", "--json"]);
    command.args(["--suite", "throughput,reads,faults,peers", "--folder", text(&work), "--out", text(&out)]);
    command.args(["--copy-to", text(&copies)]);
    let said = Running::start(&mut command).finish_within(DEADLINE_OF_ALL).expect(0).json();
    for key in [
        "raw_mib_s",
        "floor_get_mib_s",
        "floor_put_mib_s",
        "get_mib_s",
        "put_mib_s",
        "get_over_floor",
        "put_over_floor",
        "get_over_raw",
        "put_over_raw",
        "datagram_bytes",
    ] {
        assert!(said[key].as_f64().is_some_and(|figure| figure > 0.0), "{key} is missing in {said}");
    }
    for what in ["range", "list", "get small files", "get under faults", "range beside slow nodes", "get beside peers"]
    {
        let results = said["results"].as_array().expect("results");
        let found = results.iter().find(|result| result["operation"] == what).unwrap_or_else(|| panic!("no {what}"));
        assert!(found["mib_s"]["median"].as_f64().is_some_and(|rate| rate > 0.0), "{found}");
    }
    let rows = fs::read_to_string(out.join("results.csv")).expect("rows");
    assert!(rows.lines().count() > 20 && rows.starts_with("started,version,cpu,"), "{rows}");
    assert!(out.join("throughput.svg").exists() && out.join("tail-slow-nodes.png").exists());
    assert_eq!(fs::read_dir(&work).expect("readable").count(), 0, "the network and the files are gone");
    assert_eq!(fs::read_dir(&copies).expect("readable").count(), 0, "and so are copies");
}
