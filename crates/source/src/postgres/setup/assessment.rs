//! `Assessment`: what the facts mean for one stream. Pure: nothing here asks the server or changes anything.
//!
//! `check` shows all of it; `prepare` refuses at its first problem and otherwise carries out its plan. What concerns
//! the server as a whole is judged in `server_checks.rs`, the slot in `slot_checks.rs`, tables and publication here.

use std::collections::{BTreeSet, HashSet};

use super::error::{count, names};
use super::facts::{Facts, PublicationFacts, TableFacts, TableKind};
use super::report::{Findings, TableReport, TableState};
use super::selection::{Selection, Taken, identity_name, identity_statement};
use super::{SetupError, SourceSettings, TablesWithoutIdentity, capture_checks, server_checks, slot_checks, sql};
use crate::postgres::quote_identifier;

/// Stands for the statements of `ddl_capture`.
const CAPTURE_NOTE: &str = "-- event triggers of ddl_capture: dbstreamd check --print-sql";

/// What is to be done at the server; empty when it is all there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Creates the publication.
    pub(crate) create_publication: Option<String>,
    /// Adds tables to it.
    pub(crate) add_tables: Option<String>,
    /// The tables of either.
    pub(crate) tables: Vec<String>,
    /// Installs the event triggers that record schema changes.
    pub(crate) install_capture: Option<String>,
    /// Creates the slot.
    pub(crate) create_slot: Option<String>,
}

impl Plan {
    pub(crate) fn statements(&self) -> Vec<String> {
        // It is long, and printed on its own.
        let capture = self.install_capture.as_ref().map(|_| CAPTURE_NOTE.to_owned());
        let publication = [&self.create_publication, &self.add_tables].into_iter().flatten().cloned();
        publication.chain(capture).chain(self.create_slot.clone()).collect()
    }
}

/// The judgement.
#[derive(Debug, Default)]
pub(crate) struct Assessment {
    pub(crate) findings: Findings,
    pub(crate) tables: Vec<TableReport>,
    pub(crate) plan: Plan,
    /// What keeps the stream from starting, the most fundamental first.
    pub(crate) problems: Vec<SetupError>,
}

impl Assessment {
    /// The problem to refuse with: one that somebody must solve before one that may pass.
    pub(crate) fn first_problem(&mut self) -> Option<SetupError> {
        let lasting = self.problems.iter().position(|problem| !problem.is_transient());
        let first = lasting.or((!self.problems.is_empty()).then_some(0))?;
        Some(self.problems.swap_remove(first))
    }

    /// Takes out what is no problem for a stream that goes on: tables that were dropped since it began. What it has of
    /// them is in its log, and what is left of the publication is still to be read.
    pub(crate) fn take_dropped_tables(&mut self) -> Vec<SetupError> {
        let (dropped, problems) = std::mem::take(&mut self.problems).into_iter().partition(|problem| {
            matches!(problem, SetupError::PatternMatchesNothing { .. } | SetupError::NothingToPublish { .. })
        });
        self.problems = problems;
        dropped
    }
}

impl Assessment {
    pub(crate) fn new(facts: &mut Facts, settings: &SourceSettings) -> Self {
        let mut assessment = Self::default();
        for (what, error) in std::mem::take(&mut facts.unread) {
            assessment.fail(what, SetupError::Unread { what, error });
        }
        server_checks::judge(facts, settings, &mut assessment);
        slot_checks::judge(facts, settings, &mut assessment);
        capture_checks::judge(facts, settings, &mut assessment);
        assessment.tables(facts, settings);
        assessment
    }

    pub(crate) fn fail(&mut self, subject: impl Into<String>, error: SetupError) {
        self.findings.error(subject, &error);
        self.problems.push(error);
    }

    fn tables(&mut self, facts: &Facts, settings: &SourceSettings) {
        let mut selection = Selection::new(facts, settings);
        for problem in std::mem::take(&mut selection.problems) {
            self.fail("tables", problem);
        }
        let coverage = Coverage::new(facts);
        let mut missing = Vec::new();
        for taken in &selection.taken {
            let in_publication = coverage.has(taken.table);
            let state = match (&taken.skip, in_publication) {
                (_, true) => TableState::Published,
                (Some(_), false) => TableState::Skipped,
                (None, false) if settings.create_publication => TableState::Add,
                (None, false) => TableState::Missing,
            };
            if matches!(state, TableState::Add | TableState::Missing) {
                missing.push(taken);
            }
            self.tables.push(table_report(taken, state, in_publication));
        }
        if let Some(publication) = &facts.publication {
            self.existing_publication(publication, facts, &selection, settings);
        }
        self.missing_tables(&missing, facts, settings);
        self.identities(&selection, &coverage, settings);
        self.skipped(&selection, &coverage);
        self.partitions(facts, &selection, settings);
    }

    fn existing_publication(
        &mut self,
        publication: &PublicationFacts,
        facts: &Facts,
        selection: &Selection<'_>,
        settings: &SourceSettings,
    ) {
        let name = &settings.publication;
        let wanted: HashSet<u32> =
            facts.tables.iter().filter(|table| selection.covers(table)).map(|table| table.oid).collect();
        let others: Vec<_> = publication.tables.iter().filter(|table| !wanted.contains(&table.oid)).collect();
        if !others.is_empty() {
            let tables = others.iter().map(|table| sql::shown(&table.schema, &table.name)).collect();
            self.fail(name, SetupError::PublicationHasOtherTables { publication: name.clone(), tables });
        }
        self.broad_publication(publication, facts, selection, name);
        let unpublished: Vec<_> = ["insert", "update", "delete", "truncate"]
            .into_iter()
            .zip(publication.operations)
            .filter_map(|(operation, published)| (!published).then_some(operation))
            .collect();
        if !unpublished.is_empty() {
            self.findings.warn(
                "publication_operations",
                name,
                format!("the publication leaves out {}: such changes never arrive", unpublished.join(", ")),
                format!(
                    "ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate')",
                    quote_identifier(name)
                ),
            );
        }
        let filtered = |table: &&super::facts::PublishedTable| table.row_filter || table.column_list;
        let limited: Vec<_> =
            publication.tables.iter().filter(filtered).map(|table| sql::shown(&table.schema, &table.name)).collect();
        if !limited.is_empty() {
            self.findings.warn(
                "publication_filters",
                name,
                format!("row filters or column lists apply to {}: what they leave out never arrives", names(&limited)),
                "take the tables out of the publication and add them without WHERE and column list, unless this is meant",
            );
        }
    }

    /// FOR ALL TABLES and FOR TABLES IN SCHEMA.
    fn broad_publication(
        &mut self,
        publication: &PublicationFacts,
        facts: &Facts,
        selection: &Selection<'_>,
        name: &str,
    ) {
        let what = match (publication.all_tables, publication.schemas.len()) {
            (true, _) => "all tables of the database".to_owned(),
            (false, 0) => return,
            (false, _) => format!("all tables of the schemas {}", names(&publication.schemas)),
        };
        let extra: Vec<_> = facts
            .tables
            .iter()
            .filter(|table| matches!(table.kind, TableKind::Ordinary | TableKind::Partitioned) && !table.unlogged)
            .filter(|table| publication.all_tables || publication.schemas.contains(&table.schema))
            .filter(|table| !table.is_partition() && !selection.covers(table))
            .map(TableFacts::shown)
            .collect();
        if extra.is_empty() {
            self.findings.ok("publication_broad", name, format!("the publication contains {what}, also those to come"));
        } else {
            self.findings.warn(
                "publication_broad",
                name,
                format!("the publication contains {what}; the stream will also get {}", names(&extra)),
                "add them to the stream's tables, or set the name of a publication of its own for this stream",
            );
        }
    }

    fn missing_tables(&mut self, missing: &[&Taken<'_>], facts: &Facts, settings: &SourceSettings) {
        let name = &settings.publication;
        let tables = || missing.iter().map(|taken| (taken.table.schema.as_str(), taken.table.name.as_str()));
        let publishes_any = self.tables.iter().any(|table| table.in_publication);
        if missing.is_empty() {
            if !publishes_any && self.problems.iter().all(|problem| !is_about_patterns(problem)) {
                let skipped = self.tables.iter().map(|table| {
                    let reason = table.reason.as_deref().unwrap_or("it is excluded");
                    format!("{} ({reason})", sql::shown(&table.schema, &table.table))
                });
                let skipped = skipped.collect();
                self.fail("tables", SetupError::NothingToPublish { skipped });
            } else if publishes_any {
                self.findings.ok("publication", name, "the publication exists and has every table it needs");
            }
            return;
        }
        if facts.publication.is_none() && slot_checks::is_usable(facts, settings) {
            // A publication made now would come too late for this slot, which its own checks say.
            return;
        }
        let statement = match &facts.publication {
            None => sql::create_publication(name, tables(), settings.publish_via_partition_root),
            Some(_) => sql::add_tables(name, tables()),
        };
        if !settings.create_publication {
            self.unmanaged_publication(missing, facts, name, statement);
            return;
        }
        let foreign: Vec<_> = missing
            .iter()
            .filter(|taken| !taken.table.owned)
            .map(|taken| (taken.table.shown(), taken.table.owner.clone()))
            .collect();
        let (user, database) = (facts.server.user.clone(), facts.server.database.clone());
        let problem = match &facts.publication {
            None if facts.server.in_recovery => {
                Some(SetupError::PublicationMissing { publication: name.clone(), statement: statement.clone() })
            }
            None if !facts.role.may_create => Some(SetupError::NoCreatePrivilege { user: user.clone(), database }),
            Some(publication) if !publication.owned => Some(SetupError::PublicationNotOwned {
                publication: name.clone(),
                owner: publication.owner.clone(),
                statement: statement.clone(),
            }),
            _ => None,
        };
        let unusable: BTreeSet<_> =
            missing.iter().filter(|taken| !taken.table.schema_usable).map(|taken| taken.table.schema.clone()).collect();
        let allowed = problem.is_none() && foreign.is_empty() && unusable.is_empty();
        if let Some(problem) = problem {
            self.fail(name, problem);
        }
        if !unusable.is_empty() {
            let (user, schemas) = (user.clone(), unusable.into_iter().collect());
            self.fail(name, SetupError::NoSchemaUsage { user, schemas });
        }
        if !foreign.is_empty() {
            self.fail(name, SetupError::NotOwner { user, tables: foreign, statement: statement.clone() });
        }
        if allowed && (facts.server.read_only || facts.server.in_recovery) {
            self.fail(name, SetupError::ReadOnly { what: "the publication" });
        }
        let shown: Vec<_> = missing.iter().map(|taken| taken.table.shown()).collect();
        if allowed {
            let verb = if facts.publication.is_some() { "gets" } else { "does not exist yet and is created with" };
            self.findings.ok("publication", name, format!("the publication {verb} {}", names(&shown)));
        }
        self.plan.tables = shown;
        match facts.publication {
            None => self.plan.create_publication = Some(statement),
            Some(_) => self.plan.add_tables = Some(statement),
        }
    }

    /// Somebody else looks after the publication: what it lacks is said, and an error only where it was named.
    fn unmanaged_publication(&mut self, missing: &[&Taken<'_>], facts: &Facts, name: &str, statement: String) {
        let publication = name.to_owned();
        if facts.publication.is_none() {
            return self.fail(name, SetupError::PublicationMissing { publication, statement });
        }
        let named: Vec<_> = missing.iter().filter(|taken| taken.named).map(|taken| taken.table.shown()).collect();
        if !named.is_empty() {
            return self.fail(name, SetupError::PublicationLacksTables { publication, tables: named, statement });
        }
        self.findings.warn(
            "publication_lacks_tables",
            name,
            format!(
                "the publication does not contain {}: their changes do not arrive",
                names(missing.iter().map(|taken| taken.table.shown()))
            ),
            format!("run: {statement}; or exclude them"),
        );
    }

    /// Tables whose updates and deletes fail, or would fail.
    fn identities(&mut self, selection: &Selection<'_>, coverage: &Coverage<'_>, settings: &SourceSettings) {
        for taken in &selection.taken {
            let published = coverage.has(taken.table) || taken.skip.is_none();
            let skipped_for_it = settings.tables_without_identity == TablesWithoutIdentity::Skip;
            if settings.tables_without_identity == TablesWithoutIdentity::Fail && !coverage.has(taken.table) {
                continue;
            }
            for table in &taken.without_identity {
                let message = match (published, skipped_for_it) {
                    (true, _) => {
                        "published without a replica identity: PostgreSQL refuses UPDATE and DELETE on it".to_owned()
                    }
                    (false, true) => {
                        "left out: it has no replica identity, and publishing it would make its UPDATE and DELETE fail"
                            .to_owned()
                    }
                    (false, false) => continue,
                };
                self.findings.warn("replica_identity", table.shown(), message, identity_statement(table));
            }
        }
    }

    /// Tables left out for another reason than their identity.
    fn skipped(&mut self, selection: &Selection<'_>, coverage: &Coverage<'_>) {
        let skipped = selection.taken.iter().filter(|taken| !coverage.has(taken.table));
        for (taken, why) in skipped.filter_map(|taken| Some((taken, taken.skip?))) {
            if taken.without_identity.is_empty() || not_for_identity(taken.table) {
                self.findings.ok("left_out", taken.table.shown(), format!("left out: {}", sentence(why)));
            }
        }
    }

    fn partitions(&mut self, facts: &Facts, selection: &Selection<'_>, settings: &SourceSettings) {
        for table in &selection.not_excludable {
            self.findings.warn(
                "exclude_partition",
                table.shown(),
                "it is excluded, but comes with the partitioned table it belongs to",
                "exclude the partitioned table, and name the partitions that are wanted",
            );
        }
        let partitioned = selection.taken.iter().filter(|taken| taken.table.kind == TableKind::Partitioned).count();
        if partitioned == 0 {
            return;
        }
        let via_root = facts.publication.as_ref().map_or(settings.publish_via_partition_root, |p| p.via_root);
        let message = if via_root {
            "changes of partitions arrive under their root's name; TRUNCATE of a single partition is not replicated"
        } else {
            "changes of partitions arrive under each partition's own name"
        };
        let subject = count(partitioned, "partitioned table");
        if via_root == settings.publish_via_partition_root {
            self.findings.ok("partitions", subject, message);
        } else {
            self.findings.warn(
                "partitions",
                subject,
                format!("{message}, as the publication says; publish_via_partition_root = {} is not applied to a publication that exists", settings.publish_via_partition_root),
                format!(
                    "ALTER PUBLICATION {} SET (publish_via_partition_root = {}), or change the setting",
                    quote_identifier(&settings.publication),
                    settings.publish_via_partition_root
                ),
            );
        }
    }
}

/// What the publication has now.
struct Coverage<'a> {
    publication: Option<&'a PublicationFacts>,
    listed: HashSet<u32>,
    /// Tables whose schema is published, for partitions outside it.
    in_schemas: HashSet<u32>,
}

impl<'a> Coverage<'a> {
    fn new(facts: &'a Facts) -> Self {
        let publication = facts.publication.as_ref();
        let listed = publication.into_iter().flat_map(|p| &p.tables).map(|table| table.oid).collect();
        let in_schemas = facts
            .tables
            .iter()
            .filter(|table| publication.is_some_and(|p| p.schemas.contains(&table.schema)))
            .map(|table| table.oid)
            .collect();
        Self { publication, listed, in_schemas }
    }

    fn has(&self, table: &TableFacts) -> bool {
        let publishable = matches!(table.kind, TableKind::Ordinary | TableKind::Partitioned) && !table.unlogged;
        let listed = |oid: &u32| self.listed.contains(oid) || self.in_schemas.contains(oid);
        publishable
            && (self.publication.is_some_and(|p| p.all_tables)
                || listed(&table.oid)
                || table.ancestors.iter().any(listed))
    }
}

fn table_report(taken: &Taken<'_>, state: TableState, in_publication: bool) -> TableReport {
    let table = taken.table;
    TableReport {
        schema: table.schema.clone(),
        table: table.name.clone(),
        state,
        reason: taken.skip.filter(|_| state == TableState::Skipped).map(str::to_owned),
        replica_identity: identity_name(table.identity),
        primary_key: table.primary_key,
        updates_and_deletes: taken.without_identity.is_empty(),
        partitioned: table.kind == TableKind::Partitioned,
        in_publication,
        estimated_rows: table.estimated_rows,
    }
}

/// Whether an error already says why there is nothing to publish.
fn is_about_patterns(problem: &SetupError) -> bool {
    matches!(
        problem,
        SetupError::PatternMatchesNothing { .. }
            | SetupError::NotPublishable { .. }
            | SetupError::TablesWithoutIdentity { .. }
            | SetupError::Unread { .. }
    )
}

fn not_for_identity(table: &TableFacts) -> bool {
    table.kind == TableKind::Foreign || table.unlogged || table.of_extension
}

/// `a foreign table` as a sentence; other reasons are sentences already.
fn sentence(why: &str) -> String {
    if why.starts_with("it ") { why.to_owned() } else { format!("it is {why}") }
}
