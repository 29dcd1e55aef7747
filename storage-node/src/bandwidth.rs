//! How fast shards may go out and come in, by the time of day.
//!
//! Decides how long a piece waits, and when a node is so far behind that newcomers had better go elsewhere. Challenges, heads
//! and small answers do not wait: they are bounded by themselves.

use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dolmen_proto::size::ByteSize;
use tokio::time::Instant;

/// Slowest rate that can be configured: below it, transfers would be given up as stalled.
pub const RATE_MIN: ByteSize = ByteSize::new(64 * 1024);
/// What may go at once after a pause.
const BURST: Duration = Duration::from_millis(100);
/// With more than this to go before it is a newcomer's turn, he is told to come back; well under the time after which a stream
/// without progress is given up.
const BEHIND_MAX: Duration = Duration::from_secs(4);
const MINUTES_OF_DAY: u16 = 24 * 60;

/// Bytes a second; `None`: as fast as it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// To others.
    pub egress: Option<ByteSize>,
    /// From others.
    pub ingress: Option<ByteSize>,
}

/// A time of day, to the minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MinuteOfDay(u16);

impl FromStr for MinuteOfDay {
    type Err = String;

    /// Reads `HH:MM`, up to `24:00`.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no time of day such as 08:30");
        let (hours, minutes) = text.split_once(':').ok_or_else(bad)?;
        if hours.len() != 2 || minutes.len() != 2 || !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b':') {
            return Err(bad());
        }
        let (hours, minutes): (u16, u16) = (hours.parse().map_err(|_| bad())?, minutes.parse().map_err(|_| bad())?);
        let minute = hours * 60 + minutes;
        if minutes > 59 || minute > MINUTES_OF_DAY {
            return Err(bad());
        }
        Ok(Self(minute))
    }
}

/// A part of the day with rates of its own; one that ends before it begins goes over midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// The first minute.
    pub from: MinuteOfDay,
    /// The first minute after it.
    pub to: MinuteOfDay,
    /// What holds in it.
    pub rates: Rates,
}

impl Period {
    fn holds(&self, minute: u16) -> bool {
        let (from, to) = (self.from.0, self.to.0);
        if from <= to { (from..to).contains(&minute) } else { minute >= from || minute < to }
    }
}

/// Rates over the day.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Schedule {
    /// What holds when no period does.
    pub usual: Rates,
    /// The first that holds counts.
    pub periods: Vec<Period>,
}

impl Schedule {
    /// What holds at a minute of the local day.
    #[must_use]
    pub fn at(&self, minute: u16) -> Rates {
        self.periods.iter().find(|period| period.holds(minute)).map_or(self.usual, |period| period.rates)
    }

    fn limits_anything(&self) -> bool {
        let rates = self.periods.iter().map(|period| period.rates).chain([self.usual]);
        rates.into_iter().any(|rates| rates != Rates::default())
    }
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To others.
    Out,
    /// From others.
    In,
}

/// When the line is free again, if everything that was let through goes at the rate. Pure: the time is passed in, since any start.
#[derive(Debug, Clone, Copy, Default)]
struct Line {
    free_at: Duration,
}

impl Line {
    /// Takes in a piece, and gives how long it has to wait.
    fn take(&mut self, bytes: u64, rate: ByteSize, now: Duration) -> Duration {
        let start = self.free_at.max(now.saturating_sub(BURST));
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(rate.bytes().max(1));
        self.free_at = start + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        self.behind(now)
    }

    fn behind(self, now: Duration) -> Duration {
        self.free_at.saturating_sub(now)
    }
}

/// Holds pieces up to the rates that hold now.
#[derive(Debug)]
pub(crate) struct Bandwidth {
    /// `None`: nothing is ever held up.
    schedule: Option<Schedule>,
    started: Instant,
    lines: Mutex<[Line; 2]>,
}

impl Bandwidth {
    pub(crate) fn new(schedule: Schedule) -> Self {
        let schedule = schedule.limits_anything().then_some(schedule);
        Self { schedule, started: Instant::now(), lines: Mutex::default() }
    }

    fn rate(&self, way: Way) -> Option<ByteSize> {
        let schedule = self.schedule.as_ref()?;
        let local = jiff::Zoned::now();
        let minute = u16::from(local.hour().unsigned_abs()) * 60 + u16::from(local.minute().unsigned_abs());
        let rates = schedule.at(minute);
        match way {
            Way::Out => rates.egress,
            Way::In => rates.ingress,
        }
    }

    /// Whether so much waits already that a newcomer had better go elsewhere.
    pub(crate) fn is_behind(&self, way: Way) -> bool {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        self.schedule.is_some() && lines[way as usize].behind(self.started.elapsed()) > BEHIND_MAX
    }

    /// Waits until a piece may go.
    pub(crate) async fn pass(&self, way: Way, bytes: usize) {
        let Some(rate) = self.rate(way) else { return };
        let wait = {
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines[way as usize].take(bytes as u64, rate, self.started.elapsed())
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(text: &str) -> MinuteOfDay {
        text.parse().expect("a time of day")
    }

    #[test]
    fn times_of_day_are_read_and_others_refused() {
        assert_eq!(minute("00:00"), MinuteOfDay(0));
        assert_eq!(minute("08:30"), MinuteOfDay(510));
        assert_eq!(minute("24:00"), MinuteOfDay(1440));
        for bad in ["8:30", "24:01", "12:60", "noon", "", "1200", "+1:00", "99:99"] {
            assert!(bad.parse::<MinuteOfDay>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_first_period_that_holds_counts_and_one_may_go_over_midnight() {
        let rates = |bytes: u64| Rates { egress: Some(ByteSize::new(bytes)), ingress: None };
        let schedule = Schedule {
            usual: rates(1),
            periods: vec![
                Period { from: minute("08:00"), to: minute("18:00"), rates: rates(2) },
                Period { from: minute("22:00"), to: minute("06:00"), rates: rates(3) },
                Period { from: minute("00:00"), to: minute("24:00"), rates: Rates::default() },
            ],
        };
        let at = |hour: u16| schedule.at(hour * 60);
        assert_eq!([at(8), at(17), at(23), at(0), at(5)], [rates(2), rates(2), rates(3), rates(3), rates(3)]);
        assert_eq!([at(18), at(6)], [Rates::default(), Rates::default()]);
        let usual = Schedule { usual: rates(1), periods: Vec::new() };
        assert_eq!(usual.at(100), rates(1));
        assert!(usual.limits_anything() && !Schedule::default().limits_anything());
    }

    #[test]
    fn the_rate_is_kept_over_any_time_with_no_more_than_the_burst() {
        let (rate, mut line) = (ByteSize::new(1_000_000), Line::default());
        let mut now = Duration::from_secs(10);
        let start = now;
        let mut bytes = 0;
        for piece in [64_000, 1, 200_000, 64_000, 3_000].into_iter().cycle().take(500) {
            now += line.take(piece, rate, now);
            bytes += piece;
        }
        let allowed = Duration::from_micros(bytes);
        assert!(now - start <= allowed && now - start + BURST >= allowed, "{:?} for {allowed:?}", now - start);
        assert_eq!(line.behind(now + Duration::from_secs(5)), Duration::ZERO);
    }

    #[tokio::test]
    async fn who_is_far_behind_says_so() {
        let usual = Rates { egress: Some(RATE_MIN), ingress: None };
        let bandwidth = Bandwidth::new(Schedule { usual, periods: Vec::new() });
        assert!(!bandwidth.is_behind(Way::Out));
        // A minute's worth at once; nobody waits for it here.
        let piece = bandwidth.pass(Way::Out, 60 * 64 * 1024);
        assert!(tokio::time::timeout(Duration::ZERO, piece).await.is_err(), "it has to wait");
        assert!(bandwidth.is_behind(Way::Out) && !bandwidth.is_behind(Way::In));
        // The other way is not limited.
        bandwidth.pass(Way::In, 1 << 30).await;
    }
}
