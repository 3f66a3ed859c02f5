//! What is written by hand must be what prost would write.

use bytes::Bytes;
use std::sync::Arc;

use dbstreamd_log::StoredSchema;
use dbstreamd_model::{Epoch, Lsn, Offset, ReplicaIdentity, SchemaId, TableSchema, Timestamp};
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::grpc::wire::{Response, WireResponse};

#[derive(Debug, Clone)]
enum Cell {
    Null,
    Unchanged,
    Text(Vec<u8>),
    Binary(Vec<u8>),
}

#[derive(Debug, Clone)]
struct Sample {
    offset: u64,
    op: Op,
    lsn: u64,
    ordinal: u32,
    xid: u32,
    time: i64,
    last: bool,
    before: Option<(bool, Vec<Cell>)>,
    after: Vec<Cell>,
    flags: u8,
    prefix: Vec<u8>,
    content: Vec<u8>,
}

fn cells() -> impl Strategy<Value = Vec<Cell>> {
    let cell = prop_oneof![
        Just(Cell::Null),
        Just(Cell::Unchanged),
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(Cell::Text),
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(Cell::Binary),
    ];
    // Often as many before as after, as in a real update.
    prop_oneof![proptest::collection::vec(cell.clone(), 9), proptest::collection::vec(cell, 0..8)]
}

fn sample() -> impl Strategy<Value = Sample> {
    let head = (any::<u64>(), 0..5usize, any::<u64>(), any::<u32>(), any::<u32>(), any::<i64>(), any::<bool>());
    let body = (
        proptest::option::of((any::<bool>(), cells())),
        cells(),
        0..4u8,
        proptest::collection::vec(1..=u8::MAX, 0..5),
        proptest::collection::vec(any::<u8>(), 0..200),
    );
    (head, body).prop_map(|((offset, op, lsn, ordinal, xid, time, last), (before, after, flags, prefix, content))| {
        Sample {
            offset,
            op: Op::ALL[op],
            // Zeroes are absent on the wire and must be seen too.
            lsn: if lsn % 5 == 0 { 0 } else { lsn },
            ordinal: ordinal % 3,
            xid: if xid % 5 == 0 { 0 } else { xid },
            time: if time % 5 == 0 { 0 } else { time },
            last,
            before,
            after,
            flags,
            prefix,
            content,
        }
    })
}

fn put_cells(out: &mut Vec<u8>, marker: u8, cells: &[Cell]) {
    out.push(marker);
    out.extend_from_slice(&u16::try_from(cells.len()).unwrap().to_be_bytes());
    for cell in cells {
        let (state, value) = match cell {
            Cell::Null => (b'n', None),
            Cell::Unchanged => (b'u', None),
            Cell::Text(value) => (b't', Some(value)),
            Cell::Binary(value) => (b'b', Some(value)),
        };
        out.push(state);
        if let Some(value) = value {
            out.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
            out.extend_from_slice(value);
        }
    }
}

impl Sample {
    fn before(&self) -> Option<(bool, &[Cell])> {
        match (self.op, &self.before) {
            (Op::Insert, _) => None,
            (Op::Delete, None) => Some((false, &[])),
            (_, before) => before.as_ref().map(|(full, cells)| (*full, cells.as_slice())),
        }
    }

    fn body(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self.op {
            Op::Truncate => out.push(self.flags),
            Op::Message => {
                out.push(self.flags & 1);
                out.extend_from_slice(&self.prefix);
                out.push(0);
                out.extend_from_slice(&u32::try_from(self.content.len()).unwrap().to_be_bytes());
                out.extend_from_slice(&self.content);
            }
            _ => {
                if let Some((full, cells)) = self.before() {
                    put_cells(&mut out, if full { b'O' } else { b'K' }, cells);
                }
                if self.op != Op::Delete {
                    put_cells(&mut out, b'N', &self.after);
                }
            }
        }
        out
    }

    fn event<'a>(&self, body: &'a [u8], stored: &'a StoredSchema) -> EventRef<'a> {
        EventRef {
            offset: Offset(self.offset),
            op: self.op,
            schema: (self.op != Op::Message).then_some(stored),
            body,
            ordinal: self.ordinal,
            last_in_unit: self.last,
            epoch: Epoch(1),
            commit_lsn: Lsn(self.lsn),
            xid: self.xid,
            commit_time: Timestamp(self.time),
        }
    }

    /// The same event, built naively.
    fn proto(&self, stored: &StoredSchema) -> proto::Event {
        let row = |cells: &[Cell], old: Option<&[Cell]>| proto::Row {
            unchanged: bitmap(cells),
            cells: cells
                .iter()
                .enumerate()
                .map(|(n, cell)| match (cell, old) {
                    (Cell::Unchanged, Some(old)) => &old[n],
                    _ => cell,
                })
                .map(|cell| proto::Cell {
                    value: match cell {
                        Cell::Null => None,
                        Cell::Unchanged => Some(proto::cell::Value::Unchanged(true)),
                        Cell::Text(value) => Some(proto::cell::Value::Text(value.clone().into())),
                        Cell::Binary(value) => Some(proto::cell::Value::Binary(value.clone().into())),
                    },
                })
                .collect(),
            ..Default::default()
        };
        let is_row = !matches!(self.op, Op::Truncate | Op::Message);
        let before = if is_row { self.before() } else { None };
        proto::Event {
            offset: self.offset,
            operation: operation(self.op).into(),
            commit_lsn: self.lsn,
            ordinal: self.ordinal,
            xid: self.xid,
            commit_time_us: self.time,
            epoch: 1,
            last_in_transaction: self.last,
            fingerprint: if self.op == Op::Message {
                Bytes::new()
            } else {
                Bytes::copy_from_slice(&stored.fingerprint.0)
            },
            before: before.map(|(_, cells)| row(cells, None)),
            before_is_full: before.is_some_and(|(full, _)| full),
            after: (is_row && self.op != Op::Delete).then(|| {
                let whole = before.filter(|(full, cells)| *full && cells.len() == self.after.len());
                row(&self.after, whole.map(|(_, cells)| cells))
            }),
            truncate: (self.op == Op::Truncate)
                .then_some(proto::Truncate { cascade: self.flags & 1 != 0, restart_identity: self.flags & 2 != 0 }),
            message: (self.op == Op::Message).then(|| proto::Message {
                transactional: self.flags & 1 != 0,
                prefix: self.prefix.clone().into(),
                content: self.content.clone().into(),
            }),
            schema_change: None,
        }
    }
}

/// The bitmap of unchanged columns, built naively.
fn bitmap(cells: &[Cell]) -> Bytes {
    let mut bits = vec![0; cells.len().div_ceil(8)];
    let unchanged = |(n, cell): (usize, &Cell)| matches!(cell, Cell::Unchanged).then_some(n);
    cells.iter().enumerate().filter_map(unchanged).for_each(|n| bits[n / 8] |= 1 << (n % 8));
    if bits.iter().all(|byte| *byte == 0) { Bytes::new() } else { bits.into() }
}

fn stored() -> StoredSchema {
    let schema = TableSchema {
        namespace: "shop".into(),
        table: "orders".into(),
        replica_identity: ReplicaIdentity::Default,
        columns: Vec::new(),
    };
    StoredSchema {
        id: SchemaId(1),
        fingerprint: schema.fingerprint(),
        schema: Arc::new(schema),
        version: 1,
        facts: None,
    }
}

proptest! {
    #[test]
    fn any_range_of_a_run_is_the_batch_that_prost_would_write(samples in proptest::collection::vec(sample(), 1..6), from in 0..6usize) {
        let stored = stored();
        let mut run = RunBuilder::default();
        for sample in &samples {
            let body = sample.body();
            prop_assert!(run.push(&sample.event(&body, &stored)));
        }
        let run = run.finish();
        let from = from.min(samples.len() - 1);
        let start = if from == 0 { 0 } else { run.ends[from - 1] as usize };
        let batch = proto::EventBatch { events: samples[from..].iter().map(|sample| sample.proto(&stored)).collect() };
        prop_assert_eq!(run.bytes.slice(start..), batch.encode_to_vec());

        let wire = WireResponse::from(Response::Events(run.bytes.slice(start..))).encode_to_vec();
        let answer = proto::SubscribeResponse { response: Some(proto::subscribe_response::Response::Events(batch)) };
        prop_assert_eq!(&wire, &answer.encode_to_vec());
        prop_assert_eq!(proto::SubscribeResponse::decode(wire.as_slice()).unwrap(), answer);
    }
}

#[test]
fn a_broken_body_ends_the_run_and_writes_nothing() {
    let stored = stored();
    let mut run = RunBuilder::default();
    let event = EventRef {
        offset: Offset(1),
        op: Op::Insert,
        schema: Some(&stored),
        body: b"X",
        ordinal: 0,
        last_in_unit: true,
        epoch: Epoch(1),
        commit_lsn: Lsn(1),
        xid: 1,
        commit_time: Timestamp(1),
    };
    assert!(!run.push(&event));
    assert!(run.is_empty());
    assert_eq!(run.finish().bytes.len(), 0);
}
