//! Real `dolmen` processes for tests: nodes and commands on loopback, killed by process id and always reaped.
//!
//! Decides how a process is started, waited for and ended. Every wait has a deadline, and what was started is gone when its
//! owner is dropped, also when a test fails. Panics where the machine does not do what a test needs.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use dolmen_net::NodeAddress;
use dolmen_storage_node::status::{self, NodeStatus, Phase};
use rustix::process::{Pid, Signal, kill_process};

/// How long anything that a test waits for may take; far more than it takes on a slow and busy machine.
pub const DEADLINE: Duration = Duration::from_secs(120);
const POLL_EVERY: Duration = Duration::from_millis(5);

/// Waits until `found` gives something.
///
/// # Panics
/// After [`DEADLINE`], with `what`.
pub fn wait_for<T>(what: &str, found: impl FnMut() -> Option<T>) -> T {
    wait_within(DEADLINE, what, found)
}

fn wait_within<T>(limit: Duration, what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited for {what} for {limit:?}");
        std::thread::sleep(POLL_EVERY);
    }
}

/// A process that ends with its owner.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts a command.
    ///
    /// # Panics
    /// Where it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        Self(command.spawn().expect("the program under test starts"))
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// The end of the process, if it is there.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("the process is a child of this one")
    }

    /// Sends a signal to this process and no other.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).expect("a process id");
        // It may have ended by itself; it is not reaped yet, so the id is still its own.
        let _ = kill_process(pid, signal);
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(mut self) {
        self.kill_and_reap();
    }

    /// Closes the standard input of the process.
    pub fn close_input(&mut self) {
        drop(self.0.stdin.take());
    }

    /// Waits until the process ends by itself.
    ///
    /// # Panics
    /// After [`DEADLINE`].
    pub fn wait(self) -> ExitStatus {
        self.wait_within(DEADLINE)
    }

    fn wait_within(mut self, limit: Duration) -> ExitStatus {
        wait_within(limit, "the end of a process", || self.ended())
    }

    fn kill_and_reap(&mut self) {
        // An error means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_and_reap();
    }
}

/// The program under test without this user's configuration and environment.
#[must_use]
pub fn dolmen(program: &Path) -> Command {
    let mut command = Command::new(program);
    for name in ["DOLMEN_CONFIG", "DOLMEN_NODE_CONFIG", "DOLMEN_BOOTSTRAP", "DOLMEN_LOG"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// What a command came to.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub output: Vec<u8>,
    /// Standard error.
    pub errors: String,
}

impl Outcome {
    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }

    /// The last line of standard output.
    #[must_use]
    pub fn last_line(&self) -> String {
        self.text().lines().last().unwrap_or_default().to_owned()
    }

    /// The last line of standard output as JSON.
    ///
    /// # Panics
    /// Where it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.last_line()).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The outcome, with this exit code.
    ///
    /// # Panics
    /// Where it has another one.
    #[must_use]
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.text(), self.errors);
        self
    }
}

/// A command whose output goes to files, so that no pipe can fill up and block it.
#[derive(Debug)]
pub struct Running {
    process: Process,
    output: File,
    errors: File,
}

impl Running {
    /// Starts a command.
    pub fn start(command: &mut Command) -> Self {
        let temporary = || tempfile::tempfile().expect("a temporary file");
        let (output, errors) = (temporary(), temporary());
        let copy = |file: &File| Stdio::from(file.try_clone().expect("a file handle"));
        command.stdout(copy(&output)).stderr(copy(&errors));
        Self { process: Process::start(command), output, errors }
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Standard output so far.
    #[must_use]
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&whole(&self.output)).into_owned()
    }

    /// Standard error so far.
    #[must_use]
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&whole(&self.errors)).into_owned()
    }

    /// SIGKILL, and waits until the command is gone.
    pub fn kill(self) {
        self.process.kill();
    }

    /// Waits until the command ends by itself.
    #[must_use]
    pub fn finish(self) -> Outcome {
        self.finish_within(DEADLINE)
    }

    /// [`finish`](Self::finish), for commands that do much: waits up to `limit`.
    #[must_use]
    pub fn finish_within(self, limit: Duration) -> Outcome {
        let Self { process, output, errors } = self;
        let status = process.wait_within(limit);
        Outcome { code: status.code(), output: whole(&output), errors: String::from_utf8_lossy(&whole(&errors)).into() }
    }
}

/// Reads without the file's position, which the process that writes it shares.
fn whole(file: &File) -> Vec<u8> {
    use std::os::unix::fs::FileExt as _;
    let length = file.metadata().expect("a temporary file").len();
    let mut bytes = vec![0; usize::try_from(length).expect("outputs of tests are small")];
    file.read_exact_at(&mut bytes, 0).expect("a temporary file is readable");
    bytes
}

/// Runs a command to its end.
#[must_use]
pub fn run(command: &mut Command) -> Outcome {
    Running::start(command).finish()
}

/// One storage node in a folder of its own: `node.toml`, `node.key`, `node.log` and its data folders.
#[derive(Debug)]
pub struct TestNode {
    program: PathBuf,
    folder: PathBuf,
    data: Vec<PathBuf>,
    process: Option<Process>,
}

impl TestNode {
    /// Makes a node with these data folders by `dolmen node init`, and appends `more` to its node.toml.
    ///
    /// # Panics
    /// Where `node init` fails.
    #[must_use]
    pub fn make(program: &Path, folder: &Path, data: &[&str], more: &str) -> Self {
        // Port 0: the system chooses, the node says which in its status.
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::make_with(program, folder, data, (any, any), more)
    }

    /// The same with one data folder, that listens for data and for the directory at these addresses.
    ///
    /// # Panics
    /// As [`TestNode::make`].
    #[must_use]
    pub fn make_at(program: &Path, folder: &Path, listen: (SocketAddr, SocketAddr), more: &str) -> Self {
        Self::make_with(program, folder, &["data"], listen, more)
    }

    fn make_with(
        program: &Path,
        folder: &Path,
        data: &[&str],
        (listen, control): (SocketAddr, SocketAddr),
        more: &str,
    ) -> Self {
        fs::create_dir_all(folder).expect("a folder for the node");
        let config = folder.join("node.toml");
        let data: Vec<PathBuf> = data.iter().map(|name| folder.join(name)).collect();
        let mut command = dolmen(program);
        command.args(["node", "init", "--listen", &listen.to_string(), "--control", &control.to_string(), "--config"]);
        command.arg(&config).arg("--data").args(&data);
        let _ = run(&mut command).expect(0);
        let node = Self { program: program.to_owned(), folder: folder.to_owned(), data, process: None };
        node.configure(more);
        node
    }

    /// Appends to node.toml.
    ///
    /// # Panics
    /// Where it cannot be written.
    pub fn configure(&self, more: &str) {
        let path = self.config();
        let text = fs::read_to_string(&path).expect("node.toml");
        // Keys must stand before the first table; `node init` writes no table in force.
        fs::write(&path, format!("{text}\n{more}\n")).expect("node.toml");
    }

    /// The path of node.toml.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.join("node.toml")
    }

    /// One of the data folders, in the order of their making.
    #[must_use]
    pub fn data(&self, number: usize) -> &Path {
        &self.data[number]
    }

    /// The volumes in a data folder.
    ///
    /// # Panics
    /// Where the folder cannot be listed.
    #[must_use]
    pub fn volumes(&self, number: usize) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.data[number]).expect("a data folder");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let mut volumes: Vec<_> = paths.filter(|path| path.extension().is_some_and(|end| end == "volume")).collect();
        volumes.sort();
        volumes
    }

    /// `dolmen node run` of this node, not yet started; as it has no input it would end at once where it does start.
    #[must_use]
    pub fn run_command(&self, more: &[&str]) -> Command {
        let mut command = dolmen(&self.program);
        command.args(["node", "run", "--until-stdin-closes", "--config"]).arg(self.config()).args(more);
        command
    }

    /// Starts the node and waits until it answers every call: where it rebuilds its index, until that is done.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// The same with more arguments.
    ///
    /// # Panics
    /// Where the node ends instead, with its log.
    pub fn start_with(&mut self, more: &[&str]) {
        assert!(self.process.is_none(), "the node runs already");
        let log = File::options().create(true).append(true).open(self.log_path()).expect("node.log");
        let mut command = self.run_command(more);
        command.stdin(Stdio::piped()).stdout(log.try_clone().expect("a file handle")).stderr(log);
        self.process = Some(Process::start(&mut command));
        wait_for("the node to serve", || {
            let ended = self.process.as_mut().and_then(Process::ended);
            assert!(ended.is_none(), "the node ended ({ended:?}):\n{}", self.log());
            self.serving().filter(|status| !status.is_rebuilding())
        });
    }

    /// The status that the running process wrote.
    fn serving(&self) -> Option<NodeStatus> {
        let pid = self.process.as_ref()?.id();
        let statuses = self.data.iter().filter_map(|folder| status::read(folder).ok().flatten());
        statuses.into_iter().find(|status| status.pid == pid && status.phase == Phase::Serving)
    }

    /// What the running node last said of itself.
    ///
    /// # Panics
    /// Where it does not run.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        self.serving().expect("the node serves")
    }

    /// Who the running node is and where it is reached.
    ///
    /// # Panics
    /// Where it does not run.
    #[must_use]
    pub fn address(&self) -> NodeAddress {
        let status = self.status();
        NodeAddress {
            id: status.node.parse().expect("a node id"),
            addresses: status.data_addresses.iter().map(|text| text.parse().expect("an address")).collect(),
        }
    }

    /// The running process.
    ///
    /// # Panics
    /// Where there is none.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the node runs")
    }

    /// SIGKILL, and waits until it is gone.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn kill(&mut self) {
        self.process.take().expect("the node runs").kill();
    }

    /// SIGTERM, and waits until the node has ended in order.
    ///
    /// # Panics
    /// Where it does not run, or ends with a failure.
    pub fn terminate(&mut self) {
        let process = self.process.take().expect("the node runs");
        process.signal(Signal::TERM);
        let status = process.wait();
        assert!(status.success(), "the node ended with {status}:\n{}", self.log());
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("node.log")
    }

    /// All that the node wrote to its log so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.log_path()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// What the node last said in its log about opening a data folder.
    ///
    /// # Panics
    /// Where it never opened one.
    #[must_use]
    pub fn last_opened(&self) -> String {
        self.log().lines().rfind(|line| line.contains(" opened ")).expect("the node opened a folder").to_owned()
    }

    /// Memory that the running node has, in bytes; `None` where the system does not say.
    ///
    /// # Panics
    /// Where it does not run.
    #[must_use]
    pub fn resident_bytes(&self) -> Option<u64> {
        let pid = self.process.as_ref().expect("the node runs").id();
        let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib * 1024)
    }
}
