//! How a connection ends: by order, by the peer, by silence, with its last handle.
//!
//! Owns the way from an order or a cause to the outcome of every job. Promises: each job gets its outcome; what was not handed over
//! is told so; the socket is closed hard where the peer has not ended it. Leaves who ends it to the supervisor. Cannot fail.

use std::io;

use redis::RedisError;

use super::Driver;
use crate::{
    Error, ErrorKind, Phase,
    net::link::{LinkState, driver::Exit, job::Sent, mailbox::Retire},
};

impl Driver {
    pub(super) fn obey(&mut self, order: &Retire) -> Result<(), Exit> {
        self.retiring = true;
        if let Retire::Abort(error) = order {
            return Err(Exit::Aborted(error.clone()));
        }
        let error = self.post.pace.lost("connection is being replaced");
        self.end_unbegun(&error);
        if matches!(order, Retire::Bench) {
            for job in self.owed.iter().filter_map(|owed| owed.job.as_ref()) {
                if job.is_repeatable() {
                    job.end(Sent::Maybe, &error, &self.post.origin);
                }
            }
        }
        Ok(())
    }

    fn end_unbegun(&mut self, error: &Error) {
        for job in self.batch.drain(..).chain(self.post.mailbox.close()) {
            job.end(Sent::Never, error, &self.post.origin);
        }
    }

    /// `redis` gives an error of its own only when the connection has ended, or speaks another language.
    pub(super) fn failed(&self, error: &RedisError) -> Exit {
        match self.meter.take_end() {
            Some(end) => Exit::Lost(end),
            None => broken(Some(error)),
        }
    }

    /// All is answered, or nobody waits for what is not.
    pub(super) fn is_done(&self) -> bool {
        !self
            .owed
            .iter()
            .filter_map(|owed| owed.job.as_ref())
            .any(|job| job.is_awaited() || job.is_silent())
    }

    pub(super) fn finish(&mut self, exit: Exit) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let (error, by_peer) = exit.told(&self.post.pace);
        if !by_peer {
            self.meter.abort();
        }
        self.redis = None;
        self.end_unbegun(&error);
        for job in self.owed.drain(..).filter_map(|owed| owed.job) {
            job.end(Sent::Maybe, &error, &self.post.origin);
        }
        self.post
            .state
            .send_replace(LinkState::Dead { error, by_peer });
    }
}

/// What a connection that ended without a word of the socket ended of. What `redis` says of it may quote the reply: it stays here.
pub(super) fn broken(error: Option<&RedisError>) -> Exit {
    match error.map(RedisError::kind) {
        Some(redis::ErrorKind::Io) | None => Exit::Lost(io::ErrorKind::BrokenPipe.into()),
        Some(_) => Exit::Protocol(Error::new(
            ErrorKind::Protocol,
            Phase::Reply,
            "peer broke the redis protocol",
        )),
    }
}

impl Drop for Driver {
    /// A driver that is dropped in mid-flight (its runtime ends, its last handle goes) leaves nobody waiting.
    fn drop(&mut self) {
        let error = self.post.pace.lost("connection was dropped");
        self.finish(Exit::Aborted(error));
    }
}
