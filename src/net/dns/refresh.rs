//! The task that keeps one name fresh.
//!
//! Owns [`Follower`]: drives [`policy`](super::policy) with a resolver, and tells each change once.
//! Promises: a resolver that hangs or panics costs a lookup, never the follower; what is told differs from what was told before;
//! dropping the follower ends the task and every lookup. Leaves what to do with a change to the one who follows.
//! Fails never: failure is in what is [`Found`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    select,
    sync::{oneshot, watch},
    time::{Instant, sleep_until, timeout},
};
use tracing::{info, warn};

use super::{
    DnsPolicy, Found, Pace, Resolution, Resolve, literal,
    policy::{Policy, Ticket, Verdict},
    race::Race,
};
use crate::task::{Owned, spawn_owned};

/// A name that is being followed, for as long as this lives.
pub(crate) struct Follower {
    pace: watch::Sender<Pace>,
    counts: Arc<Counts>,
    _task: Option<Owned>,
}

/// How a name has fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lookups {
    pub(crate) positive: u64,
    pub(crate) negative: u64,
    pub(crate) transient: u64,
    /// Since the last positive answer, if ever there was one.
    pub(crate) age: Option<Duration>,
}

struct Counts {
    born: Instant,
    positive: AtomicU64,
    negative: AtomicU64,
    transient: AtomicU64,
    /// Milliseconds from birth to the last positive answer, plus one.
    fresh: AtomicU64,
}

/// Follows `host` and calls `tell` with what is believed of it: at each change, never twice the same. The first lookup starts now.
/// An IP literal is told at once and never asked for.
pub(crate) fn follow(
    host: &str,
    resolver: Arc<dyn Resolve>,
    policy: DnsPolicy,
    runtime: &Handle,
    mut tell: impl FnMut(Found) + Send + 'static,
) -> Follower {
    let (pace, paced) = watch::channel(Pace::Calm);
    let now = Instant::now();
    let counts = Arc::new(Counts::new(now));
    let task = if let Some(address) = literal(host) {
        tell(Found {
            addresses: vec![address],
            ..Found::default()
        });
        None
    } else {
        let name: Arc<str> = host.into();
        let lookups = LookupLoop {
            limit: policy.lookup_timeout,
            policy: Policy::new(name.clone(), policy, now),
            name,
            resolver,
            runtime: runtime.clone(),
            flights: Race::new(),
            counts: counts.clone(),
            told: Found::default(),
            tell,
        };
        Some(spawn_owned(runtime, lookups.run(paced)))
    };
    Follower {
        pace,
        counts,
        _task: task,
    }
}

impl Follower {
    /// Says how badly a fresh answer is needed. Cheap; may be repeated.
    pub(crate) fn pace(&self, pace: Pace) {
        self.pace.send_if_modified(|old| {
            let changed = *old != pace;
            *old = pace;
            changed
        });
    }

    pub(crate) fn lookups(&self) -> Lookups {
        self.counts.read()
    }
}

struct LookupLoop<T> {
    name: Arc<str>,
    limit: Duration,
    policy: Policy,
    resolver: Arc<dyn Resolve>,
    runtime: Handle,
    flights: Race<'static, (Ticket, Resolution)>,
    counts: Arc<Counts>,
    told: Found,
    tell: T,
}

impl<T: FnMut(Found) + Send> LookupLoop<T> {
    async fn run(mut self, mut pace: watch::Receiver<Pace>) {
        loop {
            let next = self.policy.next_start();
            select! {
                changed = pace.changed() => match changed {
                    Ok(()) => self.policy.pace(*pace.borrow_and_update()),
                    Err(_) => return,
                },
                (ticket, resolution) = self.flights.next() => self.ended(ticket, resolution),
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => self.start(),
            }
        }
    }

    /// A lookup runs in a task of its own: its panic ends there, and so does the harm of one that blocks.
    fn start(&mut self) {
        let ticket = self.policy.start(Instant::now());
        let (resolver, name, limit) = (self.resolver.clone(), self.name.clone(), self.limit);
        let (answer, answered) = oneshot::channel();
        let task = spawn_owned(&self.runtime, async move {
            // Nobody waits any more: the lookup was given up.
            let _ = answer.send(resolver.resolve(&name).await);
        });
        self.flights.push(async move {
            let resolution = match timeout(limit, answered).await {
                Ok(Ok(resolution)) => resolution,
                Ok(Err(_)) => Resolution::transient("resolver panicked"),
                Err(_) => Resolution::transient(format!("no answer within {limit:?}")),
            };
            drop(task);
            (ticket, resolution)
        });
    }

    fn ended(&mut self, ticket: Ticket, resolution: Resolution) {
        let now = Instant::now();
        self.counts
            .count(self.policy.ended(ticket, resolution, now), now);
        let found = self.policy.found();
        if found != self.told {
            self.log(&found);
            self.told = found.clone();
            (self.tell)(found);
        }
    }

    fn log(&self, found: &Found) {
        let name = &*self.name;
        let (addresses, gone) = (found.addresses.len(), found.gone.len());
        match &found.trouble {
            Some(trouble) if found.trouble != self.told.trouble => {
                warn!(name, addresses, %trouble, "lookup failed");
            }
            None if self.told.trouble.is_some() => {
                info!(name, addresses, gone, "lookups work again")
            }
            _ => {
                let rotating = self.policy.is_rotating();
                info!(name, addresses, gone, rotating, "addresses changed");
            }
        }
    }
}

impl Counts {
    fn new(born: Instant) -> Self {
        Self {
            born,
            positive: AtomicU64::new(0),
            negative: AtomicU64::new(0),
            transient: AtomicU64::new(0),
            fresh: AtomicU64::new(0),
        }
    }

    fn count(&self, verdict: Verdict, now: Instant) {
        let counter = match verdict {
            Verdict::Positive => {
                let millis = now.saturating_duration_since(self.born).as_millis();
                let fresh = u64::try_from(millis).unwrap_or(u64::MAX - 1) + 1;
                self.fresh.store(fresh, Ordering::Relaxed);
                &self.positive
            }
            Verdict::Negative => &self.negative,
            Verdict::Transient => &self.transient,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self) -> Lookups {
        let age = self
            .fresh
            .load(Ordering::Relaxed)
            .checked_sub(1)
            .map(|fresh| {
                let lived = Instant::now().saturating_duration_since(self.born);
                lived.saturating_sub(Duration::from_millis(fresh))
            });
        Lookups {
            positive: self.positive.load(Ordering::Relaxed),
            negative: self.negative.load(Ordering::Relaxed),
            transient: self.transient.load(Ordering::Relaxed),
            age,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        net::IpAddr,
        sync::{Mutex, atomic::AtomicUsize},
    };

    use tokio::time::sleep;

    use super::*;
    use crate::net::dns::Lookup;

    /// Does as it is told, and remembers when it was asked.
    struct Puppet {
        mood: Mutex<Mood>,
        asked: Mutex<Vec<Instant>>,
        alive: Arc<AtomicUsize>,
    }

    #[derive(Clone)]
    enum Mood {
        Says(Resolution),
        Hangs,
        Panics,
    }

    struct Alive(Arc<AtomicUsize>);

    impl Drop for Alive {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    impl Resolve for Puppet {
        fn resolve<'a>(&'a self, _: &'a str) -> Lookup<'a> {
            self.asked.lock().unwrap().push(Instant::now());
            self.alive.fetch_add(1, Ordering::SeqCst);
            let alive = Alive(self.alive.clone());
            let mood = self.mood.lock().unwrap().clone();
            Box::pin(async move {
                let _alive = alive;
                match mood {
                    Mood::Says(resolution) => resolution,
                    Mood::Hangs => pending().await,
                    Mood::Panics => panic!("a resolver of ill manners"),
                }
            })
        }
    }

    struct Scene {
        puppet: Arc<Puppet>,
        follower: Follower,
        told: Arc<Mutex<Vec<Found>>>,
    }

    fn scene(host: &str, mood: Mood) -> Scene {
        let puppet = Arc::new(Puppet {
            mood: Mutex::new(mood),
            asked: Mutex::default(),
            alive: Arc::default(),
        });
        let told = Arc::<Mutex<Vec<Found>>>::default();
        let ear = told.clone();
        let tell = move |found| ear.lock().unwrap().push(found);
        let runtime = Handle::current();
        let follower = follow(host, puppet.clone(), DnsPolicy::default(), &runtime, tell);
        Scene {
            puppet,
            follower,
            told,
        }
    }

    impl Scene {
        fn mood(&self, mood: Mood) {
            *self.puppet.mood.lock().unwrap() = mood;
        }

        fn asked(&self) -> usize {
            self.puppet.asked.lock().unwrap().len()
        }

        fn last(&self) -> Found {
            self.told
                .lock()
                .unwrap()
                .last()
                .cloned()
                .expect("something told")
        }
    }

    fn says(last: u8) -> Mood {
        let ip = IpAddr::from([10, 0, 0, last]);
        Mood::Says(Resolution::addresses([ip], Duration::from_secs(5)))
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_change_is_told_once_and_a_refresh_that_brings_no_news_is_not() {
        let scene = scene("redis.test", says(1));
        sleep(MINUTE).await;
        assert!(
            scene.asked() >= 12,
            "every five seconds at most: {}",
            scene.asked()
        );
        assert_eq!(scene.told.lock().unwrap().len(), 1);
        scene.mood(says(2));
        sleep(Duration::from_secs(8)).await;
        let told = scene.told.lock().unwrap().clone();
        assert_eq!(
            told.len(),
            3,
            "the new address, then the old one gone: {told:?}"
        );
        assert_eq!(told[1].gone, Vec::<IpAddr>::new());
        assert_eq!(told[2].gone, [IpAddr::from([10, 0, 0, 1])]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_resolver_that_hangs_is_asked_twice_a_second_while_urgent_and_seldom_when_calm() {
        let scene = scene("redis.test", says(1));
        sleep(Duration::from_secs(1)).await;
        scene.mood(Mood::Hangs);
        scene.follower.pace(Pace::Urgent);
        let before = scene.asked();
        sleep(Duration::from_secs(10)).await;
        let asked = scene.asked() - before;
        assert!((19..=20).contains(&asked), "{asked} in ten seconds");
        assert!(scene.puppet.alive.load(Ordering::SeqCst) <= 5);
        let found = scene.last();
        assert_eq!(found.addresses.len(), 1, "kept");
        assert_eq!(found.trouble.as_deref(), Some("no answer within 2.2s"));
        assert!(
            scene
                .follower
                .lookups()
                .age
                .is_some_and(|age| age > Duration::from_secs(9))
        );

        scene.mood(says(2));
        sleep(Duration::from_millis(500)).await;
        assert_eq!(
            scene.last().addresses,
            [IpAddr::from([10, 0, 0, 2])],
            "followed in half a second"
        );

        scene.mood(Mood::Hangs);
        scene.follower.pace(Pace::Calm);
        let before = scene.asked();
        sleep(MINUTE).await;
        assert!(scene.asked() - before <= 8, "{}", scene.asked() - before);
    }

    #[tokio::test(start_paused = true)]
    async fn a_resolver_that_panics_is_a_failed_lookup() {
        let scene = scene("redis.test", Mood::Panics);
        sleep(Duration::from_millis(100)).await;
        assert_eq!(scene.last().trouble.as_deref(), Some("resolver panicked"));
        scene.mood(says(1));
        sleep(Duration::from_secs(2)).await;
        assert_eq!(scene.last().addresses, [IpAddr::from([10, 0, 0, 1])]);
        let lookups = scene.follower.lookups();
        assert_eq!(
            (lookups.positive, lookups.negative, lookups.transient),
            (1, 0, 1)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_literal_is_never_asked_for() {
        let scene = scene("[::1]", Mood::Panics);
        scene.follower.pace(Pace::Urgent);
        sleep(MINUTE).await;
        assert_eq!(scene.asked(), 0);
        assert_eq!(scene.last().addresses, ["::1".parse::<IpAddr>().unwrap()]);
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_the_follower_ends_every_lookup() {
        let scene = scene("redis.test", Mood::Hangs);
        scene.follower.pace(Pace::Urgent);
        sleep(Duration::from_secs(1)).await;
        let alive = scene.puppet.alive.clone();
        assert!(alive.load(Ordering::SeqCst) >= 2);
        drop(scene);
        sleep(Duration::from_millis(10)).await;
        assert_eq!(alive.load(Ordering::SeqCst), 0);
    }

    /// On a real clock: sockets and a paused one do not mix.
    #[tokio::test]
    async fn after_silence_an_answer_is_followed_in_half_a_second_and_silence_is_no_storm() {
        use crate::net::dns::{
            Hickory,
            scripted::{NameServer, Say},
        };
        use hickory_proto::rr::RecordType::{A, AAAA};

        let server = NameServer::start().await;
        let resolver = Arc::new(Hickory::servers([server.address]));
        let (teller, mut told) = watch::channel(Found::default());
        let tell = move |found| drop(teller.send_replace(found));
        let policy = DnsPolicy::default();
        let follower = follow("redis.test", resolver, policy, &Handle::current(), tell);
        follower.pace(Pace::Urgent);
        sleep(Duration::from_secs(5)).await;
        let datagrams = server.heard().len();
        println!("silent for 5 s: {datagrams} datagrams, two per lookup");
        assert!((18..=20).contains(&datagrams), "{datagrams}");
        assert_eq!(
            told.borrow_and_update().trouble.as_deref(),
            Some("name servers do not answer")
        );

        let none = Say::Addresses(Vec::new());
        server.say("redis.test.", AAAA, none);
        server.say(
            "redis.test.",
            A,
            Say::Addresses(vec![IpAddr::from([10, 0, 0, 1])]),
        );
        let start = Instant::now();
        told.changed().await.unwrap();
        println!("followed {:?} after the name server spoke", start.elapsed());
        assert_eq!(told.borrow().addresses, [IpAddr::from([10, 0, 0, 1])]);
        assert!(start.elapsed() < Duration::from_millis(550));
    }
}
