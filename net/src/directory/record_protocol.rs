//! `/dolmen/record/1`: ask a node for its own record.
//!
//! Decides how the bytes of this one exchange are read: the request is one version byte, the answer the node's signed
//! record as it is, each ended by the end of the stream. Never decides whether a record is to be believed: see [`super::records`].

use std::io;

use bytes::Bytes;
use dolmen_proto::limits::NODE_RECORD_MAX_BYTES;
use dolmen_proto::wire::record::RECORD_REQUEST;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::StreamProtocol;
use libp2p::request_response::Codec;

/// The protocol's name as the two ends negotiate it.
pub(super) const RECORD_PROTOCOL: StreamProtocol = StreamProtocol::new(dolmen_proto::wire::RECORD_PROTOCOL);

/// Reads and writes the exchange; holds nothing, every buffer is bounded before a byte is read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RecordCodec;

impl Codec for RecordCodec {
    type Protocol = StreamProtocol;
    type Request = ();
    type Response = Bytes;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<()>
    where
        T: AsyncRead + Unpin + Send,
    {
        let request = read_bounded::<{ RECORD_REQUEST.len() + 1 }, T>(io).await?;
        if request[..] == RECORD_REQUEST[..] { Ok(()) } else { Err(invalid("not a request of this version")) }
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Bytes>
    where
        T: AsyncRead + Unpin + Send,
    {
        // One byte more than allowed, so that a record that is too long is told from one that just fits.
        let record = read_bounded::<{ NODE_RECORD_MAX_BYTES + 1 }, T>(io).await?;
        if record.len() > NODE_RECORD_MAX_BYTES {
            return Err(invalid("the record is longer than records may be"));
        }
        Ok(record)
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, (): ()) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&RECORD_REQUEST).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, record: Bytes) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&record).await
    }
}

/// Reads to the end of the stream, but never more than `MAX` bytes.
async fn read_bounded<const MAX: usize, T: AsyncRead + Unpin + Send>(io: &mut T) -> io::Result<Bytes> {
    let mut buffer = vec![0; MAX];
    let mut filled = 0;
    while filled < MAX {
        match io.read(&mut buffer[filled..]).await? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(Bytes::copy_from_slice(&buffer[..filled]))
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use futures::io::Cursor;

    use super::*;

    async fn read_back(bytes: Vec<u8>) -> io::Result<Bytes> {
        RecordCodec.read_response(&RECORD_PROTOCOL, &mut Cursor::new(bytes)).await
    }

    #[tokio::test]
    async fn a_record_comes_back_as_it_was_written() {
        let record = Bytes::from(vec![5; NODE_RECORD_MAX_BYTES]);
        let mut written = Cursor::new(Vec::new());
        RecordCodec.write_response(&RECORD_PROTOCOL, &mut written, record.clone()).await.unwrap();
        assert_eq!(read_back(written.into_inner()).await.unwrap(), record);
        assert_eq!(read_back(Vec::new()).await.unwrap(), Bytes::new());
    }

    #[tokio::test]
    async fn what_is_too_long_is_refused() {
        let error = read_back(vec![5; NODE_RECORD_MAX_BYTES + 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let endless = &mut futures::io::repeat(7);
        assert!(RecordCodec.read_response(&RECORD_PROTOCOL, endless).await.is_err());
        for request in [&[][..], &[2], &[1, 1], &[1; 100]] {
            assert!(RecordCodec.read_request(&RECORD_PROTOCOL, &mut Cursor::new(request)).await.is_err());
        }
        let mut request = Cursor::new(Vec::new());
        RecordCodec.write_request(&RECORD_PROTOCOL, &mut request, ()).await.unwrap();
        assert!(RecordCodec.read_request(&RECORD_PROTOCOL, &mut Cursor::new(request.into_inner())).await.is_ok());
    }
}
