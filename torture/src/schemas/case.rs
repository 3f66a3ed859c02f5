//! One case: a fresh database and daemon, steps in several sessions, comparisons in between and at the end.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dbstreamd_throwaway::Cluster;
use rand::Rng;
use rand::rngs::SmallRng;
use tokio_postgres::SimpleQueryMessage;

use crate::daemon::{Daemon, Started};
use crate::error::{TortureError, io, sql};
use crate::oracle::Violation;
use crate::schemas::catalog::{Look, Table, quoted};
use crate::schemas::changes::{PREPARATION, change};
use crate::schemas::held::Values;
use crate::schemas::live::{Item, Live, Trace, replay};
use crate::schemas::model::{CHECKPOINT, Counts, Model};
use crate::schemas::rows::{Counter, say, statement};
use crate::schemas::session::{Script, Session, Tried};
use crate::schemas::values::chance;
use crate::seed;
use crate::server::Server;
use dbstreamd_client::ValueForm;

/// Publication that every table joins when it is made.
const PUBLICATION: &str = "everything";
/// Steps of a case.
const STEPS: std::ops::RangeInclusive<u64> = 50..=80;
/// So many schema changes, in percent, have a change of rows right behind them in their transaction.
const ROW_BEHIND_PERCENT: u32 = 40;
/// Choices that are tried for a step until one is possible.
const CHOICES_MAX: usize = 6;
/// Sessions of a case.
const SESSIONS: std::ops::RangeInclusive<usize> = 2..=4;

/// What a case did and compared.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Figures {
    pub(crate) steps: u64,
    pub(crate) tried: Tried,
    pub(crate) counts: Counts,
    pub(crate) restarts: u64,
    pub(crate) checkpoints: u64,
    /// Tables with rows that were compared.
    pub(crate) compared: u64,
    pub(crate) compared_rows: u64,
    /// Tables that were read from the database instead, since an event said that they have to be.
    pub(crate) read_anew: u64,
    /// Tables that an open transaction kept from being looked at.
    pub(crate) barred: u64,
}

/// Schema changes that were done, by kind.
pub(crate) type Kinds = BTreeMap<&'static str, u64>;

/// How a case went.
pub(crate) struct Outcome {
    pub(crate) seed: u64,
    pub(crate) figures: Figures,
    pub(crate) kinds: Kinds,
    pub(crate) violations: Vec<Violation>,
    pub(crate) took: Duration,
    /// Where its files were kept, when something was wrong.
    pub(crate) kept: Option<std::path::PathBuf>,
}

/// Runs the case with this seed. What it finds is in the outcome; an error is the harness's own.
pub(crate) async fn run(
    binary: &Path,
    keep: bool,
    cluster: &Arc<Cluster>,
    case_seed: u64,
) -> Result<Outcome, TortureError> {
    let started = Instant::now();
    let folder = tempfile::Builder::new().prefix("dbstreamd-schemas-").tempdir().map_err(io("create a folder"))?;
    let database = format!("schemas_{case_seed:x}_{}", std::process::id());
    let mut rng = seed::generator(case_seed, "schemas");
    let by_root = chance(&mut rng, 50);
    let publication =
        format!("CREATE PUBLICATION {PUBLICATION} FOR ALL TABLES WITH (publish_via_partition_root = {by_root})");
    let server = Server::create(cluster, &database, &format!("{PREPARATION}; {publication}")).await?;
    let mut case = Case::set(binary, folder.path(), &server, rng, by_root).await?;
    if let Err(error) = case.play().await {
        let detail = format!("{error}; the daemon says: {}", case.daemon.quote());
        case.model.violations.add("case-completes", detail);
    }
    if let Some(detail) = case.sessions.iter().find_map(|session| session.in_the_way.clone()) {
        case.model.violations.add("never-in-the-way", detail);
    }
    case.figures.counts = case.model.counts;
    for session in &case.sessions {
        case.figures.tried.statements += session.tried.statements;
        case.figures.tried.refused += session.tried.refused;
        case.figures.tried.changes += session.tried.changes;
    }
    case.daemon.kill().await?;
    let (figures, kinds) = (case.figures, std::mem::take(&mut case.kinds));
    let violations = std::mem::take(&mut case.model.violations).into_told();
    drop(case);
    let kept = (keep || !violations.is_empty()).then(|| folder.keep());
    if let Err(error) = server.remove().await {
        eprintln!("could not remove database {database}: {error}");
    }
    Ok(Outcome { seed: case_seed, figures, kinds, violations, took: started.elapsed(), kept })
}

struct Case {
    daemon: Daemon,
    live: Live,
    trace: Trace,
    model: Model,
    by_root: bool,
    sessions: Vec<Session>,
    /// Looks at what is committed.
    looker: Session,
    script: Script,
    rng: SmallRng,
    counter: Counter,
    figures: Figures,
    /// Schema changes that were done, by kind.
    kinds: Kinds,
}

impl Case {
    async fn set(
        binary: &Path,
        folder: &Path,
        server: &Server,
        mut rng: SmallRng,
        by_root: bool,
    ) -> Result<Self, TortureError> {
        let source = format!(
            "publication = \"{PUBLICATION}\"\ncreate_publication = false\npublish_via_partition_root = {by_root}\n\
             ddl_capture = true\n"
        );
        let mut daemon = Daemon::plain(binary, folder, &server.url(), &source)?;
        daemon.start_streaming().await?;
        let mut sessions = Vec::new();
        for number in 1..=rng.random_range(SESSIONS) {
            sessions.push(Session::connect(server, number).await?);
        }
        Ok(Self {
            live: Live::start(daemon.grpc()),
            daemon,
            trace: Trace::default(),
            model: Model::new(by_root),
            by_root,
            sessions,
            looker: Session::connect(server, 0).await?,
            script: Script::create(&folder.join("script.sql"))?,
            rng,
            counter: Counter::default(),
            figures: Figures::default(),
            kinds: Kinds::new(),
        })
    }

    async fn play(&mut self) -> Result<(), TortureError> {
        let steps = self.rng.random_range(STEPS);
        let restarts: Vec<u64> = (0..self.rng.random_range(1..=2)).map(|_| self.rng.random_range(5..steps)).collect();
        for step in 0..steps {
            self.figures.steps += 1;
            if restarts.contains(&step) {
                self.restart().await?;
            }
            self.step(step < 6).await?;
        }
        for session in &mut self.sessions {
            let commit = chance(&mut self.rng, 70);
            session.end(commit, &mut self.script).await?;
        }
        self.checkpoint().await?;
        self.model.check_versions();
        for form in [ValueForm::Text, ValueForm::Typed] {
            if let Some(detail) = replay(self.daemon.grpc(), &self.trace, form).await? {
                self.model.violations.add("replay-equals-live", detail);
            }
        }
        Ok(())
    }

    /// `early`: while there are hardly any tables.
    async fn step(&mut self, early: bool) -> Result<(), TortureError> {
        let count = self.sessions.len();
        let (at, choice) = (self.rng.random_range(0..count), self.rng.random_range(0..100));
        let all_closed = self.sessions.iter().all(|session| !session.open());
        let Some(session) = self.sessions.get_mut(at) else { return Ok(()) };
        let (rng, script) = (&mut self.rng, &mut self.script);
        match choice {
            0..=7 => session.begin(script).await,
            8..=17 => {
                let commit = chance(rng, 75);
                session.end(commit, script).await
            }
            18..=19 => session.back(script).await,
            20..=23 if !early => self.checkpoint().await,
            24..=67 if !early => {
                let look = Look::take(&session.client).await?;
                let possible = (0..CHOICES_MAX).find_map(|_| statement(rng, &look, self.by_root, &mut self.counter));
                if let Some(statement) = possible {
                    session.attempt(&statement, rng, script).await?;
                }
                Ok(())
            }
            _ => {
                let look = Look::take(&session.client).await?;
                let possible = (0..CHOICES_MAX).find_map(|_| {
                    let change = change(rng, &look, &mut self.counter)?;
                    (all_closed || !change.alone).then_some(change)
                });
                let Some(change) = possible else { return Ok(()) };
                let (by_root, counter) = (self.by_root, &mut self.counter);
                let next = |rng: &mut SmallRng, look: &Look| {
                    chance(rng, ROW_BEHIND_PERCENT).then(|| statement(rng, look, by_root, counter)).flatten()
                };
                if session.change(&change, &look, rng, script, next).await? {
                    *self.kinds.entry(change.kind).or_default() += 1;
                }
                Ok(())
            }
        }
    }

    /// Ends the daemon and starts it, and goes on meanwhile.
    async fn restart(&mut self) -> Result<(), TortureError> {
        self.figures.restarts += 1;
        if chance(&mut self.rng, 50) {
            self.script.note("-- kill -9")?;
            self.daemon.kill().await?;
        } else {
            self.script.note("-- SIGTERM")?;
            // Before it answers it does not listen to signals either.
            if let Started::Ended(how) = self.daemon.wait_up().await? {
                return Err(TortureError::Failed(format!("the daemon does not start: {how}")));
            }
            let status = self.daemon.terminate().await?;
            if status.is_none_or(|status| !status.success()) {
                self.model.violations.add("ends-cleanly", format!("{status:?}; {}", self.daemon.quote()));
            }
        }
        self.daemon.spawn()
    }

    /// Reads the tables, waits until the stream is there, and compares.
    async fn checkpoint(&mut self) -> Result<(), TortureError> {
        self.figures.checkpoints += 1;
        let number = self.figures.checkpoints;
        self.script.note(&format!("-- checkpoint {number}"))?;
        let client = &self.looker.client;
        let look = Look::take(client).await?;
        let mut contents = Vec::new();
        for table in look.tables.iter().filter(|table| table.published(self.by_root)) {
            if table.barred {
                self.figures.barred += 1;
            } else {
                contents.push((table, rows(client, table).await?));
            }
        }
        // Committed behind everything that was read, and on disk when this returns.
        client.simple_query(&say(CHECKPOINT, &number.to_string())).await.map_err(sql("write a checkpoint"))?;
        self.follow(number).await?;
        let known: Vec<u32> =
            self.model.tables.iter().filter(|(_, held)| held.published(self.by_root)).map(|(oid, _)| *oid).collect();
        let mut existing: Vec<u32> =
            look.tables.iter().filter(|table| table.published(self.by_root)).map(|table| table.oid).collect();
        existing.sort_unstable();
        if known != existing {
            let detail = format!("checkpoint {number}: by the stream {known:?}, there are {existing:?}");
            self.model.violations.add("tables-equal", detail);
        }
        for (table, truth) in contents {
            let Some(held) = self.model.tables.get_mut(&table.oid) else { continue };
            let names: Vec<&str> = table.published_columns().map(|column| column.name.as_str()).collect();
            if !held.column_names().eq(names.iter().copied()) {
                let detail = format!("checkpoint {number}: {} has the columns {names:?}, not as told", table.name);
                self.model.violations.add("columns-equal", detail);
                continue;
            }
            if std::mem::take(&mut held.unknown) {
                self.figures.read_anew += u64::from(!truth.is_empty());
                held.rows = truth;
                continue;
            }
            if !truth.is_empty() || !held.rows.is_empty() {
                self.figures.compared += 1;
                self.figures.compared_rows += truth.len() as u64;
            }
            if let Err(detail) = held.compare(&truth) {
                self.model.violations.add("contents-equal", format!("checkpoint {number}: {detail}"));
                // What comes of it is not told again and again.
                held.rows = truth;
            }
        }
        Ok(())
    }

    /// Takes the stream up to a checkpoint.
    async fn follow(&mut self, checkpoint: u64) -> Result<(), TortureError> {
        while self.model.checkpoint != Some(checkpoint) {
            match self.live.next().await {
                Ok(Item::Schema(schema)) => self.model.schema(*schema),
                Ok(Item::Events(batch)) => {
                    for event in &batch.events {
                        self.trace.take(event);
                        self.model.event(event);
                    }
                }
                Ok(Item::Refused(status)) => {
                    return Err(TortureError::Failed(format!("the reader is refused: {status}")));
                }
                Err(error) => {
                    let how = self.daemon.ended()?.map_or_else(String::new, |how| format!("; the daemon ended: {how}"));
                    return Err(TortureError::Failed(format!("{error}{how}")));
                }
            }
        }
        Ok(())
    }
}

/// What is in a table, as text, in columns that the stream has.
async fn rows(client: &tokio_postgres::Client, table: &Table) -> Result<Vec<Values>, TortureError> {
    let columns: Vec<String> = table.published_columns().map(|column| quoted(&column.name)).collect();
    let question = format!("SELECT {} FROM {}", columns.join(", "), table.full_name());
    let messages = client.simple_query(&question).await.map_err(sql("read a table"))?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect()),
        _ => None,
    });
    Ok(rows.collect())
}
