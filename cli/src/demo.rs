//! `dolmen demo`: the whole story on one machine, with real node processes and real kills.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use dolmen_client::{Client, Destination, GetOptions, PutOptions};
use dolmen_proto::limits::MIB;
use dolmen_proto::policy::Policy;
use serde_json::json;

use crate::arguments::Demo;
use crate::context::Context;
use crate::devnet;
use crate::failure::{Exit, Failure};
use crate::interrupted;
use crate::node_process::LocalNetwork;
use crate::terminal::{rate, size};
use crate::tree_compare;

/// Folders with less than this are joined by the toolchain's files.
const FILL_BELOW_BYTES: u64 = 64 * MIB;
/// How much of the toolchain joins.
const FILL_MAX_BYTES: u64 = 200 * 1_000_000;
/// Above this the demo asks first.
const ASK_ABOVE_BYTES: u64 = 2 * 1024 * MIB;

/// Runs the story.
///
/// # Errors
/// [`Failure`] of whichever part fails; processes are ended and the temporary folder is removed in any case.
pub async fn run(context: &Context, arguments: &Demo) -> Result<Exit, Failure> {
    let temporary = match &arguments.keep {
        Some(_) => None,
        None => Some(
            tempfile::Builder::new()
                .prefix("dolmen-demo-")
                .tempdir()
                .map_err(|error| Failure::local("could not make a temporary folder", &error))?,
        ),
    };
    let folder = match (&arguments.keep, &temporary) {
        (Some(keep), _) => keep.clone(),
        (None, Some(temporary)) => temporary.path().to_path_buf(),
        (None, None) => return Err(Failure::bug("the demo has no folder", "")),
    };
    let mut network = LocalNetwork::prepare(&folder, Some(arguments.nodes))?;
    let outcome = tokio::select! {
        outcome = tell(context, arguments, &folder, &mut network) => outcome,
        () = interrupted() => Err(Failure::interrupted()),
    };
    network.stop().await;
    outcome
}

async fn tell(context: &Context, arguments: &Demo, folder: &Path, network: &mut LocalNetwork) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    let sources = gather(context, arguments, folder)?;
    terminal.story(&format!("1. starting {} node processes on loopback", network.count()));
    network.start().await?;
    devnet::wait_until_found(context, network).await?;
    terminal.story("   all found each other through Kademlia");

    let client: Client = context.connect_to(&network.client_config()).await?;
    let paths: Vec<PathBuf> = sources.iter().map(|source| source.stored.clone()).collect();
    terminal.story("2. put: chunk, seal, erasure-code, place");
    let put = client.put_anonymous(&paths, &PutOptions::default()).await?;
    client.shut_down().await;
    let policy = Policy::auto(network.count())
        .map_err(|error| Failure::bug("no policy for the demo's network", error.to_string()))?;
    terminal.story(&format!(
        "   {} files, {} in {} segments coded {policy}, {} on the nodes, {}",
        put.files,
        size(put.bytes),
        put.segments,
        size(put.stored_bytes),
        rate(put.mib_s)
    ));
    if !put.failed.is_empty() {
        for failed in &put.failed {
            terminal.warning(&format!("{}: {}", failed.path, failed.reason));
        }
    }

    let survivable = u16::from(policy.n() - policy.k());
    let kill = arguments.kill.unwrap_or(arguments.nodes / 3).min(survivable);
    terminal.story(&format!("3. killing {kill} of {} nodes with SIGKILL", network.count()));
    // Every so-manieth node: which of them dies makes no difference, and a rerun does the same.
    let step = network.count() / usize::from(kill.max(1));
    for number in 0..usize::from(kill) {
        network.kill(number * step).await?;
    }

    terminal.story("4. get into another folder");
    let restored = folder.join("restored");
    let client = context.connect_to(&network.client_config()).await?;
    let got = client.get(&put.link, Destination::Path(restored.clone()), &GetOptions::default()).await?;
    client.shut_down().await;
    terminal.story(&format!(
        "   {} files, {}, {}; {} segments needed parity",
        got.files,
        size(got.bytes),
        rate(got.mib_s),
        got.degraded_segments
    ));

    terminal.story("5. comparing every name, mode, time and byte");
    let mut differences = Vec::new();
    let mut verified = 0;
    for source in &sources {
        let copy = restored.join(&source.restored_below);
        let comparison = tree_compare::compare(&source.compared, &copy)
            .map_err(|error| Failure::local("could not compare the copy", &error))?;
        verified += comparison.files;
        differences.extend(comparison.differences);
    }
    terminal.table(
        &["nodes", "killed", "code", "files", "bytes", "stored", "put", "get", "verified"],
        vec![vec![
            network.count().to_string(),
            kill.to_string(),
            policy.to_string(),
            put.files.to_string(),
            size(put.bytes),
            size(put.stored_bytes),
            rate(put.mib_s),
            rate(got.mib_s),
            format!("{verified} of {}", put.files),
        ]],
    );
    terminal.json(&json!({
        "nodes": network.count(), "k": policy.k(), "n": policy.n(), "files": put.files, "bytes": put.bytes,
        "stored_bytes": put.stored_bytes, "put_mib_s": put.mib_s, "get_mib_s": got.mib_s, "killed": kill,
        "verified": differences.is_empty() && got.failed.is_empty() && put.failed.is_empty(),
        "verified_files": verified,
    }));
    if let Some(first) = differences.first() {
        return Err(Failure::bug(format!("the copy differs in {} places", differences.len()), first.clone()));
    }
    let all_there = put.failed.is_empty() && got.failed.is_empty() && verified == put.files;
    Ok(if all_there { Exit::Ok } else { Exit::SomeFailed })
}

/// One thing that the demo stores.
struct DemoSource {
    /// What is given to `put`.
    stored: PathBuf,
    /// The folder that the copy is compared with.
    compared: PathBuf,
    /// Where in the restored folder it comes back; empty for the whole.
    restored_below: PathBuf,
}

/// Decides what is stored: the path, or the current folder without ignored files; with the toolchain where it is small.
fn gather(context: &Context, arguments: &Demo, folder: &Path) -> Result<Vec<DemoSource>, Failure> {
    let terminal = context.terminal();
    let staging = folder.join("source");
    let chosen = match &arguments.path {
        Some(path) if path.is_dir() => {
            path.canonicalize().map_err(|error| Failure::local(format!("could not read {}", path.display()), &error))?
        }
        Some(path) => {
            let name =
                path.file_name().ok_or_else(|| Failure::usage("this path has no name", "name a file or a folder"))?;
            copy_file(path, &staging.join("file").join(name))?;
            staging.join("file")
        }
        None => {
            let here =
                std::env::current_dir().map_err(|error| Failure::local("could not find the current folder", &error))?;
            let name = here.file_name().map_or_else(|| "current".into(), ToOwned::to_owned);
            let target = staging.join(name);
            stage(&here, &target, u64::MAX)?;
            target
        }
    };
    let bytes = size_of(&chosen);
    if bytes > ASK_ABOVE_BYTES && !arguments.yes {
        ask(bytes)?;
    }
    let fill = if bytes < FILL_BELOW_BYTES && !arguments.no_fill { toolchain() } else { None };
    let Some(toolchain) = fill else {
        return Ok(vec![DemoSource { compared: chosen.clone(), stored: chosen, restored_below: PathBuf::new() }]);
    };
    let target = staging.join("rust-toolchain-lib");
    let added = stage(&toolchain, &target, FILL_MAX_BYTES)?;
    terminal.story(&format!(
        "0. {} has only {}: the Rust toolchain's {} joins with {}",
        chosen.display(),
        size(bytes),
        toolchain.display(),
        size(added)
    ));
    [chosen, target]
        .into_iter()
        .map(|path| {
            let name = path
                .file_name()
                .ok_or_else(|| Failure::usage("the root folder cannot be stored", "name a folder below it"))?;
            Ok(DemoSource { restored_below: PathBuf::from(name), compared: path.clone(), stored: path })
        })
        .collect()
}

fn ask(bytes: u64) -> Result<(), Failure> {
    use std::io::{BufRead as _, IsTerminal as _};
    let refused = || {
        Failure::usage(
            format!("this would store {} several times over in a temporary folder", size(bytes)),
            "run it with --yes if that is meant",
        )
    };
    if !std::io::stdin().is_terminal() {
        return Err(refused());
    }
    let _ = std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("Store {} several times over in a temporary folder? [y/N] ", size(bytes)).as_bytes(),
    );
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && answer.trim().eq_ignore_ascii_case("y") { Ok(()) } else { Err(refused()) }
}

/// Bytes of all files below a folder; what cannot be read counts nothing, the put will name it.
fn size_of(folder: &Path) -> u64 {
    let walk = ignore::WalkBuilder::new(folder).standard_filters(false).build();
    walk.filter_map(Result::ok)
        .filter_map(|entry| entry.metadata().ok())
        .filter(|metadata| metadata.is_file())
        .map(|metadata| metadata.len())
        .sum()
}

/// The folder of libraries of the toolchain on this machine, if there is one.
fn toolchain() -> Option<PathBuf> {
    let output =
        Command::new("rustc").args(["--print", "sysroot"]).output().ok().filter(|output| output.status.success())?;
    let folder = Path::new(String::from_utf8(output.stdout).ok()?.trim()).join("lib");
    folder.is_dir().then_some(folder)
}

/// Copies what is not ignored below `from`, up to `limit_bytes` of content; gives the bytes copied.
fn stage(from: &Path, to: &Path, limit_bytes: u64) -> Result<u64, Failure> {
    fs::create_dir_all(to).map_err(|error| Failure::local(format!("could not make {}", to.display()), &error))?;
    let mut copied = 0;
    let walk = ignore::WalkBuilder::new(from)
        .hidden(false)
        .filter_entry(|entry| entry.file_name() != ".git")
        .sort_by_file_name(Ord::cmp)
        .build();
    for entry in walk.filter_map(Result::ok) {
        let Ok(below) = entry.path().strip_prefix(from) else { continue };
        let (Some(kind), target) = (entry.file_type(), to.join(below)) else { continue };
        if kind.is_dir() {
            fs::create_dir_all(&target)
                .map_err(|error| Failure::local(format!("could not make {}", target.display()), &error))?;
        } else if kind.is_symlink() {
            let points_to =
                fs::read_link(entry.path()).map_err(|error| Failure::local("could not read a link", &error))?;
            std::os::unix::fs::symlink(points_to, &target)
                .map_err(|error| Failure::local("could not copy a link", &error))?;
        } else if kind.is_file() {
            let size = entry.metadata().map_or(0, |metadata| metadata.len());
            if copied + size <= limit_bytes {
                copy_file(entry.path(), &target)?;
                copied += size;
            }
        }
    }
    Ok(copied)
}

fn copy_file(from: &Path, to: &Path) -> Result<(), Failure> {
    let copy = || -> std::io::Result<()> {
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(from, to)?;
        let modified = fs::metadata(from)?.modified()?;
        match fs::File::options().write(true).open(to) {
            Ok(file) => file.set_times(fs::FileTimes::new().set_modified(modified)),
            // A read-only copy keeps the time of copying; the demo compares against the copy.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
            Err(error) => Err(error),
        }
    };
    copy().map_err(|error| Failure::local(format!("could not copy {}", from.display()), &error))
}
