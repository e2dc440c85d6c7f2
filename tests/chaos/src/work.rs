//! What is submitted: programs whose every byte of output is known beforehand.

use std::collections::BTreeMap;

use hood_client::Stream;
use hood_wire::api::{LimitsRequest, Submission, Verdict};

use crate::dice::Dice;

/// The label that all of one run carry, and the one with the work's number.
pub(crate) const RUN_LABEL: &str = "chaos-run";
pub(crate) const NUMBER_LABEL: &str = "chaos-number";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A few lines at once.
    Quick,
    /// A line now and then, for half a second or so.
    Paced,
    /// The same for longer than a lease lasts.
    Long,
    /// Far more than one commit of output.
    Big,
    /// Ends with an exit code of its own, and says something on stderr.
    Fails,
}

/// How often each occurs, of 100.
const SHARES: [(Kind, u64); 5] =
    [(Kind::Quick, 60), (Kind::Paced, 15), (Kind::Long, 3), (Kind::Big, 10), (Kind::Fails, 12)];

const EXIT_CODE: u8 = 3;

/// No deadline is what is tried here, and a machine under such a run is slow when it likes.
const WALL_MS: u64 = 600_000;

/// Cancelled on the way, of 100.
const CANCELLED: u64 = 3;
/// Followed live, of 100.
const FOLLOWED: u64 = 10;
/// Submitted again under the same key, of 100.
const REPEATED: u64 = 10;
/// One of so many has its end told, where there is somebody to tell: a host gets only so many a second.
const TOLD: u64 = 8;

/// Prints a known sequence, either all at once or a line at a time.
const PROGRAM: &str = "\
import sys, time
def lines(x, count):
    for _ in range(count):
        x = (x * 6364136223846793005 + 1442695040888963407) % 2**64
        yield '%016x\\n' % x
def put(out, x, count, pause):
    if not pause:
        out.write(''.join(lines(x, count)))
    else:
        for line in lines(x, count):
            out.write(line); out.flush(); time.sleep(pause)
";

#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    pub(crate) cancelled: bool,
    pub(crate) followed: bool,
    pub(crate) repeated: bool,
    seed: u64,
}

impl Work {
    /// The same for the same run and number.
    pub(crate) fn of(run_seed: u64, number: u64) -> Self {
        let mut dice = Dice::of(run_seed, number.wrapping_add(1));
        let mut share = dice.below(100);
        let mut kind = Kind::Quick;
        for (candidate, width) in SHARES {
            kind = candidate;
            if share < width {
                break;
            }
            share -= width;
        }
        let (cancelled, followed) = (dice.percent(CANCELLED), dice.percent(FOLLOWED));
        let repeated = dice.percent(REPEATED);
        Self { number, kind, cancelled, followed, repeated, seed: dice.next() }
    }

    pub(crate) fn submission(&self, run: &str) -> Submission {
        let labels = [(RUN_LABEL, run.to_owned()), (NUMBER_LABEL, self.number.to_string())];
        let labels: BTreeMap<_, _> =
            labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let limits = LimitsRequest { wall_ms: Some(WALL_MS), ..LimitsRequest::default() };
        Submission { code: Some(self.code()), labels, limits, grace_ms: Some(0), ..Submission::default() }
    }

    pub(crate) const fn is_told(&self) -> bool {
        self.number.is_multiple_of(TOLD)
    }

    fn code(&self) -> String {
        let (out, err) = (self.seed, self.seed ^ 1);
        let mut code = format!("{PROGRAM}put(sys.stdout, {out}, {}, {})\n", self.lines(), self.pause_s());
        if self.kind == Kind::Fails {
            code += &format!("put(sys.stderr, {err}, {}, 0)\nsys.exit({EXIT_CODE})\n", self.lines());
        }
        code
    }

    const fn lines(&self) -> u64 {
        match self.kind {
            Kind::Quick | Kind::Fails => 3 + self.seed % 20,
            Kind::Paced => 5 + self.seed % 10,
            Kind::Long => 30 + self.seed % 10,
            Kind::Big => 10_000 + self.seed % 20_000,
        }
    }

    const fn pause_s(&self) -> f64 {
        match self.kind {
            Kind::Quick | Kind::Fails | Kind::Big => 0.0,
            Kind::Paced => 0.05,
            Kind::Long => 0.1,
        }
    }

    pub(crate) fn expected(&self, stream: Stream) -> Vec<u8> {
        let mut x = match (stream, self.kind) {
            (Stream::Stdout, _) => self.seed,
            (Stream::Stderr, Kind::Fails) => self.seed ^ 1,
            (Stream::Stderr | Stream::Build, _) => return Vec::new(),
        };
        let mut text = String::new();
        for _ in 0..self.lines() {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text += &format!("{x:016x}\n");
        }
        text.into_bytes()
    }

    pub(crate) fn verdict(&self) -> (Verdict, Option<u8>) {
        match self.kind {
            Kind::Fails => (Verdict::Failed, Some(EXIT_CODE)),
            _ => (Verdict::Succeeded, Some(0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_work_and_every_kind_occurs() {
        let some: Vec<Work> = (0..500).map(|number| Work::of(7, number)).collect();
        for kind in SHARES.map(|(kind, _)| kind) {
            assert!(some.iter().any(|work| work.kind == kind), "{kind:?}");
        }
        assert_eq!(Work::of(7, 3).code(), some[3].code());
        assert_ne!(Work::of(8, 3).code(), some[3].code());
        assert_eq!(SHARES.iter().map(|(_, share)| share).sum::<u64>(), 100);
    }
}
