//! Tests of dataset roots: what they cover, the order they hold entries to, their text.

use proptest::prelude::*;

use super::*;

const FILE: RootEntry<'_> = RootEntry::File { size_bytes: 5, hash: [7; 32] };

fn root(entries: &[(&str, u32, RootEntry<'_>)]) -> Result<DatasetRoot, RootEntryError> {
    let mut hasher = DatasetRootHasher::new([5; 32]);
    for (path, mode, entry) in entries {
        hasher.entry(path.as_bytes(), *mode, *entry)?;
    }
    Ok(hasher.finish())
}

#[test]
fn a_root_changes_with_everything_that_it_covers() {
    let link = |target| RootEntry::Symlink { target };
    let all = [
        vec![],
        vec![("a", 0o644, FILE)],
        vec![("b", 0o644, FILE)],
        vec![("a", 0o600, FILE)],
        vec![("a", 0o644, RootEntry::File { size_bytes: 6, hash: [7; 32] })],
        vec![("a", 0o644, RootEntry::File { size_bytes: 5, hash: [8; 32] })],
        vec![("a", 0o644, RootEntry::Folder)],
        vec![("a", 0o644, link(b"x"))],
        vec![("a", 0o644, link(b"y"))],
        vec![("a", 0o755, RootEntry::Folder), ("a/b", 0o644, FILE)],
        vec![("a", 0o755, RootEntry::Folder), ("b", 0o644, FILE)],
    ];
    let roots: Vec<DatasetRoot> = all.iter().map(|entries| root(entries).expect("in order")).collect();
    for (place, one) in roots.iter().enumerate() {
        assert_eq!(roots.iter().position(|other| other.hash() == one.hash()), Some(place));
    }
    assert_ne!(DatasetRootHasher::new([6; 32]).finish().hash(), roots[0].hash(), "the salt");
    assert_eq!(root(&all[1]), root(&all[1]));
}

#[test]
fn only_depth_first_order_by_the_bytes_of_names_is_taken() {
    let folder = |path| (path, 0o755, RootEntry::Folder);
    let file = |path| (path, 0o644, FILE);
    let order = Err(RootEntryError::Order);
    assert!(root(&[folder("a"), folder("a/b"), file("a/b/c"), file("a/d"), file("a.txt"), file("b")]).is_ok());
    assert_eq!(root(&[folder("a"), file("a.txt"), file("a/b")]), order, "not as whole paths sort");
    assert_eq!(root(&[file("b"), file("a")]), order);
    assert_eq!(root(&[file("a"), file("a")]), order);
    assert_eq!(root(&[folder("a"), folder("a")]), order);
    assert_eq!(root(&[file("a/b")]), order, "its folder is missing");
    assert_eq!(root(&[file("a"), file("a/b")]), order, "a file is no folder");
    assert_eq!(root(&[folder("a"), file("b"), file("a/c")]), order, "the folder is over");
    assert_eq!(root(&[folder("a"), file("a/b"), file("a/a")]), order);
    assert_eq!(root(&[folder("a"), folder("a/b"), file("b/c")]), order);
    assert_eq!(root(&[folder("a"), file("a/b/c")]), order);
}

#[test]
fn entries_that_break_a_rule_leave_the_hasher_as_it_was() {
    let mut hasher = DatasetRootHasher::new([5; 32]);
    hasher.entry(b"m", 0o644, FILE).expect("the first");
    let before = hasher.finish();
    let deep = ["d"; FOLDER_DEPTH_MAX + 1].join("/");
    let refused = [
        (hasher.entry(b"", 0, FILE), RootEntryError::Name(NameError::Empty)),
        (hasher.entry(b"/n", 0, FILE), RootEntryError::Name(NameError::Empty)),
        (hasher.entry(b"n/../o", 0, FILE), RootEntryError::Name(NameError::Dots)),
        (hasher.entry(deep.as_bytes(), 0, FILE), RootEntryError::TooDeep),
        (hasher.entry(b"n", 0o100_644, FILE), RootEntryError::Mode(0o100_644)),
        (hasher.entry(b"n", 0, RootEntry::Symlink { target: b"" }), RootEntryError::Target(0)),
        (hasher.entry(b"l", 0, FILE), RootEntryError::Order),
    ];
    for (found, expected) in refused {
        assert_eq!(found, Err(expected));
    }
    assert_eq!(hasher.finish(), before);
    hasher.entry(b"n", 0o644, FILE).expect("goes on");
}

#[test]
fn a_text_with_any_one_character_changed_is_refused() {
    let text = root(&[("a", 0o644, FILE)]).expect("in order").to_string();
    assert_eq!(text.len(), 120);
    assert_eq!(text.parse(), root(&[("a", 0o644, FILE)]).map_err(|_| DatasetRootError::Text));
    for place in 0..text.len() {
        for symbol in b"abcdefghijklmnopqrstuvwxyz234567018AZ =" {
            let mut changed = text.as_bytes().to_vec();
            if changed[place] != *symbol {
                changed[place] = *symbol;
                assert!(String::from_utf8(changed).expect("ASCII").parse::<DatasetRoot>().is_err(), "{place} {symbol}");
            }
        }
        assert!(text[..place].parse::<DatasetRoot>().is_err());
    }
    assert_eq!(format!("{text}a").parse::<DatasetRoot>(), Err(DatasetRootError::Text));
    assert_eq!("dolmen1aaaa".parse::<DatasetRoot>(), Err(DatasetRootError::Prefix));
    assert!(crate::link::Link::parse(&text).is_err(), "a root is no link");
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}", tail in "[a-z2-7]{0,120}") {
        let _ = text.parse::<DatasetRoot>();
        let _ = format!("{DATASET_ROOT_PREFIX}{tail}").parse::<DatasetRoot>();
    }

    #[test]
    fn no_entries_make_it_panic(entries in proptest::collection::vec(("[ab/.]{0,6}", any::<u32>(), 0u8..3), 0..20)) {
        let mut hasher = DatasetRootHasher::new([0; 32]);
        for (path, mode, kind) in entries {
            let entry = match kind {
                0 => FILE,
                1 => RootEntry::Folder,
                _ => RootEntry::Symlink { target: path.as_bytes() },
            };
            let _ = hasher.entry(path.as_bytes(), mode & 0o7777, entry);
        }
    }
}
