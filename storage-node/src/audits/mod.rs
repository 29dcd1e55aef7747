//! What a node does about audits beside answering them: how much of its disks they may take, and what it keeps of them.

mod budget;
mod log;

pub use budget::{Asker, AuditBudget};
pub use log::{AuditLog, LoggedAudit, read_log};
