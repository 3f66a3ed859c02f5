//! One connection to a NATS server, as lean as the ones to the daemon: subscribers share the processors with what they measure,
//! so there is no task, no queue and no copy for any of them.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::protocol::{Operation, operation};
use crate::error::{LabError, io};

/// Room for what one read brings, and for the largest message.
const INPUT_BYTES: usize = 64 * 1024;
const INPUT_BYTES_MAX: usize = 2 * 1024 * 1024;
/// The subscription of answers to requests; a user's own begin above.
const ANSWERS: u64 = 0;

/// A connection that has been greeted.
pub(crate) struct Connection {
    socket: TcpStream,
    input: Vec<u8>,
    /// How much of it has come and is not yet taken apart.
    filled: usize,
    output: Vec<u8>,
    /// Where answers to its requests are sent.
    inbox: String,
}

impl Connection {
    /// Connects to `address`; `name` must be another one for every connection.
    ///
    /// # Errors
    /// When the server does not answer as one.
    pub(crate) async fn open(address: &str, name: &str) -> Result<Self, LabError> {
        let socket = TcpStream::connect(address).await.map_err(io("connect to NATS"))?;
        socket.set_nodelay(true).map_err(io("connect to NATS"))?;
        let inbox = format!("_INBOX.{name}");
        let greeting = json!({ "verbose": false, "pedantic": false, "headers": true, "lang": "lab", "version": "0" });
        let (input, output) = (vec![0; INPUT_BYTES], format!("CONNECT {greeting}\r\nPING\r\n").into_bytes());
        let mut connection = Self { socket, input, filled: 0, output, inbox };
        connection.wait_for_pong().await?;
        let inbox = connection.inbox.clone();
        connection.subscribe(&inbox, ANSWERS);
        Ok(connection)
    }

    /// Sends, with the next flush, that `subject` is subscribed to as number `subscription`, from 1.
    pub(crate) fn subscribe(&mut self, subject: &str, subscription: u64) {
        self.output.extend_from_slice(format!("SUB {subject} {subscription}\r\n").as_bytes());
    }

    /// Sends a message, at the latest with the next [`sync`](Self::sync) or [`receive`](Self::receive).
    pub(crate) fn publish(&mut self, subject: &str, payload: &[u8]) {
        self.publish_as(&format!("PUB {subject} {}\r\n", payload.len()), payload);
    }

    fn publish_as(&mut self, head: &str, payload: &[u8]) {
        self.output.extend_from_slice(head.as_bytes());
        self.output.extend_from_slice(payload);
        self.output.extend_from_slice(b"\r\n");
    }

    /// Waits until the server has taken everything that was sent.
    ///
    /// # Errors
    /// When the connection ends.
    pub(crate) async fn sync(&mut self) -> Result<(), LabError> {
        self.output.extend_from_slice(b"PING\r\n");
        self.wait_for_pong().await
    }

    async fn wait_for_pong(&mut self) -> Result<(), LabError> {
        let mut has_come = false;
        while !has_come {
            self.receive(|operation| {
                has_come |= operation == Operation::Pong;
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Sends, and gives what the server answers.
    ///
    /// # Errors
    /// When the answer is an error or none.
    pub(crate) async fn request(&mut self, subject: &str, payload: &[u8]) -> Result<Value, LabError> {
        let head = format!("PUB {subject} {} {}\r\n", self.inbox, payload.len());
        self.publish_as(&head, payload);
        let mut answer = None;
        while answer.is_none() {
            self.receive(|operation| {
                if let Operation::Message { subscription: ANSWERS, payload } = operation {
                    let parsed: Value = serde_json::from_slice(payload)
                        .map_err(|error| LabError::Failed(format!("JetStream's answer to {subject}: {error}")))?;
                    answer = Some(parsed);
                }
                Ok(())
            })
            .await?;
        }
        let answer = answer.unwrap_or_default();
        match answer.get("error") {
            Some(error) => Err(LabError::Failed(format!("JetStream refused {subject}: {error}"))),
            None => Ok(answer),
        }
    }

    /// Sends what is to be sent, waits until something has come, and gives all of it to `take`. What the server asks for itself
    /// is answered.
    ///
    /// # Errors
    /// When the connection ends, and what `take` says.
    pub(crate) async fn receive(
        &mut self,
        mut take: impl FnMut(Operation<'_>) -> Result<(), LabError>,
    ) -> Result<(), LabError> {
        self.flush().await?;
        if self.filled == self.input.len() {
            if self.filled >= INPUT_BYTES_MAX {
                return Err(LabError::Failed("NATS sent a message that is too large".into()));
            }
            self.input.resize(self.filled * 2, 0);
        }
        let into = self.input.get_mut(self.filled..).unwrap_or_default();
        let read = self.socket.read(into).await.map_err(io("read from NATS"))?;
        if read == 0 {
            return Err(LabError::Failed("NATS closed a connection".into()));
        }
        self.filled += read;
        let mut at = 0;
        while let Some((operation, length)) = operation(self.input.get(at..self.filled).unwrap_or_default())? {
            match operation {
                Operation::Ping => self.output.extend_from_slice(b"PONG\r\n"),
                Operation::Asked { subject } => {
                    self.output.extend_from_slice(format!("PUB {subject} 0\r\n\r\n").as_bytes());
                }
                operation => take(operation)?,
            }
            at += length;
        }
        self.input.copy_within(at..self.filled, 0);
        self.filled -= at;
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), LabError> {
        if !self.output.is_empty() {
            self.socket.write_all(&self.output).await.map_err(io("write to NATS"))?;
            self.output.clear();
        }
        Ok(())
    }
}
