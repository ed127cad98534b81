//! Locks, and the place where errors of `Drop` wait for the next call that can report them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// Locks; what a panicking thread left behind is as consistent as what any other left.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Errors that could not be returned where they happened: the first, and how many followed.
#[derive(Default)]
pub(crate) struct Kept {
    any: AtomicBool,
    errors: Mutex<Option<(Error, u32)>>,
}

impl Kept {
    /// Keeps an error.
    pub(crate) fn keep(&self, error: Error) {
        tracing::error!(%error, "failure while dropping");
        let mut errors = lock(&self.errors);
        match &mut *errors {
            Some((_, others)) => *others = others.saturating_add(1),
            None => *errors = Some((error, 0)),
        }
        self.any.store(true, Ordering::Release);
    }

    /// Reports what was kept, once.
    pub(crate) fn take(&self) -> Result<()> {
        if !self.any.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut errors = lock(&self.errors);
        self.any.store(false, Ordering::Release);
        match errors.take() {
            Some((source, others)) => Err(Error::Deferred { source: Box::new(source), others }),
            None => Ok(()),
        }
    }
}
