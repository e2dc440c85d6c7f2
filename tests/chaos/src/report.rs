//! What a run came to: counts, and whether they are what was asked for.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use hood_wire::api::{EventType, State};

use crate::check::micros;
use crate::history::{Chronicle, History, How, Incident, LeaseTaken, Micros, Sighting, Victim, What};
use crate::member::Role;

/// Where an evaluation stood when a blow fell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Provisioning,
    Running,
    /// The program had ended, and that was not written.
    Ending,
}

const PHASES: [Phase; 3] = [Phase::Provisioning, Phase::Running, Phase::Ending];

/// Less than this is no run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Floors {
    pub(crate) evaluations: usize,
    pub(crate) kills: usize,
    /// Of every victim.
    pub(crate) blows_each: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Tally {
    lines: Vec<String>,
    pub(crate) shortfalls: Vec<String>,
}

impl Tally {
    fn count(&mut self, what: impl Into<String>, count: usize, floor: usize) {
        let what = what.into();
        self.lines.push(format!("{what:<44} {count:>8}  (at least {floor})"));
        if count < floor {
            self.shortfalls.push(format!("{what}: {count}, at least {floor} were asked for"));
        }
    }

    fn figure(&mut self, what: impl Into<String>, count: impl std::fmt::Display) {
        self.lines.push(format!("{:<44} {count:>8}", what.into()));
    }

    pub(crate) fn text(&self) -> String {
        self.lines.iter().fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "{line}");
            text
        })
    }
}

pub(crate) fn tally(chronicle: &Chronicle, victims: &[Victim], floors: Floors) -> Tally {
    let mut tally = Tally::default();
    tally.count("evaluations accepted", chronicle.histories.len(), floors.evaluations);
    for (verdict, count) in verdicts(chronicle) {
        tally.figure(format!("  {verdict}"), count);
    }
    outcomes(chronicle, &mut tally);
    let kills = chronicle.incidents.iter().filter(|incident| incident.how == How::Kill).count();
    tally.count("kills", kills, floors.kills);
    let parted = chronicle.incidents.iter().filter(|incident| incident.how == How::Part).count();
    tally.figure("freezes past the lease", chronicle.incidents.len() - kills - parted);
    tally.figure("partings past the lease", parted);
    let mut kinds: BTreeMap<&'static str, usize> = BTreeMap::new();
    for victim in victims {
        kinds.entry(kind(*victim, chronicle)).or_default();
    }
    for incident in &chronicle.incidents {
        *kinds.entry(kind(incident.victim, chronicle)).or_default() += 1;
    }
    for (kind, count) in kinds {
        tally.count(format!("  blows to {kind}"), count, floors.blows_each);
    }
    phases(chronicle, &mut tally);
    tally
}

fn verdicts(chronicle: &Chronicle) -> BTreeMap<String, usize> {
    let mut verdicts = BTreeMap::new();
    for history in &chronicle.histories {
        let verdict = history.evaluation.verdict.map_or("none".to_owned(), |verdict| format!("{verdict:?}"));
        *verdicts.entry(verdict).or_default() += 1;
    }
    verdicts
}

fn outcomes(chronicle: &Chronicle, tally: &mut Tally) {
    let mut lost: BTreeMap<String, usize> = BTreeMap::new();
    let attempts = chronicle.histories.iter().flat_map(|history| &history.evaluation.attempts);
    for attempt in attempts.clone() {
        if let Some(why) = &attempt.lost {
            *lost.entry(why.kind.clone()).or_default() += 1;
        }
    }
    tally.figure("attempts", attempts.count());
    for (kind, count) in lost {
        tally.figure(format!("  lost: {kind}"), count);
    }
    let over = chronicle.leases.iter().filter(|lease| lease.earlier.is_some()).count();
    tally.figure("leases", chronicle.leases.len());
    tally.figure("  taken over from another holder", over);
    let released = chronicle.sightings.iter().filter(|sighting| sighting.what == What::Released).count();
    tally.figure("programs released", released);
    let followed = chronicle.histories.iter().filter(|history| history.followed.is_some()).count();
    tally.figure("followed live, from first event to last", followed);
    let bytes = |history: &History| {
        history.outputs.iter().map(|output| output.stdout.len() + output.stderr.len()).sum::<usize>()
    };
    tally.figure("bytes of output compared", chronicle.histories.iter().map(bytes).sum::<usize>());
}

fn kind(victim: Victim, chronicle: &Chronicle) -> &'static str {
    match victim {
        Victim::Member(index) => chronicle.people.get(index).map_or("?", |person| person.role.as_str()),
        Victim::Pair(index) => chronicle.pairs.get(index).copied().unwrap_or("?"),
        Victim::Database => "the database",
        Victim::Bus => "redis",
    }
}

/// Which phases the kills met, by whom they killed.
fn phases(chronicle: &Chronicle, tally: &mut Tally) {
    let scene = Scene::of(chronicle);
    let mut met: BTreeMap<(Phase, &'static str), usize> = BTreeMap::new();
    let mut kills: BTreeMap<Phase, usize> = BTreeMap::new();
    for incident in chronicle.incidents.iter().filter(|incident| incident.how == How::Kill) {
        for phase in PHASES {
            let there = scene.count(incident, phase);
            if there > 0 {
                *met.entry((phase, kind(incident.victim, chronicle))).or_default() += 1;
                *kills.entry(phase).or_default() += 1;
            }
        }
    }
    for phase in PHASES {
        tally.count(format!("kills that met {phase:?}"), kills.get(&phase).copied().unwrap_or(0), 1);
        for ((_, kind), count) in met.range((phase, "")..).take_while(|((other, _), _)| *other == phase) {
            tally.figure(format!("  of {kind}"), count);
        }
    }
}

/// Everything needed to say where an evaluation stood at some moment, and in whose hands.
struct Scene<'a> {
    chronicle: &'a Chronicle,
    sightings: HashMap<(&'a str, u32), Vec<&'a Sighting>>,
    leases: HashMap<&'a str, Vec<&'a LeaseTaken>>,
}

impl<'a> Scene<'a> {
    fn of(chronicle: &'a Chronicle) -> Self {
        let mut sightings: HashMap<(&str, u32), Vec<&Sighting>> = HashMap::new();
        for sighting in &chronicle.sightings {
            sightings.entry((&sighting.evaluation, sighting.attempt)).or_default().push(sighting);
        }
        let mut leases: HashMap<&str, Vec<&LeaseTaken>> = HashMap::new();
        for lease in &chronicle.leases {
            leases.entry(&lease.evaluation).or_default().push(lease);
        }
        Self { chronicle, sightings, leases }
    }

    /// How many evaluations in the victim's hands stood there.
    fn count(&self, incident: &Incident, phase: Phase) -> usize {
        let stood = |history: &&History| self.stood(history, incident, phase);
        self.chronicle.histories.iter().filter(stood).count()
    }

    fn stood(&self, history: &History, incident: &Incident, phase: Phase) -> bool {
        let before =
            history.events.iter().take_while(|event| micros(&event.at).is_some_and(|at| at <= incident.at));
        let Some(last) = before.last() else { return false };
        let attempt = match last.kind {
            EventType::AttemptStarted | EventType::Started => last.attempt.unwrap_or(0),
            _ => return false,
        };
        let key = (history.evaluation.id.as_str(), attempt);
        let seen = self.sightings.get(&key).map_or(&[][..], Vec::as_slice);
        let until = |what| seen.iter().find(|one| one.what == what && one.at <= incident.at);
        let its_phase = match last.state {
            State::Running if until(What::Ended).is_some() => Phase::Ending,
            State::Running => Phase::Running,
            _ => Phase::Provisioning,
        };
        let owner = until(What::Ordered).map(|order| order.member);
        its_phase == phase && self.holds(incident, (&history.evaluation.id, owner))
    }

    /// Whether an evaluation is in the hands of whoever was struck: an API, Redis and what passes
    /// between two hold none.
    fn holds(&self, incident: &Incident, (id, owner): (&str, Option<usize>)) -> bool {
        match incident.victim {
            Victim::Member(index) => {
                let Some(person) = self.chronicle.people.get(index) else { return false };
                match person.role {
                    Role::Serve => true,
                    Role::Dispatcher => owner == Some(index),
                    Role::Worker => self.holder(id, incident.at).is_some_and(|holder| person.is(holder)),
                    Role::Api | Role::Notifier => false,
                }
            }
            Victim::Database => true,
            Victim::Bus | Victim::Pair(_) => false,
        }
    }

    fn holder(&self, id: &str, at: Micros) -> Option<&str> {
        let of = self.leases.get(id)?;
        of.iter().rev().find(|lease| lease.at <= at).map(|lease| lease.worker.as_str())
    }
}

/// For the moments that a report names.
pub(crate) fn seconds(from: Micros, to: Micros) -> String {
    format!("{:.1} s", (to - from) as f64 / 1e6)
}
