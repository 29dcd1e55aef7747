//! `dolmen devnet`: a network of real node processes on loopback until Ctrl-C.

use std::time::Duration;

use crate::arguments::Devnet;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::node_process::LocalNetwork;

/// How long all nodes together may take to find each other.
const DISCOVERY_DEADLINE: Duration = Duration::from_secs(120);

/// Runs the network; returns when it was asked to stop.
///
/// # Errors
/// [`Failure`] where nodes do not start, do not find each other, or end by themselves.
pub async fn run(context: &Context, arguments: &Devnet) -> Result<Exit, Failure> {
    let terminal = context.terminal();
    let mut network = LocalNetwork::prepare(&arguments.dir, arguments.nodes)?;
    let outcome = tokio::select! {
        outcome = serve(context, &mut network, arguments) => outcome,
        () = crate::interrupted() => Ok(()),
    };
    terminal.story("stopping the nodes");
    network.stop().await;
    outcome.map(|()| Exit::Ok)
}

async fn serve(context: &Context, network: &mut LocalNetwork, arguments: &Devnet) -> Result<(), Failure> {
    let terminal = context.terminal();
    terminal.story(&format!("starting {} nodes in {}", network.count(), arguments.dir.display()));
    network.start().await?;
    wait_until_found(context, network).await?;
    terminal.story(&format!("use it with: export DOLMEN_CONFIG={}", network.client_config().display()));
    terminal.result("ready");
    terminal.json(&serde_json::json!({
        "ready": true,
        "nodes": network.count(),
        "config": network.client_config().to_string_lossy(),
    }));
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        if let Some(log) = network.ended_by_itself() {
            // A devnet goes on without nodes that somebody killed: that is what it is for.
            terminal.remark(&format!("a node has ended; its log is {}", log.display()));
        }
    }
}

/// Waits until a client finds every node of the network through the directory.
///
/// # Errors
/// [`Failure`] where that takes longer than two minutes.
pub async fn wait_until_found(context: &Context, network: &LocalNetwork) -> Result<(), Failure> {
    let deadline = tokio::time::Instant::now() + DISCOVERY_DEADLINE;
    loop {
        let client = context.connect_to(&network.client_config()).await?;
        let found = client.nodes(network.count()).await.map(|nodes| nodes.len()).unwrap_or(0);
        client.shut_down().await;
        if found >= network.count() {
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            return Err(Failure::new(
                Exit::NotNow,
                "the nodes do not find each other",
                format!("{found} of {} after {} s", network.count(), DISCOVERY_DEADLINE.as_secs()),
                "read the node.log files, or start with fewer nodes",
            ));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}
