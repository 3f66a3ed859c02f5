//! The HTTP server: health, metrics, streams as JSON, events as they happen, and a page to look at.
//!
//! Read-only, HTTP/1, bounded in connections and patience. It answers only to names it knows (`host`), sends no
//! CORS headers, and so gives nothing to a foreign page in somebody's browser.

mod events;
mod health;
mod host;
mod metrics;
mod notices;
mod page;
mod patience;
mod streams;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::directory::Directory;
use crate::io::Choice;
use crate::memory::Live;
pub(crate) use host::AllowedHosts;
use patience::Patient;

/// A request's head must be complete within this, and an idle connection is closed after it.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(15);

/// A connection is closed when its client has taken nothing of an answer for this long.
const WRITE_WAIT_MAX: Duration = Duration::from_secs(60);

/// Largest head of a request.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// How long an answer under way may take once the daemon stops.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(2);

/// Pause after `accept` failed, most likely for want of file descriptors.
const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(100);

/// What the handlers share.
pub(crate) struct Shared {
    pub(crate) directory: Arc<Directory>,
    /// How sockets and files are used.
    pub(crate) io: Choice,
    /// The memory budget and what is used of it.
    pub(crate) memory: Live,
    /// Seats of gRPC subscribers, and how many there are.
    pub(crate) subscribers: Arc<Semaphore>,
    pub(crate) subscribers_max: usize,
    /// Seats of event streams, and how many there are.
    pub(crate) event_streams: Arc<Semaphore>,
    pub(crate) event_streams_max: usize,
    pub(crate) shutdown: CancellationToken,
}

fn router(shared: Arc<Shared>, hosts: AllowedHosts) -> Router {
    let metrics = metrics::registry(&shared);
    Router::new()
        .route("/", get(page::index))
        .route("/page.js", get(page::script))
        .route("/page.css", get(page::style))
        .route("/health", get(health::health))
        .route("/metrics", get(move || metrics::render(Arc::clone(&metrics))))
        .route("/v1/streams", get(streams::all))
        .route("/v1/streams/{name}", get(streams::one))
        .route("/v1/streams/{name}/events", get(events::follow))
        .route("/v1/consumers", get(streams::consumers))
        .route("/v1/notices", get(notices::list))
        .fallback(|| async {
            problem(StatusCode::NOT_FOUND, "there is nothing here: try /, /health, /metrics or /v1/streams")
        })
        .layer(axum::middleware::from_fn_with_state(Arc::new(hosts), host::check))
        .layer(axum::middleware::map_response(harden))
        .with_state(shared)
}

async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    response
}

/// An error answer: `{"error": "cause and remedy"}`.
fn problem(status: StatusCode, text: impl Into<String>) -> Response {
    (status, axum::Json(serde_json::json!({ "error": text.into() }))).into_response()
}

/// Serves until `shutdown` fires, then lets answers under way finish for a moment.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>, hosts: AllowedHosts, connections_max: usize) {
    let shutdown = shared.shutdown.clone();
    let router = router(shared, hosts);
    let seats = Arc::new(Semaphore::new(connections_max));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            () = shutdown.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "an HTTP connection could not be accepted");
                tokio::time::sleep(ACCEPT_RETRY_PAUSE).await;
                continue;
            }
        };
        let Ok(seat) = Arc::clone(&seats).try_acquire_owned() else {
            tracing::warn!(connections_max, "an HTTP connection was refused: http.max_connections is reached");
            continue;
        };
        let (router, shutdown) = (router.clone(), shutdown.clone());
        connections.spawn(async move {
            connection(stream, router, shutdown).await;
            drop(seat);
        });
    }
    while connections.join_next().await.is_some() {}
}

async fn connection(stream: TcpStream, router: Router, shutdown: CancellationToken) {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_WAIT_MAX).max_buf_size(HEAD_BYTES_MAX);
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "an HTTP connection ended before it began");
        return;
    }
    let service = tower::ServiceExt::map_request(router, |request: axum::http::Request<hyper::body::Incoming>| request);
    let connection =
        builder.serve_connection(TokioIo::new(Patient::new(stream, WRITE_WAIT_MAX)), TowerToHyperService::new(service));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(CLOSE_WAIT_MAX, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        // Whoever sends nonsense loses its own connection, and nobody else notices.
        tracing::debug!(%error, "an HTTP connection was closed");
    }
}
