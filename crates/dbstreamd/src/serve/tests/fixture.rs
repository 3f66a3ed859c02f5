//! A log with one stream called `shop`, both servers over it, and hands to append, subscribe and ask.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dbstreamd_log::{Appender, CreditWindow, Log, LogOptions, Pump, UnitHead};
use dbstreamd_model::{Column, Lsn, Offset, Op, ReplicaIdentity, StreamId, TableSchema, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::config::{Config, Overrides};
use crate::directory::{Entry, RunningSource};
use crate::notices::Notices;
use crate::proto::{self, subscribe_request::Request, subscribe_response::Response};
use crate::serve::{Api, Ports};

/// Nothing here takes this long; a wait that does is a failure.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Fixture {
    pub(super) log: Log,
    pub(super) stream: StreamId,
    pub(super) grpc: SocketAddr,
    pub(super) http: SocketAddr,
    pub(super) notices: Notices,
    api: Option<Api>,
    appender: Appender,
    next_lsn: u64,
    _dir: tempfile::TempDir,
}

pub(super) fn table(name: &str) -> Arc<TableSchema> {
    let column = |name: &str, in_identity| Column {
        name: name.into(),
        type_name: "text".into(),
        type_oid: 25,
        type_modifier: -1,
        in_identity,
        description: None,
    };
    Arc::new(TableSchema {
        namespace: "shop".into(),
        table: name.into(),
        replica_identity: ReplicaIdentity::Default,
        columns: vec![column("id", true), column("note", false)],
    })
}

/// An insert's body: the row (`id`, `note`).
pub(super) fn insert(id: &str, note: &[u8]) -> Vec<u8> {
    let mut body = b"N\0\x02".to_vec();
    for value in [id.as_bytes(), note] {
        body.push(b't');
        body.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
        body.extend_from_slice(value);
    }
    body
}

impl Fixture {
    pub(super) async fn start() -> Self {
        Self::start_with(|_, _| {}).await
    }

    pub(super) async fn start_with(change: impl FnOnce(&mut Config, &mut LogOptions)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::load_with(None, &Overrides::default(), &Default::default()).unwrap();
        config.grpc.listen = "127.0.0.1:0".parse().unwrap();
        config.http.listen = "127.0.0.1:0".parse().unwrap();
        let mut options = LogOptions::with_dir(dir.path().join("data"));
        change(&mut config, &mut options);
        let log = Log::open(options).unwrap();
        let name = "shop".parse().unwrap();
        let stream = log.open_stream(&name).unwrap();
        let running = RunningSource::unconnected(&name);
        let entries = vec![Entry { id: stream, name, running: Some(running) }];
        let ports = Ports::bind(&config).await.unwrap();
        let notices = Notices::default();
        let api =
            Api::start(ports, &config, log.clone(), CreditWindow::new(1 << 20), entries, notices.clone()).unwrap();
        let mut appender = log.appender(stream).unwrap();
        appender.begin_session().await.unwrap();
        Self {
            log,
            stream,
            grpc: api.grpc_addr,
            http: api.http_addr,
            notices,
            api: Some(api),
            appender,
            next_lsn: 100,
            _dir: dir,
        }
    }

    /// One transaction of these inserts; returns when consumers can see it.
    pub(super) async fn commit(&mut self, rows: &[(&Arc<TableSchema>, Vec<u8>)]) -> Offset {
        self.next_lsn += 100;
        let commit_lsn = Lsn(self.next_lsn);
        let visible = self.log.watermarks(self.stream).unwrap().visible;
        self.appender.begin_unit(UnitHead { commit_lsn, commit_time: Timestamp(1_700_000_000_000_000), xid: 7 });
        for (schema, body) in rows {
            let schema = self.appender.schema(schema, None);
            self.appender.append(Op::Insert, Some(schema), body);
        }
        self.appender.end_unit(Lsn(self.next_lsn + 50));
        self.appender.pump(Pump::Now).unwrap();
        let wanted = visible.advance(rows.len() as u64);
        let mut marks = self.log.watch(self.stream).unwrap();
        tokio::time::timeout(PATIENCE, marks.wait_for(|marks| marks.visible >= wanted)).await.unwrap().unwrap();
        wanted
    }

    /// The source's history breaks: what follows is of a new epoch, at lower LSNs.
    pub(super) async fn raise_epoch(&mut self, source_lsn: u64) {
        let source = dbstreamd_log::SourceIdentity { system_id: 1, timeline: 1 };
        let reason = dbstreamd_log::EpochReason::ServerBehind;
        let broken = dbstreamd_log::EpochBreak { reason, source_lsn: Lsn(source_lsn), source };
        self.appender.raise_epoch(broken).await.unwrap();
        self.appender.begin_session().await.unwrap();
        self.next_lsn = source_lsn;
    }

    /// `count` transactions of one row each.
    pub(super) async fn commit_many(&mut self, schema: &Arc<TableSchema>, count: usize) {
        for number in 0..count {
            self.commit(&[(schema, insert(&number.to_string(), b"x"))]).await;
        }
    }

    /// What a consumer has committed; 0 when it is not known.
    pub(super) fn committed(&self, consumer: &str) -> u64 {
        self.log.consumer(self.stream, &consumer.parse().unwrap()).map_or(0, |record| record.committed.0)
    }

    pub(super) async fn until_committed(&self, consumer: &str, offset: u64) {
        until(&format!("{consumer} has committed {offset}"), async || self.committed(consumer) >= offset).await;
    }

    /// Lets retention look until it has removed something.
    pub(super) async fn until_trimmed(&self) {
        until("something is trimmed", async || {
            self.log.apply_retention().await.unwrap();
            self.log.watermarks(self.stream).unwrap().trim_point > Offset::NONE
        })
        .await;
    }

    pub(super) async fn client(&self) -> proto::Client {
        proto::connect(&self.grpc.to_string()).await.unwrap()
    }

    pub(super) async fn control(&self) -> proto::control_client::ControlClient<tonic::transport::Channel> {
        proto::control_client::ControlClient::connect(format!("http://{}", self.grpc)).await.unwrap()
    }

    pub(super) async fn subscribe(&self, start: proto::Start) -> Subscriber {
        let mut client = self.client().await;
        let (requests, stream) = mpsc::unbounded_channel();
        requests.send(proto::SubscribeRequest { request: Some(Request::Start(start)) }).unwrap();
        let stream = tokio_stream::wrappers::UnboundedReceiverStream::new(stream);
        let responses = client.subscribe(stream).await.unwrap().into_inner();
        Subscriber {
            requests: Some(requests),
            responses,
            schemas: Vec::new(),
            epochs: Vec::new(),
            skipped: Vec::new(),
            progress: 0,
            started: None,
        }
    }

    /// Sends these bytes to a port and returns all that comes back until the other side closes.
    pub(super) async fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
        let mut socket = TcpStream::connect(address).await.unwrap();
        // The other side may close while we still write.
        let _ = socket.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await.unwrap();
        answer
    }

    /// GET over HTTP/1.1: status and the whole rest.
    pub(super) async fn get(&self, path: &str, headers: &str) -> (u16, String) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
        parse(&Self::raw(self.http, request.as_bytes()).await)
    }

    pub(super) async fn stop(mut self) {
        self.api.take().unwrap().stop().await;
    }

    pub(super) async fn stop_servers(&mut self) {
        self.api.take().unwrap().stop().await;
    }
}

/// Waits until it is so.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Bytes that do not compress.
pub(super) fn noise(length: usize) -> Vec<u8> {
    let mut state = length as u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        b'!' + u8::try_from(state >> 58).unwrap()
    };
    (0..length).map(|_| next()).collect()
}

pub(super) fn parse(answer: &[u8]) -> (u16, String) {
    let text = String::from_utf8_lossy(answer).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, text)
}

pub(super) struct Subscriber {
    requests: Option<mpsc::UnboundedSender<proto::SubscribeRequest>>,
    responses: Streaming<proto::SubscribeResponse>,
    pub(super) schemas: Vec<proto::Schema>,
    pub(super) epochs: Vec<proto::Epoch>,
    pub(super) skipped: Vec<proto::Skipped>,
    pub(super) progress: u64,
    pub(super) started: Option<proto::Started>,
}

impl Subscriber {
    fn send(&self, request: Request) {
        self.requests.as_ref().unwrap().send(proto::SubscribeRequest { request: Some(request) }).unwrap();
    }

    pub(super) fn acknowledge(&self, offset: u64) {
        self.send(Request::Acknowledge(proto::Acknowledge { offset }));
    }

    pub(super) fn credit(&self, events: u64) {
        self.send(Request::Credit(proto::Credit { events }));
    }

    /// Says that nothing more will be asked.
    pub(super) fn half_close(&mut self) {
        self.requests = None;
    }

    /// The next events; checks that each has its schema by then. None at the call's regular end.
    pub(super) async fn batch(&mut self) -> Result<Option<Vec<proto::Event>>, Status> {
        loop {
            let message =
                tokio::time::timeout(PATIENCE, self.responses.message()).await.expect("no response in time")?;
            match message.map(|message| message.response.unwrap()) {
                None => return Ok(None),
                Some(Response::Started(started)) => {
                    assert!(self.started.replace(started).is_none(), "started twice");
                }
                Some(Response::Schema(schema)) => self.schemas.push(schema),
                Some(Response::Skipped(skipped)) => self.skipped.push(skipped),
                Some(Response::EpochStarted(epoch)) => self.epochs.push(epoch),
                Some(Response::Progress(progress)) => {
                    assert!(progress.offset >= self.progress, "progress went back");
                    self.progress = progress.offset;
                }
                Some(Response::Events(batch)) => {
                    assert!(!batch.events.is_empty());
                    for event in &batch.events {
                        let known = self.schemas.iter().any(|schema| schema.fingerprint == event.fingerprint);
                        assert!(known, "event {} came before its schema", event.offset);
                    }
                    return Ok(Some(batch.events));
                }
            }
        }
    }

    /// Exactly this many events.
    pub(super) async fn events(&mut self, count: usize) -> Vec<proto::Event> {
        let mut events = Vec::new();
        while events.len() < count {
            events.extend(self.batch().await.unwrap().expect("the call ended"));
        }
        assert_eq!(events.len(), count);
        events
    }

    /// Waits for a progress response of at least this offset; no event may come.
    pub(super) async fn progress_to(&mut self, offset: u64) {
        while self.progress < offset {
            let message = tokio::time::timeout(PATIENCE, self.responses.message()).await.unwrap().unwrap().unwrap();
            match message.response.unwrap() {
                Response::Progress(progress) => self.progress = progress.offset,
                Response::Started(started) => self.started = Some(started),
                other => panic!("{other:?} instead of progress"),
            }
        }
    }

    /// The status with which the call ends, whatever comes before.
    pub(super) async fn refused(mut self) -> Status {
        loop {
            match self.batch().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the call ended well"),
                Err(status) => return status,
            }
        }
    }
}

pub(super) fn offsets(events: &[proto::Event]) -> Vec<u64> {
    events.iter().map(|event| event.offset).collect()
}

pub(super) fn earliest() -> Option<proto::StartFrom> {
    Some(proto::StartFrom { from: Some(proto::start_from::From::Earliest(proto::Empty {})) })
}

pub(super) fn from_offset(offset: u64) -> Option<proto::StartFrom> {
    Some(proto::StartFrom { from: Some(proto::start_from::From::Offset(offset)) })
}
