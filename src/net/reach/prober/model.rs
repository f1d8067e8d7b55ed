//! The prober through outages of up to ten minutes, under a paused clock, over a network that fails in every way it knows.
//!
//! Owns a [`Dial`] that writes down each attempt and answers by what the outage is like. Held against the prober: its gaps do not grow with
//! the outage, it asks an absent server fewer than four times a second, keeps few attempts under way, and has the first
//! connection within one gap of the recovery, whenever that comes.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use proptest::prelude::*;
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};

use super::{
    Haste, LONGEST_SPACING, PASS, Prober, RENEW_ESTABLISHED, SETTLED, SPACING, STAGGER, SYNS,
    Sighting,
};
use crate::{
    Error, ErrorKind, Phase,
    config::BreakerPolicy,
    models::try_all,
    net::{
        address::Address,
        link::{
            LinkState, Pace,
            handshake::{Introduction, Peer},
            job::{Job, Origin},
            mailbox::{Rejected, Retire},
        },
        reach::connect::{Attempt, Dial, Stage, Wire},
    },
};

/// The way to a server that answers, and back.
const ROUND_TRIP: Duration = Duration::from_millis(1);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(950);
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(30);

/// What an outage looks like to those who dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outage {
    /// Packets vanish; a SYN sent into it is never answered, not even after it.
    BlackHole,
    /// The kernel accepts, the process is frozen; it answers what waits as soon as it thaws.
    Frozen,
    /// The same, and the path forgets the connection meanwhile.
    Forgotten,
    /// A reset.
    Refused,
    /// Somebody accepts and, so much later, hangs up: a proxy whose server is away.
    HungUp(Duration),
    /// Accepts after so long, and refuses our credentials.
    Denied(Duration),
}

#[derive(Clone)]
struct Network {
    /// Of each address.
    outages: Vec<Outage>,
    heals: Instant,
    dials: Arc<Mutex<Vec<(Instant, Address)>>>,
    out: Arc<AtomicUsize>,
    most_out: Arc<AtomicUsize>,
}

/// Counts an attempt for as long as it is under way.
struct Out(Arc<AtomicUsize>);

impl Drop for Out {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that nobody will use.
#[derive(Clone)]
struct Connection(Address);

impl Wire for Connection {
    fn origin(&self) -> &Arc<Origin> {
        unreachable!("nobody asks")
    }

    fn address(&self) -> &Address {
        &self.0
    }

    fn submit(&self, _: Arc<Job>) -> Result<(), Rejected> {
        unreachable!("nobody calls")
    }

    fn watch(&self) -> watch::Receiver<LinkState> {
        unreachable!("nobody watches")
    }

    fn is_silent(&self) -> bool {
        false
    }

    fn retire(&self, _: Retire) {}
}

impl Dial for Network {
    type Wire = Connection;

    fn connect(
        &self,
        attempt: Attempt,
    ) -> impl Future<Output = Result<Connection, Error>> + Send + 'static {
        let network = self.clone();
        async move {
            let (now, address) = (Instant::now(), attempt.address.clone());
            network.dials.lock().expect("sound").push((now, address));
            let out = network.out.fetch_add(1, Ordering::Relaxed) + 1;
            network.most_out.fetch_max(out, Ordering::Relaxed);
            let _out = Out(network.out.clone());
            if now < network.heals {
                network.fail(&attempt, now).await?;
            }
            sleep(ROUND_TRIP).await;
            Ok(Connection(attempt.address))
        }
    }
}

impl Network {
    fn new(outages: Vec<Outage>, lasts: Duration) -> Self {
        Self {
            outages,
            heals: Instant::now() + lasts,
            dials: Arc::default(),
            out: Arc::default(),
            most_out: Arc::default(),
        }
    }

    fn outage_at(&self, at: &Address) -> Outage {
        let places = self.outages.iter().zip(0..);
        let mut found = places.filter(|(_, place)| *at == address(*place));
        *found.next().expect("one of ours").0
    }

    /// Comes back if the attempt, though made during the outage, is answered after it.
    async fn fail(&self, attempt: &Attempt, now: Instant) -> Result<(), Error> {
        let outage = self.outage_at(&attempt.address);
        match outage {
            Outage::BlackHole => sleep(CONNECT_TIMEOUT).await,
            Outage::Refused => sleep(ROUND_TRIP).await,
            Outage::HungUp(later) => {
                sleep(ROUND_TRIP).await;
                attempt.stage.established();
                sleep(later).await;
                let (kind, phase) = (ErrorKind::ConnectionLost, Phase::Handshake);
                return Err(Error::new(kind, phase, "hung up"));
            }
            Outage::Denied(later) => {
                sleep(later).await;
                attempt.stage.established();
                sleep(ROUND_TRIP).await;
                let (kind, phase) = (ErrorKind::Auth, Phase::Handshake);
                return Err(Error::new(kind, phase, "refused our credentials"));
            }
            Outage::Frozen | Outage::Forgotten => {
                attempt.stage.established();
                let limit = now + HANDSHAKE_LIMIT;
                if outage == Outage::Frozen && self.heals < limit {
                    sleep_until(self.heals).await;
                    return Ok(());
                }
                sleep_until(limit).await;
            }
        }
        Err(Error::new(
            ErrorKind::ConnectionLost,
            Phase::Connect,
            "away",
        ))
    }
}

fn template() -> Attempt {
    let second = Duration::from_secs(1);
    Attempt {
        address: address(0),
        introduction: Arc::new(Introduction {
            resp3: false,
            username: None,
            password: None,
            db: 0,
            name: None,
            peer: Peer::Server,
        }),
        connect_timeout: CONNECT_TIMEOUT,
        handshake_limit: HANDSHAKE_LIMIT,
        pace: Arc::new(Pace::new("test".into(), 1, second / 10, second)),
        runtime: Handle::current(),
        stage: Arc::new(Stage::default()),
    }
}

fn address(last: u8) -> Address {
    Address::Tcp(([10, 0, 0, last], 6379).into())
}

/// What one outage came to.
struct Told {
    dials: Vec<(Instant, Address)>,
    most_out: usize,
    /// From the recovery to the first connection.
    recovery: Duration,
}

/// Probes one address for each of `outages`, through all of them at once.
async fn endure(outages: Vec<Outage>, lasts: Duration, policy: &BreakerPolicy) -> Told {
    let targets = (0..).take(outages.len()).map(address).collect();
    let network = Network::new(outages, lasts);
    let heals = network.heals;
    let mut prober = Prober::new(network.clone(), template(), policy);
    prober.aim(targets, Haste::Urgent, Instant::now());
    while matches!(prober.next().await, Sighting::Failed { .. }) {}
    let recovery = Instant::now().saturating_duration_since(heals);
    let dials = network.dials.lock().expect("sound").clone();
    Told {
        dials,
        most_out: network.most_out.load(Ordering::Relaxed),
        recovery,
    }
}

/// An attempt waits in a frozen server's accept queue while the name moves: what that server says when it thaws concerns nobody any more.
#[tokio::test(start_paused = true)]
async fn an_address_that_is_probed_no_more_verifies_nothing() {
    let network = Network::new(vec![Outage::Frozen; 2], Duration::from_secs(5));
    let mut prober = Prober::new(network.clone(), template(), &BreakerPolicy::default());
    let second = Duration::from_secs(1);
    prober.aim(vec![address(0)], Haste::Urgent, Instant::now());
    assert!(timeout(second, prober.next()).await.is_err(), "frozen");
    prober.aim(vec![address(1)], Haste::Urgent, Instant::now());
    let until = Instant::now() + second * 6;
    let mut served = 0;
    while let Ok(sighting) = timeout_at(until, prober.next()).await {
        if let Sighting::Served(Connection(at)) = sighting {
            assert_eq!(at, address(1));
            served += 1;
        }
    }
    assert!(served > 0);
}

fn outage() -> impl Strategy<Value = (Outage, Duration)> {
    let kind = prop_oneof![
        2 => Just(Outage::BlackHole),
        2 => Just(Outage::Refused),
        2 => Just(Outage::HungUp(ROUND_TRIP)),
        1 => Just(Outage::Denied(ROUND_TRIP)),
        1 => Just(Outage::Frozen),
        1 => Just(Outage::Forgotten),
    ];
    let lasts =
        prop_oneof![0..2_000_u64, 0..60_000_u64, 0..600_000_u64].prop_map(Duration::from_millis);
    (kind, lasts)
}

fn under_paused_time<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.expect("a runtime").block_on(work)
}

/// The longest gap between two dials of those who refuse our credentials: the policy's, spread, from the refusal on.
fn longest_denial(policy: &BreakerPolicy) -> Duration {
    policy.auth_gap() * 5 / 4 + ROUND_TRIP * 2
}

/// The longest gap that a round of `places` addresses may leave, by the policy: the cap with its jitter, and the stagger within.
fn longest_gap(policy: &BreakerPolicy) -> Duration {
    (policy.longest_probe_gap() * (100 + policy.probe_jitter_percent()) / 100).max(STAGGER)
}

#[test]
fn no_gap_grows_with_the_outage_and_recovery_takes_one_gap_however_long_it_was() {
    try_all(200, (outage(), 1..=3_usize), |((outage, lasts), places)| {
        let policy = BreakerPolicy::default();
        let told = under_paused_time(endure(vec![outage; places], lasts, &policy));
        // Timers go off at the millisecond after.
        let grain = Duration::from_millis(2);
        let gap = longest_gap(&policy) + grain;
        let gaps = told.dials.windows(2).map(|pair| pair[1].0 - pair[0].0);
        // What a frozen server has accepted is not dialled again before it is renewed.
        let longest = match outage {
            Outage::Frozen | Outage::Forgotten => RENEW_ESTABLISHED + gap,
            Outage::Denied(_) => longest_denial(&policy) + grain,
            Outage::BlackHole | Outage::Refused | Outage::HungUp(_) => gap,
        };
        let worst = gaps.max().unwrap_or_default();
        assert!(worst <= longest, "a gap of {worst:?}, at most {longest:?}");

        let promised = ROUND_TRIP
            + match outage {
                Outage::Frozen => grain,
                Outage::Forgotten => RENEW_ESTABLISHED + gap,
                Outage::Denied(_) => longest_denial(&policy) + grain,
                // Any address will do: the next that is dialled.
                Outage::BlackHole | Outage::Refused | Outage::HungUp(_) => gap,
            };
        assert!(
            told.recovery <= promised,
            "{:?}, promised {promised:?}",
            told.recovery
        );
    });
}

#[test]
fn an_absent_server_is_asked_gently_by_few_attempts_at_once() {
    try_all(100, (outage(), 1..=3_usize), |((outage, lasts), places)| {
        let policy = BreakerPolicy::default();
        let told = under_paused_time(endure(vec![outage; places], lasts, &policy));
        let each = places
            * if matches!(outage, Outage::Frozen | Outage::Forgotten) {
                1
            } else {
                SYNS
            };
        assert!(told.most_out <= each, "{} under way", told.most_out);
        for place in (0..).take(places) {
            let dials = told
                .dials
                .iter()
                .filter(|(_, to)| *to == address(place))
                .count();
            // 3.7 a second in the mean; the first few gaps are shorter, and chance has its share of the square root.
            let most = lasts.as_secs_f64() * 3.7 + 6.0 + lasts.as_secs_f64().sqrt() * 2.0;
            assert!(dials as f64 <= most, "{dials} dials in {lasts:?}");
        }
    });
}

#[test]
fn whoever_accepts_and_hangs_up_is_dialled_four_times_in_any_second() {
    let others = proptest::collection::vec(outage().prop_map(|(kind, _)| kind), 0..3);
    let cases = (others, 0..3_usize, 0..60_000_u64, 1..200_u64);
    try_all(200, cases, |(mut outages, place, lasts, later)| {
        let later = Duration::from_millis(later);
        outages.insert(place.min(outages.len()), Outage::HungUp(later));
        let (policy, lasts) = (BreakerPolicy::default(), Duration::from_millis(lasts));
        let told = under_paused_time(endure(outages.clone(), lasts, &policy));
        for (place, outage) in (0..).zip(outages) {
            let dials = told.dials.iter().filter(|(_, to)| *to == address(place));
            let times: Vec<Instant> = dials.map(|(at, _)| *at).collect();
            let fives = times.windows(5).map(|five| five[4] - five[0]);
            let quickest = fives.min().unwrap_or(Duration::MAX);
            if matches!(outage, Outage::HungUp(_)) {
                assert!(quickest > Duration::from_secs(1), "five in {quickest:?}");
            }
        }
    });
}

#[test]
fn whoever_refuses_our_credentials_is_dialled_once_a_second_on_any_way_and_holds_nobody_up() {
    let others = proptest::collection::vec(outage().prop_map(|(kind, _)| kind), 0..3);
    // A way on which the fifth attempt is not made before the first is answered: the first of five is given up.
    let cases = (others, 0..3_usize, 0..60_000_u64, 1..300_u64);
    try_all(200, cases, |(mut outages, place, lasts, later)| {
        let later = Duration::from_millis(later);
        outages.insert(place.min(outages.len()), Outage::Denied(later));
        let (policy, lasts) = (BreakerPolicy::default(), Duration::from_millis(lasts));
        let told = under_paused_time(endure(outages.clone(), lasts, &policy));
        // What is out when the first refusal comes could not know.
        let mut first: Vec<Option<Instant>> = vec![None; outages.len()];
        let mut known: Vec<Instant> = Vec::new();
        for (at, to) in &told.dials {
            let place = (0..)
                .zip(&outages)
                .position(|(place, _)| *to == address(place));
            let place = place.expect("one of ours");
            if let Outage::Denied(later) = outages[place] {
                let refused = *first[place].get_or_insert(*at + later + ROUND_TRIP);
                if *at > refused {
                    known.push(*at);
                }
            }
        }
        let gaps = known.windows(2).map(|two| two[1] - two[0]);
        let quickest = gaps.min().unwrap_or(Duration::MAX);
        assert!(quickest >= policy.auth_gap(), "{quickest:?}, {outages:?}");

        // The others are dialled at their own pace.
        let is_free = |outage: &Outage| matches!(outage, Outage::BlackHole | Outage::Refused);
        if outages.iter().any(is_free) {
            let promised = longest_gap(&policy) + STAGGER * 2 + ROUND_TRIP * 2;
            assert!(
                told.recovery <= promised,
                "{:?}, {outages:?}",
                told.recovery
            );
        }
    });
}

#[tokio::test(start_paused = true)]
async fn connections_that_do_not_last_are_paused_after_but_for_the_first() {
    let network = Network::new(vec![Outage::Refused], Duration::ZERO);
    let mut prober = Prober::new(network, template(), &BreakerPolicy::default());
    let short = Duration::from_millis(5);
    let mut now = Instant::now();
    assert_eq!(
        prober.pause_after(short, now),
        Duration::ZERO,
        "an accident"
    );
    while now < prober.passed.expect("once") + PASS {
        let pause = prober.pause_after(short, now);
        assert!(pause + short >= SPACING);
        now += pause + short;
    }
    assert_eq!(
        prober.pause_after(short, now),
        Duration::ZERO,
        "another one"
    );
    for lived in (0..1100).map(Duration::from_millis) {
        assert!(prober.pause_after(lived, now) <= LONGEST_SPACING * 2);
    }
    let long = Duration::from_millis(600);
    assert_eq!(prober.pause_after(long, now), Duration::ZERO);
    assert_eq!(prober.pause_after(SETTLED, now), Duration::ZERO);
    assert!(prober.pause_after(short, now) > Duration::ZERO);
    prober.forget();
    assert_eq!(
        prober.pause_after(short, now),
        Duration::ZERO,
        "another server"
    );
}

#[test]
fn whatever_gaps_are_configured_hold_from_the_first_minute_to_the_tenth() {
    let gaps = (10..5_000_u64, 0..20_000_u64).prop_map(|(first, more)| (first, first + more));
    try_all(100, (outage(), gaps), |((outage, lasts), (first, cap))| {
        let (first, cap) = (Duration::from_millis(first), Duration::from_millis(cap));
        let policy = BreakerPolicy::default().probe_gap(first, cap);
        assert_eq!(policy.faults(), Vec::<String>::new());
        let told = under_paused_time(endure(vec![outage], lasts, &policy));
        let spacing = match outage {
            Outage::HungUp(later) => LONGEST_SPACING + later,
            Outage::Denied(_) => longest_denial(&policy),
            _ => Duration::ZERO,
        };
        let (grain, longest) = (Duration::from_millis(2), (cap * 3 / 2).max(spacing));
        let waits = if outage == Outage::Forgotten {
            RENEW_ESTABLISHED
        } else {
            Duration::ZERO
        };
        let promised = waits + longest + ROUND_TRIP + grain;
        assert!(
            told.recovery <= promised,
            "{:?}, promised {promised:?}",
            told.recovery
        );
        let least = first / 2;
        let gaps: Vec<_> = told
            .dials
            .windows(2)
            .map(|pair| pair[1].0 - pair[0].0)
            .collect();
        assert!(gaps.iter().all(|gap| *gap >= least), "{gaps:?}");
    });
}
