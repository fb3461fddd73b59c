//! A small cache of values computed from a key, so that they are computed once and not in every
//! layer.

use std::sync::{Mutex, PoisonError};

/// Number of cached values, enough for two players that alternate.
const ENTRIES: usize = 4;

/// The last few results by key. A clone starts empty.
pub(crate) struct Memo<K, V>(Mutex<Vec<(K, V)>>);

impl<K: PartialEq, V: Clone> Memo<K, V> {
    /// Returns the value of `key`, and computes it if it is not cached.
    pub(crate) fn get<E>(&self, key: K, make: impl FnOnce() -> Result<V, E>) -> Result<V, E> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, value)) = entries.iter().find(|(known, _)| *known == key) {
            return Ok(value.clone());
        }
        let value = make()?;
        if entries.len() == ENTRIES {
            entries.remove(0);
        }
        entries.push((key, value.clone()));
        Ok(value)
    }
}

impl<K, V> Default for Memo<K, V> {
    fn default() -> Self {
        Self(Mutex::new(Vec::new()))
    }
}

impl<K, V> Clone for Memo<K, V> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// Caches are always equal, so that they do not affect comparisons of their owners.
impl<K, V> PartialEq for Memo<K, V> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<K, V> Eq for Memo<K, V> {}

impl<K, V> std::fmt::Debug for Memo<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Memo")
    }
}
