//! A bounded stock of places that stand ready: their agents wait inside their groups, so that a
//! claim neither clones nor moves anything. Each is used once; one that died is never handed out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hood_sandbox::{Place, PlaceSpec};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Pid;
use tokio::sync::OwnedSemaphorePermit;

use super::Inner;

/// Places that are made at once: more would only queue for the kernel's locks.
const MAKING_MAX: usize = 2;

/// How often a place is tried to be proven dead where nothing waits for the proof, and how long
/// between two tries. Each try has a patience of its own.
const BURIAL_TRIES: u32 = 6;
const BURIAL_PAUSE: Duration = Duration::from_secs(1);

/// A place, and the permit that bounds how many there are until each is proven dead.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) place: Place,
    pub(super) permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
pub(super) struct Stock {
    target: usize,
    shelf: Mutex<Shelf>,
}

#[derive(Debug, Default)]
struct Shelf {
    ready: VecDeque<(PlaceSpec, Body)>,
    /// What was asked for last: what the stock is kept of.
    wanted: Option<PlaceSpec>,
    making: usize,
    closed: bool,
}

impl Stock {
    pub(super) fn new(target: usize) -> Self {
        Self { target, shelf: Mutex::default() }
    }

    pub(super) fn ready(&self) -> usize {
        self.shelf().ready.len()
    }

    pub(super) fn pids(&self) -> Vec<Pid> {
        let shelf = self.shelf();
        let agents = shelf.ready.iter().map(|(_, body)| body.place.pids().0);
        agents.filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).collect()
    }

    pub(super) fn close(&self) {
        let mut shelf = self.shelf();
        shelf.closed = true;
        let bodies = std::mem::take(&mut shelf.ready);
        drop(shelf);
        for (_, body) in bodies {
            bury(body);
        }
    }

    /// A living place like `spec`, if one stands ready; dead ones met on the way are buried.
    pub(super) fn take(&self, spec: &PlaceSpec) -> Option<Body> {
        let mut shelf = self.shelf();
        shelf.wanted = Some(spec.clone());
        while let Some(index) = shelf.ready.iter().position(|(known, _)| known == spec) {
            let (_, body) = shelf.ready.remove(index)?;
            if is_alive(&body.place) {
                return Some(body);
            }
            tracing::warn!(place = body.place.id(), "a ready place had died; it is not handed out");
            bury(body);
        }
        None
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be made next, and one of the other kind to give up for it.
    fn next_order(&self) -> Option<(PlaceSpec, Option<Body>)> {
        let mut shelf = self.shelf();
        let spec = shelf.wanted.clone()?;
        let same = shelf.ready.iter().filter(|(known, _)| *known == spec).count();
        if shelf.closed || shelf.making >= MAKING_MAX || same + shelf.making >= self.target {
            return None;
        }
        let other = shelf.ready.iter().position(|(known, _)| *known != spec);
        let crowded = shelf.ready.len() + shelf.making >= self.target;
        let given_up = other.filter(|_| crowded).and_then(|index| shelf.ready.remove(index));
        shelf.making += 1;
        Some((spec, given_up.map(|(_, body)| body)))
    }

    fn made(&self, spec: PlaceSpec, body: Option<Body>) {
        let mut shelf = self.shelf();
        shelf.making -= 1;
        match body {
            Some(body) if shelf.closed => {
                drop(shelf);
                bury(body);
            }
            Some(body) => shelf.ready.push_back((spec, body)),
            None => {}
        }
    }
}

/// Fills the stock up again, in the background.
pub(super) fn refill(inner: &Arc<Inner>) {
    while let Some((spec, given_up)) = inner.stock.next_order() {
        let inner = Arc::clone(inner);
        tokio::task::spawn_blocking(move || {
            if let Some(body) = given_up {
                bury_now(body);
            }
            let permit = Arc::clone(&inner.bodies).try_acquire_owned();
            let body = permit.ok().and_then(|permit| match inner.launcher.prepare(&spec) {
                Ok(place) => Some(Body { place, permit }),
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "cannot make a place for the stock"
                    );
                    None
                }
            });
            let more = body.is_some();
            inner.stock.made(spec, body);
            if more {
                refill(&inner);
            }
        });
    }
}

/// Kills a place and proves it dead, off the hot path.
pub(super) fn bury(body: Body) {
    tokio::task::spawn_blocking(move || bury_now(body));
}

/// As [`bury`], and returns with the proof, however long that takes: without it the next attempt
/// could run beside the last one.
pub(super) async fn prove(body: Body) {
    let _ = tokio::task::spawn_blocking(move || while_unproven(body.place, u32::MAX)).await;
}

/// As [`bury`], on this thread.
fn bury_now(body: Body) {
    let Body { place, permit } = body;
    if !while_unproven(place, BURIAL_TRIES) {
        // The place may live: its share of the machine is not given to another.
        permit.forget();
    }
}

fn while_unproven(mut place: Place, tries: u32) -> bool {
    for _ in 0..tries {
        match place.destroy() {
            Ok(_gone) => return true,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "trying again to prove a place dead"
                );
                place = *error.place;
                std::thread::sleep(BURIAL_PAUSE);
            }
        }
    }
    tracing::error!(place = place.id(), "left for the next start to bury; its ids stay taken");
    false
}

fn is_alive(place: &Place) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(rustix::event::poll(&mut [PollFd::new(&place.pidfd(), PollFlags::IN)], Some(&now)), Ok(0))
}
