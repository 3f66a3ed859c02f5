//! pgoutput messages become changes: the state of one connection's stream, and what must hold in it.
//!
//! Relation and Type messages are per connection, so a decoder lives as long as a session. Rows are not looked into:
//! the parser checks that they are well-formed, this checks that they fit their table, and the bytes go on as they are.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use dbstreamd_log::UnitHead;
use dbstreamd_model::{DDL_PREFIX, DdlDocument, Lsn, Op, Timestamp};
use dbstreamd_pgoutput::{LogicalMessage, Message, ParseError, RowMessage};
use postgres_types::Type;

use crate::Change;

/// The stream is not what the protocol says it is.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Bytes that are no pgoutput message.
    #[error("message at {lsn}: {error}")]
    Message {
        /// The message's WAL position.
        lsn: Lsn,
        /// What is wrong with it.
        error: ParseError,
    },
    /// A row of a table that was never described.
    #[error("a change of relation {relation} at {lsn}, which the server has not described")]
    UnknownRelation {
        /// The relation's OID.
        relation: u32,
        /// The message's WAL position; zero when it is not known any more.
        lsn: Lsn,
    },
    /// A change where no transaction is open.
    #[error("{0} outside a transaction")]
    OutsideTransaction(&'static str),
    /// Begin while a transaction is open.
    #[error("transaction {inner} begins inside transaction {outer}")]
    Nested {
        /// The open one.
        outer: u32,
        /// The new one.
        inner: u32,
    },
    /// Commit does not belong to the open transaction.
    #[error("transaction {xid} began with commit LSN {announced} and was committed at {committed}")]
    Commit {
        /// The open transaction.
        xid: u32,
        /// Begin's LSN.
        announced: Lsn,
        /// Commit's LSN.
        committed: Lsn,
    },
    /// A row has other columns than its table.
    #[error("a row of table {table} at {lsn} has {row} columns, where the server announced {columns}")]
    Columns {
        /// The table, with its namespace.
        table: String,
        /// The message's WAL position.
        lsn: Lsn,
        /// Columns of the row.
        row: u16,
        /// Columns of the table.
        columns: usize,
    },
}

/// One connection's decoder.
#[derive(Default, Debug)]
pub struct Decoder {
    types: HashMap<u32, String>,
    /// Number of columns per relation, and its name.
    relations: HashMap<u32, (usize, String)>,
    last_relation: Option<(u32, usize)>,
    open: Option<UnitHead>,
    newest_commit_time: Option<Timestamp>,
}

impl Decoder {
    /// Decodes the payload of one XLogData (PostgreSQL docs, "Logical Replication Message Formats"), which stands at `at`
    /// in the WAL, and appends what it says. Of a row's payload nothing is copied, and no reference to it counted more.
    ///
    /// # Errors
    /// When it is no such message, or cannot come here. The stream is then of no more use.
    pub fn decode(&mut self, at: Lsn, mut data: Bytes, changes: &mut Vec<Change>) -> Result<(), DecodeError> {
        let message = dbstreamd_pgoutput::parse(&data).map_err(|error| DecodeError::Message { lsn: at, error })?;
        let mut row = None;
        match message {
            Message::Insert(inserted) => row = Some((Op::Insert, inserted)),
            Message::Update(updated) => row = Some((Op::Update, updated)),
            Message::Delete(deleted) => row = Some((Op::Delete, deleted)),
            Message::Begin(begin) => {
                let head = UnitHead { commit_lsn: begin.final_lsn, commit_time: begin.commit_time, xid: begin.xid };
                self.newest_commit_time = Some(head.commit_time);
                self.begin(head, changes)?;
            }
            Message::Commit(commit) => {
                let open = self.open.take().ok_or(DecodeError::OutsideTransaction("commit"))?;
                if open.commit_lsn != commit.commit_lsn {
                    let (announced, committed) = (open.commit_lsn, commit.commit_lsn);
                    return Err(DecodeError::Commit { xid: open.xid, announced, committed });
                }
                changes.push(Change::Commit { end_lsn: commit.end_lsn });
            }
            Message::Relation(relation) => {
                let types = &self.types;
                let schema = relation
                    .to_schema(|oid| type_name(types, oid))
                    .map_err(|error| DecodeError::Message { lsn: at, error })?;
                let name = format!("{}.{}", schema.namespace, schema.table);
                self.relations.insert(relation.oid(), (schema.columns.len(), name));
                self.last_relation = None;
                changes.push(Change::Schema { relation: relation.oid(), schema: Arc::new(schema) });
            }
            Message::Type(custom) => {
                self.types.insert(custom.oid, custom.schema_name());
            }
            Message::Truncate(truncate) => {
                self.inside("truncate")?;
                for relation in truncate.relations() {
                    let body = Bytes::copy_from_slice(&[truncate.flags().bits()]);
                    changes.push(Change::Event { op: Op::Truncate, relation: Some(relation), body });
                }
            }
            Message::Message(message) => {
                let event = Change::Event { op: message_op(&message), relation: None, body: message.to_body() };
                if message.transactional {
                    self.inside("transactional message")?;
                    changes.push(event);
                } else {
                    // It was never part of a transaction: a unit of its own, which ends where it stands.
                    let head = UnitHead { commit_lsn: message.lsn, commit_time: Timestamp::default(), xid: 0 };
                    self.begin(head, changes)?;
                    changes.push(event);
                    self.open = None;
                    changes.push(Change::Commit { end_lsn: message.lsn });
                }
            }
            // Where a transaction was replicated from: loops are a matter for who writes back.
            Message::Origin(_) => self.inside("origin")?,
            // PostgreSQL 18 can send one under protocol version 1, for a transaction never streamed: nothing to undo.
            Message::StreamAbort(_) => {}
        }
        if let Some((op, row)) = row {
            let relation = self.relation_of(op, at, &row)?;
            // The message ends with the body.
            let before = data.len() - row.body.len();
            data.advance(before);
            changes.push(Change::Event { op, relation: Some(relation), body: data });
        }
        Ok(())
    }

    /// When the newest transaction was committed of which something came since this was last asked.
    pub(crate) fn newest_commit_time(&mut self) -> Option<Timestamp> {
        if self.open.is_some() { self.newest_commit_time } else { self.newest_commit_time.take() }
    }

    fn begin(&mut self, head: UnitHead, changes: &mut Vec<Change>) -> Result<(), DecodeError> {
        if let Some(open) = self.open.replace(head) {
            return Err(DecodeError::Nested { outer: open.xid, inner: head.xid });
        }
        changes.push(Change::Begin(head));
        Ok(())
    }

    fn inside(&self, what: &'static str) -> Result<(), DecodeError> {
        self.open.map(|_| ()).ok_or(DecodeError::OutsideTransaction(what))
    }

    /// The relation of a row that may come here and fits it.
    #[inline]
    fn relation_of(&mut self, op: Op, at: Lsn, row: &RowMessage<'_>) -> Result<u32, DecodeError> {
        if self.open.is_none() {
            return Err(DecodeError::OutsideTransaction(op.name()));
        }
        let relation = row.relation;
        let columns = match self.last_relation {
            Some((last, columns)) if last == relation => columns,
            _ => self.relations.get(&relation).ok_or(DecodeError::UnknownRelation { relation, lsn: at })?.0,
        };
        self.last_relation = Some((relation, columns));
        for found in [row.old_columns, row.new_columns].into_iter().flatten() {
            if usize::from(found) != columns {
                let table = self.relations.get(&relation).map(|(_, name)| name.clone()).unwrap_or_default();
                return Err(DecodeError::Columns { table, lsn: at, row: found, columns });
            }
        }
        Ok(relation)
    }
}

/// A document of the DDL trigger is told from a message by its prefix, by its transaction, and by what is in it: anybody
/// may write a message with that prefix.
fn message_op(message: &LogicalMessage<'_>) -> Op {
    let is_document = message.transactional
        && message.prefix == DDL_PREFIX.as_bytes()
        && DdlDocument::from_json(message.content).is_ok();
    if is_document { Op::SchemaChange } else { Op::Message }
}

/// PostgreSQL's own types by their bare names; the server describes all others before it uses them.
fn type_name(described: &HashMap<u32, String>, oid: u32) -> Option<String> {
    described.get(&oid).cloned().or_else(|| Type::from_oid(oid).map(|known| known.name().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: &[u8] = b"B\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\x02\xbc";
    const AT: Lsn = Lsn(0x77);

    /// Table 7, `s.t`, of one column of this type.
    fn relation(type_oid: u32) -> Vec<u8> {
        [b"R\0\0\0\x07s\0t\0d\0\x01\x01id\0".as_slice(), &type_oid.to_be_bytes(), &(-1_i32).to_be_bytes()].concat()
    }

    fn refusal(messages: &[&[u8]]) -> String {
        let mut decoder = Decoder::default();
        let mut changes = Vec::new();
        let mut decode = |message: &&[u8]| decoder.decode(AT, Bytes::copy_from_slice(message), &mut changes);
        messages.iter().find_map(|message| decode(message).err()).expect("one is refused").to_string()
    }

    #[test]
    fn what_contradicts_the_announcement_is_refused_with_table_column_and_place() {
        let (known, insert) = (relation(23), b"I\0\0\0\x07N\0\x02nn".as_slice());
        let columns = refusal(&[BEGIN, &known, insert]);
        assert_eq!(columns, "a row of table s.t at 0/77 has 2 columns, where the server announced 1");
        let unknown = refusal(&[BEGIN, insert]);
        assert_eq!(unknown, "a change of relation 7 at 0/77, which the server has not described");
        let foreign = refusal(&[BEGIN, &relation(99_999)]);
        assert!(foreign.contains("message at 0/77") && foreign.contains(r#"column "id" of table s.t"#), "{foreign}");
    }
}
