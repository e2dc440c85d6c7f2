//! One place, from its making to its death.

use std::time::Duration;

use hood_core::Observation;
use hood_core::outcome::{Kill, KillCause, KilledBy, Stream, StreamEnd, WaitStatus};
use hood_core::program::MAIN_FILE;
use hood_dispatch::outbox::{Outbox, Turn};
use hood_dispatch::{DispatchError, Link, Order, ReportBody};
use tokio::sync::{mpsc, oneshot};

use super::{Command, Places};
use crate::history::{Deed, Extent, Word};
use crate::scheduler::Sleep;
use crate::script::{Script, printed};

/// Making a place takes as long as this at most.
const MAKING_MAX: Duration = Duration::from_millis(400);

/// How long a place keeps what nobody acknowledged: long against every outage.
const ORPHAN_AFTER: Duration = Duration::from_secs(300);

const SIGTERM: u8 = 15;
const SIGKILL: u8 = 9;

type Opened = oneshot::Sender<Result<Link, DispatchError>>;

pub(super) async fn run(places: Places, order: Order, mut commands: mpsc::Receiver<Command>, opened: Opened) {
    let key = order.key;
    let made = make(&places, &order, &mut commands).await;
    match made {
        Made::Cancelled => {}
        // Whoever asked may be gone.
        Made::Failed(error) => drop(opened.send(Err(error))),
        Made::Ready { script, waiting } => {
            let mut life = Life::new(places.clone(), &order, script);
            life.say(ReportBody::Ready { environment_digest: "made:up".to_owned() }, Word::Ready);
            let _ = opened.send(Ok(life.outbox.attach(0)));
            for (after, reply) in waiting {
                let _ = reply.send(life.outbox.attach(after));
            }
            life.attend(&mut commands).await;
        }
    }
    places.forget(key);
}

enum Made {
    Ready { script: Script, waiting: Vec<(u64, oneshot::Sender<Link>)> },
    Failed(DispatchError),
    Cancelled,
}

async fn make(places: &Places, order: &Order, commands: &mut mpsc::Receiver<Command>) -> Made {
    let making = places.world.scheduler.draw(|rng| rng.delay(MAKING_MAX));
    let mut making = places.world.scheduler.sleep(making);
    let mut waiting = Vec::new();
    loop {
        tokio::select! {
            biased;
            command = commands.recv() => match command {
                Some(Command::Attach { after, reply }) => waiting.push((after, reply)),
                Some(Command::Cancel { .. }) | None => return Made::Cancelled,
            },
            () = &mut making => break,
        }
    }
    let world = &places.world;
    if world.strikes("a place not made", world.weather.place_fails) {
        return Made::Failed(DispatchError::Place("there is no room".to_owned()));
    }
    let main = order.program.files.iter().find(|file| file.path == MAIN_FILE);
    let code = main.and_then(|file| std::str::from_utf8(&file.content).ok());
    match code.and_then(Script::parse) {
        Some(script) => Made::Ready { script, waiting },
        None => Made::Failed(DispatchError::Place("this is no script".to_owned())),
    }
}

struct Life {
    places: Places,
    key: hood_dispatch::AttemptKey,
    script: Script,
    outbox: Outbox,
    reports: u64,
    /// Pieces printed so far.
    printed: u32,
    written: [u64; 2],
    running: bool,
    cancelled: Option<Kill>,
    ended: bool,
}

impl Life {
    fn new(places: Places, order: &Order, script: Script) -> Self {
        Self {
            places,
            key: order.key,
            script,
            outbox: Outbox::default(),
            reports: 0,
            printed: 0,
            written: [0, 0],
            running: false,
            cancelled: None,
            ended: false,
        }
    }

    fn say(&mut self, body: ReportBody, what: Word) {
        self.reports += 1;
        self.outbox.push(self.reports, body);
        self.places.world.tell(Deed::Said { key: self.key, number: self.reports, what });
    }

    async fn attend(&mut self, commands: &mut mpsc::Receiver<Command>) {
        let scheduler = self.places.world.scheduler.clone();
        let mut next = self.next_step();
        let mut orphan = scheduler.sleep(ORPHAN_AFTER);
        loop {
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(Command::Attach { after, reply }) => {
                        // Whoever wanted it may be gone.
                        let _ = reply.send(self.outbox.attach(after));
                        orphan = scheduler.sleep(ORPHAN_AFTER);
                    }
                    Some(Command::Cancel { grace }) => self.cancel(grace, &mut next),
                    None => return,
                },
                turn = self.outbox.turn() => match turn {
                    Turn::Acknowledged { report, .. } => {
                        self.acknowledged(report, &mut next);
                        if self.ended && self.outbox.is_empty() {
                            return;
                        }
                    }
                    Turn::Abandoned => orphan = scheduler.sleep(ORPHAN_AFTER),
                },
                () = &mut next, if self.running => {
                    if self.places.world.strikes("a place died", self.places.world.weather.place_dies / 8) {
                        return;
                    }
                    self.go_on();
                    next = self.next_step();
                }
                () = &mut orphan, if !self.outbox.is_attended() && self.ended => return,
            }
        }
    }

    fn next_step(&self) -> Sleep {
        let pause =
            self.places.world.scheduler.draw(|rng| rng.delay(Duration::from_millis(self.script.pause_ms)));
        self.places.world.scheduler.sleep(pause)
    }

    fn acknowledged(&mut self, number: u64, next: &mut Sleep) {
        self.places.world.tell(Deed::Acknowledged { key: self.key, number });
        if !self.running && !self.ended && number >= 1 {
            self.running = true;
            self.places.begin(self.key);
            *next = self.next_step();
        }
    }

    /// The program prints its next piece, or ends.
    fn go_on(&mut self) {
        if self.printed >= self.script.pieces {
            let wait = if self.script.fatal { None } else { Some(WaitStatus::Exited(self.script.exit)) };
            return self.end(wait);
        }
        let stream = Script::stream(self.printed);
        let written = &mut self.written[usize::from(stream == Stream::Stderr)];
        let offset = *written;
        *written += self.script.piece_bytes;
        let end = *written;
        self.printed += 1;
        let bytes = printed(self.key, stream, offset, end);
        self.say(ReportBody::Output { stream, offset, bytes }, Word::Output(Extent { stream, end }));
    }

    fn cancel(&mut self, grace: Duration, next: &mut Sleep) {
        if self.ended {
            return;
        }
        self.cancelled = Some(Kill { cause: KillCause::Cancel, by: KilledBy::Agent });
        if !self.running || grace.is_zero() {
            return self.end(Some(WaitStatus::Signaled(SIGKILL)));
        }
        // It goes on until its grace is over, which a well-behaved one does not use up.
        self.script.pieces = self.printed;
        self.script.exit = SIGTERM;
        *next = self.next_step();
    }

    fn end(&mut self, wait: Option<WaitStatus>) {
        self.ended = true;
        self.running = false;
        let stream = |written| StreamEnd { written, kept: written, complete: true };
        let seen = Observation {
            wait,
            kill: self.cancelled,
            lost: wait.is_none().then(|| "the program took its place along".to_owned()),
            stdout: stream(self.written[0]),
            stderr: stream(self.written[1]),
            ..Observation::default()
        };
        self.places.ended(self.key);
        self.say(ReportBody::Ended(Box::new(seen)), Word::Ended);
    }
}
