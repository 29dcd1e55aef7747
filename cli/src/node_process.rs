//! Node processes on this machine, started from this very program: what `devnet` and `demo` stand on.
//!
//! Decides the layout of a local network's folder (`client.toml`, `nodes/NN/{node.toml,node.key,node.pid,node.log,data/}`),
//! its ports and how its processes end. Never decides what a node does.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use dolmen_proto::size::ByteSize;
use dolmen_storage_node::config::{InitOptions, NodeConfig};
use dolmen_storage_node::{folders, node};
use tokio::process::{Child, Command};

use crate::failure::{Exit, Failure};

/// What strangers may store on a node of a local network: in effect all of the disk but its reserve.
const OPEN_QUOTA: ByteSize = ByteSize::new(1_000_000_000_000);
/// How long a node may take to write its first status.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// How long nodes may take to drain once they are asked to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// A network of node processes under one folder.
#[derive(Debug)]
pub struct LocalNetwork {
    folder: PathBuf,
    nodes: Vec<LocalNode>,
}

/// One node process of a [`LocalNetwork`].
#[derive(Debug)]
pub struct LocalNode {
    /// The node's folder.
    pub folder: PathBuf,
    process: Option<Child>,
}

impl LocalNetwork {
    /// Makes what is missing of a network of `count` nodes under `folder`; with `None` as many as are there, else 12.
    ///
    /// # Errors
    /// [`Failure`] where the folder cannot be written or no ports are free.
    pub fn prepare(folder: &Path, count: Option<u16>) -> Result<Self, Failure> {
        Self::prepare_behind(folder, count, None, |_| Ok(Vec::new()))
    }

    /// As [`LocalNetwork::prepare`], of a new network whose nodes say that they are reached at the doors that `open` gives for
    /// their addresses, and that use datagrams of at most `datagram_bytes`.
    ///
    /// # Errors
    /// As [`LocalNetwork::prepare`], and whatever `open` says.
    pub fn prepare_behind(
        folder: &Path,
        count: Option<u16>,
        datagram_bytes: Option<u16>,
        open: impl FnOnce(&[SocketAddr]) -> Result<Vec<SocketAddr>, Failure>,
    ) -> Result<Self, Failure> {
        let nodes_folder = folder.join("nodes");
        fs::create_dir_all(&nodes_folder)
            .map_err(|error| Failure::local(format!("could not make {}", nodes_folder.display()), &error))?;
        let existing = existing_nodes(&nodes_folder)?;
        let count = match count {
            Some(count) => usize::from(count).max(existing),
            None if existing > 0 => existing,
            None => 12,
        };
        let missing = (0..count).filter(|number| !config_path(&nodes_folder, *number).exists());
        // Held until all are chosen and the doors are open: a port that is let go is soon given out again.
        let held = missing.map(|number| Ok((number, free_ports()?)));
        let held = held.collect::<Result<BTreeMap<usize, [(UdpSocket, SocketAddr); 2]>, Failure>>()?;
        let ports: BTreeMap<usize, (SocketAddr, SocketAddr)> =
            held.iter().map(|(number, [data, control])| (*number, (data.1, control.1))).collect();
        let listening: Vec<SocketAddr> = ports.values().map(|(listen, _)| *listen).collect();
        let doors: BTreeMap<SocketAddr, SocketAddr> = listening.iter().copied().zip(open(&listening)?).collect();
        drop(held);
        let mut nodes = Vec::with_capacity(count);
        let mut bootstrap: Vec<String> = Vec::new();
        for number in 0..count {
            let node_folder = nodes_folder.join(format!("{number:02}"));
            let config_path = config_path(&nodes_folder, number);
            if let Some((listen, control)) = ports.get(&number).copied() {
                let options = InitOptions {
                    data: vec![node_folder.join("data")],
                    // Every client of a local network is a stranger to its nodes.
                    open_quota: Some(OPEN_QUOTA),
                    listen: Some(listen),
                    control: Some(control),
                    announce: doors.get(&listen).map(ToString::to_string),
                    // The directory's packets do not go through the doors.
                    announce_control_port: doors.contains_key(&listen).then(|| control.port()),
                    datagram_bytes,
                    bootstrap: bootstrap.clone(),
                    ..InitOptions::default()
                };
                folders::init(&config_path, &options).map_err(|error| {
                    Failure::new(Exit::Local, "could not make a node", error.to_string(), "choose another folder")
                })?;
            }
            if bootstrap.len() < 3 {
                bootstrap.push(bootstrap_address(&config_path)?);
            }
            nodes.push(LocalNode { folder: node_folder, process: None });
        }
        let mut client = format!(
            "# Written by dolmen for the network in this folder.\nbootstrap = {}\nstate_folder = {}\n",
            toml_list(&bootstrap),
            toml_text("client-state")
        );
        if let Some(bytes) = datagram_bytes {
            client += &format!("datagram_bytes = {bytes}\n");
        }
        let client_path = folder.join("client.toml");
        fs::write(&client_path, client)
            .map_err(|error| Failure::local(format!("could not write {}", client_path.display()), &error))?;
        Ok(Self { folder: folder.to_path_buf(), nodes })
    }

    /// The client configuration of this network.
    #[must_use]
    pub fn client_config(&self) -> PathBuf {
        self.folder.join("client.toml")
    }

    /// How many nodes it has, dead ones too.
    #[must_use]
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// Starts all nodes and waits until each has said that it runs.
    ///
    /// # Errors
    /// [`Failure`] where a process cannot be started or ends at once; its log says why.
    pub async fn start(&mut self) -> Result<(), Failure> {
        let program = this_program()?;
        for node in &mut self.nodes {
            node.start(&program)?;
        }
        for node in &mut self.nodes {
            node.wait_until_running().await?;
        }
        Ok(())
    }

    /// Kills a node with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// [`Failure`] where the process does not run.
    pub async fn kill(&mut self, number: usize) -> Result<(), Failure> {
        let node = &mut self.nodes[number];
        let mut process =
            node.process.take().ok_or_else(|| Failure::bug("a node was killed twice", format!("node {number}")))?;
        process.kill().await.map_err(|error| Failure::local(format!("could not kill node {number}"), &error))?;
        let _ = fs::remove_file(node.folder.join("node.pid"));
        Ok(())
    }

    /// Asks a node to drain, and waits until it is gone.
    ///
    /// # Errors
    /// [`Failure`] where the process does not run.
    pub async fn halt(&mut self, number: usize) -> Result<(), Failure> {
        let node = &mut self.nodes[number];
        if node.process.is_none() {
            return Err(Failure::bug("a node was stopped twice", format!("node {number}")));
        }
        node.stop().await;
        Ok(())
    }

    /// Starts a node that was killed or stopped, and waits until it runs.
    ///
    /// # Errors
    /// As [`LocalNetwork::start`].
    pub async fn revive(&mut self, number: usize) -> Result<(), Failure> {
        let program = this_program()?;
        self.nodes[number].start(&program)?;
        self.nodes[number].wait_until_running().await
    }

    /// The processes of the nodes that run.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(|node| node.process.as_ref()?.id()).collect()
    }

    /// A node that ended without being asked to, if there is one that was not named before: its log.
    pub fn ended_by_itself(&mut self) -> Option<PathBuf> {
        self.nodes.iter_mut().find_map(|node| {
            if !matches!(node.process.as_mut()?.try_wait(), Ok(Some(_))) {
                return None;
            }
            node.process = None;
            Some(node.folder.join("node.log"))
        })
    }

    /// Asks all nodes to drain and waits; what does not end in time is killed.
    pub async fn stop(&mut self) {
        for node in &mut self.nodes {
            // The node stops when its standard input ends; see `--until-stdin-closes`.
            if let Some(process) = &mut node.process {
                drop(process.stdin.take());
            }
        }
        for node in &mut self.nodes {
            node.stop().await;
        }
    }
}

impl LocalNode {
    fn start(&mut self, program: &Path) -> Result<(), Failure> {
        let log_path = self.folder.join("node.log");
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)
            .map_err(|error| Failure::local(format!("could not open {}", log_path.display()), &error))?;
        let log_too = log
            .try_clone()
            .map_err(|error| Failure::local(format!("could not open {}", log_path.display()), &error))?;
        let process = Command::new(program)
            .args(["node", "run", "--until-stdin-closes", "--config"])
            .arg(self.folder.join("node.toml"))
            .env_remove("DOLMEN_CONFIG")
            .env_remove("DOLMEN_NODE_CONFIG")
            .env_remove("DOLMEN_BOOTSTRAP")
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(log_too)
            // A Ctrl-C at the terminal goes to the whole group; nodes end when their parent says so.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Failure::local("could not start a node process", &error))?;
        if let Some(pid) = process.id() {
            let pid_path = self.folder.join("node.pid");
            fs::write(&pid_path, format!("{pid}\n"))
                .map_err(|error| Failure::local(format!("could not write {}", pid_path.display()), &error))?;
        }
        self.process = Some(process);
        Ok(())
    }

    async fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.stdin.take());
            if tokio::time::timeout(STOP_DEADLINE, process.wait()).await.is_err() {
                let _ = process.kill().await;
            }
            let _ = fs::remove_file(self.folder.join("node.pid"));
        }
    }

    async fn wait_until_running(&mut self) -> Result<(), Failure> {
        let log = self.folder.join("node.log");
        let config = load(&self.folder.join("node.toml"))?;
        let process = self.process.as_mut().ok_or_else(|| Failure::bug("a node was not started", ""))?;
        let pid = process.id();
        let deadline = tokio::time::Instant::now() + START_DEADLINE;
        loop {
            if let Ok(Some(status)) = process.try_wait() {
                return Err(Failure::new(
                    Exit::Local,
                    "a node ended at its start",
                    format!("it {status}"),
                    format!("read {}", log.display()),
                ));
            }
            let status = node::last_status(&config.data).ok().flatten();
            // One that rebuilds its index takes no shards yet.
            if status.is_some_and(|status| Some(status.pid) == pid && !status.is_rebuilding()) {
                return Ok(());
            }
            if tokio::time::Instant::now() > deadline {
                return Err(Failure::new(
                    Exit::Local,
                    "a node does not come up",
                    "no status for a minute",
                    format!("read {}", log.display()),
                ));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Where this very program lies: nodes and the floor's receivers are started from it.
///
/// # Errors
/// [`Failure`] where the system does not tell.
pub(crate) fn this_program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| Failure::bug("this program does not know where it lies", error.to_string()))
}

fn config_path(nodes_folder: &Path, number: usize) -> PathBuf {
    nodes_folder.join(format!("{number:02}")).join("node.toml")
}

fn load(path: &Path) -> Result<NodeConfig, Failure> {
    NodeConfig::load(path).map_err(|error| {
        Failure::new(
            Exit::Local,
            format!("could not use {}", path.display()),
            error.to_string(),
            "put it right or remove the folder",
        )
    })
}

fn bootstrap_address(config_path: &Path) -> Result<String, Failure> {
    let config = load(config_path)?;
    let identity = dolmen_net::Identity::load_or_create(&config.key_file).map_err(|error| {
        Failure::new(
            Exit::Local,
            format!("could not read {}", config.key_file.display()),
            error.to_string(),
            "check its owner and mode",
        )
    })?;
    Ok(dolmen_net::directory::bootstrap_address(config.control, identity.node_id()).to_string())
}

fn existing_nodes(nodes_folder: &Path) -> Result<usize, Failure> {
    let trouble = |error| Failure::local(format!("could not list {}", nodes_folder.display()), &error);
    let mut count = 0;
    for entry in fs::read_dir(nodes_folder).map_err(trouble)? {
        let entry = entry.map_err(trouble)?;
        count += usize::from(entry.path().join("node.toml").exists());
    }
    Ok(count)
}

/// Two free UDP ports on loopback, held by sockets. Once those are gone another program may take a port before the node does;
/// then the node says so.
fn free_ports() -> Result<[(UdpSocket, SocketAddr); 2], Failure> {
    let bind = || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = socket.local_addr()?;
        Ok((socket, address))
    };
    let trouble = |error: std::io::Error| Failure::local("could not find a free UDP port on loopback", &error);
    Ok([bind().map_err(trouble)?, bind().map_err(trouble)?])
}

fn toml_text(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn toml_list(texts: &[String]) -> String {
    toml::Value::Array(texts.iter().cloned().map(toml::Value::String).collect()).to_string()
}
