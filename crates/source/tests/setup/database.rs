//! One database per test, on a cluster that all tests share while any of them runs.

use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use dbstreamd_source::postgres::SourceSettings;
use dbstreamd_source::postgres::setup::{self, Finding, Level, Prepared, Report, SetupError, TableReport};
use dbstreamd_throwaway::{Builder, Cluster};

/// The stream of every test; slot and publication get their names from it.
pub(crate) const STREAM: &str = "shop";

pub(crate) struct Database {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) name: String,
}

impl Database {
    /// A new database on the shared cluster, after `sql` ran in it.
    pub(crate) fn with(sql: &str) -> Self {
        static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster = shared.upgrade().unwrap_or_else(|| {
            let cluster = Cluster::builder().setting("max_replication_slots", "50").setting("max_wal_senders", "50");
            let cluster = Arc::new(cluster.start().unwrap());
            *shared = Arc::downgrade(&cluster);
            cluster
        });
        drop(shared);
        Self::on(cluster, sql)
    }

    /// A new database on a cluster of its own.
    pub(crate) fn on_own(cluster: Builder, sql: &str) -> Self {
        Self::on(Arc::new(cluster.start().unwrap()), sql)
    }

    fn on(cluster: Arc<Cluster>, sql: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("db{}", NEXT.fetch_add(1, Ordering::Relaxed));
        cluster.create_database(&name).unwrap();
        let database = Self { cluster, name };
        database.sql(sql);
        database
    }

    /// Runs SQL as the superuser.
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.cluster.psql(&self.name, sql).unwrap().trim().to_owned()
    }

    /// A stream over everything, as the superuser. Its slot is this database's own.
    pub(crate) fn settings(&self) -> SourceSettings {
        self.settings_of(&self.cluster.url(&self.name))
    }

    /// The same as another role, whose password is `secret`.
    pub(crate) fn settings_as(&self, role: &str) -> SourceSettings {
        let (host, port) = (Cluster::host(), self.cluster.port());
        self.settings_of(&format!("postgres://{role}:secret@{host}:{port}/{}", self.name))
    }

    fn settings_of(&self, url: &str) -> SourceSettings {
        let mut settings = SourceSettings::new(STREAM.parse().unwrap(), url.parse().unwrap());
        settings.slot = self.slot();
        settings
    }

    pub(crate) fn slot(&self) -> String {
        format!("slot_{}", self.name)
    }

    /// The tables that the stream's publication really sends.
    pub(crate) fn published(&self) -> Vec<String> {
        let tables = self.sql(
            "SELECT schemaname || '.' || tablename FROM pg_publication_tables WHERE pubname = 'dbstreamd_shop' ORDER BY 1",
        );
        tables.lines().map(str::to_owned).collect()
    }

    pub(crate) fn slots(&self) -> String {
        self.sql("SELECT slot_name FROM pg_replication_slots WHERE database = current_database() ORDER BY 1")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // The cluster may be the test's own, stopped or broken on purpose.
        let _ = self.cluster.psql(
            &self.name,
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database() AND NOT active",
        );
    }
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

pub(crate) fn check(settings: &SourceSettings) -> Report {
    let report = block_on(setup::check(settings));
    // Seen with `--nocapture`, and whenever a test fails.
    println!("{report}");
    report
}

pub(crate) fn prepare(settings: &SourceSettings) -> Result<Prepared, SetupError> {
    block_on(setup::prepare(settings))
}

/// Setup is refused, with the same one line of cause and remedy from `check` and `prepare`; returns that line.
pub(crate) fn refused(settings: &SourceSettings, code: &str) -> String {
    let report = check(settings);
    assert!(report.has_errors(), "check found no error");
    let finding = finding(&report, code);
    assert_eq!(finding.level, Level::Error);
    let error = prepare(settings).expect_err("prepare went through");
    assert_eq!(error.code(), code, "{error}");
    let line = error.to_string();
    assert!(!line.contains('\n'), "{line:?} is more than one line");
    assert_eq!(finding.message, error.cause());
    assert_eq!(finding.remedy.clone().unwrap_or_default(), error.remedy());
    assert!(!line.contains("secret"), "{line:?} shows a password");
    line
}

/// The first finding of this code.
#[track_caller]
pub(crate) fn finding<'r>(report: &'r Report, code: &str) -> &'r Finding {
    report.findings.iter().find(|finding| finding.code == code).unwrap_or_else(|| panic!("no finding {code}: {report}"))
}

#[track_caller]
pub(crate) fn warned(report: &Report, code: &str) -> String {
    let finding = finding(report, code);
    assert_eq!(finding.level, Level::Warning);
    format!("{}: {} -> {}", finding.subject, finding.message, finding.remedy.as_deref().unwrap_or_default())
}

#[track_caller]
pub(crate) fn table<'r>(report: &'r Report, name: &str) -> &'r TableReport {
    report.tables.iter().find(|table| table.table == name).unwrap_or_else(|| panic!("no table {name}: {report}"))
}

/// All of these words are in the line.
#[track_caller]
pub(crate) fn says(line: &str, words: &[&str]) {
    for word in words {
        assert!(line.contains(word), "{word:?} is not in: {line}");
    }
}
