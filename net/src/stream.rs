//! One request on one bidirectional stream: a length-prefixed header, then raw payload to the stream's end.
//!
//! Decides framing, the bound on what is read, the progress deadline and what a dropped half tells the other end.
//! Never decides what a header means. Header lengths are checked before anything is allocated; payload is handed
//! over as it arrived, never more of it than was declared, and never copied.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dolmen_proto::attempt::Fault;
use dolmen_proto::wire::{WireError, frame};
use quinn::{ConnectionError, ReadError, ReadExactError, RecvStream, SendStream, VarInt, WriteError};
use tokio::time::timeout;

use crate::windows::CallGuard;

/// Numbers that QUIC carries when a stream or a connection is given up; docs/wire.md lists them.
pub mod code {
    use quinn::VarInt;

    /// Whoever asked does not want the answer any more.
    pub const CANCELLED: VarInt = VarInt::from_u32(1);
    /// The answer is on its way; the rest of the payload is not wanted.
    pub const ANSWERED: VarInt = VarInt::from_u32(2);
    /// No byte moved for too long.
    pub const STALLED: VarInt = VarInt::from_u32(3);
    /// The other end sent more than it declared, or what is no header.
    pub const MISBEHAVED: VarInt = VarInt::from_u32(4);
    /// The sender could not go on with what it had begun to send.
    pub const BROKEN: VarInt = VarInt::from_u32(5);
    /// The connection was not used for long, or its place is needed; a new one is welcome.
    pub const IDLE: VarInt = VarInt::from_u32(16);
    /// The server shuts down.
    pub const SHUTTING_DOWN: VarInt = VarInt::from_u32(17);
    /// This peer has as many connections as it may have.
    pub const TOO_MANY_CONNECTIONS: VarInt = VarInt::from_u32(18);
}

/// Pieces handed to quinn at a time: it frees whole pieces as they are acknowledged, so they are small against windows.
const PIECE_BYTES: usize = 64 * 1024;
/// Received pieces taken under one lock; a piece is at most one datagram.
const BATCH_PIECES: usize = 4;

/// Why a stream gave no more bytes or took none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The peer let no byte move for this long.
    #[error("no byte moved for {0:?}")]
    Stalled(Duration),
    /// The peer ended its payload before the length that it declared.
    #[error("the payload ended {missing_bytes} bytes early")]
    Truncated {
        /// How many bytes are missing.
        missing_bytes: u64,
    },
    /// The peer sent more than it declared, or more than it was told that it may.
    #[error("the payload is longer than declared")]
    Excess,
    /// The peer gave the stream up, with a number of [`code`].
    #[error("the peer gave up (code {0})")]
    GivenUp(u64),
    /// The connection is gone.
    #[error("the connection was lost: {0}")]
    Lost(ConnectionError),
    /// This end wrote less or more than it declared, or went on after an end.
    #[error("the stream was used wrongly: {0}")]
    Misuse(&'static str),
}

impl StreamError {
    /// What a session should make of it.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Stalled(_) | Self::GivenUp(_) | Self::Lost(_) => Fault::Unreachable,
            Self::Truncated { .. } | Self::Excess => Fault::Misbehaved,
            Self::Misuse(_) => Fault::Local,
        }
    }
}

/// Why no header could be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error(transparent)]
    TooLarge(WireError),
    #[error("the header ended early")]
    Truncated,
    #[error(transparent)]
    Stream(StreamError),
}

fn read_error(error: ReadError) -> StreamError {
    match error {
        ReadError::Reset(code) => StreamError::GivenUp(code.into_inner()),
        ReadError::ConnectionLost(error) => StreamError::Lost(error),
        ReadError::ClosedStream => StreamError::Misuse("read after the end"),
        ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => StreamError::Misuse("read out of order"),
    }
}

fn write_error(error: WriteError) -> StreamError {
    match error {
        WriteError::Stopped(code) => StreamError::GivenUp(code.into_inner()),
        WriteError::ConnectionLost(error) => StreamError::Lost(error),
        WriteError::ClosedStream | WriteError::ZeroRttRejected => StreamError::Misuse("written after the end"),
    }
}

/// Reads the header that starts a stream. Without a deadline of its own.
pub(crate) async fn read_header(stream: &mut RecvStream) -> Result<Bytes, HeaderError> {
    let exact = |error| match error {
        ReadExactError::FinishedEarly(_) => HeaderError::Truncated,
        ReadExactError::ReadError(error) => HeaderError::Stream(read_error(error)),
    };
    let mut length = [0; frame::LENGTH_BYTES];
    stream.read_exact(&mut length).await.map_err(exact)?;
    let length = frame::decode_length(length).map_err(HeaderError::TooLarge)?;
    let mut header = BytesMut::new();
    // Grows with what arrived, so that announcing a header costs this end nothing.
    while header.len() < length {
        let chunk = stream.read_chunk(length - header.len(), true).await;
        let chunk = chunk.map_err(|error| HeaderError::Stream(read_error(error)))?;
        header.extend_from_slice(&chunk.ok_or(HeaderError::Truncated)?.bytes);
    }
    Ok(header.freeze())
}

/// The sending half. Dropped before [`SendHalf::finish`] it tells the peer that what it got is not whole.
#[derive(Debug)]
pub(crate) struct SendHalf {
    stream: SendStream,
    call: Arc<CallGuard>,
    progress_deadline: Duration,
    abandon_code: VarInt,
    finished: bool,
}

impl SendHalf {
    pub(crate) fn new(
        stream: SendStream,
        call: Arc<CallGuard>,
        progress_deadline: Duration,
        abandon_code: VarInt,
    ) -> Self {
        Self { stream, call, progress_deadline, abandon_code, finished: false }
    }

    /// Says how much payload comes, so that the window can grow at once.
    pub(crate) fn expect(&self, bytes: u64) {
        self.call.windows().expect_send(bytes);
    }

    /// Writes without copying; `moved` is called with every count of bytes that the window took.
    pub(crate) async fn write(&mut self, mut bytes: Bytes, mut moved: impl FnMut(u64)) -> Result<(), StreamError> {
        while !bytes.is_empty() {
            let mut pieces = [const { Bytes::new() }; BATCH_PIECES];
            for piece in &mut pieces {
                *piece = bytes.split_to(bytes.len().min(PIECE_BYTES));
            }
            let mut rest = &mut pieces[..];
            while rest.iter().any(|piece| !piece.is_empty()) {
                let written = match timeout(self.progress_deadline, self.stream.write_chunks(rest)).await {
                    Ok(written) => written.map_err(write_error)?,
                    Err(_) => {
                        self.abandon_code = code::STALLED;
                        return Err(StreamError::Stalled(self.progress_deadline));
                    }
                };
                let count = u64::try_from(written.bytes).unwrap_or(u64::MAX);
                self.call.windows().produced(count);
                moved(count);
                rest = &mut rest[written.chunks..];
            }
        }
        Ok(())
    }

    /// Says that everything was written.
    pub(crate) fn finish(&mut self) {
        self.finished = true;
        // An error means that the peer stopped the stream or the connection is gone: nobody is left to be told.
        let _ = self.stream.finish();
    }

    /// Writes and ends at once if the window has room now: the last word where nothing can wait.
    pub(crate) fn finish_now_with(&mut self, frame: Bytes) {
        use futures::FutureExt;
        if self.write(frame, |_| ()).now_or_never().is_some_and(|written| written.is_ok()) {
            self.finish();
        }
    }

    /// Completes when the peer has everything, or stopped the stream, or is gone.
    pub(crate) fn delivered(&self) -> impl Future<Output = ()> + Send + 'static {
        let stopped = self.stream.stopped();
        async move {
            let _ = stopped.await;
        }
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        if !self.finished {
            // quinn would end the stream as if it were whole.
            let _ = self.stream.reset(self.abandon_code);
        }
    }
}

/// Payload as it comes in. Dropped before its end it tells the peer to stop.
#[derive(Debug)]
pub struct PayloadReader {
    stream: RecvStream,
    call: Arc<CallGuard>,
    progress_deadline: Duration,
    stop_code: VarInt,
    left_bytes: u64,
    batch: [Bytes; BATCH_PIECES],
    batch_next: usize,
    state: ReadState,
}

#[derive(Debug)]
enum ReadState {
    /// Nothing was read: the window has not been asked to grow.
    New,
    Open,
    Ended,
    Failed(StreamError),
}

impl PayloadReader {
    /// Reads the `length_bytes` that follow a header on `stream`.
    pub(crate) fn new(
        stream: RecvStream,
        call: Arc<CallGuard>,
        progress_deadline: Duration,
        stop_code: VarInt,
        length_bytes: u64,
    ) -> Self {
        Self {
            stream,
            call,
            progress_deadline,
            stop_code,
            left_bytes: length_bytes,
            batch: [const { Bytes::new() }; BATCH_PIECES],
            batch_next: BATCH_PIECES,
            state: ReadState::New,
        }
    }

    /// How many bytes are still to be handed over.
    #[must_use]
    pub fn remaining_bytes(&self) -> u64 {
        let batched: usize = self.batch[self.batch_next..].iter().map(Bytes::len).sum();
        self.left_bytes.saturating_add(u64::try_from(batched).unwrap_or(u64::MAX))
    }

    /// The next piece of the payload, as large as it arrived; `None` after its proper end. Dropping the future loses
    /// nothing.
    ///
    /// # Errors
    /// [`StreamError`], the same again on every further call: a payload that failed never looks ended.
    pub async fn next(&mut self) -> Result<Option<Bytes>, StreamError> {
        loop {
            while let Some(piece) = self.batch.get_mut(self.batch_next) {
                self.batch_next += 1;
                if !piece.is_empty() {
                    return Ok(Some(std::mem::take(piece)));
                }
            }
            match &self.state {
                ReadState::New => {
                    self.state = ReadState::Open;
                    self.call.windows().expect_receive(self.left_bytes);
                }
                ReadState::Open => {}
                ReadState::Ended => return Ok(None),
                ReadState::Failed(error) => return Err(error.clone()),
            }
            let read = timeout(self.progress_deadline, self.stream.read_chunks(&mut self.batch)).await;
            match read {
                Ok(Ok(Some(count))) => self.take_in(count)?,
                Ok(Ok(None)) if self.left_bytes > 0 => {
                    return self.fail(StreamError::Truncated { missing_bytes: self.left_bytes }, None);
                }
                Ok(Ok(None)) => self.state = ReadState::Ended,
                Ok(Err(error)) => return self.fail(read_error(error), None),
                Err(_) => return self.fail(StreamError::Stalled(self.progress_deadline), Some(code::STALLED)),
            }
        }
    }

    /// Reads the whole payload into one buffer of the declared length.
    ///
    /// # Errors
    /// As [`PayloadReader::next`].
    pub async fn read_to_end(&mut self) -> Result<Bytes, StreamError> {
        let Some(first) = self.next().await? else { return Ok(Bytes::new()) };
        if self.remaining_bytes() == 0 {
            return self.next().await.map(|_| first);
        }
        let rest_bytes = usize::try_from(self.remaining_bytes()).map_err(|_| StreamError::Excess)?;
        let mut whole = BytesMut::with_capacity(first.len() + rest_bytes);
        whole.extend_from_slice(&first);
        while let Some(piece) = self.next().await? {
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    fn take_in(&mut self, count: usize) -> Result<(), StreamError> {
        // Places after `count` were emptied as their pieces were handed over.
        let bytes: usize = self.batch[..count].iter().map(Bytes::len).sum();
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        if bytes > self.left_bytes {
            self.batch = [const { Bytes::new() }; BATCH_PIECES];
            return self.fail(StreamError::Excess, Some(code::MISBEHAVED)).map(|_| ());
        }
        self.left_bytes -= bytes;
        self.batch_next = 0;
        self.call.windows().consumed(bytes);
        Ok(())
    }

    fn fail(&mut self, error: StreamError, stop: Option<VarInt>) -> Result<Option<Bytes>, StreamError> {
        if let Some(code) = stop {
            let _ = self.stream.stop(code);
        }
        self.state = ReadState::Failed(error.clone());
        Err(error)
    }
}

impl Drop for PayloadReader {
    fn drop(&mut self) {
        if matches!(self.state, ReadState::New | ReadState::Open) {
            // An error means that there is nothing left to stop.
            let _ = self.stream.stop(self.stop_code);
        }
    }
}

/// Payload as it goes out after a reply. Dropped before [`PayloadWriter::finish`] it tells the peer that the payload is
/// not whole.
#[derive(Debug)]
pub struct PayloadWriter {
    send: SendHalf,
    left_bytes: u64,
}

impl PayloadWriter {
    pub(crate) fn new(send: SendHalf, declared_bytes: u64) -> Self {
        send.expect(declared_bytes);
        Self { send, left_bytes: declared_bytes }
    }

    /// Sends the next bytes of the payload without copying them; waits while the peer's window is full.
    ///
    /// # Errors
    /// [`StreamError::Misuse`] for more than the reply declared; else as the peer or the network has it. Nothing
    /// more can be written after an error.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.left_bytes = self.left_bytes.checked_sub(length).ok_or(StreamError::Misuse("more than declared"))?;
        self.send.write(bytes, |_| ()).await
    }

    /// Says that the payload is whole.
    ///
    /// # Errors
    /// [`StreamError::Misuse`] when less was written than the reply declared; the peer then learns of it.
    pub fn finish(mut self) -> Result<(), StreamError> {
        if self.left_bytes > 0 {
            return Err(StreamError::Misuse("less than declared"));
        }
        self.send.finish();
        Ok(())
    }
}
