//! What a publication holds, compared from one look of the slot guard to the next.
//!
//! `ALTER PUBLICATION` leaves no trace in the stream: a table that is taken out and put back again lacks the rows that
//! were written between, a filter or a column list decides in silence what is sent. So whoever changes them is noticed
//! here, at most one `slot_check_interval` later and only while the daemon runs, and told what it means.
//!
//! A publication that is gone ends the session as well (`guard`). That is not left to the server: up to version 17 it
//! ends the stream when it next decodes a change, from 18 on it warns and leaves the change out.

use std::collections::BTreeMap;

use dbstreamd_model::Severity;

use super::{Connection, PgError, quote_literal};
use crate::status::StreamStatus;

/// First version whose publications can hold whole schemas, filter rows and choose columns.
const FILTERS_SINCE: u32 = 150_000;
/// The part that stands for the publication itself.
const PUBLICATION: &str = "the publication";
/// Changes that are told one by one; of more only their number is.
const TOLD_MAX: usize = 20;

/// What a publication holds: each part by its name.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Membership(BTreeMap<String, Part>);

/// A table, a schema, or the publication itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    /// Of the catalog's row, which is another one when the part was taken out and put back.
    oid: String,
    /// What is filtered: row filter and column list, or the publication's options.
    detail: String,
}

/// What was seen of a publication so far.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// When it was last there.
    before: Option<Membership>,
    /// That it is gone was told.
    gone: bool,
}

impl Watched {
    /// Takes up another look, and gives what is to be told. Before the stream was `set_up` there may be none yet.
    pub(super) fn see(&mut self, now: Membership, set_up: bool) -> Vec<Change> {
        if now.is_gone() {
            return if set_up && !std::mem::replace(&mut self.gone, true) { vec![gone()] } else { Vec::new() };
        }
        self.gone = false;
        let changes = self.before.as_ref().map(|before| before.changes(&now)).unwrap_or_default();
        self.before = Some(now);
        changes
    }
}

/// What the publication holds now.
pub(super) async fn look(connection: &mut Connection, publication: &str) -> Result<Membership, PgError> {
    let rows = connection.simple_query(&statement(publication, connection.server_version_num())).await?;
    let part = |row: Vec<Option<String>>| {
        let [name, oid, detail] = <[_; 3]>::try_from(row).ok()?;
        Some((name?, Part { oid: oid?, detail: detail.unwrap_or_default() }))
    };
    Ok(Membership(rows.into_iter().filter_map(part).collect()))
}

/// A row per part: its name, the OID of its row in the catalog, what is filtered.
fn statement(publication: &str, version_num: u32) -> String {
    let whose = format!("p.pubname = {}", quote_literal(publication));
    let detail = match version_num {
        FILTERS_SINCE.. => "pg_catalog.concat_ws(' / ', pg_catalog.pg_get_expr(r.prqual, r.prrelid), r.prattrs::text)",
        _ => "''",
    };
    // Options differ between versions. An owner's change loses nothing.
    let mut sql = format!(
        "SELECT '{PUBLICATION}', p.oid, (pg_catalog.to_jsonb(p) - 'oid' - 'pubname' - 'pubowner')::text \
         FROM pg_catalog.pg_publication p WHERE {whose} \
         UNION ALL SELECT 'table ' || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname), r.oid, \
         {detail} FROM pg_catalog.pg_publication p JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid \
         JOIN pg_catalog.pg_class c ON c.oid = r.prrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE {whose}"
    );
    if version_num >= FILTERS_SINCE {
        sql += &format!(
            " UNION ALL SELECT 'all tables of schema ' || pg_catalog.quote_ident(n.nspname), s.oid, '' \
             FROM pg_catalog.pg_publication p JOIN pg_catalog.pg_publication_namespace s ON s.pnpubid = p.oid \
             JOIN pg_catalog.pg_namespace n ON n.oid = s.pnnspid WHERE {whose}"
        );
    }
    sql
}

/// One thing that changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    severity: Severity,
    text: String,
}

/// A notice for each thing that changed since the last look.
pub(super) fn tell(status: &StreamStatus, changes: Vec<Change>) {
    for Change { severity, text } in changes.iter().take(TOLD_MAX) {
        status.notice(*severity, "publication_changed", text.clone());
    }
    if let Some(more @ 1..) = changes.len().checked_sub(TOLD_MAX) {
        let text = format!("{more} more parts of the publication were added, taken out or changed");
        status.notice(Severity::Warning, "publication_changed", text);
    }
}

fn gone() -> Change {
    let text = "the publication is gone, and the stream ends until it is created again: what is written to its tables meanwhile cannot be sent any more (PostgreSQL 18 and newer leave it out, older versions then refuse to go on), so create it again, and compare or reload the copies of its tables";
    Change { severity: Severity::Error, text: text.to_owned() }
}

impl Membership {
    /// Whether there is no publication: one that is there is a part of itself.
    pub(super) fn is_gone(&self) -> bool {
        self.0.is_empty()
    }

    fn changes(&self, now: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        let oid = |of: &Self| of.0.get(PUBLICATION).map(|part| part.oid.clone());
        let anew = oid(self) != oid(now);
        let mut say = |severity, text| changes.push(Change { severity, text });
        if anew {
            let text = "the publication was dropped and created again: rows that were written between are missing from the stream (PostgreSQL 18 and newer), or the server refuses to go on over them (older versions), so compare or reload the copies of its tables";
            say(Severity::Warning, text.to_owned());
        }
        for (name, part) in &now.0 {
            match self.0.get(name) {
                Some(before) if before == part => {}
                None => say(
                    Severity::Info,
                    format!(
                        "{name} was added to the publication: its changes come from here on, without what it had before"
                    ),
                ),
                // All of its parts are new with it.
                Some(before) if anew && (name == PUBLICATION || before.detail == part.detail) => {}
                Some(before) if before.oid != part.oid && !anew => say(
                    Severity::Warning,
                    format!(
                        "{name} was taken out of the publication and put back: rows written between are missing from the stream without a trace, so compare or reload the copies of it"
                    ),
                ),
                Some(_) => say(
                    Severity::Warning,
                    format!(
                        "{name} is filtered otherwise than before (row filter, column list or options of the publication: {}): rows and columns that were left out until now do not come by themselves, so compare or reload the copies of it",
                        if part.detail.is_empty() { "none" } else { &part.detail }
                    ),
                ),
            }
        }
        for name in self.0.keys().filter(|name| !now.0.contains_key(*name)) {
            say(
                Severity::Warning,
                format!(
                    "{name} is no longer in the publication (taken out, dropped or renamed): its changes do not come any more, and are lost without a trace until it is put back"
                ),
            );
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(parts: &[(&str, &str, &str)]) -> Membership {
        let part = |&(name, oid, detail): &(&str, &str, &str)| {
            (name.to_owned(), Part { oid: oid.to_owned(), detail: detail.to_owned() })
        };
        Membership(parts.iter().map(part).collect())
    }

    fn severities(changes: &[Change]) -> Vec<Severity> {
        changes.iter().map(|change| change.severity).collect()
    }

    #[test]
    fn a_publication_that_is_gone_is_told_once_also_when_it_was_never_seen() {
        let mut watched = Watched::default();
        assert_eq!(watched.see(of(&[]), false), [], "setup may be about to make it");
        assert_eq!(severities(&watched.see(of(&[]), true)), [Severity::Error]);
        assert_eq!(watched.see(of(&[]), true), []);
        let first = of(&[(PUBLICATION, "1", "{}"), ("table a", "2", ""), ("table b", "3", "")]);
        assert_eq!(watched.see(first.clone(), true), [], "nothing to compare it with");
        assert_eq!(watched.see(first, true), []);
        assert_eq!(severities(&watched.see(of(&[]), true)), [Severity::Error]);
    }

    #[test]
    fn a_publication_that_was_created_again_is_told_as_such_and_not_table_by_table() {
        let before = of(&[(PUBLICATION, "1", "{}"), ("table a", "2", ""), ("table b", "3", ""), ("table c", "4", "")]);
        let now = of(&[(PUBLICATION, "5", "{}"), ("table a", "6", ""), ("table b", "7", "(id > 1)")]);
        let mut watched = Watched::default();
        for seen_gone in [false, true] {
            watched.see(before.clone(), true);
            if seen_gone {
                watched.see(of(&[]), true);
            }
            let told = watched.see(now.clone(), true);
            let starts = [
                "the publication was dropped and created again",
                "table b is filtered otherwise",
                "table c is no longer in the publication",
            ];
            assert_eq!(told.len(), starts.len(), "{told:?}");
            for (change, start) in told.iter().zip(starts) {
                assert!(change.severity == Severity::Warning && change.text.starts_with(start), "{change:?}");
            }
        }
    }

    #[test]
    fn what_was_added_taken_out_put_back_or_filtered_anew_is_told_and_nothing_else() {
        let before = of(&[("same", "1", ""), ("back", "2", ""), ("filtered", "3", ""), ("gone", "4", "")]);
        assert_eq!(before.changes(&before), []);
        let now = of(&[("same", "1", ""), ("back", "9", ""), ("filtered", "3", "(id > 1)"), ("new", "5", "")]);
        let told: Vec<_> = before.changes(&now).into_iter().map(|change| (change.severity, change.text)).collect();
        let wanted = [
            (Severity::Warning, "back was taken out of the publication and put back"),
            (Severity::Warning, "filtered is filtered otherwise"),
            (Severity::Info, "new was added"),
            (Severity::Warning, "gone is no longer in the publication"),
        ];
        assert_eq!(told.len(), wanted.len(), "{told:?}");
        for ((severity, text), (wanted, start)) in told.iter().zip(wanted) {
            assert!(*severity == wanted && text.starts_with(start), "{text}");
        }
    }
}
