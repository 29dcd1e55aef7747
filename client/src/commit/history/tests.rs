//! History: what policies keep, what selectors mean, what merges come to.

use dolmen_proto::ids::{SegmentId, SnapshotId, Timestamp as Time};
use dolmen_proto::seal::ChunkKey;
use dolmen_proto::tree::BlobPointer;
use proptest::prelude::*;

use super::*;

/// A row made at this time (ms), its id beginning with these bytes.
fn row(created: u64, id: u8, tags: &[&str]) -> HistoryRow {
    HistoryRow {
        created: Time::from_unix_ms(created),
        id: SnapshotId::new([id; 32]),
        root: BlobPointer { key: ChunkKey::new([1; 32]), segment: SegmentId::new([2; 32]), offset: 0, length: 10 },
        files: 1,
        bytes: 2,
        message: String::new(),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
    }
}

/// Rows at these times, such as `2026-01-01T10:00:00Z`; their ids are their places.
fn rows_at(times: &[&str]) -> Vec<HistoryRow> {
    let at = |time: &&str| u64::try_from(time.parse::<Timestamp>().unwrap().as_millisecond()).unwrap();
    times.iter().zip(0..).map(|(time, id)| row(at(time), id, &[])).collect()
}

fn kept(policy: &ForgetPolicy, rows: &[HistoryRow]) -> Vec<u8> {
    let zone = TimeZone::UTC;
    policy.keep(rows, &zone).unwrap().iter().map(|row| row.id.as_bytes()[0]).collect()
}

#[test]
fn policies_keep_what_restic_keeps() {
    let rows = rows_at(&[
        "2024-12-31T23:00:00Z", // 0: the week of 2025-01-01
        "2025-06-01T12:00:00Z", // 1
        "2026-01-30T12:00:00Z", // 2: a Friday
        "2026-02-01T12:00:00Z", // 3: a Sunday, the same week
        "2026-02-02T09:00:00Z", // 4: a Monday
        "2026-02-02T09:30:00Z", // 5
        "2026-02-02T11:00:00Z", // 6
        "2026-02-03T08:00:00Z", // 7
    ]);
    let none = ForgetPolicy::default;
    assert_eq!(kept(&ForgetPolicy { last: 3, ..none() }, &rows), [5, 6, 7]);
    assert_eq!(kept(&ForgetPolicy { hourly: 3, ..none() }, &rows), [5, 6, 7]);
    assert_eq!(kept(&ForgetPolicy { daily: 3, ..none() }, &rows), [3, 6, 7]);
    assert_eq!(kept(&ForgetPolicy { weekly: 2, ..none() }, &rows), [3, 7]);
    assert_eq!(kept(&ForgetPolicy { monthly: 2, ..none() }, &rows), [2, 7]);
    assert_eq!(kept(&ForgetPolicy { yearly: 2, ..none() }, &rows), [1, 7]);
    assert_eq!(kept(&ForgetPolicy { yearly: 9, ..none() }, &rows), [0, 1, 7]);
    assert_eq!(kept(&ForgetPolicy { last: 1, monthly: 3, ..none() }, &rows), [1, 2, 7]);
    assert_eq!(kept(&ForgetPolicy { last: 100, ..none() }, &rows).len(), 8);
    assert_eq!(none().keep(&rows, &TimeZone::UTC).unwrap_err().kind(), ErrorKind::Usage);
    // While a rule has some left it keeps the oldest, though its day is taken.
    let one_day = rows_at(&["2026-02-02T09:00:00Z", "2026-02-02T10:00:00Z", "2026-02-02T11:00:00Z"]);
    assert_eq!(kept(&ForgetPolicy { daily: 2, ..none() }, &one_day), [0, 2]);
    assert_eq!(kept(&ForgetPolicy { daily: 1, ..none() }, &one_day), [2]);
    assert!(kept(&ForgetPolicy { last: 1, ..none() }, &[]).is_empty());
}

#[test]
fn days_are_those_of_the_zone() {
    let rows = rows_at(&["2026-02-02T22:30:00Z", "2026-02-02T23:30:00Z"]);
    let policy = ForgetPolicy { daily: 1, ..ForgetPolicy::default() };
    assert_eq!(kept(&policy, &rows), [1]);
    let policy = ForgetPolicy { daily: 2, ..ForgetPolicy::default() };
    let berlin = TimeZone::fixed(jiff::tz::offset(1));
    assert_eq!(policy.keep(&rows, &berlin).unwrap().len(), 2);
}

#[test]
fn tags_and_the_newest_are_kept_whatever_the_rule() {
    let rows = [row(1, 1, &["v1"]), row(2, 2, &[]), row(3, 3, &[])];
    let policy = ForgetPolicy { tags: vec!["v1".to_owned()], ..ForgetPolicy::default() };
    assert_eq!(kept(&policy, &rows), [1, 3]);
}

#[test]
fn selectors_take_tags_before_ids_and_refuse_to_guess() {
    let rows = [row(1, 0xab, &["cdcd"]), row(2, 0xcd, &[]), row(3, 0xce, &["v1"])];
    let find = |text: &str| Selector::Named(text.to_owned()).find(&rows).map(|row| row.id.as_bytes()[0]);
    assert_eq!(Selector::Newest.find(&rows).unwrap().id.as_bytes()[0], 0xce);
    assert_eq!((find("v1"), find("ABAB"), find("cdcd"), find("cdcdc")), (Ok(0xce), Ok(0xab), Ok(0xab), Ok(0xcd)));
    for text in ["abc", "", "v2", "0000", "x".repeat(100).as_str()] {
        assert_eq!(find(text).unwrap_err().kind(), ErrorKind::NotFound, "{text}");
    }
    let mut twin = row(4, 0xab, &[]);
    twin.id = SnapshotId::new([&[0xab; 31][..], &[0]].concat().try_into().unwrap());
    let twins = [rows[0].clone(), twin];
    assert_eq!(Selector::Named("abab".to_owned()).find(&twins).unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(Selector::Newest.find(&[]).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_tag_names_one_snapshot() {
    let mut rows = vec![row(1, 0xaa, &[]), row(2, 0xbb, &[])];
    let first = Selector::Named("aaaa".to_owned());
    add_tag(&mut rows, &first, "v1").unwrap();
    add_tag(&mut rows, &first, "v1").unwrap();
    add_tag(&mut rows, &first, "a").unwrap();
    assert_eq!(rows[0].tags, ["a", "v1"]);
    assert_eq!(add_tag(&mut rows, &Selector::Newest, "v1").unwrap_err().kind(), ErrorKind::Usage);
    for bad in ["", "a@b", "a:b", "a/b", " a", "a\n", &"x".repeat(65)] {
        assert_eq!(add_tag(&mut rows, &first, bad).unwrap_err().kind(), ErrorKind::Usage, "{bad:?}");
    }
    for number in 0..TAGS_MAX - 2 {
        add_tag(&mut rows, &first, &format!("t{number}")).unwrap();
    }
    assert!(add_tag(&mut rows, &first, "one more").is_err());
    remove_tag(&mut rows, "v1").unwrap();
    assert_eq!(remove_tag(&mut rows, "v1").unwrap_err().kind(), ErrorKind::NotFound);
    add_tag(&mut rows, &Selector::Newest, "v1").unwrap();
}

#[test]
fn merged_histories_lose_no_snapshot_that_nobody_forgot() {
    let base = [row(1, 1, &["old"]), row(2, 2, &[]), row(3, 3, &[])];
    let mine = [row(2, 2, &["good"]), row(3, 3, &[]), row(5, 5, &["new"])];
    let theirs = [row(1, 1, &["old"]), row(2, 2, &["ok"]), row(4, 4, &["new"])];
    let merged = merge_rows(&base, &mine, &theirs);
    let found: Vec<(u8, Vec<String>)> = merged.iter().map(|row| (row.id.as_bytes()[0], row.tags.clone())).collect();
    let tags = |tags: &[&str]| tags.iter().map(|tag| (*tag).to_owned()).collect::<Vec<_>>();
    // 1: I forgot it. 3: they forgot it. 2: both tagged it. 4 and 5 are new, and one tag names one of them.
    assert_eq!(found, [(2, tags(&["good", "ok"])), (4, tags(&["new"])), (5, tags(&[]))]);
    let tagged = [row(1, 1, &["kept"]), row(2, 2, &[]), row(3, 3, &[])];
    assert_eq!(merge_rows(&base, &tagged, &base[1..]).len(), 3, "tagged here, forgotten there: it stays");
    assert_eq!(merge_rows(&base, &base[1..], &tagged).len(), 3);
}

proptest! {
    #[test]
    fn merging_with_what_did_not_change_is_the_change(
        base in prop::collection::btree_set(0u8..12, 0..8),
        changed in prop::collection::btree_set(0u8..12, 0..8),
    ) {
        let rows = |ids: &BTreeSet<u8>| ids.iter().map(|id| row(u64::from(*id), *id, &[])).collect::<Vec<_>>();
        let (base, changed) = (rows(&base), rows(&changed));
        prop_assert_eq!(&merge_rows(&base, &changed, &base), &changed);
        prop_assert_eq!(&merge_rows(&base, &base, &changed), &changed);
        prop_assert_eq!(&merge_rows(&base, &changed, &changed), &changed);
    }

    #[test]
    fn a_policy_keeps_a_part_in_order_and_the_newest(
        times in prop::collection::btree_set(0u64..4_000_000_000_000, 1..40),
        counts in prop::array::uniform6(0u32..5),
    ) {
        let rows: Vec<_> = times.iter().zip(0..).map(|(time, id)| row(*time, id, &[])).collect();
        let [last, hourly, daily, weekly, monthly, yearly] = counts;
        let policy = ForgetPolicy { last, hourly, daily, weekly, monthly, yearly, tags: Vec::new() };
        prop_assume!(counts.iter().any(|count| *count > 0));
        let kept = policy.keep(&rows, &TimeZone::UTC).unwrap();
        prop_assert!(kept.windows(2).all(|pair| pair[0].created < pair[1].created));
        prop_assert!(kept.iter().all(|row| rows.contains(row)));
        prop_assert_eq!(kept.last(), rows.last());
        prop_assert!(kept.len() as u32 <= counts.iter().sum::<u32>() + 1);
        prop_assert!(kept.len() >= (last as usize).min(rows.len()));
    }
}
