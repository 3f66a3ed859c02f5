//! One run: who has what, how late, and what it costs, from the first event to the last delivery.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::{Duration, Instant};

use super::Crowd;
use super::follower::{Latency, Watch};
use crate::error::LabError;
use crate::meter::{Meter, Window};
use crate::procfs;
use crate::quiet::Measured;

/// How long the last event may take to reach everybody.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the memory is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// One run's figures.
pub(super) struct Run {
    latency: Latency,
    pub(super) deliveries: u64,
    pub(super) responses: u64,
    /// Of an event as it is delivered.
    pub(super) event_bytes: u64,
    pub(super) rss: Rss,
    /// CPU seconds of who delivers, of the subscribers (and who gives JetStream its messages), and of PostgreSQL.
    pub(super) server_cpu: f64,
    pub(super) lab_cpu: f64,
    pub(super) database_cpu: f64,
    /// CPU of others during the run, in cores.
    pub(super) foreign_cores: f64,
    pub(super) seconds: f64,
}

/// Resident memory of who delivers, in bytes.
#[derive(Clone, Copy)]
pub(super) struct Rss {
    /// At work, without subscribers.
    pub(super) without: u64,
    /// With all subscribers, before there are events for them.
    pub(super) idle: u64,
    pub(super) peak: u64,
}

/// Whose CPU and memory are taken.
#[derive(Clone, Copy)]
pub(super) struct Watched {
    /// The process that delivers.
    pub(super) server: u32,
    /// PostgreSQL, where it takes part.
    pub(super) database: Option<u32>,
}

pub(super) type Followers = Vec<tokio::task::JoinHandle<()>>;

/// What opening the subscriptions took is given back, or not, before memory at rest is looked at.
pub(super) async fn settled_rss(server: u32) -> Result<u64, LabError> {
    tokio::time::sleep(Duration::from_secs(1)).await;
    procfs::rss(server)
}

/// Looks on from now until everybody has everything, while `write` writes in a thread of its own.
///
/// # Errors
/// When a subscriber got something else, or not everything in time.
pub(super) async fn look_on(
    crowd: &Crowd,
    watch: &Arc<Watch>,
    watched: Watched,
    (without, idle): (u64, u64),
    followers: Followers,
    write: impl FnOnce() -> Result<(), LabError> + Send + 'static,
) -> Result<Run, LabError> {
    let Watched { server, database } = watched;
    let meter = Meter::start(server)?;
    let writing = std::thread::spawn(write);
    let mut peak = idle;
    let mut written_at = None;
    while watch.done.load(Acquire) < crowd.subscribers {
        if let Some(problem) = watch.problem.lock().take() {
            return Err(problem);
        }
        if writing.is_finished() && written_at.is_none() {
            written_at = Some(Instant::now());
        }
        if written_at.is_some_and(|at| at.elapsed() > PATIENCE) {
            let lacking = crowd.subscribers - watch.done.load(Acquire);
            let (came, due) = (watch.deliveries.load(Relaxed), watch.events() * crowd.subscribers as u64);
            return Err(LabError::Failed(format!(
                "{lacking} of {} subscribers did not get everything within {} s of the last event, and {came} of {due} deliveries came: no figures",
                crowd.subscribers,
                PATIENCE.as_secs()
            )));
        }
        peak = peak.max(procfs::rss(server)?);
        tokio::time::sleep(LOOK).await;
    }
    let window = meter.stop()?;
    let peak = peak.max(procfs::rss(server)?);
    writing.join().map_err(|_| LabError::Failed("the writer panicked".into()))??;
    let Window { seconds, server_cpu, foreign_cores, .. } = window;
    let database_cpu = database.map_or(0.0, |pid| window.spent(pid));
    let lab_cpu = window.spent(std::process::id()) - server_cpu - database_cpu;
    for task in followers {
        task.await.map_err(|error| LabError::Failed(format!("a subscriber: {error}")))?;
    }
    let deliveries = watch.deliveries.load(Relaxed);
    Ok(Run {
        latency: watch.latency(),
        deliveries,
        responses: watch.responses.load(Relaxed),
        event_bytes: watch.bytes.load(Relaxed).checked_div(deliveries).unwrap_or(0),
        rss: Rss { without, idle, peak },
        server_cpu,
        lab_cpu,
        database_cpu,
        foreign_cores,
        seconds,
    })
}

impl Measured for Run {
    fn foreign_cores(&self) -> f64 {
        self.foreign_cores
    }
}

impl Run {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub(super) fn kib_each(&self, rss: u64, crowd: &Crowd) -> f64 {
        rss.saturating_sub(self.rss.without) as f64 / (crowd.subscribers + crowd.slow) as f64 / 1024.0
    }

    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub(super) fn latency_ms(&self, quantile: f64) -> f64 {
        self.latency.all.value_at_quantile(quantile) as f64 / 1e3
    }

    /// Of the first second's events.
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub(super) fn opening_ms(&self, quantile: f64) -> f64 {
        self.latency.opening.value_at_quantile(quantile) as f64 / 1e3
    }

    /// A row of the report's table, without its first cells.
    pub(super) fn row(&self, crowd: &Crowd) -> String {
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let (deliveries, responses) = (self.deliveries as f64, self.responses as f64);
        format!(
            "| {:.0} k | {:.0} k | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.2} | {:.2} | {:.2} | {:.2} |",
            deliveries / self.seconds / 1e3,
            responses / self.seconds / 1e3,
            self.latency_ms(0.5),
            self.latency_ms(0.99),
            self.latency_ms(1.0),
            self.opening_ms(0.99),
            self.kib_each(self.rss.idle, crowd),
            self.kib_each(self.rss.peak, crowd),
            self.server_cpu / self.seconds,
            self.lab_cpu / self.seconds,
            self.database_cpu / self.seconds,
            self.foreign_cores,
        )
    }
}
