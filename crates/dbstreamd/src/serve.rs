//! The daemon: wires sources, log and servers together, and takes them apart in the right order.
//!
//! ```text
//!   start:  bind both ports ─▶ open the log ─▶ open streams ─▶ servers ─▶ sources
//!   stop:   sources (all durable, last feedback sent) ─▶ servers (subscribers get UNAVAILABLE) ─▶ log
//! ```
//! A stream that fails stays failed with its reason, or is retried, and everything else goes on: see
//! `dbstreamd_source::run`. Only what makes the daemon useless as a whole is a [`ServeError`].

mod intake;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dbstreamd_log::{CreditWindow, Log, LogError, LogOptions};
use dbstreamd_model::{StreamId, StreamName};
use dbstreamd_source::postgres::{PostgresSource, SourceSettings};
use dbstreamd_source::{Control, RetryPolicy, StreamStatus};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::Config;
use crate::control::lifecycle;
use crate::control::settings::Knobs;
use crate::control::tuning::Tuning;
use crate::delivery::DeliveryBudget;
use crate::directory::{Directory, Entry, RunningSource};
use crate::memory::{Live, OverBudget, size_text};
use crate::notices::Notices;
use crate::{grpc, holds, http, process};
use intake::Intake;

/// How long sources may take to make everything durable and say goodbye.
const SOURCES_STOP_MAX: Duration = Duration::from_secs(10);

/// How long servers may take to end their calls.
pub(crate) const SERVERS_STOP_MAX: Duration = Duration::from_secs(5);

/// Why the daemon cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Somebody else listens there.
    #[error(
        "{address} is already in use, perhaps by another dbstreamd: stop that program, or choose another address with {argument}"
    )]
    PortInUse {
        /// The address.
        address: SocketAddr,
        /// What chooses another.
        argument: &'static str,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}: choose an address of this machine with {argument}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What chooses another.
        argument: &'static str,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The operating system gives no more threads.
    #[error("cannot start the threads that read the databases: {0}: let this user have more of them (ulimit -u)")]
    Threads(#[source] std::io::Error),
    /// There is not as much memory as was asked for.
    #[error(transparent)]
    Memory(#[from] Box<OverBudget>),
    /// The log cannot be opened or closed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A server ended although nobody asked it to.
    #[error("the {server} server ended unexpectedly: {reason}: restart dbstreamd, and report this if it happens again")]
    Server {
        /// Which.
        server: &'static str,
        /// Why.
        reason: String,
    },
}

/// Both ports, bound and not yet served.
pub(crate) struct Ports {
    grpc: TcpListener,
    http: TcpListener,
}

impl Ports {
    pub(crate) async fn bind(config: &Config) -> Result<Self, ServeError> {
        Ok(Self { grpc: bind(config.grpc.listen, "--grpc").await?, http: bind(config.http.listen, "--http").await? })
    }
}

async fn bind(address: SocketAddr, argument: &'static str) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => ServeError::PortInUse { address, argument },
        _ => ServeError::Listen { address, argument, source },
    })
}

/// Both servers, running over a log.
pub(crate) struct Api {
    pub(crate) grpc_addr: SocketAddr,
    pub(crate) http_addr: SocketAddr,
    servers: JoinSet<(&'static str, Result<(), String>)>,
    shutdown: CancellationToken,
}

impl Api {
    pub(crate) fn start(
        ports: Ports,
        config: &Config,
        log: Log,
        window: CreditWindow,
        entries: Vec<Entry>,
        notices: Notices,
    ) -> Result<Self, ServeError> {
        let local = |listener: &TcpListener, address, argument| {
            listener.local_addr().map_err(|source| ServeError::Listen { address, argument, source })
        };
        let grpc_addr = local(&ports.grpc, config.grpc.listen, "--grpc")?;
        let http_addr = local(&ports.http, config.http.listen, "--http")?;
        let shutdown = CancellationToken::new();
        let knobs = Knobs { log: log.clone(), window: window.clone() };
        let tuning = Arc::new(Tuning::restored(config, knobs, notices.clone()));
        let directory = Arc::new(Directory::new(log, entries, notices));
        let subscribers = Arc::new(Semaphore::new(config.grpc.subscribers_max.min(Semaphore::MAX_PERMITS)));
        let limits =
            grpc::Limits { connections_max: config.grpc.connections_max, subscribers_max: config.grpc.subscribers_max };
        let delivery = DeliveryBudget::new(config.delivery_bytes);
        let io = config.io.choose();
        io.report();
        let shared = Arc::new(http::Shared {
            directory: Arc::clone(&directory),
            io,
            memory: Live { budget: config.memory.clone(), window, delivery: delivery.clone() },
            subscribers: Arc::clone(&subscribers),
            subscribers_max: config.grpc.subscribers_max,
            event_streams: Arc::new(Semaphore::new(config.http.event_streams_max.min(Semaphore::MAX_PERMITS))),
            event_streams_max: config.http.event_streams_max,
            shutdown: shutdown.clone(),
        });
        let mut servers = JoinSet::new();
        let review = holds::watch(Arc::clone(&directory), shutdown.clone());
        servers.spawn(async move {
            review.await;
            ("consumer review", Ok(()))
        });
        let grpc = grpc::serve(ports.grpc, directory, tuning, subscribers, delivery, limits, shutdown.clone());
        servers.spawn(async move { ("gRPC", grpc.await.map_err(|error| error.to_string())) });
        let hosts = http::AllowedHosts::new(&config.http.allowed_hosts);
        let http = http::serve(ports.http, shared, hosts, config.http.connections_max);
        servers.spawn(async move {
            http.await;
            ("HTTP", Ok(()))
        });
        Ok(Self { grpc_addr, http_addr, servers, shutdown })
    }

    /// Resolves when a server ended by itself.
    async fn failed(&mut self) -> ServeError {
        match self.servers.join_next().await {
            Some(Ok((server, Err(reason)))) => ServeError::Server { server, reason },
            Some(Ok((server, Ok(())))) => ServeError::Server { server, reason: "it was not asked to".to_owned() },
            Some(Err(join)) => ServeError::Server { server: "control", reason: join.to_string() },
            None => std::future::pending().await,
        }
    }

    /// Ends calls and servers.
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        let all = async { while self.servers.join_next().await.is_some() {} };
        if tokio::time::timeout(SERVERS_STOP_MAX, all).await.is_err() {
            tracing::warn!("some calls did not end in time and were cut");
            self.servers.shutdown().await;
        }
    }
}

/// A running daemon.
pub struct Running {
    /// Where gRPC is served.
    pub grpc_addr: SocketAddr,
    /// Where HTTP is served.
    pub http_addr: SocketAddr,
    api: Api,
    sources: JoinSet<()>,
    intake: Intake,
    statuses: Vec<Arc<StreamStatus>>,
    stop_sources: CancellationToken,
    log: Log,
    /// Dropped without `stop`: the sources are told to end all the same.
    _guard: DropGuard,
}

/// Starts the daemon. When this returns, both ports answer; sources connect in the background.
///
/// # Errors
/// When a port or the log cannot be had. Nothing was changed at any source then.
pub async fn start(config: Config) -> Result<Running, ServeError> {
    process::mark_start();
    process::raise_open_files();
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if let Some(note) = &config.memory_note {
        tracing::info!("{note}");
    }
    config.memory.check().map_err(Box::new)?;
    let memory = &config.memory;
    let limit = memory.limit.as_ref().map(ToString::to_string);
    tracing::info!(profile = memory.profile.name(), needed = size_text(memory.needed()), limit, "memory budget");
    let ports = Ports::bind(&config).await?;
    let notices = Notices::default();
    let options = LogOptions { notices: notices.sink(), ..config.log.clone() };
    let intake = Intake::new(config.threads.intake, config.threads.intake_blocking_max).map_err(ServeError::Threads)?;
    let log = blocking(move || Log::open(options)).await?;
    let window = CreditWindow::new(config.credit_window_bytes);
    let stop_sources = CancellationToken::new();
    let mut planned = Vec::new();
    for settings in &config.sources {
        let plan = plan(&log, settings.clone(), &notices, &stop_sources).await?;
        if let Some(age) = config.retention_ages.get(&settings.name) {
            log.keep_for(plan.0.id, *age)?;
        }
        planned.push(plan);
    }
    let entries = planned.iter().map(|(entry, _, _)| entry.clone()).collect();
    let api = Api::start(ports, &config, log.clone(), window.clone(), entries, notices)?;
    tracing::info!(grpc = %api.grpc_addr, http = %api.http_addr, data_dir = %config.log.dir.display(), streams = planned.len(), "dbstreamd is up");

    let mut sources = JoinSet::new();
    let mut statuses = Vec::new();
    for (entry, running, settings) in planned {
        statuses.push(Arc::clone(&running.status));
        let (log, window) = (log.clone(), window.clone());
        let reading = async move {
            let source = Box::new(PostgresSource::new(settings));
            let RunningSource { status, control, .. } = running;
            dbstreamd_source::run(source, log, entry.id, window, status, RetryPolicy::default(), control).await;
        };
        sources.spawn_on(reading, intake.handle());
    }
    Ok(Running {
        grpc_addr: api.grpc_addr,
        http_addr: api.http_addr,
        api,
        sources,
        intake,
        statuses,
        _guard: stop_sources.clone().drop_guard(),
        stop_sources,
        log,
    })
}

async fn plan(
    log: &Log,
    settings: SourceSettings,
    notices: &Notices,
    stop: &CancellationToken,
) -> Result<(Entry, RunningSource, SourceSettings), ServeError> {
    let name: StreamName = settings.name.clone();
    let (opened, wanted) = (log.clone(), name.clone());
    let id: StreamId = blocking(move || opened.open_stream(&wanted)).await?;
    let running = RunningSource {
        status: StreamStatus::with_notices(name.clone(), notices.sink()),
        slot: settings.slot.clone(),
        publication: settings.publication.clone(),
        control: Control::new(lifecycle::first_goal(log, &name), stop.clone()),
        inquiry: Arc::new(PostgresSource::new(settings.clone())),
    };
    Ok((Entry { id, name, running: Some(running.clone()) }, running, settings))
}

/// Runs blocking work of the log off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(join) => match join.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(LogError::Closed),
        },
    }
}

impl Running {
    /// The configured streams' states and counters.
    pub fn statuses(&self) -> &[Arc<StreamStatus>] {
        &self.statuses
    }

    /// Stops everything in order; what was received is durable and confirmed when this returns.
    ///
    /// # Errors
    /// When the log could not be closed cleanly.
    pub async fn stop(self) -> Result<(), ServeError> {
        let Self { api, mut sources, intake, stop_sources, log, .. } = self;
        stop_sources.cancel();
        let ended = async { while sources.join_next().await.is_some() {} };
        if tokio::time::timeout(SOURCES_STOP_MAX, ended).await.is_err() {
            tracing::warn!("some sources did not end in time; what they had not confirmed will be sent again");
            sources.shutdown().await;
        }
        drop(intake);
        api.stop().await;
        blocking(move || log.close()).await?;
        tracing::info!("dbstreamd has stopped");
        Ok(())
    }
}

/// Runs the daemon until `shutdown` fires.
///
/// # Errors
/// When it cannot start, a server fails, or the log cannot be closed cleanly.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), ServeError> {
    let mut running = start(config).await?;
    let failure = tokio::select! {
        () = shutdown.cancelled() => None,
        failure = running.api.failed() => Some(failure),
    };
    let stopped = running.stop().await;
    failure.map_or(stopped, Err)
}

#[cfg(test)]
mod tests;
