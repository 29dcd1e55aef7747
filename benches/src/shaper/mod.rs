//! A link made slow on purpose: a UDP proxy with delay, rate, loss, reordering and a largest datagram.
//!
//! It stands before servers: clients send to a *door*, one loopback port for each server, and all doors share one line in
//! each direction, as all nodes share a client's access. A door can have a link of its own behind that. It works where
//! netem is not to be had, and needs no privileges.
//!
//! [`link`] and [`network`] decide in virtual time, `relay` moves datagrams in one thread, [`process`] runs a shaper in a
//! process of its own so that its CPU time is counted apart.

pub mod chance;
pub mod link;
pub mod network;
pub mod process;
mod relay;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};
use serde::{Deserialize, Serialize};

pub use self::link::{Link, LinkError};
pub use self::network::{Both, Counters, Tally};
use self::relay::{Command, Relay};

/// Servers that one shaper stands before at most.
pub const DOORS_MAX: usize = 1_024;

/// What a shaper stands before, and the line that its doors share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShaperOptions {
    /// The servers, on this machine; each gets a door, at most [`DOORS_MAX`].
    pub servers: Vec<SocketAddr>,
    /// The shared line.
    pub links: Both<Link>,
    /// Decides which datagrams are lost.
    pub seed: u64,
}

/// Why a shaper cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ShaperError {
    /// A link makes no sense.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// More servers than doors.
    #[error("{0} servers are more than a shaper has doors for ({DOORS_MAX}): start several shapers")]
    TooManyServers(usize),
    /// A server that a socket on loopback cannot reach.
    #[error("{0} is not on loopback: a shaper stands before servers of its own machine only")]
    NotLoopback(SocketAddr),
    /// There is no such door.
    #[error("the shaper has no door {0}: they count from 0 in the order of the servers")]
    NoSuchDoor(usize),
    /// A socket could not be opened.
    #[error("no UDP socket on loopback: {0}; the limit of open files may be too low (`ulimit -n`)")]
    Socket(#[source] io::Error),
    /// The system's means of waiting failed.
    #[error("cannot wait for datagrams: {0}")]
    Wait(#[source] io::Error),
    /// The shaper's thread or process is gone.
    #[error("the shaper has stopped: {0}")]
    Stopped(String),
}

/// A running shaper; it stops when this is dropped.
#[derive(Debug)]
pub struct Shaper {
    doors: Vec<SocketAddr>,
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<Both<Counters>>>,
}

impl Shaper {
    /// Opens the doors and starts the thread that serves them.
    ///
    /// # Errors
    /// [`ShaperError`] where a link makes no sense, a server is elsewhere, or sockets cannot be had.
    pub fn start(options: &ShaperOptions) -> Result<Self, ShaperError> {
        check(&options.links)?;
        if options.servers.len() > DOORS_MAX {
            return Err(ShaperError::TooManyServers(options.servers.len()));
        }
        if let Some(server) = options.servers.iter().find(|server| !server.ip().is_loopback()) {
            return Err(ShaperError::NotLoopback(*server));
        }
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map_err(|error| ShaperError::Wait(error.into()))?;
        let wake = Arc::new(wake);
        let (commands, received) = channel();
        let relay = Relay::open(&options.servers, options.links, options.seed, Arc::clone(&wake), received)?;
        let doors = relay.addresses()?;
        let thread = std::thread::Builder::new()
            .name("shaper".to_owned())
            .spawn(move || relay.run())
            .map_err(ShaperError::Wait)?;
        Ok(Self { doors, commands, wake, thread: Some(thread) })
    }

    /// Where clients send to instead of the servers, in their order.
    #[must_use]
    pub fn doors(&self) -> &[SocketAddr] {
        &self.doors
    }

    /// Changes the shared line; datagrams that are under way keep their times. Returns when it is changed.
    ///
    /// # Errors
    /// [`ShaperError::Link`], or [`ShaperError::Stopped`].
    pub fn set_link(&self, links: Both<Link>) -> Result<(), ShaperError> {
        check(&links)?;
        let (done, answer) = sync_channel(1);
        self.ask(Command::SetLink(links, done), &answer)
    }

    /// Gives one server a link of its own behind the shared line, or takes it away. Returns when it is changed.
    ///
    /// # Errors
    /// [`ShaperError::Link`], [`ShaperError::NoSuchDoor`], or [`ShaperError::Stopped`].
    pub fn set_door_link(&self, door: usize, links: Option<Both<Link>>) -> Result<(), ShaperError> {
        if let Some(links) = &links {
            check(links)?;
        }
        let (done, answer) = sync_channel(1);
        match self.ask(Command::SetDoorLink(door, links, done), &answer)? {
            true => Ok(()),
            false => Err(ShaperError::NoSuchDoor(door)),
        }
    }

    /// What became of all datagrams so far.
    ///
    /// # Errors
    /// [`ShaperError::Stopped`].
    pub fn counters(&self) -> Result<Both<Counters>, ShaperError> {
        let (done, answer) = sync_channel(1);
        self.ask(Command::Counters(done), &answer)
    }

    /// Stops; what is under way is dropped. Returns what became of all datagrams.
    ///
    /// # Errors
    /// [`ShaperError::Stopped`] where the thread had ended by itself.
    pub fn stop(mut self) -> Result<Both<Counters>, ShaperError> {
        self.end().ok_or_else(stopped)
    }

    fn ask<T>(&self, command: Command, answer: &Receiver<T>) -> Result<T, ShaperError> {
        self.commands.send(command).map_err(|_| stopped())?;
        self.wake();
        answer.recv().map_err(|_| stopped())
    }

    fn wake(&self) {
        // It can only fail when it is set already.
        rustix::io::write(&*self.wake, &1_u64.to_ne_bytes()).ok();
    }

    fn end(&mut self) -> Option<Both<Counters>> {
        let thread = self.thread.take()?;
        self.commands.send(Command::Stop).ok();
        self.wake();
        thread.join().ok()
    }
}

impl Drop for Shaper {
    fn drop(&mut self) {
        self.end();
    }
}

fn check(links: &Both<Link>) -> Result<(), LinkError> {
    links.up.check()?;
    links.down.check()
}

fn stopped() -> ShaperError {
    ShaperError::Stopped("its thread has ended".to_owned())
}
