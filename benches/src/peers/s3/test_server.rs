//! An S3 server in memory for tests: objects, parts, ranges and lists, and a log of what was asked.
//!
//! It checks that requests carry a signature of the right key and region, never whether that is right.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

pub(super) const KEY_ID: &str = "GKtest";
pub(super) const REGION: &str = "garage";
pub(super) const BUCKET: &str = "bench";

/// What is answered instead of the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Fault {
    #[default]
    None,
    /// The third part is refused.
    PartRefused,
    /// Completing answers 200 and an error.
    CompleteFails,
    /// Bodies are a byte shorter than said before.
    ShortBody,
    /// Ranges are ignored.
    NoRanges,
    /// A list has a key that leads out of the target.
    HostileKey,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// By their keys, percent-encoded as they came.
    pub(super) objects: BTreeMap<String, Vec<u8>>,
    parts: BTreeMap<u16, Vec<u8>>,
    pub(super) fault: Fault,
    /// Method, path and what else matters, one for each request.
    pub(super) log: Vec<String>,
}

pub(super) struct TestServer {
    pub(super) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct Request {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    range: Option<(usize, usize)>,
    body: Vec<u8>,
}

struct Answer {
    status: &'static str,
    headers: Vec<String>,
    body: Vec<u8>,
}

impl TestServer {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
        let address = listener.local_addr().expect("bound");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Self { address, state }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no request panicked")
    }
}

/// Answers requests until the connection ends or breaks.
fn serve(mut stream: TcpStream, state: &Mutex<State>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let request = read(&mut reader)?;
        if request.query.get("partNumber").is_some_and(|number| number == "1") {
            // The first part is done last.
            std::thread::sleep(Duration::from_millis(50));
        }
        let head = request.method == "HEAD";
        let answer = answer(&request, &mut *state.lock().ok()?);
        let mut text = format!("HTTP/1.1 {}\r\ncontent-length: {}\r\n", answer.status, answer.body.len());
        for header in answer.headers {
            text.push_str(&header);
            text.push_str("\r\n");
        }
        stream.write_all(format!("{text}\r\n").as_bytes()).ok()?;
        if !head {
            stream.write_all(&answer.body).ok()?;
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut length, mut range) = (0, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "range" => {
                let (from, to) = value.strip_prefix("bytes=")?.split_once('-')?;
                range = Some((from.parse().ok()?, to.parse().ok()?));
            }
            // Sizes are known before anything is sent.
            "transfer-encoding" => return None,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let query = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    Some(Request { method, path: path.to_owned(), query, range, body })
}

fn plain(status: &'static str, body: impl Into<Vec<u8>>) -> Answer {
    Answer { status, headers: Vec::new(), body: body.into() }
}

fn answer(request: &Request, state: &mut State) -> Answer {
    let signed = request.query.get("X-Amz-Signature").is_some_and(|signature| signature.len() == 64)
        && request.query.get("X-Amz-Credential").is_some_and(|credential| {
            credential.starts_with(&format!("{KEY_ID}%2F")) && credential.contains(&format!("%2F{REGION}%2Fs3%2F"))
        });
    let Some(key) = request.path.strip_prefix(&format!("/{BUCKET}/")).filter(|_| signed) else {
        return plain("403 Forbidden", "<Error><Code>AccessDenied</Code></Error>");
    };
    let number = request.query.get("partNumber").and_then(|number| number.parse::<u16>().ok());
    let parts = ["uploads", "uploadId", "list-type"].into_iter().find(|name| request.query.contains_key(*name));
    let range = request.range.map_or(String::new(), |(from, to)| format!(" {from}-{to}"));
    let part = number.map_or(String::new(), |number| format!(" part {number}"));
    state.log.push(format!(
        "{} {key}{}{part}{range}",
        request.method,
        parts.map_or(String::new(), |name| format!("?{name}"))
    ));
    match (request.method.as_str(), parts, number) {
        ("POST", Some("uploads"), _) => {
            state.parts.clear();
            plain(
                "200 OK",
                format!(
                    "<InitiateMultipartUploadResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Bucket>{BUCKET}\
                     </Bucket><Key>{key}</Key><UploadId>upload-1</UploadId></InitiateMultipartUploadResult>"
                ),
            )
        }
        ("PUT", Some("uploadId"), Some(3)) if state.fault == Fault::PartRefused => {
            plain("507 Full", "<Code>Full</Code>")
        }
        ("PUT", Some("uploadId"), Some(number)) => {
            state.parts.insert(number, request.body.clone());
            Answer { status: "200 OK", headers: vec![format!("etag: \"tag-{number}\"")], body: Vec::new() }
        }
        ("POST", Some("uploadId"), _) => complete(key, request, state),
        ("DELETE", Some("uploadId"), _) => {
            state.parts.clear();
            plain("204 No Content", "")
        }
        ("GET", Some("list-type"), _) => list(request, state),
        ("PUT", None, _) => {
            state.objects.insert(key.to_owned(), request.body.clone());
            plain("200 OK", "")
        }
        ("DELETE", None, _) => {
            state.objects.remove(key);
            plain("204 No Content", "")
        }
        ("GET" | "HEAD", None, _) => fetch(key, request, state),
        _ => plain("400 Bad Request", "<Code>NoSuchThing</Code>"),
    }
}

fn complete(key: &str, request: &Request, state: &mut State) -> Answer {
    if state.fault == Fault::CompleteFails {
        return plain("200 OK", "<?xml version=\"1.0\"?><Error><Code>InternalError</Code></Error>");
    }
    let body = String::from_utf8_lossy(&request.body).into_owned();
    let mut expected = String::new();
    for number in state.parts.keys() {
        // Parts and their tags are listed in the order of their numbers, whichever was done first.
        let tag = format!("tag-{number}");
        let at = body.find(&tag).unwrap_or(usize::MAX);
        if at == usize::MAX || !body[at..].contains(&format!("<PartNumber>{number}</PartNumber>")) {
            return plain("400 Bad Request", format!("<Code>InvalidPartOrder</Code>{body}"));
        }
        expected.push_str(&tag);
    }
    let order: String = body
        .split("tag-")
        .skip(1)
        .filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next())
        .map(|number| format!("tag-{number}"))
        .collect();
    if order != expected {
        return plain("400 Bad Request", format!("<Code>InvalidPartOrder</Code>{order}"));
    }
    let whole = std::mem::take(&mut state.parts).into_values().flatten().collect();
    state.objects.insert(key.to_owned(), whole);
    plain(
        "200 OK",
        "<CompleteMultipartUploadResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><ETag>whole</ETag>\
         </CompleteMultipartUploadResult>",
    )
}

/// Two objects a page.
fn list(request: &Request, state: &State) -> Answer {
    let prefix = request.query.get("prefix").map(|prefix| prefix.replace("%2F", "/")).unwrap_or_default();
    let after = request.query.get("continuation-token").map(|token| token.replace("%2F", "/")).unwrap_or_default();
    let mut text = "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">".to_owned();
    // Tokens are the last key, percent-encoded twice: once as a key, once in the query.
    let after = after.replace("%25", "%");
    let matching: Vec<_> = state.objects.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > after).collect();
    for (key, content) in matching.iter().take(2) {
        text.push_str(&format!("<Contents><Key>{key}</Key><Size>{}</Size></Contents>", content.len()));
    }
    if state.fault == Fault::HostileKey {
        text.push_str(&format!("<Contents><Key>{prefix}../../etc/passwd</Key><Size>1</Size></Contents>"));
    }
    let more = matching.len() > 2;
    if let Some((last, _)) = matching.get(1).filter(|_| more) {
        text.push_str(&format!("<NextContinuationToken>{last}</NextContinuationToken>"));
    }
    text.push_str(&format!("<EncodingType>url</EncodingType><IsTruncated>{more}</IsTruncated></ListBucketResult>"));
    plain("200 OK", text)
}

fn fetch(key: &str, request: &Request, state: &State) -> Answer {
    let Some(content) = state.objects.get(key) else {
        return plain("404 Not Found", "<Error><Code>NoSuchKey</Code></Error>");
    };
    let Some((from, to)) = request.range.filter(|_| state.fault != Fault::NoRanges) else {
        let short = usize::from(state.fault == Fault::ShortBody && request.method == "GET");
        return plain("200 OK", &content[..content.len().saturating_sub(short)]);
    };
    let whole = content.len();
    Answer {
        status: "206 Partial Content",
        headers: vec![format!("content-range: bytes {from}-{to}/{whole}")],
        body: content[from..=to].to_vec(),
    }
}
