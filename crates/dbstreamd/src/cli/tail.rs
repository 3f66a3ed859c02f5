//! `dbstreamd tail`: prints changes as they come, and acknowledges what it printed.
//!
//! A consumer like any other: what it can do, a program can do over gRPC. Once connected it comes back after the
//! daemon did, behind the last change it printed.

mod printer;

use std::time::Duration;

use clap::{Args, ValueEnum};
use dbstreamd_log::StartAt;
use dbstreamd_model::ConsumerName;
use futures_util::future::Either;
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::WatchStream;
use tonic::{Code, Status, Streaming};

use super::client::{self, is_disconnect};
use super::{CliError, ServerArguments, Signals, note};
use crate::json::epoch_reason;
use crate::proto::subscribe_request::Request;
use crate::proto::subscribe_response::Response;
use crate::proto::{
    Acknowledge, Client, CommitOffsetRequest, Filter, ListConsumersRequest, Start, StartFrom, SubscribeRequest,
    SubscribeResponse, ValueForm, start_from,
};
use printer::Printer;

/// Pauses between attempts to come back to a daemon that went away.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How long the last acknowledgement may take when we are asked to stop.
const LAST_COMMIT_MAX: Duration = Duration::from_secs(5);

#[derive(Args, Debug)]
#[command(after_help = "\
With --consumer NAME the daemon keeps the position: what was printed is acknowledged, and the next call under that name
goes on behind it (a new consumer starts with the earliest change). Without a name, the default is to print what is new.

Examples:
  dbstreamd tail                                            what happens from now on
  dbstreamd tail shop --from earliest --until-caught-up     everything there is, then end
  dbstreamd tail --consumer audit --format json >> audit.jsonl
  dbstreamd tail --from time:2026-01-31T12:00:00Z --table 'public.orders*' --limit 10")]
pub(super) struct TailArguments {
    /// Which stream; not needed when the daemon has only one
    #[arg(value_name = "STREAM")]
    stream: Option<String>,
    #[command(flatten)]
    server: ServerArguments,
    /// Where to begin: earliest, latest, OFFSET, lsn:X/Y or time:RFC3339
    #[arg(long, value_name = "POSITION", value_parser = crate::position::parse)]
    from: Option<StartAt>,
    /// Acknowledge what was printed, and begin behind what this consumer acknowledged before
    #[arg(long, value_name = "NAME", env = "DBSTREAMD_CONSUMER")]
    consumer: Option<ConsumerName>,
    /// Only tables like this, schema.table with * for any characters; may be repeated
    #[arg(long = "table", value_name = "PATTERN")]
    tables: Vec<String>,
    /// For people, or one JSON object a line
    #[arg(long, value_enum, default_value_t)]
    format: TailFormat,
    /// Values as PostgreSQL writes them, or as numbers, lists and so on
    #[arg(long, value_enum, default_value_t)]
    values: TailValues,
    /// End after so many changes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// End when everything is printed that was there at the start
    #[arg(long)]
    until_caught_up: bool,
}

/// How changes are printed.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
enum TailFormat {
    /// For people
    #[default]
    Pretty,
    /// One JSON object a line
    Json,
}

/// The form of values.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
enum TailValues {
    /// PostgreSQL's text form
    #[default]
    Text,
    /// By their types: docs/types.md
    Typed,
}

impl From<TailValues> for ValueForm {
    fn from(values: TailValues) -> Self {
        match values {
            TailValues::Text => Self::Text,
            TailValues::Typed => Self::Typed,
        }
    }
}

pub(super) async fn run(arguments: TailArguments) -> Result<(), CliError> {
    let mut signals = Signals::listen()?;
    let mut tail = Tail {
        printer: Printer::new(arguments.format),
        left: arguments.limit,
        target: None,
        next: None,
        done_through: 0,
        pause: BACKOFF_MIN,
        stream: arguments.stream.clone().unwrap_or_default(),
        arguments,
    };
    tokio::select! {
        ended = tail.follow() => return ended,
        // A print is never cut in the middle: it does not wait for anything.
        _ = signals.next() => {}
    }
    tail.printer.flush()?;
    // Not stored means printed again next time, which is what at-least-once says.
    let _ = tokio::time::timeout(LAST_COMMIT_MAX, tail.commit_on_a_new_connection()).await;
    Err(CliError::Interrupted)
}

/// Where the reading is.
struct Tail {
    arguments: TailArguments,
    printer: Printer,
    /// The stream's name as the daemon has it, once known.
    stream: String,
    /// How many changes may still be printed.
    left: Option<u64>,
    /// With --until-caught-up, the offset to reach, once known.
    target: Option<u64>,
    /// Where to go on after a reconnect; none before the first answer.
    next: Option<u64>,
    /// Everything up to here was printed or did not match.
    done_through: u64,
    /// Before the next attempt to come back: only what was printed since makes it short again.
    pause: Duration,
}

/// One subscription.
struct Subscription {
    client: Client,
    /// The newest offset to acknowledge: it makes an earlier one needless, so none waits behind another.
    acknowledged: watch::Sender<u64>,
    responses: Streaming<SubscribeResponse>,
}

impl Tail {
    /// Reads until the wanted end, over as many connections as it takes.
    async fn follow(&mut self) -> Result<(), CliError> {
        let server = self.arguments.server.server.clone();
        let client = client::connect(&server).await?;
        let mut subscription = self.subscribe(client).await.map_err(|status| client::refused(&server, &status))?;
        loop {
            let lost = match self.read(&mut subscription).await? {
                Either::Left(()) => {
                    self.printer.flush()?;
                    return self.commit(&mut subscription.client).await.map_err(|s| client::refused(&server, &s));
                }
                Either::Right(status) => status,
            };
            if self.next.is_none() || !lost.as_ref().is_none_or(is_disconnect) {
                return Err(match lost {
                    Some(status) => client::refused(&server, &status),
                    None => CliError::Failed(format!(
                        "the daemon at {server} closed the stream without a reason. Is this its gRPC address?"
                    )),
                });
            }
            let cause = lost.as_ref().map_or("the daemon closed it", Status::message);
            note(&format!("the connection to {server} ended ({cause}); waiting for the daemon to come back"));
            subscription = self.come_back(&server).await?;
            note(&format!("connected again; going on with offset {}", self.next.unwrap_or_default()));
        }
    }

    /// Tries until the daemon answers again; a refusal ends it.
    async fn come_back(&mut self, server: &str) -> Result<Subscription, CliError> {
        loop {
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(BACKOFF_MAX);
            let Ok(client) = client::connect(server).await else { continue };
            match self.subscribe(client).await {
                Ok(subscription) => return Ok(subscription),
                Err(status) if is_disconnect(&status) => {}
                Err(status) => return Err(client::refused(server, &status)),
            }
        }
    }

    async fn subscribe(&self, mut client: Client) -> Result<Subscription, Status> {
        let (acknowledged, offsets) = watch::channel(0);
        let from = match self.next {
            Some(next) => Some(start_from::From::Offset(next)),
            None => self.arguments.from.as_ref().map(start_from),
        };
        let start = Start {
            stream: self.stream.clone(),
            consumer: self.arguments.consumer.as_ref().map(ToString::to_string).unwrap_or_default(),
            from: from.map(|from| StartFrom { from: Some(from) }),
            filter: Some(Filter { tables: self.arguments.tables.clone(), operations: Vec::new() }),
            credit_events: self.left.unwrap_or_default(),
            values: ValueForm::from(self.arguments.values).into(),
        };
        let acknowledgements =
            WatchStream::from_changes(offsets).map(|offset| Request::Acknowledge(Acknowledge { offset }));
        let requests = tokio_stream::once(Request::Start(start)).chain(acknowledgements);
        let requests = requests.map(|request| SubscribeRequest { request: Some(request) });
        let responses = client.subscribe(requests).await?.into_inner();
        Ok(Subscription { client, acknowledged, responses })
    }

    /// Reads one subscription to the wanted end (left) or to its own (right; none: closed without a reason).
    async fn read(&mut self, subscription: &mut Subscription) -> Result<Either<(), Option<Status>>, CliError> {
        loop {
            let response = match subscription.responses.message().await {
                Ok(Some(response)) => response.response,
                Ok(None) => return Ok(Either::Right(None)),
                Err(status) => return Ok(Either::Right(Some(status))),
            };
            match response {
                Some(Response::Started(started)) => {
                    self.next.get_or_insert(started.next_offset);
                    self.stream = started.stream;
                    let visible = started.visible_offset;
                    self.done_through = self.done_through.max(started.next_offset.saturating_sub(1));
                    if self.arguments.until_caught_up {
                        self.target.get_or_insert(visible);
                    }
                }
                Some(Response::Schema(schema)) => self.printer.learn(schema),
                Some(Response::Events(batch)) => {
                    for event in &batch.events {
                        if self.ended() {
                            break;
                        }
                        self.printer.print(event)?;
                        self.move_to(event.offset);
                        self.left = self.left.map(|left| left - 1);
                        self.pause = BACKOFF_MIN;
                    }
                    self.acknowledge(subscription)?;
                }
                Some(Response::Progress(progress)) => {
                    self.move_to(progress.offset);
                    self.acknowledge(subscription)?;
                }
                Some(Response::EpochStarted(epoch)) => {
                    // After a reconnect our start is explicit, but it was not the user who gave it.
                    if self.arguments.consumer.is_some() && self.arguments.from.is_none() {
                        self.commit(&mut subscription.client).await.map_err(|status| CliError::failed(&status))?;
                        return Err(CliError::Failed(format!(
                            "the stream has a new epoch, {}, since offset {} ({}): resynchronise what was made of it so far, then start with --from {}",
                            epoch.epoch,
                            epoch.first_offset,
                            epoch_reason(&epoch),
                            epoch.first_offset
                        )));
                    }
                    self.printer.epoch(&epoch)?;
                }
                Some(Response::Skipped(skipped)) => {
                    self.printer.skipped(&skipped)?;
                    self.move_to(skipped.next_offset.saturating_sub(1));
                    self.acknowledge(subscription)?;
                }
                // A newer daemon may say more than we understand.
                None => {}
            }
            if self.ended() {
                return Ok(Either::Left(()));
            }
        }
    }

    fn move_to(&mut self, offset: u64) {
        self.done_through = self.done_through.max(offset);
        self.next = Some(self.done_through + 1);
    }

    fn ended(&self) -> bool {
        self.left == Some(0) || self.target.is_some_and(|target| self.done_through >= target)
    }

    /// Acknowledges what is printed, once it left this process.
    fn acknowledge(&mut self, subscription: &Subscription) -> Result<(), CliError> {
        self.printer.flush()?;
        if self.arguments.consumer.is_some() {
            // When nobody takes it any more, the responses say so.
            let _ = subscription.acknowledged.send(self.done_through);
        }
        Ok(())
    }

    async fn commit_on_a_new_connection(&self) -> Result<(), CliError> {
        if self.arguments.consumer.is_none() || self.next.is_none() {
            return Ok(());
        }
        let server = &self.arguments.server.server;
        let mut client = client::connect(server).await?;
        self.commit(&mut client).await.map_err(|status| client::refused(server, &status))
    }

    /// Stores the consumer's final position, durably.
    async fn commit(&self, client: &mut Client) -> Result<(), Status> {
        let Some(consumer) = &self.arguments.consumer else { return Ok(()) };
        if self.next.is_none() || self.done_through == 0 {
            return Ok(());
        }
        let request = CommitOffsetRequest {
            stream: self.stream.clone(),
            consumer: consumer.to_string(),
            offset: self.done_through,
            allow_rewind: false,
        };
        match client.commit_offset(request).await {
            Err(status) if status.code() == Code::FailedPrecondition => {
                // It read again what it had acknowledged before: the position stays where it was.
                let kept = self.committed(client, consumer).await?;
                if kept >= self.done_through { Ok(()) } else { Err(status) }
            }
            other => other.map(drop),
        }
    }

    /// The position that the daemon keeps for the consumer.
    async fn committed(&self, client: &mut Client, consumer: &ConsumerName) -> Result<u64, Status> {
        let answer = client.list_consumers(ListConsumersRequest { stream: self.stream.clone() }).await?;
        let consumers = answer.into_inner().consumers;
        let ours = consumers.iter().find(|known| known.name == consumer.as_str());
        Ok(ours.map_or(0, |known| known.committed_offset))
    }
}

fn start_from(at: &StartAt) -> start_from::From {
    use start_from::From;
    match at {
        StartAt::Earliest => From::Earliest(crate::proto::Empty {}),
        StartAt::Latest => From::Latest(crate::proto::Empty {}),
        StartAt::Offset(offset) => From::Offset(offset.0),
        StartAt::Lsn(lsn) => From::Lsn(lsn.0),
        StartAt::Time(time) => From::TimeUs(time.0),
    }
}
