//! No bytes make the parser panic, and what it accepts can be read to the last cell.
#![no_main]

use dbstreamd_model::{EventBody, Op};
use dbstreamd_pgoutput::{Message, RowMessage, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = parse(bytes) else { return };
    match message {
        Message::Insert(row) => walk(Op::Insert, &row),
        Message::Update(row) => walk(Op::Update, &row),
        Message::Delete(row) => walk(Op::Delete, &row),
        Message::Relation(relation) => {
            let columns = relation.columns();
            let announced = columns.len();
            assert_eq!(columns.count(), announced);
            let schema = relation.to_schema(|oid| Some(oid.to_string())).expect("every type has a name");
            assert_eq!(schema.columns.len(), announced);
        }
        Message::Truncate(truncate) => assert_eq!(truncate.relations().count(), truncate.relations().len()),
        Message::Message(message) => {
            let body = message.to_body();
            let parsed = EventBody::parse(Op::Message, &body);
            assert!(matches!(parsed, Ok(EventBody::Message(read)) if read.content == message.content));
        }
        Message::Begin(_) | Message::Commit(_) | Message::Origin(_) | Message::Type(_) | Message::StreamAbort(_) => {}
    }
});

fn walk(op: Op, row: &RowMessage<'_>) {
    let Ok(EventBody::Row(change)) = EventBody::parse(op, row.body) else { panic!("an accepted row has another body") };
    let before = change.before.map(|(_, before)| before);
    for (row, columns) in [(before, row.old_columns), (change.after, row.new_columns)] {
        assert_eq!(row.map(|row| row.cells().count()), columns.map(usize::from));
    }
}
