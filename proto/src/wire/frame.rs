//! Framing of one stream: four bytes of length, the protobuf header, then raw payload to the end of the stream.
//!
//! Decides when a header is too large, before anything is allocated for it, and that parsed headers are within
//! every bound. Never reads or writes a stream.

use bytes::Bytes;
use prost::Message;

use super::error::{ErrorCode, WireError};
use super::reply::Reply;
use super::request::Request;
use crate::limits::WIRE_HEADER_MAX_BYTES;
use crate::messages;

/// Bytes of the length before a header: u32, little endian.
pub const LENGTH_BYTES: usize = 4;

/// How many bytes of header follow.
///
/// # Errors
/// [`ErrorCode::TooLarge`] above [`WIRE_HEADER_MAX_BYTES`].
pub fn decode_length(bytes: [u8; LENGTH_BYTES]) -> Result<usize, WireError> {
    usize::try_from(u32::from_le_bytes(bytes))
        .ok()
        .filter(|length| *length <= WIRE_HEADER_MAX_BYTES)
        .ok_or_else(|| WireError::new(ErrorCode::TooLarge, "the header is over its maximum"))
}

/// A request's length and header, to be followed by [`Request::payload_bytes`] of payload.
///
/// # Errors
/// [`ErrorCode::TooLarge`]: the caller put too much into it.
pub fn encode_request(request: &Request) -> Result<Vec<u8>, WireError> {
    encode(&request.to_message())
}

/// Reads a request's header, without its length.
///
/// # Errors
/// The asker's fault: what to answer it with.
pub fn parse_request(header: Bytes) -> Result<Request, WireError> {
    Request::from_message(decode::<messages::Request>(header)?)
}

/// A reply's length and header, to be followed by [`Reply::payload_bytes`] of payload.
///
/// # Errors
/// [`ErrorCode::TooLarge`]: the caller put too much into it.
pub fn encode_reply(reply: &Reply) -> Result<Vec<u8>, WireError> {
    encode(&reply.to_message())
}

/// Reads a reply's header, without its length.
///
/// # Errors
/// The node's fault.
pub fn parse_reply(header: Bytes) -> Result<Reply, WireError> {
    Reply::from_message(decode::<messages::Reply>(header)?)
}

fn encode(message: &impl Message) -> Result<Vec<u8>, WireError> {
    let length = message.encoded_len();
    let prefix = u32::try_from(length)
        .ok()
        .filter(|_| length <= WIRE_HEADER_MAX_BYTES)
        .ok_or_else(|| WireError::new(ErrorCode::TooLarge, format!("a header of {length} bytes")))?;
    let mut frame = Vec::with_capacity(LENGTH_BYTES + length);
    frame.extend_from_slice(&prefix.to_le_bytes());
    message.encode_raw(&mut frame);
    Ok(frame)
}

fn decode<M: Message + Default>(header: Bytes) -> Result<M, WireError> {
    if header.len() > WIRE_HEADER_MAX_BYTES {
        return Err(WireError::new(ErrorCode::TooLarge, "the header is over its maximum"));
    }
    M::decode(header).map_err(|error| WireError::malformed(format!("the header does not parse: {error}")))
}
