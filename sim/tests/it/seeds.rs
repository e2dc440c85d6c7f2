//! Black box. A seed is one world, and worlds are sound.

use hood_sim::run::{PHASES, Totals, run};

/// Few enough for every test run; the many are a suite of their own.
const SEEDS: u64 = 60;

#[test]
fn the_same_seed_is_the_same_world() {
    for seed in [3, 4, 5, 6, 7, 8] {
        let (one, again) = (run(seed, false), run(seed, false));
        assert_eq!((one.trace, one.polls), (again.trace, again.polls), "seed {seed}");
        assert_eq!((one.faults, one.verdicts), (again.faults, again.verdicts), "seed {seed}");
        assert_ne!(one.trace, run(seed + 1000, false).trace, "seed {seed}");
    }
}

#[test]
fn what_was_promised_holds_in_every_world() {
    let mut totals = Totals::default();
    for seed in 0..SEEDS {
        let report = run(seed, false);
        assert_eq!(report.violations, [], "seed {seed}: cargo run -p hood-sim -- --seed {seed} --trace");
        totals.add(&report);
    }
    for phase in PHASES {
        assert!(totals.faults.contains_key(phase), "not seen in {SEEDS} seeds: {phase}");
    }
    for verdict in ["succeeded", "failed", "cancelled", "infrastructure_error"] {
        assert!(totals.verdicts.contains_key(verdict), "not seen in {SEEDS} seeds: {verdict}");
    }
    assert!(!totals.verdicts.contains_key("none"), "{:?}", totals.verdicts);
}
