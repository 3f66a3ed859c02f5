//! The calls of JetStream's API that the benchmarks need, over their lean connection.
//!
//! Subjects and fields are those of <https://docs.nats.io/reference/reference-protocols/nats_api_reference>.

use serde_json::{Value, json};

use super::Connection;
use crate::error::LabError;

const STREAM: &str = "LAB";
/// What is published here is in the stream.
pub(crate) const SUBJECT: &str = "lab";
const HEARTBEAT_NANOSECONDS: u64 = 5_000_000_000;

/// Where a consumer begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum From {
    Beginning,
    Now,
}

/// The server's JetStream, by one connection.
pub(crate) struct JetStream {
    connection: Connection,
}

impl JetStream {
    /// Connects; `name` must be another one for every connection.
    pub(crate) async fn connect(address: &str, name: &str) -> Result<Self, LabError> {
        Ok(Self { connection: Connection::open(address, name).await? })
    }

    /// Makes the stream, with file storage.
    pub(crate) async fn create_stream(&mut self) -> Result<(), LabError> {
        let config = json!({
            "name": STREAM, "subjects": [SUBJECT], "storage": "file", "retention": "limits", "discard": "old",
            "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_age": 0, "num_replicas": 1,
        });
        self.ask("STREAM.CREATE", &config).await.map(drop)
    }

    /// How many messages the stream has.
    pub(crate) async fn messages(&mut self) -> Result<u64, LabError> {
        let info = self.ask("STREAM.INFO", &json!({})).await?;
        let messages = info.pointer("/state/messages").and_then(Value::as_u64);
        messages.ok_or_else(|| LabError::Failed("JetStream does not say what the stream has".into()))
    }

    /// Makes a consumer that sends to `deliver_to`, as clients make those they call ordered: nothing is acknowledged, the state is in
    /// memory, flow control bounds what is under way.
    pub(crate) async fn create_consumer(&mut self, deliver_to: &str, from: From) -> Result<(), LabError> {
        let policy = match from {
            From::Beginning => "all",
            From::Now => "new",
        };
        let config = json!({
            "deliver_subject": deliver_to, "deliver_policy": policy, "replay_policy": "instant", "ack_policy": "none",
            "max_deliver": 1, "flow_control": true, "idle_heartbeat": HEARTBEAT_NANOSECONDS, "mem_storage": true,
            "num_replicas": 1,
        });
        self.ask("CONSUMER.CREATE", &json!({ "stream_name": STREAM, "config": config })).await.map(drop)
    }

    /// Stores one message and waits for JetStream's word that it has.
    pub(crate) async fn store(&mut self, payload: &[u8]) -> Result<(), LabError> {
        self.connection.request(SUBJECT, payload).await.map(drop)
    }

    /// Sends a message to be stored, at the latest with the next [`sync`](Self::sync).
    pub(crate) fn send(&mut self, payload: &[u8]) {
        self.connection.publish(SUBJECT, payload);
    }

    /// Waits until the server has taken everything that was sent.
    pub(crate) async fn sync(&mut self) -> Result<(), LabError> {
        self.connection.sync().await
    }

    async fn ask(&mut self, what: &str, payload: &Value) -> Result<Value, LabError> {
        self.connection.request(&format!("$JS.API.{what}.{STREAM}"), payload.to_string().as_bytes()).await
    }
}
