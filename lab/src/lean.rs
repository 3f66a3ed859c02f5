//! A lean subscriber: HTTP/2 frames in, offsets out.
//!
//! Subscribers share two processors with the daemon they measure, so they do as little as a client can: the response is walked
//! where it lies, and of an event nothing is looked at but its offset. What goes out is written by hand-kept messages whose field
//! numbers are those of `proto/dbstreamd/v1/dbstreamd.proto`.

use bytes::{Buf, Bytes, BytesMut};
use h2::client::SendRequest;
use prost::Message;

use crate::error::{LabError, io};

/// What the client grants the daemon in advance, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Windows {
    pub(crate) stream: u32,
    pub(crate) connection: u32,
    /// Largest frame the client takes.
    pub(crate) frame: u32,
}

/// The messages of the contract that are sent here.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Start {
    #[prost(string, tag = "2")]
    pub(crate) consumer: String,
    #[prost(message, optional, tag = "3")]
    pub(crate) from: Option<StartFrom>,
    #[prost(message, optional, tag = "4")]
    pub(crate) filter: Option<Filter>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct StartFrom {
    #[prost(message, optional, tag = "1")]
    pub(crate) earliest: Option<Empty>,
    #[prost(message, optional, tag = "2")]
    pub(crate) latest: Option<Empty>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Empty {}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Filter {
    #[prost(string, repeated, tag = "1")]
    pub(crate) tables: Vec<String>,
    #[prost(int32, repeated, tag = "2")]
    pub(crate) operations: Vec<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct Acknowledge {
    #[prost(uint64, tag = "1")]
    offset: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, optional, tag = "1")]
    start: Option<Start>,
    #[prost(message, optional, tag = "3")]
    acknowledge: Option<Acknowledge>,
}

/// What a response says, as far as anybody here asks.
pub(crate) enum Answer<'a> {
    /// The first offset that is considered.
    Started(u64),
    /// An encoded `EventBatch`.
    Events(&'a [u8]),
    /// Everything up to this offset that passes the filter was sent.
    Progress(u64),
    /// A schema, or something newer than this.
    Other,
}

/// One HTTP/2 connection to the daemon.
#[derive(Clone)]
pub(crate) struct Connection {
    requests: SendRequest<Bytes>,
    authority: String,
}

impl Connection {
    pub(crate) async fn open(address: &str, windows: Windows) -> Result<Self, LabError> {
        let socket = tokio::net::TcpStream::connect(address).await.map_err(io("connect to the daemon"))?;
        socket.set_nodelay(true).map_err(io("connect to the daemon"))?;
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(windows.stream)
            .initial_connection_window_size(windows.connection)
            .max_frame_size(windows.frame)
            .handshake(socket)
            .await
            .map_err(failed)?;
        // Its end is seen by the calls on it.
        tokio::spawn(connection);
        Ok(Self { requests, authority: address.to_owned() })
    }

    /// Opens one `Subscribe` call.
    pub(crate) async fn subscribe(&self, start: Start) -> Result<Subscriber, LabError> {
        let request = http::Request::post(format!("http://{}/dbstreamd.v1.Streams/Subscribe", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .map_err(|error| LabError::Failed(error.to_string()))?;
        let mut ready = self.requests.clone().ready().await.map_err(failed)?;
        let (response, mut asks) = ready.send_request(request, false).map_err(failed)?;
        asks.send_data(framed(&Request { start: Some(start), acknowledge: None }), false).map_err(failed)?;
        let response = response.await.map_err(failed)?;
        let answers = response.into_body();
        Ok(Subscriber { answers, _asks: asks, pending: BytesMut::new() })
    }
}

/// One call.
pub(crate) struct Subscriber {
    answers: h2::RecvStream,
    /// The call ends with it.
    _asks: h2::SendStream<Bytes>,
    /// The beginning of a message whose rest has not come.
    pending: BytesMut,
}

impl Subscriber {
    /// Waits for a piece of the response and gives every whole message in it to `take`.
    pub(crate) async fn receive(
        &mut self,
        mut take: impl FnMut(Answer<'_>) -> Result<(), LabError>,
    ) -> Result<(), LabError> {
        let Some(piece) = self.answers.data().await else {
            let trailers = self.answers.trailers().await.map_err(failed)?;
            return Err(LabError::Failed(format!("the daemon ended a call: {trailers:?}")));
        };
        let mut piece = piece.map_err(failed)?;
        // What was taken is out of memory in a moment: the daemon may send as much again.
        self.answers.flow_control().release_capacity(piece.len()).map_err(failed)?;
        if !self.pending.is_empty() {
            self.pending.extend_from_slice(&piece);
            piece = std::mem::take(&mut self.pending).freeze();
        }
        while let Some(length) = message_length(&piece) {
            let Some(message) = piece.get(PREFIX_BYTES..PREFIX_BYTES + length) else {
                self.pending.reserve(PREFIX_BYTES + length);
                break;
            };
            take(answer(message)?)?;
            piece.advance(PREFIX_BYTES + length);
        }
        if !piece.is_empty() {
            self.pending.extend_from_slice(&piece);
        }
        Ok(())
    }
}

/// The request that begins a call, ready to be sent.
pub(crate) fn start(start: Start) -> Bytes {
    framed(&Request { start: Some(start), acknowledge: None })
}

/// A request that acknowledges everything up to this offset, ready to be sent.
pub(crate) fn acknowledgement(offset: u64) -> Bytes {
    framed(&Request { start: None, acknowledge: Some(Acknowledge { offset }) })
}

/// Gives every whole message in a piece of a response to `take`. How many bytes those were.
pub(crate) fn messages(
    piece: &[u8],
    mut take: impl FnMut(Answer<'_>) -> Result<(), LabError>,
) -> Result<usize, LabError> {
    let mut used = 0;
    while let Some(rest) = piece.get(used..)
        && let Some(length) = message_length(rest)
        && let Some(message) = rest.get(PREFIX_BYTES..PREFIX_BYTES + length)
    {
        take(answer(message)?)?;
        used += PREFIX_BYTES + length;
    }
    Ok(used)
}

/// A message's flag of compression and its length (gRPC over HTTP/2).
const PREFIX_BYTES: usize = 5;

fn framed(message: &impl Message) -> Bytes {
    let mut frame = vec![0; PREFIX_BYTES];
    frame.extend_from_slice(&message.encode_to_vec());
    let length = u32::try_from(frame.len() - PREFIX_BYTES).unwrap_or(u32::MAX);
    if let Some(place) = frame.get_mut(1..PREFIX_BYTES) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    frame.into()
}

fn message_length(piece: &[u8]) -> Option<usize> {
    let [_, rest @ ..] = piece.first_chunk::<PREFIX_BYTES>()?;
    usize::try_from(u32::from_be_bytes(*rest)).ok()
}

/// Which field of `SubscribeResponse` a message is.
fn answer(message: &[u8]) -> Result<Answer<'_>, LabError> {
    let mut fields = Fields(message);
    match fields.next_field()? {
        Some((1, Value::Bytes(started))) => number(started, 3).map(Answer::Started),
        Some((3, Value::Bytes(events))) => Ok(Answer::Events(events)),
        Some((4, Value::Bytes(progress))) => number(progress, 1).map(Answer::Progress),
        _ => Ok(Answer::Other),
    }
}

/// The value of a message's field that is a number and never 0 here.
fn number(message: &[u8], wanted: u64) -> Result<u64, LabError> {
    let mut fields = Fields(message);
    while let Some((field, value)) = fields.next_field()? {
        if let Value::Number(number) = value
            && field == wanted
        {
            return Ok(number);
        }
    }
    Err(malformed())
}

/// The encoded events of a batch.
pub(crate) fn events(batch: &[u8]) -> impl Iterator<Item = Result<&[u8], LabError>> {
    let mut fields = Fields(batch);
    std::iter::from_fn(move || match fields.next_field() {
        Ok(Some((1, Value::Bytes(event)))) => Some(Ok(event)),
        Ok(None) => None,
        Ok(Some(_)) => Some(Err(malformed())),
        Err(error) => Some(Err(error)),
    })
}

/// An encoded event's offset.
pub(crate) fn offset(event: &[u8]) -> Result<u64, LabError> {
    number(event, 1)
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// A message's fields, in their order.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next_field(&mut self) -> Result<Option<(u64, Value<'a>)>, LabError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.bytes(8).map(|_| Value::Fixed)?,
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.bytes(usize::try_from(length).map_err(|_| malformed())?)?)
            }
            5 => self.bytes(4).map(|_| Value::Fixed)?,
            _ => return Err(malformed()),
        };
        Ok(Some((key >> 3, value)))
    }

    fn varint(&mut self) -> Result<u64, LabError> {
        // Most are one byte.
        if let [byte @ ..0x80, rest @ ..] = self.0 {
            self.0 = rest;
            return Ok(u64::from(*byte));
        }
        prost::encoding::decode_varint(&mut self.0).map_err(|_| malformed())
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], LabError> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or_else(malformed)?;
        self.0 = rest;
        Ok(bytes)
    }
}

fn malformed() -> LabError {
    LabError::Failed("the daemon sent a message that is not of its contract".into())
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: h2::Error) -> LabError {
    LabError::Failed(format!("HTTP/2: {error}"))
}
