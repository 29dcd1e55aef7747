//! A client's events as one bar on the terminal.

use std::sync::Mutex;

use dolmen_client::{ProgressEvent, ProgressSink, Stage};
use indicatif::ProgressBar;

use crate::terminal::Terminal;

/// Draws one bar for the stage that an operation is in.
#[derive(Debug)]
pub struct Bars {
    terminal: Terminal,
    /// The bar of the present stage; a poisoned lock only loses drawing.
    bar: Mutex<Option<ProgressBar>>,
}

impl Bars {
    /// Bars on this terminal; hidden where nobody looks.
    #[must_use]
    pub const fn new(terminal: Terminal) -> Self {
        Self { terminal, bar: Mutex::new(None) }
    }

    fn with_bar(&self, act: impl FnOnce(&ProgressBar)) {
        if let Ok(bar) = self.bar.lock()
            && let Some(bar) = bar.as_ref()
        {
            act(bar);
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.with_bar(ProgressBar::finish_and_clear);
    }
}

const fn name(stage: Stage) -> &'static str {
    match stage {
        Stage::FindingNodes => "nodes",
        Stage::Scanning => "scanning",
        Stage::Uploading => "storing",
        Stage::Publishing => "publishing",
        Stage::Renewing => "leasing",
        Stage::ReadingDocuments => "reading",
        Stage::Downloading => "getting",
        Stage::Asking => "asking",
        Stage::Auditing => "auditing",
        Stage::Repairing => "repairing",
    }
}

impl ProgressSink for Bars {
    fn event(&self, event: ProgressEvent) {
        match event {
            ProgressEvent::Stage(stage) => {
                if let Ok(mut bar) = self.bar.lock() {
                    if let Some(old) = bar.take() {
                        old.finish_and_clear();
                    }
                    *bar = Some(self.terminal.bar(name(stage), None));
                }
            }
            ProgressEvent::Total { bytes, .. } => {
                if let Ok(mut bar) = self.bar.lock()
                    && bytes > 0
                {
                    // A bar with a total has another shape: replace it, keeping what was counted.
                    let (prefix, done) = bar
                        .take()
                        .map(|old| {
                            let kept = (old.prefix(), old.position());
                            old.finish_and_clear();
                            kept
                        })
                        .unwrap_or_default();
                    let new = self.terminal.bar(&prefix, Some(bytes));
                    new.set_position(done);
                    *bar = Some(new);
                }
            }
            ProgressEvent::Bytes(bytes) => self.with_bar(|bar| bar.inc(bytes)),
            ProgressEvent::Files(_) => {}
            ProgressEvent::Current(path) => self.with_bar(|bar| bar.set_message(path)),
            ProgressEvent::Warning(message) => {
                let mut drawn = false;
                self.with_bar(|bar| {
                    drawn = true;
                    bar.suspend(|| self.terminal.warning(&message));
                });
                if !drawn {
                    self.terminal.warning(&message);
                }
            }
        }
    }
}
