//! The rows of a dataset's history: which snapshots are kept, under which names.
//!
//! Decides which rows a policy keeps, what a selector means, and what becomes of rows that two writers changed. Never
//! reads or writes the tree that holds them.

use std::collections::{BTreeMap, BTreeSet};

use dolmen_proto::history::{HistoryKey, HistoryRow};
use dolmen_proto::limits::{TAG_MAX_BYTES, TAGS_MAX};
use dolmen_proto::tree::TreeItem;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::error::{ClientError, ErrorKind};

/// Shortest beginning of an id that selects a snapshot.
const PREFIX_MIN_DIGITS: usize = 4;

/// Which snapshots `forget` keeps, as restic has it: of each rule the newest snapshot of each of the last so many hours,
/// days and so on that have one, and the oldest of all while a rule has some left. The newest snapshot is always kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForgetPolicy {
    /// So many of the newest.
    pub last: u32,
    /// One for each of so many hours.
    pub hourly: u32,
    /// One for each of so many days.
    pub daily: u32,
    /// One for each of so many weeks (Monday to Sunday).
    pub weekly: u32,
    /// One for each of so many months.
    pub monthly: u32,
    /// One for each of so many years.
    pub yearly: u32,
    /// All that have one of these tags.
    pub tags: Vec<String>,
}

impl ForgetPolicy {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The rows that stay, in their order; days and so on are those of `zone`.
    ///
    /// # Errors
    /// `Usage` when the policy keeps nothing by any rule.
    pub(crate) fn keep(&self, rows: &[HistoryRow], zone: &TimeZone) -> Result<Vec<HistoryRow>, ClientError> {
        if self.is_empty() {
            return Err(ClientError::new(
                ErrorKind::Usage,
                "nothing says which snapshots to keep",
                "a policy without rules would forget all but the newest",
                "give at least one rule, such as --keep-last 10",
            ));
        }
        let mut rules = [
            Rule::new(self.last, |_, place| vec![place as i64]),
            Rule::new(self.hourly, |time, _| vec![time.year().into(), time.day_of_year().into(), time.hour().into()]),
            Rule::new(self.daily, |time, _| vec![time.year().into(), time.day_of_year().into()]),
            Rule::new(self.weekly, |time, _| {
                let week = time.date().iso_week_date();
                vec![week.year().into(), week.week().into()]
            }),
            Rule::new(self.monthly, |time, _| vec![time.year().into(), time.month().into()]),
            Rule::new(self.yearly, |time, _| vec![time.year().into()]),
        ];
        let mut kept = Vec::new();
        for (place, row) in rows.iter().rev().enumerate() {
            let ms = i64::try_from(row.created.as_unix_ms()).unwrap_or(i64::MAX);
            let time = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX).to_zoned(zone.clone());
            let oldest = place + 1 == rows.len();
            let mut keep = place == 0 || row.tags.iter().any(|tag| self.tags.contains(tag));
            for rule in &mut rules {
                keep |= rule.takes(&time, place, oldest);
            }
            if keep {
                kept.push(row.clone());
            }
        }
        kept.reverse();
        Ok(kept)
    }
}

struct Rule {
    left: u32,
    bucket: fn(&jiff::Zoned, usize) -> Vec<i64>,
    last: Option<Vec<i64>>,
}

impl Rule {
    fn new(left: u32, bucket: fn(&jiff::Zoned, usize) -> Vec<i64>) -> Self {
        Self { left, bucket, last: None }
    }

    fn takes(&mut self, time: &jiff::Zoned, place: usize, oldest: bool) -> bool {
        if self.left == 0 {
            return false;
        }
        let bucket = (self.bucket)(time, place);
        if self.last.as_ref() == Some(&bucket) && !oldest {
            return false;
        }
        self.last = Some(bucket);
        self.left -= 1;
        true
    }
}

/// A snapshot of a dataset, as a person names it: the newest, the beginning of an id, or a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The newest.
    Newest,
    /// A tag, or at least four hexadecimal digits that only one id begins with; a tag goes first.
    Named(String),
}

impl Selector {
    /// The row that is meant; the newest of them when it is not named.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Usage` when several are meant.
    pub(crate) fn find<'a>(&self, rows: &'a [HistoryRow]) -> Result<&'a HistoryRow, ClientError> {
        let missing = |what: String, why: &str| {
            ClientError::new(ErrorKind::NotFound, what, why, "list the snapshots with `dolmen log`")
        };
        let Self::Named(text) = self else {
            return rows.last().ok_or_else(|| missing("the dataset has no snapshot".to_owned(), "nothing was put yet"));
        };
        if let Some(row) = rows.iter().find(|row| row.tags.contains(text)) {
            return Ok(row);
        }
        let none =
            || missing(format!("there is no snapshot {text:?}"), "no tag and no id of a kept snapshot is like it");
        if text.len() < PREFIX_MIN_DIGITS || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(none());
        }
        let prefix = text.to_ascii_lowercase();
        let mut found = rows.iter().filter(|row| row.id.to_string().starts_with(&prefix));
        match (found.next(), found.next()) {
            (Some(row), None) => Ok(row),
            (None, _) => Err(none()),
            (Some(_), Some(_)) => Err(ClientError::new(
                ErrorKind::Usage,
                format!("{text:?} could be several snapshots"),
                "more than one id begins with it",
                "give more digits of the id",
            )),
        }
    }
}

/// Takes snapshots out of a history, all of them or none; gives them, oldest first.
///
/// # Errors
/// As [`Selector::find`]; `Usage` for the newest.
pub(crate) fn drop_rows(rows: &mut Vec<HistoryRow>, snapshots: &[Selector]) -> Result<Vec<HistoryRow>, ClientError> {
    let mut gone = BTreeSet::new();
    for snapshot in snapshots {
        let row = snapshot.find(rows)?;
        if rows.last().is_some_and(|newest| newest.id == row.id) {
            return Err(ClientError::new(
                ErrorKind::Usage,
                format!("snapshot {} cannot be forgotten", row.id.short()),
                "it is the newest, which is what the dataset holds now",
                "put or remove something first, or remove the dataset with `dolmen rm --all`",
            ));
        }
        gone.insert(row.id);
    }
    let (dropped, kept) = std::mem::take(rows).into_iter().partition(|row| gone.contains(&row.id));
    *rows = kept;
    Ok(dropped)
}

/// Whether a text may be a tag.
///
/// # Errors
/// `Usage`, with the rule that it breaks.
pub(crate) fn check_tag(tag: &str) -> Result<(), ClientError> {
    let broken = |why: &str| {
        let advice = "a tag is like v1.0: 1 to 64 bytes, no @, no colon, no slash, no spaces at its ends";
        Err(ClientError::new(ErrorKind::Usage, format!("{tag:?} cannot be a tag"), why, advice))
    };
    if tag.is_empty() || tag.len() > TAG_MAX_BYTES {
        return broken("it has 1 to 64 bytes");
    }
    if tag.contains(['@', ':', '/']) || tag.chars().any(char::is_control) || tag.trim() != tag {
        return broken("it has a character that a tag must not have");
    }
    Ok(())
}

/// Gives a snapshot a tag.
///
/// # Errors
/// `NotFound` or `Usage`: no such snapshot, a tag that is impossible or taken, too many of them.
pub(crate) fn add_tag(rows: &mut [HistoryRow], snapshot: &Selector, tag: &str) -> Result<(), ClientError> {
    check_tag(tag)?;
    let id = snapshot.find(rows)?.id;
    let taken = |why: String, advice: &str| {
        Err(ClientError::new(ErrorKind::Usage, format!("the snapshot cannot be tagged {tag:?}"), why, advice))
    };
    if let Some(other) = rows.iter().find(|row| row.tags.iter().any(|name| name == tag)) {
        if other.id == id {
            return Ok(());
        }
        let why = format!("snapshot {} has that tag", other.id.short());
        return taken(why, "take another name, or remove the tag there first");
    }
    let Some(row) = rows.iter_mut().find(|row| row.id == id) else { return Ok(()) };
    if row.tags.len() >= TAGS_MAX {
        return taken(format!("it has {TAGS_MAX} tags already"), "remove one of them first");
    }
    row.tags.push(tag.to_owned());
    row.tags.sort_unstable();
    Ok(())
}

/// Takes a tag away from whichever snapshot has it.
///
/// # Errors
/// `NotFound` when none has.
pub(crate) fn remove_tag(rows: &mut [HistoryRow], tag: &str) -> Result<(), ClientError> {
    let row = rows.iter_mut().find(|row| row.tags.iter().any(|name| name == tag)).ok_or_else(|| {
        let advice = "list the snapshots with `dolmen log`";
        ClientError::new(
            ErrorKind::NotFound,
            format!("there is no tag {tag:?}"),
            "no snapshot that is kept has it",
            advice,
        )
    })?;
    row.tags.retain(|name| name != tag);
    Ok(())
}

/// The rows that come of two changes to one history. A row that one side forgot and the other tagged stays; a tag that both
/// gave away stays where `theirs` has it.
pub(crate) fn merge_rows(base: &[HistoryRow], mine: &[HistoryRow], theirs: &[HistoryRow]) -> Vec<HistoryRow> {
    let by_key = |rows: &[HistoryRow]| -> BTreeMap<HistoryKey, HistoryRow> {
        rows.iter().map(|row| (row.label(), row.clone())).collect()
    };
    let (base, mine, theirs) = (by_key(base), by_key(mine), by_key(theirs));
    let taken: BTreeSet<&String> = theirs.values().flat_map(|row| &row.tags).collect();
    let keys: BTreeSet<HistoryKey> = mine.keys().chain(theirs.keys()).copied().collect();
    let merged = keys.into_iter().filter_map(|key| match (base.get(&key), mine.get(&key), theirs.get(&key)) {
        (old, Some(mine), Some(theirs)) => {
            let was: &[String] = old.map_or(&[], |row| &row.tags);
            let mut row = theirs.clone();
            row.tags.retain(|tag| mine.tags.contains(tag) || !was.contains(tag));
            let added = mine.tags.iter().filter(|tag| !was.contains(tag) && !taken.contains(tag));
            row.tags.extend(added.cloned());
            row.tags.sort_unstable();
            row.tags.truncate(TAGS_MAX);
            Some(row)
        }
        (old, Some(one), None) => {
            let mut row = one.clone();
            row.tags.retain(|tag| !taken.contains(tag));
            old.is_none_or(|old| old.tags != one.tags).then_some(row)
        }
        (old, None, Some(one)) => old.is_none_or(|old| old.tags != one.tags).then(|| one.clone()),
        (_, None, None) => None,
    });
    merged.collect()
}

#[cfg(test)]
mod tests;
