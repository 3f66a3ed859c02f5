//! One transaction as SQL, together with what its changes must look like in the stream.

use std::fmt::Write as _;

use rand::Rng;
use rand::rngs::SmallRng;
use xxhash_rust::xxh3::Xxh3;

use super::{ACCOUNTS, DOCUMENTS, PREFIX};

/// Stands in everything that is rolled back.
pub(crate) const NEVER: &str = "never";
/// Every so many transactions a large one.
const LARGE_ONE_IN: u32 = 3_000;
const LARGE_ROWS: i32 = 10_000;
/// How long a chain is kept in the table: a row is deleted when the one so much younger comes.
const CHAIN_KEPT: i64 = 30;
/// Bodies must be larger than PostgreSQL keeps in a row (2 KB).
const BODY_BYTES: usize = 3_000;

/// A digest of changes, computed by the writer from what it asks for and by the oracle from what it is told.
#[derive(Default)]
pub(crate) struct Digest {
    hash: Xxh3,
    changes: u32,
}

impl Digest {
    /// Adds one change: operation, table and values, `=` for an unchanged body.
    pub(crate) fn add<'a>(&mut self, operation: char, table: &str, values: impl IntoIterator<Item = &'a [u8]>) {
        let mut utf8 = [0; 4];
        self.hash.update(operation.encode_utf8(&mut utf8).as_bytes());
        self.hash.update(table.as_bytes());
        for value in values {
            self.hash.update(b"|");
            self.hash.update(value);
        }
        self.hash.update(b"\n");
        self.changes += 1;
    }

    pub(crate) fn changes(&self) -> u32 {
        self.changes
    }

    pub(crate) fn text(&self) -> String {
        format!("{:016x}", self.hash.digest())
    }
}

/// What a writer knows of itself.
#[derive(Clone, Default)]
pub(crate) struct Memory {
    pub(crate) writer: i32,
    /// The last committed transaction, and the head of the chain.
    pub(crate) seq: i64,
    pub(crate) hash: String,
    /// The newest message ever sent; and whether it was sent over this very connection to this very server.
    pub(crate) message: i64,
    pub(crate) message_is_sure: bool,
    /// A transaction of which rows can be deleted: its number, rows gone, rows in all.
    pub(crate) bulk: Option<(i64, i32, i32)>,
}

/// A transaction to run.
pub(crate) struct Script {
    pub(crate) sql: String,
    /// What the writer knows after it; none when it is rolled back as a whole.
    pub(crate) after: Option<Memory>,
    pub(crate) message: i64,
}

struct Draft {
    sql: String,
    digest: Digest,
}

impl Draft {
    fn put(&mut self, sql: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.sql.write_fmt(sql);
    }

    fn change(&mut self, operation: char, table: &str, values: &[&str]) {
        self.digest.add(operation, table, values.iter().map(|value| value.as_bytes()));
    }

    fn raise_accounts(&mut self, random: &mut SmallRng) {
        // In the order of their numbers, so that writers never deadlock over them.
        let first = random.random_range(1..=ACCOUNTS);
        let second = random.random_range(1..=ACCOUNTS);
        let both = [first.min(second), first.max(second)];
        let chosen: &[i32] = if random.random_bool(0.3) && first != second { &both } else { &both[..1] };
        for id in chosen {
            self.put(format_args!("UPDATE account SET value = value + 1 WHERE id = {id};"));
            self.change('U', "account", &[&id.to_string()]);
        }
    }

    fn insert_rows(&mut self, table: &str, (writer, seq): (i32, i64), rows: i32) {
        let text = format!("{table}-{writer}-{seq}-");
        self.put(format_args!(
            "INSERT INTO {table} SELECT {writer}, {seq}, n, '{text}' || n FROM generate_series(1, {rows}) n;"
        ));
        let (writer, seq) = (writer.to_string(), seq.to_string());
        for n in 1..=rows {
            self.change('I', table, &[&writer, &seq, &n.to_string(), &format!("{text}{n}")]);
        }
    }

    fn update_document(&mut self, random: &mut SmallRng, (writer, seq): (i32, i64)) {
        let n = random.random_range(1..=DOCUMENTS);
        let key = [writer.to_string(), n.to_string(), seq.to_string()];
        if random.random_bool(0.5) {
            let body = body(writer, seq);
            self.put(format_args!(
                "UPDATE document SET version = {seq}, body = '{body}' WHERE writer = {writer} AND n = {n};"
            ));
            self.change('U', "document", &[&key[0], &key[1], &key[2], &body]);
        } else {
            self.put(format_args!("UPDATE document SET version = {seq} WHERE writer = {writer} AND n = {n};"));
            self.change('U', "document", &[&key[0], &key[1], &key[2], "="]);
        }
    }

    fn delete_rows(&mut self, writer: i32, memory: &mut Memory) {
        let Some((seq, gone, rows)) = memory.bulk else { return };
        let n = gone + 1;
        self.put(format_args!("DELETE FROM bulk WHERE writer = {writer} AND seq = {seq} AND n = {n};"));
        self.change('D', "bulk", &[&writer.to_string(), &seq.to_string(), &n.to_string()]);
        memory.bulk = (n < rows).then_some((seq, n, rows));
    }

    /// Work that a savepoint takes back.
    fn take_back(&mut self, random: &mut SmallRng, writer: i32, seq: i64) {
        let id = random.random_range(1..=ACCOUNTS);
        self.put(format_args!(
            "SAVEPOINT s; INSERT INTO bulk VALUES ({writer}, {seq}, -1, '{NEVER}');
             UPDATE account SET value = value + 1000 WHERE id = {id};
             SELECT pg_logical_emit_message(true, '{PREFIX}', '{NEVER}'); ROLLBACK TO s;"
        ));
        if random.random_bool(0.5) {
            // One that stays.
            self.put(format_args!("SAVEPOINT t;"));
            self.insert_rows("scratch", (writer, seq), 1);
            self.put(format_args!("RELEASE t;"));
        }
    }
}

/// The writer's next transaction.
pub(crate) fn next(random: &mut SmallRng, memory: &Memory) -> Script {
    let (writer, seq) = (memory.writer, memory.seq + 1);
    let mut after = Memory { seq, ..memory.clone() };
    let mut draft = Draft { sql: "BEGIN;".into(), digest: Digest::default() };
    if random.random_ratio(1, 20) {
        draft.put(format_args!(
            "INSERT INTO chain VALUES ({writer}, {seq}, '{NEVER}', '{NEVER}');
             UPDATE account SET value = value + 1000 WHERE id = {}; ROLLBACK;",
            random.random_range(1..=ACCOUNTS)
        ));
        return Script { sql: draft.sql, after: None, message: memory.message };
    }
    // Locks of whole tables come first, so that writers wait and never deadlock.
    if random.random_ratio(1, 150) {
        draft.put(format_args!("TRUNCATE scratch;"));
        draft.change('T', "scratch", &[]);
    }
    if random.random_ratio(1, 25) {
        after.message += 1;
        after.message_is_sure = true;
        draft.put(format_args!("SELECT pg_logical_emit_message(false, '{PREFIX}', '{writer}:{}');", after.message));
    }
    if random.random_ratio(1, 10) {
        draft.take_back(random, writer, seq);
    }
    if random.random_ratio(1, 25) {
        let content = format!("{writer}/{seq}");
        draft.put(format_args!("SELECT pg_logical_emit_message(true, '{PREFIX}', '{content}');"));
        draft.change('M', PREFIX, &[&content]);
    }
    draft.raise_accounts(random);
    if random.random_ratio(1, 8) {
        draft.update_document(random, (writer, seq));
    }
    if random.random_ratio(1, LARGE_ONE_IN) {
        draft.insert_rows("bulk", (writer, seq), LARGE_ROWS);
    } else if random.random_ratio(1, 40) {
        let rows = random.random_range(5..60);
        draft.insert_rows("bulk", (writer, seq), rows);
        after.bulk = Some((seq, 0, rows));
    } else if random.random_ratio(1, 5) {
        draft.delete_rows(writer, &mut after);
    }
    after.hash = chain_hash(&memory.hash, writer, seq);
    draft.put(format_args!("INSERT INTO chain VALUES ({writer}, {seq}, '{}', '{}');", memory.hash, after.hash));
    draft.change('I', "chain", &[&writer.to_string(), &seq.to_string(), &memory.hash, &after.hash]);
    if seq > CHAIN_KEPT {
        let old = seq - CHAIN_KEPT;
        draft.put(format_args!("DELETE FROM chain WHERE writer = {writer} AND seq = {old};"));
        draft.change('D', "chain", &[&writer.to_string(), &old.to_string()]);
    }
    let message = if after.message_is_sure { after.message } else { 0 };
    draft.put(format_args!(
        "INSERT INTO audit VALUES ({writer}, {seq}, {}, '{}', {message}); COMMIT;",
        draft.digest.changes(),
        draft.digest.text()
    ));
    Script { sql: draft.sql, message: after.message, after: Some(after) }
}

/// The hash of a chain's next row.
pub(crate) fn chain_hash(before: &str, writer: i32, seq: i64) -> String {
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(format!("{before}|{writer}|{seq}").as_bytes()))
}

/// A body that PostgreSQL stores apart from its row; different each time.
pub(crate) fn body(writer: i32, seq: i64) -> String {
    let piece = chain_hash("body", writer, seq);
    piece.repeat(BODY_BYTES.div_ceil(piece.len()))
}

/// The SQL of a fresh writer's first transaction.
#[cfg(test)]
pub(crate) fn next_for_tests(random: &mut SmallRng) -> String {
    next(random, &Memory { writer: 1, ..Memory::default() }).sql
}
