//! The link.
pub(crate) mod codec;
