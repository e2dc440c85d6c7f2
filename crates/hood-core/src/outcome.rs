//! From what was seen of a place to what is said of the evaluation. The order in which the facts
//! are weighed is the table in `docs/verdicts.md`, which a test holds to this code.

use crate::limits::{Limit, Limits};
use crate::verdict::Verdict;

/// How the main process ended, as `wait` told whoever had cloned it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitStatus {
    Exited(u8),
    Signaled(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    Stdout,
    Stderr,
    /// What a build wrote to either of the two, in the order in which it was read.
    Build,
}

impl Stream {
    pub const ALL: [Self; 3] = [Self::Stdout, Self::Stderr, Self::Build];

    /// Those that the program itself writes to.
    pub const PROGRAM: [Self; 2] = [Self::Stdout, Self::Stderr];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Build => "build",
        }
    }
}

/// Why we began to end the program. Only the first cause counts: what comes after is its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillCause {
    Cancel,
    WallTime,
    CpuTime,
    Output(Stream),
    /// Where no cgroup can hold memory (policy `development` only), the agent samples and kills.
    SampledMemory,
    /// Likewise for the number of processes.
    SampledProcesses,
}

impl KillCause {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::WallTime => "wall_time",
            Self::CpuTime => "cpu_time",
            Self::Output(Stream::Stdout) => "stdout_limit",
            Self::Output(Stream::Stderr) => "stderr_limit",
            Self::Output(Stream::Build) => "build_limit",
            Self::SampledMemory => "sampled_memory",
            Self::SampledProcesses => "sampled_processes",
        }
    }

    const fn verdict(self) -> Verdict {
        match self {
            Self::Cancel => Verdict::Cancelled,
            Self::WallTime | Self::CpuTime => Verdict::TimedOut,
            Self::Output(_) => Verdict::OutputLimit,
            Self::SampledMemory => Verdict::OutOfMemory,
            Self::SampledProcesses => Verdict::Failed,
        }
    }

    const fn limit(self) -> Option<Limit> {
        match self {
            Self::Cancel => None,
            Self::WallTime => Some(Limit::WallMs),
            Self::CpuTime => Some(Limit::CpuMs),
            Self::Output(_) => Some(Limit::OutputBytes),
            Self::SampledMemory => Some(Limit::MemoryBytes),
            Self::SampledProcesses => Some(Limit::Processes),
        }
    }
}

/// Who carried the kill out: the agent inside, or the supervisor when the agent did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KilledBy {
    Agent,
    Supervisor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kill {
    pub cause: KillCause,
    pub by: KilledBy,
}

/// The program could not be started at all: what was asked for is not there, or is no program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecError {
    pub errno: i32,
    pub message: String,
}

impl ExecError {
    /// The shell's own codes: 127 for what was not found, 126 for what would not run.
    const fn exit_code(&self) -> u8 {
        const ENOENT: i32 = 2;
        if self.errno == ENOENT { 127 } else { 126 }
    }
}

/// One stream as it stood at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamEnd {
    /// Bytes that the program wrote.
    pub written: u64,
    /// Bytes that were kept, from the first on.
    pub kept: u64,
    /// False where the agent died before its last frame: more may have been written.
    pub complete: bool,
}

/// What was used, from the supervisor's own clock and cgroup; `None` where nothing could measure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub wall_us: Option<u64>,
    pub cpu_user_us: Option<u64>,
    pub cpu_system_us: Option<u64>,
    pub memory_peak_bytes: Option<u64>,
    pub throttled_us: Option<u64>,
    pub processes_peak: Option<u64>,
    /// Time in which the program stood still because its output was not read.
    pub blocked_us: Option<u64>,
}

/// Everything that was seen of one attempt's end. It holds facts only; [`judge`] weighs them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    pub wait: Option<WaitStatus>,
    pub exec_error: Option<ExecError>,
    pub kill: Option<Kill>,
    /// OOM kills that the kernel counted in the program's group.
    pub oom_kills: u64,
    /// Forks that the process limit refused.
    pub forks_refused: u64,
    /// Our own record of a foreign-architecture entry; a SIGSYS alone proves nothing.
    pub violation: Option<String>,
    /// Why the place's last word is missing, where it is.
    pub lost: Option<String>,
    pub usage: Usage,
    pub stdout: StreamEnd,
    pub stderr: StreamEnd,
    /// The build that came before the program, if one was asked for. Where it did not succeed, what
    /// stands beside it is of no program.
    pub build: Option<Box<BuildSeen>>,
}

/// Everything that was seen of a build's end, and the limits that it ran under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildSeen {
    pub limits: Limits,
    pub seen: Observation,
}

impl BuildSeen {
    /// How the build itself ended, by the same table as a program; `None` where nothing says so.
    pub fn outcome(&self) -> Option<Outcome> {
        judge(&self.seen, &self.limits)
    }

    /// Both of its streams as the one that is kept of them.
    pub const fn output(&self) -> StreamEnd {
        let (stdout, stderr) = (&self.seen.stdout, &self.seen.stderr);
        StreamEnd {
            written: stdout.written.saturating_add(stderr.written),
            kept: stdout.kept.saturating_add(stderr.kept),
            complete: stdout.complete && stderr.complete,
        }
    }
}

/// A limit that was met, and what it stood at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitHit {
    pub limit: Limit,
    pub allowed: u64,
}

/// What the program did, and what proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub verdict: Verdict,
    pub exit_code: Option<u8>,
    pub signal: Option<u8>,
    pub limit: Option<LimitHit>,
    /// Which rule of the precedence table decided.
    pub decided_by: Rule,
}

/// The rows of the precedence table, first match first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    Build,
    FirstKill,
    OomKill,
    Violation,
    ExecError,
    WaitStatus,
}

impl Rule {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::FirstKill => "first_kill",
            Self::OomKill => "oom_kill",
            Self::Violation => "violation",
            Self::ExecError => "exec_error",
            Self::WaitStatus => "wait_status",
        }
    }
}

/// Weighs what was seen. `None` where nothing seen says how the program ended: that attempt is
/// lost, which is ours to answer for and not the program's.
pub fn judge(seen: &Observation, limits: &Limits) -> Option<Outcome> {
    if let Some(build) = &seen.build
        && let Some(failed) = failed_build(build)
    {
        return failed;
    }
    let hit = |limit| LimitHit { limit, allowed: limits.get(limit) };
    let (verdict, limit, decided_by) = if let Some(kill) = seen.kill {
        (kill.cause.verdict(), kill.cause.limit().map(hit), Rule::FirstKill)
    } else if seen.oom_kills > 0 {
        (Verdict::OutOfMemory, Some(hit(Limit::MemoryBytes)), Rule::OomKill)
    } else if seen.violation.is_some() {
        (Verdict::PolicyViolation, None, Rule::Violation)
    } else if seen.exec_error.is_some() {
        (Verdict::Failed, None, Rule::ExecError)
    } else {
        let verdict = match seen.wait? {
            WaitStatus::Exited(0) => Verdict::Succeeded,
            WaitStatus::Exited(_) | WaitStatus::Signaled(_) => Verdict::Failed,
        };
        (verdict, None, Rule::WaitStatus)
    };
    let (exit_code, signal) = match (seen.wait, &seen.exec_error) {
        (_, Some(error)) => (Some(error.exit_code()), None),
        (Some(WaitStatus::Exited(code)), None) => (Some(code), None),
        (Some(WaitStatus::Signaled(signal)), None) => (None, Some(signal)),
        (None, None) => (None, None),
    };
    Some(Outcome { verdict, exit_code, signal, limit, decided_by })
}

/// What is said where the build did not succeed: a cancel stays a cancel, and everything else is a
/// failed build, with how it failed in `exit_code`, `signal` and `limit`. `Some(None)`: nothing says
/// how it ended.
fn failed_build(build: &BuildSeen) -> Option<Option<Outcome>> {
    let Some(outcome) = build.outcome() else { return Some(None) };
    let verdict = match outcome.verdict {
        Verdict::Succeeded => return None,
        Verdict::Cancelled => Verdict::Cancelled,
        _ => Verdict::BuildFailed,
    };
    Some(Some(Outcome { verdict, decided_by: Rule::Build, ..outcome }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    fn seen() -> Observation {
        Observation { wait: Some(WaitStatus::Exited(0)), ..Observation::default() }
    }

    const fn kill(cause: KillCause) -> Option<Kill> {
        Some(Kill { cause, by: KilledBy::Agent })
    }

    const CAUSES: [KillCause; 7] = [
        KillCause::Cancel,
        KillCause::WallTime,
        KillCause::CpuTime,
        KillCause::Output(Stream::Stdout),
        KillCause::Output(Stream::Stderr),
        KillCause::SampledMemory,
        KillCause::SampledProcesses,
    ];

    /// Every combination of facts, and what is said of it: the committed table.
    #[test]
    fn precedence_table() {
        let waits = [
            None,
            Some(WaitStatus::Exited(0)),
            Some(WaitStatus::Exited(3)),
            Some(WaitStatus::Signaled(9)),
            Some(WaitStatus::Signaled(31)),
        ];
        let mut table =
            String::from("first kill | oom kills | violation | exec error | wait | verdict | by\n");
        for cause in std::iter::once(None).chain(CAUSES.map(Some)) {
            for oom_kills in [0, 1] {
                for violation in [None, Some("i386 entry".to_owned())] {
                    for exec_error in [None, Some(ExecError { errno: 2, message: "no such file".into() })] {
                        for wait in waits {
                            let facts = Observation {
                                wait,
                                exec_error: exec_error.clone(),
                                kill: cause.and_then(kill),
                                oom_kills,
                                violation: violation.clone(),
                                ..Observation::default()
                            };
                            let said = judge(&facts, &Limits::DEFAULT);
                            let (verdict, by) =
                                said.map_or(("(lost)", ""), |o| (o.verdict.as_str(), o.decided_by.as_str()));
                            let cause = cause.map_or("-", KillCause::as_str);
                            let (v, e) = (violation.is_some(), exec_error.is_some());
                            writeln!(
                                table,
                                "{cause} | {oom_kills} | {v} | {e} | {wait:?} | {verdict} | {by}"
                            )
                            .expect("a string takes all");
                        }
                    }
                }
            }
        }
        insta::assert_snapshot!(table);
    }

    /// The page that people read says what the code does, in the order in which it does it.
    #[test]
    fn the_page_holds_the_same_table() {
        let page = include_str!("../../../docs/verdicts.md");
        let mut rest = page;
        for rule in
            [Rule::Build, Rule::FirstKill, Rule::OomKill, Rule::Violation, Rule::ExecError, Rule::WaitStatus]
        {
            let row = format!("| `{}` |", rule.as_str());
            let at =
                rest.find(&row).unwrap_or_else(|| panic!("docs/verdicts.md lacks {row}, or out of order"));
            rest = &rest[at + row.len()..];
        }
        for cause in CAUSES {
            let limit = cause.limit().map_or("–".to_owned(), |limit| format!("`{}`", limit.as_str()));
            let row = format!("| `{}` | `{}` | {limit} |", cause.as_str(), cause.verdict().as_str());
            assert!(page.contains(&row), "docs/verdicts.md lacks {row}");
        }
    }

    #[test]
    fn the_first_cause_wins_over_its_effects() {
        for cause in CAUSES {
            let facts = Observation { kill: kill(cause), oom_kills: 3, ..seen() };
            assert_eq!(judge(&facts, &Limits::DEFAULT).expect("judged").verdict, cause.verdict());
        }
    }

    #[test]
    fn an_oom_kill_is_out_of_memory_even_if_the_program_then_exits_0() {
        let outcome = judge(&Observation { oom_kills: 1, ..seen() }, &Limits::DEFAULT).expect("judged");
        assert_eq!((outcome.verdict, outcome.exit_code), (Verdict::OutOfMemory, Some(0)));
        assert_eq!(outcome.limit.expect("named").allowed, Limits::DEFAULT.memory_bytes);
    }

    #[test]
    fn a_sigsys_of_ones_own_is_no_violation() {
        let wait = Some(WaitStatus::Signaled(31));
        let forged = Observation { wait, ..Observation::default() };
        assert_eq!(judge(&forged, &Limits::DEFAULT).expect("judged").verdict, Verdict::Failed);
        let ours = Observation { violation: Some("i386 entry".into()), ..forged };
        assert_eq!(judge(&ours, &Limits::DEFAULT).expect("judged").verdict, Verdict::PolicyViolation);
    }

    #[test]
    fn what_cannot_be_started_gets_the_codes_of_a_shell() {
        for (errno, code) in [(2, 127), (13, 126), (8, 126)] {
            let exec_error = Some(ExecError { errno, message: String::new() });
            let outcome = judge(&Observation { exec_error, ..Observation::default() }, &Limits::DEFAULT);
            assert_eq!(outcome.expect("judged").exit_code, Some(code));
        }
    }

    fn built(seen: Observation) -> Option<Box<BuildSeen>> {
        Some(Box::new(BuildSeen { limits: Limits { wall_ms: 7, ..Limits::DEFAULT }, seen }))
    }

    #[test]
    fn a_build_that_did_not_succeed_is_an_outcome_of_its_own() {
        let wait = Some(WaitStatus::Exited(1));
        let failed = Observation { build: built(Observation { wait, ..Observation::default() }), ..seen() };
        let outcome = judge(&failed, &Limits::DEFAULT).expect("judged");
        assert_eq!((outcome.verdict, outcome.exit_code), (Verdict::BuildFailed, Some(1)));
        assert_eq!(outcome.decided_by, Rule::Build);
        let slow = Observation { kill: kill(KillCause::WallTime), ..Observation::default() };
        let outcome = judge(&Observation { build: built(slow), ..seen() }, &Limits::DEFAULT).expect("judged");
        assert_eq!(outcome.verdict, Verdict::BuildFailed);
        assert_eq!(outcome.limit.expect("named").allowed, 7, "the limit is the build's own");
        let stopped = Observation { kill: kill(KillCause::Cancel), ..Observation::default() };
        let outcome = judge(&Observation { build: built(stopped), ..seen() }, &Limits::DEFAULT);
        assert_eq!(outcome.expect("judged").verdict, Verdict::Cancelled);
    }

    #[test]
    fn a_build_that_succeeded_leaves_the_verdict_to_the_program() {
        let wait = Some(WaitStatus::Exited(3));
        let facts = Observation { wait, build: built(seen()), ..Observation::default() };
        assert_eq!(judge(&facts, &Limits::DEFAULT).expect("judged").verdict, Verdict::Failed);
        let lost = Observation { build: built(seen()), ..Observation::default() };
        assert_eq!(judge(&lost, &Limits::DEFAULT), None);
    }

    #[test]
    fn a_build_of_which_nothing_was_seen_is_lost() {
        assert_eq!(
            judge(&Observation { build: built(Observation::default()), ..seen() }, &Limits::DEFAULT),
            None
        );
    }

    #[test]
    fn nothing_seen_is_lost_and_never_blamed_on_the_program() {
        assert_eq!(judge(&Observation::default(), &Limits::DEFAULT), None);
    }
}
