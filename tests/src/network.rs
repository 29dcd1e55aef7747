//! A network of real node processes by `dolmen devnet`, with commands against it, and a folder of files worth storing.
//!
//! Decides how nodes are killed (SIGKILL by the id in node.pid) and revived. Never decides what ought to happen then.

use std::fs::{self, File, FileTimes};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use dolmen_storage_node::status;
use rustix::process::{Pid, Signal, kill_process};

use crate::processes::{Process, Running, dolmen, wait_for};
use crate::shards::shard;

/// Node processes under one folder, and those among them that a test started again by itself.
#[derive(Debug)]
pub struct Network {
    program: PathBuf,
    folder: PathBuf,
    devnet: Option<Running>,
    revived: Vec<Process>,
}

impl Network {
    /// Starts a network of `nodes` nodes in `folder`, or the one that is there already, and waits until it is ready.
    ///
    /// # Panics
    /// Where `dolmen devnet` ends instead.
    #[must_use]
    pub fn start(program: &Path, folder: &Path, nodes: usize) -> Self {
        let mut command = dolmen(program);
        command.args(["devnet", "--nodes", &nodes.to_string(), "--dir"]).arg(folder);
        let mut devnet = Running::start(&mut command);
        wait_for("the network to be ready", || {
            let ended = devnet.process().ended();
            assert!(ended.is_none(), "devnet ended ({ended:?}):\n{}", devnet.errors());
            devnet.output().lines().any(|line| line == "ready").then_some(())
        });
        Self { program: program.to_owned(), folder: folder.to_owned(), devnet: Some(devnet), revived: Vec::new() }
    }

    /// `dolmen` with these arguments as a client of this network, not yet started.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = dolmen(&self.program);
        command.arg("--config").arg(self.folder.join("client.toml")).args(arguments);
        command
    }

    fn node(&self, number: usize) -> PathBuf {
        self.folder.join(format!("nodes/{number:02}"))
    }

    /// SIGKILL for one node, and waits until it is gone.
    ///
    /// # Panics
    /// Where the node does not run.
    pub fn kill(&self, number: usize) {
        let text = fs::read_to_string(self.node(number).join("node.pid")).expect("the node has run");
        let id = text.trim().parse().ok().and_then(Pid::from_raw).expect("a process id");
        let command = fs::read(format!("/proc/{}/cmdline", id.as_raw_nonzero())).unwrap_or_default();
        // The number could be another process's by now.
        let own = self.node(number);
        let own = own.as_os_str().as_bytes();
        assert!(command.windows(own.len()).any(|part| part == own), "node {number} does not run");
        kill_process(id, Signal::KILL).expect("the node runs");
        wait_for("the node to be gone", || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", id.as_raw_nonzero())).unwrap_or_default();
            (stat.is_empty() || stat.contains(") Z ")).then_some(())
        });
    }

    /// Starts a killed node again, without its index if so wanted, and waits until it serves and its index is rebuilt.
    ///
    /// # Panics
    /// Where it cannot be started.
    pub fn revive(&mut self, number: usize, without_index: bool) {
        let folder = self.node(number);
        if without_index {
            fs::remove_dir_all(folder.join("data/index")).expect("the node has an index");
        }
        let log = File::options().append(true).open(folder.join("node.log")).expect("node.log");
        let mut command = dolmen(&self.program);
        command.args(["node", "run", "--until-stdin-closes", "--config"]).arg(folder.join("node.toml"));
        command.stdin(Stdio::piped()).stdout(log.try_clone().expect("a file handle")).stderr(log);
        let mut process = Process::start(&mut command);
        let id = process.id();
        wait_for("the node to serve", || {
            assert!(process.ended().is_none(), "node {number} ended:\n{}", self.logs());
            let status = status::read(&folder.join("data")).ok().flatten()?;
            (status.pid == id && !status.is_rebuilding()).then_some(())
        });
        fs::write(folder.join("node.pid"), format!("{id}\n")).expect("written");
        self.revived.push(process);
    }

    /// Bytes in the volumes of all nodes.
    #[must_use]
    pub fn volume_bytes(&self) -> u64 {
        let below = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        let volumes = below(&self.folder.join("nodes")).flat_map(|node| below(&node.join("data")).collect::<Vec<_>>());
        let volumes = volumes.filter(|path| path.extension().is_some_and(|end| end == "volume"));
        volumes.filter_map(|path| fs::metadata(path).ok()).map(|metadata| metadata.len()).sum()
    }

    /// Shards that the client's journals of unfinished puts name as acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        // As client/src/state/journal.rs writes them: a header of 64 bytes, then 80 bytes a shard.
        let journals = fs::read_dir(self.folder.join("client-state").join("journals"));
        let lengths = journals.into_iter().flatten().flatten().filter_map(|entry| entry.metadata().ok());
        lengths.map(|metadata| usize::try_from(metadata.len().saturating_sub(64) / 80).unwrap_or(0)).sum()
    }

    /// The logs of all nodes, one after the other.
    ///
    /// # Panics
    /// Where the folder cannot be listed.
    #[must_use]
    pub fn logs(&self) -> String {
        let nodes = fs::read_dir(self.folder.join("nodes")).expect("a folder of nodes");
        let logs = nodes.map(|node| fs::read(node.expect("an entry").path().join("node.log")).unwrap_or_default());
        logs.map(|log| String::from_utf8_lossy(&log).into_owned()).collect()
    }

    /// Asks the network to end, and waits until it has.
    ///
    /// # Panics
    /// Where it ends with a failure.
    pub fn stop(mut self) {
        self.end_revived();
        let mut devnet = self.devnet.take().expect("it runs");
        devnet.process().signal(Signal::TERM);
        let _ = devnet.finish().expect(0);
    }

    fn end_revived(&mut self) {
        for process in &mut self.revived {
            process.close_input();
        }
        for process in self.revived.drain(..) {
            let _ = process.wait();
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // A test failed: devnet takes its nodes with it when it is asked to end, and must have ended before their
        // folders are removed. What is left is killed by the processes' own owners.
        if let Some(devnet) = &mut self.devnet {
            devnet.process().signal(Signal::TERM);
            let deadline = Instant::now() + Duration::from_secs(30);
            while devnet.process().ended().is_none() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Makes a folder with a little of everything: `large_bytes` of content in one file, and many small things.
///
/// # Panics
/// Where the file system cannot hold it.
pub fn make_source(folder: &Path, large_bytes: usize) {
    let write = |name: &[u8], bytes: &[u8]| {
        let path = folder.join(std::ffi::OsStr::from_bytes(name));
        fs::create_dir_all(path.parent().expect("below the folder")).expect("a folder");
        fs::write(&path, bytes).expect("a file");
        path
    };
    write(b"large.bin", &shard(1, large_bytes));
    // The same content again, which is stored once.
    write(b"copies/large again.bin", &shard(1, large_bytes));
    write(b"empty", b"");
    write(b"one byte", b"1");
    for number in 0..40 {
        let length = usize::try_from(number * number * 37).expect("small");
        write(format!("many/small {number:02}.txt").as_bytes(), &shard(100 + number, length));
    }
    write(b"a/b/c/d/e/deep", b"deep down");
    write(b"names/caf\xe9 \xff\xfe not UTF-8", b"bytes are names");
    write("names/snowman \u{2603} and a\nline".as_bytes(), b"newline");
    write(b"names/.hidden", b"hidden");
    write(b"names/-rf", b"looks like a flag");
    fs::create_dir_all(folder.join("empty folder/inside")).expect("a folder");
    symlink("large.bin", folder.join("link")).expect("a link");
    symlink("nowhere/at all", folder.join("dangling link")).expect("a link");
    symlink("/etc/hostname", folder.join("absolute link")).expect("a link");
    symlink("../many", folder.join("names/link to a folder")).expect("a link");
    let holes = File::create(folder.join("holes")).expect("a file");
    holes.write_all_at(b"begin", 0).and_then(|()| holes.write_all_at(b"end", 6_000_000)).expect("written");
    holes.set_len(9_000_000).expect("a hole at the end");
    for (name, mode) in [("one byte", 0o600), ("many/small 01.txt", 0o444), ("many/small 02.txt", 0o755)] {
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).expect("a mode");
    }
    let times = |name: &str, time: SystemTime| {
        let opened = File::open(folder.join(name)).expect("it is there");
        opened.set_times(FileTimes::new().set_modified(time)).expect("a time");
    };
    times("large.bin", SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789));
    times("one byte", SystemTime::UNIX_EPOCH - Duration::from_secs(1000));
    times("many", SystemTime::UNIX_EPOCH + Duration::new(4_102_444_800, 1));
    times("empty folder", SystemTime::UNIX_EPOCH + Duration::from_secs(1));
    fs::set_permissions(folder.join("a/b"), fs::Permissions::from_mode(0o700)).expect("a mode");
}
