//! A running node that is told to go, or to stay after all.
//!
//! Decides how soon it notices and how often it counts what is left. Never decides what counts as moved: the service does.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::Background;
use crate::disk::Disk;
use crate::leaving;
use crate::serve::wall_clock;
use crate::status::LeavingStatus;

/// How often the operator's word is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Counting reads the whole index: it may take this part of the time.
const COUNT_SHARE: u32 = 20;

impl<D: Disk> Background<D> {
    pub(super) async fn watch_leaving(self: Arc<Self>) {
        let mut count_at = Instant::now();
        let mut unreadable = false;
        while self.pause(LOOK_EVERY).await {
            match self.on_thread(Self::hear_leaving).await {
                Some(Ok(true)) => {
                    count_at = Instant::now();
                    // Those who would choose this node for new shards should hear of it at once.
                    let addresses = self.addresses.borrow().clone();
                    self.publish_now(&addresses);
                }
                Some(Err(error)) if !unreadable => {
                    unreadable = true;
                    tracing::error!(%error, "whether this node goes cannot be read or kept");
                }
                Some(Ok(false) | Err(_)) | None => {}
            }
            if self.service.leaving().is_none() || !self.service.has_books() || Instant::now() < count_at {
                continue;
            }
            let began = Instant::now();
            let now = wall_clock();
            match self.on_thread(move |this| this.service.count_leaving(now)).await {
                Some(Ok(count)) => {
                    *self.leaving_count.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, count));
                }
                Some(Err(error)) => tracing::warn!(%error, "what is left here cannot be counted"),
                None => {}
            }
            count_at = Instant::now() + began.elapsed() * COUNT_SHARE;
        }
    }

    /// Takes in what the operator said last; says whether that is news.
    fn hear_leaving(&self) -> std::io::Result<bool> {
        let wanted = leaving::read(&self.state_folder)?;
        let before = self.service.leaving();
        if wanted == before {
            return Ok(false);
        }
        match wanted {
            Some(wanted) => {
                tracing::info!(until_ms = wanted.until.as_unix_ms(), "this node goes; nothing new is taken")
            }
            None => tracing::info!("this node stays after all"),
        }
        *self.leaving_count.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.service.set_leaving(wanted).map(|()| true)
    }

    /// How far this node has come, where it goes.
    pub(super) fn leaving_status(&self) -> Option<LeavingStatus> {
        let leaving = self.service.leaving()?;
        let counted = *self.leaving_count.lock().unwrap_or_else(PoisonError::into_inner);
        let (counted_at, count) = counted.unwrap_or_default();
        Some(LeavingStatus {
            until_ms: leaving.until.as_unix_ms(),
            since_ms: leaving.since.as_unix_ms(),
            counted_at_ms: counted_at.as_unix_ms(),
            shards_here: count.shards_here,
            bytes_here: count.bytes_here,
            shards_moved: count.shards_moved,
            bytes_moved: count.bytes_moved,
        })
    }
}
