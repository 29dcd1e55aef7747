//! Some work on each item of a list, a bounded number of items at once.
//!
//! Decides which error of several is told: the first. Never starts what comes after an error.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Calls `work` with each item, from up to `at_once` threads; after an error no further item is started.
pub(super) fn for_each<T: Sync, E: Send>(
    items: &[T],
    at_once: usize,
    work: impl Fn(&T) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(None);
    let run = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = work(item) {
                next.store(items.len(), Ordering::Relaxed);
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    };
    match at_once.min(items.len()) {
        0 | 1 => run(),
        threads => std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(run);
            }
        }),
    }
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_has_its_turn_once() {
        let done = Mutex::new(Vec::new());
        let items: Vec<usize> = (0..100).collect();
        for_each::<_, ()>(&items, 8, |item| {
            done.lock().expect("nobody panics").push(*item);
            Ok(())
        })
        .expect("nothing fails");
        let mut done = done.into_inner().expect("nobody panics");
        done.sort_unstable();
        assert_eq!(done, items);
    }

    #[test]
    fn an_error_ends_it() {
        let started = AtomicUsize::new(0);
        let items = vec![(); 10_000];
        let failed = for_each(&items, 4, |()| Err::<(), usize>(started.fetch_add(1, Ordering::Relaxed)));
        assert!(failed.is_err());
        assert!(started.into_inner() <= 4 * 2, "each thread ends with its first error");
    }
}
