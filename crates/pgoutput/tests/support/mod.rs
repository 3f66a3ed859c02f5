//! A test's own server side: messages as owned values, written as PostgreSQL writes them.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

#[derive(Clone, Debug)]
pub(crate) enum Cell {
    Null,
    Unchanged,
    Text(Vec<u8>),
    Binary(Vec<u8>),
}

pub(crate) type Row = Vec<Cell>;

#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) in_identity: bool,
    pub(crate) name: String,
    pub(crate) type_oid: u32,
    pub(crate) type_modifier: i32,
}

#[derive(Clone, Debug)]
pub(crate) enum Sent {
    Begin { final_lsn: u64, time: i64, xid: u32 },
    Commit { commit_lsn: u64, end_lsn: u64, time: i64 },
    Origin { lsn: u64, name: String },
    Relation { oid: u32, namespace: String, table: String, identity: u8, columns: Vec<Column> },
    Type { oid: u32, namespace: String, name: String },
    Insert { relation: u32, new: Row },
    Update { relation: u32, old: Option<(bool, Row)>, new: Row },
    Delete { relation: u32, full: bool, old: Row },
    Truncate { bits: u8, relations: Vec<u32> },
    Message { transactional: bool, lsn: u64, prefix: Vec<u8>, content: Vec<u8> },
    StreamAbort { xid: u32, subxid: u32, parallel: bool },
}

impl Sent {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Begin { final_lsn, time, xid } => {
                out.push(b'B');
                out.extend(final_lsn.to_be_bytes());
                out.extend(time.to_be_bytes());
                out.extend(xid.to_be_bytes());
            }
            Self::Commit { commit_lsn, end_lsn, time } => {
                out.extend(b"C\0");
                out.extend(commit_lsn.to_be_bytes());
                out.extend(end_lsn.to_be_bytes());
                out.extend(time.to_be_bytes());
            }
            Self::Origin { lsn, name } => {
                out.push(b'O');
                out.extend(lsn.to_be_bytes());
                string(&mut out, name.as_bytes());
            }
            Self::Relation { oid, namespace, table, identity, columns } => {
                out.push(b'R');
                out.extend(oid.to_be_bytes());
                string(&mut out, namespace.as_bytes());
                string(&mut out, table.as_bytes());
                out.push(*identity);
                out.extend(u16::try_from(columns.len()).unwrap().to_be_bytes());
                for column in columns {
                    out.push(u8::from(column.in_identity));
                    string(&mut out, column.name.as_bytes());
                    out.extend(column.type_oid.to_be_bytes());
                    out.extend(column.type_modifier.to_be_bytes());
                }
            }
            Self::Type { oid, namespace, name } => {
                out.push(b'Y');
                out.extend(oid.to_be_bytes());
                string(&mut out, namespace.as_bytes());
                string(&mut out, name.as_bytes());
            }
            Self::Insert { relation, new } => {
                out.push(b'I');
                out.extend(relation.to_be_bytes());
                row(&mut out, b'N', new);
            }
            Self::Update { relation, old, new } => {
                out.push(b'U');
                out.extend(relation.to_be_bytes());
                if let Some((full, old)) = old {
                    row(&mut out, if *full { b'O' } else { b'K' }, old);
                }
                row(&mut out, b'N', new);
            }
            Self::Delete { relation, full, old } => {
                out.push(b'D');
                out.extend(relation.to_be_bytes());
                row(&mut out, if *full { b'O' } else { b'K' }, old);
            }
            Self::Truncate { bits, relations } => {
                out.push(b'T');
                out.extend(u32::try_from(relations.len()).unwrap().to_be_bytes());
                out.push(*bits);
                relations.iter().for_each(|oid| out.extend(oid.to_be_bytes()));
            }
            Self::Message { transactional, lsn, prefix, content } => {
                out.push(b'M');
                out.push(u8::from(*transactional));
                out.extend(lsn.to_be_bytes());
                string(&mut out, prefix);
                value(&mut out, content);
            }
            Self::StreamAbort { xid, subxid, parallel } => {
                out.push(b'A');
                out.extend(xid.to_be_bytes());
                out.extend(subxid.to_be_bytes());
                if *parallel {
                    out.extend([0; 16]);
                }
            }
        }
        out
    }
}

fn string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend(text);
    out.push(0);
}

fn value(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
    out.extend(bytes);
}

fn row(out: &mut Vec<u8>, marker: u8, cells: &[Cell]) {
    out.push(marker);
    out.extend(u16::try_from(cells.len()).unwrap().to_be_bytes());
    for cell in cells {
        match cell {
            Cell::Null => out.push(b'n'),
            Cell::Unchanged => out.push(b'u'),
            Cell::Text(bytes) => {
                out.push(b't');
                value(out, bytes);
            }
            Cell::Binary(bytes) => {
                out.push(b'b');
                value(out, bytes);
            }
        }
    }
}

fn rows() -> impl Strategy<Value = Row> {
    let cell = prop_oneof![
        Just(Cell::Null),
        Just(Cell::Unchanged),
        vec(any::<u8>(), 0..20).prop_map(Cell::Text),
        vec(any::<u8>(), 0..20).prop_map(Cell::Binary),
    ];
    vec(cell, 0..8)
}

fn name() -> impl Strategy<Value = String> {
    "[^\u{0}]{0,12}"
}

fn columns() -> impl Strategy<Value = Vec<Column>> {
    let column = (any::<bool>(), name(), any::<u32>(), any::<i32>())
        .prop_map(|(in_identity, name, type_oid, type_modifier)| Column { in_identity, name, type_oid, type_modifier });
    vec(column, 0..8)
}

/// Any message that a server may send.
pub(crate) fn sent() -> impl Strategy<Value = Sent> {
    let identity = prop_oneof![Just(b'd'), Just(b'n'), Just(b'f'), Just(b'i')];
    prop_oneof![
        (1..=u64::MAX, any::<i64>(), any::<u32>()).prop_map(|(final_lsn, time, xid)| Sent::Begin {
            final_lsn,
            time,
            xid
        }),
        any::<(u64, u64, i64)>().prop_map(|(commit_lsn, end_lsn, time)| Sent::Commit { commit_lsn, end_lsn, time }),
        (any::<u64>(), name()).prop_map(|(lsn, name)| Sent::Origin { lsn, name }),
        (any::<u32>(), name(), name(), identity, columns()).prop_map(|(oid, namespace, table, identity, columns)| {
            Sent::Relation { oid, namespace, table, identity, columns }
        }),
        (any::<u32>(), name(), name()).prop_map(|(oid, namespace, name)| Sent::Type { oid, namespace, name }),
        (any::<u32>(), rows()).prop_map(|(relation, new)| Sent::Insert { relation, new }),
        (any::<u32>(), option::of((any::<bool>(), rows())), rows()).prop_map(|(relation, old, new)| Sent::Update {
            relation,
            old,
            new
        }),
        (any::<u32>(), any::<bool>(), rows()).prop_map(|(relation, full, old)| Sent::Delete { relation, full, old }),
        (0..4u8, vec(any::<u32>(), 0..6)).prop_map(|(bits, relations)| Sent::Truncate { bits, relations }),
        (any::<bool>(), any::<u64>(), vec(1..=u8::MAX, 0..9), vec(any::<u8>(), 0..40))
            .prop_map(|(transactional, lsn, prefix, content)| Sent::Message { transactional, lsn, prefix, content }),
        any::<(u32, u32, bool)>().prop_map(|(xid, subxid, parallel)| Sent::StreamAbort { xid, subxid, parallel }),
    ]
}
