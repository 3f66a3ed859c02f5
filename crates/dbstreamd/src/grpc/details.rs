//! Statuses with typed details: a `google.rpc.Status` in the trailer `grpc-status-details-bin`, as every gRPC language can
//! unpack (<https://google.aip.dev/193>).

use bytes::Bytes;
use prost::Message;
use tonic::{Code, Status};

use crate::proto;

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

/// FAILED_PRECONDITION for a named consumer that cannot go on where it is.
pub(super) fn needs_snapshot(details: &proto::NeedsSnapshot) -> Status {
    let (stream, consumer, committed) = (&details.stream, &details.consumer, details.committed_offset);
    let cause = match details.reason() {
        proto::SnapshotReason::NewEpoch => {
            format!("continuity with the source was broken behind its committed offset {committed}")
        }
        _ => format!(
            "what follows its committed offset {committed} was removed by retention (the oldest kept is offset {})",
            details.trim_point
        ),
    };
    let message = format!(
        "consumer {consumer:?} of stream {stream} needs a snapshot: {cause}; read the tables anew from the source, then subscribe from offset {}, or from earliest if the gap does not matter",
        details.resume_offset
    );
    let metadata = [
        ("stream", stream.clone()),
        ("consumer", consumer.clone()),
        ("committed_offset", committed.to_string()),
        ("trim_point", details.trim_point.to_string()),
        ("resume_offset", details.resume_offset.to_string()),
    ];
    let info = ErrorInfo {
        reason: "NEEDS_SNAPSHOT".to_owned(),
        domain: DOMAIN.to_owned(),
        metadata: metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
    };
    let status = RpcStatus {
        code: Code::FailedPrecondition.into(),
        message: message.clone(),
        details: vec![any("google.rpc.ErrorInfo", &info), any("dbstreamd.v1.NeedsSnapshot", details)],
    };
    Status::with_details(Code::FailedPrecondition, message, Bytes::from(status.encode_to_vec()))
}

/// The typed details of a status that says a snapshot is needed, as a client finds them.
#[cfg(test)]
pub(crate) fn find_needs_snapshot(status: &Status) -> Option<proto::NeedsSnapshot> {
    let details = RpcStatus::decode(status.details()).ok()?.details;
    let found = details.iter().find(|any| any.type_url.ends_with("/dbstreamd.v1.NeedsSnapshot"))?;
    proto::NeedsSnapshot::decode(found.value.as_slice()).ok()
}
