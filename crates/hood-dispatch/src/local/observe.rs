//! From the agent's last frame and the outside's own figures to what was seen. The agent is
//! believed about exit status and bytes; what it says of time and causes must agree with what the
//! outside knows, or the place is lost.

use std::time::{Duration, Instant};

use hood_core::outcome::{
    ExecError, Kill, KillCause, KilledBy, Observation, Stream, StreamEnd, Usage, WaitStatus,
};
use hood_core::{Limits, visible};
use hood_sandbox::Sample;
use hood_sandbox::inside::PATH_DIRECTORIES_MAX;
use hood_wire::agent;

use super::supervisor::Supervisor;

/// How far the two clocks may differ about one deadline.
const CLOCK_SLACK: Duration = Duration::from_millis(250);

/// SIGKILL, which nothing but the outside sends without the agent's knowing.
const SIGKILL: u8 = 9;

/// What the outside knows when the last frame arrives.
pub(super) struct Outside<'a> {
    pub(super) supervisor: &'a Supervisor,
    pub(super) limits: &'a Limits,
    pub(super) fail_on_output_limit: bool,
    pub(super) sample: Sample,
    pub(super) now: Instant,
}

impl Outside<'_> {
    fn base(&self) -> Observation {
        let sample = &self.sample;
        Observation {
            oom_kills: sample.oom_kills.unwrap_or(0),
            forks_refused: sample.forks_refused.unwrap_or(0),
            usage: Usage {
                wall_us: self.supervisor.running_for(self.now).map(micros),
                cpu_user_us: sample.user_us,
                cpu_system_us: sample.system_us,
                memory_peak_bytes: sample.memory_peak_bytes,
                throttled_us: sample.throttled_us,
                processes_peak: sample.processes_peak,
                blocked_us: None,
            },
            ..Observation::default()
        }
    }

    /// The program ran and ended.
    pub(super) fn ended(&self, ending: &agent::Ending) -> Observation {
        let base = self.base();
        let kill = match self.kill(ending.cause, ending.exit) {
            Ok(kill) => kill,
            Err(lie) => return Observation { lost: Some(lie), ..base },
        };
        Observation {
            wait: Some(wait(ending.exit)),
            kill,
            violation: ending.foreign_call.map(violation),
            usage: Usage {
                wall_us: self.wall(Duration::from_micros(ending.usage.wall_us)).map(micros),
                blocked_us: Some(ending.usage.blocked_us),
                ..base.usage
            },
            stdout: stream(&ending.stdout),
            stderr: stream(&ending.stderr),
            ..base
        }
    }

    /// What the agent measured where the program ran: here its start is heard of late, and of a short
    /// program perhaps with its end. It cannot have run before it was released, nor have ended long
    /// before that was heard.
    fn wall(&self, said: Duration) -> Option<Duration> {
        let heard = self.supervisor.running_for(self.now)?;
        let most = self.supervisor.released_for(self.now)?;
        Some(said.max(heard.saturating_sub(CLOCK_SLACK)).min(most))
    }

    /// The program's first instruction was never run.
    pub(super) fn not_started(&self, early: &agent::EarlyEnd) -> Observation {
        let silent = StreamEnd { complete: true, ..StreamEnd::default() };
        let base = Observation { stdout: silent, stderr: silent, ..self.base() };
        match early {
            agent::EarlyEnd::Refused { stage: agent::Stage::Setup, errno, detail, .. } => {
                let step = String::from_utf8_lossy(detail);
                let lost = format!("the place could not {step}: {}", error_text(*errno));
                Observation { lost: Some(lost), ..base }
            }
            agent::EarlyEnd::Refused { stage, errno, detail, lacking } => {
                let about = shown(detail);
                let (doing, why) = match stage {
                    agent::Stage::Inputs => ("writing the input file", error_text(*errno)),
                    agent::Stage::Cwd => ("entering", error_text(*errno)),
                    agent::Stage::Exec | agent::Stage::Setup => {
                        let why = lacking.as_ref().map(|lacking| lacks(lacking, detail));
                        ("starting", why.unwrap_or_else(|| not_executed(*errno, &about)))
                    }
                };
                let message = format!("{doing} `{about}`: {why}");
                Observation { exec_error: Some(ExecError { errno: *errno, message }), ..base }
            }
            agent::EarlyEnd::Died { exit, cause } => match self.kill(*cause, *exit) {
                Err(lie) => Observation { lost: Some(lie), ..base },
                Ok(None) if base.oom_kills == 0 => Observation {
                    lost: Some("the program's process died before its start".to_owned()),
                    ..base
                },
                Ok(kill) => Observation { wait: Some(wait(*exit)), kill, ..base },
            },
        }
    }

    /// The link broke before a last frame.
    pub(super) fn lost(&self, reason: String) -> Observation {
        // Where we had begun to end the program, the place's death is that cause's effect.
        Observation {
            kill: self.supervisor.cause().map(|cause| Kill { cause, by: KilledBy::Supervisor }),
            lost: Some(reason),
            ..self.base()
        }
    }

    /// The first cause that made us end the program, if something did.
    fn kill(&self, said: Option<agent::KillCause>, exit: agent::Exit) -> Result<Option<Kill>, String> {
        let by_agent = |cause| Ok(Some(Kill { cause, by: KilledBy::Agent }));
        let ours = self.supervisor.cause();
        let lie =
            |what: &str| Err(format!("the agent says that it ended the program for {what}, which cannot be"));
        match said {
            None => {
                let outside = self.supervisor.has_killed() && exit == agent::Exit::Signal(SIGKILL);
                Ok(ours.filter(|_| outside).map(|cause| Kill { cause, by: KilledBy::Supervisor }))
            }
            Some(agent::KillCause::Deadline) => {
                let wall = Duration::from_millis(self.limits.wall_ms);
                match self.supervisor.running_for(self.now) {
                    Some(ran) if ran + CLOCK_SLACK >= wall => by_agent(KillCause::WallTime),
                    _ => lie("its deadline"),
                }
            }
            Some(agent::KillCause::Cancel | agent::KillCause::Kill) => match ours {
                Some(cause) => by_agent(cause),
                None => lie("an order of ours"),
            },
            Some(agent::KillCause::OutputLimit(which)) if self.fail_on_output_limit => {
                by_agent(KillCause::Output(stream_name(which)))
            }
            Some(agent::KillCause::OutputLimit(_)) => lie("its output"),
            // Not a cause among the others: it is weighed as the violation that it is.
            Some(agent::KillCause::ForeignCall) => Ok(None),
            Some(agent::KillCause::SampledMemory) => by_agent(KillCause::SampledMemory),
            Some(agent::KillCause::SampledProcesses) => by_agent(KillCause::SampledProcesses),
        }
    }
}

pub(super) const fn stream_name(stream: agent::Stream) -> Stream {
    match stream {
        agent::Stream::Stdout => Stream::Stdout,
        agent::Stream::Stderr => Stream::Stderr,
    }
}

const fn wait(exit: agent::Exit) -> WaitStatus {
    match exit {
        agent::Exit::Code(code) => WaitStatus::Exited(code),
        agent::Exit::Signal(signal) => WaitStatus::Signaled(signal),
    }
}

const fn stream(end: &agent::Streams) -> StreamEnd {
    StreamEnd { written: end.written, kept: end.kept, complete: end.complete }
}

fn violation(call: agent::ForeignCall) -> String {
    format!(
        "a system call of a foreign architecture (AUDIT_ARCH {:#010x}, number {})",
        call.arch, call.number
    )
}

/// Why nothing was executed, in words of what was asked for.
fn not_executed(errno: i32, about: &str) -> String {
    const ENOENT: i32 = 2;
    const ENOEXEC: i32 = 8;
    const EACCES: i32 = 13;
    match errno {
        ENOENT if about.contains('/') => "there is no such file in this environment".to_owned(),
        ENOENT => "there is no such program on the PATH of this environment".to_owned(),
        ENOEXEC => "it is no program: a script begins with `#!`, and an executable is made for this machine's kind of \
                    processor"
            .to_owned(),
        EACCES => "it may not be executed; a file that is sent with a submission runs where it is `executable`".to_owned(),
        _ => error_text(errno),
    }
}

/// Why a file that is there does not start, and what helps.
fn lacks(lacking: &agent::Lacking, asked_for: &[u8]) -> String {
    match lacking {
        agent::Lacking::Interpreter(path) => match path.strip_suffix(b"\r").map(shown) {
            Some(path) => format!(
                "its first line ends as lines do on Windows, and so names an interpreter `{path}` with a carriage \
                     return behind it; save the file with lines that end in \\n alone"
            ),
            None => format!(
                "the interpreter `{}` that it needs is not in this environment, or may not be executed; take an \
                     environment that has it, or name one in the file's first line that is there",
                shown(path)
            ),
        },
        agent::Lacking::Loader(path) => format!(
            "the loader `{}` that it was linked for is not in this environment; build it in this environment, for the C \
             library that is there, or link it statically",
            shown(path)
        ),
        agent::Lacking::Directory(path) if path == asked_for => {
            "it is a directory; name a program that lies there".to_owned()
        }
        agent::Lacking::Directory(path) => format!(
            "what is to run it, `{}`, is a directory; name an interpreter in the file's first line that is there, or link \
             it for a loader that is",
            shown(path)
        ),
        agent::Lacking::Unreadable(path) => format!(
            "`{}` may be executed, and not be read, and so what it needs to run cannot be told; let it be read (`chmod +r`)",
            shown(path)
        ),
        agent::Lacking::Unsearched => format!(
            "it is not in the first {PATH_DIRECTORIES_MAX} directories of PATH, and more are not searched; give PATH fewer, \
             or the command with its path"
        ),
    }
}

/// What a submission names, or a file of it, as text for people.
fn shown(bytes: &[u8]) -> String {
    visible::line(&String::from_utf8_lossy(bytes))
}

fn error_text(errno: i32) -> String {
    std::io::Error::from_raw_os_error(errno).to_string()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_is_the_agents_within_what_the_outside_knows() {
        let ms = Duration::from_millis;
        let began = Instant::now();
        let mut supervisor = Supervisor::new(Limits::DEFAULT, Duration::ZERO);
        supervisor.released(began);
        // Its start was heard of 900 ms after its release, and its end 1 s after that.
        supervisor.started(began + ms(900));
        let outside = Outside {
            supervisor: &supervisor,
            limits: &Limits::DEFAULT,
            fail_on_output_limit: false,
            sample: Sample::default(),
            now: began + ms(1900),
        };
        let wall = |said| outside.wall(said).expect("it ran");
        assert_eq!(wall(ms(1850)), ms(1850), "its start was heard of late");
        assert_eq!(wall(ms(1900)), ms(1900));
        assert_eq!(wall(ms(1901)), ms(1900), "it was not released before");
        assert_eq!(wall(ms(750)), ms(750), "its end was heard of late");
        assert_eq!(wall(ms(749)), ms(750), "but not that late");
    }
}
