//! The counts of one client.
//!
//! Owns [`Metrics`]: totals in atomics of our own, which the housekeeping tick brings a recorder up to ([`Metrics::refresh`]). A handle
//! made before a recorder is installed is a no-op for good, so none is kept: what happened before counts too, and a recorder that drops
//! idle series gets them back. Only the histogram needs a live handle; it is taken anew on each tick.
//! Promises: counting is one atomic addition, and for a call one histogram record; nothing on the way allocates or hashes.
//! Leaves installing a recorder to the application. Cannot fail.

use std::{
    collections::HashMap,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use metrics::{Histogram, Key, Recorder, with_recorder};
use tokio::time::Instant;

use super::{
    labels::{
        Answers, FenceOutcome, Label, LinkEnd, LinkState, Lookup, Outcome, Plain, PrimaryChange,
        ProbeOutcome, ReplayKind, Transition,
    },
    names,
    series::{Gauge, Levels, METADATA, Totals, describe_all, key, keys},
    stopwatch::Stopwatch,
};
use crate::ErrorKind;

/// Clients that say the same name count together: two totals for one series would overwrite each other. Kept for the life of the
/// process, as the recorder keeps the series, because a total that starts again at zero would stand still until it has caught up.
static NAMED: LazyLock<Mutex<HashMap<Arc<str>, &'static Counts>>> = LazyLock::new(Mutex::default);

/// Beyond this many names clients count together as [`OTHERS`]: a name is a label, and labels come from closed sets.
const MOST_NAMES: usize = 1024;
const OTHERS: &str = "others";

/// A recorder hears the descriptions on every so many ticks: it may be installed late.
const DESCRIBE_EVERY: u32 = 16;

/// The counts of the clients of one name.
#[derive(Clone, Copy)]
pub(crate) struct Metrics(&'static Counts);

struct Counts {
    client: Arc<str>,
    calls: Totals<Outcome>,
    transitions: Totals<Transition>,
    link_ends: Totals<LinkEnd>,
    dials: Totals<Outcome>,
    probes: Totals<ProbeOutcome>,
    swaps: Totals<Plain>,
    fences: Totals<FenceOutcome>,
    replays: Totals<ReplayKind>,
    fallbacks: Totals<Plain>,
    lookups: Totals<Lookup>,
    answers: Totals<Answers>,
    primaries: Totals<PrimaryChange>,
    sentinels: Levels<Plain>,
    /// The client follows Sentinels: who does not has no such series.
    has_sentinels: AtomicBool,
    in_flight: Levels<Plain>,
    held: Mutex<Vec<Weak<dyn Gauge>>>,
    links: Levels<LinkState>,
    breaker: Levels<Plain>,
    addresses: Levels<Plain>,
    lag_nanos: AtomicU64,
    lag_key: Key,
    answered: Mutex<Option<Instant>>,
    age_key: Key,
    durations: ArcSwap<Box<[Histogram]>>,
    duration_keys: Box<[Key]>,
    ticks: AtomicU32,
    /// The second in which the recorder was last brought up to date by a call.
    refreshed: AtomicU64,
}

impl Metrics {
    /// The counts of the client called `name`.
    pub(crate) fn named(name: &Arc<str>) -> Self {
        let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
        let others = Arc::from(OTHERS);
        let is_known = named.contains_key(name);
        let name = if is_known || named.len() < MOST_NAMES {
            name
        } else {
            &others
        };
        let counts = *named
            .entry(name.clone())
            // Kept for the life of the process anyway; as a plain reference it costs a call no reference count.
            .or_insert_with(|| Box::leak(Box::new(Counts::new(name))));
        Self(counts)
    }

    /// The client's name.
    pub(crate) fn client(&self) -> &'static str {
        &self.0.client
    }

    /// Calls in flight now.
    pub(crate) fn sum_in_flight(&self) -> i64 {
        self.0.sum_in_flight()
    }

    /// A call ended; `None` is success.
    pub(crate) fn call_ended(&self, outcome: Option<ErrorKind>, watch: &Stopwatch) {
        let outcome = Outcome(outcome);
        self.0.calls.add(outcome, 1);
        if let Some(histogram) = self.0.durations.load().get(outcome.index()) {
            histogram.record(watch);
        }
    }

    /// Reads the calls in flight from `held` on each tick, as long as it lives: counting them twice would cost each call two more
    /// atomic operations.
    pub(crate) fn watch_in_flight(&self, held: &Arc<impl Gauge + 'static>) {
        let held: Weak<dyn Gauge> = Arc::downgrade(held) as _;
        self.0.held().push(held);
    }

    /// A circuit was made, closed. It is counted as long as the returned value lives.
    pub(crate) fn circuit(&self) -> CircuitCount {
        CircuitCount {
            metrics: *self,
            is_open: false,
        }
    }

    /// A link was made. It is counted as long as the returned value lives.
    pub(crate) fn link(&self, state: LinkState) -> LinkCount {
        self.0.links.add(state, 1);
        LinkCount {
            metrics: *self,
            state,
        }
    }

    /// A link ended.
    pub(crate) fn link_died(&self, reason: LinkEnd) {
        self.0.link_ends.add(reason, 1);
    }

    /// A dial ended; `None` is success.
    pub(crate) fn dialled(&self, outcome: Option<ErrorKind>) {
        self.0.dials.add(Outcome(outcome), 1);
    }

    /// A probe ended.
    pub(crate) fn probed(&self, outcome: ProbeOutcome) {
        self.0.probes.add(outcome, 1);
    }

    /// A link was replaced while its endpoint lived.
    pub(crate) fn swapped(&self) {
        self.0.swaps.add(Plain, 1);
    }

    /// A fence was asked for.
    pub(crate) fn fenced(&self, outcome: FenceOutcome) {
        self.0.fences.add(outcome, 1);
    }

    /// `requests` were sent again.
    pub(crate) fn replayed(&self, kind: ReplayKind, requests: u64) {
        self.0.replays.add(kind, requests);
    }

    /// A read was answered in Redis' place.
    pub(crate) fn fell_back(&self) {
        self.0.fallbacks.add(Plain, 1);
    }

    /// So many more lookups ended.
    pub(crate) fn looked_up(&self, result: Lookup, lookups: u64) {
        self.0.lookups.add(result, lookups);
    }

    /// So many more questions to Sentinels ended.
    pub(crate) fn asked(&self, result: Answers, questions: u64) {
        self.0.answers.add(result, questions);
    }

    /// Another primary was followed, so many times more.
    pub(crate) fn primary_changed(&self, reason: PrimaryChange, changes: u64) {
        self.0.primaries.add(reason, changes);
    }

    /// So many Sentinels answer now.
    pub(crate) fn sentinels(&self, reachable: usize) {
        let reachable = i64::try_from(reachable).unwrap_or(i64::MAX);
        self.0.sentinels.set(Plain, reachable);
        self.0.has_sentinels.store(true, Relaxed);
    }

    /// The last positive answer came at `at`.
    pub(crate) fn dns_answered(&self, at: Option<Instant>) {
        *self.0.answered() = at;
    }

    /// So many addresses are in use for the name.
    pub(crate) fn dns_addresses(&self, addresses: usize) {
        let addresses = i64::try_from(addresses).unwrap_or(i64::MAX);
        self.0.addresses.set(Plain, addresses);
    }

    /// The housekeeping task was woken so late.
    pub(crate) fn lag(&self, late: Duration) {
        let nanos = u64::try_from(late.as_nanos()).unwrap_or(u64::MAX);
        self.0.lag_nanos.store(nanos, Relaxed);
    }

    /// Brings the recorder of this moment up to our totals. For the housekeeping tick (about once a second) and a client's end.
    pub(crate) fn refresh(&self, now: Instant) {
        with_recorder(|recorder| {
            if self
                .0
                .ticks
                .fetch_add(1, Relaxed)
                .is_multiple_of(DESCRIBE_EVERY)
            {
                describe_all(recorder);
            }
            self.0.publish(recorder, now);
        });
    }
}

impl Metrics {
    /// The same, about once a second: for a stack that no task keeps, as its calls end.
    pub(crate) fn refresh_when_due(&self, now: Instant) {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        let second = 1 + now.saturating_duration_since(*START).as_secs();
        let last = self.0.refreshed.load(Relaxed);
        let refreshed = &self.0.refreshed;
        let is_due = second > last
            && refreshed
                .compare_exchange(last, second, Relaxed, Relaxed)
                .is_ok();
        if is_due {
            self.refresh(now);
        }
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Metrics").field(&self.client()).finish()
    }
}

/// One link in the gauge of links, as long as it lives.
pub(crate) struct LinkCount {
    metrics: Metrics,
    state: LinkState,
}

impl LinkCount {
    /// The link does something else now.
    pub(crate) fn becomes(&mut self, state: LinkState) {
        let links = &self.metrics.0.links;
        links.add(self.state, -1);
        links.add(state, 1);
        self.state = state;
    }
}

impl Drop for LinkCount {
    fn drop(&mut self) {
        self.metrics.0.links.add(self.state, -1);
    }
}

/// One circuit in the gauge of open ones, as long as it lives.
pub(crate) struct CircuitCount {
    metrics: Metrics,
    is_open: bool,
}

impl CircuitCount {
    /// The circuit changed its state.
    pub(crate) fn moved(&mut self, transition: Transition) {
        self.metrics.0.transitions.add(transition, 1);
        self.set(transition.is_open());
    }

    fn set(&mut self, is_open: bool) {
        let delta = i64::from(is_open) - i64::from(self.is_open);
        self.metrics.0.breaker.add(Plain, delta);
        self.is_open = is_open;
    }
}

impl Drop for CircuitCount {
    fn drop(&mut self) {
        if self.is_open {
            self.set(false);
            // There may be nobody left who would tell the recorder.
            with_recorder(|recorder| self.metrics.0.breaker.publish(recorder));
        }
    }
}

impl Counts {
    fn new(name: &Arc<str>) -> Self {
        Self {
            client: name.clone(),
            calls: Totals::by_thread(names::CALLS, name),
            transitions: Totals::new(names::BREAKER_TRANSITIONS, name),
            link_ends: Totals::new(names::LINK_ENDS, name),
            dials: Totals::new(names::DIALS, name),
            probes: Totals::new(names::PROBES, name),
            swaps: Totals::new(names::SWAPS, name),
            fences: Totals::new(names::FENCES, name),
            replays: Totals::new(names::REPLAYS, name),
            fallbacks: Totals::new(names::FALLBACKS, name),
            lookups: Totals::new(names::DNS_LOOKUPS, name),
            answers: Totals::new(names::SENTINEL_ANSWERS, name),
            primaries: Totals::new(names::PRIMARY_CHANGES, name),
            sentinels: Levels::new(names::SENTINEL_REACHABLE, name),
            has_sentinels: AtomicBool::new(false),
            in_flight: Levels::new(names::IN_FLIGHT, name),
            held: Mutex::default(),
            links: Levels::new(names::LINKS, name),
            breaker: Levels::new(names::BREAKER_STATE, name),
            addresses: Levels::new(names::DNS_ADDRESSES, name),
            lag_nanos: AtomicU64::new(0),
            lag_key: key::<Plain>(names::SCHEDULER_LAG, name, 0),
            answered: Mutex::new(None),
            age_key: key::<Plain>(names::DNS_ANSWER_AGE, name, 0),
            durations: ArcSwap::from_pointee(Box::default()),
            duration_keys: keys::<Outcome>(names::OPERATION_DURATION, name),
            ticks: AtomicU32::new(0),
            refreshed: AtomicU64::new(0),
        }
    }

    fn held(&self) -> MutexGuard<'_, Vec<Weak<dyn Gauge>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sum_in_flight(&self) -> i64 {
        let mut held = self.held();
        held.retain(|held| held.strong_count() > 0);
        let calls = held
            .iter()
            .filter_map(Weak::upgrade)
            .map(|held| held.level())
            .sum();
        self.in_flight.set(Plain, calls);
        calls
    }

    fn answered(&self) -> MutexGuard<'_, Option<Instant>> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, recorder: &dyn Recorder, now: Instant) {
        self.calls.publish(recorder);
        self.transitions.publish(recorder);
        self.link_ends.publish(recorder);
        self.dials.publish(recorder);
        self.probes.publish(recorder);
        self.swaps.publish(recorder);
        self.fences.publish(recorder);
        self.replays.publish(recorder);
        self.fallbacks.publish(recorder);
        self.lookups.publish(recorder);
        if self.has_sentinels.load(Relaxed) {
            self.answers.publish(recorder);
            self.primaries.publish(recorder);
            self.sentinels.publish(recorder);
        }
        self.sum_in_flight();
        self.in_flight.publish(recorder);
        self.links.publish(recorder);
        self.breaker.publish(recorder);
        let gauge = |key: &Key, seconds: f64| recorder.register_gauge(key, &METADATA).set(seconds);
        let lag = Duration::from_nanos(self.lag_nanos.load(Relaxed));
        gauge(&self.lag_key, lag.as_secs_f64());
        // Who dials an IP address or a socket has no DNS to watch.
        if let Some(at) = *self.answered() {
            let age = now.saturating_duration_since(at);
            gauge(&self.age_key, age.as_secs_f64());
            self.addresses.publish(recorder);
        }
        let histogram = |key| recorder.register_histogram(key, &METADATA);
        let durations = self.duration_keys.iter().map(histogram).collect();
        self.durations.store(Arc::new(durations));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use metrics::with_local_recorder;
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    use super::*;

    type Seen = HashMap<String, DebugValue>;

    fn metrics(name: &str) -> Metrics {
        Metrics::named(&Arc::from(name))
    }

    /// One tick under a recorder, and what it then knows, by `family{label=value,…}` without the client's name.
    fn tick(recorder: &DebuggingRecorder, metrics: &Metrics) -> Seen {
        with_local_recorder(recorder, || metrics.refresh(Instant::now()));
        seen(recorder)
    }

    fn seen(recorder: &DebuggingRecorder) -> Seen {
        let all = recorder.snapshotter().snapshot().into_vec();
        all.into_iter()
            .map(|(key, _, _, value)| {
                let labels = key
                    .key()
                    .labels()
                    .filter(|label| label.key() != names::CLIENT);
                let labels: Vec<_> = labels
                    .map(|l| format!("{}={}", l.key(), l.value()))
                    .collect();
                (
                    format!("{}{{{}}}", key.key().name(), labels.join(",")),
                    value,
                )
            })
            .collect()
    }

    fn counter(seen: &Seen, name: &str) -> u64 {
        match seen.get(name) {
            Some(DebugValue::Counter(value)) => *value,
            other => panic!("{name}: {other:?}"),
        }
    }

    fn gauge(seen: &Seen, name: &str) -> f64 {
        match seen.get(name) {
            Some(DebugValue::Gauge(value)) => value.into_inner(),
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn what_happened_before_a_recorder_was_installed_counts() {
        let metrics = metrics("late");
        metrics.refresh(Instant::now());
        metrics.call_ended(None, &Stopwatch::showing(Duration::from_millis(1)));
        metrics.call_ended(None, &Stopwatch::showing(Duration::from_millis(1)));
        metrics.call_ended(
            Some(ErrorKind::CircuitOpen),
            &Stopwatch::showing(Duration::ZERO),
        );
        metrics.replayed(ReplayKind::NotSent, 7);
        let seen = tick(&DebuggingRecorder::new(), &metrics);
        assert_eq!(counter(&seen, "redis.holdfast.calls{outcome=ok}"), 2);
        assert_eq!(
            counter(&seen, "redis.holdfast.calls{outcome=circuit_open}"),
            1
        );
        assert_eq!(counter(&seen, "redis.holdfast.calls{outcome=timeout}"), 0);
        assert_eq!(counter(&seen, "redis.holdfast.replays{kind=not_sent}"), 7);
    }

    #[test]
    fn durations_are_recorded_from_the_first_tick_with_a_recorder() {
        let (metrics, recorder) = (metrics("durations"), DebuggingRecorder::new());
        metrics.call_ended(None, &Stopwatch::showing(Duration::from_millis(1)));
        tick(&recorder, &metrics);
        metrics.call_ended(None, &Stopwatch::showing(Duration::from_millis(2)));
        metrics.call_ended(
            Some(ErrorKind::Timeout),
            &Stopwatch::showing(Duration::from_millis(250)),
        );
        let seen = seen(&recorder);
        for (name, seconds) in [("ok", 0.002), ("timeout", 0.25)] {
            let name = format!("db.client.operation.duration{{outcome={name}}}");
            match seen.get(&name) {
                Some(DebugValue::Histogram(values)) => {
                    let values: Vec<f64> = values.iter().map(|v| v.into_inner()).collect();
                    assert_eq!(values, [seconds]);
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    #[test]
    fn gauges_follow() {
        let (metrics, recorder) = (metrics("gauges"), DebuggingRecorder::new());
        struct Held(i64);
        impl Gauge for Held {
            fn level(&self) -> i64 {
                self.0
            }
        }
        let (one, two, gone) = (Arc::new(Held(1)), Arc::new(Held(1)), Arc::new(Held(5)));
        for held in [&one, &two, &gone] {
            metrics.watch_in_flight(held);
        }
        drop(gone);
        let mut circuit = metrics.circuit();
        circuit.moved(Transition::Unresponsive);
        metrics.lag(Duration::from_millis(20));
        let other = metrics.link(LinkState::Active);
        let mut link = metrics.link(LinkState::Active);
        link.becomes(LinkState::Benched);
        let seen = tick(&recorder, &metrics);
        assert_eq!(gauge(&seen, "redis.holdfast.calls.in_flight{}"), 2.0);
        assert_eq!(gauge(&seen, "redis.holdfast.breaker.state{}"), 1.0);
        assert_eq!(gauge(&seen, "redis.holdfast.scheduler.lag{}"), 0.02);
        assert_eq!(gauge(&seen, "redis.holdfast.links{state=active}"), 1.0);
        assert_eq!(gauge(&seen, "redis.holdfast.links{state=benched}"), 1.0);
        let opened = "redis.holdfast.breaker.transitions{to=open,reason=unresponsive}";
        assert_eq!(counter(&seen, opened), 1);
        assert!(
            !seen.contains_key("redis.holdfast.dns.answer_age{}"),
            "no DNS was asked"
        );
        circuit.moved(Transition::Verified);
        drop((link, other));
        let seen = tick(&recorder, &metrics);
        assert_eq!(gauge(&seen, "redis.holdfast.breaker.state{}"), 0.0);
        assert_eq!(gauge(&seen, "redis.holdfast.links{state=active}"), 0.0);
        assert_eq!(gauge(&seen, "redis.holdfast.links{state=benched}"), 0.0);
    }

    #[test]
    fn circuits_of_one_name_are_counted_while_they_are_open_and_no_longer_than_they_live() {
        let (metrics, recorder) = (metrics("circuits"), DebuggingRecorder::new());
        let open = || gauge(&tick(&recorder, &metrics), "redis.holdfast.breaker.state{}");
        let (mut one, mut two) = (metrics.circuit(), metrics.circuit());
        one.moved(Transition::Dead);
        two.moved(Transition::Window);
        two.moved(Transition::Forced);
        assert_eq!(open(), 2.0);
        two.moved(Transition::Verified);
        two.moved(Transition::Released);
        assert_eq!(
            open(),
            1.0,
            "the one that is closed says nothing of the other"
        );
        // Nobody brings the recorder up to date afterwards.
        with_local_recorder(&recorder, || drop(one));
        assert_eq!(
            gauge(&seen(&recorder), "redis.holdfast.breaker.state{}"),
            0.0
        );
        drop(two);
        assert_eq!(open(), 0.0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_age_of_an_answer_grows_while_lookups_fail() {
        let (metrics, recorder) = (metrics("dns"), DebuggingRecorder::new());
        metrics.looked_up(Lookup::Positive, 1);
        metrics.dns_answered(Some(Instant::now()));
        metrics.dns_addresses(2);
        tokio::time::advance(Duration::from_secs(9)).await;
        metrics.looked_up(Lookup::Transient, 1);
        let seen = tick(&recorder, &metrics);
        assert_eq!(gauge(&seen, "redis.holdfast.dns.answer_age{}"), 9.0);
        assert_eq!(gauge(&seen, "redis.holdfast.dns.addresses{}"), 2.0);
        assert_eq!(
            counter(&seen, "redis.holdfast.dns.lookups{result=transient}"),
            1
        );
    }

    #[test]
    fn clients_of_one_name_count_together_and_a_new_one_goes_on() {
        let recorder = DebuggingRecorder::new();
        metrics("shared").swapped();
        let second = metrics("shared");
        second.swapped();
        assert_eq!(
            counter(&tick(&recorder, &second), "redis.holdfast.swaps{}"),
            2
        );
    }

    #[test]
    fn every_family_is_published_described_and_bounded() {
        let (metrics, recorder) = (metrics("all"), DebuggingRecorder::new());
        metrics.dns_answered(Some(Instant::now()));
        metrics.sentinels(3);
        with_local_recorder(&recorder, || metrics.refresh(Instant::now()));
        let all = recorder.snapshotter().snapshot().into_vec();
        assert!(all.len() <= 100, "{} series", all.len());
        let mut families = HashSet::new();
        for (key, unit, help, _) in all {
            families.insert(key.key().name().to_owned());
            assert!(unit.is_some() && help.is_some(), "{key:?} is not described");
            assert!(
                key.key()
                    .labels()
                    .any(|l| (l.key(), l.value()) == ("client", "all"))
            );
        }
        let listed: HashSet<_> = names::ALL
            .iter()
            .map(|family| family.0.to_owned())
            .collect();
        assert_eq!(families, listed);
    }
}
