//! Reading a tree in order: says which blob it wants next, takes its content, hands out items.
//!
//! Decides the order of blobs and checks what a single blob cannot show: levels, labels, order across blobs. Never
//! fetches; a reader may look ahead ([`TreeWalk::upcoming`]) and fetch several at once. Memory is bounded by the depth
//! and the size of a blob, whatever the tree's writer did.

use super::{BlobPointer, Child, Node, TreeItem, TreeLabel};
use crate::codec::DocumentError;

/// What is known of a blob before it is read.
#[derive(Debug, Clone)]
struct Wanted<L> {
    pointer: BlobPointer,
    /// Label and level as the parent states them; `None` for the root.
    stated: Option<(L, u8)>,
}

/// A walk over the leaves of one tree, left to right.
#[derive(Debug, Clone)]
pub struct TreeWalk<T: TreeItem> {
    /// The next blob is the last one.
    stack: Vec<Wanted<T::Label>>,
    last: Option<T::Label>,
    items: u64,
    stated_items: Option<u64>,
    skipped: bool,
}

impl<T: TreeItem> TreeWalk<T> {
    /// Starts at the root; the pointer must have been resolved.
    #[must_use]
    pub fn new(root: BlobPointer) -> Self {
        let stack = vec![Wanted { pointer: root, stated: None }];
        Self { stack, last: None, items: 0, stated_items: None, skipped: false }
    }

    /// As [`TreeWalk::new`] for a tree that is said to have so many items: the walk fails when it has more, or, unless
    /// blobs were skipped, fewer.
    #[must_use]
    pub fn counted(root: BlobPointer, items: u64) -> Self {
        Self { stated_items: Some(items), ..Self::new(root) }
    }

    /// The blob whose content [`TreeWalk::supply`] takes next; `None` at the end.
    #[must_use]
    pub fn wanted(&self) -> Option<&BlobPointer> {
        self.stack.last().map(|wanted| &wanted.pointer)
    }

    /// The blobs that are known to be wanted, in order, the next one first; more turn up as blobs are read.
    pub fn upcoming(&self) -> impl Iterator<Item = &BlobPointer> {
        self.stack.iter().rev().map(|wanted| &wanted.pointer)
    }

    /// How many items have been handed out.
    #[must_use]
    pub const fn items(&self) -> u64 {
        self.items
    }

    /// Takes the opened content of the blob that was wanted; gives its items, none when it was an inner node.
    ///
    /// # Errors
    /// [`DocumentError`] when the blob is malformed or not what its parent says. The walk is then over.
    pub fn supply(&mut self, blob: &[u8]) -> Result<Vec<T>, DocumentError> {
        let Some(wanted) = self.stack.pop() else { return Ok(Vec::new()) };
        let result = self.take_in(&wanted, blob);
        if result.is_err() {
            self.stack.clear();
        }
        result
    }

    fn take_in(&mut self, wanted: &Wanted<T::Label>, blob: &[u8]) -> Result<Vec<T>, DocumentError> {
        let node = Node::<T>::parse(blob, wanted.pointer.segment)?;
        let label = node.label()?;
        if let Some((stated_label, stated_level)) = &wanted.stated {
            if node.level() != *stated_level {
                return Err(DocumentError::Level { expected: *stated_level, found: node.level() });
            }
            match &label {
                None => return Err(DocumentError::Empty { what: T::PLURAL }),
                Some(label) if label != stated_label => return Err(DocumentError::Label),
                Some(_) => {}
            }
        }
        match node {
            Node::Leaf(items) => {
                if let (Some(last), Some(first)) = (&self.last, &label)
                    && !last.precedes(first)
                {
                    return Err(DocumentError::Order { what: T::PLURAL });
                }
                if let Some(item) = items.last() {
                    self.last = Some(item.label());
                }
                let count = u64::try_from(items.len()).expect("a machine word fits 64 bits");
                self.items = self.items.saturating_add(count);
                self.check_count()?;
                Ok(items)
            }
            Node::Inner { level, children } => {
                let below = level - 1;
                let wanted =
                    |child: Child<T::Label>| Wanted { pointer: child.pointer, stated: Some((child.label, below)) };
                self.stack.extend(children.into_iter().rev().map(wanted));
                Ok(Vec::new())
            }
        }
    }

    fn check_count(&self) -> Result<(), DocumentError> {
        let Some(expected) = self.stated_items else { return Ok(()) };
        let short = self.stack.is_empty() && !self.skipped && self.items < expected;
        if short || self.items > expected {
            return Err(DocumentError::ItemCount { expected, found: self.items });
        }
        Ok(())
    }

    /// Whether blobs have been dropped, so that sums over the items seen say nothing.
    #[must_use]
    pub const fn skipped(&self) -> bool {
        self.skipped
    }

    /// Drops the blob that is wanted, with all below it; gives what its parent says about it, `None` for the root.
    pub fn skip(&mut self) -> Option<T::Label> {
        let dropped = self.stack.pop()?;
        self.skipped = true;
        dropped.stated.map(|(label, _)| label)
    }

    /// The label of the blob that is wanted; `None` for the root and at the end.
    #[must_use]
    pub fn wanted_label(&self) -> Option<&T::Label> {
        self.stack.last()?.stated.as_ref().map(|(label, _)| label)
    }
}

impl<T: TreeItem> TreeWalk<T>
where
    T::Label: Ord,
{
    /// In a sorted tree: drops blobs that end before `key`. Called before every [`TreeWalk::wanted`] it leads to the one
    /// leaf that can hold `key`, reading one blob a level.
    pub fn seek(&mut self, key: &T::Label) {
        while let [.., next, _] = self.stack.as_slice() {
            match &next.stated {
                Some((label, _)) if label <= key => self.skip(),
                _ => return,
            };
        }
    }
}
