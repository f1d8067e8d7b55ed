//! What a call does when link after link lets it go.

use std::sync::Arc;

use tower::Service;

use super::*;
use crate::{
    Config,
    channel::{Channel, Sources},
    health::HealthCell,
    net::{link::tests::origin, reach::connect::LinkConnector},
    telemetry::metrics::Metrics,
};

/// A call of a client whose supervisor never ran: there is no runtime.
fn call(command: &str) -> Call<LinkConnector> {
    let config = Config::builder("redis://127.0.0.1:1");
    let config = Arc::new(config.build().expect("legal"));
    let mut channel = Channel::new(
        config.clone(),
        LinkConnector::new(),
        Sources::default(),
        Metrics::named(config.name()),
        Arc::new(HealthCell::starting(&config)),
    );
    channel.call(Request::from(redis::cmd(command).arg("k").arg("v")))
}

/// How many links in a row may let go of it so before it ends.
fn follows(command: &str, sent: Sent) -> usize {
    let mut call = call(command);
    let lost = || End {
        sent,
        error: Error::new(ErrorKind::ConnectionLost, Phase::Reply, "gone"),
        from: origin(),
    };
    (0..10)
        .take_while(|_| call.after_end(lost()).is_ok())
        .count()
}

#[test]
fn a_call_has_two_more_attempts_and_only_one_after_it_was_written() {
    assert_eq!(follows("INCR", Sent::Never), 2);
    assert_eq!(follows("GET", Sent::Maybe), 1);
    assert_eq!(follows("SET", Sent::Maybe), 1);
    assert_eq!(follows("INCR", Sent::Maybe), 0);
}
