//! PID 1 of a place: takes one assignment, sees one program through, answers for its end.

mod ending;
mod events;
mod inbox;

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hood_sandbox::inside::{self, Cell, Ended, ForeignCalls, Orders, Report, Starter, read_report};
use hood_wire::agent::{AgentFrame, Assignment, Exit, KillCause, OLDEST_VERSION, Usage, VERSION};
use rustix::event::Timespec;

use crate::link::Link;
use crate::output::{Input, Output};
use crate::sampling;

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;
/// How long after the main process's end the pipes are read and the others awaited.
const DRAIN: Duration = Duration::from_secs(1);
/// Between two passes over what a build left running: one that forks may slip past each.
const CLEAR_EVERY: Duration = Duration::from_millis(2);

/// Where the one run stands.
#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// No assignment yet.
    Waiting,
    /// Files are coming.
    Loading,
    /// The starter was told to go.
    Starting { go: Instant },
    /// The program runs.
    Running { since: Instant },
    /// The main process has ended; the rest is killed and the pipes are drained.
    Draining { until: Instant, exit: Exit, wall: Option<Duration> },
    /// A build has ended and nothing of it is left; the program waits to be let go.
    Built { until: Instant },
    /// The program was let go; what may be left of its build is looked for once more.
    Clearing { until: Instant },
    /// The terminal frame is posted.
    Over { until: Instant },
}

/// An end that the agent brings about.
#[derive(Debug)]
struct Killing {
    cause: KillCause,
    /// When SIGKILL follows SIGTERM.
    kill_at: Instant,
    killed: bool,
}

/// The agent.
#[derive(Debug)]
pub(crate) struct Agent {
    link: Link,
    children: OwnedFd,
    /// Keeps the place's ids.
    _cell: Keep,
    phase: Phase,
    /// What runs now.
    run: Run,
    /// The program, while it is a build's turn.
    later: Option<Run>,
    next_sample: Option<Instant>,
}

/// The part of a [`Cell`] that is only held.
type Keep = Option<OwnedFd>;

/// What is known of one of the two that a place may run: the build, and the program.
#[derive(Debug)]
struct Run {
    starter: OwnedFd,
    program: i32,
    /// The starter's processes, while it waits.
    pids: Vec<i32>,
    assignment: Assignment,
    orders: Orders,
    /// What the starter has said, and whether it can say more.
    heard: Vec<u8>,
    starter_open: bool,
    foreign: Option<ForeignCalls>,
    foreign_call: Option<inside::ForeignCall>,
    input: Input,
    output: Output,
    killing: Option<Killing>,
    usage: Usage,
    everyone_reaped: bool,
}

impl Run {
    fn new(starter: Starter) -> Self {
        let Starter { command, pid, pids, stdin, stdout, stderr } = starter;
        Self {
            starter: command,
            program: pid,
            pids,
            assignment: Assignment::default(),
            orders: Orders::default(),
            heard: Vec::new(),
            starter_open: true,
            foreign: None,
            foreign_call: None,
            input: Input::new(stdin),
            output: Output::new(stdout, stderr),
            killing: None,
            usage: Usage::default(),
            everyone_reaped: false,
        }
    }
}

impl Agent {
    pub(crate) fn new(cell: Cell) -> Self {
        let Cell { link, build, program, children, id_lock } = cell;
        let program = Run::new(program);
        let (run, later) = match build {
            Some(build) => (Run::new(build), Some(program)),
            None => (program, None),
        };
        Self {
            link: Link::new(link),
            children,
            _cell: id_lock,
            phase: Phase::Waiting,
            run,
            later,
            next_sample: None,
        }
    }

    /// Serves until the last frame is acknowledged, the dispatcher has gone, or nobody has come
    /// for it in time. When this returns, PID 1 ends and with it the place.
    pub(crate) fn serve(mut self) -> io::Result<()> {
        self.link.post(&AgentFrame::Hello { version: VERSION, oldest: OLDEST_VERSION })?;
        loop {
            let events = self.wait()?;
            if events.link_room {
                self.link.flush()?;
            }
            if events.link && !self.read_link()? {
                return Ok(());
            }
            if events.starter_room {
                self.send_orders();
            }
            if events.starter {
                self.hear_starter()?;
            }
            if events.foreign {
                self.foreign_call()?;
            }
            if events.foreign_over {
                self.run.foreign = None;
            }
            if events.input {
                self.run.input.write();
            }
            for (index, ready) in events.outputs.into_iter().enumerate() {
                if ready && let Some(stream) = self.run.output.read(index) {
                    self.end_program(KillCause::OutputLimit(stream), Duration::ZERO);
                }
            }
            if events.children {
                self.reap()?;
            }
            self.keep_time()?;
            if self.is_done() {
                return Ok(());
            }
        }
    }

    fn is_done(&self) -> bool {
        match self.phase {
            Phase::Over { until } => self.link.all_acknowledged() || Instant::now() >= until,
            Phase::Built { until } => Instant::now() >= until,
            _ => false,
        }
    }

    /// Until the next thing that time brings.
    fn timeout(&self, now: Instant) -> Option<Timespec> {
        let phase = match self.phase {
            Phase::Running { since } if self.run.killing.is_none() => Some(since + self.wall_limit()),
            Phase::Draining { until, .. } if self.later.is_some() => Some(until.min(now + CLEAR_EVERY)),
            Phase::Clearing { until } => Some(until.min(now + CLEAR_EVERY)),
            Phase::Draining { until, .. } | Phase::Built { until } | Phase::Over { until } => Some(until),
            _ => None,
        };
        let killing = self.run.killing.as_ref().filter(|killing| !killing.killed && self.is_live());
        let next =
            [phase, killing.map(|killing| killing.kill_at), self.run.output.flush_at(now), self.next_sample];
        let next = next.into_iter().flatten().min()?;
        // A moment more, so that the poll does not return just before it.
        let wait = next.saturating_duration_since(now) + Duration::from_micros(50);
        Timespec::try_from(wait).ok()
    }

    fn wall_limit(&self) -> Duration {
        // A limit beyond what the clock can add up to is none.
        Duration::from_millis(self.run.assignment.wall_ms.min(u64::from(u32::MAX) * 1000))
    }

    /// There is a main process.
    fn is_live(&self) -> bool {
        !matches!(self.phase, Phase::Draining { .. } | Phase::Built { .. } | Phase::Over { .. })
    }

    fn keep_time(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if let Phase::Running { since } = self.phase
            && now >= since + self.wall_limit()
        {
            let grace = Duration::from_millis(self.run.assignment.grace_ms);
            self.end_program(KillCause::Deadline, grace);
        }
        let due = |killing: &&mut Killing| !killing.killed && now >= killing.kill_at;
        if self.is_live()
            && let Some(killing) = self.run.killing.as_mut().filter(due)
        {
            killing.killed = true;
            self.signal(SIGKILL);
        }
        if self.next_sample.is_some_and(|at| now >= at) {
            self.sample(now);
        }
        if matches!(self.phase, Phase::Running { .. })
            && self.run.output.flush_at(now).is_some_and(|at| now >= at)
        {
            self.post_output(now)?;
        }
        self.start_cleared(now)?;
        if let Phase::Draining { until, .. } = self.phase {
            let nobody_left = self.run.everyone_reaped || self.clear_build()?;
            if now >= until || (nobody_left && self.run.output.is_drained()) {
                self.finish(now)?;
            }
        }
        Ok(())
    }

    /// Kills what is still there of a build. True once nothing is.
    fn clear_build(&self) -> io::Result<bool> {
        let Some(program) = &self.later else { return Ok(false) };
        Ok(inside::signal_all_but(&program.pids, SIGKILL)? == 0)
    }

    /// Reaches everything that runs, and not the program's starter, which waits for its turn.
    fn signal(&self, signal: i32) {
        // Nobody there is what is wanted of a kill, and nothing to be told of another signal.
        let _ = match &self.later {
            Some(program) => inside::signal_all_but(&program.pids, signal).map(drop),
            None => inside::signal_everyone(signal),
        };
    }

    /// The build has ended well: the program's turn.
    fn go_on(&mut self, now: Instant) -> io::Result<()> {
        if let Some(program) = self.later.take() {
            self.run = program;
            self.phase = Phase::Clearing { until: now + DRAIN };
            self.start_cleared(now)?;
        }
        Ok(())
    }

    /// Lets the program go once nothing of its build is there: one that cannot be got rid of ends the
    /// place.
    fn start_cleared(&mut self, now: Instant) -> io::Result<()> {
        let Phase::Clearing { until } = self.phase else { return Ok(()) };
        if inside::signal_all_but(&self.run.pids, SIGKILL)? == 0 {
            self.run.orders.go();
            self.phase = Phase::Starting { go: now };
        } else if now >= until {
            return Err(io::Error::other("the build is still running"));
        }
        Ok(())
    }

    fn post_output(&mut self, now: Instant) -> io::Result<()> {
        self.run.output.frames(now).iter().try_for_each(|frame| self.link.post(frame))
    }

    fn sample(&mut self, now: Instant) {
        let sampled = sampling::sample(self.later.as_ref().map_or(&[], |program| &program.pids));
        let past = |limit: Option<u64>, value: u64| limit.is_some_and(|limit| value > limit);
        if past(self.run.assignment.sampled_memory_bytes, sampled.memory_bytes) {
            self.end_program(KillCause::SampledMemory, Duration::ZERO);
        } else if past(self.run.assignment.sampled_processes, sampled.processes) {
            self.end_program(KillCause::SampledProcesses, Duration::ZERO);
        }
        self.next_sample = matches!(self.phase, Phase::Running { .. }).then(|| now + sampling::EVERY);
    }

    /// Ends the program: SIGTERM and, after the grace, SIGKILL. The first cause counts; a later one
    /// can only shorten the grace.
    fn end_program(&mut self, cause: KillCause, grace: Duration) {
        if !self.is_live() {
            return;
        }
        let kill_at = Instant::now() + grace;
        match &mut self.run.killing {
            Some(killing) => killing.kill_at = killing.kill_at.min(kill_at),
            None => {
                self.run.killing = Some(Killing { cause, kill_at, killed: false });
                if !grace.is_zero() {
                    self.signal(SIGTERM);
                }
            }
        }
    }

    fn hear_starter(&mut self) -> io::Result<()> {
        match self.starter_says()? {
            Report::Running { since } => self.started(since)?,
            // What went wrong is told when the starter is reaped.
            Report::Unfinished | Report::Vanished | Report::Failed { .. } => {}
        }
        Ok(())
    }

    /// Its time began when it was let go, however late that is heard of here.
    fn started(&mut self, released: inside::Moment) -> io::Result<()> {
        if let Phase::Starting { go } = self.phase {
            let now = Instant::now();
            let since = now.checked_sub(released.elapsed()).map_or(go, |since| since.max(go));
            self.phase = Phase::Running { since };
            let setup_us = micros(since.saturating_duration_since(go));
            self.link.post(&AgentFrame::Started { setup_us })?;
            if self.run.assignment.sampled_memory_bytes.is_some()
                || self.run.assignment.sampled_processes.is_some()
            {
                self.next_sample = Some(now);
            }
        }
        Ok(())
    }

    /// Reads what the starter has sent, as far as it has.
    fn starter_says(&mut self) -> io::Result<Report> {
        while self.run.starter_open {
            let cell_says = inside::hear(&self.run.starter);
            match cell_says {
                Ok((bytes, listener)) => {
                    self.run.starter_open = !bytes.is_empty();
                    self.run.heard.extend_from_slice(&bytes);
                    self.run.foreign = self.run.foreign.take().or(listener);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Reset: it has ended with orders unread.
                Err(_) => self.run.starter_open = false,
            }
        }
        Ok(read_report(&self.run.heard, !self.run.starter_open))
    }

    fn foreign_call(&mut self) -> io::Result<()> {
        let Some(foreign) = &self.run.foreign else { return Ok(()) };
        match foreign.take() {
            Ok(Some(call)) => {
                self.run.foreign_call = self.run.foreign_call.or(Some(call));
                self.end_program(KillCause::ForeignCall, Duration::ZERO);
            }
            Ok(None) => {}
            // Everything under the filter has ended; the listener has nothing more to say.
            Err(_) => self.run.foreign = None,
        }
        Ok(())
    }

    fn reap(&mut self) -> io::Result<()> {
        let mut signals = [0; 128];
        // Only empties the descriptor: one signal may stand for many children.
        while rustix::io::read(&self.children, &mut signals).is_ok_and(|count| count > 0) {}
        loop {
            match inside::reap() {
                Ok(Some(reaped)) => {
                    self.run.usage.user_us += reaped.user_us;
                    self.run.usage.system_us += reaped.system_us;
                    self.run.usage.max_rss_bytes = self.run.usage.max_rss_bytes.max(reaped.max_rss_bytes);
                    self.run.usage.reaped += 1;
                    if reaped.pid == self.run.program {
                        self.main_ended(reaped.ended)?;
                    }
                }
                Ok(None) => return Ok(()),
                Err(_) => {
                    self.run.everyone_reaped = true;
                    return Ok(());
                }
            }
        }
    }

    fn main_ended(&mut self, ended: Ended) -> io::Result<()> {
        // The program may have started and ended between two looks. What the starter has said is all
        // that it will say, even if another copy of its socket is about to be closed elsewhere.
        self.hear_starter()?;
        if let Report::Running { since } = read_report(&self.run.heard, true) {
            self.started(since)?;
        }
        let now = Instant::now();
        let wall = match self.phase {
            Phase::Running { since } => Some(now.saturating_duration_since(since)),
            _ => None,
        };
        let exit = match ended {
            Ended::Code(code) => Exit::Code(code),
            Ended::Signal(signal) => Exit::Signal(signal),
        };
        self.phase = Phase::Draining { until: now + DRAIN, exit, wall };
        self.next_sample = None;
        // Whatever it left behind ends with it.
        self.signal(SIGKILL);
        Ok(())
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
