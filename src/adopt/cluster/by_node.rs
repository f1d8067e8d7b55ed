//! Each call under the circuit of the node that it concerns.
//!
//! Owns [`ByNode`], which stands where a guard's breaker stands. Promises: an outcome counts for its node alone; what concerns several nodes
//! is refused while one of them is away, counts for all when it is served, and has each asked when it is not; what goes to no certain node
//! passes. Leaves the map and the circuits to
//! [`nodes`](super::nodes), time and caps to the layers above. Fails with `CircuitOpen`, and as the connection does.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use tower::Service;

use super::nodes::{Concerned, Nodes};
use crate::{
    ConnectionFuture, ConnectionService, Error, Reply, Request,
    layer::{BreakerFuture, Foreign, ForeignFuture, Gate, Under},
};

/// The connection of a cluster, and the circuits of its nodes.
#[derive(Clone, Debug)]
pub(super) struct ByNode {
    inner: Foreign<Current>,
    nodes: Arc<Nodes>,
}

impl ByNode {
    pub(super) fn new(nodes: Arc<Nodes>) -> Self {
        Self {
            inner: Foreign::new(Current(nodes.clone())),
            nodes,
        }
    }
}

/// The connection that they have at the time of the call.
#[derive(Clone, Debug)]
pub(super) struct Current(Arc<Nodes>);

impl Service<Request> for Current {
    type Response = Reply;
    type Error = Error;
    type Future = ConnectionFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> ConnectionFuture {
        ConnectionService::new(self.0.connection()).call(request)
    }
}

impl Gate for ByNode {
    fn refuses(&self, request: &Request) -> bool {
        self.nodes.refusal(request).is_some()
    }
}

impl Service<Request> for ByNode {
    type Response = Reply;
    type Error = Error;
    type Future = BreakerFuture<ForeignFuture<Current>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        self.nodes.keep_reading();
        let concerned = match self.nodes.concerned(&request) {
            Ok(concerned) => concerned,
            Err(refusal) => return BreakerFuture::refused(refusal),
        };
        let under = match &concerned {
            Concerned::Nobody => Under::Nothing,
            Concerned::One(circuit) => Under::Node(circuit),
            Concerned::Several(circuits) => Under::Nodes(circuits),
        };
        BreakerFuture::of(under, &mut self.inner, request)
    }
}
