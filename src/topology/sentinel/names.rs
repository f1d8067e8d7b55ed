//! The hosts that Sentinels name, each followed once, whoever means it.
//!
//! Owns [`Names`]. Promises: one follower per host, for the primary, for those that are asked and for the Sentinels; what was found of a
//! name outlives its use, so that a server which is meant again while DNS is away is where it was; names that nobody means are looked up
//! at leisure, and at most [`KEPT`] of them are kept; counts never fall. Leaves lookups to [`dns`](crate::net::dns), who is meant and how
//! urgently to [`follow`](super::follow). Cannot fail.

use std::{collections::BTreeMap, sync::Arc};

use tokio::{sync::watch, time::Instant};

use super::plan::Plan;
use crate::net::dns::{Follower, Found, Lookups, Pace, literal};

/// Names that nobody means any more: more than a group has servers, fewer than pods that come and go leave behind in a day.
const KEPT: usize = 16;

pub(super) struct Names {
    plan: Arc<Plan>,
    names: BTreeMap<Arc<str>, Name>,
    /// The lookups of those that are not kept any more.
    past: Lookups,
}

struct Name {
    follower: Follower,
    found: watch::Receiver<Found>,
    unmeant_since: Option<Instant>,
}

impl Names {
    pub(super) fn new(plan: Arc<Plan>) -> Self {
        Self {
            plan,
            names: BTreeMap::new(),
            past: Lookups::default(),
        }
    }

    /// What is believed of `host`, now and later: followed from now on, if it was not. It is meant until the next [`mean`](Self::mean).
    pub(super) fn found(&mut self, host: &Arc<str>) -> watch::Receiver<Found> {
        let plan = &self.plan;
        let name = self.names.entry(host.clone()).or_insert_with(|| {
            let (teller, found) = watch::channel(Found::default());
            Name {
                follower: plan.follow(host, teller),
                found,
                unmeant_since: None,
            }
        });
        name.unmeant_since = None;
        name.found.clone()
    }

    /// These are meant now, and looked up so urgently; where a host is meant twice, the more urgent counts. No others are.
    pub(super) fn mean(&mut self, meant: impl Iterator<Item = (Arc<str>, Pace)>, now: Instant) {
        let mut paces = BTreeMap::new();
        for (host, pace) in meant {
            let most = paces.entry(host).or_insert(pace);
            if pace == Pace::Urgent {
                *most = pace;
            }
        }
        for (host, name) in &mut self.names {
            let pace = paces.get(host);
            name.follower.pace(*pace.unwrap_or(&Pace::Calm));
            name.unmeant_since = match pace {
                Some(_) => None,
                None => name.unmeant_since.or(Some(now)),
            };
        }
        self.forget();
    }

    /// Lets go of the names that nobody has meant for the longest time, and of literals, which need not be kept.
    fn forget(&mut self) {
        let is_unmeant = |(host, name): (&Arc<str>, &Name)| {
            let age = name.unmeant_since.filter(|_| literal(host).is_none());
            name.unmeant_since.map(|_| (age, host.clone()))
        };
        let mut unmeant: Vec<_> = self.names.iter().filter_map(is_unmeant).collect();
        unmeant.sort_unstable();
        let literals = unmeant.iter().filter(|(age, _)| age.is_none()).count();
        let most = literals.max(unmeant.len().saturating_sub(KEPT));
        for (_, host) in unmeant.into_iter().take(most) {
            if let Some(name) = self.names.remove(&host) {
                add(&mut self.past, name.follower.lookups());
            }
        }
    }

    /// How lookups have fared since the first; the age is that of those that are meant.
    pub(super) fn lookups(&self) -> Lookups {
        let mut sum = self.past;
        for name in self.names.values() {
            let lookups = name.follower.lookups();
            add(&mut sum, lookups);
            if name.unmeant_since.is_none() {
                sum.age = sum.age.max(lookups.age);
            }
        }
        sum
    }
}

fn add(sum: &mut Lookups, lookups: Lookups) {
    sum.positive += lookups.positive;
    sum.negative += lookups.negative;
    sum.transient += lookups.transient;
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, sync::Mutex, time::Duration};

    use tokio::{runtime::Handle, time::sleep};

    use super::*;
    use crate::{
        Config,
        config::Server,
        dns::{Lookup, Resolution, Resolve},
    };

    /// Knows every name, or fails; remembers what it was asked.
    #[derive(Default)]
    struct Book {
        fails: Mutex<bool>,
        asked: Mutex<Vec<String>>,
    }

    impl Resolve for Book {
        fn resolve<'a>(&'a self, name: &'a str) -> Lookup<'a> {
            self.asked.lock().unwrap().push(name.to_owned());
            let says = if *self.fails.lock().unwrap() {
                Resolution::transient("down")
            } else {
                Resolution::addresses([IpAddr::from([10, 0, 0, 1])], SECOND * 5)
            };
            Box::pin(async move { says })
        }
    }

    impl Book {
        fn asked(&self, name: &str) -> usize {
            let asked = self.asked.lock().unwrap();
            asked.iter().filter(|asked| *asked == name).count()
        }
    }

    fn names() -> (Arc<Book>, Names) {
        let config = Config::builder("redis+sentinel://10.0.0.9/orders")
            .build()
            .unwrap();
        let Server::Sentinel(group) = config.server() else {
            panic!("a group");
        };
        let book = Arc::new(Book::default());
        let plan = Plan::new(&config, group, Some(book.clone()), &Handle::current());
        (book, Names::new(Arc::new(plan)))
    }

    fn mean(names: &mut Names, meant: &[(&str, Pace)]) {
        let meant = meant.iter().map(|(host, pace)| ((*host).into(), *pace));
        names.mean(meant, Instant::now());
    }

    fn counted(lookups: Lookups) -> u64 {
        lookups.positive + lookups.negative + lookups.transient
    }

    const SECOND: Duration = Duration::from_secs(1);
    use Pace::{Calm, Urgent};

    #[tokio::test(start_paused = true)]
    async fn what_was_found_of_a_name_outlives_its_use() {
        let (book, mut names) = names();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        names.found(&a);
        mean(&mut names, &[("a", Urgent)]);
        sleep(SECOND).await;
        names.found(&b);
        mean(&mut names, &[("b", Urgent)]);
        *book.fails.lock().unwrap() = true;
        sleep(SECOND * 3600).await;
        let found = names.found(&a);
        assert_eq!(
            found.borrow().addresses.len(),
            1,
            "known without any lookup"
        );
        assert!(found.borrow().trouble.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_followed_once_and_as_urgently_as_the_most_urgent_needs_it() {
        let (book, mut names) = names();
        let host: Arc<str> = "a".into();
        for _ in 0..3 {
            names.found(&host);
        }
        let row = [
            ([("a", Calm), ("a", Calm)], 2..=3),
            ([("a", Urgent), ("a", Calm)], 18..=21),
            ([("a", Calm), ("a", Urgent)], 18..=21),
            ([("b", Urgent), ("b", Calm)], 2..=3),
        ];
        for (meant, expected) in row {
            mean(&mut names, &meant);
            sleep(SECOND).await;
            let before = book.asked("a");
            sleep(SECOND * 10).await;
            let asked = book.asked("a") - before;
            assert!(expected.contains(&asked), "{meant:?}: {asked}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_unmeant_is_forgotten_first_and_counts_never_fall() {
        let (book, mut names) = names();
        let mut counts = 0;
        for nth in 0..KEPT + 3 {
            let (host, pod) = (format!("h{nth}"), format!("10.0.1.{nth}"));
            names.found(&host.as_str().into());
            names.found(&pod.as_str().into());
            mean(
                &mut names,
                &[(&host, Calm), (&pod, Calm), ("10.0.0.9", Calm)],
            );
            sleep(SECOND * 6).await;
            let counted = counted(names.lookups());
            assert!(counted > counts, "{counted} after {counts}");
            counts = counted;
        }
        let known: Vec<&str> = names.names.keys().map(|host| &**host).collect();
        let is_literal = |host: &&&str| host.starts_with("10.");
        assert_eq!(known.iter().filter(is_literal).count(), 1, "{known:?}");
        // The last one is meant.
        assert_eq!(known.len(), 1 + KEPT + 1, "{known:?}");
        assert!(
            !known.contains(&"h0") && !known.contains(&"h1"),
            "{known:?}"
        );
        assert_eq!(counts, book.asked.lock().unwrap().len() as u64);
    }

    #[tokio::test(start_paused = true)]
    async fn the_age_is_that_of_the_names_that_are_meant() {
        let (book, mut names) = names();
        names.found(&"a".into());
        names.found(&"b".into());
        mean(&mut names, &[("a", Calm), ("b", Calm)]);
        sleep(SECOND).await;
        *book.fails.lock().unwrap() = true;
        sleep(SECOND * 100).await;
        assert!(names.lookups().age.is_some_and(|age| age > SECOND * 90));
        mean(&mut names, &[]);
        assert_eq!(names.lookups().age, None);
    }
}
