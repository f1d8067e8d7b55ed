//! One timer for all the calls of a thread.
//!
//! Owns the clocks: one per thread and runtime, made when first needed. A call leaves its deadline and its waker and takes both back
//! when it ends; a timer is set for the earliest deadline, and when it fires whoever is late is woken and the next one is looked for. Nearly
//! every call ends long before, so that it costs two short locks that nobody else wants, where a timer of its own costs an entry in
//! the runtime's wheel, set and removed under a lock that all threads share. No task waits: one runs for a moment when the timer fires.
//! Promises: a call is woken at its deadline, as by a timer of its own; a runtime that goes away takes no deadline with it: those who
//! watch are woken, and watch again where they are polled next. Leaves what is late to [`timeout`](super). Fails where there is no runtime.

use std::{
    cell::RefCell,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Wake, Waker},
};

use tokio::{
    runtime::{Handle, TryCurrentError},
    time::{Instant, Sleep, sleep_until},
};

use crate::task::run_soon;

thread_local! {
    /// The clocks of this thread. A thread that drives one runtime, as all but a few do, has one.
    static CLOCKS: RefCell<Vec<Arc<Clock>>> = const { RefCell::new(Vec::new()) };
}

/// The deadlines of the calls that began on one thread of one runtime.
pub(super) struct Clock {
    runtime: Handle,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    entries: Vec<Entry>,
    free: Vec<usize>,
    /// For the earliest deadline, or an earlier one whose call has ended.
    timer: Option<Timer>,
}

struct Timer {
    at: Instant,
    _sleep: Pin<Box<Sleep>>,
}

#[derive(Default)]
struct Entry {
    at: Option<Instant>,
    /// Taken by whoever wakes the call.
    waker: Option<Waker>,
}

/// A call's place among those that a clock watches. Dropping it gives the place back.
pub(super) struct Watch {
    clock: Arc<Clock>,
    place: usize,
}

impl Clock {
    /// The clock of this thread in the runtime that drives it now.
    ///
    /// # Errors
    /// Outside a runtime.
    pub(super) fn here() -> Result<Arc<Self>, TryCurrentError> {
        let runtime = Handle::try_current()?;
        let found = CLOCKS.try_with(|clocks| {
            let mut clocks = clocks.borrow_mut();
            let id = runtime.id();
            if let Some(clock) = clocks.iter().find(|clock| clock.runtime.id() == id) {
                return clock.clone();
            }
            clocks.retain(|clock| Arc::strong_count(clock) > 1);
            let clock = Self::new(runtime.clone());
            clocks.push(clock.clone());
            clock
        });
        // The thread is ending: a clock for this call alone.
        Ok(found.unwrap_or_else(|_| Self::new(runtime)))
    }

    fn new(runtime: Handle) -> Arc<Self> {
        let inner = Mutex::default();
        Arc::new(Self { runtime, inner })
    }

    /// How many calls it watches.
    #[cfg(test)]
    pub(super) fn watched(&self) -> usize {
        let inner = self.lock();
        inner.entries.len() - inner.free.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Clock {
    /// The timer has fired, or its runtime ends. Takes no lock: a timer may fire while it is set.
    fn wake(self: Arc<Self>) {
        let turn = Turn(Some(self.clone()));
        run_soon(&self.runtime, move || turn.take());
    }
}

/// A look at the clock. If it is dropped instead of taken, the runtime is no more.
struct Turn(Option<Arc<Clock>>);

impl Turn {
    fn take(mut self) {
        let Some(clock) = self.0.take() else { return };
        let mut late = Vec::new();
        let mut inner = clock.lock();
        inner.timer = None;
        while inner.timer.is_none()
            && let Some(next) = inner.ring(Instant::now(), &mut late)
        {
            inner.set_timer(next, &clock);
        }
        drop(inner);
        late.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(clock) = self.0.take() else { return };
        let mut inner = clock.lock();
        let timer = inner.timer.take();
        let wakers = inner.entries.iter_mut();
        let orphans: Vec<_> = wakers.filter_map(|entry| entry.waker.take()).collect();
        drop(inner);
        drop(timer);
        orphans.into_iter().for_each(Waker::wake);
    }
}

impl Inner {
    fn enter(&mut self, at: Instant, waker: Waker) -> usize {
        let entry = Entry {
            at: Some(at),
            waker: Some(waker),
        };
        if let Some(place) = self.free.pop()
            && let Some(vacant) = self.entries.get_mut(place)
        {
            *vacant = entry;
            return place;
        }
        self.entries.push(entry);
        self.entries.len() - 1
    }

    /// Takes the wakers of those who are late at `now`; gives the earliest deadline of the others.
    fn ring(&mut self, now: Instant, late: &mut Vec<Waker>) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for entry in &mut self.entries {
            let Some(at) = entry.at.filter(|_| entry.waker.is_some()) else {
                continue;
            };
            if at <= now {
                late.extend(entry.waker.take());
            } else {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        next
    }

    /// Sets the timer, unless `at` is past. A new one each time: one that is used again may wake while it is reset, in the midst of this lock.
    fn set_timer(&mut self, at: Instant, clock: &Arc<Clock>) {
        let mut sleep = Box::pin(sleep_until(at));
        let waker = Waker::from(clock.clone());
        let is_past = sleep
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_ready();
        self.timer = (!is_past).then_some(Timer { at, _sleep: sleep });
    }
}

impl Watch {
    /// Sees to it that `waker` is woken at `at`.
    pub(super) fn new(clock: Arc<Clock>, at: Instant, waker: &Waker) -> Self {
        let mut inner = clock.lock();
        let place = inner.enter(at, waker.clone());
        if inner.timer.as_ref().is_none_or(|timer| at < timer.at) {
            inner.set_timer(at, &clock);
        }
        let is_late = inner.timer.is_none();
        drop(inner);
        if is_late {
            clock.clone().wake();
        }
        Self { clock, place }
    }

    /// Whether `waker` is woken in time from now on; if not, nobody watches any more.
    pub(super) fn is_kept(&self, waker: &Waker) -> bool {
        let mut inner = self.clock.lock();
        match inner.entries.get_mut(self.place) {
            Some(Entry {
                waker: Some(known), ..
            }) => {
                known.clone_from(waker);
                true
            }
            _ => false,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let entry = {
            let mut inner = self.clock.lock();
            inner.free.push(self.place);
            inner.entries.get_mut(self.place).map(std::mem::take)
        };
        // A waker may run somebody else's code when it goes.
        drop(entry);
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, task::Poll, thread, time::Duration};

    use tokio::{
        runtime::Builder,
        time::{Instant, timeout},
    };

    use super::*;

    const SOON: Duration = Duration::from_millis(20);
    /// A whole scheduling hiccup of a busy machine.
    const LATE: Duration = Duration::from_secs(10);

    /// Pending until its clock wakes it at `at`; gives the instant.
    struct Call {
        at: Instant,
        watch: Option<Watch>,
    }

    impl Call {
        fn until(at: Instant) -> Self {
            Self { at, watch: None }
        }
    }

    impl Future for Call {
        type Output = Instant;

        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Instant> {
            let call = self.get_mut();
            if call.watch.as_ref().is_some_and(|w| w.is_kept(cx.waker())) {
                return Poll::Pending;
            }
            let now = Instant::now();
            if now >= call.at {
                return Poll::Ready(now);
            }
            call.watch = Clock::here()
                .ok()
                .map(|clock| Watch::new(clock, call.at, cx.waker()));
            Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_call_is_woken_at_its_own_deadline_whatever_came_before() {
        let start = Instant::now();
        let calls = [50, 10, 30, 10, 20].map(|millis| {
            let at = start + Duration::from_millis(millis);
            Handle::current().spawn(async move { (Call::until(at).await - start).as_millis() })
        });
        let mut ended = Vec::new();
        for call in calls {
            ended.push(call.await.unwrap());
        }
        assert_eq!(ended, [50, 10, 30, 10, 20]);
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_used_again_and_nothing_is_left_after_the_last_deadline() {
        let at = Instant::now() + SOON;
        for _ in 0..100 {
            assert!(timeout(Duration::ZERO, Call::until(at)).await.is_err());
        }
        let clock = Clock::here().unwrap();
        assert_eq!(clock.lock().entries.len(), 1);
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
        assert!(clock.lock().timer.is_some());
        tokio::time::sleep_until(at + SOON).await;
        assert!(clock.lock().timer.is_none());
        assert_eq!(
            Call::until(at + SOON * 2).await,
            at + SOON * 2,
            "it starts again"
        );
    }

    #[test]
    fn a_runtime_that_ends_hands_its_watch_to_the_next_one() {
        let (first, second) = (current_thread(), current_thread());
        let mut call = Box::pin(Call::until(Instant::now() + SOON));
        first.block_on(async {
            assert!(timeout(Duration::ZERO, &mut call).await.is_err());
        });
        drop(first);
        let late = second.block_on(async { timeout(LATE, call).await.is_ok() });
        assert!(late);
    }

    #[test]
    fn a_runtime_that_nobody_drives_delays_no_call_of_another() {
        let (idle, driven) = (current_thread(), current_thread());
        let at = Instant::now() + SOON;
        let waits = idle.block_on(async { timeout(Duration::ZERO, Call::until(at)).await });
        assert!(waits.is_err());
        let late = driven.block_on(async { timeout(LATE, Call::until(at)).await.is_ok() });
        assert!(late);
    }

    #[test]
    fn a_blocked_thread_delays_no_call_of_another() {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .build()
            .unwrap();
        let (release, blocked) = mpsc::channel::<()>();
        let (said, called) = mpsc::channel();
        runtime.spawn(async move { blocked.recv() });
        runtime.spawn(async move {
            Call::until(Instant::now() + SOON).await;
            said.send(()).unwrap();
        });
        called.recv_timeout(LATE).unwrap();
        drop(release);
    }

    #[test]
    fn outside_a_runtime_there_is_no_clock() {
        assert!(Clock::here().is_err());
        thread::spawn(|| assert!(Clock::here().is_err()))
            .join()
            .unwrap();
    }

    fn current_thread() -> tokio::runtime::Runtime {
        Builder::new_current_thread().enable_time().build().unwrap()
    }
}
