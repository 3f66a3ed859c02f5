//! Units that the source sends again after a reconnect: compared with the log, then dropped whole.
//!
//! A restarted server repeats everything since the last position it remembers. What the log has of that must be the
//! same history, unit by unit: LSNs, xid, commit time, number and content hash of the events. A restored volume
//! snapshot reuses LSNs and xids, so "skip everything below X" would splice two histories. Units that were stored when
//! the source printed values in another form (the setting `binary`) cannot have the same content: of those the
//! hash is not compared.

use std::collections::VecDeque;

use dbstreamd_log::{Resume, UnitCursor, UnitHasher, UnitHead, UnitRecord};
use dbstreamd_model::{Fingerprint, Lsn, Op};

use crate::epochs::HistoryBreak;
use crate::error::SourceError;

/// Stored units read ahead in one go.
const READ_AHEAD: usize = 512;

/// A resent unit while it is received.
pub(crate) struct ResentUnit {
    head: UnitHead,
    hasher: UnitHasher,
    events: u32,
}

impl ResentUnit {
    pub(crate) fn new(head: UnitHead) -> Self {
        Self { head, hasher: UnitHasher::new(), events: 0 }
    }

    pub(crate) fn event(&mut self, op: Op, fingerprint: Option<Fingerprint>, body: &[u8]) {
        self.hasher.event(op, fingerprint, body);
        self.events = self.events.saturating_add(1);
    }
}

/// The log's side of the comparison.
pub(crate) struct ResentUnits {
    /// None once everything was compared.
    cursor: Option<UnitCursor>,
    ahead: VecDeque<UnitRecord>,
    /// Where the newest unit in the log ends.
    end: Lsn,
    /// Units that end at or before this were trimmed and cannot be compared.
    trimmed_through: Lsn,
    /// Units that end at or before this were printed in another form.
    other_form_through: Lsn,
    /// The source sends nothing that commits before this.
    resends_from: Lsn,
}

impl ResentUnits {
    pub(crate) fn new(cursor: UnitCursor, resume: &Resume, resends_from: Lsn) -> Self {
        Self {
            // Nothing the log has will come again: there is nothing to compare, and nothing is read.
            cursor: (resends_from < resume.visible_lsn).then_some(cursor),
            ahead: VecDeque::new(),
            end: resume.visible_lsn,
            trimmed_through: resume.trimmed_through,
            other_form_through: resume.form.map_or(Lsn::ZERO, |stored| stored.since),
            resends_from,
        }
    }

    /// Whether everything was compared.
    pub(crate) fn done(&self) -> bool {
        self.cursor.is_none()
    }

    /// Whether the source sent everything below `lsn`, then all that could be compared.
    pub(crate) fn ends_by(&self, lsn: Lsn) -> bool {
        lsn >= self.end
    }

    /// Whether the source has anything to say about its history below `lsn`: it reads from further back than it sends.
    pub(crate) fn begins_after(&self, lsn: Lsn) -> bool {
        lsn < self.resends_from
    }

    /// Whether the log already got past this unit.
    pub(crate) fn covers(&self, head: &UnitHead) -> bool {
        // A transaction is known by where its commit record starts, a message that belongs to none (xid 0) by where its
        // record ends: a commit that starts right behind a message is a new unit.
        if head.xid == 0 { head.commit_lsn <= self.end } else { head.commit_lsn < self.end }
    }

    /// Compares a complete resent unit with the log's next one.
    pub(crate) async fn check(&mut self, unit: ResentUnit, end_lsn: Lsn) -> Result<(), SourceError> {
        // A transaction without events took no place in the log; a trimmed one has left it.
        if unit.events == 0 || end_lsn <= self.trimmed_through {
            return Ok(());
        }
        let UnitHead { commit_lsn, commit_time, xid } = unit.head;
        let events = unit.events;
        let received = UnitRecord { commit_lsn, end_lsn, xid, commit_time, hash: unit.hasher.finish(), events };
        match self.next().await? {
            Some(stored) if stored == received => Ok(()),
            Some(stored)
                if end_lsn <= self.other_form_through
                    && UnitRecord { hash: received.hash, events: received.events, ..stored } == received =>
            {
                Ok(())
            }
            Some(stored) => Err(SourceError::Broken(HistoryBreak::Rewritten {
                detail: format!("sent {received}, stored {stored}"),
            })),
            None => Err(SourceError::Broken(HistoryBreak::Rewritten {
                detail: format!("sent {received}, which the log never had"),
            })),
        }
    }

    /// The first new unit came: the log must have nothing left that was not sent again.
    pub(crate) async fn finish(&mut self) -> Result<(), SourceError> {
        if self.cursor.is_none() {
            return Ok(());
        }
        if let Some(stored) = self.next().await? {
            return Err(SourceError::Broken(HistoryBreak::Rewritten {
                detail: format!("stored {stored}, which the source did not send again"),
            }));
        }
        self.cursor = None;
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<UnitRecord>, SourceError> {
        loop {
            if self.ahead.is_empty() && !self.fill().await? {
                return Ok(None);
            }
            match self.ahead.pop_front() {
                // Its commit record starts before the position the source resumes from.
                Some(record) if record.commit_lsn < self.resends_from => {}
                next => return Ok(next),
            }
        }
    }

    async fn fill(&mut self) -> Result<bool, SourceError> {
        let Some(mut cursor) = self.cursor.take() else { return Ok(false) };
        let read = tokio::task::spawn_blocking(move || {
            let mut records = VecDeque::new();
            while records.len() < READ_AHEAD {
                match cursor.next()? {
                    Some(record) => records.push_back(record),
                    None => break,
                }
            }
            Ok::<_, dbstreamd_log::LogError>((cursor, records))
        });
        let (cursor, records) = read.await.map_err(|join| SourceError::Feedback(join.to_string()))??;
        self.cursor = Some(cursor);
        self.ahead = records;
        Ok(!self.ahead.is_empty())
    }
}
