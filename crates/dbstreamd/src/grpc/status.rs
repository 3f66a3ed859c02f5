//! The one table from our errors to gRPC status codes.

use dbstreamd_log::LogError;
use tonic::Status;

use crate::directory::UnknownStream;
use crate::filter::FilterError;

impl From<UnknownStream> for Status {
    fn from(error: UnknownStream) -> Self {
        match error {
            UnknownStream::Ambiguous(_) => Self::invalid_argument(error.to_string()),
            UnknownStream::Named { .. } | UnknownStream::None => Self::not_found(error.to_string()),
        }
    }
}

impl From<FilterError> for Status {
    fn from(error: FilterError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

/// The status for an error of the log.
pub(super) fn from_log(error: &LogError) -> Status {
    let text = start_error(error);
    match error {
        LogError::OffsetTrimmed { .. }
        | LogError::OffsetPastEnd { .. }
        | LogError::LsnTrimmed { .. }
        | LogError::TimeTrimmed { .. }
        | LogError::CommitPastEnd { .. }
        | LogError::CommitTrimmed { .. } => Status::out_of_range(text),
        // Stopped for good: coming back would not help, so this is not UNAVAILABLE.
        LogError::CommitRewinds { .. } | LogError::Broken(_) | LogError::SchemaUnknown { .. } => {
            Status::failed_precondition(text)
        }
        LogError::TooManyConsumers { .. } => Status::resource_exhausted(text),
        LogError::Damaged { .. } | LogError::DamagedRecord { .. } => Status::data_loss(text),
        LogError::Closed | LogError::Stopped(_) | LogError::Interrupted | LogError::Reopening => {
            Status::unavailable(text)
        }
        _ => Status::internal(text),
    }
}

/// The log's error in the contract's words: there the trim point is the lowest offset that can still be read.
pub(crate) fn start_error(error: &LogError) -> String {
    match error {
        LogError::OffsetTrimmed { requested, trim_point } => format!(
            "offset {requested} was removed by retention: the trim point, the lowest offset that can still be read, is {}; start there or at earliest",
            trim_point.next()
        ),
        LogError::OffsetPastEnd { requested, end } => format!(
            "offset {requested} is past the end of the stream: the newest event is {} and the next will be {end}; start at latest to wait for it",
            end.previous()
        ),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn only_what_passes_asks_the_client_to_come_back() {
        assert_eq!(from_log(&LogError::Closed).code(), Code::Unavailable);
        let cause = std::sync::Arc::new(LogError::Closed);
        assert_eq!(from_log(&LogError::Stopped(std::sync::Arc::clone(&cause))).code(), Code::Unavailable);
        let stopped = from_log(&LogError::Broken(cause));
        assert_eq!(stopped.code(), Code::FailedPrecondition);
        assert_eq!(from_log(&LogError::TooManyConsumers { max: 1 }).code(), Code::ResourceExhausted);
        assert!(stopped.message().contains("restart dbstreamd"), "{}", stopped.message());
    }
}
