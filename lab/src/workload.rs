//! The two workloads: many rows per transaction (t2), and one (t1).

use dbstreamd_throwaway::Cluster;

use crate::error::LabError;

/// A workload that lies in the WAL, behind a slot that nobody drains.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) database: String,
    /// The slot that stays where it is; runs drain copies of it.
    pub(crate) origin: String,
    pub(crate) publication: String,
    pub(crate) events: u64,
    pub(crate) transactions: u64,
    /// Everything is before this.
    pub(crate) end_lsn: String,
}

const ROWS_PER_TRANSACTION: u64 = 100;

/// Rows of about 184 bytes of pgoutput: five columns, as in a small orders table.
const TABLE: &str =
    "CREATE TABLE load (id bigint PRIMARY KEY, customer int, state text, note text, amount numeric(12,2))";
const ROW: &str = "g, (g % 100000)::int, (ARRAY['new','paid','sent','done'])[1 + g % 4], md5(g::text) || '-' || md5((g + 1)::text) || '-' || md5((g * 7)::text), (g % 1000000)::numeric / 100";

impl Workload {
    /// `rows` rows in transactions of 100.
    pub(crate) fn t2(cluster: &Cluster, rows: u64) -> Result<Self, LabError> {
        let transactions = rows / ROWS_PER_TRANSACTION;
        Self::create(cluster, "t2", transactions, ROWS_PER_TRANSACTION)
    }

    /// `transactions` transactions of one row.
    pub(crate) fn t1(cluster: &Cluster, transactions: u64) -> Result<Self, LabError> {
        Self::create(cluster, "t1", transactions, 1)
    }

    fn create(
        cluster: &Cluster,
        name: &'static str,
        transactions: u64,
        per_transaction: u64,
    ) -> Result<Self, LabError> {
        let (origin, publication) = (format!("origin_{name}"), format!("lab_{name}"));
        cluster.create_database(name)?;
        cluster.psql(name, &format!("{TABLE}; CREATE PUBLICATION {publication} FOR TABLE load"))?;
        cluster.psql(name, &format!("SELECT pg_create_logical_replication_slot('{origin}', 'pgoutput')"))?;
        // The server waits for its own WAL flush once per transaction otherwise; what is measured is draining.
        let fill = format!(
            "SET synchronous_commit = off;
             DO $$ BEGIN
               FOR t IN 0..{transactions} - 1 LOOP
                 INSERT INTO load SELECT {ROW} FROM generate_series(t * {per_transaction}::bigint + 1, (t + 1) * {per_transaction}::bigint) g;
                 COMMIT;
               END LOOP;
             END $$;
             CHECKPOINT;"
        );
        cluster.psql(name, &fill)?;
        let end_lsn = cluster.psql(name, "SELECT pg_current_wal_flush_lsn()")?.trim().to_owned();
        let events = transactions * per_transaction;
        Ok(Self { name, database: name.to_owned(), origin, publication, events, transactions, end_lsn })
    }

    /// A fresh slot in front of the same WAL.
    pub(crate) fn copy_slot(&self, cluster: &Cluster, slot: &str) -> Result<(), LabError> {
        let sql = format!("SELECT pg_copy_logical_replication_slot('{}', '{slot}')", self.origin);
        cluster.psql(&self.database, &sql)?;
        Ok(())
    }

    pub(crate) fn drop_slot(&self, cluster: &Cluster, slot: &str) -> Result<(), LabError> {
        // A walsender lets go of its slot a moment after its client has gone.
        let sql = format!(
            "DO $$ BEGIN WHILE (SELECT active FROM pg_replication_slots WHERE slot_name = '{slot}') LOOP PERFORM pg_sleep(0.01); END LOOP;
             PERFORM pg_drop_replication_slot('{slot}'); END $$"
        );
        cluster.psql(&self.database, &sql)?;
        Ok(())
    }
}
