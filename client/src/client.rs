//! The client as callers see it: one value a network, one method a command.
//!
//! Decides which pipeline an operation runs. Never contains a pipeline.

use std::io::Write;
use std::ops::Range;
use std::path::PathBuf;

use dolmen_proto::ids::Timestamp;

use crate::config::ClientConfig;
use crate::error::ClientError;
use crate::options::{Destination, GetOptions, PutOptions};
use crate::progress::Progress;
use crate::report::{GetReport, InfoReport, ListedEntry, NodeView, PutReport, RemoveReport, RenewReport};

/// A connection to one network. Cheap to share by reference; operations may run at the same time and share the
/// memory budget.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    progress: Progress,
}

impl Client {
    /// Enters the network through the configured bootstrap addresses, with a key made for this process.
    ///
    /// # Errors
    /// `Local` when sockets or the state folder cannot be opened, `Usage` for malformed addresses.
    pub async fn connect(config: ClientConfig, progress: Progress) -> Result<Self, ClientError> {
        tokio::task::yield_now().await;
        Ok(Self { config, progress })
    }

    /// Puts files and folders as a new dataset with a throw-away vault; the report has its frozen read link.
    ///
    /// One folder becomes the snapshot's root; one file, or several paths, become entries of the root.
    /// Interrupted, the same call with the same paths resumes.
    ///
    /// # Errors
    /// `NotNow` with too few nodes, `Refused` when nodes refuse, `Local` when nothing can be read.
    /// Single files that fail are in the report.
    pub async fn put_anonymous(&self, paths: &[PathBuf], options: &PutOptions) -> Result<PutReport, ClientError> {
        self.not_yet(&(paths, options)).await
    }

    /// Restores what a link names.
    ///
    /// # Errors
    /// `NotFound`, `NotNow`, `Damaged` for the snapshot as a whole; single files that fail are in the report.
    pub async fn get(&self, link: &str, to: Destination, options: &GetOptions) -> Result<GetReport, ClientError> {
        let _ = link;
        let _ = to;
        self.not_yet(&options).await
    }

    /// Lists the entries at a path (components separated by `/`), all below it too when `recursive`.
    ///
    /// # Errors
    /// As [`Client::get`]; `NotFound` when there is no such path.
    pub async fn list(&self, link: &str, path: &[u8], recursive: bool) -> Result<Listing, ClientError> {
        let _ = link;
        self.not_yet(&(path, recursive)).await
    }

    /// Writes a file's bytes, or a range of them, in order to `writer`; gives the number of bytes written.
    ///
    /// # Errors
    /// As [`Client::get`]; `NotFound` when there is no such file, `Local` when writing fails.
    pub async fn cat(
        &self,
        link: &str,
        path: &[u8],
        range: Option<Range<u64>>,
        writer: Box<dyn Write + Send>,
    ) -> Result<u64, ClientError> {
        let _ = (link, writer);
        self.not_yet(&(path, range)).await
    }

    /// Asks every node that should hold a shard whether it does.
    ///
    /// # Errors
    /// As [`Client::get`] for the documents; nodes that do not answer count as not holding.
    pub async fn info(&self, link: &str) -> Result<InfoReport, ClientError> {
        self.not_yet(&link.len()).await
    }

    /// Extends all leases of an anonymous upload made by this client; `None`: by the configured lease from now.
    ///
    /// # Errors
    /// `Refused` when this client's state folder has no secret for the link; otherwise as [`Client::get`].
    pub async fn renew(&self, link: &str, until: Option<Timestamp>) -> Result<RenewReport, ClientError> {
        let _ = link;
        self.not_yet(&until).await
    }

    /// Deletes the leases of an anonymous upload made by this client, then its secret.
    ///
    /// # Errors
    /// As [`Client::renew`].
    pub async fn remove(&self, link: &str) -> Result<RemoveReport, ClientError> {
        self.not_yet(&link.len()).await
    }

    /// The nodes that the directory finds, at least `sample` of them when there are as many, each asked to
    /// describe itself.
    ///
    /// # Errors
    /// `NotNow` when no node can be found.
    pub async fn nodes(&self, sample: usize) -> Result<Vec<NodeView>, ClientError> {
        self.not_yet(&sample).await
    }

    async fn not_yet<T>(&self, input: &(dyn std::fmt::Debug + Sync)) -> Result<T, ClientError> {
        tokio::task::yield_now().await;
        Err(ClientError::bug(
            "this operation is being built",
            format!("{input:?} {:?} {:?}", self.config, self.progress),
        ))
    }
}

/// Entries of a listing, read folder by folder as they are asked for.
#[derive(Debug)]
pub struct Listing {
    pub(crate) ready: std::collections::VecDeque<ListedEntry>,
}

impl Listing {
    /// The next entry; `None` at the end.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn next(&mut self) -> Result<Option<ListedEntry>, ClientError> {
        tokio::task::yield_now().await;
        Ok(self.ready.pop_front())
    }
}
