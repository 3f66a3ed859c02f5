//! The workloads: changes that lie in the WAL, behind a slot that nobody drains.
//!
//! | name | changes |
//! |---|---|
//! | `t2` | inserts in transactions of 100 |
//! | `t1` | inserts in transactions of one |
//! | `updates` | every row of a table updated, in transactions of 100 |
//! | `deletes` | every row of a table deleted, in transactions of 100 |
//! | `huge` | inserts in one transaction |

use clap::ValueEnum;
use dbstreamd_throwaway::Cluster;

use crate::error::LabError;

/// What kind of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Inserts in transactions of 100.
    T2,
    /// Inserts in transactions of one.
    T1,
    /// Updates in transactions of 100.
    Updates,
    /// Deletes in transactions of 100.
    Deletes,
    /// Inserts in one transaction.
    Huge,
}

/// A workload that lies in the WAL.
pub(crate) struct Workload {
    pub(crate) kind: Kind,
    pub(crate) database: &'static str,
    pub(crate) publication: &'static str,
    pub(crate) rows: u64,
    pub(crate) transactions: u64,
    /// Everything is before this LSN.
    pub(crate) end_lsn: String,
}

const ROWS_PER_TRANSACTION: u64 = 100;
/// The slot that stays where it is; runs drain copies of it.
const ORIGIN: &str = "lab_origin";
/// The slot of one run.
pub(crate) const RUN_SLOT: &str = "lab_run";
const PUBLICATION: &str = "lab";

/// Rows of about 150 bytes of pgoutput: five columns, as in a small orders table.
const TABLE: &str =
    "CREATE TABLE load (id bigint PRIMARY KEY, customer int, state text, note text, amount numeric(12,2))";
const ROW: &str = "g, (g % 100000)::int, (ARRAY['new','paid','sent','done'])[1 + g % 4], md5(g::text) || '-' || md5((g + 1)::text) || '-' || md5((g * 7)::text), (g % 1000000)::numeric / 100";

impl Kind {
    /// Its name, which is also its database's.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::T2 => "t2",
            Self::T1 => "t1",
            Self::Updates => "updates",
            Self::Deletes => "deletes",
            Self::Huge => "huge",
        }
    }

    /// For people.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::T2 => "inserts in transactions of 100",
            Self::T1 => "inserts in transactions of one",
            Self::Updates => "updates in transactions of 100",
            Self::Deletes => "deletes in transactions of 100",
            Self::Huge => "inserts in one transaction",
        }
    }

    fn rows_per_transaction(self, rows: u64) -> u64 {
        match self {
            Self::T2 | Self::Updates | Self::Deletes => ROWS_PER_TRANSACTION,
            Self::T1 => 1,
            Self::Huge => rows.max(1),
        }
    }

    /// Changes the rows `first..=last`, which are expressions.
    fn statement(self, first: &str, last: &str) -> String {
        match self {
            Self::T2 | Self::T1 | Self::Huge => {
                format!("INSERT INTO load SELECT {ROW} FROM generate_series({first}, {last}) g")
            }
            Self::Updates => format!(
                "UPDATE load SET customer = customer + 1, amount = amount + 1 WHERE id BETWEEN {first} AND {last}"
            ),
            Self::Deletes => format!("DELETE FROM load WHERE id BETWEEN {first} AND {last}"),
        }
    }

    /// Whether the table is full before.
    fn needs_rows(self) -> bool {
        matches!(self, Self::Updates | Self::Deletes)
    }
}

impl Workload {
    /// Writes at most `rows` rows (whole transactions only) in a database of their own.
    pub(crate) fn create(cluster: &Cluster, kind: Kind, rows: u64) -> Result<Self, LabError> {
        let database = kind.name();
        let per_transaction = kind.rows_per_transaction(rows);
        let transactions = rows / per_transaction;
        let rows = transactions * per_transaction;
        if rows == 0 {
            return Err(LabError::Failed(format!("{database} needs at least {per_transaction} rows")));
        }
        cluster.create_database(database)?;
        cluster.psql(database, &format!("{TABLE}; CREATE PUBLICATION {PUBLICATION} FOR TABLE load"))?;
        if kind.needs_rows() {
            cluster
                .psql(database, &format!("{}; VACUUM ANALYZE load", Kind::Huge.statement("1", &rows.to_string())))?;
        }
        cluster.psql(database, &format!("SELECT pg_create_logical_replication_slot('{ORIGIN}', 'pgoutput')"))?;
        let change = kind
            .statement(&format!("t * {per_transaction}::bigint + 1"), &format!("(t + 1) * {per_transaction}::bigint"));
        // The server waits for its own WAL flush once per transaction otherwise; what is measured is draining.
        let fill = format!(
            "SET synchronous_commit = off;
             DO $$ BEGIN
               FOR t IN 0..{transactions} - 1 LOOP
                 {change};
                 COMMIT;
               END LOOP;
             END $$;
             CHECKPOINT;"
        );
        cluster.psql(database, &fill)?;
        let end_lsn = cluster.psql(database, "SELECT pg_current_wal_flush_lsn()")?.trim().to_owned();
        Ok(Self { kind, database, publication: PUBLICATION, rows, transactions, end_lsn })
    }

    /// A fresh slot in front of the same WAL.
    pub(crate) fn copy_slot(&self, cluster: &Cluster) -> Result<(), LabError> {
        let sql = format!("SELECT pg_copy_logical_replication_slot('{ORIGIN}', '{RUN_SLOT}')");
        cluster.psql(self.database, &sql)?;
        Ok(())
    }

    /// Drops a run's slot once its walsender has let go of it.
    pub(crate) fn drop_slot(&self, cluster: &Cluster) -> Result<(), LabError> {
        drop_slot(cluster, self.database, RUN_SLOT)
    }

    /// How many transactions the server has decoded for the run's slot, by its own account.
    pub(crate) fn decoded_transactions(&self, cluster: &Cluster) -> Result<u64, LabError> {
        let sql = format!("SELECT total_txns FROM pg_stat_replication_slots WHERE slot_name = '{RUN_SLOT}'");
        let answer = cluster.psql(self.database, &sql)?;
        answer.trim().parse().map_err(|_| LabError::Failed(format!("the server counts no transactions: {answer}")))
    }

    /// Removes the workload, so that its WAL and its files can go.
    pub(crate) fn remove(self, cluster: &Cluster) -> Result<(), LabError> {
        drop_slot(cluster, self.database, ORIGIN)?;
        cluster.psql("postgres", &format!("DROP DATABASE {} WITH (FORCE); CHECKPOINT", self.database))?;
        Ok(())
    }
}

fn drop_slot(cluster: &Cluster, database: &str, slot: &str) -> Result<(), LabError> {
    // A walsender lets go of its slot a moment after its client has gone.
    let sql = format!(
        "DO $$ BEGIN WHILE (SELECT active FROM pg_replication_slots WHERE slot_name = '{slot}') LOOP PERFORM pg_sleep(0.01); END LOOP;
         PERFORM pg_drop_replication_slot('{slot}'); END $$"
    );
    cluster.psql(database, &sql)?;
    Ok(())
}
