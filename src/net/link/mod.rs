//! The link: one connection that we drive ourselves, because only its driver knows what was sent and what is owed.
//!
//! Owns [`Link`], the handle to a driver's task. Promises: a submitted request gets exactly one outcome; the last handle to go takes
//! the task and the socket with it. Leaves *which* link to use, and what to do when one ends, to `channel`.
//! Fails only through outcomes. Rooms: [`dial`] opens, [`handshake`] introduces, [`driver`] drives; [`silence`] is the pure clock.

pub(crate) mod clock;
pub(crate) mod codec;
pub(crate) mod dial;
pub(crate) mod driver;
mod flock;
mod gather;
pub(crate) mod handshake;
pub(crate) mod job;
pub(crate) mod mailbox;
pub(crate) mod outbox;
pub(crate) mod owed;
mod pace;
pub(crate) mod silence;
pub(crate) mod socket;

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{runtime::Handle, sync::watch, time::Instant};

pub(crate) use self::pace::Pace;
use self::{
    driver::{Driver, Start},
    handshake::Greeting,
    job::{Job, Origin},
    mailbox::{Mailbox, Rejected, Retire},
    socket::Socket,
};
use crate::{
    Error,
    net::address::Address,
    task::{Owned, spawn_owned},
};

/// How a link is doing.
#[derive(Clone, Debug)]
pub(crate) enum LinkState {
    /// It answers, or owes nothing.
    Healthy,
    /// It owes a reply and has been quiet for `stall_after`. `excused`: until then an upload that is on its way explains it.
    Suspect { excused: Option<Instant> },
    /// The same, for `unresponsive_after`.
    Unresponsive { excused: Option<Instant> },
    /// It is gone.
    Dead { error: Error, by_peer: bool },
}

/// A number that no other link of this process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LinkId(u64);

impl LinkId {
    #[cfg(test)]
    pub(crate) fn of(number: u64) -> Self {
        Self(number)
    }
}

/// What a driver shares with the handles to it.
pub(crate) struct Post {
    pub(crate) origin: Arc<Origin>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) pace: Arc<Pace>,
    pub(crate) state: watch::Sender<LinkState>,
}

/// A handle to a connection: cheap to clone, and the last one to go ends it.
#[derive(Clone)]
pub(crate) struct Link(Arc<Inner>);

struct Inner {
    origin: Arc<Origin>,
    address: Address,
    mailbox: Arc<Mailbox>,
    state: watch::Receiver<LinkState>,
    _task: Owned,
}

impl Link {
    /// Starts driving a socket whose handshake is done.
    pub(crate) fn spawn<S: Socket>(
        start: Start<S>,
        greeting: Greeting,
        address: Address,
        pace: &Arc<Pace>,
        runtime: &Handle,
    ) -> Self {
        Self::driven(greeting, address, pace, runtime, |post| {
            Driver::new(start, post)
        })
    }

    /// A handle to what `driver` makes of its post.
    pub(crate) fn driven<D>(
        greeting: Greeting,
        address: Address,
        pace: &Arc<Pace>,
        runtime: &Handle,
        driver: impl FnOnce(Post) -> D,
    ) -> Self
    where
        D: Future<Output = ()> + Send + 'static,
    {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let mailbox = Arc::new(Mailbox::new(pace.max_owed));
        let (sender, state) = watch::channel(LinkState::Healthy);
        let id = LinkId(NEXT.fetch_add(1, Ordering::Relaxed));
        let origin = Arc::new(Origin { id, greeting });
        let driver = driver(Post {
            origin: origin.clone(),
            mailbox: mailbox.clone(),
            pace: pace.clone(),
            state: sender,
        });
        // Outside tokio's cooperative budget: a budget that runs out looks like an empty socket, and silence is judged after one.
        let task = spawn_owned(runtime, tokio::task::coop::unconstrained(driver));
        Self(Arc::new(Inner {
            origin,
            address,
            mailbox,
            state,
            _task: task,
        }))
    }

    pub(crate) fn address(&self) -> &Address {
        &self.0.address
    }

    /// Which link it is, and what the server said of itself and of this connection.
    pub(crate) fn origin(&self) -> &Arc<Origin> {
        &self.0.origin
    }

    /// Hands `job` to the driver.
    pub(crate) fn submit(&self, job: Arc<Job>) -> Result<(), Rejected> {
        self.0.mailbox.push(job)
    }

    /// How it is doing, and word of each change.
    pub(crate) fn watch(&self) -> watch::Receiver<LinkState> {
        self.0.state.clone()
    }

    /// Whether it is quiet while it owes replies, or gone.
    pub(crate) fn is_silent(&self) -> bool {
        !matches!(*self.0.state.borrow(), LinkState::Healthy)
    }

    pub(crate) fn retire(&self, order: Retire) {
        self.0.mailbox.retire(order);
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("id", &self.0.origin.id)
            .field("address", &self.0.address)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    use std::net::SocketAddr;
    use std::time::Duration;

    use bytes::BytesMut;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::JoinSet;
    use tokio::time::{sleep, timeout};

    use super::codec::{Decoder, Limits};
    use crate::Request;

    /// A link over `socket`, with bytes that came with the handshake and replies that are still owed for it.
    fn link(socket: DuplexStream, inbox: &[u8], owed: usize) -> Link {
        let second = Duration::from_secs(1);
        let pace = Pace::new("test".into(), 100, second * 3 / 20, second);
        let start = Start {
            socket,
            decoder: Decoder::new(Limits::default()),
            inbox: BytesMut::from(inbox),
            owed,
        };
        let address = SocketAddr::from(([127, 0, 0, 1], 1)).into();
        Link::spawn(
            start,
            Greeting::default(),
            address,
            &Arc::new(pace),
            &Handle::current(),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_never_had_a_call_asks_for_a_sign_of_life() {
        let (near, mut far) = duplex(1 << 20);
        let _link = link(near, b"", 0);
        let mut word = [0; 14];
        timeout(Duration::from_secs(3), far.read_exact(&mut word))
            .await
            .expect("in time")
            .expect("a ping");
        assert_eq!(&word, b"*1\r\n$4\r\nPING\r\n");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pipeline_answered_over_several_turns_leaves_no_silence() {
        let (near, mut far) = duplex(1 << 22);
        let link = link(near, b"", 0);
        let mut pipeline = redis::pipe();
        for _ in 0..10_000 {
            pipeline.cmd("SET").arg("k").arg("v");
        }
        let (job, ticket) = Job::pair(Request::from(pipeline));
        link.submit(job).expect("taken in");
        sleep(Duration::from_millis(1)).await;
        far.write_all("+OK\r\n".repeat(10_000).as_bytes())
            .await
            .expect("room");
        ticket.await;
        sleep(Duration::from_millis(400)).await;
        assert!(!link.is_silent(), "{:?}", *link.watch().borrow());
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_server_said_before_it_went_reaches_every_caller() {
        const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";
        // Cut in the middle of a flock: some have been woken and ask again, others have not.
        for answered in [64, 80, 96, 100, 127] {
            let (near, mut far) = duplex(1 << 16);
            let link = Arc::new(link(near, b"", 0));
            let (mut callers, mut peer) = (JoinSet::new(), JoinSet::new());
            for _ in 0..64 {
                let link = link.clone();
                callers.spawn(async move {
                    let mut said = 0;
                    for _ in 0..2 {
                        let (job, ticket) = Job::pair(Request::from(redis::cmd("PING")));
                        if link.submit(job).is_err() {
                            break;
                        }
                        said += usize::from(matches!(ticket.await, job::Outcome::Replied(_)));
                    }
                    said
                });
            }
            // A task like theirs, so that it has its turn between those of the driver.
            peer.spawn(async move {
                let (mut asked, mut told) = (BytesMut::new(), 0);
                while told < answered {
                    far.read_buf(&mut asked).await.expect("readable");
                    let now = answered.min(asked.len() / PING.len());
                    let replies = "+PONG\r\n".repeat(now - told);
                    far.write_all(replies.as_bytes()).await.expect("room");
                    told = now;
                }
            });
            let said: usize = callers.join_all().await.iter().sum();
            peer.join_all().await;
            assert_eq!(said, answered);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_explains_a_silence_for_as_long_as_it_takes_and_is_waited_for() {
        let (second, zero) = (Duration::from_secs(1), Duration::ZERO);
        let set = |size: usize, patience: Duration| {
            let mut set = Request::from(redis::cmd("SET").arg("k").arg(vec![b'x'; size]));
            set.set_deadline(crate::deadline::Deadline::after(patience));
            set
        };
        // Waited for, and then by nobody any more.
        let after = async |asked: &[(usize, Duration)], waited: Duration, silent: Duration| {
            let (near, _far) = duplex(1 << 25);
            let link = link(near, b"", 0);
            let jobs: Vec<_> = asked
                .iter()
                .map(|(size, patience)| Job::pair(set(*size, *patience)))
                .collect();
            let submit = |(job, ticket): (Arc<Job>, _)| {
                link.submit(job).expect("taken in");
                ticket
            };
            let tickets: Vec<_> = jobs.into_iter().map(submit).collect();
            sleep(waited).await;
            drop(tickets);
            sleep(silent).await;
            let state = link.watch();
            state.borrow().clone()
        };
        let (large, patient) = (4 << 20, second * 30);
        for waited in [second * 2, second * 7 / 2] {
            let state = after(&[(large, patient)], waited, zero).await;
            let is_excused = matches!(state, LinkState::Unresponsive { excused: Some(_) });
            assert!(is_excused, "{state:?} after {waited:?}");
        }
        for (asked, waited, silent) in [
            (&[(large, patient)][..], second * 9 / 2, zero),
            (&[(large, patient)], second * 2, second / 4),
            (&[(large * 4, patient)], second * 17 / 2, zero),
            (&[(large, second * 2)], second * 3 / 2, zero),
            (&[(100 << 10, patient)], second * 3 / 2, zero),
            (&[(1, patient), (large, patient)], second * 3 / 2, zero),
        ] {
            let state = after(asked, waited, silent).await;
            let is_dead = matches!(state, LinkState::Dead { .. });
            assert!(
                is_dead,
                "{state:?} of {asked:?} after {waited:?} and {silent:?}"
            );
        }
    }

    /// The answer of one whose sender does not wait is that it is on its way.
    #[tokio::test(start_paused = true)]
    async fn a_link_that_is_drained_still_writes_what_nobody_waits_for() {
        let (near, mut far) = duplex(16);
        let link = link(near, b"", 0);
        let mut set = redis::cmd("SET");
        set.arg("k").arg("v").set_no_response(true);
        for _ in 0..3 {
            let (job, ticket) = Job::pair(Request::from(&set));
            link.submit(job).expect("taken in");
            assert!(matches!(ticket.await, job::Outcome::Replied(_)));
        }
        link.retire(Retire::Drain);
        let mut asked = BytesMut::new();
        let whole = set.get_packed_command().repeat(3);
        while asked.len() < whole.len() {
            let read = timeout(Duration::from_millis(50), far.read_buf(&mut asked));
            assert!(
                read.await.expect("in time").expect("readable") > 0,
                "closed"
            );
        }
        assert_eq!(asked, whole);
        let state = link.watch();
        assert!(
            !matches!(*state.borrow(), LinkState::Dead { .. }),
            "not run yet"
        );
        far.write_all(&b"+OK\r\n".repeat(3)).await.expect("room");
        far.read_buf(&mut asked).await.expect("closed");
        assert!(matches!(*state.borrow(), LinkState::Dead { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn nudges_answered_with_the_handshake_leave_no_silence() {
        let (near, _far) = duplex(1 << 20);
        let link = link(near, b"+PONG\r\n", 1);
        sleep(Duration::from_millis(400)).await;
        assert!(!link.is_silent(), "{:?}", *link.watch().borrow());
    }

    /// A link's identity for tests of the rooms below.
    pub(crate) fn origin() -> Arc<Origin> {
        Arc::new(Origin {
            id: LinkId(0),
            greeting: Greeting::default(),
        })
    }
}
