//! pgoutput messages become changes: the state of one connection's stream, and what must hold in it.
//!
//! Relation and Type messages are per connection, so a decoder lives as long as a session. Rows are not looked into:
//! the parser checks that they are well-formed, this checks that they fit their table, and the bytes go on as they are.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use dbstreamd_log::UnitHead;
use dbstreamd_model::{DDL_PREFIX, DdlDocument, Lsn, Op, Timestamp};
use dbstreamd_pgoutput::{LogicalMessage, Message, ParseError};
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
    #[error("a change of relation {0}, which the server has not described")]
    UnknownRelation(u32),
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
    #[error("a row of relation {relation} has {row} columns, its table {table}")]
    Columns {
        /// The relation's OID.
        relation: u32,
        /// Columns of the row.
        row: u16,
        /// Columns of the table.
        table: usize,
    },
}

/// One connection's decoder.
#[derive(Default)]
pub(crate) struct Decoder {
    types: HashMap<u32, String>,
    /// Number of columns per relation.
    relations: HashMap<u32, usize>,
    last_relation: Option<(u32, usize)>,
    open: Option<UnitHead>,
    newest_commit_time: Option<Timestamp>,
}

impl Decoder {
    /// Decodes the payload of one XLogData.
    pub(crate) fn decode(&mut self, at: Lsn, data: &Bytes, changes: &mut Vec<Change>) -> Result<(), DecodeError> {
        let message = dbstreamd_pgoutput::parse(data).map_err(|error| DecodeError::Message { lsn: at, error })?;
        match message {
            Message::Insert(row) => self.row(Op::Insert, &row, data, changes)?,
            Message::Update(row) => self.row(Op::Update, &row, data, changes)?,
            Message::Delete(row) => self.row(Op::Delete, &row, data, changes)?,
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
                self.relations.insert(relation.oid(), schema.columns.len());
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

    #[inline]
    fn row(
        &mut self,
        op: Op,
        row: &dbstreamd_pgoutput::RowMessage<'_>,
        data: &Bytes,
        changes: &mut Vec<Change>,
    ) -> Result<(), DecodeError> {
        self.inside(op.name())?;
        let relation = row.relation;
        let table = match self.last_relation {
            Some((last, columns)) if last == relation => columns,
            _ => *self.relations.get(&relation).ok_or(DecodeError::UnknownRelation(relation))?,
        };
        self.last_relation = Some((relation, table));
        for columns in [row.old_columns, row.new_columns].into_iter().flatten() {
            if usize::from(columns) != table {
                return Err(DecodeError::Columns { relation, row: columns, table });
            }
        }
        changes.push(Change::Event { op, relation: Some(relation), body: data.slice_ref(row.body) });
        Ok(())
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
