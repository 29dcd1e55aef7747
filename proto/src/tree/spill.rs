//! Lists that stand inline while they are short and become a tree when they are not.
//!
//! Decides nothing but the moment of the change, which the caller gives as a number of items.

use super::{BlobSink, BuildError, BuiltTree, TreeBuilder, TreeItem};

/// What a list has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spilled<T: TreeItem> {
    /// Short enough to stand in the document that holds it.
    Inline(Vec<T>),
    /// A tree of its own.
    Tree(BuiltTree<T::Label>),
}

/// Takes items in order; holds at most as many as may stand inline, or one unfinished node a level.
#[derive(Debug)]
pub struct SpillBuilder<T: TreeItem> {
    inline: Vec<T>,
    inline_max: usize,
    tree: Option<TreeBuilder<T>>,
}

impl<T: TreeItem> SpillBuilder<T> {
    /// An empty list of which `inline_max` items may stand inline.
    #[must_use]
    pub const fn new(inline_max: usize) -> Self {
        Self { inline: Vec::new(), inline_max, tree: None }
    }

    /// Adds the next item. Order among inline items is checked by the document that they end up in.
    ///
    /// # Errors
    /// As [`TreeBuilder::push`].
    pub fn push<S: BlobSink>(&mut self, item: T, sink: &mut S) -> Result<(), BuildError<S::Error>> {
        if let Some(tree) = &mut self.tree {
            return tree.push(item, sink);
        }
        item.check()?;
        self.inline.push(item);
        if self.inline.len() > self.inline_max {
            let mut tree = TreeBuilder::new();
            for item in core::mem::take(&mut self.inline) {
                tree.push(item, sink)?;
            }
            self.tree = Some(tree);
        }
        Ok(())
    }

    /// Ends the list.
    ///
    /// # Errors
    /// As [`TreeBuilder::finish`].
    pub fn finish<S: BlobSink>(self, sink: &mut S) -> Result<Spilled<T>, BuildError<S::Error>> {
        match self.tree {
            None => Ok(Spilled::Inline(self.inline)),
            Some(tree) => Ok(Spilled::Tree(tree.finish(sink)?)),
        }
    }
}
