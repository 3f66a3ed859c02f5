//! The oracle: what the stream says against what the database says. It knows neither the daemon nor the writers' state.
//!
//! `Auditor` takes the whole stream, event by event, and keeps the tables that replaying it gives; `finish` compares
//! with the truth that plain SQL read from the server. Each rule that does not hold becomes a `Violation`.

mod cells;
mod tables;
#[cfg(test)]
mod tests;
mod unit;

use std::collections::HashMap;

use bytes::Bytes;

pub(crate) use tables::{Tables, Truth, read_truth};

use crate::workload::NEVER;
use cells::Change;
use dbstreamd_client::{Event, Operation, Schema};
use unit::{Unit, Writers};

/// Of each rule so many violations are told in full; more would hide the others.
const TOLD_MAX: u64 = 5;

/// A rule that did not hold.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    /// The rule, as a short name that stays the same.
    pub(crate) rule: &'static str,
    pub(crate) detail: String,
}

/// Violations, with a bound on how many are told of each rule.
#[derive(Default, Debug)]
pub(crate) struct Violations {
    told: Vec<Violation>,
    counts: HashMap<&'static str, u64>,
}

impl Violations {
    pub(crate) fn add(&mut self, rule: &'static str, detail: impl Into<String>) {
        let count = self.counts.entry(rule).or_default();
        *count += 1;
        if *count <= TOLD_MAX {
            self.told.push(Violation { rule, detail: detail.into() });
        }
    }

    /// What is told, and what was left out.
    pub(crate) fn into_told(mut self) -> Vec<Violation> {
        for (rule, count) in self.counts {
            if count > TOLD_MAX {
                self.told.push(Violation { rule, detail: format!("… and {} more of these", count - TOLD_MAX) });
            }
        }
        self.told
    }
}

/// Takes a stream from its first event.
pub(crate) struct Auditor {
    violations: Violations,
    schemas: HashMap<Bytes, Schema>,
    /// What replaying the stream makes of the tables.
    tables: Tables,
    writers: Writers,
    offset: u64,
    epoch: Option<u32>,
    commit_lsn: u64,
    after_lone_message: bool,
    unit: Option<Unit>,
    marker: Option<i64>,
    transactions: u64,
}

impl Auditor {
    /// `initial`: the tables as they were before the stream began.
    pub(crate) fn new(initial: Tables) -> Self {
        Self {
            violations: Violations::default(),
            schemas: HashMap::new(),
            tables: initial,
            writers: Writers::default(),
            offset: 0,
            epoch: None,
            commit_lsn: 0,
            after_lone_message: false,
            unit: None,
            marker: None,
            transactions: 0,
        }
    }

    /// Takes a schema, which comes before the first row that uses it.
    pub(crate) fn schema(&mut self, schema: Schema) {
        self.schemas.insert(schema.fingerprint.clone(), schema);
    }

    /// Takes the next event.
    pub(crate) fn event(&mut self, event: &Event) {
        self.check_place(event);
        let schema = self.schemas.get(&event.fingerprint);
        if schema.is_none() && event.operation() != Operation::Message {
            self.violations.add("schema-first", format!("offset {}: no schema came before it", event.offset));
        }
        let mut unit = self.unit.take().unwrap_or_else(|| Unit::begin(event));
        match Change::read(event, schema) {
            Ok(change) => {
                if change.says(NEVER) {
                    let detail = format!("offset {}: {change:?} was rolled back", event.offset);
                    self.violations.add("rolled-back-unseen", detail);
                }
                unit.take(change, &mut self.tables, &mut self.violations);
            }
            Err(reason) => self.violations.add("readable", format!("offset {}: {reason}", event.offset)),
        }
        if event.last_in_transaction {
            self.transactions += 1;
            self.marker = unit.end(&mut self.writers, &mut self.violations).or(self.marker);
        } else {
            self.unit = Some(unit);
        }
    }

    /// Offset, epoch, LSN, ordinal and xid.
    fn check_place(&mut self, event: &Event) {
        let at = event.offset;
        if at != self.offset + 1 {
            self.violations.add("dense-offsets", format!("offset {at} follows {}", self.offset));
        }
        self.offset = at;
        let epoch = *self.epoch.get_or_insert(event.epoch);
        if event.epoch != epoch {
            self.violations.add("same-epoch", format!("offset {at} has epoch {}, before it was {epoch}", event.epoch));
        }
        match &self.unit {
            None => {
                if event.ordinal != 0 {
                    let detail = format!("offset {at} begins a transaction with ordinal {}", event.ordinal);
                    self.violations.add("dense-ordinals", detail);
                }
                // A message outside of transactions has the LSN of its record's end; a transaction whose commit record
                // follows at once begins there, and so has the same.
                let behind_message = self.after_lone_message && event.xid != 0 && event.commit_lsn == self.commit_lsn;
                if event.commit_lsn <= self.commit_lsn && !behind_message {
                    let detail = format!(
                        "offset {at} has commit LSN {:X}, before it was {:X}",
                        event.commit_lsn, self.commit_lsn
                    );
                    self.violations.add("rising-lsn", detail);
                }
            }
            Some(unit) => {
                if event.ordinal != unit.next_ordinal {
                    let detail = format!("offset {at} has ordinal {}, not {}", event.ordinal, unit.next_ordinal);
                    self.violations.add("dense-ordinals", detail);
                }
                if (event.commit_lsn, event.xid) != (unit.commit_lsn, unit.xid) {
                    let detail = format!("offset {at} is of xid {}, inside of xid {}", event.xid, unit.xid);
                    self.violations.add("not-interleaved", detail);
                }
            }
        }
        self.commit_lsn = event.commit_lsn;
        self.after_lone_message = event.xid == 0;
    }

    /// The marker last seen.
    pub(crate) fn marker(&self) -> Option<i64> {
        self.marker
    }

    pub(crate) fn transactions(&self) -> u64 {
        self.transactions
    }

    /// Compares with the truth, and gives all that was found.
    pub(crate) fn finish(mut self, truth: &Truth) -> Violations {
        if self.unit.is_some() {
            self.violations
                .add("whole-transactions", format!("offset {}: the last transaction has no end", self.offset));
        }
        self.writers.compare(truth, &mut self.violations);
        self.tables.compare(&truth.tables, &mut self.violations);
        self.violations
    }

    /// What was found about the stream alone, for one whose source has moved on.
    pub(crate) fn finish_without_truth(self) -> Violations {
        self.violations
    }
}
