//! What a publication holds, compared from one look of the slot guard to the next.
//!
//! `ALTER PUBLICATION` leaves no trace in the stream: a table that is taken out and put back again lacks the rows that
//! were written between, a filter or a column list decides in silence what is sent. So whoever changes them is noticed
//! here, at most one `slot_check_interval` later and only while the daemon runs, and told what it means.

use std::collections::BTreeMap;

use dbstreamd_model::Severity;

use super::{Connection, PgError, quote_literal};
use crate::status::StreamStatus;

/// First version whose publications can hold whole schemas, filter rows and choose columns.
const FILTERS_SINCE: u32 = 150_000;
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
        "SELECT 'the publication', p.oid, (pg_catalog.to_jsonb(p) - 'oid' - 'pubname' - 'pubowner')::text \
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
struct Change {
    severity: Severity,
    text: String,
}

/// A notice for each thing that changed since the last look.
pub(super) fn tell(status: &StreamStatus, before: &Membership, now: &Membership) {
    let changes = before.changes(now);
    for Change { severity, text } in changes.iter().take(TOLD_MAX) {
        status.notice(*severity, "publication_changed", text.clone());
    }
    if let Some(more @ 1..) = changes.len().checked_sub(TOLD_MAX) {
        let text = format!("{more} more parts of the publication were added, taken out or changed");
        status.notice(Severity::Warning, "publication_changed", text);
    }
}

impl Membership {
    fn changes(&self, now: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        // There was none, so the stream did not run and said so itself.
        if self.0.is_empty() {
            return changes;
        }
        if now.0.is_empty() {
            // Up to version 17 the server ends the stream when it next decodes a change; from 18 on it goes on without one.
            let text = "the publication is gone: PostgreSQL 18 and newer send nothing then, and what is written until it is created again is lost to the stream without a trace; create it again, then compare or reload the copies of its tables".to_owned();
            return vec![Change { severity: Severity::Error, text }];
        }
        let mut say = |severity, text| changes.push(Change { severity, text });
        for (name, part) in &now.0 {
            match self.0.get(name) {
                Some(before) if before == part => {}
                None => say(
                    Severity::Info,
                    format!(
                        "{name} was added to the publication: its changes come from here on, without what it had before"
                    ),
                ),
                Some(before) if before.oid != part.oid => say(
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

    #[test]
    fn what_was_added_taken_out_put_back_or_filtered_anew_is_told_and_nothing_else() {
        let before = of(&[("same", "1", ""), ("back", "2", ""), ("filtered", "3", ""), ("gone", "4", "")]);
        assert_eq!(before.changes(&before), []);
        let gone = before.changes(&of(&[]));
        assert_eq!(gone.iter().map(|change| change.severity).collect::<Vec<_>>(), [Severity::Error]);
        assert_eq!(of(&[]).changes(&before), []);
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
