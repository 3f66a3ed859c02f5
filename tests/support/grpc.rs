//! The daemon asked over its public gRPC contract.

use dbstreamd::proto;
use dbstreamd::proto::streams_client::StreamsClient;
use tonic::transport::Channel;

use super::Daemon;

/// Runs a future to its end.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(future)
}

impl Daemon {
    /// A client of the `Streams` service.
    pub(crate) async fn client(&self) -> StreamsClient<Channel> {
        StreamsClient::connect(self.server_url()).await.expect("a connection")
    }

    /// The schema versions of a stream, oldest first.
    pub(crate) fn schemas(&self, stream: &str) -> Vec<proto::Schema> {
        block_on(async {
            let request = proto::ListSchemasRequest { stream: stream.into(), tables: vec![] };
            self.client().await.list_schemas(request).await.expect("an answer").into_inner().schemas
        })
    }
}
