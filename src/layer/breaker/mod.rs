//! The circuit breaker: refuses calls to an endpoint that is known to be away.
//!
//! Owns the decision *whether* calls may pass: [`machine`] and its [`window`], both pure. Promises: user calls are never the guinea pig;
//! only a verified connection closes the circuit. Leaves verifying to `channel`.

pub(crate) mod machine;
pub(crate) mod window;
