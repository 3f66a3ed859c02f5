//! `WireResponse`: `SubscribeResponse` with its events already encoded.
//!
//! On the wire a Protobuf message field and a bytes field are the same thing, a tag, a length and that many bytes.
//! So the server declares field 3 as bytes and puts a slice of a chunk's shared encoding there; every client sees
//! an `EventBatch`. A test in `encode` reads one type's bytes as the other.

use bytes::Bytes;

use crate::proto;

/// Wire-compatible with `dbstreamd.v1.SubscribeResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireResponse {
    /// One of the five.
    #[prost(oneof = "Response", tags = "1, 2, 3, 4, 5, 6")]
    pub(crate) response: Option<Response>,
}

/// What a response holds; the field numbers are those of `SubscribeResponse`.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Response {
    /// Once, first.
    #[prost(message, tag = "1")]
    Started(proto::Started),
    /// Before the first event that uses it.
    #[prost(message, boxed, tag = "2")]
    Schema(Box<proto::Schema>),
    /// An encoded `EventBatch`.
    #[prost(bytes = "bytes", tag = "3")]
    Events(Bytes),
    /// A position without events.
    #[prost(message, tag = "4")]
    Progress(proto::Progress),
    /// Before the first event of an epoch.
    #[prost(message, tag = "5")]
    EpochStarted(proto::Epoch),
    /// In place of events that an operator gave up.
    #[prost(message, tag = "6")]
    Skipped(proto::Skipped),
}

impl From<Response> for WireResponse {
    fn from(response: Response) -> Self {
        Self { response: Some(response) }
    }
}
