//! How a failure is shown and which exit code it has: one line what, one line why, one line what to do.
//!
//! Decides exit codes at the command line and nowhere else. Never decides whose fault something was: the
//! libraries' errors say so.

use std::fmt;
use std::process::ExitCode;

use serde_json::json;

/// The stable exit codes of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything was done.
    Ok,
    /// Our bug.
    Bug,
    /// The command line makes no sense.
    Usage,
    /// What was named does not exist.
    NotFound,
    /// Too few nodes answer at present; a retry may succeed.
    NotNow,
    /// Gone or damaged: enough nodes answered and fewer than k shards exist.
    Gone,
    /// Refused: quota, permission, key, passphrase.
    Refused,
    /// Some files failed and are listed; the rest is done.
    SomeFailed,
    /// Another writer was first.
    Conflict,
    /// Local trouble: disk full, file vanished, no permission.
    Local,
    /// Interrupted; what was acknowledged stays.
    Interrupted,
}

impl Exit {
    /// The number that the shell sees.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Bug => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::NotNow => 4,
            Self::Gone => 5,
            Self::Refused => 6,
            Self::SomeFailed => 7,
            Self::Conflict => 8,
            Self::Local => 9,
            Self::Interrupted => 130,
        }
    }

    /// The exit code for a number that a library chose; anything unknown is our bug.
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Ok,
            2 => Self::Usage,
            3 => Self::NotFound,
            4 => Self::NotNow,
            5 => Self::Gone,
            6 => Self::Refused,
            7 => Self::SomeFailed,
            8 => Self::Conflict,
            9 => Self::Local,
            130 => Self::Interrupted,
            _ => Self::Bug,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

/// A failed command: what failed, why, what to do, and the exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    exit: Exit,
    what: String,
    why: String,
    remedy: String,
}

impl Failure {
    /// A failure in three parts; `why` and `remedy` may be empty.
    pub fn new(exit: Exit, what: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { exit, what: one_line(what.into()), why: one_line(why.into()), remedy: one_line(remedy.into()) }
    }

    /// A command line that makes no sense.
    pub fn usage(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what, "", remedy)
    }

    /// Trouble with a local file or folder.
    pub fn local(what: impl Into<String>, error: &std::io::Error) -> Self {
        let remedy = match error.kind() {
            std::io::ErrorKind::PermissionDenied => "check who owns it, or choose another place",
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => "free some space and run it again",
            std::io::ErrorKind::NotFound => "check the path",
            _ => "put it right and run the command again",
        };
        Self::new(Exit::Local, what, error.to_string(), remedy)
    }

    /// Something that should be impossible.
    pub fn bug(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Exit::Bug, what, why, "please report this with the output of the command under -v")
    }

    /// The user pressed Ctrl-C.
    #[must_use]
    pub fn interrupted() -> Self {
        Self::new(
            Exit::Interrupted,
            "interrupted",
            "what was acknowledged stays",
            "run the same command again to resume",
        )
    }

    /// The exit code.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        self.exit
    }

    /// The same as an object for `--json`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        json!({ "error": { "exit": self.exit.number(), "what": self.what, "why": self.why, "remedy": self.remedy } })
    }
}

fn one_line(text: String) -> String {
    if text.contains(['\n', '\r']) { text.split_whitespace().collect::<Vec<_>>().join(" ") } else { text }
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "error: {}", self.what)?;
        if !self.why.is_empty() {
            write!(formatter, "\n  why: {}", self.why)?;
        }
        if !self.remedy.is_empty() {
            write!(formatter, "\n   do: {}", self.remedy)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_has_three_lines_at_most() {
        let failure = Failure::new(Exit::NotNow, "could not\nput", "3 of 24 nodes answer", "try again");
        assert_eq!(failure.to_string(), "error: could not put\n  why: 3 of 24 nodes answer\n   do: try again");
        assert_eq!(Failure::usage("no", "").to_string(), "error: no");
    }

    #[test]
    fn exit_numbers_round_trip_but_for_unknown_ones() {
        for number in [0, 2, 3, 4, 5, 6, 7, 8, 9, 130] {
            assert_eq!(Exit::from_number(number).number(), number);
        }
        assert_eq!(Exit::from_number(77), Exit::Bug);
    }
}
