//! What the loop does with what it is told of tables: rare events, and announcements. What follows from them is the
//! ledger's to say.

use std::sync::Arc;

use dbstreamd_log::{Divergence, TableChange};
use dbstreamd_model::{
    DDL_PREFIX, DdlDocument, EventBody, MessageBody, Op, SchemaId, Severity, TableSchema, Timestamp,
};

use super::{Ingest, OpenUnit};
use crate::error::SourceError;
use crate::ledger::{Conclusions, Diverged};

impl Ingest<'_> {
    /// Looks into an event that is not of a row, before it is appended.
    pub(super) fn look_into(&mut self, op: Op, relation: Option<u32>, schema: Option<SchemaId>, body: &[u8]) {
        let fresh = matches!(self.open, OpenUnit::Fresh);
        match (EventBody::parse(op, body), relation.zip(schema)) {
            (Ok(EventBody::SchemaChange(message)), _) => {
                let Ok(document) = DdlDocument::from_json(message.content) else { return };
                self.ledger.remember(&document, self.unit_lsn);
                if fresh {
                    let reader = &self.reader;
                    let conclusions = self.ledger.told(&document, |names| reader.reads_publication(names));
                    self.conclude(conclusions);
                }
            }
            (Ok(EventBody::Truncate(_)), Some((relation, schema))) if fresh => {
                let schema = self.appender.schema_of(schema);
                if let Some(table) = schema.and_then(|stored| self.ledger.name_of(relation, &stored.schema)) {
                    self.appender.table(table, TableChange::Cleared);
                }
            }
            (Ok(EventBody::Message(message)), _) if fresh => self.refuse_document(&message),
            _ => {}
        }
    }

    /// A table is announced, as this version.
    pub(super) fn compare(&mut self, relation: u32, announced: &TableSchema, id: SchemaId) {
        if matches!(self.open, OpenUnit::Fresh) {
            let appender = &self.appender;
            let before = |id| appender.schema_of(id).map(|stored| &*stored.schema);
            let conclusions = self.ledger.announced(relation, announced, id, before);
            self.conclude(conclusions);
        }
    }

    fn conclude(&mut self, conclusions: Conclusions) {
        for (table, change) in conclusions.changes {
            self.appender.table(table, change);
        }
        for (before, now) in conclusions.renamed {
            if let Some(divergence) = self.appender.divergence(&before) {
                self.appender.table(before, TableChange::Cleared);
                self.appender.table(now, TableChange::Diverged(divergence));
            }
        }
        for diverged in conclusions.diverged {
            self.diverged(diverged);
        }
    }

    fn diverged(&mut self, diverged: Diverged) {
        let Diverged { table, reason, detail } = diverged;
        let stream = self.status.name();
        let text = format!(
            "table {table} is no longer what its events say ({}): {detail}; read the table anew, then run `dbstreamd tables clear {stream} {table}`",
            reason.name()
        );
        self.status.notice(Severity::Warning, "table_diverged", text);
        let divergence = Divergence {
            reason,
            detail,
            offset: self.appender.next_offset(),
            lsn: self.unit_lsn,
            noticed_at: Timestamp::now(),
        };
        self.appender.table(table, TableChange::Diverged(divergence));
    }

    /// The source leaves out changes of a time when there was no publication, and nobody can get them from it any more. With one
    /// there now it goes on to what came later; without one it would leave out everything. Of which tables the changes are, and
    /// of which the publication would have been, it does not say.
    pub(super) async fn unpublished(&mut self, publication: Arc<str>) -> Result<(), SourceError> {
        if !self.catalog.has_publication(&publication).await? {
            return Err(SourceError::Unpublished(publication));
        }
        let after = self.sent_through.max(self.unit_lsn);
        let text = format!(
            "changes behind {after} may be missing from the stream: something was written, to its tables or others, while there was no publication {publication:?}, and the source leaves that out; it has been created again since, so compare or reload the copies of its tables"
        );
        self.status.notice(Severity::Error, "publication_changed", text);
        Ok(())
    }

    /// Says, once, that a message looks like a document of the DDL trigger and is none.
    fn refuse_document(&mut self, message: &MessageBody<'_>) {
        if message.prefix == DDL_PREFIX.as_bytes() && !std::mem::replace(&mut self.strange_document_told, true) {
            let text = format!(
                "a message with prefix {DDL_PREFIX} is not of the DDL trigger: it is delivered as a message; find out who writes it"
            );
            self.status.notice(Severity::Warning, "strange_ddl_message", text);
        }
    }
}
