//! The layers together, over a service that does as it is told, under a paused clock; and the traps that other stacks fall into.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::Waker,
};

use redis::Value;
use tokio::time::{Instant, sleep};
use tower::{
    ServiceBuilder, ServiceExt, limit::ConcurrencyLimitLayer, load_shed::LoadShedLayer, service_fn,
    util::BoxCloneSyncService,
};

use super::*;
use crate::{ErrorKind, Phase, Replay, RetryPolicy, error::Executed};

type Under = BoxCloneSyncService<Request, Reply, Error>;

const MS: Duration = Duration::from_millis(1);

/// What the service below does, and what it has seen.
#[derive(Clone, Default)]
struct Server {
    silent: Arc<AtomicBool>,
    lost: Arc<AtomicBool>,
    refuses: Arc<AtomicBool>,
    never_sent: Arc<AtomicBool>,
    attempts: Arc<AtomicU64>,
}

impl Server {
    fn service(&self) -> Under {
        let server = self.clone();
        BoxCloneSyncService::new(service_fn(move |request: Request| {
            let server = server.clone();
            async move {
                if request.command() != "PING" {
                    server.attempts.fetch_add(1, Relaxed);
                }
                if server.silent.load(Relaxed) {
                    std::future::pending::<()>().await;
                }
                if server.refuses.load(Relaxed) {
                    let loading = redis::parse_redis_value(b"-LOADING soon\r\n");
                    return Ok(Reply::from(loading.expect("a reply")));
                }
                if server.lost.load(Relaxed) {
                    let lost = Error::new(ErrorKind::ConnectionLost, Phase::Reply, "gone");
                    let maybe = !server.never_sent.load(Relaxed);
                    return Err(lost.executed(if maybe {
                        Executed::Maybe
                    } else {
                        Executed::Never
                    }));
                }
                Ok(Reply::from(Value::Okay))
            }
        }))
    }

    fn attempts(&self) -> u64 {
        self.attempts.swap(0, Relaxed)
    }
}

fn get() -> Request {
    Request::from(redis::cmd("GET").arg("k"))
}

fn set() -> Request {
    Request::from(redis::cmd("SET").arg("k").arg("v"))
}

/// No breaker in the way: what is said of retries alone.
fn patient() -> GuardBuilder {
    let breaker = crate::BreakerPolicy::default()
        .min_calls(1_000_000)
        .consecutive_failures(1_000);
    GuardLayer::builder()
        .breaker(breaker)
        .call_timeout(200 * MS)
}

/// Every retry is paid for: the floor is one in 10 ms.
pub(super) fn rich() -> RetryPolicy {
    RetryPolicy::default()
        .floor_per_second(100)
        .backoff(11 * MS, 12 * MS)
}

#[tokio::test(start_paused = true)]
async fn what_may_have_run_goes_again_by_effect_and_by_tag_and_by_no_other_reason() {
    let server = Server::default();
    let script = || Request::from(redis::cmd("EVAL").arg("x").arg(0));
    server.lost.store(true, Relaxed);
    for (request, sent, never_sent) in [
        (get(), 3, 3),
        (get().with_replay(Replay::Never), 1, 3),
        (set(), 1, 3),
        (set().with_replay(Replay::Overwrite), 3, 3),
        (Request::from(redis::cmd("INCR").arg("k")), 1, 3),
        (
            Request::from(redis::cmd("INCR").arg("k")).with_replay(Replay::Overwrite),
            1,
            3,
        ),
        (script(), 1, 3),
        (script().with_replay(Replay::Overwrite), 3, 3),
    ] {
        for (is_unsent, attempts) in [(false, sent), (true, never_sent)] {
            server.never_sent.store(is_unsent, Relaxed);
            let guard = patient().retry(rich()).build().expect("legal");
            let service = guard.layer(server.service());
            let result = service.oneshot(request.clone()).await;
            let error = result.expect_err("lost");
            assert_eq!(
                server.attempts(),
                attempts,
                "{request:?} unsent {is_unsent}"
            );
            assert_eq!(error.may_have_executed(), !is_unsent);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_as_a_whole_goes_again_whatever_the_command() {
    let server = Server::default();
    server.refuses.store(true, Relaxed);
    let guard = patient().retry(rich()).build().expect("legal");
    let reply = guard.layer(server.service()).oneshot(set()).await;
    assert_eq!(server.attempts(), 3);
    let error = reply
        .expect("an answer")
        .parse::<()>()
        .expect_err("LOADING");
    assert_eq!(error.kind(), ErrorKind::Redis);
}

#[tokio::test(start_paused = true)]
async fn at_total_failure_retries_are_less_than_a_tenth() {
    let server = Server::default();
    let service = patient().build().expect("legal").layer(server.service());
    for _ in 0..1_000 {
        assert!(service.clone().oneshot(get()).await.is_ok());
    }
    server.attempts();
    server.lost.store(true, Relaxed);
    let (began, mut calls) = (Instant::now(), 0);
    while began.elapsed() < 10_000 * MS {
        let _ = service.clone().oneshot(get()).await;
        calls += 1;
        sleep(10 * MS).await;
    }
    let attempts = server.attempts();
    assert!(attempts > calls, "some were retried");
    assert!(
        attempts * 100 <= calls * 110,
        "{attempts} for {calls} calls"
    );
}

#[tokio::test(start_paused = true)]
async fn no_call_outlives_its_deadline_and_no_retry_follows_a_refusal() {
    let server = Server::default();
    let service = GuardLayer::builder()
        .call_timeout(200 * MS)
        .build()
        .expect("legal")
        .layer(server.service());
    server.silent.store(true, Relaxed);
    let mut waited_out = 0;
    loop {
        let began = Instant::now();
        let error = service.clone().oneshot(get()).await.expect_err("silent");
        assert!(began.elapsed() <= 201 * MS);
        if error.is_circuit_open() {
            assert_eq!(began.elapsed(), Duration::ZERO);
            break;
        }
        assert!(error.is_timeout() && error.may_have_executed());
        assert_eq!(error.phase(), Phase::Reply);
        waited_out += 1;
    }
    // The second began while the probe was asked whether anybody is there.
    assert_eq!((waited_out, server.attempts()), (2, 2));
}

/// `tower::Timeout` starts its clock after `poll_ready`; `LoadShed<ConcurrencyLimit>` and reserving clones strand permits.
#[tokio::test(start_paused = true)]
async fn a_foreign_services_readiness_is_inside_the_deadline_and_idle_clones_hold_nothing() {
    let server = Server::default();
    let narrow = ConcurrencyLimitLayer::new(1).layer(server.service());
    let service = TimeoutLayer::new(100 * MS).layer(narrow);
    server.silent.store(true, Relaxed);
    let held = tokio::time::timeout(50 * MS, service.clone().oneshot(get()));
    let waiting = async {
        sleep(MS).await;
        service.clone().oneshot(get().with_timeout(20 * MS)).await
    };
    let (_, waited) = tokio::join!(held, waiting);
    let error = waited.expect_err("not ready");
    assert!(error.is_timeout() && error.phase() == Phase::Queue && !error.may_have_executed());
    server.silent.store(false, Relaxed);
    // Ready by contract, and never called.
    let mut idle: Vec<_> = (0..100).map(|_| service.clone()).collect();
    for clone in &mut idle {
        let ready = clone.poll_ready(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(ready, Poll::Ready(Ok(()))));
    }
    assert!(service.clone().oneshot(get()).await.is_ok());
    drop(idle);
    // The other way round: load shed above us never sheds, for we are always ready.
    let shed = LoadShedLayer::new().layer(LimitLayer::new(0).layer(server.service()));
    let error = shed
        .oneshot(get())
        .await
        .map_err(Error::from)
        .expect_err("full");
    assert!(error.is_overloaded());
    assert_eq!(
        error.detail(),
        "as many calls as max_in_flight allows are in flight"
    );
}

#[tokio::test(start_paused = true)]
async fn a_deadline_below_another_counts_from_its_own_call() {
    let slow = service_fn(|_: Request| async {
        sleep(60 * MS).await;
        Ok::<_, Error>(Reply::from(Value::Okay))
    });
    let attempt = TimeoutLayer::new(100 * MS).layer(slow);
    let late = service_fn(move |request: Request| {
        let attempt = attempt.clone();
        async move {
            sleep(60 * MS).await;
            attempt.oneshot(request).await
        }
    });
    let whole = |timeout| {
        TelemetryLayer::new("below").layer(TimeoutLayer::new(timeout).layer(late.clone()))
    };
    assert!(whole(1_000 * MS).oneshot(get()).await.is_ok());
    assert!(
        whole(110 * MS)
            .oneshot(get())
            .await
            .is_err_and(|error| error.is_timeout())
    );
}

#[tokio::test(start_paused = true)]
async fn by_hand_with_a_foreign_layer_on_every_side() {
    let server = Server::default();
    let build = || {
        ServiceBuilder::new()
            .layer(TelemetryLayer::new("by-hand"))
            .layer(FallbackLayer::new(cache_miss))
            .concurrency_limit(10)
            .layer(TimeoutLayer::new(100 * MS))
            .layer(LimitLayer::new(10))
            .layer(RetryLayer::new(RetryPolicy::default()).expect("legal"))
            .map_request(|request: Request| request)
            .layer(
                BreakerLayer::new(crate::BreakerPolicy::default(), Probe::ping()).expect("legal"),
            )
            .timeout(80 * MS)
            .service(server.service())
    };
    let service = build();
    let reply = service.clone().oneshot(set()).await.expect("served");
    assert_eq!(reply.into_value(), Value::Okay);
    server.silent.store(true, Relaxed);
    for _ in 0..20 {
        let reply = service.clone().oneshot(get()).await.expect("a miss");
        assert_eq!(reply.into_value(), Value::Nil);
    }
    let error = service.clone().oneshot(set()).await.expect_err("a write");
    assert!(error.is_circuit_open(), "{error:?}");
    server.silent.store(false, Relaxed);
    sleep(1_000 * MS).await;
    assert!(service.oneshot(set()).await.is_ok());
}

/// A service that is well and ill by turns, and takes its time.
#[derive(Clone, Default)]
struct Moody {
    ill: Arc<AtomicBool>,
    /// Probes that were asked, and those that are under way.
    asked: Arc<AtomicU64>,
    probing: Arc<AtomicU64>,
}

/// A probe, whatever ends it.
struct Probing(Arc<AtomicU64>);

impl Drop for Probing {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Moody {
    fn service(&self) -> Under {
        let moody = self.clone();
        BoxCloneSyncService::new(service_fn(move |request: Request| {
            let moody = moody.clone();
            async move {
                let _probing = (request.command() == "PING").then(|| {
                    moody.asked.fetch_add(1, Relaxed);
                    moody.probing.fetch_add(1, Relaxed);
                    Probing(moody.probing.clone())
                });
                for _ in 0..fastrand::u32(0..6) {
                    tokio::task::yield_now().await;
                }
                let luck = fastrand::u32(0..6);
                if luck == 0 {
                    std::future::pending::<()>().await;
                }
                if luck < 5 && moody.ill.load(Relaxed) {
                    return Err(Error::new(ErrorKind::ConnectionLost, Phase::Reply, "gone"));
                }
                Ok(Reply::from(Value::Okay))
            }
        }))
    }
}

/// What was seen of the circuit that a storm of calls is under.
#[derive(Debug, Default)]
struct Seen {
    opened: u64,
    closed: u64,
    /// How often calls held places of a growing admission, and how many it had no place for.
    in_ramp: u64,
    beyond_ramp: u64,
    probes_at_once: u64,
}

/// A million calls, dropped before their first poll, after it, or at some later one, while the circuit opens, is probed, closes, and lets
/// them in by and by: nothing is left behind.
#[tokio::test(start_paused = true)]
async fn dropped_calls_leave_nothing_behind() {
    let drops = if std::env::var_os("HOLDFAST_FULL").is_some() {
        1_000_000
    } else {
        50_000
    };
    let server = Moody::default();
    let guard = GuardLayer::builder().call_timeout(200 * MS).retry(rich());
    let guard = guard.max_in_flight(8).name("drops").build();
    let service = guard.expect("legal").layer(server.service());
    let circuit = service.circuit().clone();
    let mut seen = Seen::default();
    let mut state = CircuitState::Closed;
    let mut held = std::collections::VecDeque::new();
    for nth in 0..drops {
        if fastrand::u32(0..200) == 0 {
            server.ill.fetch_xor(true, Relaxed);
        }
        // Time passes, and with it probes; more of it while nothing else happens.
        let pause = if state == CircuitState::Open { 10 } else { 100 };
        if fastrand::u32(0..pause) == 0 {
            sleep(fastrand::u32(0..60) * MS).await;
            seen.probes_at_once = seen.probes_at_once.max(server.probing.load(Relaxed));
        }
        match circuit.state() {
            now if now == state => {}
            CircuitState::Open => seen.opened += 1,
            _ => seen.closed += 1,
        }
        state = circuit.state();
        let mut call = Box::pin(service.clone().call(get()));
        for _ in 0..fastrand::u32(0..8) {
            let polled = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            if let Poll::Ready(result) = polled {
                let is_refused = result.is_err_and(|error| error.is_circuit_open());
                let is_closed = circuit.state() == CircuitState::Closed;
                seen.beyond_ramp += u64::from(is_refused && is_closed);
                break;
            }
        }
        held.push_back(call);
        if held.len() > fastrand::usize(0..16) {
            held.remove(fastrand::usize(0..held.len()));
        }
        // Words cost more than the call.
        let is_asked = nth % 16 == 0;
        seen.in_ramp += u64::from(is_asked && !format!("{circuit:?}").contains("in_ramp: 0"));
    }
    drop(held);
    let state = format!("{service:?}");
    assert!(state.contains("in_flight: 0"), "{state}");
    assert!(state.contains("in_ramp: 0"), "{state}");
    assert_eq!(timeout::watched(), 0, "deadlines of calls that are gone");

    // One in 800 or so; where the storm was a calm, nothing is proven.
    println!("FIGURE guard, {drops} calls dropped at random poll counts: {seen:?}");
    let least = drops / 5_000;
    assert!(seen.opened.min(seen.closed) >= least, "{seen:?}");
    assert!(seen.in_ramp.min(seen.beyond_ramp) >= least, "{seen:?}");
    // The prober's, and one that is asked while the circuit is closed.
    assert!((1..=2).contains(&seen.probes_at_once), "{seen:?}");

    // The last of them may have opened it yet. It rests 3 s at most, and five of six probes are answered.
    server.ill.store(false, Relaxed);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(circuit.state(), CircuitState::Closed);
    assert_eq!(server.probing.load(Relaxed), 0, "probes under way");
    let asked = server.asked.load(Relaxed);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(server.asked.load(Relaxed), asked, "none while closed");
    let mut calls: Vec<_> = (0..9)
        .map(|_| Box::pin(service.clone().call(get().with_timeout(1_000 * MS))))
        .collect();
    let refused = calls.iter_mut().filter_map(|call| {
        match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Err(error)) if error.is_overloaded() => Some(()),
            _ => None,
        }
    });
    assert_eq!(refused.count(), 1, "eight places, all free");
}

/// A layer by hand goes through no gate: what would refuse all does so, at once and by name.
#[tokio::test(start_paused = true)]
async fn zero_is_taken_as_it_is_and_serves_nobody() {
    let server = Server::default();
    let began = Instant::now();
    let no_time = TimeoutLayer::new(Duration::ZERO).layer(server.service());
    let error = no_time.oneshot(get()).await.expect_err("late");
    assert!(error.is_timeout() && error.phase() == Phase::Queue);
    let no_place = LimitLayer::new(0).layer(server.service());
    let error = no_place.oneshot(get()).await.expect_err("full");
    assert!(error.is_overloaded() && !error.may_have_executed());
    let redis = patient().build().expect("legal").layer(server.service());
    let api = service_fn(move |()| redis.clone().oneshot(get()));
    let no_budget = BudgetLayer::new(Duration::ZERO).layer(api);
    let error = no_budget.oneshot(()).await.expect_err("late");
    assert!(error.is_timeout() && !error.may_have_executed());
    assert_eq!((began.elapsed(), server.attempts()), (Duration::ZERO, 0));
}

#[tokio::test(start_paused = true)]
async fn a_scope_bounds_a_guarded_call() {
    let server = Server::default();
    server.silent.store(true, Relaxed);
    let service = patient().build().expect("legal").layer(server.service());
    let began = Instant::now();
    let call = crate::deadline::scope(began + 30 * MS, async {
        service.oneshot(get()).await.expect_err("silent")
    });
    assert!(call.await.is_timeout());
    assert!(began.elapsed() <= 31 * MS, "{:?}", began.elapsed());
}

#[test]
fn contradictory_policies_are_refused_with_their_reasons() {
    let retry = RetryPolicy::default().backoff(2 * MS, MS);
    let breaker = crate::BreakerPolicy::default().min_calls(0);
    let built = GuardLayer::builder()
        .retry(retry.clone())
        .breaker(breaker.clone());
    assert_eq!(built.build().expect_err("faults").faults().len(), 2);
    assert!(RetryLayer::new(retry).is_err());
    assert!(BreakerLayer::new(breaker, Probe::ping()).is_err());
}

/// A timeout below a retry is an attempt's own, whoever above has looked at the clock.
#[tokio::test(start_paused = true)]
async fn an_attempt_does_not_share_the_time_of_the_one_before() {
    let server = Server::default();
    let service = ServiceBuilder::new()
        .layer(TelemetryLayer::new("attempts"))
        .layer(RetryLayer::new(rich()).expect("legal"))
        .layer(TimeoutLayer::new(100 * MS))
        .service(server.service());
    server.silent.store(true, Relaxed);
    let (reply, ()) = tokio::join!(service.oneshot(get()), async {
        sleep(100 * MS).await;
        server.silent.store(false, Relaxed);
    });
    assert!(reply.is_ok(), "{reply:?}");
    assert_eq!(server.attempts(), 2);
}

/// And whoever's retry that is: what it keeps is a call that has not begun.
#[tokio::test(start_paused = true)]
async fn an_attempt_of_somebody_elses_retry_does_not_share_it_either() {
    let server = Server::default();
    let attempt = TimeoutLayer::new(100 * MS).layer(server.service());
    let retry = service_fn(move |request: Request| {
        let (attempt, kept) = (attempt.clone(), request.clone());
        async move {
            match attempt.clone().oneshot(request).await {
                Err(_) => attempt.oneshot(kept).await,
                served => served,
            }
        }
    });
    let service = TelemetryLayer::new("attempts-of-others").layer(retry);
    server.silent.store(true, Relaxed);
    let (reply, ()) = tokio::join!(service.oneshot(get()), async {
        sleep(100 * MS).await;
        server.silent.store(false, Relaxed);
    });
    assert!(reply.is_ok(), "{reply:?}");
    assert_eq!(server.attempts(), 2);
}

/// Whose error is `redis`' own is heard by every layer: the breaker counts it, and a fallback answers for it.
#[tokio::test(start_paused = true)]
async fn a_service_whose_error_is_redis_own_is_understood() {
    let attempts = Arc::new(AtomicU64::new(0));
    let seen = attempts.clone();
    let lost = service_fn(move |_: Request| {
        seen.fetch_add(1, Relaxed);
        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        std::future::ready(Err::<Reply, _>(redis::RedisError::from(reset)))
    });
    let guard = GuardLayer::builder().name("redis-own").retry(rich());
    let plain = guard.clone().build().expect("legal").layer(lost.clone());
    let error = plain.clone().oneshot(get()).await.expect_err("lost");
    assert_eq!(error.kind(), ErrorKind::ConnectionLost);
    assert!(error.may_have_executed());
    assert_eq!(attempts.load(Relaxed), 3, "a read is tried again");
    for _ in 0..5 {
        let _ = plain.clone().oneshot(set()).await;
    }
    assert_eq!(plain.circuit().state(), CircuitState::Open);
    let guard = guard.fallback(cache_miss);
    let reply = guard
        .build()
        .expect("legal")
        .layer(lost)
        .oneshot(get())
        .await;
    assert_eq!(reply.expect("a miss").into_value(), Value::Nil);
}

/// An error reply that a script makes is said after it did what it did.
#[tokio::test(start_paused = true)]
async fn a_script_that_refuses_has_run() {
    let server = Server::default();
    let guard = patient().retry(rich()).build().expect("legal");
    let service = guard.layer(server.service());
    let script = || Request::from(redis::cmd("EVAL").arg("x").arg(0));
    server.refuses.store(true, Relaxed);
    let reply = service.clone().oneshot(script()).await.expect("an answer");
    assert_eq!((reply.code(), server.attempts()), (Some("LOADING"), 1));
    // Where that is harmless by its sender's word it goes again, and what comes of that says no more than is known.
    let tagged = script().with_replay(Replay::Overwrite);
    let reply = service.clone().oneshot(tagged.clone()).await;
    assert_eq!((reply.is_ok(), server.attempts()), (true, 3));
    let lost = async {
        while server.attempts.load(Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        server.refuses.store(false, Relaxed);
        server.lost.store(true, Relaxed);
        server.never_sent.store(true, Relaxed);
    };
    let (result, ()) = tokio::join!(service.oneshot(tagged), lost);
    let error = result.expect_err("lost");
    assert!(error.may_have_executed(), "{error}");
    assert_eq!(server.attempts(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_that_nobody_outlives_is_one_like_others() {
    for timeout in [
        Duration::MAX,
        Duration::from_secs(u64::MAX / 3),
        Duration::from_secs(i64::MAX.unsigned_abs()),
    ] {
        let server = Server::default();
        let guard = patient().build().expect("legal");
        let service = guard.layer(server.service());
        let request = get().with_timeout(timeout);
        assert!(service.clone().oneshot(request.clone()).await.is_ok());
        server.silent.store(true, Relaxed);
        let given_up = tokio::time::timeout(100 * MS, service.oneshot(request));
        assert!(given_up.await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_first_polled_after_its_deadline_reaches_nobody() {
    let server = Server::default();
    let guard = patient().call_timeout(10 * MS).build().expect("legal");
    let call = guard.layer(server.service()).call(set());
    sleep(50 * MS).await;
    let error = call.await.expect_err("late");
    assert!(
        error.is_timeout() && !error.may_have_executed(),
        "{error:?}"
    );
    assert_eq!((error.phase(), server.attempts()), (Phase::Queue, 0));
}
