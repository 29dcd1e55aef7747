//! How much at once and how often: transfers in flight and the rate of small writes from one network.
//!
//! Decides when a request is told to come back later. Never decides whether it is allowed at all: that is what
//! signatures and quotas are for.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use dolmen_proto::ids::Timestamp;

use crate::subnet::Subnet;

/// Networks that a [`RateLimiter`] keeps in mind; past that, unknown ones wait.
const SUBNETS_MAX: usize = 4096;
/// What one token costs, in the limiter's unit of thousandths, so that slow rates need no fractions.
const TOKEN: u64 = 1000;

/// A token bucket for every subnet; peers of no subnet (local networks) are exempt.
#[derive(Debug)]
pub struct RateLimiter {
    burst: u64,
    per_second_thousandths: u64,
    buckets: Mutex<BTreeMap<Subnet, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    thousandths: u64,
    at: Timestamp,
}

impl RateLimiter {
    /// A limiter that lets `burst` through at once and `per_minute` a minute in the long run. Both at least 1.
    #[must_use]
    pub fn new(burst: u32, per_minute: u32) -> Self {
        Self {
            burst: u64::from(burst.max(1)) * TOKEN,
            per_second_thousandths: (u64::from(per_minute) * TOKEN / 60).max(1),
            buckets: Mutex::default(),
        }
    }

    /// Takes one token of `subnet` at `now`.
    ///
    /// # Errors
    /// How long to wait before there is one.
    pub fn take(&self, subnet: Option<Subnet>, now: Timestamp) -> Result<(), Duration> {
        let Some(subnet) = subnet else { return Ok(()) };
        let mut buckets = self.buckets.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if buckets.len() >= SUBNETS_MAX && !buckets.contains_key(&subnet) {
            buckets.retain(|_, bucket| self.filled(*bucket, now).thousandths < self.burst);
            if buckets.len() >= SUBNETS_MAX {
                return Err(self.time_for(TOKEN));
            }
        }
        let known = buckets.get(&subnet).copied().unwrap_or(Bucket { thousandths: self.burst, at: now });
        let mut bucket = self.filled(known, now);
        let taken = bucket.thousandths.checked_sub(TOKEN);
        if let Some(left) = taken {
            bucket.thousandths = left;
        }
        buckets.insert(subnet, bucket);
        taken.map(|_| ()).ok_or_else(|| self.time_for(TOKEN - bucket.thousandths))
    }

    /// What is in the bucket at `now`. A clock that went back adds nothing and takes nothing.
    fn filled(&self, bucket: Bucket, now: Timestamp) -> Bucket {
        let elapsed_ms = u64::try_from(now.since(bucket.at).as_millis()).unwrap_or(u64::MAX);
        let gained = elapsed_ms.saturating_mul(self.per_second_thousandths) / 1000;
        if gained == 0 && now >= bucket.at {
            // Too short a time to count: kept in the bucket's time, or a steady trickle of requests would starve.
            return bucket;
        }
        Bucket { thousandths: bucket.thousandths.saturating_add(gained).min(self.burst), at: now }
    }

    fn time_for(&self, thousandths: u64) -> Duration {
        Duration::from_millis(thousandths.saturating_mul(1000) / self.per_second_thousandths + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_unix_ms(1_000_000);
    const HERE: Option<Subnet> = Some(Subnet::V4([203, 0, 113]));

    #[test]
    fn a_burst_then_the_rate_and_only_for_that_subnet() {
        let limiter = RateLimiter::new(3, 60);
        for _ in 0..3 {
            assert_eq!(limiter.take(HERE, START), Ok(()));
        }
        let wait = limiter.take(HERE, START).expect_err("used up");
        assert_eq!(limiter.take(Some(Subnet::V4([198, 51, 100])), START), Ok(()));
        assert_eq!(limiter.take(HERE, START.after(wait)), Ok(()), "it is let in when it was told");
        assert!(limiter.take(HERE, START.after(wait)).is_err());
        for _ in 0..100 {
            assert_eq!(limiter.take(None, START), Ok(()), "local networks are exempt");
        }
    }

    #[test]
    fn a_trickle_is_let_in_at_the_rate() {
        let limiter = RateLimiter::new(1, 60);
        let let_in = (0..10_000u64).filter(|ms| limiter.take(HERE, START.after(Duration::from_millis(*ms))).is_ok());
        assert_eq!(let_in.count(), 10, "one a second for ten seconds");
    }

    #[test]
    fn a_clock_that_goes_back_neither_refills_nor_locks_out() {
        let limiter = RateLimiter::new(1, 60);
        assert_eq!(limiter.take(HERE, START), Ok(()));
        let earlier = START.before(Duration::from_secs(500));
        assert!(limiter.take(HERE, earlier).is_err());
        assert_eq!(limiter.take(HERE, earlier.after(Duration::from_secs(2))), Ok(()));
    }

    #[test]
    fn strangers_from_everywhere_do_not_grow_the_memory() {
        let limiter = RateLimiter::new(1, 1);
        let subnet = |index: usize| {
            let [_, _, _, _, _, a, b, c] = (index as u64).to_be_bytes();
            Some(Subnet::V4([a, b, c]))
        };
        for index in 0..SUBNETS_MAX {
            assert_eq!(limiter.take(subnet(index), START), Ok(()));
        }
        assert!(limiter.take(subnet(SUBNETS_MAX), START).is_err());
        assert_eq!(limiter.take(subnet(SUBNETS_MAX), START.after(Duration::from_secs(3600))), Ok(()));
        assert!(limiter.buckets.lock().expect("not poisoned").len() <= SUBNETS_MAX);
    }
}
