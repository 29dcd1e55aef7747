//! The node's own record: checked, answered with, and put into the directory.
//!
//! Decides when it is put there. Never makes or signs one: the node sends it through a channel.

use std::time::{Duration, Instant};

use bytes::Bytes;
use libp2p::kad;
use libp2p::request_response::ResponseChannel;
use tokio::sync::watch;

use super::super::records::{self, BelievedRecord};
use super::{PUBLISH_AGAIN, Task};

/// A node's record is put into the directory this often, well within its life of an hour.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(20 * 60);

/// What a server publishes.
pub(super) struct Publication {
    pub(super) record: watch::Receiver<Bytes>,
    /// The present record, once checked.
    pub(super) own: Option<BelievedRecord>,
    /// Nobody sends records any more.
    pub(super) ended: bool,
    /// When it is next put into the directory, if anybody is known by then.
    pub(super) due: Instant,
}

impl Publication {
    pub(super) fn new(record: watch::Receiver<Bytes>, now: Instant) -> Self {
        Self { record, own: None, ended: false, due: now }
    }
}

impl Task {
    pub(super) fn on_own_record(&mut self, sender_lives: bool) {
        let Some(publication) = &mut self.publication else { return };
        if !sender_lives {
            // The node is going down; what it said last stays true until it expires.
            publication.ended = true;
            return;
        }
        let bytes = publication.record.borrow_and_update().clone();
        if bytes.is_empty() {
            publication.own = None;
            return;
        }
        match BelievedRecord::read_current(bytes, self.shared.own, records::now()) {
            Ok(own) => {
                publication.due = publication.due.min(Instant::now() + PUBLISH_AGAIN);
                publication.own = Some(own);
            }
            Err(error) => tracing::error!(%error, "our own node record is not valid and is not published"),
        }
    }

    pub(super) fn publish(&mut self, now: Instant) {
        let Some(publication) = &mut self.publication else { return };
        if now < publication.due || *self.shared.listed.borrow() == 0 {
            return;
        }
        let Some(record) = publication.own.as_ref().and_then(|own| records::to_put(own, records::now())) else {
            return;
        };
        publication.due = now + spread(PUBLISH_INTERVAL);
        if let Err(error) = self.swarm.behaviour_mut().kad.put_record(record, kad::Quorum::One) {
            tracing::warn!(%error, "cannot publish the node record");
        }
    }

    pub(super) fn answer(&mut self, channel: ResponseChannel<Bytes>) {
        let own = self.publication.as_ref().and_then(|publication| publication.own.as_ref());
        // Dropping the channel ends the stream without an answer: there is nothing true to say.
        if let Some(own) = own.filter(|own| own.is_current(records::now())) {
            let _peer_gone = self.swarm.behaviour_mut().records.send_response(channel, own.bytes.clone());
        }
    }
}

/// Up to a tenth sooner, so that nodes which started together do not publish together for ever.
fn spread(interval: Duration) -> Duration {
    let mut random = [0; 1];
    match getrandom::fill(&mut random) {
        Ok(()) => interval - interval / 10 * u32::from(random[0]) / 256,
        Err(_) => interval,
    }
}
