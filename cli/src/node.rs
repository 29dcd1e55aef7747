//! `dolmen node ...`: make, run and look after a storage node.

mod audits;
mod leave;

use std::path::Path;

use dolmen_storage_node::config::{ConfigError, InitOptions, NodeConfig};
use dolmen_storage_node::folders::{self, FolderError};
use dolmen_storage_node::node::{self, NodeError};
use dolmen_storage_node::status::{DiskState, DiskStatus, NodeStatus};
use serde_json::json;

use crate::arguments::{Disk, Node as Arguments, NodeInit, NodeRun};
use crate::context::Context;
use crate::data::now;
use crate::failure::{Exit, Failure};
use crate::terminal::{Terminal, local_time, size};

/// Runs one of these commands.
///
/// # Errors
/// [`Failure`] that names the file, folder or address that is in the way.
pub fn run(context: &Context, command: Arguments) -> Result<Exit, Failure> {
    match command {
        Arguments::Init(arguments) => init(context, arguments),
        Arguments::Run(arguments) => serve(context, &arguments),
        Arguments::Status => show_status(context),
        Arguments::Leave(arguments) => leave::run(context, &arguments),
        Arguments::Audits(arguments) => audits::run(context, &arguments),
        Arguments::Reindex => reindex(context),
        Arguments::Disk(Disk::List) => list_disks(context),
        Arguments::Disk(Disk::Add(disk)) => add_disk(context, &disk.folder),
        Arguments::Disk(Disk::Remove(disk)) => remove_disk(context, &disk.folder),
    }
}

fn folder_failure(what: &str, error: &FolderError) -> Failure {
    let exit = match error {
        FolderError::Config(ConfigError::File { .. }) => Exit::Local,
        FolderError::Config(_) => Exit::Usage,
        FolderError::NotEmpty { .. } => Exit::Refused,
        _ => Exit::Local,
    };
    failure(exit, what, &error.to_string())
}

fn node_failure(what: &str, error: &NodeError) -> Failure {
    match error {
        NodeError::Folder(error) => folder_failure(what, error),
        NodeError::Bootstrap { .. } | NodeError::OperatorClaim { .. } => failure(Exit::Usage, what, &error.to_string()),
        _ => failure(Exit::Local, what, &error.to_string()),
    }
}

/// The node's errors say why in their first line and, where they know, what to do in the second.
fn failure(exit: Exit, what: &str, text: &str) -> Failure {
    let (why, remedy) = text.split_once('\n').unwrap_or((text, "put that right and run the command again"));
    Failure::new(exit, what, why, remedy)
}

fn init(context: &Context, arguments: NodeInit) -> Result<Exit, Failure> {
    let path = context.node_config_path();
    let current =
        std::env::current_dir().map_err(|error| Failure::local("could not find the current folder", &error))?;
    // Folders are typed relative to here, and the file counts them from where it lies.
    let data = arguments.data.iter().map(|folder| current.join(folder)).collect();
    let options = InitOptions {
        data,
        quota: arguments.quota,
        region: (!arguments.region.is_empty()).then_some(arguments.region),
        listen: Some(arguments.listen),
        control: arguments.control,
        announce: arguments.announce,
        announce_control_port: None,
        bootstrap: context.bootstrap().to_vec(),
        ..InitOptions::default()
    };
    let (config, node) =
        folders::init(&path, &options).map_err(|error| folder_failure("could not make a node", &error))?;
    let terminal = context.terminal();
    terminal.remark(&format!("read {} over, then: dolmen node run --config {}", path.display(), path.display()));
    terminal.result(&node.to_string());
    terminal.json(&json!({
        "node": node.to_string(),
        "config": path.to_string_lossy(),
        "key": config.key_file.to_string_lossy(),
    }));
    Ok(Exit::Ok)
}

fn serve(context: &Context, arguments: &NodeRun) -> Result<Exit, Failure> {
    let mut config = context.node_config()?;
    if !context.bootstrap().is_empty() {
        config.bootstrap = context.bootstrap().to_vec();
    }
    config.trust_clock |= arguments.trust_clock;
    let until_stdin_closes = arguments.until_stdin_closes;
    let terminal = context.terminal();
    let stop = move || {
        let interrupted = crate::interrupted();
        async move {
            if until_stdin_closes {
                tokio::select! {
                    () = interrupted => {}
                    () = stdin_closed() => {}
                }
            } else {
                interrupted.await;
            }
        }
    };
    node::run(config, |node| terminal.story(&format!("node {} serves", node.id())), stop)
        .map_err(|error| node_failure("the node could not run", &error))?;
    terminal.story("the node has stopped; all that it acknowledged is on disk");
    Ok(Exit::Ok)
}

/// Returns when standard input ends: the parent that held its other end has stopped or died.
///
/// Waits on a thread of its own: tokio's standard input would keep the runtime from ending.
async fn stdin_closed() {
    let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let _sender = sender;
        // The end of input and an error mean the same here.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
    });
    let _ = receiver.await;
}

fn last_status(config: &NodeConfig) -> Result<Option<NodeStatus>, Failure> {
    node::last_status(&config.data).map_err(|error| status_failure(&error))
}

fn status_failure(error: &std::io::Error) -> Failure {
    Failure::local("could not read the node's status", error)
}

fn never_ran() -> Failure {
    Failure::new(
        Exit::NotFound,
        "this node has never run",
        "no data folder has a status",
        "start it with `dolmen node run`",
    )
}

fn status_of(config: &NodeConfig) -> Result<NodeStatus, Failure> {
    last_status(config)?.ok_or_else(never_ran)
}

fn show_status(context: &Context) -> Result<Exit, Failure> {
    let config = context.node_config()?;
    let status = status_of(&config)?;
    let running = status.process_is_alive();
    let terminal = context.terminal();
    if terminal.is_json() {
        let mut value = serde_json::to_value(&status)
            .map_err(|error| Failure::bug("a status cannot be printed", error.to_string()))?;
        if let Some(object) = value.as_object_mut() {
            object.insert("running".to_owned(), json!(running));
        }
        terminal.json(&value);
        return Ok(Exit::Ok);
    }
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let phase =
        serde_json::to_value(status.phase).ok().and_then(|phase| phase.as_str().map(str::to_owned)).unwrap_or_default();
    terminal.table(
        &[],
        vec![
            row("node", status.node.clone()),
            row(
                "state",
                if running {
                    format!("{phase}, process {}, for {} s", status.pid, status.uptime_s)
                } else {
                    "not running".to_owned()
                },
            ),
            row("as of", local_time(status.updated_at_ms)),
            row("version", status.software.clone()),
            row("data plane", status.data_addresses.join(", ")),
            row("bootstrap", status.control_addresses.join(", ")),
            row("accepting", status.accepting.clone()),
            row("used", format!("{} of {}", size(status.used_bytes), size(status.quota_bytes))),
            row("open quota", format!("{} of {}", size(status.open_used_bytes), size(status.open_quota_bytes))),
            row("holds", format!("{} shards under {} leases, {} heads", status.shards, status.leases, status.heads)),
            row(
                "knows",
                format!(
                    "{} nodes, {} connections, datagrams of {} bytes",
                    status.known_nodes, status.connections, status.datagram_bytes
                ),
            ),
            row(
                "clock",
                if status.clock_trusted {
                    "trusted".to_owned()
                } else {
                    format!("jumped by {} s: nothing expires; see --trust-clock", status.clock_jump_ms / 1000)
                },
            ),
        ],
    );
    if let Some(leaving) = &status.leaving {
        terminal.remark(&leave::progress(leaving));
    }
    show_disks(terminal, &status.disks);
    Ok(Exit::Ok)
}

fn show_disks(terminal: Terminal, disks: &[DiskStatus]) {
    let rows = disks
        .iter()
        .map(|disk| {
            let state = match disk.state {
                DiskState::Ok => "ok",
                DiskState::Rebuilding => "rebuilding",
                DiskState::Unmounted => "unmounted",
                DiskState::Failed => "failed",
                DiskState::ReadOnly => "read only",
            };
            vec![
                disk.path.display().to_string(),
                state.to_owned(),
                size(disk.live_bytes),
                size(disk.dead_bytes),
                size(disk.free_bytes),
                disk.reason.clone(),
            ]
        })
        .collect();
    terminal.table(&["disk", "state", "live", "dead", "free", ""], rows);
}

fn reindex(context: &Context) -> Result<Exit, Failure> {
    let config = context.node_config()?;
    let (_, usage) =
        folders::reindex(&config, now()).map_err(|error| folder_failure("could not rebuild the index", &error))?;
    let terminal = context.terminal();
    terminal.result(&format!("{} shards and {} heads are in the volumes", usage.shards, usage.heads));
    terminal.json(&json!({ "shards": usage.shards, "damaged_shards": usage.damaged, "heads": usage.heads }));
    Ok(Exit::Ok)
}

fn list_disks(context: &Context) -> Result<Exit, Failure> {
    let config = context.node_config()?;
    let running = last_status(&config)?.filter(NodeStatus::process_is_alive);
    let disks = match running {
        Some(status) => status.disks,
        None => folders::list(&config, now())
            .map_err(|error| folder_failure("could not look into the data folders", &error))?,
    };
    let terminal = context.terminal();
    for disk in &disks {
        terminal.json(disk);
    }
    terminal.json(&json!({ "summary": { "disks": disks.len() } }));
    show_disks(terminal, &disks);
    Ok(Exit::Ok)
}

fn absolute(folder: &Path) -> Result<std::path::PathBuf, Failure> {
    std::path::absolute(folder).map_err(|error| Failure::local(format!("could not find {}", folder.display()), &error))
}

fn add_disk(context: &Context, folder: &Path) -> Result<Exit, Failure> {
    let config = folders::add(&context.node_config_path(), &absolute(folder)?)
        .map_err(|error| folder_failure("could not add the folder", &error))?;
    let terminal = context.terminal();
    terminal.result(&format!("{} data folders; restart the node to use the new one", config.data.len()));
    terminal.json(&json!({ "disks": config.data.len() }));
    Ok(Exit::Ok)
}

fn remove_disk(context: &Context, folder: &Path) -> Result<Exit, Failure> {
    let config = folders::remove(&context.node_config_path(), &absolute(folder)?, now())
        .map_err(|error| folder_failure(&format!("{} stays", folder.display()), &error))?;
    let terminal = context.terminal();
    terminal.result(&format!("{} data folders", config.data.len()));
    terminal.json(&json!({ "disks": config.data.len() }));
    Ok(Exit::Ok)
}
