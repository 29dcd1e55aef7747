//! Contestants side by side: what both comparisons share, rounds that interleave them and ratios of one round.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// CPU time of this thread: what the machine does for others between is not counted.
#[must_use]
pub fn thread_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).expect("below a second"))
}

/// Deterministic noise.
#[must_use]
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// One way to do the work.
pub struct Contestant<'a> {
    /// Its column or row in the table.
    pub name: String,
    /// Does the work once.
    pub run: Box<dyn FnMut() + 'a>,
}

impl<'a> Contestant<'a> {
    /// A named way to do the work.
    pub fn new(name: impl Into<String>, run: impl FnMut() + 'a) -> Self {
        Self { name: name.into(), run: Box::new(run) }
    }
}

/// Speeds of one contestant, by round.
#[derive(Debug)]
pub struct Speeds {
    /// The contestant.
    pub name: String,
    /// GB/s (10^9) of each round.
    pub rounds: Vec<f64>,
}

impl Speeds {
    /// The middle speed.
    #[must_use]
    pub fn median(&self) -> f64 {
        median(self.rounds.clone())
    }

    /// The middle of the rounds' ratios to another's same round.
    #[must_use]
    pub fn over(&self, other: &Self) -> f64 {
        median(self.rounds.iter().zip(&other.rounds).map(|(mine, other)| mine / other).collect())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs every contestant once a round, each time in another order, after one round that is not counted.
#[must_use]
pub fn race(mut contestants: Vec<Contestant<'_>>, rounds: usize, bytes: usize) -> Vec<Speeds> {
    let mut speeds: Vec<Speeds> =
        contestants.iter().map(|one| Speeds { name: one.name.clone(), rounds: Vec::new() }).collect();
    let count = contestants.len();
    for round in 0..=rounds {
        for turn in 0..count {
            // Forwards and backwards from another start each time, so that nobody always follows the same one.
            let place = if round % 2 == 0 { (turn + round) % count } else { (2 * count - 1 - turn + round) % count };
            let start = thread_time();
            (contestants[place].run)();
            let seconds = (thread_time() - start).as_secs_f64();
            if round > 0 {
                speeds[place].rounds.push(bytes as f64 / seconds / 1e9);
            }
        }
    }
    speeds
}

/// The environment variable as a number, or a default.
#[must_use]
pub fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}
