//! Typed values that travel with a request from one layer to the next.
//!
//! Owns [`Extensions`]. Promises: at most one value per type; cloning shares the values. Leaves their meaning to the layers.
//! Cannot fail.

use std::{
    any::{Any, TypeId},
    fmt,
    sync::Arc,
};

/// At most one value of each type, attached to a [`Request`](crate::Request) by a layer for the layers below it.
///
/// ```
/// use redis_holdfast::{Request, redis};
///
/// #[derive(Debug, PartialEq)]
/// struct Tenant(u32);
///
/// let mut request = Request::from(redis::cmd("GET").arg("k"));
/// request.extensions_mut().insert(Tenant(7));
/// assert_eq!(request.extensions().get::<Tenant>(), Some(&Tenant(7)));
/// ```
#[derive(Clone, Default)]
pub struct Extensions(Vec<(TypeId, Arc<dyn Any + Send + Sync>)>);

impl Extensions {
    pub(super) const fn none() -> Self {
        Self(Vec::new())
    }

    /// Attaches `value`, in place of any other of its type.
    pub fn insert<T: Any + Send + Sync>(&mut self, value: T) {
        let id = TypeId::of::<T>();
        self.0.retain(|(held, _)| *held != id);
        self.0.push((id, Arc::new(value)));
    }

    /// The value of type `T`, if one is attached.
    #[must_use]
    pub fn get<T: Any + Send + Sync>(&self) -> Option<&T> {
        let id = TypeId::of::<T>();
        self.0
            .iter()
            .find(|(held, _)| *held == id)
            .and_then(|(_, value)| value.downcast_ref())
    }
}

impl fmt::Debug for Extensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The values may hold anything a user wants kept out of logs.
        f.debug_struct("Extensions")
            .field("len", &self.0.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_per_type() {
        let mut extensions = Extensions::default();
        extensions.insert(1_u32);
        extensions.insert("tenant");
        extensions.insert(2_u32);
        assert_eq!(
            (
                extensions.get::<u32>(),
                extensions.get::<&str>(),
                extensions.get::<u8>()
            ),
            (Some(&2), Some(&"tenant"), None)
        );
    }
}
