//! Traffic whose truth can be checked: seeded writers, each transaction accounted for by an audit row of its own.
//!
//! | Table | What it shows |
//! |---|---|
//! | `account` | counters that all writers raise by one: a lost, doubled or swapped update makes a jump |
//! | `chain` | per writer, each row holds the hash of the one before |
//! | `document` | TOASTed bodies, updated with and without touching the body |
//! | `bulk` | many rows in one transaction, and deletes |
//! | `scratch` | emptied by TRUNCATE now and then |
//! | `audit` | last row of every transaction: writer, number, how many changes, their digest, last message sent |
//! | `marker` | the end of a cycle |
//!
//! What is rolled back, wholly or to a savepoint, carries the word of `NEVER`.

mod script;
mod writer;

use std::fmt::Write as _;

#[cfg(test)]
pub(crate) use script::next_for_tests;
pub(crate) use script::{Digest, NEVER};
pub(crate) use writer::Writers;

/// Counters all writers share.
pub(crate) const ACCOUNTS: i32 = 40;
/// Documents of each writer.
pub(crate) const DOCUMENTS: i32 = 5;
/// The prefix of our logical messages.
pub(crate) const PREFIX: &str = "torture";

/// A table, and what of it makes a row's identity.
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) columns: &'static [&'static str],
    /// So many of the columns, from the first, are the primary key.
    pub(crate) key_columns: usize,
}

/// Every table of the workload.
pub(crate) const TABLES: [Table; 7] = [
    Table { name: "account", columns: &["id", "value"], key_columns: 1 },
    Table { name: "chain", columns: &["writer", "seq", "prev", "hash"], key_columns: 2 },
    Table { name: "document", columns: &["writer", "n", "version", "body"], key_columns: 2 },
    Table { name: "bulk", columns: &["writer", "seq", "n", "payload"], key_columns: 3 },
    Table { name: "scratch", columns: &["writer", "seq", "n", "note"], key_columns: 3 },
    Table { name: "audit", columns: &["writer", "seq", "changes", "digest", "message"], key_columns: 2 },
    Table { name: "marker", columns: &["id"], key_columns: 1 },
];

/// The tables and their first rows: there before the stream begins, so that it starts on a database with a past.
pub(crate) fn schema(writers: i32) -> String {
    let mut sql = String::from(
        "CREATE TABLE account (id int PRIMARY KEY, value bigint NOT NULL);
         CREATE TABLE chain (writer int, seq bigint, prev text, hash text, PRIMARY KEY (writer, seq));
         CREATE TABLE document (writer int, n int, version bigint, body text, PRIMARY KEY (writer, n));
         ALTER TABLE document ALTER body SET STORAGE EXTERNAL;
         CREATE TABLE bulk (writer int, seq bigint, n int, payload text, PRIMARY KEY (writer, seq, n));
         CREATE TABLE scratch (writer int, seq bigint, n int, note text, PRIMARY KEY (writer, seq, n));
         CREATE TABLE audit (writer int, seq bigint, changes int, digest text, message bigint, PRIMARY KEY (writer, seq));
         CREATE TABLE marker (id bigint PRIMARY KEY);\n",
    );
    // Writing to a String cannot fail.
    let _ = writeln!(sql, "INSERT INTO account SELECT n, 0 FROM generate_series(1, {ACCOUNTS}) n;");
    for writer in 1..=writers {
        let body = script::body(writer, 0);
        let _ = writeln!(
            sql,
            "INSERT INTO document SELECT {writer}, n, 0, '{body}' FROM generate_series(1, {DOCUMENTS}) n;"
        );
    }
    sql
}
