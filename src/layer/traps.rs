//! The traps that layers of other crates fall into, one test each: first that the trap is there, then that ours stays out of it.
//!
//! Those of budgets and windows are beside their machines: `retry/budget` (a share of 60 % is 60 %), `breaker/window` (it slides).

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    task::Waker,
};

use redis::Value;
use tokio::time::{Instant, sleep, timeout};
use tower::{ServiceBuilder, ServiceExt, service_fn};

use super::{tests::rich, *};
use crate::{
    BreakerPolicy, Client, ConnectionService, ErrorKind, Phase, RetryPolicy, error::Executed,
};

const MS: Duration = Duration::from_millis(1);

fn get() -> Request {
    Request::from(redis::cmd("GET").arg("k"))
}

fn lost() -> Error {
    Error::new(ErrorKind::ConnectionLost, Phase::Reply, "gone").executed(Executed::Maybe)
}

/// Answers, or hangs while `silent`.
fn server(
    silent: &Arc<AtomicBool>,
) -> impl Service<Request, Response = Reply, Error = Error, Future: Send> + Clone + Send + 'static {
    let silent = silent.clone();
    service_fn(move |_: Request| {
        let silent = silent.clone();
        async move {
            if silent.load(Relaxed) {
                std::future::pending::<()>().await;
            }
            Ok(Reply::from(Value::Okay))
        }
    })
}

fn poll_ready<S: Service<Request>>(service: &mut S) -> Poll<Result<(), S::Error>> {
    service.poll_ready(&mut Context::from_waker(Waker::noop()))
}

/// One call runs, another handle is asked whether it is ready and left alone, the call ends: is the third one served?
async fn third_is_served<S>(service: S, silent: &AtomicBool) -> bool
where
    S: Service<Request, Response = Reply, Future: Send> + Clone,
{
    silent.store(true, Relaxed);
    let mut running = Box::pin(service.clone().oneshot(get()));
    assert!(timeout(MS, &mut running).await.is_err());
    let mut idle = service.clone();
    assert!(matches!(poll_ready(&mut idle), Poll::Ready(Ok(()))));
    silent.store(false, Relaxed);
    drop(running);
    service.oneshot(get()).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn an_idle_handle_of_a_load_shed_limit_strands_a_permit_and_one_of_ours_holds_nothing() {
    let silent = Arc::<AtomicBool>::default();
    let shed = ServiceBuilder::new().load_shed().concurrency_limit(1);
    let shed = shed.service(server(&silent));
    assert!(!third_is_served(shed.clone(), &silent).await, "the trap");
    let ours = LimitLayer::new(1).layer(server(&silent));
    assert!(third_is_served(ours, &silent).await);
    // And what strands permits strands none below ours, where each call has a handle of its own.
    let above = TimeoutLayer::new(100 * MS).layer(shed);
    assert!(third_is_served(above, &silent).await);
}

/// Never ready, and never called.
#[derive(Clone)]
struct NeverReady;

impl Service<Request> for NeverReady {
    type Response = Reply;
    type Error = Error;
    type Future = std::future::Ready<Result<Reply, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Pending
    }

    fn call(&mut self, _: Request) -> Self::Future {
        panic!("it was not ready")
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_never_ready_hangs_under_towers_timeout_and_ends_in_time_under_ours() {
    let towers = tower::timeout::Timeout::new(NeverReady, 20 * MS);
    let hangs = timeout(3_600_000 * MS, towers.oneshot(get())).await;
    assert!(hangs.is_err(), "the trap");
    let guard = GuardLayer::builder().call_timeout(20 * MS).build();
    let guarded = guard.expect("legal").layer(NeverReady);
    let began = Instant::now();
    for error in [
        TimeoutLayer::new(20 * MS)
            .layer(NeverReady)
            .oneshot(get())
            .await,
        guarded.oneshot(get()).await,
    ]
    .map(|result| result.expect_err("never ready"))
    {
        assert!(error.is_timeout() && error.phase() == Phase::Queue);
        assert!(!error.may_have_executed(), "{error:?}");
    }
    assert!(began.elapsed() <= 42 * MS, "{:?}", began.elapsed());
}

/// Wants each of its handles to be asked before it is called; its calls fail while `down`.
#[derive(Default)]
struct Strict {
    is_ready: bool,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    down: AtomicBool,
    calls: AtomicU64,
    probes: AtomicU64,
    unasked: AtomicU64,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        let seen = self.seen.clone();
        // A clone inherits no readiness: the slip that `tower` warns of.
        let is_ready = false;
        Self { is_ready, seen }
    }
}

impl Service<Request> for Strict {
    type Response = Reply;
    type Error = Error;
    type Future = std::future::Ready<Result<Reply, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let seen = &self.seen;
        seen.unasked.fetch_add(u64::from(!self.is_ready), Relaxed);
        self.is_ready = false;
        let is_probe = request.command() == "PING";
        let count = if is_probe { &seen.probes } else { &seen.calls };
        count.fetch_add(1, Relaxed);
        std::future::ready(if seen.down.load(Relaxed) {
            Err(lost())
        } else {
            Ok(Reply::from(Value::Okay))
        })
    }
}

fn eager() -> GuardBuilder {
    GuardLayer::builder().retry(rich())
}

#[tokio::test(start_paused = true)]
async fn calls_retries_and_probes_each_use_a_handle_that_was_ready() {
    let strict = Strict::default();
    let seen = strict.seen.clone();
    let guard = eager().build().expect("legal").layer(strict);
    assert!(guard.clone().oneshot(get()).await.is_ok());
    seen.down.store(true, Relaxed);
    while guard.circuit().state() == CircuitState::Closed {
        assert!(guard.clone().oneshot(get()).await.is_err());
    }
    sleep(1_000 * MS).await;
    seen.down.store(false, Relaxed);
    sleep(1_000 * MS).await;
    assert!(guard.oneshot(get()).await.is_ok());
    assert!(seen.probes.load(Relaxed) > 0, "it was probed");
    assert_eq!(seen.unasked.load(Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn the_circuit_hears_of_each_attempt_and_no_retry_follows_its_refusal() {
    let strict = Strict::default();
    let seen = strict.seen.clone();
    let guard = eager().build().expect("legal").layer(strict);
    seen.down.store(true, Relaxed);
    // Three attempts, then two that make it five in a row; the sixth is refused, and that ends the call.
    let first = guard.clone().oneshot(get()).await.expect_err("down");
    assert_eq!(
        (first.kind(), seen.calls.load(Relaxed)),
        (ErrorKind::ConnectionLost, 3)
    );
    let second = guard.clone().oneshot(get()).await.expect_err("down");
    assert_eq!(seen.calls.load(Relaxed), 5);
    assert_eq!(guard.circuit().state(), CircuitState::Open);
    assert!(second.may_have_executed(), "its first attempts may have");
    let third = guard.oneshot(get()).await.expect_err("refused");
    assert!(third.is_circuit_open() && !third.may_have_executed());
    assert_eq!(seen.calls.load(Relaxed), 5);
}

/// H8: a timeout that drops what is below it sooner than a slow server would answer hides every failure from a circuit.
#[tokio::test(start_paused = true)]
async fn calls_cut_short_by_a_short_deadline_open_the_circuit_and_are_no_early_drops() {
    let silent = Arc::new(AtomicBool::new(true));
    let guard = |limit: Duration| {
        let guard = GuardLayer::builder().call_timeout(limit);
        guard.build().expect("legal").layer(server(&silent))
    };
    // Our own deadline, shorter than any patience, tells.
    let told = guard(40 * MS);
    // A stranger's timeout above it only drops; it took more than four fifths of what the call had.
    let dropped = guard(100 * MS);
    // One that comes sooner is a caller who changed his mind.
    let impatient = guard(500 * MS);
    for _ in 0..5 {
        assert!(told.clone().oneshot(get()).await.is_err());
        let cut = timeout(90 * MS, dropped.clone().oneshot(get())).await;
        assert!(!matches!(cut, Ok(Ok(_))), "dropped, and refused at last");
        let cut = timeout(90 * MS, impatient.clone().oneshot(get())).await;
        assert!(cut.is_err(), "dropped");
    }
    let states = [&told, &dropped, &impatient].map(|guard| guard.circuit().state());
    assert_eq!(
        states,
        [CircuitState::Open, CircuitState::Open, CircuitState::Closed]
    );
}

/// Polls once; says whether the call has ended, or that it panicked.
fn caught<F: Future>(call: &mut Pin<Box<F>>) -> std::thread::Result<bool> {
    let mut context = Context::from_waker(Waker::noop());
    catch_unwind(AssertUnwindSafe(|| {
        call.as_mut().poll(&mut context).is_ready()
    }))
}

#[tokio::test(start_paused = true)]
async fn a_panic_below_gives_back_what_the_call_held() {
    let panics = service_fn(|_: Request| async {
        tokio::task::yield_now().await;
        panic!("below");
        #[expect(unreachable_code, reason = "it names the type")]
        Ok::<Reply, Error>(Reply::from(Value::Nil))
    });
    let guard = GuardLayer::builder().max_in_flight(4).name("panics");
    let guard = guard.build().expect("legal").layer(panics);
    for _ in 0..100 {
        let mut call = Box::pin(guard.clone().call(get()));
        assert!(matches!(caught(&mut call), Ok(false)));
        assert!(caught(&mut call).is_err());
        drop(call);
    }
    let state = format!("{guard:?}");
    assert!(
        state.contains("in_flight: 0") && state.contains("in_ramp: 0"),
        "{state}"
    );
}

/// H18: a method of our own named `ready` would be called in place of `tower`'s. Each of these is `tower`'s, by its type.
#[tokio::test(start_paused = true)]
async fn no_service_of_ours_hides_the_ready_of_tower() {
    macro_rules! is_towers {
        ($($service:expr),* $(,)?) => {$({
            let mut service = $service;
            let ready = pin!(service.ready());
            let ready: Result<&mut _, Error> = ready.await;
            let called = ready.expect("always ready").call(get());
            drop(called);
        })*};
    }
    let strict = Strict::default;
    let client = Client::builder("redis://127.0.0.1:1").and_then(|client| client.build());
    let client = client.expect("legal");
    is_towers!(
        TelemetryLayer::new("ready").layer(strict()),
        FallbackLayer::new(cache_miss).layer(strict()),
        TimeoutLayer::new(MS).layer(strict()),
        LimitLayer::new(1).layer(strict()),
        RetryLayer::new(RetryPolicy::default())
            .expect("legal")
            .layer(strict()),
        BreakerLayer::new(BreakerPolicy::default(), Probe::ping())
            .expect("legal")
            .layer(strict()),
        GuardLayer::builder()
            .build()
            .expect("legal")
            .layer(strict()),
        BudgetLayer::new(MS).layer(strict()),
        ConnectionService::new(client.clone()),
        client.service(),
    );
    // A client waits under another name, and what is no service has no `ready` to hide.
    assert!(
        client
            .wait_ready(MS)
            .await
            .is_err_and(|error| error.is_timeout())
    );
}
