//! The registry of objects behind the handles that C sees.
//!
//! A handle is never a Rust address but a number of its own: they start at one address nobody maps, grow by 16, are
//! unique over all simulators of the process and are never given twice. So a destroyed handle, a handle of another kind
//! or of another simulator is told with certainty.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

const FIRST: usize = 0x5CA0_0000_0000;
const STEP: usize = 16;
static NEXT: AtomicUsize = AtomicUsize::new(FIRST);

type Object = Arc<dyn Any + Send + Sync>;

/// Objects of one simulator by handle.
#[derive(Default)]
pub(crate) struct Objects {
    objects: RwLock<HashMap<usize, (&'static str, Object)>>,
}

impl Objects {
    fn read(&self) -> RwLockReadGuard<'_, HashMap<usize, (&'static str, Object)>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<usize, (&'static str, Object)>> {
        self.objects.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an object in; `kind` is its C type. Gives its handle.
    pub(crate) fn insert(&self, kind: &'static str, object: Object) -> usize {
        let handle = NEXT.fetch_add(STEP, Ordering::Relaxed);
        self.write().insert(handle, (kind, object));
        handle
    }

    /// Takes in an object that has to know its own handle.
    pub(crate) fn insert_with<T: Send + Sync + 'static>(
        &self,
        kind: &'static str,
        make: impl FnOnce(usize) -> Arc<T>,
    ) -> Arc<T> {
        let handle = NEXT.fetch_add(STEP, Ordering::Relaxed);
        let object = make(handle);
        self.write().insert(handle, (kind, Arc::clone(&object) as Object));
        object
    }

    /// The object behind a handle, if it is there and a `T`.
    pub(crate) fn get<T: Send + Sync + 'static>(&self, handle: usize) -> Option<Arc<T>> {
        let object = self.read().get(&handle).map(|(_, object)| Arc::clone(object))?;
        object.downcast().ok()
    }

    /// Takes the object behind a handle out, if it is there and a `T`.
    pub(crate) fn remove<T: Send + Sync + 'static>(&self, handle: usize) -> Option<Arc<T>> {
        let mut objects = self.write();
        if !objects.get(&handle)?.1.is::<T>() {
            return None;
        }
        objects.remove(&handle)?.1.downcast().ok()
    }

    /// Every object that is a `T` and passes `keep`, in the order of their handles.
    pub(crate) fn select<T: Send + Sync + 'static>(&self, keep: impl Fn(&T) -> bool) -> Vec<(usize, Arc<T>)> {
        let mut found: Vec<(usize, Arc<T>)> = self
            .read()
            .iter()
            .filter_map(|(&handle, (_, object))| Some((handle, Arc::clone(object).downcast::<T>().ok()?)))
            .filter(|(_, object)| keep(object))
            .collect();
        found.sort_unstable_by_key(|&(handle, _)| handle);
        found
    }

    /// What is known of a handle, in words.
    pub(crate) fn describe(&self, handle: usize) -> String {
        let known = self.read().get(&handle).map(|&(kind, _)| kind);
        let given = (FIRST..NEXT.load(Ordering::Relaxed)).contains(&handle) && handle.is_multiple_of(STEP);
        match known {
            Some(kind) => format!("handle {handle:#x} is an {kind}"),
            None if given => format!("handle {handle:#x} was destroyed or belongs to another simulator"),
            None => format!("{handle:#x} was never given out as a handle"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_destroyed_handles_are_told_apart() {
        let objects = Objects::default();
        let number = objects.insert("aclScalar", Arc::new(7_i32));
        assert_eq!(objects.get::<i32>(number).as_deref(), Some(&7));
        assert!(objects.get::<u8>(number).is_none(), "another kind");
        assert!(objects.remove::<u8>(number).is_none(), "another kind");
        assert!(objects.describe(number).contains("is an aclScalar"));
        assert_eq!(objects.remove::<i32>(number).as_deref(), Some(&7));
        assert!(objects.remove::<i32>(number).is_none(), "destroyed twice");
        assert!(objects.describe(number).contains("was destroyed"));
        assert!(objects.describe(1).contains("never given"));
        assert_ne!(objects.insert("aclScalar", Arc::new(7_i32)), number, "never given twice");
        assert_eq!(objects.select::<i32>(|&n| n == 7).len(), 1);
    }
}
