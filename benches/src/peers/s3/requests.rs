//! The requests to an S3 server, one method each.
//!
//! Decides what of an answer is believed: its status, and lengths and ranges that are those asked for. Never retries.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusty_s3::actions::{CompleteMultipartUploadResponse, CreateMultipartUpload, ListObjectsV2};
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use ureq::http::Response;
use ureq::tls::{TlsConfig, TlsProvider};
use ureq::{Agent, Body, SendBody};

use super::super::{PeerError, local};
use super::address::{S3Address, S3Keys};
use super::{Object, Part};

/// Longer than any request that is signed takes.
const SIGNATURE_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a server may say nothing at all.
const SILENCE_MAX: Duration = Duration::from_secs(120);
const CONNECT_MAX: Duration = Duration::from_secs(10);
const COPY_BYTES: usize = 256 * 1024;
/// How much of a refusal is told.
const REFUSAL_MAX_BYTES: u64 = 512;
/// Objects below one name; a list that never ends is cut off here.
const OBJECTS_MAX: usize = 10_000_000;

/// A bucket that requests go to.
#[derive(Debug)]
pub(super) struct Requests {
    agent: Agent,
    bucket: Bucket,
    keys: Credentials,
}

/// What a request was for, in errors.
#[derive(Clone, Copy)]
struct Purpose<'a> {
    doing: &'static str,
    key: &'a str,
}

impl Purpose<'_> {
    fn unreachable(self, error: &ureq::Error) -> PeerError {
        PeerError::S3Unreachable { doing: self.doing, key: self.key.to_owned(), why: error.to_string() }
    }

    fn broken(self, error: &io::Error) -> PeerError {
        PeerError::S3Unreachable { doing: self.doing, key: self.key.to_owned(), why: error.to_string() }
    }

    fn senseless(self, why: impl Into<String>) -> PeerError {
        PeerError::S3Answer { doing: self.doing, key: self.key.to_owned(), why: why.into() }
    }

    /// The answer, when its status is a success.
    fn accepted(self, answer: Result<Response<Body>, ureq::Error>) -> Result<Response<Body>, PeerError> {
        let mut answer = answer.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let mut text = Vec::new();
        // Why it was refused is worth telling as far as it can be read.
        answer.body_mut().as_reader().take(REFUSAL_MAX_BYTES).read_to_end(&mut text).ok();
        let text = String::from_utf8_lossy(&text).split_whitespace().collect::<Vec<_>>().join(" ");
        let answer = if text.is_empty() { "without a reason".to_owned() } else { text };
        Err(PeerError::S3Refused { doing: self.doing, key: self.key.to_owned(), status: status.as_u16(), answer })
    }
}

/// A range of a file as a body; several may be read at once.
struct Section<'a> {
    file: &'a File,
    next: u64,
    left: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..wanted], self.next)?;
        if count == 0 && wanted > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was sent"));
        }
        self.next += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

impl Requests {
    pub(super) fn new(address: &S3Address, keys: S3Keys, connections: usize) -> Result<Self, PeerError> {
        let wrong = |why: String| PeerError::S3Address { url: address.endpoint().to_owned(), why };
        let bucket = Bucket::new(
            address.endpoint().parse().map_err(|error| wrong(format!("{error}")))?,
            UrlStyle::Path,
            address.bucket().to_owned(),
            address.region().to_owned(),
        )
        .map_err(|error| wrong(error.to_string()))?;
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .build();
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .tls_config(tls)
            .proxy(None)
            .timeout_connect(Some(CONNECT_MAX))
            .timeout_per_read(Some(SILENCE_MAX))
            .timeout_per_write(Some(SILENCE_MAX))
            .max_idle_connections(connections)
            .max_idle_connections_per_host(connections)
            .build()
            .new_agent();
        Ok(Self { agent, bucket, keys: keys.0 })
    }

    fn send(&self, url: &str, file: &File, start: u64, bytes: u64) -> Result<Response<Body>, ureq::Error> {
        let mut section = Section { file, next: start, left: bytes };
        self.agent.put(url).header("content-length", bytes.to_string()).send(SendBody::from_reader(&mut section))
    }

    pub(super) fn put(&self, key: &str, file: &File, bytes: u64) -> Result<(), PeerError> {
        let url = self.bucket.put_object(Some(&self.keys), key).sign(SIGNATURE_LIFE);
        finish(Purpose { doing: "put", key }, self.send(url.as_str(), file, 0, bytes))
    }

    /// Begins an object in parts; the answer names it until it is complete.
    pub(super) fn begin_parts(&self, key: &str) -> Result<String, PeerError> {
        let purpose = Purpose { doing: "begin the parts of", key };
        let url = self.bucket.create_multipart_upload(Some(&self.keys), key).sign(SIGNATURE_LIFE);
        let text = text(purpose, self.agent.post(url.as_str()).send_empty())?;
        let answer = CreateMultipartUpload::parse_response(&text);
        Ok(answer.map_err(|error| purpose.senseless(error.to_string()))?.upload_id().to_owned())
    }

    /// Sends a part and returns its tag, which completing needs.
    pub(super) fn put_part(&self, key: &str, upload: &str, part: Part, file: &File) -> Result<String, PeerError> {
        let purpose = Purpose { doing: "put a part of", key };
        let url = self.bucket.upload_part(Some(&self.keys), key, part.number, upload).sign(SIGNATURE_LIFE);
        let mut answer = purpose.accepted(self.send(url.as_str(), file, part.start, part.bytes))?;
        let tag = answer.headers().get("etag").and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        drain(purpose, &mut answer)?;
        tag.ok_or_else(|| purpose.senseless("a part without an ETag"))
    }

    /// Makes an object of its parts; `tags` are in the order of their numbers.
    pub(super) fn complete_parts(&self, key: &str, upload: &str, tags: &[String]) -> Result<(), PeerError> {
        let purpose = Purpose { doing: "complete the parts of", key };
        let tags = tags.iter().map(String::as_str);
        let action = self.bucket.complete_multipart_upload(Some(&self.keys), key, upload, tags);
        let url = action.sign(SIGNATURE_LIFE);
        let text = text(purpose, self.agent.post(url.as_str()).send(action.body()))?;
        // A failure can come with status 200, since the status is sent before the server knows.
        CompleteMultipartUploadResponse::parse(&text).map_err(|error| purpose.senseless(error.to_string()))?;
        Ok(())
    }

    pub(super) fn abort_parts(&self, key: &str, upload: &str) -> Result<(), PeerError> {
        let url = self.bucket.abort_multipart_upload(Some(&self.keys), key, upload).sign(SIGNATURE_LIFE);
        finish(Purpose { doing: "abort the parts of", key }, self.agent.delete(url.as_str()).call())
    }

    /// The size of an object; none where there is none.
    pub(super) fn size(&self, key: &str) -> Result<Option<u64>, PeerError> {
        let purpose = Purpose { doing: "look for", key };
        let url = self.bucket.head_object(Some(&self.keys), key).sign(SIGNATURE_LIFE);
        let answer = self.agent.head(url.as_str()).call().map_err(|error| purpose.unreachable(&error))?;
        if answer.status().as_u16() == 404 {
            return Ok(None);
        }
        let answer = purpose.accepted(Ok(answer))?;
        let bytes = answer.headers().get("content-length").and_then(|bytes| bytes.to_str().ok()?.parse().ok());
        bytes.map(Some).ok_or_else(|| purpose.senseless("an object without a length"))
    }

    /// All objects whose keys begin with `prefix`.
    pub(super) fn list(&self, prefix: &str) -> Result<Vec<Object>, PeerError> {
        let purpose = Purpose { doing: "list", key: prefix };
        let mut objects = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let mut action = self.bucket.list_objects_v2(Some(&self.keys));
            action.with_prefix(prefix);
            if let Some(token) = &token {
                action.with_continuation_token(token.as_str());
            }
            let text = text(purpose, self.agent.get(action.sign(SIGNATURE_LIFE).as_str()).call())?;
            let page = ListObjectsV2::parse_response(&text).map_err(|error| purpose.senseless(error.to_string()))?;
            for content in page.contents {
                let bytes = content.size.ok_or_else(|| purpose.senseless("an object without a size"))?;
                objects.push(Object { key: content.key, bytes });
            }
            if objects.len() > OBJECTS_MAX {
                return Err(purpose.senseless(format!("more than {OBJECTS_MAX} objects")));
            }
            token = page.next_continuation_token;
            if token.is_none() {
                return Ok(objects);
            }
        }
    }

    /// Fetches an object that is as long as said into an empty file.
    pub(super) fn get(&self, key: &str, bytes: u64, file: &File, path: &Path) -> Result<(), PeerError> {
        let purpose = Purpose { doing: "get", key };
        let url = self.bucket.get_object(Some(&self.keys), key).sign(SIGNATURE_LIFE);
        let answer = purpose.accepted(self.agent.get(url.as_str()).call())?;
        save(purpose, answer, Part { number: 1, start: 0, bytes }, file, path)
    }

    /// Fetches a range of an object into its place in a file.
    pub(super) fn get_part(&self, key: &str, part: Part, file: &File, path: &Path) -> Result<(), PeerError> {
        let purpose = Purpose { doing: "get a range of", key };
        let url = self.bucket.get_object(Some(&self.keys), key).sign(SIGNATURE_LIFE);
        let range = format!("bytes={}-{}", part.start, part.start + part.bytes - 1);
        let answer = purpose.accepted(self.agent.get(url.as_str()).header("range", &range).call())?;
        if answer.status().as_u16() != 206 {
            return Err(purpose.senseless(format!("status {} to a request for a range", answer.status())));
        }
        save(purpose, answer, part, file, path)
    }

    pub(super) fn delete(&self, key: &str) -> Result<(), PeerError> {
        let url = self.bucket.delete_object(Some(&self.keys), key).sign(SIGNATURE_LIFE);
        finish(Purpose { doing: "remove", key }, self.agent.delete(url.as_str()).call())
    }
}

/// Reads an answer to its end, so that its connection is used again.
fn drain(purpose: Purpose<'_>, answer: &mut Response<Body>) -> Result<(), PeerError> {
    io::copy(&mut answer.body_mut().as_reader(), &mut io::sink()).map_err(|error| purpose.broken(&error))?;
    Ok(())
}

fn finish(purpose: Purpose<'_>, answer: Result<Response<Body>, ureq::Error>) -> Result<(), PeerError> {
    drain(purpose, &mut purpose.accepted(answer)?)
}

/// A short answer as text; ureq reads at most 10 MB.
fn text(purpose: Purpose<'_>, answer: Result<Response<Body>, ureq::Error>) -> Result<String, PeerError> {
    purpose.accepted(answer)?.body_mut().read_to_string().map_err(|error| purpose.unreachable(&error))
}

/// Writes exactly the part's bytes to its place.
fn save(
    purpose: Purpose<'_>,
    mut answer: Response<Body>,
    part: Part,
    file: &File,
    path: &Path,
) -> Result<(), PeerError> {
    // One byte more than wanted tells an answer that is too long.
    let mut body = answer.body_mut().as_reader().take(part.bytes + 1);
    let mut buffer = vec![0; COPY_BYTES.min(usize::try_from(part.bytes).unwrap_or(COPY_BYTES) + 1)];
    let mut got = 0;
    loop {
        let count = body.read(&mut buffer).map_err(|error| purpose.broken(&error))?;
        if count == 0 && got == part.bytes {
            return Ok(());
        }
        if count == 0 || got + count as u64 > part.bytes {
            return Err(purpose.senseless(format!("{} bytes and not {}", got + count as u64, part.bytes)));
        }
        file.write_all_at(&buffer[..count], part.start + got).map_err(local("write", path))?;
        got += count as u64;
    }
}
