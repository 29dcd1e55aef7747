//! What a client's operation can fail with: whose fault it is, and the three lines that a person reads.
//!
//! Decides the exit code of every failure. Never prints.

use std::fmt;
use std::path::Path;

/// Whose fault a failure is; each kind is one exit code of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A mistake of ours: something that cannot happen happened.
    Bug,
    /// The caller asked for something that makes no sense: a malformed link, a bad option.
    Usage,
    /// The network answered, and what was asked for is not there.
    NotFound,
    /// Too few nodes could be reached; the same call may succeed later.
    NotNow,
    /// Enough nodes answered, and fewer than `k` shards of something exist.
    Damaged,
    /// Refused: quota, permission, key, passphrase.
    Refused,
    /// Another writer was first.
    Conflict,
    /// This machine: disk full, file vanished, no permission.
    Local,
    /// The caller interrupted it.
    Interrupted,
}

/// A failure of a whole operation, as the three lines of the command line: what failed, why, what to do.
///
/// Failures of single files do not end an operation: they are listed in its report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ClientError {
    kind: ErrorKind,
    what: String,
    why: String,
    advice: String,
}

impl ClientError {
    /// A failure from its kind and its three lines, none of which ends in a line break.
    pub fn new(kind: ErrorKind, what: impl Into<String>, why: impl fmt::Display, advice: impl Into<String>) -> Self {
        Self { kind, what: what.into(), why: why.to_string(), advice: advice.into() }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// First line: what failed.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Second line: why it failed.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.why
    }

    /// Third line: what the user can do about it.
    #[must_use]
    pub fn advice(&self) -> &str {
        &self.advice
    }

    /// The exit code of the command line, as cli.md has it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            ErrorKind::Bug => 1,
            ErrorKind::Usage => 2,
            ErrorKind::NotFound => 3,
            ErrorKind::NotNow => 4,
            ErrorKind::Damaged => 5,
            ErrorKind::Refused => 6,
            ErrorKind::Conflict => 8,
            ErrorKind::Local => 9,
            ErrorKind::Interrupted => 130,
        }
    }

    /// What reading a file as a stream failed with.
    pub(crate) fn from_reading(error: std::io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(error) => error,
            Err(error) => Self::bug("reading a file failed", error),
        }
    }

    /// A failed call to this machine's file system.
    pub(crate) fn local(action: &str, path: &Path, error: &std::io::Error) -> Self {
        Self::new(
            ErrorKind::Local,
            format!("could not {action} {}", path.display()),
            error,
            "check the path, its permissions and the free space, then run the same command again",
        )
    }

    /// Something that our own rules exclude; the message names the rule.
    pub(crate) fn bug(what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self::new(
            ErrorKind::Bug,
            what,
            why,
            "this is a mistake in dolmen: please report it with the command that led to it",
        )
    }
}

impl From<dolmen_proto::audit::AuditError> for ClientError {
    /// Of an auditor's own doing: what a node does wrong is an outcome and no failure.
    fn from(error: dolmen_proto::audit::AuditError) -> Self {
        Self::bug("an audit went wrong", error)
    }
}

impl From<ClientError> for std::io::Error {
    /// For those who read a file as a stream; the failure itself is the source.
    fn from(error: ClientError) -> Self {
        let kind = match error.kind {
            ErrorKind::NotFound => std::io::ErrorKind::NotFound,
            ErrorKind::NotNow => std::io::ErrorKind::TimedOut,
            ErrorKind::Damaged => std::io::ErrorKind::InvalidData,
            ErrorKind::Refused => std::io::ErrorKind::PermissionDenied,
            ErrorKind::Usage => std::io::ErrorKind::InvalidInput,
            // Not the system's `Interrupted`, at which readers try again for ever.
            ErrorKind::Bug | ErrorKind::Conflict | ErrorKind::Local | ErrorKind::Interrupted => {
                std::io::ErrorKind::Other
            }
        };
        Self::new(kind, error)
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}\n{}\n{}", self.what, self.why, self.advice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_three_lines_and_one_exit_code() {
        let error = ClientError::new(ErrorKind::NotNow, "a", "b", "c");
        assert_eq!(error.to_string(), "a\nb\nc");
        assert_eq!(error.exit_code(), 4);
        assert_eq!(ClientError::bug("a", "b").exit_code(), 1);
    }
}
