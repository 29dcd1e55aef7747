//! Golden vectors of documents, heads and links: what is read and refused today must be what was at first.
//!
//! `tests/vectors/documents/` holds one JSON file a case. `reader` says what reads it, `bytes` (or `text`, or `blobs` for a walk
//! over several) is the input; then either `says`, what it reads as, or `refused`, the name of the error in `dolmen-proto`. Of an input that is too long the zeros at
//! its end are counted in `zeros_after`. A file whose name says what is
//! wrong must be refused for the recorded reason.
//!
//! Files are recorded once: `DOLMEN_BLESS=1 cargo test -p dolmen-tests --test vectors_documents` writes those that are
//! missing and never changes one that is there. Deleting one on purpose is a change of format.

#[path = "vectors_documents/broken.rs"]
mod broken;
#[path = "vectors_documents/lineage.rs"]
mod lineage;
#[path = "vectors_documents/readers.rs"]
mod readers;
#[path = "vectors_documents/standing.rs"]
mod standing;
#[path = "vectors_documents/stewards.rs"]
mod stewards;
#[path = "vectors_documents/valid.rs"]
mod valid;
#[path = "vectors_documents/vaults.rs"]
mod vaults;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// Cases by name.
type Cases = BTreeMap<String, Value>;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/documents")
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    data_encoding::HEXLOWER.encode(bytes.as_ref())
}

/// What the code of today makes of every case, with the outcome of reading it.
fn written_today() -> Cases {
    let mut cases = valid::cases();
    for (name, case) in broken::cases() {
        assert!(cases.insert(name.clone(), case).is_none(), "{name} is there twice");
    }
    for case in cases.values_mut() {
        let (outcome, value) = match readers::read(case) {
            Ok(says) => ("says", says),
            Err(error) => ("refused", json!(error)),
        };
        case[outcome] = value;
    }
    cases
}

fn recorded() -> Cases {
    let files = std::fs::read_dir(folder()).expect("the vectors are there");
    let paths = files.map(|file| file.expect("a folder can be listed").path());
    paths
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("a vector can be read");
            let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
            (name, serde_json::from_str(&text).expect("a vector is JSON"))
        })
        .collect()
}

#[test]
fn what_is_written_today_is_what_was_recorded() {
    let today = written_today();
    if std::env::var_os("DOLMEN_BLESS").is_some() {
        for (name, case) in &today {
            let path = folder().join(format!("{name}.json"));
            if !path.exists() {
                let text = serde_json::to_string_pretty(case).expect("a JSON value prints");
                std::fs::write(path, text + "\n").expect("a vector can be recorded");
            }
        }
    }
    let recorded = recorded();
    assert_eq!(recorded.keys().collect::<Vec<_>>(), today.keys().collect::<Vec<_>>(), "files and cases differ");
    for (name, case) in &recorded {
        assert_eq!(case, &today[name], "{name}");
    }
}

#[test]
fn every_recorded_case_reads_as_recorded() {
    for (name, case) in recorded() {
        match readers::read(&case) {
            Ok(says) => assert_eq!(Some(&says), case.get("says"), "{name} was accepted"),
            Err(error) => assert_eq!(Some(error.as_str()), case.get("refused").and_then(Value::as_str), "{name}"),
        }
    }
}

#[test]
fn valid_cases_are_accepted_and_broken_ones_refused() {
    let today = written_today();
    assert!(valid::cases().keys().all(|name| today[name].get("says").is_some()), "a valid case was refused");
    for name in broken::cases().keys() {
        assert!(today[name].get("refused").is_some(), "{name} was accepted: {}", today[name]);
    }
}
