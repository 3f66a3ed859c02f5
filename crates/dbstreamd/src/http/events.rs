//! `/v1/streams/{name}/events`: a stream as server-sent events, for `curl -N` and browsers.
//!
//! Each event's `id` is its offset, so a browser that lost its connection resumes by `Last-Event-ID`. A block with
//! nothing but an `id` comes first, and again after events that the filter dropped: a browser takes note of it and
//! shows nothing. An `epoch` event comes before the first event of a new epoch, a `skipped` event in place of what an operator gave up. The body is produced only as fast as the client takes it: who does not read makes nobody else wait,
//! lets nothing pile up, and loses its connection after a while.

use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use dbstreamd_log::{ChunkSlice, EpochRecord, EventRef, LogError, Reader, Skip, StartAt};
use dbstreamd_model::{Offset, SchemaId};
use prost::Message as _;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Shared, problem, streams};
use crate::directory::{Directory, Entry};
use crate::epochs::{Crossing, contract};
use crate::filter::Filter;
use crate::grpc::encode::typed::Decoders;
use crate::grpc::encode::{self, RunBuilder};
use crate::grpc::start::open_reader;
use crate::grpc::status::start_error;
use crate::json::{Renderer, epoch_document, skipped_document};
use crate::parking::{self, Way};
use crate::unreadable::Unreadable;
use crate::{position, proto};

/// When nothing else was sent for this long the position is, or a comment if it is known: proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// An event with more parts of values (elements, bounds, fields) than about this many is not shown in typed form: here,
/// unlike in gRPC, they are all held while it is written, at 50 to 110 bytes each.
const PARTS_MAX: usize = 1024 * 1024;

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
        // Nothing runs while its client does not read, so it could not let go of a turn.
        Ok(reader) => reader.one_at_a_time(),
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
        directory: Arc::clone(&shared.directory),
        entry: entry.clone(),
        crossing: Crossing::before(shared.directory.log().clone(), entry.id, reader.position()),
        entered: VecDeque::new(),
        considered: reader.position().previous(),
        reported: None,
        keep_alive_at: Instant::now() + KEEP_ALIVE,
        known: HashSet::new(),
        reader,
        filter: wish.filter,
        left: wish.limit,
        renderer: Renderer::default(),
        typed: wish.typed.then(Decoders::default),
        current: None,
        shutdown: shared.shutdown.clone(),
        ended: false,
        _seat: seat,
    };
    let events = futures_util::stream::unfold(tail, |mut tail| async move {
        let event = tail.next().await?;
        Some((Ok::<Event, Infallible>(event), tail))
    });
    Sse::new(events).into_response()
}

/// What the query asks for.
struct Wish {
    from: StartAt,
    filter: Filter,
    limit: Option<u64>,
    typed: bool,
}

impl Wish {
    fn new(query: &[(String, String)], headers: &HeaderMap) -> Result<Self, String> {
        let (mut from, mut limit, mut tables, mut typed) = (StartAt::Latest, None, Vec::new(), false);
        for (key, value) in query {
            match key.as_str() {
                "from" => from = position::parse(value)?,
                "table" => tables.push(value.as_str()),
                "limit" => {
                    let number = value.parse::<u64>().ok().filter(|&limit| limit > 0);
                    limit = Some(number.ok_or_else(|| format!("limit: {value:?} is not a number of events from 1"))?);
                }
                "values" => {
                    typed = match value.as_str() {
                        "text" => false,
                        "typed" => true,
                        other => return Err(format!("values: {other:?} is neither text nor typed")),
                    }
                }
                other => return Err(format!("{other:?} cannot be asked for: use from, table, limit and values")),
            }
        }
        // A reconnecting browser repeats the query and adds where it was; that is the newer wish.
        if let Some(last) = headers.get("last-event-id") {
            let last = last.to_str().ok().and_then(|last| last.parse().ok()).ok_or("Last-Event-ID is not an offset")?;
            from = StartAt::Offset(Offset(last).next());
        }
        let filter = Filter::new(&tables, Vec::new()).map_err(|error| error.to_string())?;
        Ok(Self { from, filter, limit, typed })
    }
}

/// One client's way through the stream.
struct Tail {
    directory: Arc<Directory>,
    entry: Entry,
    reader: Reader,
    filter: Filter,
    left: Option<u64>,
    renderer: Renderer,
    /// How values are read; none for text.
    typed: Option<Decoders>,
    /// Schema versions the renderer has learned.
    known: HashSet<SchemaId>,
    current: Option<ChunkSlice>,
    crossing: Crossing,
    /// Epochs that begin before what is in hand and were not told.
    entered: VecDeque<EpochRecord>,
    /// The last event that was sent or dropped.
    considered: Offset,
    /// What the client knows of `considered`; none before the first block.
    reported: Option<Offset>,
    keep_alive_at: Instant,
    shutdown: CancellationToken,
    ended: bool,
    _seat: OwnedSemaphorePermit,
}

impl Tail {
    /// The next block for this client; none when the response is to end.
    async fn next(&mut self) -> Option<Event> {
        let block = self.block().await;
        self.keep_alive_at = Instant::now() + KEEP_ALIVE;
        block
    }

    async fn block(&mut self) -> Option<Event> {
        if self.reported.is_none() {
            return Some(self.position());
        }
        loop {
            if self.ended || self.left == Some(0) {
                return None;
            }
            if let Some(record) = self.entered.pop_front() {
                return Some(Event::default().event("epoch").data(epoch_document(&contract(&record)).to_string()));
            }
            match self.event_of_current() {
                Ok(Some(event)) => {
                    self.left = self.left.map(|left| left - 1);
                    return Some(event);
                }
                Ok(None) => {}
                Err(Failure::Told(text)) => return Some(self.failed(&text)),
                Err(Failure::Unreadable(value)) => {
                    return Some(match parking::at_value(&self.directory, &self.entry, &value) {
                        Some(skip) => self.skip(&skip),
                        None => self.failed(&value.to_string()),
                    });
                }
            }
            let read = tokio::select! {
                read = self.reader.next() => read,
                () = self.shutdown.cancelled() => return None,
                () = tokio::time::sleep_until(self.keep_alive_at) => return Some(self.position()),
            };
            match read {
                Ok(slice) => {
                    self.entered.extend(self.crossing.enter(slice.chunk.epoch()));
                    self.current = Some(slice);
                }
                Err(error) => match parking::way_around(&self.directory, &self.entry, &error).await {
                    Some(Way::Again) => {}
                    Some(Way::Skip(skip)) => return Some(self.skip(&skip)),
                    Some(Way::Park) | None => return Some(self.failed(&error.to_string())),
                },
            }
        }
    }

    /// Goes on behind what an operator gave up, and says so.
    fn skip(&mut self, skip: &Skip) -> Event {
        self.current.iter_mut().for_each(|slice| slice.skip_to(skip.next));
        self.current = self.current.take().filter(|slice| !slice.range.is_empty());
        self.reader.skip_to(skip.next);
        (self.considered, self.reported) = (skip.next.previous(), Some(skip.next.previous()));
        let document = skipped_document(&parking::skip_contract(skip));
        Event::default().event("skipped").id(self.considered.to_string()).data(document.to_string())
    }

    /// Tells the client where it is, so that it resumes there; a comment when it knows.
    fn position(&mut self) -> Event {
        if self.reported.replace(self.considered) == Some(self.considered) {
            return Event::default().comment("");
        }
        Event::default().id(self.considered.to_string())
    }

    /// Says why the response ends here.
    fn failed(&mut self, text: &str) -> Event {
        self.ended = true;
        Event::default().event("error").data(serde_json::json!({ "error": text }).to_string())
    }

    fn event_of_current(&mut self) -> Result<Option<Event>, Failure> {
        let Some(ChunkSlice { chunk, range }) = &mut self.current else { return Ok(None) };
        for event in chunk.events(range.clone()) {
            range.start += 1;
            if self.filter.takes(&event) {
                if let Some(stored) = event.schema.filter(|stored| self.known.insert(stored.id)) {
                    self.renderer.learn(&crate::schemas::contract(stored));
                }
                let rendered = render(&self.renderer, &event, self.typed.as_mut())?;
                (self.considered, self.reported) = (event.offset, Some(event.offset));
                return Ok(Some(rendered));
            }
            self.considered = event.offset;
        }
        self.current = None;
        Ok(None)
    }
}

/// Why an event cannot be shown.
enum Failure {
    Told(String),
    Unreadable(Unreadable),
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Told(text)
    }
}

fn render(renderer: &Renderer, event: &EventRef<'_>, typed: Option<&mut Decoders>) -> Result<Event, Failure> {
    let mut run = RunBuilder::default();
    let pushed = match typed {
        None => run.push(event),
        Some(decoders) => {
            // Each part is a byte at least, so that few have to be counted.
            if event.body.len() > PARTS_MAX && decoders.parts_about(event) > PARTS_MAX {
                return Err(Failure::Told(too_many_parts(event.offset)));
            }
            run.push_typed(event, decoders).map_err(Failure::Unreadable)?
        }
    };
    if !pushed {
        return Err(Failure::Told(encode::broken(event.offset).message().to_owned()));
    }
    let batch = proto::EventBatch::decode(run.finish().bytes).map_err(|error| error.to_string())?;
    let event = batch.events.first().ok_or_else(|| "an event was lost while it was rendered".to_owned())?;
    let json = renderer.event_json(event).map_err(|error| error.to_string())?;
    Ok(Event::default().id(event.offset.to_string()).data(json))
}

fn too_many_parts(offset: Offset) -> String {
    format!(
        "the event at offset {offset} has values of more than {PARTS_MAX} parts, too many for typed form in server-sent events: read it with values=text, or over gRPC"
    )
}

#[cfg(test)]
mod tests {
    use dbstreamd_log::{Log, LogOptions, Pump, UnitHead};
    use dbstreamd_model::{Lsn, Op, Timestamp};
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn events_that_the_filter_dropped_move_the_position_with_the_next_keep_alive() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(LogOptions::with_dir(dir.path())).unwrap();
        let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
        let mut appender = log.appender(stream).unwrap();
        appender.begin_session().await.unwrap();
        appender.begin_unit(UnitHead { commit_lsn: Lsn(100), commit_time: Timestamp(1), xid: 7 });
        for _ in 0..3 {
            appender.append(Op::Message, None, b"");
        }
        appender.end_unit(Lsn(150));
        appender.pump(Pump::Now).unwrap();
        log.watch(stream).unwrap().wait_for(|marks| marks.visible == Offset(3)).await.unwrap();

        let reader = log.reader(stream, StartAt::Earliest).unwrap();
        let entry = Entry { id: stream, name: "shop".parse().unwrap(), running: None };
        let directory = Arc::new(Directory::new(log.clone(), vec![entry.clone()], crate::notices::Notices::default()));
        let mut tail = Tail {
            directory,
            entry,
            crossing: Crossing::before(log.clone(), stream, reader.position()),
            entered: VecDeque::new(),
            considered: reader.position().previous(),
            reported: None,
            keep_alive_at: Instant::now(),
            known: HashSet::new(),
            reader,
            filter: Filter::new(&["shop.orders"], Vec::new()).unwrap(),
            left: None,
            renderer: Renderer::default(),
            typed: None,
            current: None,
            shutdown: CancellationToken::new(),
            ended: false,
            _seat: Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap(),
        };
        let mut blocks = Vec::new();
        for _ in 0..3 {
            blocks.push(format!("{:?}", tail.next().await.unwrap()));
            tail.keep_alive_at = Instant::now() + Duration::from_millis(300);
        }
        assert!(blocks[0].contains("id: 0") && blocks[1].contains("id: 3"), "{blocks:?}");
        assert!(!blocks[2].contains("id: "), "{blocks:?}");
        assert_eq!((tail.considered, tail.reported), (Offset(3), Some(Offset(3))));
    }
}
