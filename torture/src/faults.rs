//! What can be done to the daemon, and the seeded plan of one cycle. Doing it is `episodes`' part.

use std::time::Duration;

use rand::Rng;
use rand::seq::IndexedRandom;

use crate::seed;

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, clap::ValueEnum)]
pub(crate) enum Fault {
    /// kill -9 of the daemon, and a new start.
    Kill,
    /// Several kills in quick succession, during recovery.
    KillBurst,
    /// SIGTERM; it must end with code 0.
    Term,
    /// Immediate stop of the server (a crash), and a new start.
    ServerCrash,
    /// Fast stop of the server; it must not hang on its walsender.
    ServerStop,
    /// pg_terminate_backend of the walsender.
    Walsender,
    /// Every connection between daemon and server is cut.
    Cut,
    /// The network stands still for a while.
    Stall,
    /// The network delivers in pieces, down to single bytes.
    Chop,
    /// A half-open connection: nothing arrives any more, and nobody says so.
    BlackHole,
    /// No space for the log: a small file system filled up, or ENOSPC from the preloaded library.
    DiskFull,
    /// Every fsync takes long.
    SlowDisk,
    /// fsync fails with EIO.
    FailingFsync,
    /// Power is cut: what was not fsynced is gone.
    PowerCut,
    /// fsync lies, then power is cut: the daemon must notice that it lost what it had confirmed.
    LyingFsync,
    /// The named consumer dies and comes back later.
    DyingConsumer,
    /// The slow consumer stops reading.
    SlowConsumer,
}

/// How often each kind is chosen, and for how long it holds, in milliseconds.
struct Habit {
    fault: Fault,
    weight: u32,
    hold_ms: (u64, u64),
    note: &'static str,
}

const fn habit(fault: Fault, weight: u32, hold_ms: (u64, u64), note: &'static str) -> Habit {
    Habit { fault, weight, hold_ms, note }
}

/// Long holds stay below the timeouts of `server` and `daemon` unless the fault is about those.
const HABITS: [Habit; 17] = [
    habit(Fault::Kill, 10, (0, 300), "kill -9 of the daemon, restart"),
    habit(Fault::KillBurst, 4, (20, 500), "several kill -9 in quick succession, during recovery"),
    habit(Fault::Term, 3, (0, 200), "SIGTERM (must end with code 0), restart"),
    habit(Fault::ServerCrash, 6, (0, 400), "immediate stop of the server, restart"),
    habit(Fault::ServerStop, 2, (0, 400), "fast stop of the server (must not hang), restart"),
    habit(Fault::Walsender, 5, (0, 0), "pg_terminate_backend of the walsender"),
    habit(Fault::Cut, 8, (0, 300), "all connections to the server cut"),
    habit(Fault::Stall, 3, (500, 3_000), "the network stands still"),
    habit(Fault::Chop, 4, (300, 1_500), "the network delivers 1 to some bytes at a time"),
    habit(Fault::BlackHole, 1, (300, 1_000), "half-open connections: nothing arrives, nobody says so"),
    habit(
        Fault::DiskFull,
        3,
        (500, 3_000),
        "no space for the log (a file system filled up, as root; or ENOSPC at every write)",
    ),
    habit(Fault::SlowDisk, 3, (1_000, 3_000), "every fsync takes 20 ms to 1.5 s"),
    habit(Fault::FailingFsync, 2, (200, 1_000), "fsync fails with EIO"),
    habit(Fault::PowerCut, 6, (0, 300), "power cut: what was not fsynced is gone"),
    habit(Fault::LyingFsync, 1, (200, 800), "fsync lies, then a power cut: the loss must be noticed"),
    habit(Fault::DyingConsumer, 3, (200, 1_500), "the named consumer dies and comes back"),
    habit(Fault::SlowConsumer, 2, (500, 2_000), "the slow consumer stops reading"),
];

impl Fault {
    /// All kinds, in the order of their listing.
    pub(crate) fn all() -> Vec<Fault> {
        HABITS.iter().map(|habit| habit.fault).collect()
    }

    /// Its name, as `--only` takes it.
    pub(crate) fn name(self) -> String {
        clap::ValueEnum::to_possible_value(&self).map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Whether the daemon may get through an episode without meeting the fault.
    pub(crate) fn may_pass_unfelt(self) -> bool {
        matches!(self, Fault::DiskFull | Fault::FailingFsync)
    }

    /// What it is, in a line.
    pub(crate) fn note(self) -> &'static str {
        HABITS.iter().find(|habit| habit.fault == self).map_or("", |habit| habit.note)
    }
}

/// One fault of a cycle's plan.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Episode {
    pub(crate) fault: Fault,
    /// Pause before it, counted from the end of the one before.
    pub(crate) after: Duration,
    pub(crate) hold: Duration,
    /// Wait for the stream to stream before the next one; else the next may hit a recovery.
    pub(crate) wait: bool,
    /// What else the fault needs to choose.
    pub(crate) dice: u64,
}

/// Longest pause between two faults.
const AFTER_MS_MAX: u64 = 900;

/// The plan of a cycle: the same seed and choice give the same plan.
pub(crate) fn plan(cycle_seed: u64, choice: &[Fault], episodes: usize) -> Vec<Episode> {
    let mut random = seed::generator(cycle_seed, "plan");
    let habits: Vec<&Habit> = HABITS.iter().filter(|habit| choice.contains(&habit.fault)).collect();
    let mut plan = Vec::new();
    while plan.len() < episodes {
        let Ok(habit) = habits.choose_weighted(&mut random, |habit| habit.weight) else { break };
        plan.push(Episode {
            fault: habit.fault,
            after: Duration::from_millis(random.random_range(50..=AFTER_MS_MAX)),
            hold: Duration::from_millis(random.random_range(habit.hold_ms.0..=habit.hold_ms.1)),
            wait: random.random_bool(0.5),
            dice: random.random(),
        });
    }
    // What a lie loses stays lost, so nothing can come behind it.
    let lie = plan.iter().position(|episode| episode.fault == Fault::LyingFsync);
    plan.truncate(lie.map_or(plan.len(), |at| at + 1));
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_follows_from_its_seed_and_choice_alone() {
        assert_eq!(plan(5, &Fault::all(), 8), plan(5, &Fault::all(), 8));
        assert_ne!(plan(5, &Fault::all(), 8), plan(6, &Fault::all(), 8));
        assert!(plan(5, &[Fault::Cut], 8).iter().all(|episode| episode.fault == Fault::Cut));
    }

    #[test]
    fn every_kind_comes_up_and_nothing_follows_a_lie() {
        let plans: Vec<_> = (0..300).map(|seed| plan(seed, &Fault::all(), 6)).collect();
        for fault in Fault::all() {
            assert!(plans.iter().flatten().any(|episode| episode.fault == fault), "{fault:?} never comes");
        }
        for plan in plans {
            let lie = plan.iter().position(|episode| episode.fault == Fault::LyingFsync);
            assert!(lie.is_none_or(|at| at + 1 == plan.len()));
        }
    }
}
