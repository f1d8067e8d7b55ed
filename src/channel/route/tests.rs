//! A read whose replica was no help, without any server: who pays for the next one, and what is counted.

use metrics::with_local_recorder;
use metrics_util::{
    CompositeKey,
    debugging::{DebugValue, DebuggingRecorder},
};
use tokio::time::Instant;

use super::*;
use crate::{
    Config,
    health::{Health, HealthState},
    net::link::LinkId,
    net::reach::connect::LinkConnector,
    telemetry::labels::Label as _,
    telemetry::{labels::Transition, names},
};

/// The route of a client whose supervisor never ran, for there is no runtime: no link, no replica.
fn route(name: &str, read_from: ReadFrom) -> Route<LinkConnector> {
    let config = Config::builder("redis://127.0.0.1:1");
    let config = Arc::new(config.name(name).build().expect("legal"));
    let channel = Channel::new(
        config.clone(),
        LinkConnector::new(),
        Sources::default(),
        Metrics::named(config.name()),
        Arc::new(HealthCell::starting(&config)),
    );
    Route::new(channel, read_from)
}

/// A read that a replica was asked for; `written`: the link that may have delivered it, and was lost.
fn asked(route: &Route<LinkConnector>, written: Option<LinkId>) -> Routed<LinkConnector> {
    let request = Request::from(redis::cmd("GET").arg("k"));
    let call = route.primary.clone().call(request.clone());
    let read = Read {
        route: route.clone(),
        read_from: route.read_from,
        tried: vec![Replica {
            host: "r".into(),
            port: 1,
        }],
        request,
    };
    Routed {
        stage: Stage::Asked(match written {
            Some(link) => call.lost_by(link),
            None => call,
        }),
        read: Some(Box::new(read)),
        maybe_run: false,
    }
}

fn lost() -> Result<Reply, Error> {
    let lost = Error::new(ErrorKind::ConnectionLost, Phase::Reply, "gone");
    Err(lost.executed(Executed::Maybe))
}

/// What a recorder hears of a client.
fn seen(metrics: Metrics) -> Vec<(CompositeKey, DebugValue)> {
    let recorder = DebuggingRecorder::new();
    with_local_recorder(&recorder, || metrics.refresh(Instant::now()));
    let seen = recorder.snapshotter().snapshot().into_vec();
    seen.into_iter()
        .map(|(key, .., value)| (key, value))
        .collect()
}

fn open_circuits(metrics: Metrics) -> f64 {
    let seen = seen(metrics);
    let found = seen
        .iter()
        .find(|(key, _)| key.key().name() == names::BREAKER_STATE);
    match found {
        Some((_, DebugValue::Gauge(level))) => level.into_inner(),
        other => panic!("{other:?}"),
    }
}

/// What was counted as sent again: reads, and what was not sent.
fn replays(route: &Route<LinkConnector>) -> [u64; 2] {
    let seen = seen(route.primary.shared.hub.metrics);
    [ReplayKind::Read, ReplayKind::NotSent].map(|kind| {
        let text = ReplayKind::TEXT[kind.index()];
        let found = seen.iter().find(|(key, _)| {
            let key = key.key();
            key.name() == names::REPLAYS && key.labels().any(|label| label.value() == text)
        });
        match found {
            Some((_, DebugValue::Counter(count))) => *count,
            other => panic!("{text}: {other:?}"),
        }
    })
}

#[test]
fn who_has_nobody_to_go_to_pays_nothing() {
    let route = route("route-alone", ReadFrom::Replica);
    let mut read = asked(&route, Some(LinkId::of(1)));
    let kept = read.read.take().expect("a read");
    let error = match read.go_on(kept, lost()) {
        Some(Err(error)) => error,
        other => panic!("went on: {other:?}"),
    };
    assert_eq!(error.kind(), ErrorKind::NoReplica);
    let last = std::error::Error::source(&error).map(ToString::to_string);
    assert!(last.is_some_and(|last| last.contains("gone")), "{error}");
    // The batch that follows a dead link for nothing is still there for the next one.
    let hub = &route.primary.shared.hub;
    assert!((0..10).all(|_| hub.pays(LinkId::of(2))));
}

#[test]
fn who_goes_on_pays() {
    let route = route("route-pays", ReadFrom::PreferReplica);
    let mut read = asked(&route, Some(LinkId::of(1)));
    let kept = read.read.take().expect("a read");
    assert!(read.go_on(kept, lost()).is_none(), "to the primary");
    assert!(read.maybe_run);
    assert_eq!(replays(&route), [1, 0]);
    let hub = &route.primary.shared.hub;
    assert!(!(0..10).all(|_| hub.pays(LinkId::of(2))));
}

#[test]
fn an_open_circuit_is_one_until_its_client_shuts_down_or_goes() {
    let (one, two) = (
        route("route-circuit", ReadFrom::Primary),
        route("route-circuit", ReadFrom::Primary),
    );
    let metrics = one.primary.shared.hub.metrics;
    for route in [&one, &two] {
        route.primary.shared.hub.set_breaker(Transition::Dead);
    }
    assert_eq!(open_circuits(metrics), 2.0);
    one.close();
    assert_eq!(open_circuits(metrics), 1.0);
    one.primary.shared.hub.set_breaker(Transition::Dead);
    assert_eq!(
        open_circuits(metrics),
        1.0,
        "none of a client that is closing"
    );
    drop(two);
    assert_eq!(open_circuits(metrics), 0.0);
}

#[test]
fn who_is_sealed_is_down_whatever_was_said_before() {
    let route = route("route-sealed", ReadFrom::Primary);
    let hub = &route.primary.shared.hub;
    hub.health
        .set(Health::new(HealthState::Ready, "serving", hub.endpoint()));
    route.abort();
    let health = hub.health.current();
    assert_eq!(
        (health.state(), health.reason()),
        (HealthState::Down, "client is shut down")
    );
}

#[test]
fn what_was_not_written_is_passed_on_and_refused_as_such() {
    let route = route("route-unwritten", ReadFrom::PreferReplica);
    let mut passed = asked(&route, None);
    assert!(passed.pass_on());
    assert_eq!(replays(&route), [0, 1], "passed on");
    let mut refused = asked(&route, None);
    let kept = refused.read.take().expect("a read");
    let loading = redis::parse_redis_value(b"-LOADING soon\r\n").expect("a reply");
    assert!(refused.go_on(kept, Ok(Reply::from(loading))).is_none());
    assert_eq!(replays(&route), [0, 2], "refused");
    for read in [passed, refused] {
        let Stage::Asked(call) = &read.stage else {
            panic!("refused")
        };
        assert!(!read.maybe_run);
        assert_eq!(call.moves(), 0, "it may still be sent twice");
    }
}

#[test]
fn what_may_have_run_somewhere_says_so_wherever_it_ends() {
    let route = route("route-truth", ReadFrom::PreferReplica);
    route.seal();
    let mut read = asked(&route, Some(LinkId::of(1)));
    assert!(read.pass_on());
    let waker = std::task::Waker::noop();
    let ended = Pin::new(&mut read).poll(&mut Context::from_waker(waker));
    let Poll::Ready(Err(error)) = ended else {
        panic!("the primary refuses: {ended:?}")
    };
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.may_have_executed(), "{error}");
}
