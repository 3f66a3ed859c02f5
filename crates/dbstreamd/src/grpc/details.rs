//! Statuses with typed details: a `google.rpc.Status` in the trailer `grpc-status-details-bin`, as every gRPC language can
//! unpack (<https://google.aip.dev/193>).

use bytes::Bytes;
use prost::Message;
use tonic::{Code, Status};

use crate::parking::Reason;
use crate::proto;
use crate::unreadable::Unreadable;

/// Whose reasons these are.
const DOMAIN: &str = "dbstreamd";

/// `google.rpc.Status`, `google.protobuf.Any` and `google.rpc.ErrorInfo`, as far as they are needed:
/// <https://github.com/googleapis/googleapis/tree/master/google/rpc>.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(map = "string, string", tag = "3")]
    metadata: std::collections::HashMap<String, String>,
}

fn any(name: &str, message: &impl Message) -> Any {
    Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() }
}

/// What a consumer is told whose next event is gone.
pub(super) fn trimmed(details: &proto::NeedsSnapshot) -> String {
    let (stream, consumer, committed) = (&details.stream, &details.consumer, details.committed_offset);
    format!(
        "consumer {consumer:?} of stream {stream} needs a snapshot: what follows its committed offset {committed} was removed by retention (the oldest kept is offset {}); read the tables anew from the source, then subscribe from offset {}, or from earliest if the gap does not matter",
        details.trim_point, details.resume_offset
    )
}

/// FAILED_PRECONDITION for a named consumer that cannot go on where it is, in words and typed.
pub(super) fn needs_snapshot(message: String, details: &proto::NeedsSnapshot) -> Status {
    let (stream, consumer) = (&details.stream, &details.consumer);
    let metadata = [
        ("stream", stream.clone()),
        ("consumer", consumer.clone()),
        ("committed_offset", details.committed_offset.to_string()),
        ("trim_point", details.trim_point.to_string()),
        ("resume_offset", details.resume_offset.to_string()),
    ];
    let info = error_info("NEEDS_SNAPSHOT", &metadata);
    failed_precondition(message, vec![info, any("dbstreamd.v1.NeedsSnapshot", details)])
}

/// FAILED_PRECONDITION at an event that cannot be read, in words and typed.
pub(super) fn unreadable(reason: Reason, message: String, place: &[(&str, String)]) -> Status {
    failed_precondition(message, vec![error_info(reason.name(), place)])
}

fn error_info(reason: &str, metadata: &[(&str, String)]) -> Any {
    let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    any("google.rpc.ErrorInfo", &ErrorInfo { reason: reason.to_owned(), domain: DOMAIN.to_owned(), metadata })
}

fn failed_precondition(message: String, details: Vec<Any>) -> Status {
    let status = RpcStatus { code: Code::FailedPrecondition.into(), message: message.clone(), details };
    Status::with_details(Code::FailedPrecondition, message, Bytes::from(status.encode_to_vec()))
}

/// FAILED_PRECONDITION for a typed subscription whose next event has a value that cannot be read.
pub(super) fn value_unreadable(stream: &str, value: &Unreadable) -> Status {
    let Unreadable { table, column, offset, commit_lsn, reason } = value;
    let place = [
        ("stream", stream.to_owned()),
        ("table", table.clone()),
        ("column", column.clone()),
        ("offset", offset.to_string()),
        ("lsn", commit_lsn.to_string()),
        ("reason", reason.to_string()),
    ];
    unreadable(Reason::ValueUnreadable, value.to_string(), &place)
}

/// Reason and metadata of a status, as a client finds them.
#[cfg(test)]
pub(crate) fn find_error_info(status: &Status) -> Option<(String, std::collections::HashMap<String, String>)> {
    let details = RpcStatus::decode(status.details()).ok()?.details;
    let found = details.iter().find(|any| any.type_url.ends_with("/google.rpc.ErrorInfo"))?;
    let info = ErrorInfo::decode(found.value.as_slice()).ok()?;
    Some((info.reason, info.metadata))
}

/// The typed details of a status that says a snapshot is needed, as a client finds them.
#[cfg(test)]
pub(crate) fn find_needs_snapshot(status: &Status) -> Option<proto::NeedsSnapshot> {
    let details = RpcStatus::decode(status.details()).ok()?.details;
    let found = details.iter().find(|any| any.type_url.ends_with("/dbstreamd.v1.NeedsSnapshot"))?;
    proto::NeedsSnapshot::decode(found.value.as_slice()).ok()
}
