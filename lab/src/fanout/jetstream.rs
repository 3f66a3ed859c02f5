//! The reference: NATS JetStream with as many subscribers.
//!
//! A message has its number in front and is as long as an event of dbstreamd. Each is published at its moment, and counts as
//! committed when JetStream has answered that it is stored; nothing else is at work beside it.

use std::sync::Arc;
use std::time::Duration;

use super::follower::{Tally, Watch};
use super::measure::{Followers, Run, Watched, look_on, settled_rss};
use super::{Crowd, WARM_UP_SECONDS};
use crate::error::{LabError, io};
use crate::nats::{Connection, From, JetStream, Operation, Program, SUBJECT, Server};
use crate::procfs;

/// What a subscriber has.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum By {
    /// A consumer of its own: it keeps its place, and what it misses is sent again.
    Consumer,
    /// A plain subscription to the same subject: what it misses is lost.
    Subscription,
}

/// One run with a fresh server; `event_bytes` is the length of a message.
///
/// # Errors
/// When there is no such server, or a single subscriber did not get everything.
pub(super) fn once(crowd: &Crowd, program: &Program, by: By, event_bytes: u64) -> Result<Run, LabError> {
    let folder = tempfile::tempdir().map_err(io("temporary folder"))?;
    let server = Server::start(program, folder.path())?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(io("the subscribers' runtime"))?;
    let run = runtime.block_on(measure(crowd, &server, by, event_bytes));
    runtime.shutdown_background();
    run
}

async fn measure(crowd: &Crowd, server: &Server, by: By, event_bytes: u64) -> Result<Run, LabError> {
    let address = server.address().to_owned();
    let mut control = JetStream::connect(&address, "control").await?;
    control.create_stream().await?;
    let mut publisher = Publisher { jetstream: control, message: message(event_bytes), next: 0 };
    let warm_up = WARM_UP_SECONDS * crowd.rate;
    publisher.publish(warm_up, crowd.rate, |_| {}).await?;
    let without = procfs::rss(server.pid())?;

    let events = crowd.rate * crowd.seconds;
    let watch = Arc::new(Watch::new(warm_up, events, crowd.rate)?);
    let followers = follow(crowd, &address, by, &mut publisher.jetstream, (&watch, warm_up)).await?;
    let idle = settled_rss(server.pid()).await?;

    let watched = Watched { server: server.pid(), database: None };
    let counting = Arc::clone(&watch);
    let rate = crowd.rate;
    let write = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(io("the publisher's runtime"))?;
        runtime.block_on(async {
            // Its socket belongs to the runtime that it was opened in.
            publisher.jetstream = JetStream::connect(&address, "publisher").await?;
            publisher.publish(events, rate, |number| counting.committed(number - warm_up)).await
        })
    };
    look_on(crowd, &watch, watched, (without, idle), followers, write).await
}

/// A message with room for its number.
fn message(bytes: u64) -> Vec<u8> {
    vec![b'x'; usize::try_from(bytes).unwrap_or(0).max(size_of::<u64>())]
}

/// Who gives JetStream its messages.
struct Publisher {
    jetstream: JetStream,
    message: Vec<u8>,
    /// The number of the next.
    next: u64,
}

impl Publisher {
    /// Publishes `messages` at `rate` per second, and calls `stored` with the number of each once JetStream has said so.
    async fn publish(&mut self, messages: u64, rate: u64, mut stored: impl FnMut(u64)) -> Result<(), LabError> {
        let mut pace = tokio::time::interval(Duration::from_secs(1) / u32::try_from(rate.max(1)).unwrap_or(u32::MAX));
        for _ in 0..messages {
            pace.tick().await;
            if let Some(number) = self.message.first_chunk_mut() {
                *number = self.next.to_be_bytes();
            }
            self.jetstream.store(&self.message).await?;
            stored(self.next);
            self.next += 1;
        }
        Ok(())
    }
}

/// Opens all subscriptions and lets each connection go on in a task of its own.
async fn follow(
    crowd: &Crowd,
    address: &str,
    by: By,
    control: &mut JetStream,
    (watch, first): (&Arc<Watch>, u64),
) -> Result<Followers, LabError> {
    let mut tasks = Vec::with_capacity(crowd.connections);
    for number in 0..crowd.connections {
        let mut connection = Connection::open(address, &format!("line{number}")).await?;
        let mut subjects = Vec::new();
        for subscriber in crowd.of(number) {
            let subject = match by {
                By::Consumer => format!("to.{subscriber}"),
                By::Subscription => SUBJECT.to_owned(),
            };
            // Numbers of subscriptions begin at 1.
            connection.subscribe(&subject, subjects.len() as u64 + 1);
            subjects.push(subject);
        }
        // A subscription must be there before its consumer.
        connection.sync().await?;
        if by == By::Consumer {
            for subject in &subjects {
                control.create_consumer(subject, From::Now).await?;
            }
        }
        let line = Line { connection, next: vec![first; subjects.len()] };
        let watch = Arc::clone(watch);
        tasks.push(tokio::spawn(async move {
            if let Err(problem) = line.follow(&watch, first).await {
                *watch.problem.lock() = Some(problem);
            }
        }));
    }
    Ok(tasks)
}

/// A connection with its subscribers.
struct Line {
    connection: Connection,
    /// The number that each subscriber is to get next.
    next: Vec<u64>,
}

impl Line {
    /// Receives everything up to the last message for all its subscribers, and checks it.
    async fn follow(mut self, watch: &Watch, first: u64) -> Result<(), LabError> {
        let mut tally = Tally::new()?;
        let (end, mut left) = (first + watch.events(), self.next.len());
        while left > 0 {
            let (mut done, mut now) = (0, None);
            let (next, tally_now) = (&mut self.next, &mut tally);
            self.connection
                .receive(|operation| {
                    let Operation::Message { subscription, payload } = operation else { return Ok(()) };
                    let unexpected = || LabError::Failed("NATS sent a message that nobody waits for".into());
                    let place = usize::try_from(subscription).ok().and_then(|id| id.checked_sub(1));
                    let due = place.and_then(|place| next.get_mut(place)).ok_or_else(unexpected)?;
                    let number =
                        payload.first_chunk().map(|number| u64::from_be_bytes(*number)).ok_or_else(unexpected)?;
                    if number != *due {
                        let problem = format!("subscriber {subscription} got message {number} in place of {due}");
                        return Err(LabError::Failed(problem));
                    }
                    *due += 1;
                    // A message is a response of its own.
                    tally_now.answered();
                    done += usize::from(*due == end);
                    watch.received(number - first, payload.len(), *now.get_or_insert_with(|| watch.now()), tally_now);
                    Ok(())
                })
                .await?;
            left = left.saturating_sub(done);
            if left == 0 {
                watch.finish(&tally)?;
            }
            watch.report(&mut tally, done);
        }
        Ok(())
    }
}
