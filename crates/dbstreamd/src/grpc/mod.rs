//! The gRPC server: `dbstreamd.v1.Streams`, `dbstreamd.v1.Control`, standard health and reflection.
//!
//! This file answers the small questions; [`subscribe`] delivers. What may connect is decided in [`preface`].

mod acks;
mod boundary;
mod company;
mod control;
pub(crate) mod details;
mod dozing;
pub(crate) mod encode;
mod express;
mod feed;
pub(crate) mod gather;
mod health;
mod outbox;
mod preface;
pub(crate) mod schema_cache;
pub(crate) mod start;
pub(crate) mod status;
mod subscribe;
pub(crate) mod wire;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use dbstreamd_log::{ConsumerState, Rewind, StoredSchema};
use dbstreamd_model::{Fingerprint, Offset};
use dbstreamd_source::{SlotHealth, State};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::control::tuning::Tuning;
use crate::delivery::DeliveryBudget;
use crate::directory::{ConsumerSnapshot, Directory, StreamSnapshot};
use crate::filter::Filter;
use crate::{parking, proto, schemas};
use express::Express;
use outbox::Responses;
use preface::Peer;
use status::from_log;

/// The server half of the contract, whose `Subscribe` answers with [`wire::WireResponse`].
mod generated {
    #![allow(missing_docs, unreachable_pub, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/server/dbstreamd.v1.rs"));
}
use generated::control_server::ControlServer;
use generated::streams_server::{Streams, StreamsServer};

/// The largest request: a start with as many patterns as allowed stays far below.
const REQUEST_BYTES_MAX: usize = 256 * 1024;

/// What one client may ask at a time over one connection.
const CALLS_PER_CONNECTION_MAX: u32 = 1024;

/// A dead peer is noticed after these two.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Bounds of the server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) connections_max: usize,
    pub(crate) subscribers_max: usize,
}

/// Serves until `shutdown` fires and the calls have ended.
pub(crate) async fn serve(
    listener: TcpListener,
    directory: Arc<Directory>,
    tuning: Arc<Tuning>,
    subscribers: Arc<Semaphore>,
    budget: DeliveryBudget,
    limits: Limits,
    shutdown: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let health_task = tokio::spawn(health::report(Arc::clone(&directory), reporter, shutdown.clone()));
    let control = control::ControlService { directory: Arc::clone(&directory), tuning };
    let control = ControlServer::new(control).max_decoding_message_size(REQUEST_BYTES_MAX);
    let service = Service { directory, subscribers, budget, shutdown: shutdown.clone(), limits };
    let streams = StreamsServer::new(service).max_decoding_message_size(REQUEST_BYTES_MAX);
    tonic::transport::Server::builder()
        .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_header_list_size(16 * 1024)
        .layer(Express)
        .add_service(streams)
        .add_service(control)
        .add_service(health)
        .add_service(reflection)
        .serve_with_incoming_shutdown(
            preface::incoming(listener, limits.connections_max, shutdown.clone()),
            shutdown.cancelled_owned(),
        )
        .await?;
    health_task.await?;
    Ok(())
}

struct Service {
    directory: Arc<Directory>,
    subscribers: Arc<Semaphore>,
    budget: DeliveryBudget,
    shutdown: CancellationToken,
    limits: Limits,
}

#[tonic::async_trait]
impl Streams for Service {
    type SubscribeStream = Responses;

    async fn subscribe(
        &self,
        request: Request<Streaming<proto::SubscribeRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let Ok(seat) = Arc::clone(&self.subscribers).try_acquire_owned() else {
            return Err(Status::resource_exhausted(format!(
                "this daemon serves at most {} subscribers: raise grpc.max_subscribers, or close some",
                self.limits.subscribers_max
            )));
        };
        let companies = request.extensions().get::<Peer>().map(|peer| peer.companies.clone()).unwrap_or_default();
        let (outbox, responses) = outbox::outbox(self.budget.clone(), self.directory.visible_to_sent.clone());
        // Answer at once: some clients send their start only after they have seen the response's headers.
        let directory = Arc::clone(&self.directory);
        let shutdown = self.shutdown.clone();
        let subscription = subscribe::serve(directory, request.into_inner(), outbox, companies, shutdown);
        tokio::spawn(async move {
            subscription.await;
            drop(seat);
        });
        let lane = responses.lane();
        let mut response = Response::new(responses);
        response.extensions_mut().insert(lane);
        Ok(response)
    }

    async fn commit_offset(
        &self,
        request: Request<proto::CommitOffsetRequest>,
    ) -> Result<Response<proto::CommitOffsetResponse>, Status> {
        let request = request.into_inner();
        let entry = self.directory.find(&request.stream)?;
        let consumer = start::consumer_name(&request.consumer)?;
        let offset = Offset(request.offset);
        let log = self.directory.log();
        let visible = log.watermarks(entry.id).map_err(|error| from_log(&error))?.visible;
        if offset > visible {
            return Err(Status::out_of_range(format!(
                "offset {offset} cannot be committed: the newest visible event of stream {} is {visible}",
                entry.name
            )));
        }
        let committed = log.consumer(entry.id, &consumer).map_or(Offset::NONE, |record| record.committed);
        if offset < committed && !request.allow_rewind {
            return Err(Status::failed_precondition(format!(
                "consumer {consumer} has committed {committed}, which is above {offset}: set allow_rewind to read again from there"
            )));
        }
        let rewind = if request.allow_rewind { Rewind::Allow } else { Rewind::Refuse };
        let durable = log.commit_offset(entry.id, &consumer, offset, rewind).await.map_err(|error| from_log(&error))?;
        Ok(Response::new(proto::CommitOffsetResponse { committed_offset: durable.get().0 }))
    }

    async fn list_streams(
        &self,
        _request: Request<proto::ListStreamsRequest>,
    ) -> Result<Response<proto::ListStreamsResponse>, Status> {
        let snapshots = self.directory.snapshots().map_err(|error| from_log(&error))?;
        Ok(Response::new(proto::ListStreamsResponse { streams: snapshots.iter().map(stream).collect() }))
    }

    async fn get_stream(&self, request: Request<proto::GetStreamRequest>) -> Result<Response<proto::Stream>, Status> {
        let entry = self.directory.find(&request.into_inner().name)?;
        let snapshot = self.directory.snapshot(entry).map_err(|error| from_log(&error))?;
        Ok(Response::new(stream(&snapshot)))
    }

    async fn list_consumers(
        &self,
        request: Request<proto::ListConsumersRequest>,
    ) -> Result<Response<proto::ListConsumersResponse>, Status> {
        let name = request.into_inner().stream;
        let of = if name.is_empty() { None } else { Some(self.directory.find(&name)?.id) };
        let consumers = self.directory.consumers(of).map_err(|error| from_log(&error))?;
        Ok(Response::new(proto::ListConsumersResponse { consumers: consumers.iter().map(consumer).collect() }))
    }

    async fn delete_consumer(
        &self,
        request: Request<proto::DeleteConsumerRequest>,
    ) -> Result<Response<proto::DeleteConsumerResponse>, Status> {
        let request = request.into_inner();
        let entry = self.directory.find(&request.stream)?;
        let consumer = start::consumer_name(&request.consumer)?;
        if self.directory.registry.is_taken(entry.id, &consumer) {
            return Err(Status::failed_precondition(format!(
                "consumer {consumer} of stream {} is connected: stop it first, or it would come back with its next commit",
                entry.name
            )));
        }
        let forgotten = self.directory.log().forget_consumer(entry.id, &consumer).await;
        match forgotten.map_err(|error| from_log(&error))? {
            Some(committed) => {
                tracing::info!(stream = %entry.name, %consumer, %committed, "a consumer was deleted");
                Ok(Response::new(proto::DeleteConsumerResponse { committed_offset: committed.0 }))
            }
            None => Err(Status::not_found(format!(
                "stream {} has no consumer {consumer}: dbstreamd consumers lists them",
                entry.name
            ))),
        }
    }

    async fn get_schema(&self, request: Request<proto::GetSchemaRequest>) -> Result<Response<proto::Schema>, Status> {
        let request = request.into_inner();
        let entry = self.directory.find(&request.stream)?;
        let wanted = WantedSchema::of(&request)?;
        // The newest of those that match, for a version that is not given.
        let found = self.directory.log().schemas(entry.id).into_iter().rev().find(|stored| wanted.is(stored));
        match found {
            Some(stored) => Ok(Response::new(schemas::contract(&stored))),
            None => Err(Status::not_found(format!("stream {} has no schema {wanted}", entry.name))),
        }
    }

    async fn list_schemas(
        &self,
        request: Request<proto::ListSchemasRequest>,
    ) -> Result<Response<proto::ListSchemasResponse>, Status> {
        let request = request.into_inner();
        let entry = self.directory.find(&request.stream)?;
        let filter =
            Filter::new(&request.tables, Vec::new()).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let stored = self.directory.log().schemas(entry.id);
        // Types that were made anew under their names leave two of the same content.
        let mut seen = HashSet::new();
        let wanted =
            stored.iter().filter(|stored| filter.takes_table(&stored.schema) && seen.insert(stored.fingerprint));
        let schemas = wanted.map(schemas::contract).collect();
        Ok(Response::new(proto::ListSchemasResponse { schemas }))
    }
}

/// Which schema version is asked for.
enum WantedSchema<'a> {
    Fingerprint(Fingerprint),
    /// Version 0: the newest.
    Version {
        table: &'a str,
        version: u32,
    },
}

impl<'a> WantedSchema<'a> {
    fn of(request: &'a proto::GetSchemaRequest) -> Result<Self, Status> {
        match (request.fingerprint.as_ref(), request.table.as_str()) {
            ([], "") => Err(Status::invalid_argument("name a fingerprint, or a table as schema.table")),
            ([], table) => Ok(Self::Version { table, version: request.version }),
            (fingerprint, "") => {
                fingerprint.try_into().map(|bytes| Self::Fingerprint(Fingerprint(bytes))).map_err(|_| {
                    Status::invalid_argument(format!("a fingerprint has 16 bytes, not {}", fingerprint.len()))
                })
            }
            _ => Err(Status::invalid_argument("name a fingerprint or a table, not both")),
        }
    }

    fn is(&self, stored: &StoredSchema) -> bool {
        match self {
            Self::Fingerprint(fingerprint) => stored.fingerprint == *fingerprint,
            Self::Version { table, version } => {
                let (schema, name) = (stored.schema.namespace.as_str(), stored.schema.table.as_str());
                (*version == 0 || *version == stored.version)
                    && table.strip_prefix(schema).and_then(|rest| rest.strip_prefix('.')) == Some(name)
            }
        }
    }
}

impl std::fmt::Display for WantedSchema<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fingerprint(fingerprint) => write!(f, "with fingerprint {fingerprint}"),
            Self::Version { table, version: 0 } => write!(f, "of table {table}; nothing of that table has come yet"),
            Self::Version { table, version } => write!(f, "version {version} of table {table}"),
        }
    }
}

fn stream(snapshot: &StreamSnapshot) -> proto::Stream {
    let state = match snapshot.lifecycle.as_ref().map(|lifecycle| lifecycle.state) {
        None => proto::StreamState::Unspecified,
        Some(State::Init) => proto::StreamState::Init,
        Some(State::Setup) => proto::StreamState::Setup,
        Some(State::Streaming) => proto::StreamState::Streaming,
        Some(State::Failed) => proto::StreamState::Failed,
        Some(State::Paused) => proto::StreamState::Paused,
    };
    let marks = &snapshot.watermarks;
    proto::Stream {
        name: snapshot.name.to_string(),
        state: state.into(),
        error: snapshot.error().to_owned(),
        epoch: marks.epoch.0,
        appended_offset: marks.appended.0,
        durable_offset: marks.durable.0,
        visible_offset: marks.visible.0,
        trim_point: snapshot.trim_point().0,
        confirmed_through_lsn: marks.confirmed_through.0,
        received_lsn: snapshot.received_lsn.0,
        source_lsn: snapshot.source_lsn.0,
        visible_commit_time_us: marks.visible_commit_time.0,
        log_bytes: snapshot.log_bytes,
        reconnects: snapshot.reconnects,
        events_received: snapshot.events_received,
        slot: snapshot.slot.clone(),
        publication: snapshot.publication.clone(),
        epochs: snapshot.epochs.iter().map(crate::epochs::contract).collect(),
        parked: snapshot.parked.iter().map(parking::contract).collect(),
        skipped: snapshot.skips.iter().map(parking::skip_contract).collect(),
        slot_health: snapshot.slot_health.as_ref().map(slot_health),
        diverged: snapshot.diverged.iter().map(schemas::diverged).collect(),
        ddl_capture: snapshot.ddl_capture,
    }
}

fn slot_health(slot: &SlotHealth) -> proto::SlotHealth {
    proto::SlotHealth {
        restart_lsn: slot.restart_lsn.0,
        confirmed_flush_lsn: slot.confirmed_flush_lsn.0,
        wal_status: slot.wal_status.clone(),
        retained_bytes: slot.retained_bytes,
        safe_bytes: slot.safe_bytes,
        pinned_by: slot.pinned_by.clone(),
        seen_at_us: slot.seen_at.0,
    }
}

fn consumer(snapshot: &ConsumerSnapshot) -> proto::Consumer {
    let state = match snapshot.state {
        ConsumerState::Active => proto::ConsumerState::Active,
        ConsumerState::Lagging => proto::ConsumerState::Lagging,
        ConsumerState::Released(_) => proto::ConsumerState::Released,
        ConsumerState::NeedsSnapshot(_) => proto::ConsumerState::NeedsSnapshot,
    };
    proto::Consumer {
        stream: snapshot.stream.to_string(),
        name: snapshot.name.to_string(),
        committed_offset: snapshot.committed.0,
        lag_events: snapshot.lag_events,
        lag_bytes: snapshot.lag_bytes,
        committed_at_us: snapshot.committed_at.0,
        connected: snapshot.connected,
        state: state.into(),
        state_reason: snapshot.state_reason(),
        away_seconds: snapshot.away.map_or(0, |away| away.as_secs()),
    }
}
