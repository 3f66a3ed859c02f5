//! One transaction far larger than memory allows for.

use crate::ordering::wait_visible;
use crate::support::{Daemon, cluster, database};

/// Rows and bytes per row: one gigabyte in all.
const ROWS: u64 = 100_000;
const ROW_BYTES: u64 = 10_000;
/// The daemon's peak resident memory while it takes that in.
const RSS_MAX: u64 = 300 << 20;

#[test]
fn a_transaction_of_one_gigabyte_passes_in_bounded_memory_and_arrives_whole() {
    let cluster = cluster();
    let url = database(
        &cluster,
        "shop",
        "CREATE TABLE big (id int PRIMARY KEY, body text); CREATE TABLE small (id int PRIMARY KEY)",
    );
    let daemon = Daemon::serving(&[&url]);
    // Text that neither TOAST nor our own compression can shrink to nothing.
    let sql = format!(
        "ALTER TABLE big ALTER body SET STORAGE EXTERNAL;
         CREATE FUNCTION noise(seed int) RETURNS text LANGUAGE sql AS
           $$ SELECT string_agg(md5(seed::text || '-' || g::text), '') FROM generate_series(1, {}) g $$;
         INSERT INTO big SELECT g, n || repeat('x', {ROW_BYTES} - length(n)) FROM generate_series(1, {ROWS}) g, noise(g % 50) n;
         INSERT INTO small VALUES (1);",
        ROW_BYTES / 64
    );
    cluster.psql("shop", &sql).unwrap();
    wait_visible(&daemon, ROWS + 1);
    let peak = daemon.peak_rss();
    assert!(peak < RSS_MAX, "peak RSS {} MiB", peak >> 20);
    // Its end is the end of its transaction, and what was committed after it comes after it.
    let from = (ROWS - 1).to_string();
    let end = daemon.tail(&["shop", "--from", &from, "--until-caught-up"]);
    assert_eq!(end.len(), 3);
    assert_eq!(end[1]["after"]["id"], ROWS.to_string());
    assert_eq!(end[1]["ordinal"], ROWS - 1);
    assert_eq!([&end[0]["last_in_transaction"], &end[1]["last_in_transaction"]], [false, true]);
    assert_eq!(end[2]["table"], "small");
    eprintln!("peak RSS with a 1 GB transaction: {} MiB", peak >> 20);
}
