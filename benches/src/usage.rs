//! What processes cost: CPU seconds and the most memory that each held, read from `/proc`.
//!
//! Processes that ended while they were looked at count with what they had used when they were last seen.

use std::collections::BTreeMap;

use procfs::process::Process;

/// What a stretch of work cost the processes that took part in it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Usage {
    /// User and system time of this process, in seconds.
    pub client_cpu_seconds: f64,
    /// User and system time of all the others together, in seconds.
    pub servers_cpu_seconds: f64,
    /// Most memory that this process held at a time, in bytes; of the whole process where the kernel cannot forget peaks.
    pub client_peak_bytes: u64,
    /// Most memory that any other process held at a time, in bytes.
    pub server_peak_bytes: u64,
}

impl Usage {
    /// CPU seconds of every process.
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        self.client_cpu_seconds + self.servers_cpu_seconds
    }
}

/// Watches this process and others from [`Meter::start`] to [`Meter::stop`].
#[derive(Debug)]
pub struct Meter {
    own: u32,
    before: BTreeMap<u32, f64>,
}

impl Meter {
    /// Begins to watch this process and `servers`, and makes the kernel forget their peaks of memory.
    #[must_use]
    pub fn start(servers: &[u32]) -> Self {
        let own = std::process::id();
        let mut before = BTreeMap::new();
        for pid in servers.iter().copied().chain([own]) {
            // Only the owner of a process may; without, peaks are those of its whole life.
            let _ = std::fs::write(format!("/proc/{pid}/clear_refs"), "5");
            if let Some(seconds) = cpu_seconds(pid) {
                before.insert(pid, seconds);
            }
        }
        Self { own, before }
    }

    /// What was used since the start.
    #[must_use]
    pub fn stop(self) -> Usage {
        let mut usage = Usage::default();
        for (pid, before) in self.before {
            let used = cpu_seconds(pid).map_or(0.0, |now| (now - before).max(0.0));
            let peak = peak_bytes(pid).unwrap_or(0);
            if pid == self.own {
                usage.client_cpu_seconds = used;
                usage.client_peak_bytes = peak;
            } else {
                usage.servers_cpu_seconds += used;
                usage.server_peak_bytes = usage.server_peak_bytes.max(peak);
            }
        }
        usage
    }
}

fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = Process::new(i32::try_from(pid).ok()?).ok()?.stat().ok()?;
    let ticks = stat.utime + stat.stime;
    #[expect(clippy::cast_precision_loss, reason = "a process does not run for 2^53 ticks")]
    let seconds = ticks as f64 / procfs::ticks_per_second() as f64;
    Some(seconds)
}

fn peak_bytes(pid: u32) -> Option<u64> {
    let status = Process::new(i32::try_from(pid).ok()?).ok()?.status().ok()?;
    status.vmhwm.map(|kib| kib * 1024)
}

/// What this machine is, as far as figures depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The processor's name, with the instruction sets that matter here.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// The kernel.
    pub system: String,
}

impl Machine {
    /// This machine.
    #[must_use]
    pub fn this() -> Self {
        use procfs::Current as _;
        let info = procfs::CpuInfo::current().ok();
        let cpu = info.as_ref().and_then(|info| {
            let name = info.model_name(0)?.to_owned();
            let flags = info.flags(0).unwrap_or_default();
            let known = ["avx2", "avx512bw", "gfni", "vaes"].into_iter().filter(|flag| flags.contains(flag));
            Some(known.fold(name, |name, flag| name + " " + flag))
        });
        let text = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        Self {
            cpu: cpu.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            system: format!("{} {}", std::env::consts::OS, text("/proc/sys/kernel/osrelease")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_seen() {
        let meter = Meter::start(&[]);
        let mut hasher = blake3::Hasher::new();
        let began = std::time::Instant::now();
        while began.elapsed().as_millis() < 100 {
            hasher.update(&[1; 65_536]);
        }
        std::hint::black_box(hasher.finalize());
        let usage = meter.stop();
        assert!(usage.client_cpu_seconds > 0.0 && usage.client_peak_bytes > 0, "{usage:?}");
        assert!(usage.servers_cpu_seconds.abs() < f64::EPSILON);
        assert!(Machine::this().cores > 0);
    }
}
