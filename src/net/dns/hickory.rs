//! The default resolver: hosts file, then the name servers of resolv.conf, asked by us.
//!
//! Owns [`Hickory`]: candidates one after the other, A and AAAA apart and side by side, no cache of addresses, no retry.
//! Promises: an answer within its time limit; a family that did not answer is `Transient`, whatever the other one or the next
//! candidate says, so "no such name" is never a timeout in disguise; where a name was found, a failure is its answer, and no
//! candidate below it is asked; files are read again when they change.
//! Leaves packets to [`exchange`], what was found where to [`trail`](super::trail), retries and memory to [`policy`](super::policy).
//! Fails as [`Answer::Transient`].

use std::{
    net::SocketAddr,
    path::PathBuf,
    pin::pin,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use hickory_proto::rr::{Name, RecordType};
use tokio::{
    select,
    time::{Instant, sleep_until},
};

use super::{
    Answer, DnsPolicy, Families, Lookup, NoAddress, Resolution, Resolve,
    conf::Conf,
    exchange,
    hosts::Hosts,
    literal, loopback,
    settings::LOOKUP_LEGAL,
    trail::{Trail, Trails},
    watched::Watched,
};

/// Asks name servers itself, over UDP and, where an answer is cut short, TCP; the wire format is `hickory`'s.
///
/// One lookup sends one datagram per address family, search-list candidate and name server that was needed: a second server is
/// asked when the first fails or has said nothing for 400 ms. A name that was found is not looked for further down the list: that it
/// fails now is no reason to believe another. A lookup takes a little less than [`lookup_timeout`](Self::lookup_timeout). It must run
/// inside a tokio runtime with I/O and time.
///
/// # Examples
/// ```
/// use redis_holdfast::dns::{Families, Hickory};
///
/// let as_the_system_does = Hickory::system().families(Families::V4Only);
/// let through_this_server = Hickory::servers(["10.96.0.10:53".parse()?])
///     .hosts_file("/etc/hosts")
///     .lookup_timeout(std::time::Duration::from_secs(5));
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
pub struct Hickory {
    conf: Source,
    hosts: Option<Watched<Hosts>>,
    families: Families,
    lookup_timeout: Duration,
    answered_last: AtomicUsize,
    trails: Trails,
}

enum Source {
    File(Watched<Conf>),
    Given(Arc<Conf>),
}

impl Hickory {
    /// As the system does: `localhost`, `/etc/hosts`, then the servers, search list and `ndots` of `/etc/resolv.conf`. Both files
    /// are read again when they change. Sources that only nsswitch knows need [`System`](super::System).
    #[must_use]
    pub fn system() -> Self {
        Self::from(Source::File(Watched::new(RESOLV_CONF.into(), Conf::parse))).hosts_file(HOSTS)
    }

    /// These name servers (the first three), names taken as absolute, no hosts file.
    #[must_use]
    pub fn servers(servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self::from(Source::Given(Arc::new(Conf::servers(servers))))
    }

    /// Looks into this hosts file first; a file that does not exist is an empty one.
    #[must_use]
    pub fn hosts_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.hosts = Some(Watched::new(path.into(), Hosts::parse));
        self
    }

    /// Asks for these families alone. Default both.
    #[must_use]
    pub fn families(mut self, families: Families) -> Self {
        self.families = families;
        self
    }

    /// The time after which whoever asks gives up: say it where [`DnsPolicy::lookup_timeout`] is not the default. Default 2.2 s; what
    /// is out of the policy's legal range is taken as the nearer end of it.
    #[must_use]
    pub fn lookup_timeout(mut self, limit: Duration) -> Self {
        self.lookup_timeout = limit.clamp(*LOOKUP_LEGAL.start(), *LOOKUP_LEGAL.end());
        self
    }

    fn from(conf: Source) -> Self {
        Self {
            conf,
            hosts: None,
            families: Families::Both,
            lookup_timeout: DnsPolicy::default().lookup_timeout,
            answered_last: AtomicUsize::new(0),
            trails: Trails::default(),
        }
    }

    async fn lookup(&self, name: &str) -> Resolution {
        if let Some(address) = literal(name) {
            return Resolution::addresses([address], Duration::MAX);
        }
        if let Some(found) = loopback(name).or_else(|| self.in_hosts(name)) {
            return self.families.keep(found);
        }
        let conf = match &self.conf {
            Source::Given(conf) => conf.clone(),
            Source::File(file) => match file.read() {
                Ok(conf) => conf,
                Err(error) => {
                    let path = file.path().display();
                    return Resolution::transient(format!("{path} cannot be read: {error}"));
                }
            },
        };
        if conf.servers.is_empty() {
            return Resolution::transient("no name server is configured");
        }
        match conf.candidates(name) {
            Ok(candidates) => self.search(&conf, candidates).await,
            Err(_) => Resolution::negative(NoAddress::NxDomain, Duration::ZERO),
        }
    }

    fn in_hosts(&self, name: &str) -> Option<Resolution> {
        self.hosts.as_ref()?.read().ok()?.find(name)
    }

    /// Where the name was found before, then, if need be, above it; one never found anywhere on the list.
    async fn search(&self, conf: &Conf, candidates: Vec<Name>) -> Resolution {
        // A little before we are given up: our own words say more than "too late".
        let deadline = Instant::now() + self.lookup_timeout.mul_f64(0.95);
        let trail = self.trails.of(candidates);
        let Some(home) = trail.home() else {
            return self.walk(conf, &trail, deadline).await;
        };
        let found = self.both(conf, home, deadline).await;
        trail.heard_at_home(&found, Instant::now());
        if is_positive(&found) && !trail.looks_above(Instant::now()) {
            return found;
        }
        let above = self.walk(conf, &trail, deadline).await;
        if is_positive(&above) { above } else { found }
    }

    async fn walk(&self, conf: &Conf, trail: &Trail, deadline: Instant) -> Resolution {
        let mut none: Option<Resolution> = None;
        for (place, candidate) in trail.above() {
            // Silence used up the time. It also is no reason to believe that the name is one further down the list.
            if Instant::now() >= deadline {
                break;
            }
            let heard = match trail.none(place, Instant::now()) {
                Some(before) => before,
                None => {
                    let heard = self.both(conf, candidate, deadline).await;
                    trail.heard(place, &heard, Instant::now());
                    heard
                }
            };
            if is_positive(&heard) {
                if trail.found(place) {
                    return heard;
                }
                break;
            }
            none = Some(match none {
                None => heard,
                Some(before) => Resolution::new(
                    weightier(before.v4, heard.v4),
                    weightier(before.v6, heard.v6),
                ),
            });
        }
        if Instant::now() < deadline {
            trail.ended();
        }
        none.unwrap_or_else(|| Resolution::negative(NoAddress::NxDomain, Duration::ZERO))
    }

    /// Both families of one absolute name, side by side.
    async fn both(&self, conf: &Conf, name: &Name, deadline: Instant) -> Resolution {
        let ask = |kind| exchange::ask(&conf.servers, &self.answered_last, name, kind);
        let (mut a, mut aaaa) = (pin!(ask(RecordType::A)), pin!(ask(RecordType::AAAA)));
        let mut patience = pin!(sleep_until(deadline));
        let mut v4 = (!self.families.v4()).then(Answer::none);
        let mut v6 = (!self.families.v6()).then(Answer::none);
        while v4.is_none() || v6.is_none() {
            let first = select! {
                answer = &mut a, if v4.is_none() => v4.insert(answer),
                answer = &mut aaaa, if v6.is_none() => v6.insert(answer),
                () = &mut patience => break,
            };
            if let Some(grace) = grace(first) {
                patience
                    .as_mut()
                    .reset(deadline.min(Instant::now() + grace));
            }
        }
        let silent = || Answer::transient(SILENT);
        Resolution::new(v4.unwrap_or_else(silent), v6.unwrap_or_else(silent))
    }
}

impl Resolve for Hickory {
    fn resolve<'a>(&'a self, name: &'a str) -> Lookup<'a> {
        Box::pin(self.lookup(name))
    }
}

/// How long the second family may take once the first has answered; without it, until the time is up.
fn grace(first: &Answer) -> Option<Duration> {
    match first {
        // RFC 8305, "resolution delay": some networks swallow AAAA questions, and that must not delay each lookup.
        Answer::Positive { .. } => Some(Duration::from_millis(50)),
        // The name itself does not exist (RFC 8020), but servers are known that say so for one family only (RFC 4074).
        Answer::Negative {
            reason: NoAddress::NxDomain,
            ..
        } => Some(Duration::from_millis(400)),
        _ => None,
    }
}

fn is_positive(found: &Resolution) -> bool {
    found.v4.is_positive() || found.v6.is_positive()
}

/// Of two answers without an address, the one that rules out less.
fn weightier(before: Answer, after: Answer) -> Answer {
    let rank = |answer: &Answer| match answer {
        Answer::Negative { reason, .. } => usize::from(*reason == NoAddress::NoData),
        _ => 2,
    };
    if rank(&after) > rank(&before) {
        after
    } else {
        before
    }
}

const SILENT: &str = "name servers do not answer";
const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use hickory_proto::op::ResponseCode::{NXDomain, NoError, Refused, ServFail};
    use hickory_proto::rr::RecordType::{A, AAAA};

    use tokio::{runtime::Handle, sync::watch, time::sleep};

    use super::*;
    use crate::net::dns::{
        Found, Pace, follow,
        scripted::{NameServer, Say},
    };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn addresses(answer: &Answer) -> Vec<IpAddr> {
        match answer {
            Answer::Positive { addresses, ttl } => {
                assert_eq!(*ttl, Duration::from_secs(7));
                addresses.clone()
            }
            _ => Vec::new(),
        }
    }

    fn reason(answer: &Answer) -> &str {
        match answer {
            Answer::Transient { reason } => reason,
            Answer::Negative { reason, .. } => match reason {
                NoAddress::NxDomain => "nxdomain",
                NoAddress::NoData => "nodata",
            },
            Answer::Positive { .. } => "positive",
        }
    }

    fn reasons(found: &Resolution) -> [&str; 2] {
        [reason(&found.v4), reason(&found.v6)]
    }

    /// A resolver of a pod with two search domains.
    fn in_pod(servers: &[&NameServer]) -> Hickory {
        let mut conf = Conf::parse("search first.test second.test\noptions ndots:2");
        conf.servers = servers.iter().map(|server| server.address).collect();
        Hickory::from(Source::Given(Arc::new(conf)))
    }

    async fn timed(resolver: &Hickory, name: &str) -> (Resolution, Duration) {
        let start = Instant::now();
        let found = resolver.resolve(name).await;
        println!("{name}: {found:?} in {:?}", start.elapsed());
        (found, start.elapsed())
    }

    #[tokio::test]
    async fn both_families_are_asked_once_each() {
        let server = NameServer::start().await;
        let four = [ip("10.0.0.1"), ip("10.0.0.2")].to_vec();
        let six = vec![ip("fd00::1")];
        server
            .say("redis.test.", A, Say::Addresses(four.clone()))
            .say("redis.test.", AAAA, Say::Addresses(six.clone()));
        let (found, took) = timed(&Hickory::servers([server.address]), "redis.test").await;
        assert_eq!((addresses(&found.v4), addresses(&found.v6)), (four, six));
        assert_eq!(server.heard().len(), 2);
        assert!(took < Duration::from_millis(200), "{took:?}");
    }

    #[tokio::test]
    async fn a_silent_server_hears_one_datagram_per_family_and_the_lookup_ends_in_time() {
        let server = NameServer::start().await;
        let limit = Duration::from_secs(1);
        let resolver = in_pod(&[&server]).lookup_timeout(limit);
        let (found, took) = timed(&resolver, "redis").await;
        assert_eq!(reasons(&found), [SILENT; 2]);
        assert_eq!(server.heard().len(), 2, "{:?}", server.heard());
        assert!(took >= limit * 9 / 10 && took < limit * 13 / 10, "{took:?}");
    }

    #[tokio::test]
    async fn a_that_times_out_beside_an_empty_aaaa_is_not_no_such_name() {
        let server = NameServer::start().await;
        server.say("redis.test.", AAAA, Say::Code(NoError));
        let (found, _) = timed(&Hickory::servers([server.address]), "redis.test").await;
        assert_eq!(reasons(&found), [SILENT, "nodata"]);
    }

    #[tokio::test]
    async fn aaaa_that_is_swallowed_costs_fifty_milliseconds() {
        let server = NameServer::start().await;
        let four = vec![ip("10.0.0.1")];
        server.say("redis.test.", A, Say::Addresses(four.clone()));
        let (found, took) = timed(&Hickory::servers([server.address]), "redis.test").await;
        assert_eq!(addresses(&found.v4), four);
        assert_eq!(reason(&found.v6), SILENT);
        assert!(
            took >= Duration::from_millis(50) && took < Duration::from_millis(250),
            "{took:?}"
        );
    }

    #[tokio::test]
    async fn every_word_of_a_server_is_told_apart() {
        let server = NameServer::start().await;
        let resolver = Hickory::servers([server.address]);
        for (code, expected) in [
            (NXDomain, "nxdomain"),
            (NoError, "nodata"),
            (ServFail, "name server failed (SERVFAIL)"),
            (Refused, "name server refused (REFUSED)"),
        ] {
            for kind in [A, AAAA] {
                server.say("redis.test.", kind, Say::Code(code));
            }
            let (found, took) = timed(&resolver, "redis.test.").await;
            assert_eq!(reasons(&found), [expected; 2]);
            assert!(took < Duration::from_millis(300), "{took:?}");
        }
        let closed = Hickory::servers(["127.0.0.1:9".parse().unwrap()]);
        let (found, took) = timed(&closed, "redis.test").await;
        assert_eq!(reasons(&found), ["name servers cannot be reached"; 2]);
        assert!(took < Duration::from_millis(300), "{took:?}");
    }

    #[tokio::test]
    async fn the_search_list_is_walked_and_does_not_mask_a_failure() {
        let server = NameServer::start().await;
        let resolver = in_pod(&[&server]);
        for name in ["redis.first.test.", "redis.second.test.", "redis."] {
            for kind in [A, AAAA] {
                server.say(name, kind, Say::Code(NXDomain));
            }
        }
        assert_eq!(reasons(&timed(&resolver, "redis").await.0), ["nxdomain"; 2]);
        assert_eq!(server.heard().len(), 6);

        server.say("redis.first.test.", A, Say::Code(ServFail));
        let (found, _) = timed(&resolver, "redis").await;
        assert_eq!(
            reasons(&found),
            ["name server failed (SERVFAIL)", "nxdomain"]
        );

        server.say("redis.first.test.", A, Say::Nothing);
        let (found, took) = timed(&resolver, "redis").await;
        assert_eq!(reasons(&found), [SILENT, "nxdomain"], "glibc: try again");
        assert!(
            took < Duration::from_secs(2),
            "the other family had said that there is no such name: {took:?}"
        );

        let four = vec![ip("10.0.0.1")];
        server
            .say("redis.second.test.", A, Say::Addresses(four.clone()))
            .say("redis.second.test.", AAAA, Say::Code(NoError));
        assert_eq!(addresses(&timed(&resolver, "redis").await.0.v4), four);
        let before = server.heard().len();
        assert_eq!(
            reasons(&timed(&resolver, "redis.").await.0),
            ["nxdomain"; 2]
        );
        assert_eq!(
            server.heard().len() - before,
            2,
            "a trailing dot is absolute"
        );
    }

    #[tokio::test]
    async fn a_name_once_found_is_not_looked_for_further_down_the_search_list() {
        let server = NameServer::start().await;
        let (ours, stranger) = (vec![ip("10.0.0.1")], vec![ip("10.0.0.66")]);
        for (name, four) in [
            ("redis.first.test.", &ours),
            ("redis.second.test.", &stranger),
        ] {
            server
                .say(name, A, Say::Addresses(four.clone()))
                .say(name, AAAA, Say::Code(NoError));
        }
        let (teller, mut told) = watch::channel(Found::default());
        let follower = follow(
            "redis",
            Arc::new(in_pod(&[&server])),
            DnsPolicy::default().urgent_every(Duration::from_millis(100)),
            &Handle::current(),
            move |found| drop(teller.send_replace(found)),
        );
        follower.pace(Pace::Urgent);
        told.changed().await.unwrap();
        assert_eq!(told.borrow_and_update().addresses, ours);
        for (say, trouble) in [
            (Say::Code(ServFail), "name server failed (SERVFAIL)"),
            (Say::Code(NXDomain), "no such name redis"),
            (Say::Code(Refused), "name server refused (REFUSED)"),
        ] {
            for kind in [A, AAAA] {
                server.say("redis.first.test.", kind, say.clone());
            }
            // Longer than it takes to believe that an address is gone.
            sleep(Duration::from_millis(1300)).await;
            let found = told.borrow_and_update().clone();
            assert_eq!((found.addresses, found.gone), (ours.clone(), vec![]));
            assert_eq!(found.trouble.as_deref(), Some(trouble));
        }
        let down = |(name, _): &(String, _)| name != "redis.first.test.";
        assert!(!server.heard().iter().any(down), "{:?}", server.heard());

        let moved = vec![ip("10.0.0.2")];
        server.say("redis.first.test.", A, Say::Addresses(moved.clone()));
        sleep(Duration::from_millis(300)).await;
        assert!(told.borrow().addresses.starts_with(&moved));
    }

    #[tokio::test]
    async fn a_name_that_appears_further_up_the_search_list_is_found_there() {
        let server = NameServer::start().await;
        let (lower, upper) = (vec![ip("10.0.0.66")], vec![ip("10.0.0.1")]);
        for kind in [A, AAAA] {
            server.say("redis.first.test.", kind, Say::Code(ServFail));
            server.say("redis.second.test.", kind, Say::Code(NoError));
        }
        server.say("redis.second.test.", A, Say::Addresses(lower.clone()));
        let resolver = in_pod(&[&server]);
        let found = timed(&resolver, "redis").await.0;
        assert_eq!(addresses(&found.v4), lower);
        server.say("redis.first.test.", A, Say::Addresses(upper.clone()));
        for _ in 0..2 {
            let found = timed(&resolver, "redis").await.0;
            assert_eq!(addresses(&found.v4), upper);
        }
    }

    #[tokio::test]
    async fn a_walk_cut_short_by_slow_answers_is_resumed_and_not_repeated_once_the_name_is_found() {
        let server = NameServer::start().await;
        let mut resolver = in_pod(&[&server]);
        let mut conf = Conf::parse("search a.test b.test c.test");
        conf.ndots = 5;
        conf.servers = vec![server.address];
        resolver.conf = Source::Given(Arc::new(conf));
        let four = vec![ip("10.0.0.1")];
        let slow = |say| Say::Late(Duration::from_millis(550), Box::new(say));
        for name in ["redis.a.test.", "redis.b.test.", "redis.c.test.", "redis."] {
            for kind in [A, AAAA] {
                server.say(name, kind, slow(Say::Code(NXDomain)));
            }
        }
        server.say("redis.", A, slow(Say::Addresses(four.clone())));

        assert_eq!(reasons(&timed(&resolver, "redis").await.0), [SILENT; 2]);
        for asked in [2, 2 + 6, 2] {
            let before = server.heard().len();
            let (found, _) = timed(&resolver, "redis").await;
            assert_eq!(addresses(&found.v4), four);
            assert_eq!(server.heard().len() - before, asked, "{:?}", server.heard());
        }

        resolver.trails = Trails::default();
        let resolver = resolver.lookup_timeout(Duration::from_secs(3));
        let (found, _) = timed(&resolver, "redis").await;
        assert_eq!(addresses(&found.v4), four, "in one go");
    }

    #[tokio::test]
    async fn an_answer_cut_short_is_asked_for_again_over_tcp() {
        let server = NameServer::start().await;
        let many: Vec<IpAddr> = (1..=60)
            .map(|last| IpAddr::from([10, 0, 0, last]))
            .collect();
        server
            .say("redis.test.", A, Say::OverTcp(many.clone()))
            .say("redis.test.", AAAA, Say::Code(NoError));
        let (found, _) = timed(&Hickory::servers([server.address]), "redis.test").await;
        assert_eq!(addresses(&found.v4), many);
    }

    #[tokio::test]
    async fn a_second_server_is_asked_when_the_first_fails_or_is_silent_and_then_asked_first() {
        let (first, second) = (NameServer::start().await, NameServer::start().await);
        let resolver = Hickory::servers([first.address, second.address]);
        for (name, say) in [
            ("silent.test.", Say::Nothing),
            ("garbage.test.", Say::Garbage),
            ("failing.test.", Say::Code(ServFail)),
        ] {
            resolver
                .answered_last
                .store(0, std::sync::atomic::Ordering::Relaxed);
            for kind in [A, AAAA] {
                first.say(name, kind, say.clone());
            }
            let four = vec![ip("10.0.0.1")];
            second
                .say(name, A, Say::Addresses(four.clone()))
                .say(name, AAAA, Say::Code(NoError));
            let (found, took) = timed(&resolver, name).await;
            assert_eq!(addresses(&found.v4), four);
            assert!(took < Duration::from_millis(600), "{took:?}");
            let before = first.heard().len();
            let (_, took) = timed(&resolver, name).await;
            assert_eq!(first.heard().len(), before);
            assert!(took < Duration::from_millis(200), "{took:?}");
        }
    }

    #[tokio::test]
    async fn a_slow_answer_is_waited_for() {
        let server = NameServer::start().await;
        let four = vec![ip("10.0.0.1")];
        let late = Say::Late(
            Duration::from_millis(900),
            Box::new(Say::Addresses(four.clone())),
        );
        server.say("redis.test.", A, late);
        let resolver = Hickory::servers([server.address]).families(Families::V4Only);
        let (found, took) = timed(&resolver, "redis.test").await;
        assert_eq!(addresses(&found.v4), four);
        assert_eq!(reason(&found.v6), "nodata");
        assert!(took >= Duration::from_millis(900), "{took:?}");
        assert_eq!(server.heard().len(), 1);
    }

    #[tokio::test]
    async fn literals_localhost_and_the_hosts_file_are_never_asked_for() {
        let server = NameServer::start().await;
        let path = std::env::temp_dir().join(format!("holdfast-hosts-{:x}", fastrand::u64(..)));
        let resolver = Hickory::servers([server.address]).hosts_file(&path);
        std::fs::write(&path, "10.0.0.9 redis.pod redis\n").unwrap();
        for (name, expected) in [
            ("10.1.2.3", "10.1.2.3"),
            ("localhost", "127.0.0.1"),
            ("redis", "10.0.0.9"),
            ("redis.pod", "10.0.0.9"),
        ] {
            let found = resolver.resolve(name).await;
            let Answer::Positive { addresses, .. } = &found.v4 else {
                panic!("{name}: {found:?}");
            };
            assert_eq!(addresses[..], [ip(expected)], "{name}");
        }
        std::fs::write(&path, "10.0.0.10 redis\n").unwrap();
        let found = resolver.resolve("redis").await;
        assert!(
            matches!(&found.v4, Answer::Positive { addresses, .. } if addresses[..] == [ip("10.0.0.10")])
        );
        std::fs::remove_file(&path).unwrap();
        assert_eq!(server.heard(), []);
    }

    #[tokio::test]
    async fn a_resolv_conf_that_is_missing_or_empty_is_a_failure_with_a_reason_and_is_read_again() {
        let path = std::env::temp_dir().join(format!("holdfast-resolv-{:x}", fastrand::u64(..)));
        let resolver = Hickory::from(Source::File(Watched::new(path.clone(), Conf::parse)));
        let found = resolver.resolve("redis").await;
        assert!(reason(&found.v4).contains("cannot be read"), "{found:?}");
        std::fs::write(&path, "search test\n").unwrap();
        let found = resolver.resolve("redis").await;
        assert_eq!(reasons(&found), ["no name server is configured"; 2]);
        std::fs::write(&path, "nameserver 127.0.0.253\nsearch test\n").unwrap();
        let found = resolver.resolve("redis").await;
        assert_eq!(
            reasons(&found),
            ["name servers cannot be reached"; 2],
            "port 53 there"
        );
        std::fs::remove_file(&path).unwrap();
    }
}
