//! What is written by hand in one pass is what prost would write.

mod heap;

use std::sync::Arc;

use bytes::Bytes;
use dbstreamd_model::{
    Column, Epoch, Lsn, Offset, Op, ReplicaIdentity, TableSchema, Timestamp, TypeDescription, TypeKind,
};
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::proto::value::Kind;

fn stored(types: &[&str]) -> StoredSchema {
    let column = |type_name: &&str| {
        let described = |kind| Some(TypeDescription { name: (*type_name).to_owned(), kind });
        Column {
            name: format!("of {type_name}"),
            type_name: (*type_name).to_owned(),
            type_oid: 0,
            type_modifier: -1,
            in_identity: false,
            description: match *type_name {
                "shop.pair" => described(TypeKind::Composite),
                "shop.mood" => described(TypeKind::Enum),
                _ => None,
            },
        }
    };
    let schema = TableSchema {
        namespace: "shop".into(),
        table: "orders".into(),
        replica_identity: ReplicaIdentity::Default,
        columns: types.iter().map(column).collect(),
    };
    let (id, fingerprint) = (SchemaId(1), schema.fingerprint());
    StoredSchema { id, fingerprint, schema: Arc::new(schema), version: 1, facts: None }
}

fn row(marker: u8, cells: &[Option<&[u8]>]) -> Vec<u8> {
    let mut out = vec![marker];
    out.extend_from_slice(&u16::try_from(cells.len()).unwrap().to_be_bytes());
    for cell in cells {
        match cell {
            None => out.push(b'n'),
            Some(b"(unchanged)") => out.push(b'u'),
            Some(text) => {
                out.push(b't');
                out.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
                out.extend_from_slice(text);
            }
        }
    }
    out
}

fn event<'a>(op: Op, body: &'a [u8], schema: &'a StoredSchema) -> EventRef<'a> {
    EventRef {
        offset: Offset(7),
        op,
        schema: Some(schema),
        body,
        ordinal: 2,
        last_in_unit: true,
        epoch: Epoch(1),
        commit_lsn: Lsn(0x16_B374_D848),
        xid: 741,
        commit_time: Timestamp(1),
    }
}

/// The run's only event, checked to be what prost would write.
fn only(run: RunBuilder) -> proto::Event {
    let bytes = run.finish().bytes;
    let mut batch = proto::EventBatch::decode(bytes.clone()).unwrap();
    assert_eq!(bytes, batch.encode_to_vec());
    batch.events.pop().unwrap()
}

#[test]
fn every_case_is_written_as_prost_would_write_it() {
    let samples: [(&str, &[u8]); 39] = [
        ("bool", b"f"),
        ("int4", b"-1"),
        ("int8", b"0"),
        ("oid", b"0"),
        ("float4", b"-0"),
        ("float8", b"NaN"),
        ("numeric", b"1.10"),
        ("text", b""),
        ("bytea", b"\\x00ff"),
        ("date", b"2000-01-01"),
        ("time", b"24:00:00"),
        ("timetz", b"00:00:00+00"),
        ("timestamp", b"1999-12-31 23:59:59"),
        ("timestamptz", b"2024-02-29 12:00:00+00"),
        ("date", b"-infinity"),
        ("interval", b"-1 mons"),
        ("uuid", b"00112233-4455-6677-8899-aabbccddeeff"),
        ("jsonb", b"{}"),
        ("_int4", b"[0:1][1:2]={{1,NULL},{3,4}}"),
        ("_text", b"{}"),
        ("int4range", b"[1,)"),
        ("int4range", b"empty"),
        ("nummultirange", b"{[1.0,2.0],(3,4)}"),
        ("nummultirange", b"{}"),
        ("shop.pair", b"(,\"\",a)"),
        ("shop.mood", b"sad"),
        ("varbit", b"1010101011"),
        ("varbit", b""),
        ("inet", b"10.0.0.1/0"),
        ("cidr", b"::/0"),
        ("macaddr", b"08:00:2b:01:02:03"),
        ("macaddr8", b"08:00:2b:01:02:03:04:05"),
        ("path", b"[(0,0),(1,1)]"),
        ("circle", b"<(0,0),1>"),
        ("money", b"-$0.01"),
        ("pg_lsn", b"0/0"),
        ("tsvector", b"'a':1A,2 'b'"),
        ("xml", b"<a/>"),
        ("shop.hstore", b"\"a\"=>NULL"),
    ];
    let types: Vec<&str> = samples.iter().map(|(type_name, _)| *type_name).collect();
    let cells: Vec<Option<&[u8]>> = samples.iter().map(|(_, text)| Some(*text)).collect();
    let (stored, body) = (stored(&types), row(b'N', &cells));
    let mut run = RunBuilder::default();
    assert_eq!(run.push_typed(&event(Op::Insert, &body, &stored), &mut Decoders::default()), Ok(true));
    let event = only(run);
    let values = event.after.unwrap().values;
    assert_eq!(values.len(), samples.len());
    assert!(values.iter().all(|value| value.kind.is_some()));
    assert_eq!(values[1].kind, Some(Kind::Integer(-1)));
    assert_eq!(values[8].kind, Some(Kind::Bytes(Bytes::from_static(&[0, 0xFF]))));
    assert_eq!(
        values[16].kind,
        Some(Kind::Uuid(Bytes::copy_from_slice(&[
            0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff
        ])))
    );
    assert_eq!(values[38].kind, Some(Kind::Text(Bytes::from_static(b"\"a\"=>NULL"))));
}

#[test]
fn an_unchanged_value_is_filled_from_a_whole_old_row_and_named_either_way() {
    let stored = stored(&["int4", "text"]);
    let new = row(b'N', &[Some(b"1"), Some(b"(unchanged)")]);
    let full = [row(b'O', &[Some(b"1"), Some(b"big")]), new.clone()].concat();
    let alone = new;
    for (body, value) in [(full, Kind::Text("big".into())), (alone, Kind::Unchanged(true))] {
        let mut run = RunBuilder::default();
        assert_eq!(run.push_typed(&event(Op::Update, &body, &stored), &mut Decoders::default()), Ok(true));
        let after = only(run).after.unwrap();
        assert_eq!(after.values[1].kind, Some(value));
        assert_eq!(after.unchanged, [0b10].as_slice());
    }
}

#[test]
fn a_value_that_cannot_be_read_adds_nothing_and_is_named() {
    let stored = stored(&["int4", "date"]);
    let mut decoders = Decoders::default();
    let mut run = RunBuilder::default();
    let good = row(b'N', &[Some(b"1"), None]);
    assert_eq!(run.push_typed(&event(Op::Insert, &good, &stored), &mut decoders), Ok(true));
    let before = run.len();
    let bad = row(b'N', &[Some(b"1"), Some(b"2024-02-30")]);
    let unreadable = run.push_typed(&event(Op::Insert, &bad, &stored), &mut decoders).unwrap_err();
    assert_eq!((unreadable.table.as_str(), unreadable.column.as_str()), ("shop.orders", "of date"));
    assert_eq!(unreadable.offset, Offset(7));
    let short = row(b'N', &[Some(b"1")]);
    let unreadable = run.push_typed(&event(Op::Insert, &short, &stored), &mut decoders).unwrap_err();
    assert_eq!(unreadable.reason, Reason::ColumnCount { cells: 1, columns: 2 });
    assert_eq!(run.len(), before);
    assert_eq!(run.push_typed(&event(Op::Insert, b"X", &stored), &mut decoders), Ok(false));
    assert_eq!(only(run).after.unwrap().values[1].kind, None);
}

/// Five million of anything, between these.
fn many(begin: &str, part: &str, between: &str, end: &str) -> String {
    let mut text = [part, between].concat().repeat(5_000_000);
    text.truncate(text.len() - between.len());
    [begin, &text, end].concat()
}

#[test]
fn a_value_of_five_million_parts_is_written_with_no_memory_but_for_the_part_that_is_read() {
    // What one part is on the wire.
    let cases: [(&str, String, &[u8]); 6] = [
        ("_int2", many("{", "1", ",", "}"), b"\x12\x02\x18\x02"),
        ("_text", many("{", r#""a\"b""#, ",", "}"), b"\x12\x05\x42\x03a\"b"),
        ("int4multirange", many("{", "[1,2)", ",", "}"), b"\x0a\x0a\x12\x02\x18\x02\x1a\x02\x18\x04\x20\x01"),
        ("shop.pair", many("(", "x", ",", ")"), b"\x0a\x03\x42\x01x"),
        ("polygon", many("(", "(1,1)", ",", ")"), &[1_f64.to_le_bytes(), 1_f64.to_le_bytes()].concat()),
        ("tsvector", many("", "'a':1A,2", " ", ""), b"\x0a\x0e\x0a\x01a\x12\x05\x08\x01\x12\x01A\x12\x02\x08\x02"),
    ];
    for (type_name, text, part) in cases {
        let (stored, body) = (stored(&[type_name]), row(b'N', &[Some(text.as_bytes())]));
        let (mut run, mut decoders) = (RunBuilder::default(), Decoders::default());
        // Room for the output, and what the first event of a run and of a schema version costs once.
        run.bytes.reserve(2 * body.len() + 5_000_000 * part.len());
        run.ends.reserve(1);
        decoders.of(&stored);
        let event = event(Op::Insert, &body, &stored);
        let (pushed, held) = heap::most_held(|| run.push_typed(&event, &mut decoders));
        assert_eq!(pushed, Ok(true), "{type_name}");
        let escaped_once = 16;
        assert!(held <= escaped_once, "{type_name}: {held} bytes were held");
        let bytes = run.finish().bytes;
        let (_, parts) = bytes.split_at(bytes.len() - 5_000_000 * part.len());
        assert!(parts.chunks(part.len()).all(|written| written == part), "{type_name}");
    }
}

#[test]
fn a_value_that_is_wrong_in_its_last_part_leaves_nothing_of_its_others() {
    for (type_name, text, at) in [
        ("_int4", "{1,2,x}", 5),
        ("_int4", "[1:2]={1,2,3}", 6),
        ("_int4range", "{\"[1,2)\",\"[3,x)\"}", 12),
        ("int4multirange", "{[1,2),[3,x)}", 10),
        ("shop.pair", "(a,b", 4),
        ("path", "[(1,2),(3,x)]", 10),
        ("tsvector", "'a':1 'b':0", 10),
    ] {
        let (stored, body) = (stored(&[type_name]), row(b'N', &[Some(text.as_bytes())]));
        let mut run = RunBuilder::default();
        let refused = run.push_typed(&event(Op::Insert, &body, &stored), &mut Decoders::default()).unwrap_err();
        assert!(matches!(refused.reason, Reason::Value(ValueError { at: found, .. }) if found == at), "{refused}");
        assert_eq!((run.len(), run.is_empty()), (0, true));
    }
}

proptest! {
    /// Lengths around the edges at which a length's own length changes, at every level.
    #[test]
    fn lengths_of_every_size_are_right(texts in proptest::collection::vec("[a-z,\"]{0,3}|[a-z]{110,140}|[a-z]{16370,16390}", 0..4)) {
        let mut array = Vec::new();
        let elements: Vec<String> = texts.iter().map(|text| format!("\"{}\"", text.replace('"', "\\\""))).collect();
        array.extend_from_slice(format!("{{{}}}", elements.join(",")).as_bytes());
        let mut fields = Vec::new();
        let quoted: Vec<String> = texts.iter().map(|text| format!("\"{}\"", text.replace('"', "\"\""))).collect();
        fields.extend_from_slice(format!("({})", quoted.join(",")).as_bytes());
        let stored = stored(&["_text", "shop.pair", "text"]);
        let body = row(b'N', &[Some(&array), Some(&fields), Some(texts.concat().as_bytes())]);
        let mut run = RunBuilder::default();
        prop_assert_eq!(run.push_typed(&event(Op::Insert, &body, &stored), &mut Decoders::default()), Ok(true));
        let values = only(run).after.unwrap().values;
        let texts_of = |values: &[proto::Value]| values.iter().filter_map(|value| match &value.kind {
            Some(Kind::Text(text)) => Some(String::from_utf8(text.to_vec()).unwrap()),
            _ => None,
        }).collect::<Vec<_>>();
        let Some(Kind::Array(array)) = &values[0].kind else { panic!() };
        prop_assert_eq!(texts_of(&array.elements), texts.clone());
        let Some(Kind::Composite(composite)) = &values[1].kind else { panic!() };
        prop_assert_eq!(texts_of(&composite.fields), texts);
    }
}
