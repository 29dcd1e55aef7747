//! What people use today, beside Dolmen: the same file stored and fetched through adapters, interleaved in one run.

use std::path::{Path, PathBuf};

use dolmen_benches::peers::command::CommandPair;
use dolmen_benches::peers::folder::Folder;
use dolmen_benches::peers::s3::{S3, S3Address, S3Keys};
use dolmen_benches::peers::{Compared, Peer, PeerError, PeerName};

use super::{Label, Timed, Workbench, source, throughput, timed_ready, wrong_bytes};
use crate::arguments::Bench;
use crate::failure::{Exit, Failure};

/// Bytes of a small file, as in the part about reads.
const SMALL_BYTES: usize = 20 * 1024;

fn refused(label: &str, error: &PeerError) -> Failure {
    Failure::new(Exit::Local, format!("the peer {label} failed"), error.to_string(), "see whether it runs, then again")
}

/// The peers that were asked for.
pub(super) fn of(arguments: &Bench) -> Result<Vec<Compared>, Failure> {
    let mut peers = Vec::new();
    let mut add = |label: &str, peer: Result<Box<dyn Peer>, PeerError>| {
        let peer =
            peer.map_err(|error| Failure::usage(format!("the peer {label}: {error}"), "see dolmen bench --help"))?;
        peers.push(Compared { label: label.to_owned(), peer, server_pids: arguments.peer_pid.clone() });
        Ok::<_, Failure>(())
    };
    if let Some(folder) = &arguments.copy_to {
        add("folder copy", Folder::new(folder).map(|peer| Box::new(peer) as Box<dyn Peer>))?;
    }
    if let Some(url) = &arguments.s3 {
        let open = || {
            let address: S3Address = url.parse()?;
            Ok(Box::new(S3::new(&address, S3Keys::from_environment()?)?) as Box<dyn Peer>)
        };
        add("s3", open())?;
    }
    if let (Some(put), Some(get)) = (&arguments.cmd_put, &arguments.cmd_get) {
        let pair = CommandPair::new(put, get, arguments.cmd_remove.as_deref());
        add(&arguments.cmd_name, pair.map(|peer| Box::new(peer) as Box<dyn Peer>))?;
    }
    Ok(peers)
}

/// Measures Dolmen and every peer, round by round.
pub(super) async fn measure(bench: &mut Workbench<'_>) -> Result<(), Failure> {
    let mut peers = of(bench.arguments)?;
    if peers.is_empty() {
        return Err(Failure::usage(
            "there is no peer to compare with",
            "give --copy-to DIR, --s3 URL, or --cmd-put and --cmd-get",
        ));
    }
    let bytes = bench.arguments.size.bytes();
    let client = bench.new_client().await?;
    let (file, small) = (bench.folder.join("peer.bin"), bench.folder.join("peer-small"));
    for round in 0..=bench.arguments.rounds {
        source::write_noise(&file, bytes, round)?;
        let label = Label::plain("dolmen", "put beside peers", bytes);
        let link = throughput::put(bench, &client, &file, label, round).await?;
        let took = throughput::get_file(bench, &client, &link, &file).await?;
        bench.record(Label::plain("dolmen", "get beside peers", bytes), round, took);
        client.remove(&link).await?;
        source::write_small(&small, bench.arguments.small_files, SMALL_BYTES, round)?;
        let label = Label::plain("dolmen", "put small files beside peers", SMALL_BYTES as u64);
        let link = throughput::put(bench, &client, &small, label, round).await?;
        client.remove(&link).await?;
        for index in 0..peers.len() {
            for (path, what, object_bytes) in
                [(&file, "beside peers", bytes), (&small, "small files beside peers", SMALL_BYTES as u64)]
            {
                if path == &small && !bench.arguments.peer_small_files {
                    continue;
                }
                let name: PeerName = format!("dolmen-bench-{}-{round}-{object_bytes}", std::process::id())
                    .parse()
                    .map_err(|error: PeerError| Failure::bug("a name for a peer", error.to_string()))?;
                // Peers that keep copies write up to three times as much, as a code does here.
                let ready = bench.stored_bytes(bytes);
                let (returned, took) =
                    there_and_back(peers.swap_remove(index), bench.folder.clone(), path, name, ready).await?;
                peers.push(returned);
                let last = peers.len() - 1;
                peers.swap(index, last);
                let subject = peers[index].label.clone();
                for (operation, mut took) in ["put", "get"].into_iter().zip(took) {
                    took.bytes =
                        if path == &small { u64::from(bench.arguments.small_files) * object_bytes } else { bytes };
                    let operation = format!("{operation} {what}");
                    let mut label = Label::plain(&subject, &operation, object_bytes);
                    label.circumstances.datagram_bytes = 0;
                    bench.record(label, round, took);
                }
            }
        }
        std::fs::remove_dir_all(&small).map_err(|error| Failure::local("could not remove a folder", &error))?;
    }
    client.shut_down().await;
    std::fs::remove_file(&file).map_err(|error| Failure::local("could not remove the source", &error))
}

/// Stores a path at a peer, fetches it, compares it and removes both.
async fn there_and_back(
    compared: Compared,
    folder: PathBuf,
    source: &Path,
    name: PeerName,
    ready_bytes: u64,
) -> Result<(Compared, [Timed; 2]), Failure> {
    let pids = compared.server_pids.clone();
    let target = folder.join("peer-restored");
    let path = source.to_path_buf();
    let put_name = name.clone();
    let (compared, put) =
        timed_ready(
            &pids,
            ready_bytes,
            async move { on_thread(compared, move |peer| peer.put(&path, &put_name)).await },
        )
        .await?;
    let (get_name, into) = (name.clone(), target.clone());
    let (compared, get) =
        timed_ready(
            &pids,
            ready_bytes,
            async move { on_thread(compared, move |peer| peer.get(&get_name, &into)).await },
        )
        .await?;
    let same = if source.is_dir() { source::same_files(source, &target)? } else { source::same(source, &target)? };
    if !same {
        return Err(wrong_bytes(&compared.label));
    }
    let compared = on_thread(compared, move |peer| peer.remove(&name)).await?;
    let removed = if target.is_dir() { std::fs::remove_dir_all(&target) } else { std::fs::remove_file(&target) };
    removed.map_err(|error| Failure::local("could not remove what came back", &error))?;
    Ok((compared, [put, get]))
}

/// Peers block, so they work on a thread of their own.
async fn on_thread(
    compared: Compared,
    work: impl FnOnce(&dyn Peer) -> Result<(), PeerError> + Send + 'static,
) -> Result<Compared, Failure> {
    let done = tokio::task::spawn_blocking(move || {
        let outcome = work(compared.peer.as_ref());
        (compared, outcome)
    });
    let (compared, outcome) = done.await.map_err(|error| Failure::bug("a peer's adapter failed", error.to_string()))?;
    outcome.map_err(|error| refused(&compared.label, &error))?;
    Ok(compared)
}
