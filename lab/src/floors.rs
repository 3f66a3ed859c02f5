//! The floors: what was asked, and what this invocation saw. A floor nobody measured here is neither met nor missed.

use serde_json::{Value, json};

use crate::report::Finding;

/// Which side of a floor's figure is good.
#[derive(Clone, Copy, Debug)]
enum Asked {
    AtLeast(f64),
    AtMost(f64),
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Floor {
    /// A benchmark that measured it gives a [`Finding`] with this key.
    key: &'static str,
    what: &'static str,
    asked: Asked,
    unit: &'static str,
}

const fn at_least(key: &'static str, what: &'static str, figure: f64, unit: &'static str) -> Floor {
    Floor { key, what, asked: Asked::AtLeast(figure), unit }
}

const fn at_most(key: &'static str, what: &'static str, figure: f64, unit: &'static str) -> Floor {
    Floor { key, what, asked: Asked::AtMost(figure), unit }
}

/// All floors, in the order of the report.
pub(crate) const FLOORS: &[Floor] = &[
    at_least("drain.t2.tcp", "Drain t2 over TCP, durable log on", 2.4, "× pg_recvlogical TCP"),
    at_least("drain.t1.tcp", "Drain t1 over TCP, durable log on", 2.4, "× pg_recvlogical TCP"),
    at_least("drain.t2.subscriber", "Drain t2 with one gRPC subscriber following", 1.8, "× pg_recvlogical TCP"),
    at_least("drain.t1.subscriber", "Drain t1 with one gRPC subscriber following", 1.8, "× pg_recvlogical TCP"),
    at_least("drain.t2.unix", "Drain t2 over a Unix socket, durable log on", 0.95, "× pg_recvlogical Unix"),
    at_least("drain.updates.tcp", "Updates", 1.6, "× pg_recvlogical TCP"),
    at_least("drain.deletes.tcp", "Deletes", 1.6, "× pg_recvlogical TCP"),
    at_least("drain.huge.tcp", "One huge transaction", 1.6, "× pg_recvlogical TCP"),
    at_least("debezium.rate", "Against Debezium embedded, no-op handler: rows/s", 4.5, "× its"),
    at_most("debezium.cpu", "Against Debezium embedded: CPU per row", 1.0 / 15.0, "of its"),
    at_most("debezium.memory", "Against Debezium embedded: peak memory", 1.0 / 8.0, "of its"),
    at_most("daemon.cpu", "Daemon CPU without subscribers, t2", 0.8, "s per million rows"),
    at_most("latency.p50", "Commit-return to durable delivery, p50: over raw receive", 2.0, "× fdatasync"),
    at_most("latency.p99", "Commit-return to durable delivery, p99: over raw receive", 10.0, "× fdatasync"),
    at_least("replay.rate", "Replay of 10 M events to one Rust subscriber", 1.0, "M events/s"),
    at_least("replay.jetstream", "Replay against JetStream's", 2.0, "× its events/s"),
    at_least("fanout.received", "10,000 subscribers following 200 events/s: all receive all", 1.0, "of the events"),
    at_most("fanout.memory", "10,000 subscribers: daemon memory each", 64.0, "KB"),
    at_most("fanout.p99", "10,000 subscribers: p99", 100.0, "ms"),
    at_most("disk", "Disk", 0.38, "× pgoutput bytes"),
    at_most("idle.rss", "RSS, one idle source, profile `small`", 32.0, "MB"),
    at_most("start", "Start to STREAMING with an existing 5 GB log", 2.0, "s"),
];

/// How a floor stands.
#[derive(Debug, PartialEq)]
enum Standing {
    Met(f64),
    Missed(f64),
    /// Measured, and refused: the reason.
    Refused(String),
    NotRun,
}

impl Standing {
    fn of(floor: &Floor, findings: &[Finding]) -> Self {
        // Of several findings the last: a benchmark that was repeated.
        match findings.iter().rev().find(|finding| finding.key == floor.key).map(|finding| &finding.seen) {
            None => Self::NotRun,
            Some(Err(reason)) => Self::Refused(reason.clone()),
            Some(Ok(seen)) if !seen.is_finite() => Self::Refused("not a number".into()),
            Some(Ok(seen)) => {
                let met = match floor.asked {
                    Asked::AtLeast(figure) => *seen >= figure,
                    Asked::AtMost(figure) => *seen <= figure,
                };
                if met { Self::Met(*seen) } else { Self::Missed(*seen) }
            }
        }
    }

    /// What was seen, and the verdict.
    fn cells(&self) -> (String, &'static str) {
        match self {
            Self::Met(seen) => (format!("{seen:.3}"), "met"),
            Self::Missed(seen) => (format!("{seen:.3}"), "**missed**"),
            Self::Refused(reason) => (format!("no figure: {reason}"), "not judged"),
            Self::NotRun => ("not run".into(), "not judged"),
        }
    }
}

/// The table, as markdown.
pub(crate) fn table(findings: &[Finding]) -> String {
    let mut text = "## Floors\n\n| what | asked | seen | |\n|---|---|---|---|\n".to_owned();
    for floor in FLOORS {
        let (seen, verdict) = Standing::of(floor, findings).cells();
        let (side, figure) = match floor.asked {
            Asked::AtLeast(figure) => ("≥", figure),
            Asked::AtMost(figure) => ("≤", figure),
        };
        text += &format!("| {} | {side} {} {} | {seen} | {verdict} |\n", floor.what, short(figure), floor.unit);
    }
    text
}

fn short(figure: f64) -> String {
    let text = format!("{figure:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The same for programs.
pub(crate) fn json(findings: &[Finding]) -> Value {
    let line = |floor: &Floor| {
        let (asked, figure) = match floor.asked {
            Asked::AtLeast(figure) => ("at_least", figure),
            Asked::AtMost(figure) => ("at_most", figure),
        };
        let (seen, met, reason) = match Standing::of(floor, findings) {
            Standing::Met(seen) => (Some(seen), Some(true), None),
            Standing::Missed(seen) => (Some(seen), Some(false), None),
            Standing::Refused(reason) => (None, None, Some(reason)),
            Standing::NotRun => (None, None, Some("not run".into())),
        };
        json!({
            "key": floor.key, "what": floor.what, asked: figure, "unit": floor.unit,
            "seen": seen, "met": met, "reason": reason,
        })
    };
    Value::Array(FLOORS.iter().map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(floor: &Floor, seen: Result<f64, String>) -> Standing {
        Standing::of(floor, &[Finding { key: floor.key, seen }])
    }

    #[test]
    fn a_floor_is_met_at_its_very_figure_and_missed_just_past_it() {
        let (rate, memory) = (at_least("a", "", 2.4, ""), at_most("b", "", 0.38, ""));
        assert_eq!(standing(&rate, Ok(2.4)), Standing::Met(2.4));
        assert_eq!(standing(&rate, Ok(2.39)), Standing::Missed(2.39));
        assert_eq!(standing(&memory, Ok(0.38)), Standing::Met(0.38));
        assert_eq!(standing(&memory, Ok(0.39)), Standing::Missed(0.39));
    }

    #[test]
    fn a_floor_that_was_not_run_or_was_refused_is_not_judged() {
        let floor = at_least("a", "", 2.4, "");
        assert_eq!(Standing::of(&floor, &[]), Standing::NotRun);
        assert_eq!(standing(&floor, Err("disturbed".into())), Standing::Refused("disturbed".into()));
        assert_eq!(standing(&floor, Ok(f64::NAN)), Standing::Refused("not a number".into()));
        let text = table(&[Finding { key: "disk", seen: Err("disturbed".into()) }]);
        assert!(text.contains("| Disk | ≤ 0.38 × pgoutput bytes | no figure: disturbed | not judged |"), "{text}");
        assert!(!text.contains("| met |"), "{text}");
    }

    #[test]
    fn every_floor_has_a_key_of_its_own() {
        for (at, floor) in FLOORS.iter().enumerate() {
            assert!(FLOORS.iter().skip(at + 1).all(|other| other.key != floor.key), "{}", floor.key);
        }
    }
}
