//! The PostgreSQL server under torture: one cluster for the run, a fresh database for each cycle.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dbstreamd_throwaway::{Cluster, ShutdownMode};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::error::{TortureError, sql};

/// How long the server keeps a silent walsender, and its slot taken; longer than most stalls we make.
pub(crate) const WAL_SENDER_TIMEOUT: Duration = Duration::from_secs(4);
/// A server that is asked something while it goes down may never answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The server's files are in memory where that is possible: a stopped process loses nothing of what it wrote either way,
/// and its fsyncs, which stay on, do not compete with the daemon's for the disk.
const MEMORY: &str = "/dev/shm";

/// One cycle's database.
#[derive(Clone)]
pub(crate) struct Server {
    cluster: Arc<Cluster>,
    database: String,
}

/// The replication slot, as the server has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub(crate) confirmed: u64,
}

/// Starts the cluster of a run.
pub(crate) async fn start_cluster() -> Result<Arc<Cluster>, TortureError> {
    blocking(|| {
        let timeout = format!("{}s", WAL_SENDER_TIMEOUT.as_secs());
        let parent = if Path::new(MEMORY).is_dir() { MEMORY.into() } else { std::env::temp_dir() };
        let cluster = Cluster::builder()
            .parent_dir(parent)
            .setting("wal_sender_timeout", &timeout)
            // Small, so that a slot that pins WAL shows.
            .setting("max_wal_size", "256MB")
            .setting("checkpoint_timeout", "30s")
            .start()?;
        Ok(Arc::new(cluster))
    })
    .await
}

/// Starts a cluster that is never stopped while something is to be learnt from it: nothing of it has to be on a disk.
pub(crate) async fn start_quick_cluster() -> Result<Arc<Cluster>, TortureError> {
    blocking(|| {
        let parent = if Path::new(MEMORY).is_dir() { MEMORY.into() } else { std::env::temp_dir() };
        let cluster = Cluster::builder()
            .parent_dir(parent)
            .setting("fsync", "off")
            // Which rows are changed, and in which order they lie, is not to depend on it.
            .setting("autovacuum", "off")
            .start()?;
        Ok(Arc::new(cluster))
    })
    .await
}

/// Runs blocking work without holding up the other tasks.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TortureError> + Send + 'static,
) -> Result<T, TortureError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| TortureError::Failed(error.to_string()))?
}

impl Server {
    /// Creates a database and runs these statements in it.
    pub(crate) async fn create(cluster: &Arc<Cluster>, database: &str, statements: &str) -> Result<Self, TortureError> {
        let server = Self { cluster: cluster.clone(), database: database.to_owned() };
        let (all, statements) = (server.clone(), statements.to_owned());
        blocking(move || {
            all.cluster.create_database(&all.database)?;
            Ok(all.cluster.psql(&all.database, &statements).map(drop)?)
        })
        .await?;
        Ok(server)
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.cluster.port()
    }

    /// Everything the server logged in this run.
    pub(crate) fn log_text(&self) -> String {
        self.cluster.log_text()
    }

    /// A URL past the proxy.
    pub(crate) fn url(&self) -> String {
        self.cluster.url(&self.database)
    }

    /// A URL through a proxy on this port.
    pub(crate) fn url_through(&self, port: u16) -> String {
        let (user, password, host) = (Cluster::superuser(), self.cluster.password(), Cluster::host());
        format!("postgres://{user}:{password}@{host}:{port}/{}", self.database)
    }

    pub(crate) async fn stop(&self, mode: ShutdownMode) -> Result<(), TortureError> {
        let cluster = self.cluster.clone();
        blocking(move || Ok(cluster.stop(mode)?)).await
    }

    pub(crate) async fn start(&self) -> Result<(), TortureError> {
        let cluster = self.cluster.clone();
        blocking(move || if cluster.server_pid().is_some() { Ok(()) } else { Ok(cluster.start_again()?) }).await
    }

    pub(crate) async fn connect(&self) -> Result<Client, TortureError> {
        let (client, connection) = tokio_postgres::connect(&self.url(), NoTls).await.map_err(sql("connect"))?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// One value, as text; none for no row or NULL.
    async fn ask(&self, what: &'static str, question: &str) -> Result<Option<String>, TortureError> {
        let answer = async {
            let client = self.connect().await?;
            client.simple_query(question).await.map_err(sql(what))
        };
        let answer = tokio::time::timeout(ANSWER_MAX, answer);
        let messages = answer.await.map_err(|_| TortureError::Failed(format!("{what}: no answer")))??;
        Ok(messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        }))
    }

    async fn number(&self, what: &'static str, question: &str) -> Result<Option<u64>, TortureError> {
        Ok(self.ask(what, question).await?.and_then(|text| text.parse().ok()))
    }

    /// The slot; none while there is none, or while nothing is confirmed.
    pub(crate) async fn slot(&self) -> Result<Option<Slot>, TortureError> {
        let question = format!(
            "SELECT confirmed_flush_lsn - '0/0'::pg_lsn FROM pg_replication_slots WHERE database = '{}'",
            self.database
        );
        Ok(self.number("read the slot", &question).await?.map(|confirmed| Slot { confirmed }))
    }

    /// Ends the walsender. Whether there was one.
    pub(crate) async fn terminate_walsender(&self) -> Result<bool, TortureError> {
        let question = format!(
            "SELECT count(*) FILTER (WHERE pg_terminate_backend(active_pid)) FROM pg_replication_slots
             WHERE database = '{}' AND active_pid IS NOT NULL",
            self.database
        );
        Ok(self.number("end the walsender", &question).await? == Some(1))
    }

    /// The transaction after which nothing comes, on disk when this returns.
    pub(crate) async fn mark(&self, marker: i64) -> Result<(), TortureError> {
        let question = format!("INSERT INTO marker VALUES ({marker})");
        self.ask("write the marker", &question).await.map(drop)
    }

    /// The end of the server's WAL on disk.
    pub(crate) async fn flush_lsn(&self) -> Result<u64, TortureError> {
        let question = "SELECT pg_current_wal_flush_lsn() - '0/0'::pg_lsn";
        Ok(self.number("read the server's end", question).await?.unwrap_or(0))
    }

    /// Bytes of `pg_wal` after a checkpoint.
    pub(crate) async fn wal_bytes(&self) -> Result<u64, TortureError> {
        let client = self.connect().await?;
        client.batch_execute("CHECKPOINT").await.map_err(sql("checkpoint"))?;
        Ok(self.number("measure pg_wal", "SELECT sum(size) FROM pg_ls_waldir()").await?.unwrap_or(0))
    }

    /// Removes the slot and the database, as far as they are there.
    pub(crate) async fn remove(&self) -> Result<(), TortureError> {
        self.terminate_walsender().await?;
        let all = self.clone();
        blocking(move || {
            // The walsender that was just ended may still hold the slot for a moment.
            let sql = format!(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '{0}' AND NOT active;
                 DROP DATABASE \"{0}\" WITH (FORCE);",
                all.database
            );
            let mut last = Ok(());
            for _ in 0..50 {
                last = all.cluster.psql("postgres", &sql).map(drop);
                if last.is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            Ok(last?)
        })
        .await
    }
}
