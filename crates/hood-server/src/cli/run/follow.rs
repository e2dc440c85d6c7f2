//! Following one evaluation to its end: events lead, output comes as it is written, Ctrl-C cancels.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use hood_client::{Client, Error, Heard, Stream};
use hood_wire::api::{Building, Evaluation, Event, EventType, State};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::connect::warn;
use super::super::exit::Exit;
use super::super::failure::Failure;
use super::super::spinner::Spinner;
use super::super::terminal::Text;
use super::pump::{self, Pumped};

/// How long an evaluation waits before somebody is told what for, and how often that is looked at.
const TELL_AFTER: Duration = Duration::from_millis(500);

/// Events come one at a time; a few may pile up while output is being set up.
const EVENTS_AHEAD: usize = 16;

/// What is shown meanwhile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// The program's output.
    pub(super) stream: bool,
    pub(super) raw: bool,
    pub(super) quiet: bool,
}

/// How it ended, and what was seen on the way.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) evaluation: Evaluation,
    pub(super) made_visible: bool,
    pub(super) mid_line: bool,
    /// Whoever read our standard output went away.
    pub(super) reader_gone: bool,
}

pub(super) async fn follow(client: &Client, begun: &Evaluation, look: Look) -> Result<Followed, Failure> {
    let mut follower = Follower::new(client, begun, look);
    let mut events = spawn_events(client, &begun.id);
    let mut interrupts = Interrupts::listen()?;
    let mut tick = tokio::time::interval(TELL_AFTER);
    tick.tick().await;
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(heard) => match heard? {
                    Heard::Event(event) => follower.event(&event).await,
                    Heard::Building(building) => follower.building(&building),
                },
                None => break,
            },
            pumped = follower.pumps.join_next(), if !follower.pumps.is_empty() => follower.pumped(pumped)?,
            () = interrupts.next() => follower.interrupted()?,
            _ = tick.tick(), if follower.waits() => follower.tell_what_for(),
        }
    }
    follower.spinner = None;
    // No further attempt will come: what was begun is shown to its end, however slow the reader.
    follower.attempts.clear();
    while !follower.pumps.is_empty() {
        tokio::select! {
            pumped = follower.pumps.join_next() => follower.pumped(pumped)?,
            () = interrupts.next() => follower.interrupted()?,
        }
    }
    follower.finish().await
}

/// In a task of its own, so that nothing else that happens interrupts a connection being made.
fn spawn_events(client: &Client, id: &str) -> mpsc::Receiver<Result<Heard, Error>> {
    let (sender, receiver) = mpsc::channel(EVENTS_AHEAD);
    let mut events = client.follow_events(id, 0);
    tokio::spawn(async move {
        while let Some(heard) = events.hear().await.transpose() {
            let failed = heard.is_err();
            if sender.send(heard).await.is_err() || failed {
                return;
            }
        }
    });
    receiver
}

struct Follower<'a> {
    client: &'a Client,
    id: String,
    look: Look,
    state: State,
    interruptions: u8,
    spinner: Option<Spinner>,
    told: Option<String>,
    /// Where each pump learns of the next attempt.
    attempts: Vec<mpsc::Sender<u32>>,
    pumps: JoinSet<Pumped>,
    done: Vec<Pumped>,
    reader_gone: bool,
}

impl<'a> Follower<'a> {
    fn new(client: &'a Client, begun: &Evaluation, look: Look) -> Self {
        let mut follower = Self {
            client,
            id: begun.id.clone(),
            look,
            state: begun.state,
            interruptions: 0,
            spinner: None,
            told: None,
            attempts: Vec::new(),
            pumps: JoinSet::new(),
            done: Vec::new(),
            reader_gone: false,
        };
        if look.stream {
            let build = begun.build.is_some().then_some(Stream::Build);
            for stream in Stream::PROGRAM.into_iter().chain(build) {
                let (sender, receiver) = mpsc::channel(pump::ATTEMPTS_AHEAD);
                follower.attempts.push(sender);
                follower.pumps.spawn(pump::pump(
                    client.clone(),
                    begun.id.clone(),
                    stream,
                    look.raw,
                    receiver,
                ));
            }
        }
        follower
    }

    async fn event(&mut self, event: &Event) {
        self.state = event.state;
        if event.state == State::Running || event.state.is_terminal() {
            self.spinner = None;
        }
        let (EventType::AttemptStarted, Some(attempt)) = (event.kind, event.attempt) else { return };
        if attempt > 1 && !self.look.quiet {
            warn(&format!("attempt {} was lost; attempt {attempt} begins, its output anew", attempt - 1));
        }
        for pump in &self.attempts {
            // A pump that is gone has said why.
            let _ = pump.send(attempt).await;
        }
    }

    /// A pump ended: because all was written, or because nothing can be.
    fn pumped(&mut self, pumped: Option<Result<Pumped, tokio::task::JoinError>>) -> Result<(), Failure> {
        let Some(pumped) = pumped else { return Ok(()) };
        let mut pumped = pumped.map_err(|error| Failure::new("showing the output failed").because(error))?;
        match pumped.trouble.take() {
            None => {}
            Some(pump::Trouble::Client(error)) => return Err(error.into()),
            Some(pump::Trouble::Write(_)) if pumped.stream != Stream::Stdout => {}
            Some(pump::Trouble::Write(error)) => {
                if error.kind() != std::io::ErrorKind::BrokenPipe {
                    return Err(Failure::write(error));
                }
                // As a program would be ended that writes where nobody reads.
                self.reader_gone = true;
                self.cancel(None);
            }
        }
        self.done.push(pumped);
        Ok(())
    }

    fn interrupted(&mut self) -> Result<(), Failure> {
        self.interruptions += 1;
        let say = |text: &str| {
            if self.look.quiet {
            } else {
                warn(text)
            }
        };
        match self.interruptions {
            1 => {
                say("cancelling; Ctrl-C again kills at once");
                self.cancel(None);
                Ok(())
            }
            2 => {
                say("killing");
                self.cancel(Some(Duration::ZERO));
                Ok(())
            }
            _ => Err(Failure::new(format!("left {} before it ended", self.id))
                .next(format!("`fumehood get {}` shows what became of it", self.id))
                .exit(Exit::CANCELLED)),
        }
    }

    /// Not waited for: the event that comes of it ends the loop, and a third Ctrl-C ends us.
    fn cancel(&self, grace: Option<Duration>) {
        let (client, id) = (self.client.clone(), self.id.clone());
        tokio::spawn(async move {
            if let Err(error) = client.cancel(&id, grace).await {
                warn(&format!("cannot cancel: {error}"));
            }
        });
    }

    const fn waits(&self) -> bool {
        matches!(self.state, State::Queued) && !self.look.quiet
    }

    /// Says what an evaluation that is not taken up waits for.
    fn tell_what_for(&mut self) {
        if io::stderr().is_terminal() {
            self.tell("waiting for a free place".to_owned());
        }
    }

    /// The evaluation waits for a build. A terminal shows how far it is; elsewhere each stage is a line.
    fn building(&mut self, building: &Building) {
        if self.look.quiet || self.state != State::Provisioning {
            return;
        }
        let Building { environment, progress } = building;
        let percent = progress.percent.filter(|_| io::stderr().is_terminal());
        let percent = percent.map(|percent| format!(", {percent} %")).unwrap_or_default();
        let (name, stage) = (Text::new(environment), Text::new(&progress.stage));
        self.tell(format!("building the environment `{name}`, which happens once: {stage}{percent}"));
    }

    fn tell(&mut self, text: String) {
        if self.told.as_ref() == Some(&text) {
            return;
        }
        match &self.spinner {
            Some(spinner) => spinner.say(&text),
            None => self.spinner = Some(Spinner::start(text.clone())),
        }
        self.told = Some(text);
    }

    async fn finish(self) -> Result<Followed, Failure> {
        let evaluation = self.client.get(&self.id, None).await?;
        for pumped in &self.done {
            let kept = match pumped.stream {
                Stream::Stdout => evaluation.stdout.kept_bytes,
                Stream::Stderr => evaluation.stderr.kept_bytes,
                Stream::Build => evaluation.build.as_ref().map_or(0, |build| build.output.kept_bytes),
            };
            if pumped.offset < kept && !self.reader_gone {
                let (name, missing) = (pumped.stream.as_str(), kept - pumped.offset);
                warn(&format!("{missing} bytes of {name} are not shown; see `fumehood logs {}`", self.id));
            }
        }
        Ok(Followed {
            made_visible: self.done.iter().any(|pumped| pumped.seen.made_visible),
            mid_line: self.done.iter().any(|pumped| pumped.seen.mid_line),
            reader_gone: self.reader_gone,
            evaluation,
        })
    }
}

/// Ctrl-C, and what else asks a command to end.
pub(in crate::cli) struct Interrupts {
    int: tokio::signal::unix::Signal,
    term: tokio::signal::unix::Signal,
    /// The terminal was closed. `None` where whoever started us wants that ignored, as `nohup` does.
    hup: Option<tokio::signal::unix::Signal>,
}

impl Interrupts {
    pub(in crate::cli) fn listen() -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        let failed = |error| Failure::new("cannot listen for signals").because(error);
        Ok(Self {
            int: signal(SignalKind::interrupt()).map_err(failed)?,
            term: signal(SignalKind::terminate()).map_err(failed)?,
            hup: match ignores_hangups() {
                true => None,
                false => Some(signal(SignalKind::hangup()).map_err(failed)?),
            },
        })
    }

    pub(in crate::cli) async fn next(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
            _ = async {
                match &mut self.hup {
                    Some(hup) => hup.recv().await,
                    None => std::future::pending().await,
                }
            } => {}
        }
    }
}

/// Whether this process was started with SIGHUP ignored: listening for it would undo that.
fn ignores_hangups() -> bool {
    const HANGUP: u64 = 1 << 0;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & HANGUP != 0)
}
