//! `WireResponse`: `SubscribeResponse` with its events already encoded.
//!
//! On the wire a Protobuf message field and a bytes field are the same thing, a tag, a length and that many bytes.
//! So the server declares field 3 as bytes and puts a slice of a chunk's shared encoding there; every client sees
//! an `EventBatch`. A test in `encode` reads one type's bytes as the other.

use std::marker::PhantomData;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use crate::proto;

/// A call's buffers, to begin with; they grow as needed. Tonic's default of 8 KiB for each would be most of what an idle
/// subscription costs.
const REQUEST_BUFFER_BYTES: usize = 256;
const RESPONSE_BUFFER_BYTES: usize = 1024;
/// Responses that are ready together become one piece of up to about this size. Tonic's default.
const RESPONSE_PIECE_BYTES: usize = 32 * 1024;

/// Compressed or not, and the length.
const HEAD_BYTES: usize = 5;
/// The first byte of a gRPC message as it is.
const NOT_COMPRESSED: u8 = 0;
/// The key of the response's events: field number 3, length-delimited.
const EVENTS: u8 = 3 << 3 | 2;

/// Protobuf messages, with small buffers.
pub(crate) struct LeanCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for LeanCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + Send + 'static, U: Message + Default + Send + 'static> Codec for LeanCodec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(RESPONSE_BUFFER_BYTES, RESPONSE_PIECE_BYTES))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(REQUEST_BUFFER_BYTES, RESPONSE_PIECE_BYTES))
    }
}

/// A response as a whole gRPC message.
pub(super) fn message(response: Response) -> Bytes {
    let response = WireResponse::from(response);
    let length = response.encoded_len();
    let mut whole = BytesMut::with_capacity(HEAD_BYTES + length);
    whole.put_u8(NOT_COMPRESSED);
    whole.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // There is room for it.
    let _ = response.encode(&mut whole);
    whole.freeze()
}

/// Puts what comes before encoded events of so many bytes for a whole gRPC message: its own head, and the response's field.
pub(super) fn events_head(bytes: usize, into: &mut BytesMut) {
    let field = 1 + encoded_len_varint(bytes as u64) + bytes;
    into.put_u8(NOT_COMPRESSED);
    // More than a message may have is not put together here.
    into.put_u32(u32::try_from(field).unwrap_or(u32::MAX));
    into.put_u8(EVENTS);
    encode_varint(bytes as u64, into);
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_behind_their_head_are_the_message_that_the_codec_makes() {
        for bytes in [0, 1, 127, 128, 16_383, 16_384, 300_000] {
            let events = Bytes::from(vec![7; bytes]);
            let mut whole = BytesMut::new();
            events_head(bytes, &mut whole);
            whole.extend_from_slice(&events);
            let encoded = WireResponse::from(Response::Events(events.clone())).encode_to_vec();
            let length = u32::try_from(encoded.len()).unwrap().to_be_bytes();
            assert_eq!(whole, [&[0], &length[..], &encoded].concat());
            assert_eq!(whole, message(Response::Events(events)));
        }
    }
}
