//! Delivery to one subscriber: one task, one loop, one closed enum of what can happen.
//!
//! ```text
//!   log ──chunk──▶ Feed ──response──▶ Outbox ──▶ HTTP/2 ──▶ client
//!                   ▲ credit                                   │
//!   log ◀─commit── Acks ◀──────────── acknowledge ◀────────────┘
//! ```
//! The feed (`feed`) turns chunks into responses, the acks (`acks`) make positions durable; this file decides what
//! happens next. It ends with a status for every reason but one: the client going away.

use std::sync::Arc;
use std::time::Duration;

use dbstreamd_log::{
    Attendance, Beginning, CROWD_MIN, ChunkSlice, ConsumerState, Durable, Log, LogError, SnapshotReason, Tail,
};
use dbstreamd_model::{ConsumerName, Offset, StreamId};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::acks::Acks;
use super::boundary::Boundary;
use super::company::{Companies, Returned};
use super::details;
use super::dozing::Dozing;
use super::feed::{Feed, Halt};
use super::outbox::{Outbox, Room};
use super::start::Plan;
use super::status::from_log;
use super::wire::Response;
use crate::consumers::Seat;
use crate::directory::Directory;
use crate::parking::{self, Way};
use crate::proto;
use crate::proto::subscribe_request::Request as Asked;

/// A client that says nothing after opening the call is not waited for longer.
const START_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long the last acknowledgement may take to become durable after the call has ended.
const LAST_COMMIT_WAIT_MAX: Duration = Duration::from_secs(5);

/// How long a consumer waits for its predecessor to store its last acknowledgement: all that one may take, and a
/// moment to notice that it has to.
const TAKEOVER_WAIT_MAX: Duration = LAST_COMMIT_WAIT_MAX.saturating_add(Duration::from_secs(1));

/// Progress is sent at most this often.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// A subscription that could send nothing for this long lets go of what it read from disk: memory for that is shared, and
/// others wait for it in line.
const HOLD_MAX: Duration = Duration::from_secs(1);

/// Everything that can happen to a running subscription.
enum Happening {
    /// The daemon stops.
    Shutdown,
    /// Another subscription took the consumer's seat.
    Replaced,
    /// The client went away.
    Gone,
    /// The client asked for something; none when it will ask no more.
    Asked(Option<Result<proto::SubscribeRequest, Status>>),
    /// An acknowledgement is durable, or was refused.
    Committed(Result<Durable<Offset>, LogError>),
    /// The log has more.
    Read(Result<ChunkSlice, LogError>),
    /// There is room for a response.
    Room(Option<Room>),
    /// What was read has been in hand for too long.
    HeldLong,
    /// Time to say how far we are.
    ProgressDue,
    /// The connection has passed on all it can by itself; none when it is gone.
    PassedOn(Option<Returned>),
}

/// Serves one `Subscribe` call to its end.
pub(super) async fn serve(
    directory: Arc<Directory>,
    mut requests: Streaming<proto::SubscribeRequest>,
    outbox: Outbox,
    companies: Companies,
    shutdown: CancellationToken,
) {
    let begun = tokio::select! {
        begun = Subscription::begin(&directory, companies, &mut requests) => begun,
        () = outbox.closed() => return,
        () = shutdown.cancelled() => Err(shutting_down()),
    };
    let mut subscription = match begun {
        Ok(subscription) => subscription,
        Err(status) => return outbox.fail(status),
    };
    let ended = subscription.run(&mut requests, &outbox, &shutdown).await;
    // Positions first: who sees the end of the call may look up its committed offset at once.
    subscription.acks.finish(LAST_COMMIT_WAIT_MAX).await;
    drop(subscription.seat.take());
    if let Err(status) = ended {
        tracing::debug!(stream = %subscription.plan.entry.name, code = ?status.code(), reason = status.message(), "subscription ended");
        outbox.fail(status);
    }
}

fn shutting_down() -> Status {
    Status::unavailable("the daemon is shutting down: reconnect to go on behind the last acknowledged offset")
}

struct Subscription {
    directory: Arc<Directory>,
    /// Those of the same connection.
    companies: Companies,
    tail: Tail,
    plan: Plan,
    seat: Option<Seat>,
    feed: Feed,
    acks: Acks,
    /// The client will ask for nothing more.
    half_closed: bool,
    /// While it is here a consumer does not lose its hold by absence.
    _attendance: Option<Attendance>,
}

impl Subscription {
    async fn begin(
        directory: &Arc<Directory>,
        companies: Companies,
        requests: &mut Streaming<proto::SubscribeRequest>,
    ) -> Result<Self, Status> {
        let first = tokio::time::timeout(START_WAIT_MAX, requests.message()).await.map_err(|_| {
            Status::deadline_exceeded(format!("no start request within {} s", START_WAIT_MAX.as_secs()))
        })??;
        let Some(Asked::Start(start)) = first.and_then(|first| first.request) else {
            return Err(Status::invalid_argument("the first request must be start"));
        };
        let mut plan = Plan::new(start, directory)?;
        let seat = plan.consumer.clone().map(|name| directory.registry.take(plan.entry.id, name));
        if let Some(left) = seat.as_ref().and_then(|seat| seat.predecessor_left.as_ref()) {
            // Whether it left in time or not: a late acknowledgement only ever moves the position forward.
            let _ = tokio::time::timeout(TAKEOVER_WAIT_MAX, left.cancelled()).await;
        }
        let held = plan.held_at_boundaries();
        let reader = plan.open(directory).await?;
        let (log, stream) = (directory.log().clone(), plan.entry.id);
        let boundary = Boundary::new(log.clone(), stream, reader.position(), held);
        let feed = Feed::new(log.clone(), stream, reader, boundary, std::mem::take(&mut plan.filter), plan.credit);
        let feed = if plan.typed { feed.typed() } else { feed };
        let (begun_behind, _) = feed.reached();
        let (attendance, has) = match &plan.consumer {
            Some(consumer) => introduce(&log, stream, consumer, begun_behind, plan.beginning()).await?,
            None => (None, None),
        };
        let tail = log.tail(stream).map_err(|error| from_log(&error))?;
        let acks = Acks::new(log, stream, plan.consumer.clone(), has);
        Ok(Self {
            directory: Arc::clone(directory),
            companies,
            tail,
            plan,
            seat,
            feed,
            acks,
            half_closed: false,
            _attendance: attendance,
        })
    }

    /// Delivers until something ends it. `Ok` when the client went away or all it asked for was delivered.
    async fn run(
        &mut self,
        requests: &mut Streaming<proto::SubscribeRequest>,
        outbox: &Outbox,
        shutdown: &CancellationToken,
    ) -> Result<(), Status> {
        let replaced = self.seat.as_ref().map_or_else(CancellationToken::new, |seat| seat.replaced.clone());
        let ends = async {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => Happening::Shutdown,
                () = replaced.cancelled() => Happening::Replaced,
                () = outbox.closed() => Happening::Gone,
            }
        };
        let mut ends = std::pin::pin!(ends);
        let mut ends = Dozing::new(ends.as_mut());
        let mut requests = Dozing::new(requests);
        let mut waiting = Some(self.feed.started(self.plan.entry.name.as_str())?);
        let mut progress_from = tokio::time::Instant::now();
        let mut held_from = progress_from;
        // It has let go, and reads again when there is room.
        let mut parked = false;
        // The connection takes the newest events by itself.
        let mut lent = None;
        loop {
            let may_send = waiting.is_some() || self.feed.has_events();
            if lent.is_none() && !may_send && !parked {
                lent = self.lend(outbox);
            }
            let may_read = !may_send && !parked && lent.is_none() && self.feed.wants_data();
            let progress_due = !may_send && lent.is_none() && self.feed.progress_due();
            if waiting.is_none() && self.half_closed && self.feed.credit_spent() {
                return Ok(());
            }
            let holds = !may_read && self.feed.holds_read_ahead();
            let happening = tokio::select! {
                biased;
                end = ends.done() => end,
                committed = self.acks.committed(), if self.acks.in_flight() => Happening::Committed(committed),
                asked = requests.next(), if !self.half_closed => Happening::Asked(asked),
                room = outbox.room(), if may_send || parked => Happening::Room(room),
                () = tokio::time::sleep_until(held_from + HOLD_MAX), if holds => Happening::HeldLong,
                () = tokio::time::sleep_until(progress_from), if progress_due => Happening::ProgressDue,
                passed_on = returned(&mut lent), if lent.is_some() => Happening::PassedOn(passed_on),
                read = self.feed.read(), if may_read => Happening::Read(read),
            };
            match happening {
                Happening::Shutdown => return Err(shutting_down()),
                Happening::Replaced => return Err(self.replaced()),
                Happening::Gone => return Ok(()),
                Happening::Committed(result) => self.acks.settle(result).map_err(|error| from_log(&error))?,
                Happening::Asked(None) => self.half_closed = true,
                Happening::Asked(Some(request)) => {
                    self.asked(request?)?;
                    self.skip()?;
                }
                Happening::Read(Ok(slice)) => {
                    self.feed.take(slice).map_err(|status| self.plan.at_boundary(&self.directory, &status))?;
                    held_from = tokio::time::Instant::now();
                }
                Happening::Read(Err(error)) => {
                    let way = tokio::select! {
                        way = parking::way_around(&self.directory, &self.plan.entry, &error) => way,
                        () = shutdown.cancelled() => return Err(shutting_down()),
                        () = outbox.closed() => return Ok(()),
                    };
                    match way {
                        Some(Way::Again) => {}
                        Some(Way::Skip(skip)) => waiting = Some(self.feed.skip(&skip)),
                        Some(Way::Park) | None => return Err(self.plan.refusal(&self.directory, &error)),
                    }
                }
                Happening::Room(Some(room)) => {
                    let response = match waiting.take() {
                        None => self.next_response(room.bytes())?,
                        waiting => waiting,
                    };
                    if let Some(response) = response {
                        outbox.send(response, room, self.feed.take_visible_at());
                    }
                    held_from = tokio::time::Instant::now();
                    parked = false;
                }
                Happening::HeldLong => {
                    self.feed.let_go();
                    parked = true;
                }
                Happening::Room(None) | Happening::PassedOn(None) => return Ok(()),
                Happening::PassedOn(Some(returned)) => {
                    lent = None;
                    self.feed.passed_on(returned);
                }
                Happening::ProgressDue => {
                    self.skip()?;
                    waiting = Some(self.feed.progress()?);
                    progress_from = tokio::time::Instant::now() + PROGRESS_INTERVAL;
                }
            }
        }
    }

    /// Lets the connection pass on what comes, when a crowd follows the stream and this subscription does nothing else.
    fn lend(&self, outbox: &Outbox) -> Option<oneshot::Receiver<Returned>> {
        if self.tail.followers() < CROWD_MIN {
            return None;
        }
        let standing = self.feed.follows()?;
        let (follower, returned) = self.companies.join(self.plan.entry.id, &self.tail, standing);
        outbox.follow(follower);
        Some(returned)
    }

    /// What the filter drops need not be acknowledged.
    fn skip(&mut self) -> Result<(), Status> {
        let (delivered, considered) = self.feed.reached();
        self.acks.skipped(delivered, considered)
    }

    fn asked(&mut self, request: proto::SubscribeRequest) -> Result<(), Status> {
        match request.request {
            Some(Asked::Credit(credit)) => self.feed.add_credit(credit.events),
            Some(Asked::Acknowledge(acknowledge)) => self.acks.acknowledge(Offset(acknowledge.offset)),
            Some(Asked::Start(_)) => Err(Status::invalid_argument("start may be sent only once, as the first request")),
            // A request of a later version of the contract.
            None => Err(Status::unimplemented("this daemon does not know that request: it is older than the client")),
        }
    }

    fn next_response(&mut self, bytes_max: usize) -> Result<Option<Response>, Status> {
        match self.feed.next_response(bytes_max) {
            Ok(response) => Ok(response),
            Err(Halt::Status(status)) => Err(status),
            Err(Halt::Unreadable(value)) => match parking::at_value(&self.directory, &self.plan.entry, &value) {
                Some(skip) => Ok(Some(self.feed.skip(&skip))),
                None => Err(details::value_unreadable(self.plan.entry.name.as_str(), &value)),
            },
        }
    }

    fn replaced(&self) -> Status {
        let name = self.plan.consumer.as_ref().map_or("", |name| name.as_str());
        Status::aborted(format!("consumer {name:?} was subscribed again elsewhere, and that subscription goes on"))
    }
}

/// Waits for what was lent. Cancel-safe.
async fn returned(lent: &mut Option<oneshot::Receiver<Returned>>) -> Option<Returned> {
    match lent {
        Some(returned) => returned.await.ok(),
        None => std::future::pending().await,
    }
}

/// Makes a consumer known from its first subscription on, so that it holds the log before it has acknowledged anything; and
/// one that could not go on where it was, where it now begins. Also what it is known to have: unless it jumps ahead
/// of what it committed without need, which only its own acknowledgement makes good.
async fn introduce(
    log: &Log,
    stream: StreamId,
    consumer: &ConsumerName,
    begun_behind: Offset,
    beginning: Beginning,
) -> Result<(Option<Attendance>, Option<Offset>), Status> {
    let known = log.consumer(stream, consumer);
    let anew = known.as_ref().is_none_or(|known| {
        let crosses = known.epoch.is_some_and(|epoch| log.epoch_at(stream, begun_behind.next()) > epoch);
        let trimmed = known.state == ConsumerState::NeedsSnapshot(SnapshotReason::Trimmed);
        beginning == Beginning::Knowing && (crosses || trimmed)
    });
    if anew {
        log.begin_consumer(stream, consumer, begun_behind, beginning).await.map_err(|error| from_log(&error))?;
    }
    let has = (anew || known.is_some_and(|known| begun_behind <= known.committed)).then_some(begun_behind);
    Ok((Some(log.attend(stream, consumer)), has))
}
