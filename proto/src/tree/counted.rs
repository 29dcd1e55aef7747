//! Trees that the document holding them counts: an optional field, absent where there is nothing to list.
//!
//! Decides how such a field is written and that an empty one is not. Never decides what its items are.

use super::{BlobPointer, BlobSink, BuildError, TreeBuilder, TreeItem, TreeWalk};
use crate::codec::{DocumentError, Reader, Writer};

/// The root of a tree and how many items it has, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountedTree {
    /// How many items it has.
    pub count: u64,
    /// Its root.
    pub root: BlobPointer,
}

impl CountedTree {
    /// A walk over its items, whose root must have been resolved; it fails when they are more or fewer than stated.
    #[must_use]
    pub fn walk<T: TreeItem>(&self) -> TreeWalk<T> {
        TreeWalk::counted(self.root.clone(), self.count)
    }

    pub(crate) fn check(&self) -> Result<(), DocumentError> {
        if self.count == 0 {
            return Err(DocumentError::Empty { what: "a tree that is named" });
        }
        self.root.check()
    }

    /// The field's value among the extensions of the document that holds it.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u64(self.count);
        self.root.write(&mut writer);
        writer.into_bytes()
    }

    pub(crate) fn parse(value: &[u8]) -> Result<Self, DocumentError> {
        let mut reader = Reader::new(value);
        let tree = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(tree)
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        let tree = Self { count: reader.u64("the number of items")?, root: BlobPointer::read(reader)? };
        tree.check()?;
        Ok(tree)
    }
}

/// Makes a counted tree out of items that come in order; memory stays bounded however many there are.
#[derive(Debug)]
pub struct CountedTreeBuilder<T: TreeItem> {
    tree: TreeBuilder<T>,
    empty: bool,
}

impl<T: TreeItem> Default for CountedTreeBuilder<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: TreeItem> CountedTreeBuilder<T> {
    /// No items.
    #[must_use]
    pub const fn new() -> Self {
        Self { tree: TreeBuilder::new(), empty: true }
    }

    /// Adds the next item.
    ///
    /// # Errors
    /// As [`TreeBuilder::push`].
    pub fn push<S: BlobSink>(&mut self, item: T, sink: &mut S) -> Result<(), BuildError<S::Error>> {
        self.tree.push(item, sink)?;
        self.empty = false;
        Ok(())
    }

    /// The tree, with the sink's provisional id; `None`, and nothing put, when there is no item.
    ///
    /// # Errors
    /// As [`TreeBuilder::finish`].
    pub fn finish<S: BlobSink>(self, sink: &mut S) -> Result<Option<CountedTree>, BuildError<S::Error>> {
        if self.empty {
            return Ok(None);
        }
        let built = self.tree.finish(sink)?;
        Ok(Some(CountedTree { count: built.items, root: built.root }))
    }
}
