//! One transaction, or message outside of any: its changes against its audit row, and each writer's sequence of them.

use std::collections::{BTreeMap, HashMap};

use super::cells::{Change, Value};
use super::tables::Tables;
use super::{Truth, Violations};
use crate::workload::{Digest, PREFIX};
use dbstreamd_client::Event;

/// A transaction that is being received.
pub(super) struct Unit {
    pub(super) next_ordinal: u32,
    pub(super) commit_lsn: u64,
    pub(super) xid: u32,
    first_offset: u64,
    /// Of all changes but the audit row, which comes last.
    digest: Digest,
    audit: Option<Vec<Value>>,
    marker: Option<i64>,
    /// Content of a message that belongs to no transaction.
    lone_message: Option<String>,
    chain: Option<Vec<Value>>,
}

/// What the stream told of each writer so far.
#[derive(Default)]
pub(super) struct Writers {
    seen: HashMap<i64, Seen>,
    /// Every audit row that came, with number of changes and digest.
    audits: BTreeMap<(i64, i64), (i64, Vec<u8>)>,
}

#[derive(Default)]
struct Seen {
    seq: i64,
    hash: Vec<u8>,
    message: i64,
}

impl Unit {
    pub(super) fn begin(event: &Event) -> Self {
        Self {
            next_ordinal: event.ordinal,
            commit_lsn: event.commit_lsn,
            xid: event.xid,
            first_offset: event.offset,
            digest: Digest::default(),
            audit: None,
            marker: None,
            lone_message: None,
            chain: None,
        }
    }

    /// Takes the next change, and applies it to the tables.
    pub(super) fn take(&mut self, change: Change, tables: &mut Tables, violations: &mut Violations) {
        self.next_ordinal += 1;
        tables.apply(&change, violations);
        if self.audit.is_some() {
            let detail = format!("{change:?} comes behind its transaction's last row");
            violations.add("audit-last", detail);
        }
        match &change {
            Change::Message { transactional: false, prefix, content } if prefix == PREFIX => {
                self.lone_message = Some(String::from_utf8_lossy(content).into_owned());
                return;
            }
            Change::Insert { table, row, .. } if table == "audit" => {
                self.audit = Some(row.clone());
                return;
            }
            Change::Insert { table, row, .. } if table == "marker" => {
                self.marker = row.first().and_then(Value::number);
                return;
            }
            Change::Insert { table, row, .. } if table == "chain" => self.chain = Some(row.clone()),
            _ => {}
        }
        change.digest(&mut self.digest);
    }

    /// The last change was taken. Gives the marker when this was one.
    pub(super) fn end(self, writers: &mut Writers, violations: &mut Violations) -> Option<i64> {
        let at = self.first_offset;
        let alone = self.next_ordinal == 1;
        match (&self.audit, &self.lone_message, self.marker) {
            (Some(audit), None, None) => self.check(audit, writers, violations),
            (None, Some(message), None) if alone && self.xid == 0 => writers.message(message, at, violations),
            (None, None, Some(marker)) if alone => return Some(marker),
            _ => violations.add("whole-transactions", format!("offset {at}: a transaction ends without its audit row")),
        }
        None
    }

    fn check(&self, audit: &[Value], writers: &mut Writers, violations: &mut Violations) {
        let at = self.first_offset;
        let number = |column: usize| audit.get(column).and_then(Value::number);
        let (Some(writer), Some(seq), Some(changes), Some(message)) = (number(0), number(1), number(2), number(4))
        else {
            return violations.add("readable", format!("offset {at}: an audit row {audit:?}"));
        };
        let digest = audit.get(3).map_or(&b""[..], Value::bytes);
        if changes != i64::from(self.digest.changes()) || digest != self.digest.text().as_bytes() {
            violations.add(
                "whole-transactions",
                format!(
                    "offset {at}: writer {writer} made {changes} changes ({}) in transaction {seq}, here are {} ({})",
                    String::from_utf8_lossy(digest),
                    self.digest.changes(),
                    self.digest.text()
                ),
            );
        }
        if self.xid == 0 {
            violations.add("readable", format!("offset {at}: a transaction without an id"));
        }
        if writers.audits.insert((writer, seq), (changes, digest.to_vec())).is_some() {
            violations.add("exactly-once", format!("offset {at}: transaction {seq} of writer {writer} comes again"));
        }
        let seen = writers.seen.entry(writer).or_default();
        if seq != seen.seq + 1 {
            violations.add("in-order", format!("offset {at}: writer {writer} goes from {} to {seq}", seen.seq));
        }
        seen.seq = seq;
        if message > seen.message {
            let detail = format!(
                "offset {at}: writer {writer} had sent message {message} before transaction {seq}, the newest here is {}",
                seen.message
            );
            violations.add("messages", detail);
        }
        let chain = self.chain.as_deref().unwrap_or_default();
        let place = (chain.first().and_then(Value::number), chain.get(1).and_then(Value::number));
        let before = chain.get(2).map_or(&b""[..], Value::bytes);
        if place != (Some(writer), Some(seq)) || before != seen.hash {
            violations.add("hash-chain", format!("offset {at}: writer {writer}'s chain breaks at {seq}"));
        }
        seen.hash = chain.get(3).map_or(&b""[..], Value::bytes).to_vec();
    }
}

impl Writers {
    /// A message outside of transactions: each writer numbers its own, and what a crash took is never reused.
    fn message(&mut self, text: &str, at: u64, violations: &mut Violations) {
        let parts =
            text.split_once(':').and_then(|(writer, number)| Some((writer.parse().ok()?, number.parse().ok()?)));
        let Some((writer, number)) = parts else {
            return violations.add("readable", format!("offset {at}: a message {text:?}"));
        };
        let seen: &mut Seen = self.seen.entry(writer).or_default();
        if number <= seen.message {
            let detail = format!("offset {at}: writer {writer}'s message {number} comes behind {}", seen.message);
            violations.add("messages", detail);
        }
        seen.message = number;
    }

    /// Every committed audit row was seen, and no other.
    pub(super) fn compare(&self, truth: &Truth, violations: &mut Violations) {
        let mut committed = 0;
        for (_, row) in truth.tables.rows("audit") {
            let number =
                |column: usize| -> Option<i64> { std::str::from_utf8(row.get(column)?.as_ref()?).ok()?.parse().ok() };
            let (Some(writer), Some(seq), Some(changes)) = (number(0), number(1), number(2)) else { continue };
            committed += 1;
            let digest = row.get(3).and_then(Option::as_ref).map(|text| text.to_vec()).unwrap_or_default();
            match self.audits.get(&(writer, seq)) {
                None => {
                    violations.add("nothing-lost", format!("transaction {seq} of writer {writer} is not in the stream"))
                }
                Some(seen) if *seen != (changes, digest) => {
                    violations.add("nothing-altered", format!("transaction {seq} of writer {writer} differs"));
                }
                Some(_) => {}
            }
        }
        if committed < self.audits.len() {
            let detail = format!("{} transactions are in the stream, {committed} in the database", self.audits.len());
            violations.add("nothing-invented", detail);
        }
    }
}
