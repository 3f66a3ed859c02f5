//! `dbstreamd demo`: the whole program at work, on a machine with nothing but PostgreSQL's packages.
//!
//! A throwaway PostgreSQL, the real daemon over it in this process, a writer that plays a small shop, and a
//! subscriber over real gRPC that shows what arrives and compares it with what was written. Everything lives in
//! one temporary folder, which is gone at the end, whatever the end was.

mod ledger;
mod screen;
mod shop;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dbstreamd_model::Timestamp;
use dbstreamd_source::State;
use dbstreamd_source::postgres::{ConnectOptions, Connection, SessionKind};
use dbstreamd_throwaway::Cluster;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::cli::{CliError, DemoArguments, Signals};
use crate::config::{Config, LoggingConfig, Overrides};
use crate::proto::subscribe_request::Request;
use crate::proto::subscribe_response::Response;
use crate::proto::{
    self, Client, Empty, GetStreamRequest, Start, StartFrom, SubscribeRequest, SubscribeResponse, start_from,
};
use crate::serve::{self, Running};
use ledger::Ledger;
use screen::{Screen, Summary};
use shop::Shop;

/// Database, and with it the stream's name.
const DATABASE: &str = "shop";
/// Used when they are free, so that the commands of the documentation work as they stand.
const USUAL_PORTS: [u16; 2] = [7400, 7401];
/// How long the stream may take to start.
const STREAMING_MAX: Duration = Duration::from_secs(60);
/// How long the last changes may take to arrive.
const ARRIVAL_MAX: Duration = Duration::from_secs(30);
/// How often the screen's last line is drawn anew when nothing arrives.
const REDRAW: Duration = Duration::from_millis(100);

/// Runs the demo; the error says whether it failed or was interrupted.
pub(crate) async fn run(arguments: &DemoArguments) -> Result<(), CliError> {
    if std::env::var_os("DBSTREAMD_LOG").is_some() {
        // The daemon's own log lines would spoil the screen, so they come only when asked for.
        crate::telemetry::init(&LoggingConfig::default()).map_err(|error| CliError::failed(&error))?;
    }
    let mut signals = Signals::listen()?;
    let mut screen = Screen::new(arguments);
    screen.line("Starting a throwaway PostgreSQL in a temporary folder …")?;
    // A signal from here on waits until the cluster is whole: only then can it be removed whole.
    let cluster = blocking(|| {
        let cluster = Cluster::start()?;
        cluster.create_database(DATABASE)?;
        cluster.psql(DATABASE, shop::SCHEMA)?;
        Ok(cluster)
    })
    .await?
    .map_err(|error: dbstreamd_throwaway::ThrowawayError| CliError::failed(&error))?;
    let folder = cluster.folder().to_owned();

    let outcome = in_cluster(arguments, &cluster, &mut signals, &mut screen).await;
    blocking(move || drop(cluster)).await?;
    screen.close()?;
    if folder.exists() {
        return outcome.and(Err(CliError::Failed(format!("could not remove {}; remove it by hand", folder.display()))));
    }
    if !matches!(outcome, Err(CliError::OutputClosed)) {
        screen.line("Everything was stopped and removed.")?;
        screen.flush()?;
    }
    outcome
}

/// Starts the daemon, plays, and stops the daemon whatever happened in between.
async fn in_cluster(
    arguments: &DemoArguments,
    cluster: &Cluster,
    signals: &mut Signals,
    screen: &mut Screen,
) -> Result<(), CliError> {
    let config = config(cluster)?;
    let running = Box::pin(serve::start(config)).await.map_err(|error| CliError::failed(&error))?;
    let played = tokio::select! {
        played = Box::pin(play(arguments, cluster, &running, screen)) => played,
        _ = signals.next() => Err(CliError::Interrupted),
    };
    let stopped = running.stop().await.map_err(|error| CliError::failed(&error));
    played.and(stopped)
}

/// The daemon as it would be for a user with this one database; nothing of the caller's environment gets in.
fn config(cluster: &Cluster) -> Result<Config, CliError> {
    let free = USUAL_PORTS.iter().all(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok());
    let [grpc, http] = USUAL_PORTS.map(|port| format!("127.0.0.1:{}", if free { port } else { 0 }));
    let overrides = Overrides {
        sources: vec![cluster.url(DATABASE)],
        data_dir: Some(cluster.folder().join("dbstreamd-data")),
        grpc: Some(grpc),
        http: Some(http),
    };
    Config::load_with(None, &overrides, &BTreeMap::new()).map_err(|error| CliError::failed(&error))
}

async fn play(
    arguments: &DemoArguments,
    cluster: &Cluster,
    running: &Running,
    screen: &mut Screen,
) -> Result<(), CliError> {
    // Without the caller's PG… variables.
    let connect =
        ConnectOptions::parse_with(&cluster.url(DATABASE), |_| None).map_err(|error| CliError::failed(&error))?;
    let database =
        Connection::connect(&connect, SessionKind::Ordinary).await.map_err(|error| CliError::failed(&error))?;
    streaming(running).await?;
    let server = format!("http://{}", running.grpc_addr);
    screen.introduce(database.parameter("server_version").unwrap_or_default(), &server, running.http_addr)?;

    let (mut client, mut responses) = subscribe(&server).await?;
    let ledger = Arc::new(Ledger::new().map_err(|error| CliError::failed(&error))?);
    let started = Instant::now();
    let (written, mut writing) = watch::channel(None);
    let mut writer = tokio::spawn({
        let (ledger, seconds, rate) = (Arc::clone(&ledger), arguments.seconds, arguments.rate);
        async move {
            let ended = write(database, &ledger, seconds, rate).await;
            // Read by the reader below, which is gone only when nobody wants to know any more.
            let _ = written.send(Some(Instant::now()));
            ended
        }
    });
    let received = receive(&mut responses, &ledger, &mut writing, screen, started).await;
    writer.abort();
    let wrote = match (&mut writer).await {
        Ok(wrote) => wrote,
        Err(_) if received.is_err() => Ok(()),
        Err(join) => return Err(CliError::failed(&join)),
    };
    // What went wrong at the writing end explains what is missing at the other.
    wrote?;
    let lasted = received?;
    let request = GetStreamRequest { name: DATABASE.to_owned() };
    let stream = client.get_stream(request).await.map_err(|status| CliError::failed(&status))?.into_inner();
    screen.summary(&Summary { totals: ledger.totals(), lasted, log_bytes: stream.log_bytes })
}

/// Waits until the daemon streams.
async fn streaming(running: &Running) -> Result<(), CliError> {
    for status in running.statuses() {
        let mut lifecycle = status.watch();
        let settled =
            lifecycle.wait_for(|now| now.state == State::Streaming || now.state == State::Failed && !now.retrying);
        let settled = match tokio::time::timeout(STREAMING_MAX, settled).await {
            Ok(settled) => settled.map(|now| now.clone()).ok(),
            Err(_) => None,
        };
        if settled.as_ref().is_none_or(|now| now.state != State::Streaming) {
            let reason =
                status.lifecycle().error.map_or_else(|| "no reason known".to_owned(), |error| error.to_string());
            return Err(CliError::Failed(format!("the stream did not start: {reason}")));
        }
    }
    Ok(())
}

async fn subscribe(server: &str) -> Result<(Client, Streaming<SubscribeResponse>), CliError> {
    let mut client = proto::connect(server).await.map_err(|error| CliError::failed(&error))?;
    let start = Start {
        stream: DATABASE.to_owned(),
        from: Some(StartFrom { from: Some(start_from::From::Earliest(Empty {})) }),
        ..Start::default()
    };
    let (requests, outgoing) = mpsc::channel(1);
    // The channel is empty, so this does not wait.
    let _ = requests.send(SubscribeRequest { request: Some(Request::Start(start)) }).await;
    let outgoing = ReceiverStream::new(outgoing);
    let responses = client.subscribe(outgoing).await.map_err(|status| CliError::failed(&status))?.into_inner();
    Ok((client, responses))
}

/// Plays the shop for a while, at most so many transactions per second.
async fn write(mut database: Connection, ledger: &Ledger, seconds: u32, rate: u32) -> Result<(), CliError> {
    let mut shop = Shop::open();
    let started = tokio::time::Instant::now();
    let end = started + Duration::from_secs(seconds.into());
    for count in 0_u32.. {
        let due = started + Duration::from_secs(1) * count / rate;
        if due >= end || tokio::time::Instant::now() >= end {
            break;
        }
        tokio::time::sleep_until(due).await;
        let transaction = shop.next_transaction();
        let number = ledger.announce(transaction.changes).await;
        database.simple_query(&transaction.sql).await.map_err(|error| CliError::failed(&error))?;
        ledger.returned(number, Instant::now());
    }
    ledger.close();
    Ok(())
}

/// Shows and checks what arrives until everything written is there; returns how long that took.
async fn receive(
    responses: &mut Streaming<SubscribeResponse>,
    ledger: &Ledger,
    writing: &mut watch::Receiver<Option<Instant>>,
    screen: &mut Screen,
    started: Instant,
) -> Result<Duration, CliError> {
    let mut redraw = tokio::time::interval(REDRAW);
    redraw.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let written = *writing.borrow_and_update();
        if let Some(written) = written {
            if !ledger.is_closed() {
                // The writer failed; it says why itself.
                return Ok(started.elapsed());
            }
            if ledger.is_settled() {
                return Ok(started.elapsed());
            }
            if written.elapsed() > ARRIVAL_MAX {
                return Err(CliError::Failed(ledger.missing()));
            }
        }
        tokio::select! {
            response = responses.message() => {
                let (at, clock) = (Instant::now(), Timestamp::now());
                let response = response.map_err(|status| CliError::failed(&status))?;
                let response = response.ok_or_else(|| CliError::Failed("the daemon closed the stream; see its log".to_owned()))?;
                match response.response {
                    Some(Response::Schema(schema)) => {
                        ledger.learn(&schema);
                        screen.learn(schema);
                    }
                    Some(Response::Events(batch)) => {
                        for event in &batch.events {
                            ledger.received(event, at, clock).map_err(|error| CliError::failed(&error))?;
                            screen.event(event)?;
                        }
                        screen.flush()?;
                    }
                    Some(
                        Response::Started(_) | Response::Progress(_) | Response::EpochStarted(_) | Response::Skipped(_),
                    )
                    | None => {}
                }
            }
            _ = redraw.tick() => screen.status(&ledger.totals(), started.elapsed())?,
            _ = writing.changed() => {}
        }
    }
}

/// Runs blocking work off the async threads; its panic is ours.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, CliError> {
    tokio::task::spawn_blocking(work).await.map_err(|join| CliError::failed(&join))
}
