//! A dataset of many small files, as its owner meets it: `cargo bench -p dolmen-benches --bench vault`.
//!
//! Starts a network of real node processes on loopback and runs the `dolmen` command line (this very program) on a
//! dataset of `DOLMEN_BENCH_FILES` files (default 100,000) of 1 KiB to `DOLMEN_BENCH_FILE_KIB` (default 20): put, put again unchanged, list a
//! folder, commit ten changes, get a thousand files at random, then many snapshots, `log`, `diff`, `forget` and `gc`.
//! Prints one JSON line a step with seconds, peak memory of the client and what the command said; asserts nothing but
//! that commands succeed and the files that come back are the ones that were put.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use dolmen_cli::node_process::LocalNetwork;
use serde_json::{Value, json};

/// Files of one folder.
const FILES_PER_FOLDER: u64 = 1000;
/// How often the memory of a command is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    // Nodes and commands of the owner are this very program; cargo bench says --bench.
    let first = std::env::args().nth(1).unwrap_or_default();
    if !first.is_empty() && first != "--bench" {
        return dolmen_cli::main();
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    runtime.block_on(measure()).map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

fn failed(error: &anyhow::Error) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "vault: {error:#}");
    ExitCode::FAILURE
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

async fn measure() -> Result<()> {
    let files = setting("DOLMEN_BENCH_FILES", 100_000);
    let nodes = u16::try_from(setting("DOLMEN_BENCH_NODES", 24))?;
    let snapshots = setting("DOLMEN_BENCH_SNAPSHOTS", 20);
    let folder = tempfile::Builder::new().prefix("dolmen-vault-").tempdir()?;
    let mut network = LocalNetwork::prepare(&folder.path().join("network"), Some(nodes)).map_err(anyhow::Error::msg)?;
    network.start().await.map_err(anyhow::Error::msg)?;
    let config = network.client_config();
    let path = folder.path().to_path_buf();
    let most_kib = setting("DOLMEN_BENCH_FILE_KIB", 20).max(2);
    let steps =
        tokio::task::spawn_blocking(move || Steps { config, folder: path, most_kib }.run(files, snapshots)).await;
    network.stop().await;
    steps?
}

/// The steps of one owner.
struct Steps {
    config: PathBuf,
    folder: PathBuf,
    /// Largest file.
    most_kib: u64,
}

impl Steps {
    fn run(&self, files: u64, snapshots: u64) -> Result<()> {
        let source = self.folder.join("source");
        let bytes = make_files(&source, files, self.most_kib)?;
        report("source", &json!({ "files": files, "bytes": bytes }))?;
        self.step("init", &["init"])?;
        let source_text = source.to_str().context("a path in UTF-8")?.to_owned();
        let put = ["put", source_text.as_str(), "many"];
        self.step("put", &put)?;
        self.step("put again, unchanged", &put)?;
        self.step("list one folder", &["ls", "many:0000"])?;
        for number in 0..10 {
            let file = name(number * files.div_ceil(10));
            std::fs::write(source.join(file), format!("changed {number}"))?;
        }
        self.step("put ten changes", &put)?;
        let restored = self.folder.join("restored");
        let wanted: Vec<String> = (0..1000).map(|number| name(noise(number) % files)).collect();
        let list = self.folder.join("wanted");
        std::fs::write(&list, wanted.join("\n"))?;
        let mut get = vec!["get".to_owned(), "many".to_owned(), restored.display().to_string()];
        get.extend(wanted.iter().map(|path| format!("--include=/{path}")));
        self.step("get a thousand", &get.iter().map(String::as_str).collect::<Vec<_>>())?;
        for path in &wanted {
            ensure!(
                std::fs::read(source.join(path))? == std::fs::read(restored.join(path))?,
                "{path} came back otherwise"
            );
        }
        let (said, _) = self.command(&put)?;
        let newest = said["snapshot"].as_str().context("a put names its snapshot")?;
        self.command(&["tag", &format!("many@{newest}"), "first-round"])?;
        let started = Instant::now();
        for round in 0..snapshots {
            for number in 0..10 {
                let file = name(noise(round * 10 + number) % files);
                let path = source.join(file);
                let mut content = std::fs::read(&path)?;
                let change = format!("round {round}, file {number}");
                content.splice(..change.len().min(content.len()), change.bytes());
                std::fs::write(path, content)?;
            }
            self.command(&put)?;
        }
        report("more snapshots", &json!({ "snapshots": snapshots, "seconds": started.elapsed().as_secs_f64() }))?;
        self.step("log", &["log", "many"])?;
        self.step("diff with the first of them", &["diff", "many@first-round", "many"])?;
        self.step("forget", &["forget", "many", "--keep-last", "2"])?;
        self.step("gc", &["gc", "many"])?;
        self.step("verify a sample", &["verify", "many", "--sample", "1"])?;
        self.step("info", &["info", "many"])?;
        self.insertion(setting("DOLMEN_BENCH_INSERT_MIB", 256))
    }

    /// One large file, put, then put again with 1 KiB at its front: what is sent for that.
    fn insertion(&self, mib: u64) -> Result<()> {
        let folder = self.folder.join("large");
        std::fs::create_dir_all(&folder)?;
        let write = |front: &[u8]| -> Result<()> {
            let mut file = std::io::BufWriter::new(std::fs::File::create(folder.join("large.bin"))?);
            file.write_all(front)?;
            let mut stream = blake3::Hasher::new_derive_key("dolmen bench large file").finalize_xof();
            let mut piece = vec![0; 1 << 20];
            for _ in 0..mib {
                stream.fill(&mut piece);
                file.write_all(&piece)?;
            }
            Ok(file.flush()?)
        };
        let text = folder.to_str().context("a path in UTF-8")?.to_owned();
        let put = ["put", text.as_str(), "large"];
        write(&[])?;
        self.step("put a large file", &put)?;
        write(&[7; 1024])?;
        self.step("put it with 1 KiB inserted at its front", &put)
    }

    fn step(&self, step: &str, arguments: &[&str]) -> Result<()> {
        let started = Instant::now();
        let (said, peak_kib) = self.command(arguments)?;
        let mut line = json!({ "seconds": started.elapsed().as_secs_f64(), "peak_mib": peak_kib / 1024, "said": said });
        // Secrets are not shown, not even those of noise.
        for secret in ["/said/link", "/said/words"] {
            if let Some(said) = line.pointer_mut(secret) {
                *said = Value::Null;
            }
        }
        report(step, &line)
    }

    /// Runs one command; gives the last JSON object it printed and its peak memory in KiB.
    fn command(&self, arguments: &[&str]) -> Result<(Value, u64)> {
        let output = std::fs::File::create(self.folder.join("stdout"))?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .arg("--json")
            .env("DOLMEN_CONFIG", &self.config)
            .env("DOLMEN_PASSPHRASE", "a passphrase for a bench")
            .stdin(Stdio::null())
            .stdout(output)
            .spawn()?;
        let status_file = PathBuf::from(format!("/proc/{}/status", child.id()));
        let mut peak_kib = 0;
        let status = loop {
            peak_kib = peak_kib.max(high_water_kib(&status_file));
            if let Some(status) = child.try_wait()? {
                break status;
            }
            std::thread::sleep(LOOK_EVERY);
        };
        if !status.success() {
            bail!("dolmen {} ended with {status}", arguments.first().unwrap_or(&""));
        }
        let said = std::fs::read_to_string(self.folder.join("stdout"))?;
        Ok((said.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or(Value::Null), peak_kib))
    }
}

fn high_water_kib(status: &Path) -> u64 {
    let text = std::fs::read_to_string(status).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap_or(0)
}

fn report(step: &str, line: &Value) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{}", json!({ "step": step, "result": line }))?;
    Ok(output.flush()?)
}

fn name(number: u64) -> String {
    format!("{:04}/{number:07}.bin", number / FILES_PER_FOLDER)
}

/// A number that looks drawn and is the same in every run.
fn noise(number: u64) -> u64 {
    u64::from_le_bytes(*blake3::hash(&number.to_le_bytes()).as_bytes().first_chunk().expect("a hash has 32 bytes"))
}

/// Files of 1 KiB to so many, none compressible and no two alike.
fn make_files(folder: &Path, files: u64, most_kib: u64) -> Result<u64> {
    let mut bytes = 0;
    let mut content = vec![0; usize::try_from(most_kib)? << 10];
    for number in 0..files {
        let path = folder.join(name(number));
        if number % FILES_PER_FOLDER == 0 {
            std::fs::create_dir_all(path.parent().context("a folder")?)?;
        }
        let length = 1024 + noise(number) % ((most_kib - 1) << 10);
        let content = &mut content[..usize::try_from(length)?];
        blake3::Hasher::new_derive_key("dolmen bench files").update(&number.to_le_bytes()).finalize_xof().fill(content);
        std::fs::write(path, content)?;
        bytes += length;
    }
    Ok(bytes)
}
