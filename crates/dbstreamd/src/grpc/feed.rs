//! From the log's chunks to responses: cuts by credit, filter, size and schema.
//!
//! Nothing here waits except [`Feed::read`]. Who takes everything gets slices of the chunk's shared encoding; who
//! filters gets an encoding of its own of what matches.

use std::collections::HashSet;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use dbstreamd_log::{ChunkSlice, Log, LogError, Reader, Skip};
use dbstreamd_model::{Epoch, Offset, SchemaId, StreamId};
use tonic::Status;

use super::boundary::Boundary;
use super::company::{Returned, Standing};
use super::encode::typed::Decoders;
use super::encode::{self, RunBuilder};
use super::status::from_log;
use super::wire::Response;
use crate::filter::Filter;
use crate::unreadable::Unreadable;
use crate::{parking, proto, schemas};

/// Small chunks that are in memory are put together into responses of at most this size. Larger ones go out as they are, without
/// a copy: what a response costs beyond its bytes is then little.
const MERGED_BYTES_MAX: usize = 16 * 1024;

/// Who drops most events looks at no more than this many chunks before others have their turn.
const CHUNKS_AT_ONCE_MAX: usize = 64;

/// Why there is no next response.
#[derive(Debug)]
pub(super) enum Halt {
    /// The call ends with this.
    Status(Status),
    /// The next event has a value that cannot be read in typed form.
    Unreadable(Unreadable),
}

/// One subscription's way through the stream.
pub(super) struct Feed {
    log: Log,
    stream: StreamId,
    reader: Reader,
    boundary: Boundary,
    filter: Filter,
    /// How values are read; none for text.
    typed: Option<Decoders>,
    /// Events that may still be delivered; none for no limit.
    credit: Option<u64>,
    /// What is left of the chunk in hand.
    current: Option<ChunkSlice>,
    /// Schema versions this client has.
    known: HashSet<SchemaId>,
    last_known: Option<SchemaId>,
    /// The last event that was delivered or dropped.
    considered: Offset,
    /// The last event that was delivered, or the one before the first that was considered.
    delivered: Offset,
    /// What the client knows of `considered`.
    reported: Offset,
    /// Whether the client was told that it has reached the end once.
    end_reported: bool,
    begun_at: Instant,
    /// Since when the events of the response at hand have been visible, if they became so during this subscription.
    visible_at: Option<Instant>,
}

impl Feed {
    pub(super) fn new(
        log: Log,
        stream: StreamId,
        reader: Reader,
        boundary: Boundary,
        filter: Filter,
        credit: Option<u64>,
    ) -> Self {
        let considered = reader.position().previous();
        Self {
            log,
            stream,
            reader,
            boundary,
            filter,
            typed: None,
            credit,
            current: None,
            known: HashSet::new(),
            last_known: None,
            considered,
            delivered: considered,
            reported: considered,
            end_reported: false,
            begun_at: Instant::now(),
            visible_at: None,
        }
    }

    /// As it is, but rows have typed values.
    pub(super) fn typed(self) -> Self {
        Self { typed: Some(Decoders::default()), ..self }
    }

    /// The first response.
    pub(super) fn started(&self, stream: &str) -> Result<Response, Status> {
        let watermarks = self.log.watermarks(self.stream).map_err(|error| from_log(&error))?;
        Ok(Response::Started(proto::Started {
            stream: stream.to_owned(),
            epoch: self.boundary.epoch().0,
            next_offset: self.considered.next().0,
            visible_offset: watermarks.visible.0,
        }))
    }

    pub(super) fn add_credit(&mut self, events: u64) -> Result<(), Status> {
        match &mut self.credit {
            Some(credit) => *credit = credit.saturating_add(events),
            None => {
                return Err(Status::failed_precondition(
                    "this subscription was started without a limit: set start.credit_events to use credit",
                ));
            }
        }
        Ok(())
    }

    pub(super) fn credit_spent(&self) -> bool {
        self.credit == Some(0)
    }

    /// Whether [`read`](Self::read) is of use now.
    pub(super) fn wants_data(&self) -> bool {
        self.current.is_none() && !self.credit_spent()
    }

    /// Waits for the next chunk. Cancel-safe, as the reader is.
    pub(super) async fn read(&mut self) -> Result<ChunkSlice, LogError> {
        self.reader.next().await
    }

    /// Whether there is something in hand to make a response of.
    pub(super) fn has_events(&self) -> bool {
        self.current.is_some() && !self.credit_spent()
    }

    /// Whether memory is held that another subscriber may be waiting for.
    pub(super) fn holds_read_ahead(&self) -> bool {
        self.reader.holds_read_ahead()
    }

    /// Lets go of what was read and not delivered; it is read again when its time comes.
    pub(super) fn let_go(&mut self) {
        self.current = None;
        self.reader.let_go(self.considered.next());
    }

    /// Goes on behind what an operator gave up, and tells the client.
    pub(super) fn skip(&mut self, skip: &Skip) -> Response {
        self.current.iter_mut().for_each(|slice| slice.skip_to(skip.next));
        self.current = self.current.take().filter(|slice| !slice.range.is_empty());
        self.reader.skip_to(skip.next);
        self.considered = self.considered.max(skip.next.previous());
        self.reported = self.considered;
        Response::Skipped(parking::skip_contract(skip))
    }

    /// Takes a chunk in hand. A chunk lies in one epoch; an error is the end of a subscription that must not enter it.
    pub(super) fn take(&mut self, slice: ChunkSlice) -> Result<(), Status> {
        self.boundary.meet(slice.chunk.epoch())?;
        self.current = Some(slice).filter(|slice| !slice.range.is_empty());
        Ok(())
    }

    /// Whether the client should be told of a position it cannot see from the events it got.
    pub(super) fn progress_due(&self) -> bool {
        self.considered > self.reported || (!self.end_reported && self.at_end())
    }

    fn at_end(&self) -> bool {
        self.current.is_none() && self.log.watermarks(self.stream).is_ok_and(|marks| marks.visible <= self.considered)
    }

    /// The last event that was delivered, and the last that was looked at.
    pub(super) const fn reached(&self) -> (Offset, Offset) {
        (self.delivered, self.considered)
    }

    /// How it stands, if nothing is left to be done but to pass on all that comes.
    pub(super) fn follows(&self) -> Option<Standing> {
        let passes_on = self.filter.takes_all() && self.typed.is_none() && self.credit.is_none();
        let at_rest = self.end_reported && self.considered == self.reported && !self.reader.holds_read_ahead();
        (passes_on && at_rest && self.boundary.is_told() && self.at_end()).then(|| Standing {
            next: self.considered.next(),
            epoch: self.boundary.epoch(),
            known: self.known.iter().copied().collect(),
            begun_at: self.begun_at,
        })
    }

    /// Goes on where what was passed on ends.
    pub(super) fn passed_on(&mut self, returned: Returned) {
        let Returned { through, known } = returned;
        self.known.extend(known);
        self.reader.skip_to(through.next());
        self.considered = self.considered.max(through);
        self.delivered = self.considered;
        self.reported = self.considered;
    }

    /// A progress response.
    pub(super) fn progress(&mut self) -> Result<Response, Status> {
        let visible = self.log.watermarks(self.stream).map_err(|error| from_log(&error))?.visible;
        self.end_reported = self.end_reported || self.at_end();
        self.reported = self.considered;
        Ok(Response::Progress(proto::Progress { offset: self.considered.0, visible_offset: visible.0 }))
    }

    /// Since when the events of the last response have been visible: to time their way out. None for what was there before
    /// this subscription, and for what came from disk.
    pub(super) fn take_visible_at(&mut self) -> Option<Instant> {
        self.visible_at.take()
    }

    /// The next response from the chunk in hand, of at most this many bytes unless one event alone is larger; none when
    /// the chunk is used up or credit is.
    pub(super) fn next_response(&mut self, bytes_max: usize) -> Result<Option<Response>, Halt> {
        if let Some(started) = self.boundary.response() {
            return Ok(Some(started));
        }
        while self.has_events() {
            let shared = self.filter.takes_all() && self.typed.is_none();
            let response = if shared { self.shared(bytes_max).map_err(Halt::Status)? } else { self.own(bytes_max)? };
            self.current = self.current.take().filter(|slice| !slice.range.is_empty());
            if response.is_some() {
                return Ok(response);
            }
        }
        Ok(None)
    }

    /// A slice of the shared encoding.
    fn shared(&mut self, bytes_max: usize) -> Result<Option<Response>, Status> {
        let Some(ChunkSlice { chunk, range }) = &mut self.current else { return Ok(None) };
        let credit = self.credit.map_or(usize::MAX, |credit| usize::try_from(credit).unwrap_or(usize::MAX));
        let from = range.start;
        let mut to = range.end.min(from.saturating_add(credit));
        let all_known = chunk.schemas().iter().all(|stored| self.known.contains(&stored.id));
        let looked_at = if all_known { from..from } else { from..to };
        for (index, event) in looked_at.clone().zip(chunk.events(looked_at)) {
            let Some(stored) = event.schema.filter(|stored| self.last_known != Some(stored.id)) else { continue };
            if !self.known.contains(&stored.id) {
                if index == from {
                    self.known.insert(stored.id);
                    return Ok(Some(Response::Schema(Box::new(schemas::contract(stored)))));
                }
                to = index;
                break;
            }
            self.last_known = Some(stored.id);
        }
        let run = chunk.encoded(encode::chunk);
        let ends = run.ends.get(from..to.min(run.ends.len())).unwrap_or_default();
        let start = from.checked_sub(1).and_then(|before| run.ends.get(before)).map_or(0, |&end| end as usize);
        let fits = ends.partition_point(|&end| end as usize - start <= bytes_max).max(1);
        let Some(&end) = ends.get(fits - 1) else {
            return Err(encode::broken(chunk.first_offset().advance(from as u64)));
        };
        let bytes: Bytes = run.bytes.slice(start..end as usize);
        range.start = from + fits;
        self.considered = chunk.first_offset().advance(range.start as u64).previous();
        self.reported = self.considered;
        self.delivered = self.considered;
        self.visible_at = chunk.visible_at().filter(|at| *at >= self.begun_at);
        spend(&mut self.credit, fits);
        let used_up = range.start >= range.end;
        let epoch = chunk.epoch();
        Ok(Some(Response::Events(if used_up { self.merged(bytes, epoch, bytes_max) } else { bytes })))
    }

    /// `first` and the whole chunks behind it that are in memory, if they are small. A commit of one row is a chunk of its own:
    /// whoever has waited for its turn gets what came in meanwhile as one response.
    fn merged(&mut self, first: Bytes, epoch: Epoch, bytes_max: usize) -> Bytes {
        let bytes_max = bytes_max.min(MERGED_BYTES_MAX);
        if first.len() >= bytes_max {
            return first;
        }
        let Self { reader, known, credit, considered, .. } = self;
        let mut merged = BytesMut::new();
        reader.take_following(|chunk| {
            let events = chunk.len() as u64;
            let fits = chunk.epoch() == epoch
                && credit.is_none_or(|credit| credit >= events)
                && chunk.schemas().iter().all(|stored| known.contains(&stored.id));
            if !fits {
                return false;
            }
            let run = chunk.encoded(encode::chunk);
            // One that is broken is met by itself.
            if first.len().max(merged.len()) + run.bytes.len() > bytes_max || run.ends.len() < chunk.len() {
                return false;
            }
            if merged.is_empty() {
                merged.extend_from_slice(&first);
            }
            merged.extend_from_slice(&run.bytes);
            *considered = chunk.last_offset();
            spend(credit, chunk.len());
            true
        });
        self.reported = self.considered;
        self.delivered = self.considered;
        if merged.is_empty() { first } else { merged.freeze() }
    }

    /// An encoding of what matches the filter, or of typed values.
    fn own(&mut self, bytes_max: usize) -> Result<Option<Response>, Halt> {
        let mut run = RunBuilder::default();
        self.visible_at = None;
        for _ in 0..CHUNKS_AT_ONCE_MAX {
            if let Some(response) = self.add_own(&mut run, bytes_max)? {
                return Ok(Some(response));
            }
            let used_up = self.current.as_ref().is_none_or(|slice| slice.range.is_empty());
            if !used_up || run.len() >= bytes_max.min(MERGED_BYTES_MAX) || self.credit_spent() || !self.follow() {
                break;
            }
        }
        Ok((!run.is_empty()).then(|| Response::Events(run.finish().bytes)))
    }

    /// Takes the next chunk in hand if it is in memory and of the same epoch.
    fn follow(&mut self) -> bool {
        let epoch = self.current.as_ref().map(|slice| slice.chunk.epoch());
        let next = epoch.and_then(|epoch| self.reader.following(epoch));
        let found = next.is_some();
        self.current = next.or(self.current.take());
        found
    }

    /// Adds what matches of the chunk in hand to `run`. A response is a schema that must go out first; then nothing was added.
    fn add_own(&mut self, run: &mut RunBuilder, bytes_max: usize) -> Result<Option<Response>, Halt> {
        let Some(ChunkSlice { chunk, range }) = &mut self.current else { return Ok(None) };
        let mut taken = 0;
        for event in chunk.events(range.clone()) {
            if self.filter.takes(&event) {
                if self.credit.is_some_and(|credit| taken >= credit) || run.len() >= bytes_max {
                    break;
                }
                if let Some(stored) = event.schema.filter(|stored| !self.known.contains(&stored.id)) {
                    if !run.is_empty() {
                        break;
                    }
                    self.known.insert(stored.id);
                    return Ok(Some(Response::Schema(Box::new(schemas::contract(stored)))));
                }
                let room = run.is_empty() || run.len() + event.body.len() <= bytes_max;
                if !room {
                    break;
                }
                let pushed = match &mut self.typed {
                    None => Ok(run.push(&event)),
                    Some(decoders) => run.push_typed(&event, decoders),
                };
                match pushed {
                    Ok(true) => {}
                    // What is in front of it goes out first.
                    Ok(false) | Err(_) if !run.is_empty() => break,
                    Ok(false) => return Err(Halt::Status(encode::broken(event.offset))),
                    Err(unreadable) => return Err(Halt::Unreadable(unreadable)),
                }
                taken += 1;
                self.reported = event.offset;
                self.delivered = event.offset;
            }
            self.considered = event.offset;
            range.start += 1;
        }
        spend(&mut self.credit, usize::try_from(taken).unwrap_or(usize::MAX));
        if taken > 0 && self.visible_at.is_none() {
            self.visible_at = chunk.visible_at().filter(|at| *at >= self.begun_at);
        }
        Ok(None)
    }
}

fn spend(credit: &mut Option<u64>, events: usize) {
    if let Some(credit) = credit {
        *credit = credit.saturating_sub(events as u64);
    }
}
