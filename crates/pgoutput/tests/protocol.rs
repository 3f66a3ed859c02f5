//! The parser against a test's own encoder, against damage, and against what PostgreSQL really sent.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers fail like the test itself")]

mod support;

use std::path::PathBuf;

use dbstreamd_model::{CellRef, EventBody, Lsn, Op, ReplicaIdentity, Timestamp};
use dbstreamd_pgoutput::{Message, ParseError, RowMessage, parse, timestamp_from_postgres, timestamp_to_postgres};
use proptest::prelude::*;
use support::{Cell, Row, Sent, sent};

proptest! {
    #[test]
    fn every_message_a_server_may_send_is_read_back_as_sent(sent in sent()) {
        let bytes = sent.encode();
        check(&sent, parse(&bytes).unwrap());
    }

    #[test]
    fn no_beginning_of_a_message_is_a_message(sent in sent()) {
        let bytes = sent.encode();
        for cut in 0..bytes.len() {
            // A stream abort's optional half makes its shorter form whole.
            let whole = matches!(sent, Sent::StreamAbort { parallel: true, .. }) && cut == 9;
            prop_assert_eq!(parse(&bytes[..cut]).is_ok(), whole, "the first {} bytes", cut);
        }
    }

    #[test]
    fn nothing_may_follow_a_message(sent in sent(), more in proptest::collection::vec(any::<u8>(), 1..8)) {
        let bytes = [sent.encode(), more].concat();
        prop_assert!(parse(&bytes).is_err());
    }

    #[test]
    fn damaged_messages_never_panic_and_stay_walkable(
        sent in sent(),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = sent.encode();
        for (at, value) in damage {
            *at.get_mut(&mut bytes) = value;
        }
        walk(&bytes);
    }

    #[test]
    fn random_bytes_never_panic(tag in proptest::sample::select(b"BCORYIUDTMA?".to_vec()), rest: Vec<u8>) {
        walk(&[vec![tag], rest].concat());
    }
}

/// Reads whatever was accepted to its last cell.
fn walk(bytes: &[u8]) {
    match parse(bytes) {
        Ok(Message::Relation(relation)) => {
            assert_eq!(relation.columns().count(), relation.columns().len());
            let _ = relation.to_schema(|_| None);
        }
        Ok(Message::Insert(row)) => _ = rows(Op::Insert, &row),
        Ok(Message::Update(row)) => _ = rows(Op::Update, &row),
        Ok(Message::Delete(row)) => _ = rows(Op::Delete, &row),
        Ok(Message::Truncate(truncate)) => assert_eq!(truncate.relations().count(), truncate.relations().len()),
        Ok(Message::Message(message)) => _ = message.to_body(),
        Ok(_) | Err(_) => {}
    }
}

/// Old and new row of a message, through the layout in which the log keeps them.
fn rows(op: Op, row: &RowMessage<'_>) -> (Option<Row>, Option<Row>) {
    let Ok(EventBody::Row(change)) = EventBody::parse(op, row.body) else { panic!("an accepted row has no body") };
    let owned = |row: dbstreamd_model::RowRef<'_>| -> Row {
        let cells = row.cells().map(|cell| match cell {
            CellRef::Null => Cell::Null,
            CellRef::Unchanged => Cell::Unchanged,
            CellRef::Text(bytes) => Cell::Text(bytes.to_vec()),
            CellRef::Binary(bytes) => Cell::Binary(bytes.to_vec()),
        });
        cells.collect()
    };
    let (old, new) = (change.before.map(|(_, row)| owned(row)), change.after.map(owned));
    assert_eq!(old.as_ref().map(Vec::len), row.old_columns.map(usize::from));
    assert_eq!(new.as_ref().map(Vec::len), row.new_columns.map(usize::from));
    (old, new)
}

fn same(left: Option<&Row>, right: Option<&Row>) -> bool {
    format!("{left:?}") == format!("{right:?}")
}

fn check(sent: &Sent, read: Message<'_>) {
    match (sent, read) {
        (Sent::Begin { final_lsn, time, xid }, Message::Begin(read)) => {
            assert_eq!(
                (Lsn(*final_lsn), timestamp_from_postgres(*time), *xid),
                (read.final_lsn, read.commit_time, read.xid)
            );
        }
        (Sent::Commit { commit_lsn, end_lsn, time }, Message::Commit(read)) => {
            assert_eq!((Lsn(*commit_lsn), Lsn(*end_lsn)), (read.commit_lsn, read.end_lsn));
            assert_eq!(timestamp_from_postgres(*time), read.commit_time);
        }
        (Sent::Origin { lsn, name }, Message::Origin(read)) => {
            assert_eq!((Lsn(*lsn), name.as_bytes()), (read.commit_lsn, read.name.as_bytes()));
        }
        (Sent::Relation { oid, namespace, table, identity, columns }, Message::Relation(read)) => {
            assert_eq!(
                (*oid, catalog(namespace), table.as_str()),
                (read.oid(), &*read.namespace().to_text(), &*read.table().to_text())
            );
            assert_eq!(ReplicaIdentity::from_code(*identity), Some(read.replica_identity()));
            let schema = read.to_schema(|oid| Some(format!("type{oid}"))).unwrap();
            assert_eq!(columns.len(), schema.columns.len());
            for (sent, read) in columns.iter().zip(&schema.columns) {
                assert_eq!((sent.name.as_bytes(), sent.in_identity), (read.name.as_bytes(), read.in_identity));
                assert_eq!((sent.type_oid, sent.type_modifier), (read.type_oid, read.type_modifier));
                assert_eq!(read.type_name, format!("type{}", sent.type_oid));
            }
        }
        (Sent::Type { oid, namespace, name }, Message::Type(read)) => {
            assert_eq!(
                (*oid, catalog(namespace), name.as_str()),
                (read.oid, &*read.namespace.to_text(), &*read.name.to_text())
            );
        }
        (Sent::Insert { relation, new }, Message::Insert(read)) => {
            assert_eq!(*relation, read.relation);
            let (old, read) = rows(Op::Insert, &read);
            assert!(old.is_none() && same(Some(new), read.as_ref()));
        }
        (Sent::Update { relation, old, new }, Message::Update(read)) => {
            assert_eq!(*relation, read.relation);
            let (read_old, read_new) = rows(Op::Update, &read);
            assert!(same(old.as_ref().map(|(_, row)| row), read_old.as_ref()));
            assert!(same(Some(new), read_new.as_ref()));
        }
        (Sent::Delete { relation, old, .. }, Message::Delete(read)) => {
            assert_eq!(*relation, read.relation);
            let (read, new) = rows(Op::Delete, &read);
            assert!(new.is_none() && same(Some(old), read.as_ref()));
        }
        (Sent::Truncate { bits, relations }, Message::Truncate(read)) => {
            assert_eq!((*bits, relations.clone()), (read.flags().bits(), read.relations().collect()));
        }
        (Sent::Message { transactional, lsn, prefix, content }, Message::Message(read)) => {
            assert_eq!((*transactional, Lsn(*lsn)), (read.transactional, read.lsn));
            let body = read.to_body();
            let Ok(EventBody::Message(body)) = EventBody::parse(Op::Message, &body) else { panic!("no message body") };
            assert_eq!(
                (*transactional, prefix.as_slice(), content.as_slice()),
                (body.transactional, body.prefix, body.content)
            );
        }
        (Sent::StreamAbort { xid, subxid, .. }, Message::StreamAbort(read)) => {
            assert_eq!((*xid, *subxid), (read.xid, read.subxid));
        }
        (sent, read) => panic!("{sent:?} was read as {read:?}"),
    }
}

fn catalog(namespace: &str) -> &str {
    if namespace.is_empty() { "pg_catalog" } else { namespace }
}

#[test]
fn what_postgresql_sent_is_understood() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/pgoutput_message");
    let mut read = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let message = parse(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let kind = format!("{message:?}").to_lowercase();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(kind.starts_with(name.split('-').next().unwrap()), "{name} was read as {kind}");
        read += 1;
    }
    assert!(read > 20, "only {read} captured messages were found");
}

#[test]
fn unknown_tags_and_undefined_values_are_refused_by_name() {
    assert_eq!(parse(b""), Err(ParseError::Empty));
    // A stream start of protocol version 2.
    assert_eq!(parse(b"S\0\0\0\x01\x01"), Err(ParseError::UnknownTag(b'S')));
    let mut commit = Sent::Commit { commit_lsn: 1, end_lsn: 2, time: 0 }.encode();
    commit[1] = 4;
    assert_eq!(parse(&commit), Err(ParseError::Undefined { message: "Commit", field: "flags", value: 4 }));
    let begin = Sent::Begin { final_lsn: 0, time: 0, xid: 1 }.encode();
    assert_eq!(parse(&begin), Err(ParseError::Undefined { message: "Begin", field: "final LSN", value: 0 }));
    let truncate = Sent::Truncate { bits: 4, relations: vec![1] }.encode();
    assert!(matches!(parse(&truncate), Err(ParseError::Undefined { field: "options", value: 4, .. })));
    let liar = b"T\xff\xff\xff\xff\0\0\0\0\x01";
    assert_eq!(parse(liar), Err(ParseError::Truncated { message: "Truncate", field: "relations" }));
}

#[test]
fn a_relation_takes_its_type_names_from_the_server_or_from_postgresql_itself() {
    let column =
        |name: &str, type_oid| support::Column { in_identity: false, name: name.into(), type_oid, type_modifier: -1 };
    let relation = |columns| {
        Sent::Relation { oid: 1, namespace: String::new(), table: "t".into(), identity: b'd', columns }.encode()
    };
    let known = |oid| (oid == 23).then(|| "int4".to_owned());
    let bytes = relation(vec![column("a", 23), column("b", 9_999)]);
    let Ok(Message::Relation(read)) = parse(&bytes) else { panic!("not a relation") };
    let names: Vec<_> = read.to_schema(known).unwrap().columns.into_iter().map(|c| c.type_name).collect();
    assert_eq!(names, ["int4", "pg_catalog.oid_9999"]);
    let bytes = relation(vec![column("a", 23), column("b", 16_400)]);
    let Ok(Message::Relation(read)) = parse(&bytes) else { panic!("not a relation") };
    let refused = read.to_schema(known).unwrap_err();
    assert!(matches!(&refused, ParseError::UnknownType { column, oid: 16_400, .. } if column == "b"), "{refused}");
}

#[test]
fn a_domain_is_named_after_its_base_type_and_own_types_carry_their_namespace() {
    let named = |namespace: &str, name: &str| {
        let bytes = Sent::Type { oid: 16_400, namespace: namespace.into(), name: name.into() }.encode();
        let Ok(Message::Type(read)) = parse(&bytes) else { panic!("not a type") };
        read.schema_name()
    };
    // What PostgreSQL sends for CREATE DOMAIN shop.cents AS int8.
    assert_eq!(named("", "int8"), "int8");
    assert_eq!(named("shop", "state"), "shop.state");
}

#[test]
fn a_table_has_at_most_the_columns_postgresql_allows() {
    let columns = |count| {
        let column = support::Column { in_identity: false, name: "c".into(), type_oid: 23, type_modifier: -1 };
        let columns = vec![column; count];
        Sent::Relation { oid: 1, namespace: "s".into(), table: "t".into(), identity: b'f', columns }.encode()
    };
    assert!(parse(&columns(1_600)).is_ok());
    assert!(matches!(parse(&columns(1_601)), Err(ParseError::Undefined { field: "column count", .. })));
}

#[test]
fn times_count_from_the_year_2000_and_never_wrap() {
    assert_eq!(timestamp_from_postgres(0), Timestamp(946_684_800_000_000));
    assert_eq!(timestamp_to_postgres(timestamp_from_postgres(-1)), -1);
    assert_eq!(timestamp_from_postgres(i64::MAX), Timestamp(i64::MAX));
}
