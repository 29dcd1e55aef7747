//! How a long operation tells what it is doing, for the command line's bars.
//!
//! Decides nothing and never waits: a sink that is slow slows the operation, so sinks only store what they are told.

use std::fmt;
use std::sync::Arc;

/// What an operation is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Finding nodes through the directory.
    FindingNodes,
    /// Counting files and bytes.
    Scanning,
    /// Moving file contents to the nodes.
    Uploading,
    /// Writing manifest, table and heads.
    Publishing,
    /// Extending the leases of what was put.
    Renewing,
    /// Reading head, table and manifest.
    ReadingDocuments,
    /// Moving file contents from the nodes.
    Downloading,
    /// Asking nodes what they hold.
    Asking,
    /// Asking nodes to prove what they hold.
    Auditing,
    /// Rebuilding what nodes lost.
    Repairing,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProgressEvent {
    /// A new stage began.
    Stage(Stage),
    /// How much there is to do in this stage, as far as is known now.
    Total {
        /// Files.
        files: u64,
        /// Plain bytes.
        bytes: u64,
    },
    /// This many more plain bytes are done: sent and acknowledged in a put, verified and written in a get.
    Bytes(u64),
    /// This many more files are done.
    Files(u64),
    /// The file being worked on, as far as one can be named.
    Current(String),
    /// Something the user should see, though the operation goes on.
    Warning(String),
}

/// Where events go. Called from many threads.
pub trait ProgressSink: Send + Sync {
    /// Takes in one event; must not block.
    fn event(&self, event: ProgressEvent);
}

/// A handle to a [`ProgressSink`], cheap to clone.
#[derive(Clone, Default)]
pub struct Progress(Option<Arc<dyn ProgressSink>>);

impl Progress {
    /// Tells nobody.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// Tells `sink`.
    pub fn new(sink: Arc<dyn ProgressSink>) -> Self {
        Self(Some(sink))
    }

    pub(crate) fn event(&self, event: ProgressEvent) {
        if let Some(sink) = &self.0 {
            sink.event(event);
        }
    }

    pub(crate) fn stage(&self, stage: Stage) {
        self.event(ProgressEvent::Stage(stage));
    }

    pub(crate) fn warn(&self, message: impl Into<String>) {
        self.event(ProgressEvent::Warning(message.into()));
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0.is_some() { "Progress(sink)" } else { "Progress(none)" })
    }
}
