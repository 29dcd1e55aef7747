//! Error numbers of the wire and what each range of them says about whose fault it is.
//!
//! Decides how an error is numbered, bounded and read. Never decides when one is due: that is its sender's.

use core::fmt;
use core::time::Duration;

use crate::limits::{ERROR_MESSAGE_MAX_BYTES, RETRY_AFTER_MAX};
use crate::messages;

/// Whose fault an error is, as its sender sees it: the hundreds of its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireFault {
    /// 100s: the other side sent what the protocol does not allow. Asking again in the same way is no use.
    Peer,
    /// 200s: not now; the same may succeed later, after `retry_after`.
    Unreachable,
    /// 300s: the sender's own disk or store lacks what was asked for.
    Local,
    /// 400s: understood, and not allowed.
    Misuse,
    /// 500s and every number that lies in no range: the sender is at fault and knows no more.
    Bug,
}

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What went wrong, as a number on the wire.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)*
            /// A number that this release does not know, from a newer one; its range still says whose fault it is.
            Other(u32),
        }

        impl ErrorCode {
            /// Every code that this release knows.
            pub const KNOWN: &[Self] = &[$(Self::$name),*];

            /// The number on the wire.
            #[must_use]
            pub const fn number(self) -> u32 {
                match self {
                    $(Self::$name => $number,)*
                    Self::Other(number) => number,
                }
            }

            /// The code with this number.
            #[must_use]
            pub const fn from_number(number: u32) -> Self {
                match number {
                    $($number => Self::$name,)*
                    other => Self::Other(other),
                }
            }
        }
    };
}

error_codes! {
    /// The message cannot be parsed, or a field of it is out of bounds.
    Malformed = 101,
    /// A header, payload or count is over its maximum.
    TooLarge = 102,
    /// The call, or a feature that the message needs, is not known here.
    Unsupported = 103,
    /// The payload or the shard does not have the length that was named.
    LengthMismatch = 104,
    /// The payload does not hash to the root that was named.
    RootMismatch = 105,
    /// The message is of a protocol version outside of the range spoken here.
    VersionNotSupported = 106,
    /// A signed statement is past its expiry.
    Expired = 107,
    /// Too much is going on; come back after `retry_after`.
    Busy = 201,
    /// The node is going down.
    ShuttingDown = 202,
    /// The node has not read all of its disks yet, so it cannot say that it lacks a shard.
    StillIndexing = 203,
    /// There is no such shard, lease or head here.
    NotHeld = 301,
    /// The shard is here but does not match its root any more.
    Damaged = 302,
    /// There is no room left on the disk.
    DiskFull = 303,
    /// The disk refused to read or write.
    DiskFailed = 304,
    /// The signature is not one that may ask for this.
    Unauthorised = 401,
    /// The account's or the grant's quota is used up.
    QuotaExceeded = 402,
    /// The share of the disk that all unknown accounts, or all of one subnet, have together is used up.
    OpenQuotaExceeded = 403,
    /// The node takes no new shards, or none of this account.
    NotAccepting = 404,
    /// The lease asked for is longer than the node grants.
    LeaseTooLong = 405,
    /// The two clocks are too far apart.
    ClockSkew = 406,
    /// There are more of these than the node keeps: leases on one root, heads at one point.
    TooMany = 407,
    /// The node's own fault, with details in its log.
    Internal = 501,
}

impl ErrorCode {
    /// Whose fault it is, from the range of the number.
    #[must_use]
    pub const fn fault(self) -> WireFault {
        match self.number() / 100 {
            1 => WireFault::Peer,
            2 => WireFault::Unreachable,
            3 => WireFault::Local,
            4 => WireFault::Misuse,
            _ => WireFault::Bug,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {self:?}", self.number())
    }
}

/// An error as it travels in a reply, and as parsing of a message returns it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct WireError {
    code: ErrorCode,
    message: String,
    retry_after: Option<Duration>,
}

impl WireError {
    /// An error with a message for people: one line, cut to [`ERROR_MESSAGE_MAX_BYTES`], control characters replaced.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl AsRef<str>) -> Self {
        Self { code, message: one_line(message.as_ref()), retry_after: None }
    }

    /// The same with a time after which asking again makes sense, at most [`RETRY_AFTER_MAX`].
    #[must_use]
    pub fn with_retry_after(mut self, retry_after: Duration) -> Self {
        self.retry_after = Some(retry_after.min(RETRY_AFTER_MAX));
        self
    }

    /// A message that does not parse, in the words "`what` is wrong".
    #[must_use]
    pub fn malformed(message: impl AsRef<str>) -> Self {
        Self::new(ErrorCode::Malformed, message)
    }

    /// The error's number.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        self.code
    }

    /// What the sender says about it: text from a peer, bounded and without control characters.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// How long to wait before asking again, where the sender says so.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Whose fault it is, as the sender sees it.
    #[must_use]
    pub const fn fault(&self) -> WireFault {
        self.code.fault()
    }

    pub(crate) fn to_message(&self) -> messages::Error {
        messages::Error {
            code: self.code.number(),
            message: self.message.clone(),
            retry_after_ms: self
                .retry_after
                .map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)),
        }
    }

    pub(crate) fn from_message(message: &messages::Error) -> Self {
        let error = Self::new(ErrorCode::from_number(message.code), &message.message);
        match message.retry_after_ms {
            0 => error,
            milliseconds => error.with_retry_after(Duration::from_millis(milliseconds)),
        }
    }
}

fn one_line(text: &str) -> String {
    let mut line = String::new();
    for character in text.chars().map(|character| if character.is_control() { '?' } else { character }) {
        if line.len() + character.len_utf8() > ERROR_MESSAGE_MAX_BYTES {
            break;
        }
        line.push(character);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip_and_are_distinct() {
        let mut seen = std::collections::BTreeSet::new();
        for code in ErrorCode::KNOWN {
            assert_eq!(ErrorCode::from_number(code.number()), *code);
            assert!(seen.insert(code.number()), "{code} is used twice");
            assert!((1..=5).contains(&(code.number() / 100)), "{code} lies in no range");
        }
    }

    #[test]
    fn an_unknown_number_keeps_the_fault_of_its_range() {
        assert_eq!(ErrorCode::from_number(299).fault(), WireFault::Unreachable);
        assert_eq!(ErrorCode::from_number(199).fault(), WireFault::Peer);
        assert_eq!(ErrorCode::from_number(399).fault(), WireFault::Local);
        assert_eq!(ErrorCode::from_number(499).fault(), WireFault::Misuse);
        assert_eq!(ErrorCode::from_number(7).fault(), WireFault::Bug);
        assert_eq!(ErrorCode::from_number(u32::MAX).fault(), WireFault::Bug);
        assert_eq!(ErrorCode::from_number(299), ErrorCode::Other(299));
    }

    #[test]
    fn messages_are_one_bounded_line() {
        let error = WireError::new(ErrorCode::Busy, "\u{1b}[31m\n".repeat(200)).with_retry_after(Duration::MAX);
        assert!(error.message().len() <= ERROR_MESSAGE_MAX_BYTES);
        assert!(!error.message().chars().any(char::is_control));
        assert_eq!(error.retry_after(), Some(RETRY_AFTER_MAX));
        assert_eq!(WireError::from_message(&error.to_message()), error);
        let accents = WireError::new(ErrorCode::Busy, "é".repeat(300));
        assert_eq!(accents.message().len(), ERROR_MESSAGE_MAX_BYTES);
    }
}
