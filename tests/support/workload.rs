//! A workload whose truth can be checked: every writer numbers its own rows, inside transactions of known size.

use std::collections::BTreeMap;

use dbstreamd_throwaway::Cluster;
use serde_json::Value;

/// The table every writer writes to.
pub(crate) const SCHEMA: &str = "
    CREATE TABLE ledger (id bigserial PRIMARY KEY, writer int NOT NULL, seq int NOT NULL, size int NOT NULL, note text);
    CREATE TABLE counter (writer int PRIMARY KEY, value int NOT NULL);";

/// Writes `transactions` transactions of 1 to 4 rows each as writer `writer`, the sequence starting at `first`.
/// Every transaction also updates the writer's counter, and every fifth one is rolled back.
pub(crate) fn write(cluster: &Cluster, database: &str, writer: u32, first: u32, transactions: u32) {
    let mut sql = format!("INSERT INTO counter VALUES ({writer}, 0) ON CONFLICT DO NOTHING;\n");
    for seq in first..first + transactions {
        let size = seq % 4 + 1;
        sql += &format!(
            "BEGIN; INSERT INTO ledger (writer, seq, size, note) SELECT {writer}, {seq}, {size}, 'n' || g FROM generate_series(1, {size}) g;
             UPDATE counter SET value = {seq} WHERE writer = {writer}; COMMIT;\n"
        );
        if seq % 5 == 0 {
            sql += &format!("BEGIN; INSERT INTO ledger (writer, seq, size) VALUES ({writer}, -1, 0); ROLLBACK;\n");
        }
    }
    cluster.psql(database, &sql).expect("the workload");
}

/// How many events come of one writer's first `transactions` transactions.
pub(crate) fn events_of(transactions: u32) -> u64 {
    (1..=transactions).map(rows_of).sum::<u64>() + 1
}

/// How many rows transaction `seq` of a writer has: those of the ledger and its counter.
fn rows_of(seq: u32) -> u64 {
    u64::from(seq % 4 + 1) + 1
}

/// Checks everything this workload promises: offsets dense, transactions whole and never interleaved, commit LSNs
/// never decreasing, and of each writer exactly the transactions `1..=expected`, in order.
pub(crate) fn check(events: &[Value], writers: u32, expected: u32) {
    let mut seen: BTreeMap<u32, u32> = BTreeMap::new();
    let mut rows: Vec<&Value> = Vec::new();
    let (mut offset, mut lsn, mut ordinal) = (0, 0, 0);
    for event in events {
        let next = event["offset"].as_u64().expect("an offset");
        assert_eq!(next, offset + 1, "offsets are dense");
        offset = next;
        assert_eq!(event["ordinal"].as_u64(), Some(ordinal), "ordinals are dense in a transaction: {event}");
        rows.push(event);
        if event["last_in_transaction"] != true {
            ordinal += 1;
            continue;
        }
        ordinal = 0;
        let commit = parse_lsn(event["commit_lsn"].as_str().expect("an LSN"));
        assert!(commit > lsn, "commit LSNs rise from transaction to transaction");
        lsn = commit;
        for row in &rows {
            assert_eq!(row["xid"], event["xid"], "a transaction is not interleaved with another");
            assert_eq!(row["commit_lsn"], event["commit_lsn"]);
        }
        check_transaction(&rows, &mut seen);
        rows.clear();
    }
    assert!(rows.is_empty(), "the last transaction is whole");
    let all: BTreeMap<u32, u32> = (1..=writers).map(|writer| (writer, expected)).collect();
    assert_eq!(seen, all, "every writer's last transaction");
}

fn check_transaction(rows: &[&Value], seen: &mut BTreeMap<u32, u32>) {
    let number = |row: &Value, column: &str| -> u32 {
        let text = row["after"][column].as_str().unwrap_or_else(|| panic!("{column} of {row}"));
        text.parse().expect("a number")
    };
    let ledger: Vec<_> = rows.iter().filter(|row| row["table"] == "ledger").collect();
    let Some(first) = ledger.first() else {
        assert_eq!(rows.len(), 1, "only the counter's first insert comes without ledger rows: {rows:?}");
        return;
    };
    let (writer, seq) = (number(first, "writer"), number(first, "seq"));
    assert_eq!(ledger.len(), number(first, "size") as usize, "all rows of a transaction: {rows:?}");
    assert_eq!(rows.len(), ledger.len() + 1, "and the counter's update");
    for row in &ledger {
        assert_eq!((number(row, "writer"), number(row, "seq")), (writer, seq));
    }
    let before = seen.insert(writer, seq).unwrap_or(0);
    assert_eq!(seq, before + 1, "writer {writer} jumped from {before} to {seq}");
}

fn parse_lsn(text: &str) -> u64 {
    let (high, low) = text.split_once('/').expect("an LSN");
    u64::from_str_radix(high, 16).expect("hex") << 32 | u64::from_str_radix(low, 16).expect("hex")
}
