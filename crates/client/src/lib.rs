//! A client of the public contract, generated from `proto/dbstreamd/v1` as any program outside this repository would.
//!
//! For our own benchmarks and fault harness, which know nothing of the daemon's insides: they do not depend on its crate, whose own
//! generation (`dbstreamd::proto`) also serves it.

mod contract {
    #![allow(missing_docs, unreachable_pub, clippy::all, clippy::large_futures)]

    tonic::include_proto!("dbstreamd.v1");
}

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

pub use contract::*;

/// The generated client.
pub type Client = streams_client::StreamsClient<Channel>;

/// Largest response that is accepted. A batch is at most 256 KiB unless one event alone is larger, and no event of ours
/// comes near this.
const RESPONSE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest wait for the connection: the daemon is on this machine, and who waits for one tries again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// HTTP/2 windows, of a call and of a connection, that hold some batches without waiting for window updates.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// Connects to a daemon on this address, `127.0.0.1:7400`.
///
/// # Errors
/// When the address cannot be parsed, or nobody answers there within two seconds.
pub async fn connect(address: &str) -> Result<Client, tonic::transport::Error> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .connect()
        .await?;
    Ok(Client::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX))
}
