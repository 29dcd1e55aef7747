//! The one shape of every protocol run: a state machine that takes events and time, and hands out actions.
//!
//! Decides nothing itself. Machines that implement [`Session`] never wait, read clocks, draw random numbers or
//! touch bulk bytes: they deal in indices, ids and verdicts, and a driver does what they ask for.

use crate::ids::Timestamp;

/// A protocol run as a value that can be stepped, replayed and broken.
///
/// A driver calls [`Session::handle`] for everything that happened, then [`Session::poll_action`] until it is
/// empty, then waits for the next event or for [`Session::poll_timeout`], at which it calls [`Session::wake`].
pub trait Session {
    /// What can happen to the session.
    type Event;
    /// What the session can ask for.
    type Action;
    /// What the session comes to in the end.
    type Outcome;

    /// Takes in that `event` happened at `now`. Events about attempts that were cancelled are ignored.
    fn handle(&mut self, event: Self::Event, now: Timestamp);

    /// Takes in that it is `now`; does nothing before [`Session::poll_timeout`].
    fn wake(&mut self, now: Timestamp);

    /// The next thing to do, until there is none. Cancelling an attempt that already ended is allowed.
    fn poll_action(&mut self, now: Timestamp) -> Option<Self::Action>;

    /// When [`Session::wake`] wants to be called if nothing happens before; `None`: not by time alone.
    fn poll_timeout(&self) -> Option<Timestamp>;

    /// What it came to, once it is over; nothing is asked for after that.
    fn outcome(&self) -> Option<&Self::Outcome>;
}
