//! The writers: connections that run scripts until told to stop, and find back into their work after every fault.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rand::rngs::SmallRng;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::script::{Memory, next};
use crate::seed;

/// Pause before the next attempt to connect while the server is down.
const RECONNECT_PAUSE: Duration = Duration::from_millis(30);
/// Longer than a server on loopback ever takes for one transaction; a writer must never hang for good.
const STATEMENT_MAX: Duration = Duration::from_secs(30);

/// What the writers did, counted as it happens.
#[derive(Default)]
pub(crate) struct Tally {
    /// Transactions whose commit was confirmed to the writer.
    pub(crate) committed: AtomicU64,
    /// Transactions that ended in a fault: the writer then asks the server what became of them.
    pub(crate) interrupted: AtomicU64,
}

/// Running writers.
pub(crate) struct Writers {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    pub(crate) tally: Arc<Tally>,
}

impl Writers {
    /// Starts `writers` connections that together aim at `tps` transactions per second.
    pub(crate) fn start(url: &str, writers: i32, tps: u32, cycle_seed: u64) -> Self {
        let (stop, stopped) = watch::channel(false);
        let tally = Arc::new(Tally::default());
        let mut tasks = JoinSet::new();
        for writer in 1..=writers {
            let one = Writer {
                url: url.to_owned(),
                random: seed::generator(cycle_seed, &format!("writer {writer}")),
                memory: Memory { writer, ..Memory::default() },
                interval: Duration::from_secs_f64(f64::from(writers) / f64::from(tps.max(1))),
                tally: tally.clone(),
                stopped: stopped.clone(),
            };
            tasks.spawn(one.run());
        }
        Self { stop, tasks, tally }
    }

    /// Lets every writer finish what it is at, and waits for that.
    pub(crate) async fn finish(mut self) -> Arc<Tally> {
        // Nobody listens any more when all have ended already.
        let _ = self.stop.send(true);
        while self.tasks.join_next().await.is_some() {}
        self.tally
    }
}

struct Writer {
    url: String,
    random: SmallRng,
    memory: Memory,
    interval: Duration,
    tally: Arc<Tally>,
    stopped: watch::Receiver<bool>,
}

impl Writer {
    async fn run(mut self) {
        while !*self.stopped.borrow() {
            if let Some(client) = self.connect().await {
                self.write(&client).await;
            } else {
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        }
    }

    /// Connects and learns what became of the last transaction: only the server knows.
    async fn connect(&mut self) -> Option<Client> {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await.ok()?;
        tokio::spawn(connection);
        // Commits are as fast as memory; the truth is what the server has in the end.
        client.batch_execute("SET synchronous_commit = off; SET deadlock_timeout = '100ms'").await.ok()?;
        self.resync(&client).await?;
        Some(client)
    }

    async fn resync(&mut self, client: &Client) -> Option<()> {
        let writer = self.memory.writer;
        let question = format!("SELECT seq, hash FROM chain WHERE writer = {writer} ORDER BY seq DESC LIMIT 1");
        let answer = client.simple_query(&question).await.ok()?;
        let row = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((row.get(0)?.parse().ok()?, row.get(1)?.to_owned())),
            _ => None,
        });
        (self.memory.seq, self.memory.hash) = row.unwrap_or_default();
        self.memory.message_is_sure = false;
        self.memory.bulk = None;
        Some(())
    }

    async fn write(&mut self, client: &Client) {
        let mut clock = tokio::time::interval(self.interval);
        // What was missed is not made up for: a burst after every fault would measure something else.
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !*self.stopped.borrow() {
            clock.tick().await;
            let script = next(&mut self.random, &self.memory);
            self.memory.message = script.message;
            let done = tokio::time::timeout(STATEMENT_MAX, client.batch_execute(&script.sql)).await;
            if matches!(done, Ok(Ok(()))) {
                if let Some(after) = script.after {
                    self.memory = after;
                    self.tally.committed.fetch_add(1, Relaxed);
                }
                continue;
            }
            self.tally.interrupted.fetch_add(1, Relaxed);
            // A deadlock leaves a usable connection; anything else needs a new one.
            if client.is_closed()
                || client.batch_execute("ROLLBACK").await.is_err()
                || self.resync(client).await.is_none()
            {
                return;
            }
        }
    }
}
