//! The oracle must catch what is planted: each test doctors a stream that was right, and names the rule that must break.

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::{Auditor, Tables, Truth};
use crate::workload::{Digest, TABLES};
use dbstreamd_client::{Cell, Column, Event, Message, Operation, Row, Schema, Truncate, cell};

/// A stream that is right, and the truth that belongs to it.
struct Story {
    events: Vec<Event>,
    initial: Tables,
    truth: Truth,
    accounts: [i64; 3],
    hashes: [String; 3],
    lsn: u64,
}

fn fingerprint(table: &str) -> Bytes {
    Bytes::copy_from_slice(table.as_bytes())
}

fn schemas() -> Vec<Schema> {
    let column =
        |(at, name): (usize, &&str), keys| Column { name: (*name).into(), in_identity: at < keys, ..Column::default() };
    TABLES
        .iter()
        .map(|table| Schema {
            fingerprint: fingerprint(table.name),
            table: table.name.into(),
            columns: table.columns.iter().enumerate().map(|c| column(c, table.key_columns)).collect(),
            ..Schema::default()
        })
        .collect()
}

fn row(values: &[&str]) -> Option<Row> {
    let cell = |value: &&str| match *value {
        "=" => Cell { value: Some(cell::Value::Unchanged(true)) },
        text => Cell { value: Some(cell::Value::Text(Bytes::copy_from_slice(text.as_bytes()))) },
    };
    Some(Row { cells: values.iter().map(cell).collect(), ..Row::default() })
}

fn change(operation: Operation, table: &str, values: &[&str]) -> Event {
    let mut event = Event { fingerprint: fingerprint(table), epoch: 1, ..Event::default() };
    event.set_operation(operation);
    match operation {
        Operation::Delete => event.before = row(values),
        Operation::Truncate => event.truncate = Some(Truncate::default()),
        Operation::Message => {
            event.fingerprint = Bytes::new();
            let content = Bytes::copy_from_slice(values[0].as_bytes());
            event.message = Some(Message { transactional: true, prefix: table.to_owned().into(), content });
        }
        _ => event.after = row(values),
    }
    event
}

impl Story {
    /// Two writers, sixty transactions, all kinds of changes.
    fn tell() -> Self {
        let mut story = Self {
            events: Vec::new(),
            initial: Tables::default(),
            truth: Truth::default(),
            accounts: [0; 3],
            hashes: std::array::from_fn(|_| String::new()),
            lsn: 0x1000,
        };
        for id in ["0", "1", "2"] {
            story.initial.put("account", 1, &[id, "0"]);
        }
        story.initial.put("document", 2, &["1", "1", "0", "long"]);
        story.truth.tables = story.initial.clone();
        for seq in 1..=30_i64 {
            for writer in 1..=2 {
                story.transaction(writer, seq);
            }
        }
        story.message("1:1");
        story.unit(vec![change(Operation::Insert, "marker", &["7"])], 9999);
        story.truth.tables.put("marker", 1, &["7"]);
        story
    }

    fn transaction(&mut self, writer: usize, seq: i64) {
        let (w, s) = (writer.to_string(), seq.to_string());
        let mut events = Vec::new();
        let mut digest = Digest::default();
        let mut add = |operation, table: &str, values: &[&str], said: &[&str]| {
            let letter = match operation {
                Operation::Insert => 'I',
                Operation::Update => 'U',
                Operation::Delete => 'D',
                Operation::Truncate => 'T',
                _ => 'M',
            };
            digest.add(letter, table, said.iter().map(|value| value.as_bytes()));
            events.push(change(operation, table, values));
        };
        let account = usize::try_from(seq).expect("small") % 3;
        self.accounts[account] += 1;
        let (id, value) = (account.to_string(), self.accounts[account].to_string());
        add(Operation::Update, "account", &[&id, &value], &[&id]);
        self.truth.tables.put("account", 1, &[&id, &value]);
        if writer == 1 && seq == 5 {
            add(Operation::Update, "document", &["1", "1", &s, "="], &["1", "1", &s, "="]);
            self.truth.tables.put("document", 2, &["1", "1", &s, "long"]);
        }
        if seq == 10 {
            add(Operation::Insert, "bulk", &[&w, &s, "1", "x"], &[&w, &s, "1", "x"]);
        }
        if seq == 11 {
            add(Operation::Delete, "bulk", &[&w, "10", "1", ""], &[&w, "10", "1"]);
        }
        if seq == 12 {
            add(Operation::Truncate, "scratch", &[], &[]);
            add(Operation::Message, "torture", &["hello"], &["hello"]);
        }
        let hash = format!("{writer}-{seq}");
        let chain = [&w, &s, &self.hashes[writer], &hash].map(String::as_str);
        add(Operation::Insert, "chain", &chain, &chain);
        self.truth.tables.put("chain", 2, &chain);
        self.hashes[writer] = hash;
        let audit = [w, s, digest.changes().to_string(), digest.text(), "0".to_owned()];
        let audit = audit.each_ref().map(String::as_str);
        events.push(change(Operation::Insert, "audit", &audit));
        self.truth.tables.put("audit", 2, &audit);
        self.unit(events, u32::try_from(seq * 2).expect("small") + 700 + u32::try_from(writer).expect("small"));
    }

    fn message(&mut self, content: &str) {
        let mut event = change(Operation::Message, "torture", &[content]);
        event.message.as_mut().expect("it is one").transactional = false;
        self.unit(vec![event], 0);
    }

    fn unit(&mut self, mut events: Vec<Event>, xid: u32) {
        self.lsn += 0x100;
        let count = events.len();
        for (ordinal, event) in events.iter_mut().enumerate() {
            event.offset = u64::try_from(self.events.len() + ordinal + 1).expect("small");
            event.ordinal = u32::try_from(ordinal).expect("small");
            (event.commit_lsn, event.xid) = (self.lsn, xid);
            event.last_in_transaction = ordinal + 1 == count;
        }
        self.events.append(&mut events);
    }

    /// Gives every event the offset of its place, so that only the planted fault is wrong.
    fn renumber(mut self) -> Self {
        for (at, event) in self.events.iter_mut().enumerate() {
            event.offset = u64::try_from(at + 1).expect("small");
        }
        self
    }

    /// Places of the events of a table.
    fn places(&self, table: &str) -> Vec<usize> {
        let is = |event: &Event| event.fingerprint == fingerprint(table);
        self.events.iter().enumerate().filter(|(_, event)| is(event)).map(|(at, _)| at).collect()
    }

    /// First and last place of a transaction in the middle.
    fn transaction_at(&self, number: usize) -> std::ops::RangeInclusive<usize> {
        let ends: Vec<usize> = (0..self.events.len()).filter(|&at| self.events[at].last_in_transaction).collect();
        ends[number - 1] + 1..=ends[number]
    }

    fn rules(&self) -> Vec<&'static str> {
        let mut auditor = Auditor::new(self.initial.clone());
        schemas().into_iter().for_each(|schema| auditor.schema(schema));
        self.events.iter().for_each(|event| auditor.event(event));
        auditor.finish(&self.truth).into_told().into_iter().map(|violation| violation.rule).collect()
    }

    #[track_caller]
    fn breaks(&self, rule: &str) {
        let rules = self.rules();
        assert!(rules.contains(&rule), "{rule} should have been broken; broken were {rules:?}");
    }
}

fn text_of(event: &mut Event, column: usize) -> &mut Bytes {
    match &mut event.after.as_mut().expect("a row").cells[column].value {
        Some(cell::Value::Text(text)) => text,
        other => panic!("no text: {other:?}"),
    }
}

#[test]
fn a_stream_that_is_right_breaks_no_rule() {
    assert_eq!(Story::tell().rules(), Vec::<&str>::new());
}

#[test]
fn a_dropped_event_is_caught_with_and_without_a_gap_in_the_offsets() {
    let mut story = Story::tell();
    let at = story.places("chain")[20];
    story.events.remove(at);
    story.breaks("dense-offsets");
    let story = story.renumber();
    story.breaks("whole-transactions");
    story.breaks("hash-chain");
    story.breaks("dense-ordinals");
}

#[test]
fn a_dropped_transaction_is_caught() {
    let mut story = Story::tell();
    let range = story.transaction_at(30);
    story.events.drain(range);
    let story = story.renumber();
    story.breaks("nothing-lost");
    story.breaks("counter-by-one");
    story.breaks("in-order");
    story.breaks("hash-chain");
    story.breaks("final-tables");
}

#[test]
fn the_very_last_transaction_missing_is_caught() {
    let mut story = Story::tell();
    let range = story.transaction_at(59);
    story.events.drain(range);
    let story = story.renumber();
    story.breaks("nothing-lost");
    story.breaks("final-tables");
}

#[test]
fn a_doubled_event_and_a_doubled_transaction_are_caught() {
    let mut story = Story::tell();
    let at = story.places("account")[20];
    story.events.insert(at, story.events[at].clone());
    story.breaks("dense-offsets");
    let story = story.renumber();
    story.breaks("whole-transactions");
    story.breaks("counter-by-one");

    let mut story = Story::tell();
    let range = story.transaction_at(30);
    let again: Vec<Event> = story.events[range.clone()].to_vec();
    let (behind, count) = (range.end() + 1, again.len());
    story.events.splice(behind..behind, again);
    let mut story = story.renumber();
    // Even if the copy were given a place of its own.
    for event in &mut story.events[behind..behind + count] {
        event.commit_lsn += 1;
    }
    story.breaks("exactly-once");
    story.breaks("counter-by-one");
}

#[test]
fn swapped_events_and_swapped_transactions_are_caught() {
    let mut story = Story::tell();
    let first = *story.transaction_at(30).start();
    story.events.swap(first, first + 1);
    story.breaks("dense-offsets");
    story.renumber().breaks("dense-ordinals");

    // Swapped in substance, with everything around them in order.
    let mut story = Story::tell();
    let first = *story.transaction_at(30).start();
    let (left, right) = (story.events[first].clone(), story.events[first + 1].clone());
    (story.events[first].after, story.events[first].fingerprint) = (right.after, right.fingerprint);
    (story.events[first + 1].after, story.events[first + 1].fingerprint) = (left.after, left.fingerprint);
    (story.events[first].operation, story.events[first + 1].operation) = (right.operation, left.operation);
    story.breaks("whole-transactions");

    let mut story = Story::tell();
    let (one, two) = (story.transaction_at(30), story.transaction_at(31));
    story.events[*one.start()..=*two.end()].rotate_left(one.count());
    let story = story.renumber();
    story.breaks("rising-lsn");
    story.breaks("counter-by-one");
}

#[test]
fn an_altered_byte_is_caught_in_every_table() {
    for (table, column, rule) in [
        ("chain", 3, "hash-chain"),
        ("chain", 2, "whole-transactions"),
        ("bulk", 3, "whole-transactions"),
        ("account", 1, "counter-by-one"),
        ("audit", 3, "whole-transactions"),
        ("document", 2, "whole-transactions"),
    ] {
        let mut story = Story::tell();
        let places = story.places(table);
        let places: Vec<usize> =
            places.into_iter().filter(|&at| story.events[at].operation() != Operation::Delete).collect();
        let at = places[places.len() / 2];
        *text_of(&mut story.events[at], column) = Bytes::from_static(b"8");
        story.breaks(rule);
    }
}

#[test]
fn an_unchanged_body_told_as_null_is_caught() {
    let mut story = Story::tell();
    let at = story.places("document")[0];
    story.events[at].after.as_mut().expect("a row").cells[3].value = None;
    story.breaks("whole-transactions");
    story.breaks("final-tables");
}

#[test]
fn a_missing_audit_row_is_caught() {
    let mut story = Story::tell();
    let at = story.places("audit")[25];
    story.events.remove(at);
    story.events[at - 1].last_in_transaction = true;
    let story = story.renumber();
    story.breaks("whole-transactions");
    story.breaks("nothing-lost");
}

#[test]
fn a_counter_that_jumps_is_caught() {
    let mut story = Story::tell();
    let at = story.places("account")[30];
    *text_of(&mut story.events[at], 1) = Bytes::from_static(b"1000");
    story.breaks("counter-by-one");
}

#[test]
fn a_wrong_end_of_a_transaction_is_caught() {
    let mut story = Story::tell();
    let end = *story.transaction_at(30).end();
    story.events[end].last_in_transaction = false;
    story.breaks("not-interleaved");
    let mut story = Story::tell();
    let first = *story.transaction_at(30).start();
    story.events[first].last_in_transaction = true;
    story.breaks("whole-transactions");
    let mut story = Story::tell();
    let last = story.events.len() - 1;
    story.events[last].last_in_transaction = false;
    story.breaks("whole-transactions");
}

#[test]
fn what_was_rolled_back_is_caught_when_it_appears() {
    let mut story = Story::tell();
    let at = story.places("chain")[10];
    *text_of(&mut story.events[at], 3) = Bytes::from_static(b"never");
    story.breaks("rolled-back-unseen");
}

#[test]
fn a_transaction_the_database_does_not_have_is_caught() {
    let mut story = Story::tell();
    story.truth.tables.remove("audit", &["2", "30"]);
    story.breaks("nothing-invented");
    story.breaks("final-tables");
}

#[test]
fn another_epoch_and_a_missing_schema_are_caught() {
    let mut story = Story::tell();
    story.events[40].epoch = 2;
    story.breaks("same-epoch");
    let mut story = Story::tell();
    story.events[40].fingerprint = Bytes::from_static(b"other");
    story.breaks("schema-first");
}

#[test]
fn a_lost_or_doubled_message_is_caught() {
    // A later transaction says that its writer had sent message 1 before.
    let claim = |story: &mut Story| {
        let at = *story.places("audit").last().expect("there are some");
        *text_of(&mut story.events[at], 4) = Bytes::from_static(b"1");
        let mut row: Vec<String> = Vec::new();
        for column in 0..5 {
            row.push(String::from_utf8(text_of(&mut story.events[at], column).to_vec()).expect("text"));
        }
        let row: Vec<&str> = row.iter().map(String::as_str).collect();
        story.truth.tables.put("audit", 2, &row);
    };
    let mut story = Story::tell();
    // The message comes behind it in this story, which is what losing it looks like at that point.
    claim(&mut story);
    story.breaks("messages");
    let mut story = Story::tell();
    story.message("1:1");
    story.breaks("messages");
}

#[test]
fn any_single_event_dropped_is_caught() {
    let whole = Story::tell();
    let message = whole.events.len() - 2;
    for at in (0..whole.events.len()).filter(|&at| at != message) {
        let mut story = Story::tell();
        story.events.remove(at);
        let story = story.renumber();
        assert!(!story.rules().is_empty(), "event {at} can be dropped unseen");
    }
}

#[test]
fn scripts_digest_what_they_say_and_are_the_same_for_the_same_seed() {
    use crate::workload::next_for_tests;
    let run = || {
        let mut random = SmallRng::seed_from_u64(5);
        (0..200).map(|_| next_for_tests(&mut random)).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}
