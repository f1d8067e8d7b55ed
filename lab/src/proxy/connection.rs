//! One connection through the proxy, from accept to the end of both directions.
//!
//! Owns the client's socket and, once the mode lets bytes through, the server's. Promises that a connection accepted
//! into a dead network never reaches the server until the network lives, and that a reset is a real RST on both sides.
//! Leaves bytes to [`super::pump`]. Fails by resetting the client when the server cannot be reached.

use std::sync::PoisonError;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::mode::{Mode, Way};
use super::pump::{Ended, Pump};
use super::{Counters, Shared};
use crate::net::dial;

/// Carries one accepted connection.
pub(super) async fn carry(mut client: TcpStream, shared: &Shared, mut mode: watch::Receiver<Mode>) {
    let _ = client.set_nodelay(true);
    if wait_for_passage(&mut client, &mut mode).await.is_err() {
        return reset(&client);
    }
    let target = *shared
        .upstream
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let server = tokio::select! {
        dialled = dial(target, DIAL) => dialled,
        () = until_reset(&mut mode) => return reset(&client),
    };
    let Ok(mut server) = server else {
        return reset(&client);
    };
    let ended = pump_both(&mut client, &mut server, &mode, &shared.counters).await;
    match ended {
        Ended::Reset => {
            // What was handed on before a cut is to arrive before the reset does.
            tokio::time::sleep(Duration::from_millis(1)).await;
            reset(&client);
            reset(&server);
        }
        _ => drain(&mut server).await,
    }
}

/// Waits while the mode holds new connections; an error means a reset.
async fn wait_for_passage(
    client: &mut TcpStream,
    mode: &mut watch::Receiver<Mode>,
) -> Result<(), ()> {
    let mut swallowed = false;
    let mut bin = [0_u8; 4096];
    loop {
        let now = *mode.borrow_and_update();
        if now.is_reset() {
            return Err(());
        }
        let rule = now.rule(Way::Up);
        if rule.write {
            return if swallowed { Err(()) } else { Ok(()) };
        }
        tokio::select! {
            biased;
            changed = mode.changed() => changed.map_err(drop)?,
            read = client.read(&mut bin), if rule.swallow => match read {
                Ok(0) | Err(_) => {
                    // Closed by the client: a frozen process would not notice either.
                    mode.changed().await.map_err(drop)?;
                }
                Ok(_) => swallowed = true,
            },
        }
    }
}

async fn pump_both(
    client: &mut TcpStream,
    server: &mut TcpStream,
    mode: &watch::Receiver<Mode>,
    counters: &Counters,
) -> Ended {
    let (client_read, client_write) = client.split();
    let (server_read, server_write) = server.split();
    let up = Pump {
        way: Way::Up,
        from: client_read,
        into: server_write,
        mode: mode.clone(),
        moved: &counters.up,
    };
    let down = Pump {
        way: Way::Down,
        from: server_read,
        into: client_write,
        mode: mode.clone(),
        moved: &counters.down,
    };
    let (up, down) = (up.run(), down.run());
    tokio::pin!(up, down);
    // A reset ends both at once; any other end waits for the other direction.
    tokio::select! {
        ended = &mut up => match ended {
            Ended::Reset => ended,
            _ => down.await,
        },
        ended = &mut down => match ended {
            Ended::Reset => ended,
            _ => up.await,
        },
    }
}

/// Reads what the server still says to a client that is gone, so that our closing does not reset what it was sent.
async fn drain(server: &mut TcpStream) {
    let mut bin = [0_u8; 4096];
    let all = async { while matches!(server.read(&mut bin).await, Ok(1..)) {} };
    let _ = timeout(Duration::from_secs(1), all).await;
}

async fn until_reset(mode: &mut watch::Receiver<Mode>) {
    if mode.wait_for(|mode| mode.is_reset()).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Makes the coming close an RST.
fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

const DIAL: Duration = Duration::from_secs(5);
