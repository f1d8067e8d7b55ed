//! The gate between the supervisor and those who wait, in every order in which they can come to it.

use std::{future::poll_fn, task::Poll};

use loom::{future::block_on, thread};

use super::*;
use crate::sync::explore;

/// Waits until the gate leads to a link, as a call does.
async fn pass(cell: &Cell<()>) {
    let mut place = None;
    poll_fn(|cx| {
        if matches!(&**cell.load(), Gate::Up(_)) {
            return Poll::Ready(());
        }
        cell.wait(&mut place, cx.waker());
        if matches!(&**cell.load(), Gate::Up(_)) {
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
    cell.leave(&mut place);
}

#[test]
fn no_waiter_misses_the_change() {
    explore("a gate that opens against two who wait", || {
        let cell: Arc<Cell<()>> = Arc::new(Cell::new());
        let other = thread::spawn({
            let cell = cell.clone();
            move || block_on(pass(&cell))
        });
        let supervisor = thread::spawn({
            let cell = cell.clone();
            move || {
                let (wire, fenced) = ((), Vec::new());
                cell.set(Gate::Up(Serving { wire, fenced }));
            }
        });
        block_on(pass(&cell));
        other.join().expect("another caller");
        supervisor.join().expect("a supervisor");
        assert_eq!(cell.waiting(), 0, "who left is forgotten");
    });
}
