//! The public contract as Rust: messages and clients of `dbstreamd.v1`, and a client with our limits.
//!
//! The server side is generated apart (`grpc`), because it answers with events that are already encoded.

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::large_futures)]

tonic::include_proto!("dbstreamd.v1");

/// The file descriptor set, for reflection.
pub(crate) const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Largest response our own clients accept: one event may be as large as PostgreSQL's largest row (1 GiB before
/// and 1 GiB after), and Protobuf itself ends at 2 GiB. Foreign clients mostly stop at 4 MiB unless told otherwise.
pub const RESPONSE_BYTES_MAX: usize = 0x7FFF_FFFF;

/// The generated client.
pub type Client = streams_client::StreamsClient<tonic::transport::Channel>;

/// Connects to a daemon, `http://127.0.0.1:7400` or just `127.0.0.1:7400`, with limits that let any event pass.
///
/// # Errors
/// When the address cannot be parsed, or nobody answers there.
pub async fn connect(server: &str) -> Result<Client, tonic::transport::Error> {
    Ok(Client::new(channel(server).await?).max_decoding_message_size(RESPONSE_BYTES_MAX))
}

/// The generated client of an operator.
pub type ControlClient = control_client::ControlClient<tonic::transport::Channel>;

/// As [`connect`], to operate the daemon.
///
/// # Errors
/// As [`connect`].
pub async fn connect_control(server: &str) -> Result<ControlClient, tonic::transport::Error> {
    Ok(ControlClient::new(channel(server).await?))
}

async fn channel(server: &str) -> Result<tonic::transport::Channel, tonic::transport::Error> {
    let address = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
    tonic::transport::Endpoint::from_shared(address)?
        .connect_timeout(std::time::Duration::from_secs(5))
        // A burst of the tail fits without waiting for window updates.
        .initial_stream_window_size(4 * 1024 * 1024)
        .initial_connection_window_size(8 * 1024 * 1024)
        .http2_keep_alive_interval(std::time::Duration::from_secs(30))
        .keep_alive_while_idle(true)
        .connect()
        .await
}
