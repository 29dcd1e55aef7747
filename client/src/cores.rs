//! Work for the processor, off the threads that serve sockets.
//!
//! Decides how many such jobs run at once: as many as there are cores. Never decides their order: who asks first is
//! served first.

use std::num::NonZero;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::error::ClientError;

/// Runs jobs on blocking threads, one a core at a time. Clones share the cores.
#[derive(Debug, Clone)]
pub(crate) struct Cores {
    free: Arc<Semaphore>,
    count: usize,
}

impl Cores {
    /// All cores that this process may use.
    pub(crate) fn all() -> Self {
        let count = std::thread::available_parallelism().map_or(2, NonZero::get);
        Self { free: Arc::new(Semaphore::new(count)), count }
    }

    /// How many jobs can run at once.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Runs a job when a core is free.
    ///
    /// # Errors
    /// `Bug` when the job panics.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ClientError> {
        let permit = Arc::clone(&self.free).acquire_owned().await;
        let job = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            job()
        });
        job.await.map_err(|error| ClientError::bug("a computation failed", error))
    }
}
