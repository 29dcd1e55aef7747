//! Two trees of files that grew out of one, made into one again.
//!
//! Decides what becomes of each path: changes of different paths are both taken, a change and a deletion of one path
//! keep the change, two different changes of one path keep both under different names. Nothing that either writer
//! stored is lost. Reads and writes folders in step, one open folder of each tree a level.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use dolmen_proto::ids::SnapshotId;
use dolmen_proto::limits::NAME_MAX_BYTES;
use dolmen_proto::manifest::{Entry, EntryKind, FolderBuilder, FolderEntry, Name, Totals};
use tokio::runtime::Handle;

use crate::error::ClientError;
use crate::put::{Cursor, Parent, Sink, built};

/// Conflicts that are named one by one; further ones are counted.
const CONFLICTS_NAMED_MAX: usize = 1000;
/// Ends the name of a renamed entry when its first new name is taken.
const AGAIN: &[u8] = b" again";

/// The three trees of a merge; `None` where there is nothing.
pub(super) struct Trees {
    /// What both grew out of.
    pub(super) base: Option<Parent>,
    /// The one whose changes are added.
    pub(super) mine: Parent,
    /// The one that they are added to; its names stay as they are.
    pub(super) theirs: Parent,
    /// The snapshot of `mine`: conflicting files are named after it.
    pub(super) mine_id: SnapshotId,
}

/// A path that both writers changed, each in another way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathConflict {
    /// Components separated by slashes; there lies the version that was published first.
    pub(crate) path: Vec<u8>,
    /// Beside it, the other one.
    pub(crate) kept_as: Vec<u8>,
}

/// What a merge came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Merged {
    pub(crate) conflicts: Vec<PathConflict>,
    /// Conflicts beyond those that are named.
    pub(crate) further_conflicts: u64,
    /// Paths that one writer removed and the other changed; the change was kept.
    pub(crate) kept_changes: u64,
}

impl Merged {
    /// Adds what another merge came to.
    pub(crate) fn add(&mut self, other: Self) {
        let room = CONFLICTS_NAMED_MAX.saturating_sub(self.conflicts.len());
        self.further_conflicts += other.further_conflicts + other.conflicts.len().saturating_sub(room) as u64;
        self.conflicts.extend(other.conflicts.into_iter().take(room));
        self.kept_changes += other.kept_changes;
    }
}

/// What becomes of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pick {
    Nothing,
    Mine,
    Theirs,
    /// The only one that is left.
    Change,
    /// All that are there are folders: look inside.
    Inside,
    Both,
}

/// Whether two entries say the same. Where their bytes lie is no part of it, and equal keys are equal content.
pub(super) fn same(one: &Entry, other: &Entry) -> bool {
    same_content(&one.kind, &other.kind)
        && one.mode == other.mode
        && one.modified_ns == other.modified_ns
        && one.owner == other.owner
        && one.hard_link_group == other.hard_link_group
        && one.xattrs == other.xattrs
        && one.extensions == other.extensions
}

fn same_content(one: &EntryKind, other: &EntryKind) -> bool {
    match (one, other) {
        (EntryKind::File(one), EntryKind::File(other)) => {
            one.size_bytes == other.size_bytes
                && match (one.hash, other.hash) {
                    (Some(one), Some(other)) => one == other,
                    _ => one.extents == other.extents,
                }
        }
        (EntryKind::Folder(one), EntryKind::Folder(other)) => {
            one.totals == other.totals && one.tree.key == other.tree.key
        }
        (EntryKind::Symlink { target: one }, EntryKind::Symlink { target: other }) => one == other,
        _ => false,
    }
}

fn same_option(one: Option<&Entry>, other: Option<&Entry>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => same(one, other),
        _ => false,
    }
}

fn is_folder(entry: Option<&Entry>) -> bool {
    entry.is_some_and(|entry| matches!(entry.kind, EntryKind::Folder(_)))
}

fn decide(base: Option<&Entry>, mine: Option<&Entry>, theirs: Option<&Entry>) -> Pick {
    let take = |entry: Option<&Entry>, pick| if entry.is_some() { pick } else { Pick::Nothing };
    if same_option(mine, theirs) || same_option(base, mine) {
        return take(theirs, Pick::Theirs);
    }
    if same_option(base, theirs) {
        return take(mine, Pick::Mine);
    }
    match (mine, theirs) {
        (None, None) => Pick::Nothing,
        (Some(one), None) | (None, Some(one)) if is_folder(Some(one)) && is_folder(base) => Pick::Inside,
        (Some(_), None) | (None, Some(_)) => Pick::Change,
        (Some(one), Some(other)) if is_folder(mine) && is_folder(theirs) => {
            debug_assert!(!same(one, other));
            Pick::Inside
        }
        (Some(one), Some(other)) if same_content(&one.kind, &other.kind) => {
            if one.modified_ns > other.modified_ns {
                Pick::Mine
            } else {
                Pick::Theirs
            }
        }
        (Some(_), Some(_)) => Pick::Both,
    }
}

/// The entries of a folder that may not be there.
struct Side(Option<Cursor>);

impl Side {
    fn of(parent: Option<&Parent>, entry: Option<&Entry>) -> Self {
        match (parent, entry.map(|entry| &entry.kind)) {
            (Some(parent), Some(EntryKind::Folder(folder))) => Self(Some(parent.folder(folder))),
            _ => Self(None),
        }
    }

    fn name(&mut self, runtime: &Handle) -> Result<Option<Name>, ClientError> {
        let Some(cursor) = &mut self.0 else { return Ok(None) };
        Ok(runtime.block_on(cursor.peek())?.map(|entry| entry.name.clone()))
    }

    /// The next entry if that is its name.
    fn take(&mut self, name: &Name, runtime: &Handle) -> Result<Option<Entry>, ClientError> {
        let Some(cursor) = &mut self.0 else { return Ok(None) };
        match runtime.block_on(cursor.peek())? {
            Some(entry) if entry.name == *name => runtime.block_on(cursor.next()),
            _ => Ok(None),
        }
    }
}

/// A folder that is being merged.
struct Level {
    base: Side,
    mine: Side,
    theirs: Side,
    folder: FolderBuilder,
    count: u64,
    /// Renamed entries that wait for their place in the order of names.
    waiting: BTreeMap<Name, Entry>,
    /// What the folder is in the one above, without its tree; `None` for the root.
    entry: Option<Entry>,
    /// One writer removed it: it goes when nothing in it was changed by the other.
    removed: bool,
}

impl Level {
    /// The smallest name that any side has next.
    fn next_name(&mut self, runtime: &Handle) -> Result<Option<Name>, ClientError> {
        let names = [self.base.name(runtime)?, self.mine.name(runtime)?, self.theirs.name(runtime)?];
        Ok(names.into_iter().flatten().min())
    }

    fn push(&mut self, entry: Entry, sink: &mut Sink) -> Result<(), ClientError> {
        self.count += 1;
        self.folder.push(entry, sink).map_err(built)
    }

    /// Has an entry wait for its place under a name, or under a longer one when that is taken; gives the name.
    fn wait(&mut self, mut name: Name, mut entry: Entry) -> Result<Name, ClientError> {
        while self.waiting.contains_key(&name) {
            name = with_suffix(&name, AGAIN)?;
        }
        entry.name = name.clone();
        self.waiting.insert(name.clone(), entry);
        Ok(name)
    }

    /// Writes what waits for a place before `next`; what would take the very name of `next` gets another.
    fn flush(&mut self, next: Option<&Name>, sink: &mut Sink) -> Result<(), ClientError> {
        while let Some((name, entry)) = self.waiting.pop_first() {
            match next.map_or(Ordering::Less, |next| name.cmp(next)) {
                Ordering::Less => self.push(entry, sink)?,
                Ordering::Equal => {
                    self.wait(with_suffix(&name, AGAIN)?, entry)?;
                }
                Ordering::Greater => {
                    self.waiting.insert(name, entry);
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// A name with something at its end; the name is cut where that would be too long.
fn with_suffix(name: &Name, suffix: &[u8]) -> Result<Name, ClientError> {
    let room = NAME_MAX_BYTES - suffix.len().min(NAME_MAX_BYTES);
    let front = &name.as_bytes()[..name.as_bytes().len().min(room)];
    Name::new([front, suffix].concat()).map_err(|error| ClientError::bug("could not name a conflicting file", error))
}

fn conflict_name(name: &Name, id: &SnapshotId) -> Result<Name, ClientError> {
    let id = id.to_string();
    with_suffix(name, format!(" (conflict {})", &id[..8]).as_bytes())
}

/// Merges the trees' roots; gives the merged root, its pointer under the sink's provisional id. Blocks the thread.
///
/// # Errors
/// `NotNow` or `Damaged` when a folder cannot be read; as [`Sink`] when one cannot be written.
pub(super) fn merge(trees: &Trees, runtime: &Handle, sink: &mut Sink) -> Result<(FolderEntry, Merged), ClientError> {
    let mut merged = Merged::default();
    let mut levels = vec![Level {
        base: Side(trees.base.as_ref().map(Parent::root)),
        mine: Side(Some(trees.mine.root())),
        theirs: Side(Some(trees.theirs.root())),
        folder: FolderBuilder::new(),
        count: 0,
        waiting: BTreeMap::new(),
        entry: None,
        removed: false,
    }];
    loop {
        let Some(level) = levels.last_mut() else { return Err(lost()) };
        let next = level.next_name(runtime)?;
        level.flush(next.as_ref(), sink)?;
        let Some(name) = next else {
            let done = levels.pop().ok_or_else(lost)?;
            let Some(mut entry) = done.entry else {
                return Ok((done.folder.finish(sink).map_err(built)?, merged));
            };
            if done.removed && done.count == 0 {
                continue;
            }
            merged.kept_changes += u64::from(done.removed);
            entry.kind = EntryKind::Folder(done.folder.finish(sink).map_err(built)?);
            levels.last_mut().ok_or_else(lost)?.push(entry, sink)?;
            continue;
        };
        let base = level.base.take(&name, runtime)?;
        let (mine, theirs) = (level.mine.take(&name, runtime)?, level.theirs.take(&name, runtime)?);
        match (decide(base.as_ref(), mine.as_ref(), theirs.as_ref()), mine, theirs) {
            (Pick::Nothing, ..) => {}
            (Pick::Mine, Some(entry), _) | (Pick::Theirs, _, Some(entry)) => level.push(entry, sink)?,
            (Pick::Change, mine, theirs) => {
                merged.kept_changes += 1;
                level.push(mine.or(theirs).ok_or_else(lost)?, sink)?;
            }
            (Pick::Both, Some(mine), Some(theirs)) => {
                let kept = level.wait(conflict_name(&name, &trees.mine_id)?, mine)?;
                level.push(theirs, sink)?;
                note_conflict(&mut merged, &levels, &name, &kept);
            }
            (Pick::Inside, mine, theirs) => {
                let below = Level {
                    base: Side::of(trees.base.as_ref(), base.as_ref()),
                    mine: Side::of(Some(&trees.mine), mine.as_ref()),
                    theirs: Side::of(Some(&trees.theirs), theirs.as_ref()),
                    folder: FolderBuilder::new(),
                    count: 0,
                    waiting: BTreeMap::new(),
                    removed: mine.is_none() || theirs.is_none(),
                    entry: Some(outside(base.as_ref(), mine, theirs).ok_or_else(lost)?),
                };
                levels.push(below);
            }
            (Pick::Mine | Pick::Theirs | Pick::Both, ..) => return Err(lost()),
        }
    }
}

fn lost() -> ClientError {
    ClientError::bug("could not merge two trees", "an entry was lost on the way")
}

/// Mode, times and the rest of a folder that is looked into: those of the side that changed them, of the later one when
/// both did.
fn outside(base: Option<&Entry>, mine: Option<Entry>, theirs: Option<Entry>) -> Option<Entry> {
    let bare = |entry: &Entry| {
        let mut entry = entry.clone();
        if let EntryKind::Folder(folder) = &mut entry.kind {
            folder.totals = Totals::default();
            folder.tree.key = dolmen_proto::seal::ChunkKey::new([0; 32]);
        }
        entry
    };
    match (mine, theirs) {
        (Some(mine), Some(theirs)) => {
            let unchanged = |entry: &Entry| base.is_some_and(|base| same(&bare(base), &bare(entry)));
            let take_mine = !unchanged(&mine) && (unchanged(&theirs) || mine.modified_ns > theirs.modified_ns);
            Some(if take_mine { mine } else { theirs })
        }
        (one, other) => one.or(other),
    }
}

fn note_conflict(merged: &mut Merged, levels: &[Level], name: &Name, kept: &Name) {
    if merged.conflicts.len() >= CONFLICTS_NAMED_MAX {
        merged.further_conflicts += 1;
        return;
    }
    let mut folder = Vec::new();
    for entry in levels.iter().filter_map(|level| level.entry.as_ref()) {
        folder.extend_from_slice(entry.name.as_bytes());
        folder.push(b'/');
    }
    merged
        .conflicts
        .push(PathConflict { path: [&folder, name.as_bytes()].concat(), kept_as: [&folder, kept.as_bytes()].concat() });
}

#[cfg(test)]
mod tests {
    use dolmen_proto::ids::SegmentId;
    use dolmen_proto::manifest::{ExtentList, FileEntry};
    use dolmen_proto::seal::ChunkKey;
    use dolmen_proto::tree::BlobPointer;

    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn file(content: u8, modified_ns: i64) -> Entry {
        let kind = FileEntry { size_bytes: 0, hash: Some([content; 32]), extents: ExtentList::Inline(Vec::new()) };
        Entry::new(name("n"), 0o644, modified_ns, EntryKind::File(kind))
    }

    /// A folder whose tree has this key and lies in that segment.
    fn folder(key: u8, segment: u8) -> Entry {
        let tree =
            BlobPointer { key: ChunkKey::new([key; 32]), segment: SegmentId::new([segment; 32]), offset: 0, length: 9 };
        Entry::new(name("n"), 0o755, 0, EntryKind::Folder(FolderEntry { totals: Totals::default(), tree }))
    }

    #[test]
    fn a_change_of_one_side_is_taken() {
        let (old, new) = (file(1, 1), file(2, 2));
        let (old, new) = (Some(&old), Some(&new));
        assert_eq!(decide(old, new, old), Pick::Mine);
        assert_eq!(decide(old, old, new), Pick::Theirs);
        assert_eq!(decide(None, new, None), Pick::Mine, "added");
        assert_eq!(decide(None, None, new), Pick::Theirs, "added");
        assert_eq!(decide(old, None, old), Pick::Nothing, "removed");
        assert_eq!(decide(old, old, None), Pick::Nothing, "removed");
        assert_eq!(decide(old, None, None), Pick::Nothing);
        assert_eq!(decide(old, new, new), Pick::Theirs, "the same change");
    }

    #[test]
    fn a_change_outlives_a_deletion_whoever_was_first() {
        let (old, new) = (file(1, 1), file(2, 2));
        assert_eq!(decide(Some(&old), Some(&new), None), Pick::Change);
        assert_eq!(decide(Some(&old), None, Some(&new)), Pick::Change);
        let (before, after) = (folder(1, 1), folder(2, 1));
        assert_eq!(decide(Some(&before), Some(&after), None), Pick::Inside, "what in it changed is found inside");
        assert_eq!(decide(Some(&before), None, Some(&after)), Pick::Inside);
        assert_eq!(decide(Some(&before), None, Some(&new)), Pick::Change, "a file took its place");
    }

    #[test]
    fn two_changes_of_one_path_keep_both_unless_they_come_to_the_same() {
        let (old, one, other) = (file(1, 1), file(2, 2), file(3, 3));
        assert_eq!(decide(Some(&old), Some(&one), Some(&other)), Pick::Both);
        assert_eq!(decide(None, Some(&one), Some(&other)), Pick::Both);
        assert_eq!(decide(None, Some(&one), Some(&folder(1, 1))), Pick::Both);
        assert_eq!(decide(Some(&old), Some(&file(2, 9)), Some(&one)), Pick::Mine, "the same bytes, the later time");
        assert_eq!(decide(Some(&old), Some(&one), Some(&file(2, 9))), Pick::Theirs);
        assert_eq!(decide(None, Some(&folder(1, 1)), Some(&folder(2, 1))), Pick::Inside);
        let moved = folder(1, 7);
        assert_eq!(
            decide(Some(&folder(1, 1)), Some(&moved), Some(&folder(2, 1))),
            Pick::Theirs,
            "moved is not changed"
        );
    }

    #[test]
    fn the_outside_of_a_folder_is_of_the_side_that_changed_it() {
        let (base, mut mine, theirs) = (folder(1, 1), folder(2, 1), folder(3, 1));
        mine.mode = 0o700;
        let outcome = outside(Some(&base), Some(mine.clone()), Some(theirs.clone())).unwrap();
        assert_eq!(outcome.mode, 0o700);
        let outcome = outside(Some(&base), Some(theirs.clone()), Some(mine.clone())).unwrap();
        assert_eq!(outcome.mode, 0o700);
        let mut later = theirs;
        (later.mode, later.modified_ns) = (0o711, 5);
        assert_eq!(outside(Some(&base), Some(mine), Some(later)).unwrap().mode, 0o711, "both: the later");
    }

    #[test]
    fn a_conflicting_name_is_never_too_long() {
        let id = SnapshotId::new([0xab; 32]);
        assert_eq!(conflict_name(&name("a.txt"), &id).unwrap(), name("a.txt (conflict abababab)"));
        let long = conflict_name(&Name::new(vec![b'x'; NAME_MAX_BYTES]).unwrap(), &id).unwrap();
        assert_eq!(long.as_bytes().len(), NAME_MAX_BYTES);
        assert!(long.as_bytes().ends_with(b" (conflict abababab)"));
    }
}
