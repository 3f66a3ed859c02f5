//! Those who follow the same stream over the same connection, when a crowd does.
//!
//! ```text
//!   log writer ──once in a beat──▶ conductor ──▶ every follower's response stream ──▶ connection, one write
//! ```
//! A follower that has nothing else to do than to pass on the newest events lends its place to its response's body: no task of
//! ours and no queue of ours is between the log and HTTP/2 then, which has a task for each response. All of a company are woken by
//! one task, one after the other, so that they find their connection's state in the processor's cache and their frames leave together.
//! Each gets the piece of bytes that the log made for all who stand where it stands, and then rests until the next beat.
//!
//! Companies take turns within a beat. Were all of them woken at its start, the last would wait for all the others' bytes to leave,
//! and nothing would be done in the rest of it.
//!
//! A schema version that a follower's client does not have yet goes before the piece that needs it, made once for everybody:
//! after a rest, or a change of a table, everybody needs it at the same time.
//!
//! Whatever is not that simple (a new epoch, large or old events, no crowd any more) a follower leaves to its subscription: it
//! gives its position back.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dbstreamd_log::{CROWD_MIN, PieceForm, Tail, TailMoves, TailPiece};
use dbstreamd_model::{Epoch, Offset, SchemaId, StreamId};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::schema_cache::SchemaCache;
use super::{encode, wire};
use crate::delivery::FLOOR_BYTES;

/// Half a crowd is left to itself: so nobody goes to and fro when there are about as many as make a crowd.
const DISSOLVES_BELOW: usize = CROWD_MIN / 2;

/// A piece is a gRPC message, ready for the wire, and no larger than what everybody gets in any case.
const FORM: PieceForm = PieceForm { encode: encode::chunk, head: wire::events_head, bytes_max: FLOOR_BYTES };

/// One connection's companies, one for each stream.
#[derive(Clone, Default)]
pub(crate) struct Companies {
    all: Arc<Mutex<Vec<Arc<Company>>>>,
    /// Shared with other connections'.
    schemas: Arc<SchemaCache>,
}

/// Those of one connection that follow one stream.
struct Company {
    stream: StreamId,
    tail: Tail,
    /// Its members may deliver so far; [`DISSOLVED`] when they must go.
    through: AtomicU64,
    members: Mutex<Members>,
    schemas: Arc<SchemaCache>,
    /// The last one has left.
    left: Notify,
}

/// No offset: the company is no more.
const DISSOLVED: u64 = u64::MAX;

#[derive(Default)]
struct Members {
    /// By place; none for a place that is free, or whose member has not been polled.
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

/// A follower's place in the stream, lent to its response stream.
pub(super) struct Follower {
    company: Arc<Company>,
    place: usize,
    /// The one that the company has.
    waker: Option<Waker>,
    next: Offset,
    epoch: Epoch,
    /// Schema versions the client has.
    known: Vec<SchemaId>,
    /// The one of those that was needed last.
    last_known: Option<SchemaId>,
    begun_at: Instant,
    back: Option<oneshot::Sender<Returned>>,
}

/// What a follower passes on.
pub(super) enum Passed {
    /// A schema, as a message.
    Schema(Bytes),
    Events(Arc<TailPiece>),
}

/// What a follower gives back to its subscription.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Returned {
    /// The last event that was passed on.
    pub(super) through: Offset,
    /// Schema versions the client has.
    pub(super) known: Vec<SchemaId>,
}

/// What a follower must know of its subscription.
pub(super) struct Standing {
    /// The next event to deliver.
    pub(super) next: Offset,
    /// The epoch of what was delivered.
    pub(super) epoch: Epoch,
    /// Schema versions the client has.
    pub(super) known: Vec<SchemaId>,
    /// What became visible before that is not timed.
    pub(super) begun_at: Instant,
}

impl Companies {
    /// A new connection's.
    pub(super) fn new(schemas: &Arc<SchemaCache>) -> Self {
        Self { all: Arc::default(), schemas: Arc::clone(schemas) }
    }

    /// Joins those who follow `stream`. Where to go on comes back when the follower can do no more; nothing when its response
    /// stream is gone.
    pub(super) fn join(
        &self,
        stream: StreamId,
        tail: &Tail,
        standing: Standing,
    ) -> (Follower, oneshot::Receiver<Returned>) {
        let mut all = self.all.lock();
        all.retain(|company| !company.is_dissolved());
        let company = match all.iter().find(|company| company.stream == stream) {
            Some(company) => Arc::clone(company),
            None => {
                let (tail, moves) = (tail.clone(), tail.moves());
                let company = Arc::new(Company {
                    stream,
                    tail,
                    through: AtomicU64::new(0),
                    members: Mutex::default(),
                    schemas: Arc::clone(&self.schemas),
                    left: Notify::new(),
                });
                tokio::spawn(conduct(Arc::clone(&company), moves));
                all.push(Arc::clone(&company));
                company
            }
        };
        let place = company.members.lock().enter();
        drop(all);
        let (back, returned) = oneshot::channel();
        let Standing { next, epoch, known, begun_at } = standing;
        (
            Follower { company, place, waker: None, next, epoch, known, last_known: None, begun_at, back: Some(back) },
            returned,
        )
    }
}

/// After so many beats without anything new a company waits to be woken.
const QUIET_BEATS_MAX: u32 = 20;
/// Spreads companies evenly over a beat, however many there are: the golden ratio's fraction of 2^32, added for each.
const PHASE_STEP: u32 = 0x9E37_79B9;

/// Where in a beat each company has its turn, counted through all of them.
static PHASES: AtomicU32 = AtomicU32::new(0);

/// When, in every beat, one company has its turn.
struct Turns {
    origin: Instant,
    phase: f64,
}

impl Turns {
    fn next() -> Self {
        static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
        let phase = PHASES.fetch_add(PHASE_STEP, Relaxed);
        Self { origin: *ORIGIN, phase: f64::from(phase) / 4_294_967_296.0 }
    }

    /// The first turn after `now`.
    fn after(&self, now: Instant, beat: Duration) -> Instant {
        let beat_seconds = beat.as_secs_f64();
        let since = now.saturating_duration_since(self.origin).as_secs_f64() / beat_seconds - self.phase;
        let part = since - since.floor();
        now + beat.mul_f64(1.0 - part)
    }
}

/// Tells a company how far it may deliver, beat by beat, until nobody is left or it is a crowd's no more.
async fn conduct(company: Arc<Company>, mut moves: TailMoves) {
    let turns = Turns::next();
    let mut quiet_beats = QUIET_BEATS_MAX;
    let mut told = Offset::NONE;
    loop {
        if company.tail.followers() < DISSOLVES_BELOW {
            return company.dissolve();
        }
        let visible = company.tail.visible();
        quiet_beats = if visible > std::mem::replace(&mut told, visible) { 0 } else { quiet_beats.saturating_add(1) };
        if quiet_beats == 0 {
            company.ring(visible.0);
        }
        let waits = async {
            match company.tail.beat() {
                Some(beat) if quiet_beats < QUIET_BEATS_MAX => {
                    let turn = turns.after(Instant::now(), beat);
                    tokio::time::sleep_until(turn.into()).await;
                    Ok(())
                }
                _ if moves.visible() > told => Ok(()),
                _ => moves.moved().await,
            }
        };
        tokio::select! {
            waited = waits => if waited.is_err() {
                return company.dissolve();
            },
            () = company.left.notified() => if company.members.lock().is_empty() {
                // Who enters meanwhile finds it dissolved, and comes back.
                return company.dissolve();
            },
        }
    }
}

impl Company {
    fn is_dissolved(&self) -> bool {
        self.through.load(Acquire) == DISSOLVED
    }

    fn dissolve(&self) {
        self.ring(DISSOLVED);
    }

    /// Wakes everybody, for what is visible through `through`.
    fn ring(&self, through: u64) {
        self.through.fetch_max(through, AcqRel);
        self.members.lock().wakers.iter().flatten().for_each(Waker::wake_by_ref);
    }
}

impl Members {
    fn enter(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.wakers.push(None);
            self.wakers.len() - 1
        })
    }

    fn leave(&mut self, place: usize) -> Option<Waker> {
        self.free.push(place);
        self.wakers.get_mut(place).and_then(Option::take)
    }

    fn is_empty(&self) -> bool {
        self.free.len() == self.wakers.len()
    }
}

impl Follower {
    /// What comes next; none when the subscription must go on by itself, to which it then gives its place back.
    pub(super) fn poll_next(&mut self, context: &Context<'_>) -> Poll<Option<Passed>> {
        if self.waker.as_ref().is_none_or(|waker| !waker.will_wake(context.waker())) {
            self.waker = Some(context.waker().clone());
            if let Some(own) = self.company.members.lock().wakers.get_mut(self.place) {
                own.clone_from(&self.waker);
            }
        }
        // After enlisting: a ring between the two is not missed.
        let through = self.company.through.load(Acquire);
        if through != DISSOLVED && self.next.0 > through {
            return Poll::Pending;
        }
        let passed = if through == DISSOLVED { None } else { self.take(Offset(through)) };
        if passed.is_none()
            && let Some(back) = self.back.take()
        {
            // A subscription that has ended needs it no more.
            let _ = back.send(Returned { through: self.next.previous(), known: std::mem::take(&mut self.known) });
        }
        Poll::Ready(passed)
    }

    fn take(&mut self, through: Offset) -> Option<Passed> {
        let piece = self.company.tail.piece(self.next, through, FORM)?;
        if piece.epoch() != self.epoch {
            return None;
        }
        let is_known = |id: &SchemaId| self.last_known == Some(*id) || self.known.contains(id);
        if let Some(id) = piece.schemas().iter().find(|id| !is_known(id)) {
            let message = self.company.schemas.message(self.company.stream, *id, &self.company.tail)?;
            self.known.push(*id);
            return Some(Passed::Schema(message));
        }
        self.last_known = piece.schemas().last().copied().or(self.last_known);
        self.next = piece.last_offset().next();
        Some(Passed::Events(piece))
    }

    /// Since when a piece's events have been visible, if they became so during this subscription.
    pub(super) fn visible_at(&self, piece: &TailPiece) -> Option<Instant> {
        piece.visible_at().filter(|at| *at >= self.begun_at)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut members = self.company.members.lock();
        let waker = members.leave(self.place);
        let last = members.is_empty();
        drop(members);
        // Not under the lock: it may be all that is left of its task.
        drop(waker);
        if last {
            self.company.left.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use dbstreamd_log::{Appender, Log, LogOptions, Pump, Reader, StartAt, UnitHead};
    use dbstreamd_model::{Lsn, Op, ReplicaIdentity, TableSchema, Timestamp};
    use prost::Message as _;
    use tempfile::TempDir;

    use super::*;
    use crate::proto::SubscribeResponse;
    use crate::proto::subscribe_response::Response;

    /// Counts.
    struct Calls(AtomicUsize, Notify);

    impl Wake for Calls {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
            self.1.notify_one();
        }
    }

    /// A stream without events, and a crowd of its readers.
    struct Scene {
        appender: Appender,
        crowd: Vec<Reader>,
        calls: Arc<Calls>,
        companies: Companies,
        stream: StreamId,
        tail: Tail,
        log: Log,
        dir: TempDir,
    }

    impl Scene {
        async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let log = Log::open(LogOptions::with_dir(dir.path())).unwrap();
            let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
            let mut appender = log.appender(stream).unwrap();
            appender.begin_session().await.unwrap();
            let crowd = (0..CROWD_MIN).map(|_| log.reader(stream, StartAt::Latest).unwrap()).collect();
            let calls = Arc::new(Calls(AtomicUsize::new(0), Notify::new()));
            let tail = log.tail(stream).unwrap();
            Self { appender, crowd, calls, companies: Companies::default(), stream, tail, log, dir }
        }
    }

    fn append(appender: &mut Appender, number: u64) {
        appender.begin_unit(UnitHead { commit_lsn: Lsn(100 * number), commit_time: Timestamp(1), xid: 7 });
        appender.append(Op::Message, None, b"\x01audit\0\0\0\0\x02hi");
        appender.end_unit(Lsn(100 * number + 50));
        appender.pump(Pump::Now).unwrap();
    }

    fn standing(next: u64) -> Standing {
        Standing { next: Offset(next), epoch: Epoch::FIRST, known: Vec::new(), begun_at: Instant::now() }
    }

    fn response(message: &Bytes) -> Response {
        // Behind the five bytes of gRPC's own.
        SubscribeResponse::decode(message.get(5..).unwrap()).unwrap().response.unwrap()
    }

    fn offsets(piece: &TailPiece) -> Vec<u64> {
        let Response::Events(batch) = response(piece.bytes()) else { panic!("no events") };
        batch.events.iter().map(|event| event.offset).collect()
    }

    /// The next piece, when nothing has to go before it.
    fn poll_piece(follower: &mut Follower, context: &Context<'_>) -> Poll<Option<Arc<TailPiece>>> {
        follower.poll_next(context).map(|passed| {
            passed.map(|passed| match passed {
                Passed::Events(piece) => piece,
                Passed::Schema(_) => panic!("a schema"),
            })
        })
    }

    #[tokio::test]
    async fn a_schema_goes_before_the_first_piece_that_needs_it_once_and_one_message_is_for_all() {
        let Scene { mut appender, crowd, calls, companies, stream, tail, log: _log, dir: _dir } = Scene::new().await;
        let mut insert = |number: u64, table: &str| {
            let schema = Arc::new(TableSchema {
                namespace: "public".into(),
                table: table.into(),
                replica_identity: ReplicaIdentity::Default,
                columns: Vec::new(),
            });
            let id = appender.schema(&schema, None);
            appender.begin_unit(UnitHead { commit_lsn: Lsn(100 * number), commit_time: Timestamp(1), xid: 7 });
            appender.append(Op::Insert, Some(id), b"N\0\0");
            appender.end_unit(Lsn(100 * number + 50));
            appender.pump(Pump::Now).unwrap();
            id
        };
        let waker = Waker::from(Arc::clone(&calls));
        let context = Context::from_waker(&waker);
        let (mut one, one_back) = companies.join(stream, &tail, standing(1));
        let (mut other, _other_back) = companies.join(stream, &tail, standing(1));
        assert!(one.poll_next(&context).is_pending() && other.poll_next(&context).is_pending());

        let orders = insert(1, "orders");
        let message = loop {
            calls.1.notified().await;
            if let Poll::Ready(passed) = one.poll_next(&context) {
                let Some(Passed::Schema(message)) = passed else { panic!("no schema") };
                break message;
            }
        };
        let Response::Schema(schema) = response(&message) else { panic!("another message") };
        assert_eq!(schema.table, "orders");
        let Poll::Ready(Some(piece)) = poll_piece(&mut one, &context) else { panic!("nothing behind the schema") };
        assert_eq!(offsets(&piece), [1]);
        let Poll::Ready(Some(Passed::Schema(same))) = other.poll_next(&context) else { panic!("no schema") };
        assert_eq!(same.as_ptr(), message.as_ptr());

        // Another row of the same table, and a first one of another.
        insert(2, "orders");
        let items = insert(3, "items");
        let mut seen = Vec::new();
        while seen.len() < 3 {
            match one.poll_next(&context) {
                Poll::Ready(Some(Passed::Events(piece))) => seen.extend(offsets(&piece)),
                Poll::Ready(Some(Passed::Schema(message))) => {
                    let Response::Schema(schema) = response(&message) else { panic!("another message") };
                    assert_eq!(schema.table, "items");
                    seen.push(0);
                }
                Poll::Ready(None) => panic!("given back"),
                Poll::Pending => calls.1.notified().await,
            }
        }
        assert!(seen == [0, 2, 3] || seen == [2, 0, 3], "{seen:?}");

        // The subscription is told what its client has.
        one.company.dissolve();
        while let Poll::Ready(Some(_)) = one.poll_next(&context) {}
        let returned = one_back.await.unwrap();
        assert_eq!(returned, Returned { through: Offset(3), known: vec![orders, items] });
        drop(crowd);
    }

    #[test]
    fn companies_have_one_turn_in_each_beat_and_not_all_at_once() {
        let (beat, now) = (Duration::from_millis(50), Instant::now() + Duration::from_secs(1));
        let all: Vec<_> = (0..100).map(|_| Turns::next()).collect();
        let mut per_tenth = [0; 10];
        for turns in &all {
            let first = turns.after(now, beat);
            assert!(first > now && first <= now + beat);
            let second = turns.after(first + Duration::from_micros(100), beat);
            assert!(second.duration_since(first).abs_diff(beat) < Duration::from_micros(10), "{:?}", second - first);
            per_tenth[(first.duration_since(now).as_micros() / 5000).min(9) as usize] += 1;
        }
        assert!(per_tenth.iter().all(|count| (7..=13).contains(count)), "{per_tenth:?}");
    }

    #[tokio::test]
    async fn who_stands_together_gets_one_piece_and_rests_and_without_a_crowd_all_give_their_places_back() {
        let Scene { mut appender, crowd, calls, companies, stream, tail, log: _log, dir: _dir } = Scene::new().await;

        let waker = Waker::from(Arc::clone(&calls));
        let context = Context::from_waker(&waker);
        let (mut one, one_back) = companies.join(stream, &tail, standing(1));
        let (mut other, other_back) = companies.join(stream, &tail, standing(1));
        assert!(Arc::ptr_eq(&one.company, &other.company));
        assert!(poll_piece(&mut one, &context).is_pending() && poll_piece(&mut other, &context).is_pending());

        append(&mut appender, 1);
        let piece = loop {
            calls.1.notified().await;
            if let Poll::Ready(piece) = poll_piece(&mut one, &context) {
                break piece.unwrap();
            }
        };
        assert_eq!(offsets(&piece), [1]);
        let Poll::Ready(Some(same)) = poll_piece(&mut other, &context) else { panic!("nothing for the other") };
        assert!(Arc::ptr_eq(&piece, &same));
        assert!(poll_piece(&mut one, &context).is_pending(), "it has all there is");

        let (mut late, late_back) = companies.join(stream, &tail, standing(1));
        let Poll::Ready(Some(for_late)) = poll_piece(&mut late, &context) else { panic!("nothing for who comes late") };
        assert!(Arc::ptr_eq(&piece, &for_late));
        late.epoch = Epoch(2);
        late.next = Offset(1);
        assert!(
            matches!(poll_piece(&mut late, &context), Poll::Ready(None)),
            "another epoch is its subscription's business"
        );
        assert_eq!(late_back.await.unwrap().through, Offset(0));

        drop(crowd);
        append(&mut appender, 2);
        let given_back = async {
            loop {
                match poll_piece(&mut one, &context) {
                    Poll::Ready(None) => break,
                    Poll::Ready(Some(piece)) => assert_eq!(offsets(&piece), [2]),
                    Poll::Pending => calls.1.notified().await,
                }
            }
        };
        given_back.await;
        assert_eq!(one_back.await.unwrap().through, one.next.previous());
        drop(other);
        assert!(other_back.await.is_err(), "who is gone gives nothing back");
    }
}
