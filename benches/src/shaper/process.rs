//! A shaper in a process of its own: one JSON object a line each way.
//!
//! Decides the shape of that conversation; [`serve`] is the process, [`ShaperProcess`] the one who started it. The two are
//! always of the same program, so the lines have no version.

use std::io::{self, BufRead, BufReader, Read as _, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::{Deserialize, Serialize};

use super::{Both, Counters, Link, Shaper, ShaperError, ShaperOptions};

/// Longest line: a thousand addresses and two links fit many times.
const LINE_MAX_BYTES: u64 = 1024 * 1024;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Request {
    Start(ShaperOptions),
    SetLink(Both<Link>),
    SetDoorLink { door: usize, links: Option<Both<Link>> },
    Counters,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Doors(Vec<SocketAddr>),
    Done,
    Counters(Both<Counters>),
    NoSuchDoor(usize),
    Failed(String),
}

/// Runs a shaper for whoever is at the other end of `input` and `output`, until `input` ends.
///
/// # Errors
/// Those of reading and writing; everything else is told to the other end.
pub fn serve(mut input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    let mut shaper = None;
    while let Some(request) = read_line(&mut input)? {
        let reply = obey(&mut shaper, request).unwrap_or_else(|error| match error {
            ShaperError::NoSuchDoor(door) => Reply::NoSuchDoor(door),
            error => Reply::Failed(error.to_string()),
        });
        write_line(&mut output, &reply)?;
    }
    Ok(())
}

fn obey(shaper: &mut Option<Shaper>, request: Request) -> Result<Reply, ShaperError> {
    if let Request::Start(options) = &request {
        let started = Shaper::start(options)?;
        let doors = started.doors().to_vec();
        *shaper = Some(started);
        return Ok(Reply::Doors(doors));
    }
    let shaper = shaper.as_ref().ok_or_else(|| ShaperError::Stopped("it was not started yet".to_owned()))?;
    match request {
        // Answered above.
        Request::Start(_) => Ok(Reply::Done),
        Request::SetLink(links) => shaper.set_link(links).map(|()| Reply::Done),
        Request::SetDoorLink { door, links } => shaper.set_door_link(door, links).map(|()| Reply::Done),
        Request::Counters => shaper.counters().map(Reply::Counters),
    }
}

fn read_line<T: for<'a> Deserialize<'a>>(input: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    input.by_ref().take(LINE_MAX_BYTES).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&line).map(Some).map_err(io::Error::from)
}

fn write_line(output: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    output.write_all(&line)?;
    output.flush()
}

/// A shaper in a child process; it ends when this is dropped.
#[derive(Debug)]
pub struct ShaperProcess {
    child: Child,
    /// Taken when the process is told to end by its input's end.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    doors: Vec<SocketAddr>,
}

impl ShaperProcess {
    /// Starts `command`, whose process must call [`serve`] on its standard input and output, and opens the doors.
    ///
    /// # Errors
    /// [`ShaperError::Stopped`] where the process does not start or does not answer, and those of [`Shaper::start`].
    pub fn start(mut command: Command, options: ShaperOptions) -> Result<Self, ShaperError> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(ended)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(ShaperError::Stopped("its process has no input or output".to_owned()));
        };
        let mut process = Self { child, input: Some(input), output: BufReader::new(output), doors: Vec::new() };
        match process.ask(&Request::Start(options))? {
            Reply::Doors(doors) => process.doors = doors,
            other => return Err(unexpected(other)),
        }
        Ok(process)
    }

    /// Where clients send to instead of the servers, in their order.
    #[must_use]
    pub fn doors(&self) -> &[SocketAddr] {
        &self.doors
    }

    /// The process, whose CPU time is what shaping costs.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// See [`Shaper::set_link`].
    ///
    /// # Errors
    /// [`ShaperError::Stopped`] with what the process said.
    pub fn set_link(&mut self, links: Both<Link>) -> Result<(), ShaperError> {
        self.done(&Request::SetLink(links))
    }

    /// See [`Shaper::set_door_link`].
    ///
    /// # Errors
    /// [`ShaperError::NoSuchDoor`], or [`ShaperError::Stopped`] with what the process said.
    pub fn set_door_link(&mut self, door: usize, links: Option<Both<Link>>) -> Result<(), ShaperError> {
        self.done(&Request::SetDoorLink { door, links })
    }

    /// See [`Shaper::counters`].
    ///
    /// # Errors
    /// [`ShaperError::Stopped`] with what the process said.
    pub fn counters(&mut self) -> Result<Both<Counters>, ShaperError> {
        match self.ask(&Request::Counters)? {
            Reply::Counters(counters) => Ok(counters),
            other => Err(unexpected(other)),
        }
    }

    fn done(&mut self, request: &Request) -> Result<(), ShaperError> {
        match self.ask(request)? {
            Reply::Done => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Reply, ShaperError> {
        let input = self.input.as_mut().ok_or_else(|| ShaperError::Stopped("its input is closed".to_owned()))?;
        write_line(input, request).map_err(ended)?;
        let reply = read_line(&mut self.output).map_err(ended)?;
        reply.ok_or_else(|| ShaperError::Stopped("its process ended without an answer".to_owned()))
    }
}

impl Drop for ShaperProcess {
    fn drop(&mut self) {
        drop(self.input.take());
        // It ends with its input; one that does not is not worth hanging for.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn ended(error: io::Error) -> ShaperError {
    ShaperError::Stopped(error.to_string())
}

fn unexpected(reply: Reply) -> ShaperError {
    match reply {
        Reply::NoSuchDoor(door) => ShaperError::NoSuchDoor(door),
        Reply::Failed(why) => ShaperError::Stopped(why),
        Reply::Doors(_) | Reply::Done | Reply::Counters(_) => {
            ShaperError::Stopped("its process answered something else than it was asked".to_owned())
        }
    }
}
