//! The life of one local place: obtained, loaded, released, watched, ended, proven dead. One task
//! owns it all; whoever wants something of it sends a [`Command`].

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hood_core::limits::Limit;
use hood_core::outcome::{BuildSeen, Kill, KillCause, KilledBy, Stream, StreamEnd};
use hood_core::plan::{self, Layer};
use hood_core::{Limits, Observation, Verdict};
use hood_sandbox::{BuildLimits, GroupLimits, OomWatch, Phase, PlaceSpec, SystemCalls};
use hood_wire::agent::{AgentFrame, Conversation, HostFrame};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use super::observe::{Outside, stream_name};
use super::stock::{Body, bury, refill};
use super::supervisor::{Act, Supervisor};
use super::wire::{Sampled, Wire, WireError, load, stdin};
use super::{Inner, ORPHAN_AFTER};
use crate::dispatch::{AttemptKey, Conduct, DispatchError, Link, Order, ReportBody};
use crate::environment::EnvironmentError;
use crate::outbox::{Outbox, Turn};

#[derive(Debug)]
pub(super) enum Command {
    Cancel { grace: Duration },
    Attach { after: u64, reply: oneshot::Sender<Link> },
}

type Opened = oneshot::Sender<Result<Link, DispatchError>>;

/// What is to run, and in which root.
pub(super) struct Job {
    pub(super) order: Order,
    /// One that is being built; `None` for that of the order's environment.
    pub(super) root: Option<PathBuf>,
}

/// Lives as long as the place and as long as something of it is not acknowledged.
pub(super) async fn run(inner: Arc<Inner>, job: Job, commands: mpsc::Receiver<Command>, opened: Opened) {
    let key = job.order.key;
    life(&inner, job, commands, opened).await;
    inner.forget(key);
}

async fn life(inner: &Arc<Inner>, job: Job, mut commands: mpsc::Receiver<Command>, opened: Opened) {
    let key = job.order.key;
    let mut making = tokio::spawn(obtain(Arc::clone(inner), job));
    let mut waiting = Vec::new();
    let made = loop {
        tokio::select! {
            made = &mut making => break made,
            command = commands.recv() => match command {
                Some(Command::Attach { after, reply }) => waiting.push((after, reply)),
                // Nothing has run. What is being made is buried once it is there.
                Some(Command::Cancel { .. }) | None => {
                    tokio::spawn(async move {
                        if let Ok(Ok(obtained)) = making.await {
                            bury(obtained.body);
                        }
                    });
                    return;
                }
            },
        }
    };
    let obtained = match made {
        Ok(Ok(obtained)) => obtained,
        Ok(Err(error)) => {
            // Whoever asked may be gone, and then nobody needs to know.
            let _ = opened.send(Err(error));
            return;
        }
        Err(panic) => {
            let _ = opened.send(Err(DispatchError::Place(panic.to_string())));
            return;
        }
    };
    let mut live = match Live::new(key, obtained) {
        Ok(live) => live,
        Err(failed) => {
            let (error, body) = *failed;
            bury(body);
            let _ = opened.send(Err(error));
            return;
        }
    };
    let _ = opened.send(Ok(live.outbox.attach(0)));
    for (after, reply) in waiting {
        let _ = reply.send(live.outbox.attach(after));
    }
    live.attend(&mut commands).await;
    if let Some(body) = live.body {
        bury(body);
    }
}

/// A place bound to its order, with nothing sent to it yet.
struct Obtained {
    body: Body,
    digest: String,
    order: Order,
}

async fn obtain(inner: Arc<Inner>, job: Job) -> Result<Obtained, DispatchError> {
    let Job { order, root } = job;
    if let Some(image) = root {
        let body = make(&inner, spec_of(&order, image, SystemCalls::Ordinary)).await?;
        return bound(body, String::new(), order);
    }
    let name = order.assignment.environment.clone();
    let library = Arc::clone(&inner.library);
    let wanted = name.clone();
    let (image, built, declared) = blocking(move || {
        let known = library.is_ready(&wanted);
        (library.ensure(&wanted, &|_| ()), !known, library.system_calls(&wanted))
    })
    .await?;
    let image = image.map_err(|error| unmade(name, &error))?;
    if built {
        let inner = Arc::clone(&inner);
        blocking(move || inner.refresh(false)).await?;
    }
    let spec = spec_of(&order, image.root, calls(declared));
    let ready = inner.stock.take(&spec);
    let body = match ready {
        Some(body) => body,
        None => make(&inner, spec).await?,
    };
    refill(&inner);
    bound(body, image.digest, order)
}

/// What trying again may mend counts as a place that could not be made.
fn unmade(name: String, error: &EnvironmentError) -> DispatchError {
    let reason = error.reason();
    if error.lasts() {
        DispatchError::Environment { name, reason }
    } else {
        DispatchError::Place(format!("environment `{name}`: {reason}"))
    }
}

const fn calls(declared: plan::SystemCalls) -> SystemCalls {
    match declared {
        plan::SystemCalls::Ordinary => SystemCalls::Ordinary,
        plan::SystemCalls::Least => SystemCalls::Least,
    }
}

fn spec_of(order: &Order, image: PathBuf, calls: SystemCalls) -> PlaceSpec {
    let Limits { disk_bytes, disk_inodes, .. } = order.assignment.limits;
    PlaceSpec { image, disk_bytes, disk_inodes, calls, builds: order.program.build.is_some() }
}

fn bound(body: Body, digest: String, order: Order) -> Result<Obtained, DispatchError> {
    if let Err(error) = fit(&body, &order) {
        bury(body);
        return Err(error);
    }
    Ok(Obtained { body, digest, order })
}

async fn make(inner: &Arc<Inner>, spec: PlaceSpec) -> Result<Body, DispatchError> {
    let closed = |_| DispatchError::Place("the dispatcher is shutting down".to_owned());
    let permit = Arc::clone(&inner.bodies).acquire_owned().await.map_err(closed)?;
    let launcher = inner.launcher.clone();
    let place = blocking(move || launcher.prepare(&spec)).await?;
    let place = place.map_err(|error| DispatchError::Place(chain(&error)))?;
    Ok(Body { place, permit })
}

/// Whether the order keeps within this executor's own bound. A worker has planned with it, but one that
/// is wrong, or not ours, is held to it here. What is kept of the output is memory as well, beside the
/// program's.
pub(super) fn fits(order: &Order, memory_bytes_max: u64) -> Result<(), String> {
    let build = order.program.build.as_ref().map(|build| ("build.limits", &build.limits));
    for (of, limits) in [("limits", &order.assignment.limits)].into_iter().chain(build) {
        for limit in [Limit::MemoryBytes, Limit::OutputBytes] {
            let (name, asked) = (limit.as_str(), limits.get(limit));
            if asked > memory_bytes_max {
                return Err(format!(
                    "{of}.{name} is {asked}, and a place of this executor may have {memory_bytes_max} bytes of memory (sandbox.memory_bytes_max)"
                ));
            }
        }
    }
    Ok(())
}

/// Holds the very place against what was decided, and writes the limits into its groups.
fn fit(body: &Body, order: &Order) -> Result<(), DispatchError> {
    let assignment = &order.assignment;
    for layer in body.place.layers().iter().filter(|layer| !layer.proven) {
        let spared = Layer::parse(&layer.name)
            .is_none_or(|known| assignment.degraded.iter().any(|degraded| degraded.layer == known));
        if !spared {
            let (name, reason) = (&layer.name, &layer.reason);
            return Err(DispatchError::Place(format!("the layer `{name}` is not proven here: {reason}")));
        }
    }
    let limits = &assignment.limits;
    let stdin_bytes = order.program.stdin.len() as u64;
    let build = order.program.build.as_ref().map(|build| build.limits);
    let build_output = build.map_or(0, |build| build.output_bytes);
    let output_bytes = limits.output_bytes.saturating_add(build_output);
    body.place
        .bind(&GroupLimits {
            memory_bytes: limits.memory_bytes,
            processes: limits.processes,
            cpu_milli: None,
            build: build
                .map(|build| BuildLimits { memory_bytes: build.memory_bytes, processes: build.processes }),
            agent_memory_bytes: GroupLimits::agent_memory(output_bytes, stdin_bytes),
        })
        .map_err(|error| DispatchError::Place(chain(&error)))
}

/// A place at work, and everything that is known of it.
struct Live {
    key: AttemptKey,
    body: Option<Body>,
    wire: Option<Wire>,
    oom: Option<AsyncFd<OomWatch>>,
    outbox: Outbox,
    supervisor: Supervisor,
    /// What runs now, and its limits.
    phase: Phase,
    limits: Limits,
    /// The program's, while it is a build's turn.
    later: Option<Limits>,
    /// The build, once it has ended.
    built: Option<Box<BuildSeen>>,
    /// Bytes of the build's output so far.
    logged: u64,
    conduct: Conduct,
    stdin: VecDeque<HostFrame>,
    /// After the end: when what nobody fetches is dropped.
    orphaned_at: Option<Instant>,
}

impl Live {
    fn new(key: AttemptKey, obtained: Obtained) -> Result<Self, Box<(DispatchError, Body)>> {
        let Obtained { mut body, digest, mut order } = obtained;
        let program = order.assignment.limits;
        let build = order.program.build.as_ref().map(|build| build.limits);
        let (phase, limits, later) = match build {
            Some(build) => (Phase::Build, build, Some(program)),
            None => (Phase::Run, program, None),
        };
        let conversation = match later {
            Some(later) => Conversation::with_build(limits.output_bytes, later.output_bytes),
            None => Conversation::new(limits.output_bytes),
        };
        let unenforced = &order.assignment.unenforced;
        let sampled = Sampled {
            memory: unenforced.contains(&Limit::MemoryBytes),
            processes: unenforced.contains(&Limit::Processes),
        };
        let opened = body
            .place
            .take_link()
            .ok_or_else(|| "the place's link was taken".to_owned())
            .and_then(|link| Wire::new(link, conversation).map_err(|error| error.to_string()))
            .and_then(|wire| {
                let watch = body.place.oom_watch(phase).map_err(|error| chain(&error))?;
                let oom = watch.map(watched).transpose().map_err(|error| error.to_string())?;
                Ok((wire, oom))
            });
        let (mut wire, oom) = match opened {
            Ok(opened) => opened,
            Err(reason) => return Err(Box::new((DispatchError::Place(reason), body))),
        };
        for frame in load(&mut order, sampled) {
            wire.send(frame);
        }
        let stdin = stdin(&mut order.program).into();
        let mut outbox = Outbox::default();
        outbox.push(0, ReportBody::Ready { environment_digest: digest });
        let supervisor = Supervisor::new(limits, order.conduct.grace);
        let (conduct, wire) = (order.conduct, Some(wire));
        Ok(Self {
            key,
            body: Some(body),
            wire,
            oom,
            outbox,
            supervisor,
            phase,
            limits,
            later,
            built: None,
            logged: 0,
            conduct,
            stdin,
            orphaned_at: None,
        })
    }

    /// Until everything is said and acknowledged, or nobody wants to hear it.
    async fn attend(&mut self, commands: &mut mpsc::Receiver<Command>) {
        while !(self.body.is_none() && self.outbox.is_empty()) {
            let reading = self.outbox.has_room();
            let alarm = self.alarm();
            tokio::select! {
                biased;
                Some(command) = commands.recv() => self.obey(command),
                turn = self.outbox.turn() => self.turned(turn),
                frame = turn_wire(&mut self.wire, reading) => self.hear(frame).await,
                () = oom_rang(&self.oom) => self.out_of_memory(),
                () = ring(alarm) => if self.look() { return },
            }
        }
    }

    /// When to look again. What has ended is not supervised: its deadlines go by with nobody to meet
    /// them, and an alarm that is always due would keep a core busy until the last word is fetched.
    fn alarm(&self) -> Option<Instant> {
        let supervised = self.body.as_ref().and_then(|_| self.supervisor.next());
        [supervised, self.orphaned_at].into_iter().flatten().min()
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Attach { after, reply } => {
                // Of the worker before this one, which may have acknowledged something just now.
                if let Some(turn) = self.outbox.unread() {
                    self.turned(turn);
                }
                self.orphaned_at = None;
                // A worker that is gone again is noticed as any other.
                let _ = reply.send(self.outbox.attach(after));
            }
            Command::Cancel { grace } => {
                let now = Instant::now();
                let Some(wire) = self.wire.as_mut().filter(|_| self.body.is_some()) else { return };
                if self.supervisor.was_released() {
                    self.supervisor.cancelled(now, grace);
                    wire.send_urgent(HostFrame::Cancel { grace_ms: super::wire::millis(grace) });
                } else {
                    // Nothing has run and nothing will: there is no program to be given a grace.
                    self.supervisor.cancelled(now, Duration::ZERO);
                    self.kill_place();
                }
            }
        }
    }

    fn turned(&mut self, turn: Turn) {
        match turn {
            Turn::Acknowledged { frame, .. } => {
                if let Some(wire) = &mut self.wire {
                    if !self.supervisor.was_released() {
                        let (id, attempt) = (self.key.evaluation, self.key.attempt);
                        tracing::debug!(evaluation.id = %id, attempt, "its program is released");
                        self.supervisor.released(Instant::now());
                        wire.send(HostFrame::Go);
                        if self.phase == Phase::Run {
                            for frame in std::mem::take(&mut self.stdin) {
                                wire.send(frame);
                            }
                        }
                    } else if frame > 0 {
                        wire.send_urgent(HostFrame::Ack(frame));
                    }
                }
            }
            Turn::Abandoned => self.orphaned_at = Some(Instant::now() + ORPHAN_AFTER),
        }
    }

    async fn hear(&mut self, heard: Result<Option<(u64, AgentFrame)>, WireError>) {
        let now = Instant::now();
        match heard {
            Ok(Some((_, AgentFrame::Hello { .. } | AgentFrame::Truncated { .. }))) => {}
            Ok(Some((_, AgentFrame::Started { .. }))) => self.supervisor.started(now),
            Ok(Some((number, AgentFrame::Output { stream, offset, bytes }))) => {
                let (stream, offset) = match self.phase {
                    Phase::Build => (Stream::Build, self.logged),
                    Phase::Run => (stream_name(stream), offset),
                };
                self.logged += bytes.len() as u64;
                self.outbox.push(number, ReportBody::Output { stream, offset, bytes });
            }
            Ok(Some((number, AgentFrame::Ended(ending)))) => {
                let seen = self.outside(now).map(|outside| outside.ended(&ending));
                self.ended(number, seen).await;
            }
            Ok(Some((number, AgentFrame::NotStarted(early)))) => {
                let seen = self.outside(now).map(|outside| outside.not_started(&early));
                self.ended(number, seen).await;
            }
            Ok(None) => self.lost("the agent died before its last word".to_owned()).await,
            Err(error) => self.lost(chain(&error)).await,
        }
    }

    async fn lost(&mut self, reason: String) {
        self.kill_place();
        let seen = self.outside(Instant::now()).map(|outside| outside.lost(reason));
        self.ended(0, seen).await;
    }

    /// What runs now has ended, whatever way. After a build that succeeded it is the program's turn.
    async fn ended(&mut self, frame: u64, seen: Option<Observation>) {
        let Some(seen) = seen else { return };
        let Phase::Build = self.phase else { return self.finish(frame, seen).await };
        let build = Box::new(BuildSeen { limits: self.limits, seen });
        let well = build.outcome().is_some_and(|outcome| outcome.verdict == Verdict::Succeeded);
        // A cancel that met the end of the build is meant for the program, too.
        let cancelled = self.supervisor.cause() == Some(KillCause::Cancel);
        if well && !cancelled {
            self.built = Some(build);
            let Err(reason) = self.go_on() else { return };
            self.kill_place();
            let Some(outside) = self.outside(Instant::now()) else { return };
            let seen = outside.lost(reason);
            return self.finish(0, seen).await;
        }
        let silent = StreamEnd { complete: true, ..StreamEnd::default() };
        let kill = (well && cancelled).then_some(Kill { cause: KillCause::Cancel, by: KilledBy::Supervisor });
        let lost = build.seen.lost.clone();
        self.built = Some(build);
        let nothing = Observation { kill, lost, stdout: silent, stderr: silent, ..Observation::default() };
        self.finish(frame, nothing).await;
    }

    /// Lets the program go, once it is proven that nothing of its build is left.
    fn go_on(&mut self) -> Result<(), String> {
        let (Some(body), Some(wire), Some(limits)) = (&self.body, &mut self.wire, self.later.take()) else {
            return Err("there is no program to go on with".to_owned());
        };
        (self.phase, self.limits) = (Phase::Run, limits);
        let place = &body.place;
        tokio::task::block_in_place(|| place.end_build()).map_err(|error| chain(&error))?;
        let watch = place.oom_watch(Phase::Run).map_err(|error| chain(&error))?;
        self.oom = watch.map(watched).transpose().map_err(|error| error.to_string())?;
        self.supervisor = Supervisor::new(limits, self.conduct.grace);
        self.supervisor.released(Instant::now());
        wire.go_on();
        wire.send(HostFrame::Go);
        for frame in std::mem::take(&mut self.stdin) {
            wire.send(frame);
        }
        Ok(())
    }

    fn outside(&self, now: Instant) -> Option<Outside<'_>> {
        let body = self.body.as_ref()?;
        Some(Outside {
            supervisor: &self.supervisor,
            limits: &self.limits,
            fail_on_output_limit: self.conduct.fail_on_output_limit,
            sample: body.place.sample(self.phase),
            now,
        })
    }

    /// The last word. A place that was lost is proven dead before that is said, because the next
    /// attempt begins when it is; one that ended is buried aside.
    async fn finish(&mut self, frame: u64, seen: Observation) {
        self.oom = None;
        self.wire = None;
        let Some(body) = self.body.take() else { return };
        let seen = Observation { build: self.built.take(), ..seen };
        if seen.lost.is_some() {
            super::stock::prove(body).await;
        } else {
            bury(body);
        }
        let (id, attempt) = (self.key.evaluation, self.key.attempt);
        tracing::debug!(evaluation.id = %id, attempt, lost = seen.lost, "its program has ended");
        self.outbox.push(frame, ReportBody::Ended(Box::new(seen)));
        if !self.outbox.is_attended() {
            self.orphaned_at = Some(Instant::now() + ORPHAN_AFTER);
        }
    }

    /// On v1 the kernel kills one process of the group and leaves the rest: we kill the rest.
    fn out_of_memory(&mut self) {
        if let Some(body) = &self.body
            && body.place.sample(self.phase).oom_kills.is_some_and(|kills| kills > 0)
        {
            self.oom = None;
            self.kill_program();
        }
    }

    /// True when nobody came for what is left.
    fn look(&mut self) -> bool {
        let now = Instant::now();
        if self.orphaned_at.is_some_and(|at| now >= at) {
            tracing::warn!(place = %self.key, "nobody came for the rest of it; dropped");
            return true;
        }
        let Some(body) = &self.body else { return false };
        let silent = self.outbox.has_room();
        match self.supervisor.look(now, || body.place.sample(self.phase), silent) {
            Act::Wait => {}
            Act::OrderKill => {
                if let Some(wire) = &mut self.wire {
                    wire.send_urgent(HostFrame::Kill);
                }
            }
            Act::KillProgram => self.kill_program(),
            Act::KillPlace => self.kill_place(),
        }
        false
    }

    fn kill_program(&self) {
        if let Some(body) = &self.body
            // On v1 it takes several passes over a group that forks.
            && let Err(error) = tokio::task::block_in_place(|| body.place.kill_program(self.phase))
        {
            tracing::error!(place = %self.key, error = %chain(&error), "cannot kill the program; killing the place");
            self.kill_place();
        }
    }

    fn kill_place(&self) {
        if let Some(body) = &self.body
            && let Err(error) = body.place.kill()
        {
            tracing::error!(place = %self.key, error = %chain(&error), "cannot kill the place");
        }
    }
}

async fn turn_wire(wire: &mut Option<Wire>, read: bool) -> Result<Option<(u64, AgentFrame)>, WireError> {
    match wire {
        Some(wire) => wire.turn(read).await,
        None => std::future::pending().await,
    }
}

#[expect(deprecated, reason = "its successor is unsafe, and an OomWatch owns one descriptor all its life")]
fn watched(watch: OomWatch) -> std::io::Result<AsyncFd<OomWatch>> {
    AsyncFd::new(watch)
}

async fn oom_rang(watch: &Option<AsyncFd<OomWatch>>) {
    let Some(watch) = watch else { return std::future::pending().await };
    if let Ok(mut ready) = watch.readable().await {
        let mut drain = [0; 4096];
        // Read empty, so that the next look waits for the next news.
        while rustix::io::read(watch.get_ref(), &mut drain[..]).is_ok_and(|length| length == drain.len()) {}
        ready.clear_ready();
    }
}

async fn ring(alarm: Option<Instant>) {
    match alarm {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, DispatchError> {
    tokio::task::spawn_blocking(work).await.map_err(|panic| DispatchError::Place(panic.to_string()))
}

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
