//! Three consumers that live through a cycle, and remember what each offset held when they saw it.
//!
//! *Always on*: anonymous, resumes behind its own last offset. *Named*: the daemon keeps its position, it acknowledges
//! less often than it reads, dies and comes back. *Slow*: anonymous, with little credit. What they remember is compared
//! with a full replay at the end of the cycle; what is wrong at once (a hole, another content under an offset seen
//! before, a position that cannot be read any more) is a violation at once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::daemon::STREAM;
use crate::oracle::{Violation, Violations};
use dbstreamd_client::subscribe_request::Request;
use dbstreamd_client::subscribe_response::Response;
use dbstreamd_client::{
    Acknowledge, CommitOffsetRequest, Credit, Empty, Event, Start, StartFrom, SubscribeRequest, start_from,
};

/// Pause before subscribing again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(60);
/// The slow consumer's credit, and its pause per credit: about two thousand events a second, less than is written.
const SLOW_CREDIT: u64 = 100;
const SLOW_PAUSE: Duration = Duration::from_millis(50);
/// The same when it shall catch up.
const HURRY_CREDIT: u64 = 20_000;
/// The named consumer acknowledges every so many batches, so that some always come again.
const BATCHES_PER_ACKNOWLEDGEMENT: u32 = 3;
/// And every so many batches it commits, which is durable when the answer comes.
const BATCHES_PER_COMMIT: u32 = 10;
const NAME: &str = "named";

/// A kind of consumer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    AlwaysOn,
    Named,
    Slow,
}

/// What a consumer is told to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Conduct {
    Read,
    /// Read as fast as it can.
    Hurry,
    /// Stay connected, and take nothing.
    Still,
    /// Be gone.
    Dead,
    /// End for good.
    End,
}

/// A digest of everything the contract says about one event.
pub(crate) fn digest(event: &Event) -> u64 {
    xxhash_rust::xxh3::xxh3_64(&event.encode_to_vec())
}

/// What a consumer remembers.
#[derive(Default)]
struct Memory {
    /// Digest of offset n at n - 1; dense.
    digests: Vec<u64>,
    /// The newest offset of which the daemon said that its commit is durable.
    committed: u64,
    violations: Violations,
}

/// A running consumer.
pub(crate) struct Consumer {
    kind: Kind,
    conduct: watch::Sender<Conduct>,
    memory: Arc<Mutex<Memory>>,
    task: JoinHandle<()>,
}

impl Consumer {
    pub(crate) fn start(kind: Kind, grpc: &str) -> Self {
        let (conduct, conducts) = watch::channel(Conduct::Read);
        let memory = Arc::new(Mutex::new(Memory::default()));
        let reader = Reader { kind, grpc: grpc.to_owned(), conduct: conducts, memory: memory.clone() };
        Self { kind, conduct, memory, task: tokio::spawn(reader.run()) }
    }

    pub(crate) fn tell(&self, conduct: Conduct) {
        self.conduct.send_replace(conduct);
    }

    /// The highest offset it has seen.
    pub(crate) fn highest(&self) -> u64 {
        lock(&self.memory).digests.len() as u64
    }

    /// Ends it, and compares what it saw with a replay from the beginning.
    pub(crate) async fn finish(self, replay: Option<&[u64]>) -> Vec<Violation> {
        self.tell(Conduct::End);
        let name = format!("{:?}", self.kind);
        let joined = self.task.await;
        let mut memory = std::mem::take(&mut *lock(&self.memory));
        if let Err(error) = joined {
            memory.violations.add("harness", format!("{name} consumer: {error}"));
        }
        if let Some(replay) = replay {
            compare(&name, &memory.digests, replay, &mut memory.violations);
        }
        memory.violations.into_told()
    }
}

/// What was seen live against the replay.
fn compare(name: &str, seen: &[u64], replay: &[u64], violations: &mut Violations) {
    if seen.len() != replay.len() {
        let detail = format!("{name}: saw {} offsets, a replay has {}", seen.len(), replay.len());
        violations.add("replay-equals-live", detail);
    }
    for (at, (live, replayed)) in seen.iter().zip(replay).enumerate() {
        if live != replayed {
            violations
                .add("replay-equals-live", format!("{name}: offset {} was another event when it was live", at + 1));
        }
    }
}

fn lock(memory: &Mutex<Memory>) -> std::sync::MutexGuard<'_, Memory> {
    // What was put in before a panic elsewhere is still right.
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Memory {
    fn take(&mut self, kind: Kind, event: &Event) {
        let (seen, now) = (self.digests.len() as u64, digest(event));
        if event.offset == seen + 1 {
            self.digests.push(now);
        } else if event.offset > seen {
            let detail = format!("{kind:?}: offset {} follows {seen}", event.offset);
            self.violations.add("consumer-dense", detail);
        } else {
            let before = usize::try_from(event.offset).ok().and_then(|offset| self.digests.get(offset.checked_sub(1)?));
            if before != Some(&now) {
                let detail = format!("{kind:?}: offset {} is another event than before", event.offset);
                self.violations.add("offset-keeps-meaning", detail);
            }
        }
    }
}

impl Memory {
    /// A subscription begins here: never before a commit that was durable, never behind what was read.
    fn begin(&mut self, kind: Kind, next_offset: u64) {
        let (lowest, highest) = (self.committed + 1, self.digests.len() as u64 + 1);
        if !(lowest..=highest).contains(&next_offset) {
            let detail = format!("{kind:?}: begins at {next_offset}, not between {lowest} and {highest}");
            self.violations.add("commit-kept", detail);
        }
    }
}

struct Reader {
    kind: Kind,
    grpc: String,
    conduct: watch::Receiver<Conduct>,
    memory: Arc<Mutex<Memory>>,
}

impl Reader {
    async fn run(mut self) {
        loop {
            let conduct = *self.conduct.borrow_and_update();
            match conduct {
                Conduct::End => return,
                Conduct::Dead => {
                    if self.conduct.changed().await.is_err() {
                        return;
                    }
                }
                _ => {
                    if let Err(status) = self.subscribe().await {
                        self.judge(&status);
                    }
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                }
            }
        }
    }

    /// A position that was good once must stay so.
    fn judge(&self, status: &Status) {
        if matches!(status.code(), Code::OutOfRange | Code::DataLoss | Code::InvalidArgument | Code::Unimplemented) {
            let detail = format!("{:?}: {:?} {}", self.kind, status.code(), status.message());
            lock(&self.memory).violations.add("stays-readable", detail);
        }
    }

    fn start(&self) -> Start {
        let seen = lock(&self.memory).digests.len() as u64;
        let from = match seen {
            0 => start_from::From::Earliest(Empty {}),
            seen => start_from::From::Offset(seen + 1),
        };
        let anonymous = Start { stream: STREAM.into(), from: Some(StartFrom { from: Some(from) }), ..Start::default() };
        match self.kind {
            Kind::AlwaysOn => anonymous,
            Kind::Slow => Start { credit_events: SLOW_CREDIT, ..anonymous },
            Kind::Named => Start { stream: STREAM.into(), consumer: NAME.into(), ..Start::default() },
        }
    }

    /// One subscription, until it ends or the conduct changes to something that ends it.
    async fn subscribe(&mut self) -> Result<(), Status> {
        let unreachable = |error: tonic::transport::Error| Status::unavailable(error.to_string());
        let mut client = dbstreamd_client::connect(&self.grpc).await.map_err(unreachable)?;
        let (requests, outgoing) = mpsc::channel(64);
        let send = |request| SubscribeRequest { request: Some(request) };
        let gone = |_| Status::unavailable("the daemon closed the call");
        requests.send(send(Request::Start(self.start()))).await.map_err(gone)?;
        let mut responses = client.subscribe(ReceiverStream::new(outgoing)).await?.into_inner();
        let (mut fingerprints, mut batches, mut taken) = (std::collections::HashSet::new(), 0_u32, 0_u64);
        let mut credit = SLOW_CREDIT;
        loop {
            let conduct = *self.conduct.borrow_and_update();
            match conduct {
                Conduct::Dead | Conduct::End => return Ok(()),
                Conduct::Still => {
                    if self.conduct.changed().await.is_err() {
                        return Ok(());
                    }
                    continue;
                }
                Conduct::Read | Conduct::Hurry => {}
            }
            let response = tokio::select! {
                response = responses.message() => response?,
                _ = self.conduct.changed() => continue,
            };
            let Some(response) = response else { return Ok(()) };
            match response.response {
                Some(Response::Schema(schema)) => {
                    fingerprints.insert(schema.fingerprint);
                }
                Some(Response::Events(batch)) => {
                    let last = batch.events.last().map_or(0, |event| event.offset);
                    for event in &batch.events {
                        if !event.fingerprint.is_empty() && !fingerprints.contains(&event.fingerprint) {
                            let detail = format!("{:?}: offset {} came before its schema", self.kind, event.offset);
                            lock(&self.memory).violations.add("schema-first", detail);
                        }
                        lock(&self.memory).take(self.kind, event);
                    }
                    batches += 1;
                    taken += batch.events.len() as u64;
                    if self.kind == Kind::Named && batches % BATCHES_PER_ACKNOWLEDGEMENT == 0 {
                        let acknowledge = Request::Acknowledge(Acknowledge { offset: last });
                        requests.send(send(acknowledge)).await.map_err(gone)?;
                    }
                    if self.kind == Kind::Named && batches.is_multiple_of(BATCHES_PER_COMMIT) {
                        let (stream, consumer) = (STREAM.into(), NAME.into());
                        // What was acknowledged meanwhile may be further than this batch, which is no rewind meant.
                        let commit = CommitOffsetRequest { stream, consumer, offset: last, allow_rewind: false };
                        let committed = client.commit_offset(commit).await?.into_inner().committed_offset;
                        lock(&self.memory).committed = committed;
                    }
                    if self.kind == Kind::Slow && taken > credit {
                        let detail = format!("{taken} events for a credit of {credit}");
                        lock(&self.memory).violations.add("credit-kept", detail);
                    }
                    if self.kind == Kind::Slow && taken >= credit {
                        let hurry = *self.conduct.borrow() == Conduct::Hurry;
                        if !hurry {
                            tokio::time::sleep(SLOW_PAUSE).await;
                        }
                        let events = if hurry { HURRY_CREDIT } else { SLOW_CREDIT };
                        credit += events;
                        requests.send(send(Request::Credit(Credit { events }))).await.map_err(gone)?;
                    }
                }
                Some(Response::Started(started)) => lock(&self.memory).begin(self.kind, started.next_offset),
                Some(Response::Progress(_) | Response::EpochStarted(_) | Response::Skipped(_)) | None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(offset: u64, xid: u32) -> Event {
        Event { offset, xid, ..Event::default() }
    }

    fn rules(violations: Violations) -> Vec<&'static str> {
        violations.into_told().into_iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn a_hole_and_a_changed_offset_are_noticed_at_once() {
        let mut memory = Memory::default();
        for offset in [1, 2, 3, 2, 3, 4] {
            memory.take(Kind::Named, &event(offset, 7));
        }
        assert_eq!(rules(std::mem::take(&mut memory.violations)), Vec::<&str>::new());
        memory.take(Kind::Named, &event(2, 8));
        memory.take(Kind::Named, &event(6, 7));
        assert_eq!(rules(memory.violations), ["offset-keeps-meaning", "consumer-dense"]);
    }

    #[test]
    fn a_replay_that_differs_in_one_event_or_in_length_is_noticed() {
        for (replay, broken) in [(&[1, 2, 3][..], 0), (&[1, 9, 3], 1), (&[1, 2], 1), (&[1, 2, 3, 4], 1)] {
            let mut violations = Violations::default();
            compare("x", &[1, 2, 3], replay, &mut violations);
            assert_eq!(violations.into_told().len(), broken);
        }
    }

    #[test]
    fn a_lost_commit_and_a_start_behind_what_was_read_are_noticed() {
        for (start, broken) in [(3, 0), (5, 0), (2, 1), (6, 1)] {
            let mut memory = Memory { digests: vec![0; 4], committed: 2, ..Memory::default() };
            memory.begin(Kind::Named, start);
            assert_eq!(rules(memory.violations).len(), broken);
        }
    }

    #[test]
    fn every_field_of_an_event_is_in_its_digest() {
        let base = digest(&event(1, 1));
        let others = [
            Event { commit_lsn: 1, ..event(1, 1) },
            Event { ordinal: 1, ..event(1, 1) },
            Event { last_in_transaction: true, ..event(1, 1) },
            Event { before_is_full: true, ..event(1, 1) },
            Event { epoch: 1, ..event(1, 1) },
            event(1, 2),
        ];
        assert!(others.iter().all(|other| digest(other) != base));
    }
}
