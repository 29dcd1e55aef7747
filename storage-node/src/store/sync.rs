//! Locks that outlive a panic of their holder.
//!
//! Decides that poison is ignored: what each lock guards is consistent between any two statements that can panic, and a
//! store that answers nothing any more after one failed request would be the greater harm.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn read<T: ?Sized>(guard: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    guard.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write<T: ?Sized>(guard: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    guard.write().unwrap_or_else(PoisonError::into_inner)
}
