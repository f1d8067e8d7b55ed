//! A reference whose clones do not wait for one another.
//!
//! Owns [`Own`]. Every call holds what it runs on alive; counted on one word, the calls of all threads would pass that word's cache line
//! from core to core, twice each. Here every clone of a client counts its own calls, on a word of its own.
//! Promises: the value lives as long as any clone or call. Costs a clone one small allocation. Cannot fail.

use std::{ops::Deref, sync::Arc};

/// A shared value, as a clone of a client holds it.
#[derive(Debug)]
pub(crate) struct Own<T>(Hold<T>);

/// The value, as a call holds it. The outer count is the clone's, the inner one everybody's.
pub(crate) type Hold<T> = Arc<Arc<T>>;

impl<T> Own<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Arc::new(Arc::new(value)))
    }

    /// Keeps the value alive for one call.
    pub(crate) fn hold(&self) -> Hold<T> {
        self.0.clone()
    }
}

impl<T> Clone for Own<T> {
    fn clone(&self) -> Self {
        Self(Arc::new(Arc::clone(&self.0)))
    }
}

impl<T> Deref for Own<T> {
    type Target = Arc<T>;

    fn deref(&self) -> &Arc<T> {
        &self.0
    }
}
