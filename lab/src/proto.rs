//! The public contract, generated here as any foreign program would, and a client for it.

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::large_futures)]

tonic::include_proto!("dbstreamd.v1");

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

/// The generated client.
pub type Client = streams_client::StreamsClient<Channel>;

/// A batch is at most 256 KiB unless one event alone is larger.
const RESPONSE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Connects to a daemon on this address.
pub async fn connect(address: &str) -> Result<Client, tonic::transport::Error> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(Duration::from_secs(2))
        .initial_stream_window_size(4 * 1024 * 1024)
        .initial_connection_window_size(8 * 1024 * 1024)
        .connect()
        .await?;
    Ok(Client::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX))
}
