//! Somebody else's service below ours.
//!
//! Owns [`Foreign`], through which each layer of this crate holds what it was put around. Promises: the inner service's readiness is
//! driven inside the call, and so inside its deadline; nothing is reserved before a call is made, and a call that ends, however it
//! ends, gives up what it had reserved. Costs a clone of the inner service per call. Fails with what the inner service fails with, and where
//! the deadline passes says whether the inner service had been called.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::Service;

use super::{Gate, timeout::Expire};
use crate::{Error, ErrorKind, Phase, Reply, Request, deadline::Deadline, error::Executed};

/// A service of any kind, held the way the layers of this crate need it: always ready, its own readiness awaited by each call.
///
/// # Readiness
/// Always ready. A clone inherits nothing.
///
/// # Errors
/// Those of the inner service, as ours; `Timeout`, phase `queue`, where its readiness took the whole deadline of a layer above, phase `reply` where its
/// answer did.
///
/// # Cancel safety
/// A call that is dropped before the inner service was ready leaves nothing; later it is as cancel safe as that.
///
/// ```
/// use redis_holdfast::{Error, Reply, Request, layer::{Foreign, Timeout, TimeoutLayer}, redis::{self, Value}};
/// use std::time::Duration;
/// use tower::{Layer, Service, limit::ConcurrencyLimit, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = service_fn(|_: Request| async { Ok::<_, Error>(Reply::from(Value::Okay)) });
/// // Never ready: a layer of `tower`'s that would wait for ever is bounded too.
/// let never = ConcurrencyLimit::new(server, 0);
/// let mut service: Timeout<Foreign<_>> = TimeoutLayer::new(Duration::from_millis(10)).layer(never);
/// let late = service.call(Request::from(&redis::cmd("PING"))).await.unwrap_err();
/// assert!(late.is_timeout() && !late.may_have_executed());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Foreign<S>(S);

impl<S> Foreign<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self(inner)
    }
}

/// Nothing is known of it before it is called.
impl<S> Gate for Foreign<S> {}

impl<S> Service<Request> for Foreign<S>
where
    S: Service<Request, Response = Reply> + Clone,
    S::Error: Into<Error>,
{
    type Response = Reply;
    type Error = Error;
    type Future = ForeignFuture<S>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // A readiness that is asked for and not used would be kept by an idle clone.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> ForeignFuture<S> {
        ForeignFuture {
            deadline: request.deadline(),
            stage: Stage::Waiting {
                service: self.0.clone(),
                request: Some(request),
            },
        }
    }
}

pin_project! {
    /// A call that waits for its service to be ready, then for its answer. Errors and cancel safety are those of [`Foreign`].
    ///
    /// ```
    /// # use redis_holdfast::{Error, Reply, Request, layer::{ForeignFuture, LimitFuture, LimitLayer}, redis::{self, Value}};
    /// # use tower::{Layer, Service, service_fn};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = service_fn(|_: Request| async { Ok::<_, Error>(Reply::from(Value::Okay)) });
    /// # let mut service = LimitLayer::new(1).layer(server);
    /// // Every layer that was put around a service by hand has one inside.
    /// let call: LimitFuture<ForeignFuture<_>> = service.call(Request::from(&redis::cmd("PING")));
    /// call.await?;
    /// # Ok(()) }
    /// ```
    pub struct ForeignFuture<S>
    where
        S: Service<Request>,
    {
        deadline: Option<Deadline>,
        #[pin]
        stage: Stage<S>,
    }
}

pin_project! {
    #[project = Staged]
    enum Stage<S>
    where
        S: Service<Request>,
    {
        Waiting {
            service: S,
            request: Option<Request>,
        },
        Called {
            #[pin]
            future: S::Future,
        },
        Over,
    }
}

impl<S> Future for ForeignFuture<S>
where
    S: Service<Request, Response = Reply>,
    S::Error: Into<Error>,
{
    type Output = Result<Reply, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let this = self.as_mut().project();
            let mut stage = this.stage;
            let result = match stage.as_mut().project() {
                Staged::Waiting { service, request } => match ready!(service.poll_ready(cx)) {
                    Ok(()) => {
                        // Polled late, for the first time or since its service is ready: not a byte of it may leave.
                        if this.deadline.is_some_and(|due| due.is_past(Instant::now())) {
                            return Poll::Ready(Err(self.expire()));
                        }
                        let Some(request) = request.take() else {
                            return Poll::Pending;
                        };
                        let future = service.call(request);
                        stage.set(Stage::Called { future });
                        continue;
                    }
                    Err(error) => Err(error.into()),
                },
                Staged::Called { future } => ready!(future.poll(cx)).map_err(Into::into),
                Staged::Over => return Poll::Pending,
            };
            stage.set(Stage::Over);
            return Poll::Ready(result);
        }
    }
}

impl<S: Service<Request>> Expire for ForeignFuture<S> {
    fn expire(self: Pin<&mut Self>) -> Error {
        let mut this = self.project();
        let (phase, executed, detail) = match this.stage.as_mut().project() {
            Staged::Waiting { .. } => (
                Phase::Queue,
                Executed::Never,
                "inner service was not ready within the deadline",
            ),
            Staged::Called { .. } | Staged::Over => (
                Phase::Reply,
                Executed::Maybe,
                "no reply within the deadline",
            ),
        };
        this.stage.set(Stage::Over);
        let now = Instant::now();
        let waited = this.deadline.map(|deadline| deadline.waited(now));
        Error::new(ErrorKind::Timeout, phase, detail)
            .executed(executed)
            .after(waited.unwrap_or_default())
    }
}

impl<S: Service<Request>> fmt::Debug for ForeignFuture<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForeignFuture")
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}
