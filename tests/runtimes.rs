//! Built or called outside a runtime, or after its runtime is gone: a typed error or a new home, never a panic, never a hang.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may end here"
)]

mod common;

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use common::{CALL_TIMEOUT, GRACE, SECOND, fake::Fake, ms};
use redis_holdfast::{Client, Error, ErrorKind, Phase, Request, redis};
use tokio::{
    runtime::{Builder, Runtime},
    time::Instant,
};
use tower::Service;

fn runtime(workers: usize) -> Runtime {
    match workers {
        0 => Builder::new_current_thread().enable_all().build(),
        _ => Builder::new_multi_thread()
            .worker_threads(workers)
            .enable_all()
            .build(),
    }
    .unwrap()
}

fn build(url: &str) -> Client {
    let builder = Client::builder(url).unwrap().call_timeout(CALL_TIMEOUT);
    builder.build().unwrap()
}

async fn get(client: &Client) -> Result<String, Error> {
    let get = Request::from(redis::cmd("GET").arg("k"));
    client.service().call(get).await?.parse()
}

/// A fake on a runtime of its own, which outlives those of the tests.
static SERVER: LazyLock<(Fake, Runtime)> = LazyLock::new(|| {
    let home = runtime(1);
    (home.block_on(Fake::start(|_, _| None)), home)
});

/// As services keep it.
static CLIENT: LazyLock<Client> = LazyLock::new(|| build(&SERVER.0.url("")));

#[test]
fn a_client_in_a_static_serves_one_runtime_after_the_other() {
    assert!(!CLIENT.health().is_ready(), "built outside a runtime");
    for workers in [0, 1, 2, 0] {
        let runtime = runtime(workers);
        for _ in 0..3 {
            assert_eq!(runtime.block_on(get(&CLIENT)).unwrap(), "value");
        }
        drop(runtime);
        assert!(!CLIENT.health().is_ready(), "nobody keeps the link");
    }
}

#[test]
fn a_client_serves_two_runtimes_at_once_and_outlives_the_one_that_kept_its_link() {
    let (first, second) = (runtime(1), runtime(1));
    let client = build(&SERVER.0.url(""));
    assert!(first.block_on(get(&client)).is_ok());
    assert!(second.block_on(get(&client)).is_ok());
    let caller = thread::spawn({
        let client = client.clone();
        move || {
            let end = Instant::now() + ms(300);
            let mut slowest = Duration::ZERO;
            while Instant::now() < end {
                let started = Instant::now();
                // The one that was under way when its link's runtime ended may have run: it is not sent again.
                let _ = second.block_on(get(&client));
                slowest = slowest.max(started.elapsed());
            }
            (second.block_on(get(&client)), slowest)
        }
    });
    thread::sleep(ms(100));
    drop(first);
    let (last, slowest) = caller.join().unwrap();
    assert_eq!(last.unwrap(), "value");
    // A busy machine may take its time, but nobody waits for a runtime that is gone.
    assert!(slowest <= CALL_TIMEOUT + GRACE * 5, "{slowest:?}");
}

#[test]
fn without_a_runtime_nothing_panics_nothing_hangs_and_nothing_is_sent() {
    let heard = Arc::<AtomicUsize>::default();
    let counts = heard.clone();
    let (home, keeper) = (runtime(1), runtime(1));
    let fake = home.block_on(Fake::start(move |_, command| {
        counts.fetch_add(usize::from(command[0] == "INCR"), Ordering::SeqCst);
        None
    }));
    let never_connected = build(&fake.url(""));
    let connected = build(&fake.url(""));
    keeper.block_on(get(&connected)).unwrap();
    for client in [never_connected, connected] {
        // Made and polled by an executor that is not tokio's, whatever is kept elsewhere.
        let incr = Request::from(redis::cmd("INCR").arg("k"));
        let error = block_on(client.service().call(incr)).unwrap_err();
        assert_eq!(
            (error.kind(), error.phase()),
            (ErrorKind::Refused, Phase::Queue)
        );
        assert!(!error.may_have_executed(), "{error}");
        let error = block_on(client.wait_ready(SECOND)).unwrap_err();
        println!("FIGURE runtimes, without one: {error}");
        // It is as good as new for whoever has one.
        assert!(runtime(0).block_on(get(&client)).is_ok());
        block_on(client.shutdown(SECOND));
        let refused = runtime(0).block_on(get(&client)).unwrap_err();
        assert_eq!(
            refused.kind(),
            ErrorKind::Refused,
            "it was shut down: {refused}"
        );
    }
    assert_eq!(heard.load(Ordering::SeqCst), 0);
}

#[test]
fn a_handle_may_be_dropped_anywhere() {
    let client = build(&SERVER.0.url(""));
    let runtime = runtime(1);
    runtime.block_on(async {
        get(&client).await.unwrap();
        let pending = client.service().call(Request::from(redis::cmd("PING")));
        // A call that was made here is dropped on a thread without a runtime.
        thread::spawn(move || drop(pending)).join().unwrap();
    });
    drop(runtime);
    thread::spawn(move || drop(client)).join().unwrap();
}

#[test]
fn shutdown_after_its_runtime_is_gone_ends_in_time() {
    let client = build(&SERVER.0.url(""));
    runtime(1).block_on(get(&client)).unwrap();
    let started = Instant::now();
    assert!(runtime(0).block_on(client.shutdown(SECOND)));
    assert!(started.elapsed() < SECOND, "{:?}", started.elapsed());
}

/// The smallest executor: no timers, no I/O.
fn block_on<F: Future>(future: F) -> F::Output {
    use std::task::{Context, Poll, Wake, Waker};
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(std::sync::Arc::new(Unpark(thread::current())));
    let (mut future, end) = (std::pin::pin!(future), Instant::now() + SECOND * 5);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        assert!(Instant::now() < end, "hangs");
        thread::park_timeout(SECOND);
    }
}
