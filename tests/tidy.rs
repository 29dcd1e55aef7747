//! Style as a test: the direction of dependencies, licences and sources, sizes of files, and that the map is true.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Lines of one Rust file over which this test fails; CONTRIBUTING.md asks for half of that.
const FILE_LINES_MAX: usize = 800;

/// What each member may depend on among the members: the arrows of ARCHITECTURE.md.
const ALLOWED: &[(&str, &[&str])] = &[
    ("dolmen-gf256", &[]),
    ("dolmen-proto", &["dolmen-gf256"]),
    ("dolmen-net", &["dolmen-proto"]),
    ("dolmen-storage-node", &["dolmen-proto", "dolmen-net"]),
    ("dolmen-client", &["dolmen-proto", "dolmen-net"]),
    ("dolmen-cli", &["dolmen-proto", "dolmen-net", "dolmen-storage-node", "dolmen-client", "dolmen-benches"]),
    (
        "dolmen-tests",
        &["dolmen-proto", "dolmen-net", "dolmen-storage-node", "dolmen-client", "dolmen-cli", "dolmen-benches"],
    ),
    // What its benchmarks, which stand above everything, depend on is not looked at.
    ("dolmen-benches", &["dolmen-gf256"]),
];

/// Crates that may not be anywhere below `dolmen-proto`: they do IO, read clocks, draw random numbers or schedule.
const BANNED_BELOW_PROTO: &[&str] =
    &["tokio", "async-std", "smol", "mio", "quinn", "libp2p", "rustls", "sled", "socket2", "chrono", "time"];

/// Licences that a dependency may be used under.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "OpenSSL",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_path_buf()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(workspace())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

#[test]
fn dependencies_point_one_way() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    let mut seen = BTreeSet::new();
    for (member, allowed) in ALLOWED {
        let package = packages.iter().find(|package| text(package, "name") == *member).expect("every member is there");
        seen.insert(*member);
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let name = text(dependency, "name");
            if *member == "dolmen-benches" && text(dependency, "kind") == "dev" {
                continue;
            }
            assert!(
                !name.starts_with("dolmen-") || allowed.contains(&name),
                "{member} must not depend on {name}: see ARCHITECTURE.md"
            );
        }
    }
    let members = metadata["workspace_members"].as_array().expect("members").len();
    assert_eq!(members, seen.len(), "a member is missing from the list in this test");
}

#[test]
fn proto_has_nothing_below_it_that_does_io() {
    let metadata = metadata();
    let names: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|package| (text(package, "id"), text(package, "name")))
        .collect();
    let nodes: BTreeMap<&str, &Value> =
        metadata["resolve"]["nodes"].as_array().expect("nodes").iter().map(|node| (text(node, "id"), node)).collect();
    let start = names.iter().find(|(_, name)| **name == "dolmen-proto").map(|(id, _)| *id).expect("dolmen-proto");
    let mut below = BTreeSet::new();
    let mut open = vec![start];
    while let Some(id) = open.pop() {
        if !below.insert(id) {
            continue;
        }
        for dependency in nodes[id]["deps"].as_array().expect("deps") {
            let normal =
                dependency["dep_kinds"].as_array().expect("dep_kinds").iter().any(|kind| kind["kind"].is_null());
            if normal {
                open.push(text(dependency, "pkg"));
            }
        }
    }
    for id in below {
        assert!(!BANNED_BELOW_PROTO.contains(&names[id]), "{} is below dolmen-proto, which has no IO", names[id]);
    }
}

/// Whether an SPDX expression can be met with [`LICENCES`] alone: every `AND` part has an allowed `OR` part.
fn licence_allowed(expression: &str) -> bool {
    let plain = expression.replace(['(', ')'], " ").replace('/', " OR ");
    plain.split(" AND ").all(|part| part.split(" OR ").any(|one| LICENCES.contains(&one.trim())))
}

#[test]
fn dependencies_have_known_sources_and_licences() {
    for package in metadata()["packages"].as_array().expect("packages") {
        let name = text(package, "name");
        match package["source"].as_str() {
            None => assert!(name.starts_with("dolmen-"), "{name} comes from a path outside of the workspace"),
            Some(source) => assert!(source.starts_with("registry+"), "{name} comes from {source}, not the registry"),
        }
        let licence = text(package, "license");
        assert!(licence_allowed(licence), "{name} is under {licence:?}, which is not on the list in this test");
    }
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of the workspace").map(|entry| entry.expect("an entry")) {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut files = Vec::new();
    rust_files(&workspace(), &mut files);
    assert!(files.len() > 10, "the workspace has Rust files");
    let stubs = [concat!("to", "do!("), concat!("unimple", "mented!(")];
    for file in files {
        let content = std::fs::read_to_string(&file).expect("source is UTF-8");
        let lines = content.lines().count();
        assert!(lines <= FILE_LINES_MAX, "{} has {lines} lines, at most {FILE_LINES_MAX}", file.display());
        assert!(content.starts_with("//!"), "{} does not open with what it decides", file.display());
        for stub in stubs {
            assert!(!content.contains(stub), "{} has a stub: {stub}", file.display());
        }
        let name = file.file_stem().expect("a file has a name").to_string_lossy().into_owned();
        assert!(!["utils", "util", "helpers", "manager", "misc"].contains(&name.as_str()), "{}: no such names", name);
    }
}

#[test]
fn the_map_names_modules_that_exist_and_all_of_them() {
    let map = std::fs::read_to_string(workspace().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    for part in map.split('`').skip(1).step_by(2) {
        let is_path = part.contains('/') && !part.contains([' ', '*', ':', '<']) && !part.starts_with('/');
        if is_path {
            assert!(workspace().join(part).exists(), "ARCHITECTURE.md names {part}, which does not exist");
        }
    }
    for member in ["gf256", "proto", "net", "storage-node", "client", "cli"] {
        let source = workspace().join(member).join("src");
        for entry in std::fs::read_dir(&source).expect("src").map(|entry| entry.expect("an entry")) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let module = name.trim_end_matches(".rs");
            assert!(
                matches!(module, "lib" | "main")
                    || map.contains(&format!("`{member}/src/{module}`"))
                    || map.contains(&format!("`{member}/src/{module}.rs`")),
                "ARCHITECTURE.md does not name {member}/src/{name}"
            );
        }
    }
}
