//! `dbstreamd.v1.Control`: translates between the contract and `crate::control`, which knows what to do.

use std::sync::Arc;
use std::time::Duration;

use dbstreamd_model::{Notice, Offset, Severity};
use dbstreamd_source::postgres::setup::{TablePattern, TablePatternError};
use tonic::{Request, Response, Status};

use super::generated::control_server::Control;
use super::preface::Peer;
use super::status::from_log;
use crate::control::lifecycle::{self, Asker, LifecycleError};
use crate::control::tuning::{Change, Current, Origin, TuneError, Tuning};
use crate::directory::{Directory, Entry};
use crate::notices::{KEPT_MAX, Recorded};
use crate::parking::{self, SkipError};
use crate::{proto, schemas};

/// How long a drain may take unless the request says, and at most.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);
const DRAIN_TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// What the handlers need.
pub(super) struct ControlService {
    pub(super) directory: Arc<Directory>,
    pub(super) tuning: Arc<Tuning>,
}

#[tonic::async_trait]
impl Control for ControlService {
    async fn get_settings(
        &self,
        _request: Request<proto::GetSettingsRequest>,
    ) -> Result<Response<proto::GetSettingsResponse>, Status> {
        Ok(Response::new(proto::GetSettingsResponse { settings: self.settings() }))
    }

    async fn tune(&self, request: Request<proto::TuneRequest>) -> Result<Response<proto::TuneResponse>, Status> {
        let asker = asker(&request, &request.get_ref().by, "");
        let request = request.into_inner();
        let changes: Vec<_> = request.changes.into_iter().map(|c| Change { name: c.name, value: c.value }).collect();
        self.tuning.tune(&changes, request.durable, &asker).await?;
        Ok(Response::new(proto::TuneResponse { settings: self.settings() }))
    }

    async fn pause_stream(
        &self,
        request: Request<proto::PauseStreamRequest>,
    ) -> Result<Response<proto::PauseStreamResponse>, Status> {
        let asker = asker(&request, &request.get_ref().by, &request.get_ref().why);
        let request = request.into_inner();
        let entry = self.directory.find(&request.stream)?;
        lifecycle::pause(&self.directory, entry, request.durable, asker).await?;
        let warning = lifecycle::warning(entry);
        Ok(Response::new(proto::PauseStreamResponse { stream: Some(self.stream(entry)?), warning }))
    }

    async fn resume_stream(
        &self,
        request: Request<proto::ResumeStreamRequest>,
    ) -> Result<Response<proto::ResumeStreamResponse>, Status> {
        let asker = asker(&request, &request.get_ref().by, &request.get_ref().why);
        let entry = self.directory.find(&request.get_ref().stream)?;
        if request.get_ref().skip_to > 0 {
            let next = Offset(request.get_ref().skip_to);
            parking::skip(&self.directory, entry, next, asker.words()).await?;
        }
        // What is given up concerns readers; a stream that runs, or has no source, needs nothing else.
        if request.get_ref().skip_to == 0 || lifecycle::at_rest(entry) {
            lifecycle::resume(&self.directory, entry, &asker).await?;
        }
        Ok(Response::new(proto::ResumeStreamResponse { stream: Some(self.stream(entry)?) }))
    }

    async fn drain_stream(
        &self,
        request: Request<proto::DrainStreamRequest>,
    ) -> Result<Response<proto::DrainStreamResponse>, Status> {
        let asker = asker(&request, &request.get_ref().by, &request.get_ref().why);
        let request = request.into_inner();
        let timeout = match Duration::from_millis(request.timeout_ms) {
            Duration::ZERO => DRAIN_TIMEOUT,
            timeout if timeout > DRAIN_TIMEOUT_MAX => {
                return Err(Status::invalid_argument(format!(
                    "timeout_ms = {} is out of range: it accepts 1 to {}, or 0 for {}",
                    request.timeout_ms,
                    DRAIN_TIMEOUT_MAX.as_millis(),
                    DRAIN_TIMEOUT.as_millis()
                )));
            }
            timeout => timeout,
        };
        let entry = self.directory.find(&request.stream)?;
        let drained = lifecycle::drain(&self.directory, entry, request.durable, asker, timeout).await?;
        Ok(Response::new(proto::DrainStreamResponse {
            target_lsn: drained.target.0,
            reached_lsn: drained.reached.0,
            stream: Some(self.stream(entry)?),
            warning: lifecycle::warning(entry),
        }))
    }

    async fn clear_table(
        &self,
        request: Request<proto::ClearTableRequest>,
    ) -> Result<Response<proto::ClearTableResponse>, Status> {
        let asker = asker(&request, &request.get_ref().by, "");
        let request = request.into_inner();
        let entry = self.directory.find(&request.stream)?;
        self.clear(entry, &request.table, &asker).await?;
        let left = self.directory.log().diverged(entry.id);
        Ok(Response::new(proto::ClearTableResponse { diverged: left.iter().map(schemas::diverged).collect() }))
    }

    async fn list_notices(
        &self,
        request: Request<proto::ListNoticesRequest>,
    ) -> Result<Response<proto::ListNoticesResponse>, Status> {
        let proto::ListNoticesRequest { after, limit } = request.into_inner();
        let limit = if limit == 0 { KEPT_MAX } else { usize::try_from(limit).unwrap_or(KEPT_MAX) };
        let page = self.directory.notices.after(after, limit);
        Ok(Response::new(proto::ListNoticesResponse {
            notices: page.notices.iter().map(|recorded| notice(recorded)).collect(),
            oldest_sequence: page.oldest.unwrap_or(0),
            newest_sequence: page.newest,
        }))
    }
}

impl ControlService {
    /// Takes a table off the list of those whose rows changed without events, and writes down who said so.
    async fn clear(&self, entry: &Entry, text: &str, asker: &Asker) -> Result<(), Status> {
        let pattern: TablePattern =
            text.parse().map_err(|error: TablePatternError| Status::invalid_argument(error.to_string()))?;
        if !pattern.is_exact() {
            return Err(Status::invalid_argument(format!("{text:?} is a pattern: name one table")));
        }
        let log = self.directory.log();
        let mut listed = log.diverged(entry.id).into_iter().map(|(name, _)| name);
        let found = listed.find(|name| pattern.matches(&name.schema, &name.table));
        let cleared = match &found {
            Some(name) => log.clear_diverged(entry.id, name.clone()).await.map_err(|error| from_log(&error))?,
            None => false,
        };
        let Some(name) = found.filter(|_| cleared) else {
            let text = format!("table {text} of stream {} is not on the list: nothing is wrong with it", entry.name);
            return Err(Status::not_found(text));
        };
        let text = format!("table {name} counts as read anew, by order of {}", asker.by());
        self.directory.notices.push(Notice::new(Severity::Info, "table_cleared", text).of_stream(&entry.name));
        Ok(())
    }

    fn settings(&self) -> Vec<proto::Setting> {
        self.tuning.all().into_iter().map(setting).collect()
    }

    fn stream(&self, entry: &Entry) -> Result<proto::Stream, Status> {
        let snapshot = self.directory.snapshot(entry).map_err(|error| from_log(&error))?;
        Ok(super::stream(&snapshot))
    }
}

/// Who asks: as the request says, else by where it comes from.
fn asker<T>(request: &Request<T>, by: &str, why: &str) -> Asker {
    let otherwise = request
        .extensions()
        .get::<Peer>()
        .and_then(|peer| peer.address)
        .map_or_else(|| "an unnamed client".to_owned(), |peer| peer.to_string());
    Asker::new(by, why, &otherwise)
}

fn setting(current: Current) -> proto::Setting {
    let origin = match current.origin {
        Origin::Default => proto::SettingOrigin::Default,
        Origin::Config => proto::SettingOrigin::Config,
        Origin::Durable => proto::SettingOrigin::Durable,
        Origin::RunTime => proto::SettingOrigin::RunTime,
    };
    proto::Setting {
        name: current.name.to_owned(),
        value: current.value,
        unit: current.unit.to_owned(),
        range: current.range,
        origin: origin.into(),
        configured: current.configured,
        stored: current.stored.unwrap_or_default(),
        description: current.description.to_owned(),
    }
}

fn notice(recorded: &Recorded) -> proto::Notice {
    let notice = &recorded.notice;
    let severity = match notice.severity {
        Severity::Info => proto::NoticeSeverity::Info,
        Severity::Warning => proto::NoticeSeverity::Warning,
        Severity::Error => proto::NoticeSeverity::Error,
    };
    proto::Notice {
        sequence: recorded.sequence,
        time_us: recorded.time.0,
        severity: severity.into(),
        kind: notice.kind.to_owned(),
        stream: notice.stream.as_ref().map(ToString::to_string).unwrap_or_default(),
        consumer: notice.consumer.as_ref().map(ToString::to_string).unwrap_or_default(),
        text: notice.text.clone(),
    }
}

impl From<TuneError> for Status {
    fn from(error: TuneError) -> Self {
        match &error {
            TuneError::Refused(_) => Self::invalid_argument(error.to_string()),
            TuneError::Log(log) => Self::new(from_log(log).code(), error.to_string()),
        }
    }
}

impl From<SkipError> for Status {
    fn from(error: SkipError) -> Self {
        match error {
            SkipError::NotParked { .. } => Self::failed_precondition(error.to_string()),
            SkipError::Log(error) => from_log(&error),
        }
    }
}

impl From<LifecycleError> for Status {
    fn from(error: LifecycleError) -> Self {
        let text = error.to_string();
        match error {
            LifecycleError::NoSource(_) | LifecycleError::Stopped { .. } => Self::failed_precondition(text),
            LifecycleError::StillStopping { .. } | LifecycleError::TooSlow { .. } => Self::deadline_exceeded(text),
            LifecycleError::Overruled(_) => Self::aborted(text),
            LifecycleError::Source { .. } => Self::failed_precondition(text),
            LifecycleError::Log(error) => from_log(&error),
        }
    }
}
