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
    let text = error.to_string();
    match error {
        LogError::OffsetTrimmed { .. }
        | LogError::OffsetPastEnd { .. }
        | LogError::LsnTrimmed { .. }
        | LogError::TimeTrimmed { .. }
        | LogError::CommitPastEnd { .. } => Status::out_of_range(text),
        LogError::CommitRewinds { .. } => Status::failed_precondition(text),
        LogError::Damaged { .. } | LogError::DamagedRecord { .. } => Status::data_loss(text),
        LogError::Stopped(_) | LogError::Closed => Status::unavailable(text),
        _ => Status::internal(text),
    }
}
