//! The one who writes: transactions of one row, at a steady rate, and known when each was committed.
//!
//! Event `n`, from 0, is of kind `n % KINDS` when the kinds are mixed: inserts and updates of two tables. So every
//! subscriber knows from an offset alone whether its filter takes the event.

use std::time::Duration;

use dbstreamd_throwaway::Cluster;
use tokio_postgres::{Client, NoTls, Statement};

use crate::error::LabError;

pub(super) const DATABASE: &str = "fanout";
pub(super) const PUBLICATION: &str = "lab_fanout";
pub(super) const SLOT: &str = "lab_fanout";

/// Inserts into `load_a`, inserts into `load_b`, updates of `load_a`, updates of `load_b`.
pub(super) const KINDS: u64 = 4;

/// Rows like those of the workloads t1 and t2.
const TABLES: &str = "
    CREATE TABLE load_a (id bigint PRIMARY KEY, customer int, state text, note text, amount numeric(12,2));
    CREATE TABLE load_b (LIKE load_a INCLUDING ALL);
    INSERT INTO load_a VALUES (-1, 1, 'new', '', 0);
    INSERT INTO load_b VALUES (-1, 1, 'new', '', 0);";
const ROW: &str = "$1::bigint, ($1::bigint % 100000)::int, 'paid', md5($1::bigint::text) || '-' || md5(($1::bigint + 1)::text) || '-' || md5(($1::bigint * 7)::text), ($1::bigint % 1000000)::numeric / 100";
const UPDATE: &str = "SET note = md5($1::bigint::text) || '-' || md5(($1::bigint + 1)::text) || '-' || md5(($1::bigint * 7)::text) WHERE id = -1";

/// Makes the tables and what the daemon reads them by.
pub(super) fn prepare(cluster: &Cluster) -> Result<(), LabError> {
    cluster.create_database(DATABASE)?;
    cluster.psql(DATABASE, &format!("{TABLES}; CREATE PUBLICATION {PUBLICATION} FOR TABLE load_a, load_b"))?;
    Ok(())
}

pub(super) fn create_slot(cluster: &Cluster) -> Result<(), LabError> {
    cluster.psql(DATABASE, &format!("SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')"))?;
    Ok(())
}

pub(super) fn drop_slot(cluster: &Cluster) -> Result<(), LabError> {
    // A walsender lets go of its slot a moment after its client has gone.
    let sql = format!(
        "DO $$ BEGIN WHILE (SELECT active FROM pg_replication_slots WHERE slot_name = '{SLOT}') LOOP PERFORM pg_sleep(0.01); END LOOP;
         PERFORM pg_drop_replication_slot('{SLOT}'); END $$; TRUNCATE load_a, load_b; {}",
        TABLES.lines().filter(|line| line.trim_start().starts_with("INSERT")).collect::<String>()
    );
    cluster.psql(DATABASE, &sql)?;
    Ok(())
}

/// One session that commits one row at a time.
pub(super) struct Writer {
    url: String,
    client: Client,
    statements: Vec<Statement>,
    /// The next event.
    next: u64,
}

impl Writer {
    pub(super) async fn connect(cluster: &Cluster, mixed: bool) -> Result<Self, LabError> {
        let url = cluster.url(DATABASE);
        let (client, statements) = session(&url, mixed).await?;
        Ok(Self { url, client, statements, next: 0 })
    }

    /// Commits `events` rows at `rate` per second, and calls `committed` with the number of each once its commit has returned.
    pub(super) async fn write(
        &mut self,
        events: u64,
        rate: u64,
        mut committed: impl FnMut(u64),
    ) -> Result<(), LabError> {
        let mut pace = tokio::time::interval(Duration::from_secs(1) / u32::try_from(rate.max(1)).unwrap_or(u32::MAX));
        for _ in 0..events {
            pace.tick().await;
            let kind = usize::try_from(self.next).unwrap_or(0) % self.statements.len().max(1);
            let statement = self.statements.get(kind).ok_or_else(|| LabError::Failed("no statement".into()))?;
            let id = i64::try_from(self.next).unwrap_or(i64::MAX);
            self.client.execute(statement, &[&id]).await.map_err(failed)?;
            committed(self.next);
            self.next += 1;
        }
        Ok(())
    }

    /// As [`write`](Self::write), in another runtime than the one it was connected in.
    pub(super) async fn go_on(mut self, events: u64, rate: u64, committed: impl FnMut(u64)) -> Result<(), LabError> {
        (self.client, self.statements) = session(&self.url, self.statements.len() > 1).await?;
        self.write(events, rate, committed).await
    }
}

async fn session(url: &str, mixed: bool) -> Result<(Client, Vec<Statement>), LabError> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.map_err(failed)?;
    // Its end is seen by the next statement.
    tokio::spawn(connection);
    let mut statements = Vec::new();
    let sql = [
        format!("INSERT INTO load_a SELECT {ROW}"),
        format!("INSERT INTO load_b SELECT {ROW}"),
        format!("UPDATE load_a {UPDATE}"),
        format!("UPDATE load_b {UPDATE}"),
    ];
    for sql in sql.iter().take(if mixed { sql.len() } else { 1 }) {
        statements.push(client.prepare(sql).await.map_err(failed)?);
    }
    Ok((client, statements))
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: tokio_postgres::Error) -> LabError {
    LabError::Failed(format!("the writer: {error}"))
}
