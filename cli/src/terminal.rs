//! What goes to the screen and what goes to programs: plain results, tables, JSON lines and progress bars.
//!
//! Decides how much is printed where, from `--json`, `-q` and whether standard output and error are terminals.
//! Never decides what a command has to say.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::failure::Failure;

/// How this run of the program talks.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    json: bool,
    quiet: bool,
    /// `--json` objects go to standard error, because the content itself goes to standard output.
    json_to_stderr: bool,
}

impl Terminal {
    /// For the flags of this run.
    #[must_use]
    pub const fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet, json_to_stderr: false }
    }

    /// The same, for a command whose content goes to standard output.
    #[must_use]
    pub const fn with_content_on_stdout(self) -> Self {
        Self { json_to_stderr: true, ..self }
    }

    /// Whether the answer is for a program.
    #[must_use]
    pub const fn is_json(self) -> bool {
        self.json
    }

    /// Prints one JSON object on a line of its own; nothing without `--json`.
    pub fn json<T: Serialize>(self, value: &T) {
        if !self.json {
            return;
        }
        let line = serde_json::to_string(value).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"));
        if self.json_to_stderr {
            self.write_stderr(&line);
        } else {
            self.write_stdout(&line);
        }
    }

    /// Prints a line of the result for people and pipes; nothing with `--json`.
    pub fn result(self, line: &str) {
        if !self.json {
            self.write_stdout(line);
        }
    }

    /// Prints a remark for people: only on a terminal, never with `--json` or `-q`.
    pub fn remark(self, line: &str) {
        if !self.json && !self.quiet && std::io::stderr().is_terminal() {
            self.write_stderr(line);
        }
    }

    /// Prints a part of a story that the user asked to watch: everywhere but with `--json` or `-q`.
    pub fn story(self, line: &str) {
        if !self.json && !self.quiet {
            self.write_stderr(line);
        }
    }

    /// Prints a warning on standard error, always.
    pub fn warning(self, line: &str) {
        self.write_stderr(&format!("warning: {line}"));
    }

    /// Prints a failure on standard error, and as an object with `--json`.
    pub fn failure(self, failure: &Failure) {
        self.write_stderr(&failure.to_string());
        self.json(&failure.to_json());
    }

    /// Prints rows as a table with a heading for people; nothing with `--json`.
    pub fn table(self, heading: &[&str], rows: Vec<Vec<String>>) {
        if self.json {
            return;
        }
        let mut table = Table::new();
        table.load_style(NOTHING);
        if std::io::stdout().is_terminal() || !heading.is_empty() {
            table.set_header(heading.iter().map(|name| name.to_uppercase()));
        }
        for row in rows {
            table.add_row(row);
        }
        for column in table.column_iter_mut() {
            column.set_cell_alignment(CellAlignment::Left);
        }
        for line in table.to_string().lines() {
            self.write_stdout(line.trim_end());
        }
    }

    /// A bar with rate and time left; hidden where nobody looks.
    #[must_use]
    pub fn bar(self, what: &str, total_bytes: Option<u64>) -> ProgressBar {
        if self.json || self.quiet || !std::io::stderr().is_terminal() {
            return ProgressBar::with_draw_target(total_bytes, ProgressDrawTarget::hidden());
        }
        let bar = ProgressBar::with_draw_target(total_bytes, ProgressDrawTarget::stderr_with_hz(8));
        let template = if total_bytes.is_some() {
            "{prefix:>10} [{bar:32}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} ETA {eta} {wide_msg}"
        } else {
            "{prefix:>10} {spinner} {binary_bytes} {binary_bytes_per_sec} {wide_msg}"
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        bar.set_prefix(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(250));
        bar
    }

    /// A reader that went away (`dolmen ls | head`) is no failure of ours.
    fn write_stdout(self, line: &str) {
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    }

    fn write_stderr(self, line: &str) {
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }
}

/// A time as people read it, in the local zone, to the minute.
#[must_use]
pub fn local_time(unix_ms: u64) -> String {
    i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).map_or_else(
        || "never".to_owned(),
        |time| time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string(),
    )
}

/// A time as programs read it: RFC 3339 in UTC.
#[must_use]
pub fn utc_time(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.unwrap_or(jiff::Timestamp::MAX).to_string()
}

/// A size as people read it, rounded: `53.8 GB`. Exact numbers are for `--json`.
#[must_use]
pub fn size(bytes: u64) -> String {
    indicatif::DecimalBytes(bytes).to_string()
}

/// Mebibytes a second with one decimal.
#[must_use]
pub fn rate(mib_s: f64) -> String {
    format!("{mib_s:.1} MiB/s")
}
