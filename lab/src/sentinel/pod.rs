//! A fake Sentinel that can be killed and started again, for a kubelet in small.
//!
//! Owns what it will believe at its next start. Promises one address for all its lives, and that connections of one life
//! end with it. Leaves answers to [`FakeSentinel`] and probing to [`super::Liveness`]. Fails with a [`LabError`] when the
//! first start cannot bind; a later one that cannot is for the probe to find.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Container, FakeSentinel, Mood, View};
use crate::LabError;

/// A [`FakeSentinel`] with more than one life; ends with this handle.
#[derive(Debug)]
pub struct FakePod {
    addr: SocketAddr,
    view: Mutex<View>,
    life: Mutex<Option<FakeSentinel>>,
}

impl FakePod {
    /// Starts it on an address of its own.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(view: View) -> Result<Self, LabError> {
        let life = FakeSentinel::start(view.clone()).await?;
        Ok(Self {
            addr: life.addr(),
            view: Mutex::new(view),
            life: Mutex::new(Some(life)),
        })
    }

    /// Where it listens, in every life.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it believes from its next start on.
    pub fn will_believe(&self, view: View) {
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = view;
    }

    /// Its event loop hangs, until this life ends.
    pub fn freeze(&self) {
        if let Some(life) = &*self.life() {
            life.mood(Mood::Silent);
        }
    }

    fn life(&self) -> MutexGuard<'_, Option<FakeSentinel>> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Container for FakePod {
    fn process(&self) -> SocketAddr {
        self.addr
    }

    fn is_running(&self) -> bool {
        self.life().is_some()
    }

    fn kill(&self) {
        *self.life() = None;
    }

    async fn launch(&self) {
        self.kill();
        let view = self
            .view
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        // The listener of the life before closes when its task is dropped, a moment after the kill.
        for _ in 0..LAUNCH_TRIES {
            match FakeSentinel::start_on(self.addr, view.clone()).await {
                Ok(life) => {
                    *self.life() = Some(life);
                    return;
                }
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(2)).await,
            }
        }
    }
}

const LAUNCH_TRIES: u32 = 100;
