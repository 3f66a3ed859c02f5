//! The first request of a subscription, checked: which stream, who, from where, what, how much.

use dbstreamd_log::{Beginning, ConsumerState, LogError, Reader, SnapshotReason, StartAt};
use dbstreamd_model::{ConsumerName, Lsn, Offset, Op, Timestamp};
use tonic::Status;

use super::details;
use super::status::{from_log, start_error};
use crate::directory::{Directory, Entry};
use crate::filter::{Filter, FilterError};
use crate::parking::Reason;
use crate::proto;

/// A checked `Start`.
pub(super) struct Plan {
    pub(super) entry: Entry,
    pub(super) consumer: Option<ConsumerName>,
    from: Option<StartAt>,
    pub(super) filter: Filter,
    /// None: not limited.
    pub(super) credit: Option<u64>,
    /// Whether rows are to have typed values.
    pub(super) typed: bool,
}

impl Plan {
    /// Checks everything that can be checked without reading the log.
    pub(super) fn new(start: proto::Start, directory: &Directory) -> Result<Self, Status> {
        let entry = directory.find(&start.stream)?.clone();
        let consumer = if start.consumer.is_empty() { None } else { Some(consumer_name(&start.consumer)?) };
        let values = start.values;
        let from = start.from.and_then(|from| from.from).map(start_at).transpose()?;
        let filter = filter(start.filter.unwrap_or_default())?;
        let credit = (start.credit_events > 0).then_some(start.credit_events);
        let typed = typed(values)?;
        Ok(Self { entry, consumer, from, filter, credit, typed })
    }

    /// The consumer that must not cross into another epoch: it gave no explicit start. To be asked before
    /// [`open`](Self::open).
    pub(super) fn held_at_boundaries(&self) -> Option<ConsumerName> {
        self.consumer.clone().filter(|_| self.from.is_none())
    }

    /// Opens the reader where this subscription begins.
    pub(super) async fn open(&mut self, directory: &Directory) -> Result<Reader, Status> {
        let log = directory.log();
        let at = match (self.from, &self.consumer) {
            (Some(from), _) => from,
            (None, None) => StartAt::Latest,
            (None, Some(consumer)) => match log.consumer(self.entry.id, consumer) {
                Some(record) if record.state == ConsumerState::NeedsSnapshot(SnapshotReason::Trimmed) => {
                    return Err(self.trimmed(directory));
                }
                Some(record) => StartAt::Offset(record.committed.next()),
                None => StartAt::Earliest,
            },
        };
        open_reader(directory, self.entry.id, at).await.map_err(|error| self.refusal(directory, &error))
    }

    /// What a subscription says by where it begins: who gives an explicit start knows what it has.
    pub(super) fn beginning(&self) -> Beginning {
        if self.from.is_some() { Beginning::Knowing } else { Beginning::Blank }
    }

    /// Whether it goes on where its consumer stopped.
    pub(super) fn resumes(&self) -> bool {
        self.from.is_none() && self.consumer.is_some()
    }

    /// The status for an error of the log: a named consumer whose next event is gone is told what to do about it.
    pub(super) fn refusal(&self, directory: &Directory, error: &LogError) -> Status {
        match error {
            LogError::OffsetTrimmed { .. } if self.resumes() => self.trimmed(directory),
            LogError::SchemaUnknown { stream, schema, first, .. } => {
                let place = [("stream", stream.clone()), ("schema", schema.to_string()), ("offset", first.to_string())];
                details::unreadable(Reason::SchemaUnknown, start_error(error), &place)
            }
            other => from_log(other),
        }
    }

    fn trimmed(&self, directory: &Directory) -> Status {
        match self.details(directory, proto::SnapshotReason::Trimmed) {
            Ok(details) => details::needs_snapshot(details::trimmed(&details), &details),
            Err(error) => from_log(&error),
        }
    }

    /// The status with which a consumer is held at the boundary of an epoch, with its details.
    pub(super) fn at_boundary(&self, directory: &Directory, status: &Status) -> Status {
        match self.details(directory, proto::SnapshotReason::NewEpoch) {
            Ok(details) => details::needs_snapshot(status.message().to_owned(), &details),
            Err(error) => from_log(&error),
        }
    }

    fn details(&self, directory: &Directory, reason: proto::SnapshotReason) -> Result<proto::NeedsSnapshot, LogError> {
        let log = directory.log();
        let marks = log.watermarks(self.entry.id)?;
        let committed = self.consumer.as_ref().and_then(|name| log.consumer(self.entry.id, name));
        Ok(proto::NeedsSnapshot {
            stream: self.entry.name.to_string(),
            consumer: self.consumer.as_ref().map(ToString::to_string).unwrap_or_default(),
            reason: reason.into(),
            committed_offset: committed.map_or(0, |record| record.committed.0),
            trim_point: marks.trim_point.next().0,
            resume_offset: marks.visible.next().0,
            publication: self.entry.running.as_ref().map(|running| running.publication.clone()).unwrap_or_default(),
        })
    }
}

/// Opens a reader off the async threads: the seek may touch the disk.
pub(crate) async fn open_reader(
    directory: &Directory,
    stream: dbstreamd_model::StreamId,
    at: StartAt,
) -> Result<Reader, dbstreamd_log::LogError> {
    let log = directory.log().clone();
    match tokio::task::spawn_blocking(move || log.reader(stream, at)).await {
        Ok(opened) => opened,
        // A panic in there is a bug and stays one; the runtime going away ends this task as well.
        Err(join) => match join.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => std::future::pending().await,
        },
    }
}

/// A consumer's name, or INVALID_ARGUMENT.
pub(super) fn consumer_name(name: &str) -> Result<ConsumerName, Status> {
    name.parse::<ConsumerName>().map_err(|error| Status::invalid_argument(error.to_string()))
}

fn start_at(from: proto::start_from::From) -> Result<StartAt, Status> {
    use proto::start_from::From;
    Ok(match from {
        From::Earliest(_) => StartAt::Earliest,
        From::Latest(_) => StartAt::Latest,
        From::Offset(0) => {
            return Err(Status::invalid_argument("offsets start at 1: use earliest, or an offset of at least 1"));
        }
        From::Offset(offset) => StartAt::Offset(Offset(offset)),
        From::Lsn(lsn) => StartAt::Lsn(Lsn(lsn)),
        From::TimeUs(time) => StartAt::Time(Timestamp(time)),
    })
}

fn filter(filter: proto::Filter) -> Result<Filter, Status> {
    let operations = filter.operations.iter().map(|&number| model_op(number)).collect::<Result<Vec<_>, _>>()?;
    Ok(Filter::new(&filter.tables, operations)?)
}

/// Whether this is the number of the typed form.
fn typed(values: i32) -> Result<bool, Status> {
    match proto::ValueForm::try_from(values) {
        Ok(proto::ValueForm::Unspecified | proto::ValueForm::Text) => Ok(false),
        Ok(proto::ValueForm::Typed) => Ok(true),
        Err(_) => {
            Err(Status::invalid_argument(format!("values: this daemon does not know form {values}: use text or typed")))
        }
    }
}

fn model_op(number: i32) -> Result<Op, FilterError> {
    u8::try_from(number).ok().and_then(Op::from_code).ok_or(FilterError::Operation(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operation_numbers_of_the_contract_are_those_of_the_model() {
        for op in Op::ALL {
            assert_eq!(model_op(super::super::encode::operation(op).into()), Ok(op));
        }
        assert_eq!(model_op(0), Err(FilterError::Operation(0)));
        assert_eq!(model_op(7), Err(FilterError::Operation(7)));
    }
}
