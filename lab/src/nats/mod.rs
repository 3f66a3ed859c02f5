//! NATS with JetStream: the reference for replay and fan-out.

mod connection;
mod jetstream;
mod protocol;
mod server;

pub(crate) use connection::Connection;
pub(crate) use jetstream::{From, JetStream, SUBJECT};
pub(crate) use protocol::Operation;
pub(crate) use server::{Program, Server};
