//! Whole vats on a simulated disk that loses power, fails and fills up: real SQLite, the file system
//! and the journal, with everything that is done to them drawn from a seed.
//!
//! ```text
//! cargo test -p vatwerk-server --lib simulation                            a few hundred seeds
//! VATWERK_SEEDS=20000 cargo test --release -p vatwerk-server --lib simulation
//! VATWERK_SEED=7 cargo test -p vatwerk-server --lib simulation             that one
//! ```

mod damage;
mod directed;
mod disturb;
mod edit;
mod failure;
mod found;
mod large;
mod model;
mod object;
mod plain;
mod property;
mod random;
mod run;
mod sabotage;
mod twin;
mod vat;

use std::{env, ops::Range};

use self::run::{Met, Options, run};

/// The seeds to run: those that the environment names, or so many.
fn seeds(usual: u64) -> Range<u64> {
    let number = |name| env::var(name).ok()?.parse().ok();
    match number("VATWERK_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("VATWERK_SEEDS").unwrap_or(usual),
    }
}

fn run_all(options: Options, usual: u64) -> Met {
    let mut met = Met {
        is_told: env::var_os("VATWERK_SEED").is_some(),
        ..Met::default()
    };
    for seed in seeds(usual) {
        if let Err(failure) = run(seed, options, &mut met) {
            failure.panic(seed);
        }
    }
    met
}

#[test]
fn a_crash_at_any_point_loses_nothing_that_was_durable() {
    let met = run_all(Options::default(), 250);
    println!("{met:?}");
    if env::var_os("VATWERK_SEED").is_none() {
        let all = [
            "Allocate",
            "Create",
            "Remove",
            "SetLen",
            "Sync",
            "SyncAll",
            "SyncFolder",
            "Write",
        ];
        let hit =
            |kind: &&str| met.living.contains_key(*kind) || met.recovering.contains_key(*kind);
        assert!(all.iter().all(hit), "{met:?}");
        // A recovery makes no segments.
        let hit = |kind: &&str| met.recovering.contains_key(*kind);
        assert!(all[1..].iter().all(hit), "{met:?}");
    }
}

/// Else a seed that fails tells nothing.
#[test]
fn a_run_is_a_function_of_its_seed() {
    for (faults, stepped) in [(false, false), (true, false), (true, true)] {
        let options = Options {
            faults,
            stepped,
            ..Options::default()
        };
        for seed in 0..25 {
            let trace = || {
                let mut met = Met {
                    trace: Some(Vec::new()),
                    ..Met::default()
                };
                if let Err(failure) = run(seed, options, &mut met) {
                    failure.panic(seed);
                }
                met.trace.unwrap_or_default()
            };
            let (first, second) = (trace(), trace());
            assert!(!first.is_empty());
            let differs = first.iter().zip(&second).find(|(one, other)| one != other);
            assert_eq!(differs, None, "seed {seed}, faults {faults}");
            assert_eq!(first.len(), second.len(), "seed {seed}, faults {faults}");
        }
    }
}

#[test]
fn nothing_that_was_durable_is_lost_whoever_takes_the_next_step() {
    for faults in [false, true] {
        let options = Options {
            faults,
            stepped: true,
            ..Options::default()
        };
        println!("{:?}", run_all(options, 60));
    }
}

#[test]
fn a_failing_disk_loses_nothing_that_was_durable() {
    let options = Options {
        faults: true,
        ..Options::default()
    };
    println!("{:?}", run_all(options, 250));
}
