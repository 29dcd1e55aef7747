//! Who holds how many bytes: quotas of listed accounts, the quota that all strangers share, and its share per subnet.
//!
//! Decides whether a lease's bytes still fit, exactly and under concurrency: bytes are reserved before the first
//! one is taken in, and given back when the put comes to nothing. Never decides whether a request is genuine, and
//! keeps nothing on disk: it is filled from the leases in the store, once they are known.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use dolmen_proto::ids::AccountId;

use crate::lease::StewardTag;
use crate::subnet::Subnet;

/// Bytes that a lease is charged beyond its shard's: what its records and index entries take.
///
/// Without it, strangers could fill a node's index with shards of one byte.
pub const LEASE_OVERHEAD_BYTES: u64 = 1024;

/// What one lease is charged with for a shard of `length_bytes`.
#[must_use]
pub fn charged_bytes(length_bytes: u64) -> u64 {
    length_bytes.saturating_add(LEASE_OVERHEAD_BYTES)
}

/// The limits that a [`Ledger`] holds accounts to, in charged bytes.
#[derive(Debug, Clone, Default)]
pub struct QuotaPolicy {
    /// Accounts with quotas of their own.
    pub allowed: BTreeMap<AccountId, u64>,
    /// What all other accounts may hold together.
    pub open_bytes: u64,
    /// What other accounts from one subnet may hold together; those of no subnet are exempt.
    pub open_subnet_bytes: u64,
}

/// Whom a lease's bytes are charged to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payer {
    /// The account that the lease names.
    pub account: AccountId,
    /// Where the put came from; `None`: a local network, which no subnet limit counts.
    pub subnet: Option<Subnet>,
    /// The steward who put it by the account's grant.
    pub steward: Option<StewardTag>,
}

/// Why bytes are not granted: the account's owner has to free some, ask the operator, or go elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuotaError {
    /// The account's own quota is used up.
    #[error("the account's quota of {quota_bytes} bytes has {free_bytes} left")]
    Account {
        /// The whole quota.
        quota_bytes: u64,
        /// What is left of it.
        free_bytes: u64,
    },
    /// The quota that unlisted accounts share is used up.
    #[error("the quota for accounts that this node does not list has {free_bytes} bytes left")]
    Open {
        /// What is left of it.
        free_bytes: u64,
    },
    /// The subnet's part of the shared quota is used up.
    #[error("your network's part of the quota for unlisted accounts has {free_bytes} bytes left")]
    Subnet {
        /// What is left of it.
        free_bytes: u64,
    },
    /// The steward's grant is used up.
    #[error("the steward's grant has {free_bytes} bytes left")]
    Grant {
        /// What is left of it.
        free_bytes: u64,
    },
}

#[derive(Debug, Default)]
struct Balances {
    accounts: BTreeMap<AccountId, u64>,
    open_bytes: u64,
    subnets: BTreeMap<Subnet, u64>,
    stewards: BTreeMap<(AccountId, StewardTag), u64>,
    in_flight_bytes: u64,
}

/// What all leases together are charged, for `status` and for admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LedgerUsage {
    /// Bytes charged to unlisted accounts.
    pub open_bytes: u64,
    /// What those may hold.
    pub open_quota_bytes: u64,
    /// Bytes charged to listed accounts.
    pub allowed_bytes: u64,
    /// Bytes reserved by puts that are not over.
    pub in_flight_bytes: u64,
}

/// The balances of all accounts.
#[derive(Debug)]
pub struct Ledger {
    policy: QuotaPolicy,
    balances: Mutex<Balances>,
}

impl Ledger {
    /// A ledger without charges.
    #[must_use]
    pub fn new(policy: QuotaPolicy) -> Arc<Self> {
        Arc::new(Self { policy, balances: Mutex::default() })
    }

    /// Charges what a lease found in the store holds. Never refused: what was granted stays granted, also when
    /// the operator lowered a quota since.
    pub fn restore(&self, payer: &Payer, bytes: u64) {
        self.add(&mut self.lock(), payer, bytes);
    }

    /// Reserves `bytes` for a lease of `payer`. Dropping the reservation gives them back. `grant_bytes` is the most
    /// that the payer's steward may hold by its grant; without a steward it does not matter.
    ///
    /// # Errors
    /// [`QuotaError`] for the narrowest limit that they do not fit.
    pub fn reserve(self: &Arc<Self>, payer: Payer, grant_bytes: u64, bytes: u64) -> Result<Reservation, QuotaError> {
        let mut balances = self.lock();
        self.check(&balances, &payer, grant_bytes, bytes)?;
        self.add(&mut balances, &payer, bytes);
        balances.in_flight_bytes = balances.in_flight_bytes.saturating_add(bytes);
        drop(balances);
        Ok(Reservation { ledger: Arc::clone(self), payer, bytes, kept: false })
    }

    /// Gives back what a lease that ended was charged.
    pub fn release(&self, payer: &Payer, bytes: u64) {
        let mut balances = self.lock();
        self.subtract(&mut balances, payer, bytes);
    }

    /// Sums over all accounts.
    #[must_use]
    pub fn usage(&self) -> LedgerUsage {
        let balances = self.lock();
        LedgerUsage {
            open_bytes: balances.open_bytes,
            open_quota_bytes: self.policy.open_bytes,
            allowed_bytes: balances.accounts.values().sum(),
            in_flight_bytes: balances.in_flight_bytes,
        }
    }

    /// What one listed account is charged; `None`: it is not listed.
    #[must_use]
    pub fn used_by(&self, account: &AccountId) -> Option<u64> {
        self.policy.allowed.get(account)?;
        Some(self.lock().accounts.get(account).copied().unwrap_or(0))
    }

    fn lock(&self) -> MutexGuard<'_, Balances> {
        self.balances.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn check(&self, balances: &Balances, payer: &Payer, grant_bytes: u64, bytes: u64) -> Result<(), QuotaError> {
        if let Some(steward) = payer.steward {
            let used = balances.stewards.get(&(payer.account, steward)).copied().unwrap_or(0);
            let free_bytes = grant_bytes.saturating_sub(used);
            if bytes > free_bytes {
                return Err(QuotaError::Grant { free_bytes });
            }
        }
        if let Some(&quota_bytes) = self.policy.allowed.get(&payer.account) {
            let used = balances.accounts.get(&payer.account).copied().unwrap_or(0);
            let free_bytes = quota_bytes.saturating_sub(used);
            return if bytes > free_bytes { Err(QuotaError::Account { quota_bytes, free_bytes }) } else { Ok(()) };
        }
        let free_bytes = self.policy.open_bytes.saturating_sub(balances.open_bytes);
        if bytes > free_bytes {
            return Err(QuotaError::Open { free_bytes });
        }
        if let Some(subnet) = payer.subnet {
            let used = balances.subnets.get(&subnet).copied().unwrap_or(0);
            let free_bytes = self.policy.open_subnet_bytes.saturating_sub(used);
            if bytes > free_bytes {
                return Err(QuotaError::Subnet { free_bytes });
            }
        }
        Ok(())
    }

    fn add(&self, balances: &mut Balances, payer: &Payer, bytes: u64) {
        for balance in self.balances_of(balances, payer) {
            *balance = balance.saturating_add(bytes);
        }
    }

    fn subtract(&self, balances: &mut Balances, payer: &Payer, bytes: u64) {
        for balance in self.balances_of(balances, payer) {
            debug_assert!(*balance >= bytes, "more given back than was charged");
            *balance = balance.saturating_sub(bytes);
        }
        // Empty entries go, so that the maps are bounded by the leases held and not by all peers ever seen.
        if let Some(subnet) = payer.subnet
            && balances.subnets.get(&subnet) == Some(&0)
        {
            balances.subnets.remove(&subnet);
        }
        if let Some(steward) = payer.steward {
            let key = (payer.account, steward);
            if balances.stewards.get(&key) == Some(&0) {
                balances.stewards.remove(&key);
            }
        }
    }

    /// Every balance that counts this payer's bytes; the same ones for a charge and for giving it back.
    fn balances_of<'a>(&self, balances: &'a mut Balances, payer: &Payer) -> impl Iterator<Item = &'a mut u64> {
        let steward = payer.steward.map(|steward| balances.stewards.entry((payer.account, steward)).or_default());
        let (account, open, subnet) = if self.policy.allowed.contains_key(&payer.account) {
            (Some(balances.accounts.entry(payer.account).or_default()), None, None)
        } else {
            let subnet = payer.subnet.map(|subnet| balances.subnets.entry(subnet).or_default());
            (None, Some(&mut balances.open_bytes), subnet)
        };
        [steward, account, open, subnet].into_iter().flatten()
    }
}

/// Bytes set aside for one put, given back on drop unless the lease came to be.
#[derive(Debug)]
#[must_use = "dropping a reservation gives the bytes back"]
pub struct Reservation {
    ledger: Arc<Ledger>,
    payer: Payer,
    bytes: u64,
    kept: bool,
}

impl Reservation {
    /// The lease is durable: the bytes stay charged until [`Ledger::release`].
    pub fn keep(mut self) {
        self.kept = true;
    }

    /// Whom the bytes are charged to.
    #[must_use]
    pub fn payer(&self) -> &Payer {
        &self.payer
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut balances = self.ledger.lock();
        balances.in_flight_bytes = balances.in_flight_bytes.saturating_sub(self.bytes);
        if !self.kept {
            self.ledger.subtract(&mut balances, &self.payer, self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LISTED: AccountId = AccountId::new([1; 32]);
    const STRANGER: AccountId = AccountId::new([2; 32]);
    const HOME: Option<Subnet> = Some(Subnet::V4([203, 0, 113]));
    const AWAY: Option<Subnet> = Some(Subnet::V4([198, 51, 100]));

    fn ledger() -> Arc<Ledger> {
        let allowed = BTreeMap::from([(LISTED, 1000)]);
        Ledger::new(QuotaPolicy { allowed, open_bytes: 100, open_subnet_bytes: 60 })
    }

    fn payer(account: AccountId, subnet: Option<Subnet>) -> Payer {
        Payer { account, subnet, steward: None }
    }

    #[test]
    fn a_listed_account_has_its_own_quota_whoever_else_is_full() {
        let ledger = ledger();
        ledger.reserve(payer(STRANGER, None), 50, 100).expect("fits").keep();
        ledger.reserve(payer(LISTED, HOME), 50, 1000).expect("fits").keep();
        let refusal = ledger.reserve(payer(LISTED, HOME), 50, 1).expect_err("full");
        assert_eq!(refusal, QuotaError::Account { quota_bytes: 1000, free_bytes: 0 });
        assert_eq!(ledger.used_by(&LISTED), Some(1000));
        assert_eq!(ledger.used_by(&STRANGER), None);
    }

    #[test]
    fn strangers_share_one_quota_and_a_subnet_has_a_part_of_it() {
        let ledger = ledger();
        ledger.reserve(payer(STRANGER, HOME), 50, 60).expect("fits").keep();
        let another = AccountId::new([3; 32]);
        assert_eq!(
            ledger.reserve(payer(another, HOME), 50, 1).expect_err("a new key does not help"),
            QuotaError::Subnet { free_bytes: 0 }
        );
        ledger.reserve(payer(another, AWAY), 50, 40).expect("fits").keep();
        assert_eq!(
            ledger.reserve(payer(another, None), 50, 1).expect_err("local networks share the whole"),
            QuotaError::Open { free_bytes: 0 }
        );
        ledger.release(&payer(STRANGER, HOME), 60);
        ledger.reserve(payer(another, None), 50, 60).expect("local networks have no part of their own").keep();
    }

    #[test]
    fn a_put_that_comes_to_nothing_gives_its_bytes_back() {
        let ledger = ledger();
        let reservation = ledger.reserve(payer(STRANGER, None), 50, 100).expect("fits");
        assert!(ledger.reserve(payer(STRANGER, None), 50, 1).is_err(), "reserved bytes count before they arrive");
        assert_eq!(ledger.usage().in_flight_bytes, 100);
        drop(reservation);
        assert_eq!((ledger.usage().in_flight_bytes, ledger.usage().open_bytes), (0, 0));
    }

    #[test]
    fn a_steward_is_held_to_its_grant_within_the_account() {
        let ledger = ledger();
        let steward = Some(StewardTag::of(&[9; 32]));
        let payer = Payer { account: LISTED, subnet: None, steward };
        ledger.reserve(payer, 50, 50).expect("fits").keep();
        assert_eq!(ledger.reserve(payer, 50, 1).expect_err("used up"), QuotaError::Grant { free_bytes: 0 });
        assert_eq!(ledger.used_by(&LISTED), Some(50));
    }

    #[test]
    fn what_was_granted_is_restored_although_the_quota_was_lowered() {
        let ledger = ledger();
        ledger.restore(&payer(STRANGER, HOME), 5000);
        assert_eq!(ledger.usage().open_bytes, 5000);
        assert!(ledger.reserve(payer(STRANGER, AWAY), 50, 1).is_err());
    }

    #[test]
    fn threads_that_race_never_get_more_than_the_quota() {
        let ledger = ledger();
        let granted: u64 = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    let ledger = &ledger;
                    scope.spawn(move || {
                        let mut granted = 0;
                        for round in 0..200u64 {
                            if let Ok(reservation) = ledger.reserve(payer(STRANGER, None), 50, 1) {
                                if round.is_multiple_of(3) {
                                    drop(reservation);
                                } else {
                                    reservation.keep();
                                    granted += 1;
                                }
                            }
                        }
                        granted
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().expect("no panic")).sum()
        });
        assert_eq!(granted, 100, "every byte is granted once");
        assert_eq!(ledger.usage().open_bytes, 100);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Reserve { account: u8, subnet: u8, steward: bool, bytes: u64 },
        Keep(usize),
        Drop(usize),
        Release(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (1u8..4, 0u8..3, any::<bool>(), 0u64..80).prop_map(|(account, subnet, steward, bytes)| {
                Step::Reserve { account, subnet, steward, bytes }
            }),
            2 => any::<usize>().prop_map(Step::Keep),
            1 => any::<usize>().prop_map(Step::Drop),
            1 => any::<usize>().prop_map(Step::Release),
        ]
    }

    proptest! {
        /// Against a model that adds up every live reservation and lease anew after each step.
        #[test]
        fn the_books_always_add_up(steps in proptest::collection::vec(step(), 1..80)) {
            let ledger = ledger();
            let mut open: Vec<(Reservation, Payer, u64)> = Vec::new();
            let mut leases: Vec<(Payer, u64)> = Vec::new();
            for step in steps {
                match step {
                    Step::Reserve { account, subnet, steward, bytes } => {
                        let steward = steward.then(|| StewardTag::of(&[account; 32]));
                        let subnet = [None, HOME, AWAY][usize::from(subnet)];
                        let payer = Payer { account: AccountId::new([account; 32]), subnet, steward };
                        if let Ok(reservation) = ledger.reserve(payer, 50, bytes) {
                            open.push((reservation, payer, bytes));
                        }
                    }
                    Step::Keep(index) if !open.is_empty() => {
                        let (reservation, payer, bytes) = open.swap_remove(index % open.len());
                        reservation.keep();
                        leases.push((payer, bytes));
                    }
                    Step::Drop(index) if !open.is_empty() => drop(open.swap_remove(index % open.len())),
                    Step::Release(index) if !leases.is_empty() => {
                        let (payer, bytes) = leases.swap_remove(index % leases.len());
                        ledger.release(&payer, bytes);
                    }
                    Step::Keep(_) | Step::Drop(_) | Step::Release(_) => {}
                }
                let all: Vec<(Payer, u64)> =
                    open.iter().map(|(_, payer, bytes)| (*payer, *bytes)).chain(leases.iter().copied()).collect();
                let sum = |wanted: &dyn Fn(&Payer) -> bool| -> u64 {
                    all.iter().filter(|(payer, _)| wanted(payer)).map(|(_, bytes)| bytes).sum()
                };
                let usage = ledger.usage();
                prop_assert_eq!(usage.open_bytes, sum(&|payer| payer.account != LISTED));
                prop_assert_eq!(usage.allowed_bytes, sum(&|payer| payer.account == LISTED));
                prop_assert_eq!(usage.in_flight_bytes, open.iter().map(|(_, _, bytes)| bytes).sum::<u64>());
                prop_assert!(usage.open_bytes <= 100 && usage.allowed_bytes <= 1000);
                for subnet in [HOME, AWAY] {
                    prop_assert!(sum(&|payer| payer.account != LISTED && payer.subnet == subnet) <= 60);
                }
                for account in 1u8..4 {
                    let account = AccountId::new([account; 32]);
                    prop_assert!(sum(&|payer| payer.account == account && payer.steward.is_some()) <= 50);
                }
            }
        }
    }
}
