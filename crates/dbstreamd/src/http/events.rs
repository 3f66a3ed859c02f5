//! `/v1/streams/{name}/events`: a stream as server-sent events, for `curl -N` and browsers.
//!
//! Each event's `id` is its offset, so a browser that lost its connection resumes by `Last-Event-ID`. The body is
//! produced only as fast as the client takes it: who does not read makes nobody else wait and nothing pile up.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use dbstreamd_log::{ChunkSlice, EventRef, LogError, Reader, StartAt};
use dbstreamd_model::Offset;
use prost::Message as _;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::{Shared, problem, streams};
use crate::filter::Filter;
use crate::grpc::encode::{self, RunBuilder};
use crate::grpc::start::open_reader;
use crate::grpc::status::start_error;
use crate::json::Renderer;
use crate::{position, proto};

/// A comment is sent when nothing else was for this long, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) async fn follow(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Response {
    let entry = match shared.directory.find(&name) {
        Ok(entry) => entry,
        Err(error) => return streams::unknown(&error),
    };
    let wish = match Wish::new(&query, &headers) {
        Ok(wish) => wish,
        Err(text) => return problem(StatusCode::BAD_REQUEST, text),
    };
    let Ok(seat) = Arc::clone(&shared.event_streams).try_acquire_owned() else {
        let text = format!(
            "at most {} event streams are served at a time: raise http.max_event_streams, or use gRPC",
            shared.event_streams_max
        );
        return problem(StatusCode::SERVICE_UNAVAILABLE, text);
    };
    let reader = match open_reader(&shared.directory, entry.id, wish.from).await {
        Ok(reader) => reader,
        Err(
            error @ (LogError::OffsetTrimmed { .. }
            | LogError::OffsetPastEnd { .. }
            | LogError::LsnTrimmed { .. }
            | LogError::TimeTrimmed { .. }),
        ) => {
            return problem(StatusCode::RANGE_NOT_SATISFIABLE, start_error(&error));
        }
        Err(error) => return streams::log_problem(&error),
    };
    let tail = Tail {
        reader,
        filter: wish.filter,
        left: wish.limit,
        renderer: Renderer::default(),
        current: None,
        shutdown: shared.shutdown.clone(),
        ended: false,
        _seat: seat,
    };
    let events = futures_util::stream::unfold(tail, |mut tail| async move {
        let event = tail.next().await?;
        Some((Ok::<Event, Infallible>(event), tail))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

/// What the query asks for.
struct Wish {
    from: StartAt,
    filter: Filter,
    limit: Option<u64>,
}

impl Wish {
    fn new(query: &[(String, String)], headers: &HeaderMap) -> Result<Self, String> {
        let (mut from, mut limit, mut tables) = (StartAt::Latest, None, Vec::new());
        for (key, value) in query {
            match key.as_str() {
                "from" => from = position::parse(value)?,
                "table" => tables.push(value.as_str()),
                "limit" => {
                    let number = value.parse::<u64>().ok().filter(|&limit| limit > 0);
                    limit = Some(number.ok_or_else(|| format!("limit: {value:?} is not a number of events from 1"))?);
                }
                other => return Err(format!("{other:?} cannot be asked for: use from, table and limit")),
            }
        }
        // A reconnecting browser repeats the query and adds where it was; that is the newer wish.
        if let Some(last) = headers.get("last-event-id") {
            let last = last.to_str().ok().and_then(|last| last.parse().ok()).ok_or("Last-Event-ID is not an offset")?;
            from = StartAt::Offset(Offset(last).next());
        }
        let filter = Filter::new(&tables, Vec::new()).map_err(|error| error.to_string())?;
        Ok(Self { from, filter, limit })
    }
}

/// One client's way through the stream.
struct Tail {
    reader: Reader,
    filter: Filter,
    left: Option<u64>,
    renderer: Renderer,
    current: Option<ChunkSlice>,
    shutdown: CancellationToken,
    ended: bool,
    _seat: OwnedSemaphorePermit,
}

impl Tail {
    /// The next event for this client; none when the response is to end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if self.ended || self.left == Some(0) {
                return None;
            }
            match self.event_of_current() {
                Ok(Some(event)) => {
                    self.left = self.left.map(|left| left - 1);
                    return Some(event);
                }
                Ok(None) => {}
                Err(text) => return Some(self.failed(&text)),
            }
            let read = tokio::select! {
                read = self.reader.next() => read,
                () = self.shutdown.cancelled() => return None,
            };
            match read {
                Ok(slice) => self.current = Some(slice),
                Err(error) => return Some(self.failed(&error.to_string())),
            }
        }
    }

    /// Says why the response ends here.
    fn failed(&mut self, text: &str) -> Event {
        self.ended = true;
        Event::default().event("error").data(serde_json::json!({ "error": text }).to_string())
    }

    fn event_of_current(&mut self) -> Result<Option<Event>, String> {
        let Some(ChunkSlice { chunk, range }) = &mut self.current else { return Ok(None) };
        for event in chunk.events(range.clone()) {
            range.start += 1;
            if self.filter.takes(&event) {
                return render(&mut self.renderer, &event).map(Some);
            }
        }
        self.current = None;
        Ok(None)
    }
}

fn render(renderer: &mut Renderer, event: &EventRef<'_>) -> Result<Event, String> {
    if let Some(stored) = event.schema {
        renderer.learn(&encode::schema(stored));
    }
    let mut run = RunBuilder::default();
    if !run.push(event) {
        return Err(encode::broken(event.offset).message().to_owned());
    }
    let batch = proto::EventBatch::decode(run.finish().bytes).map_err(|error| error.to_string())?;
    let event = batch.events.first().ok_or("an event was lost while it was rendered")?;
    let json = renderer.event_json(event).map_err(|error| error.to_string())?;
    Ok(Event::default().id(event.offset.to_string()).data(json))
}
