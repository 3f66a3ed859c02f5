//! `Selection`: which of the database's tables the configured patterns take, and which of those can be published.

use std::collections::{HashMap, HashSet};

use dbstreamd_model::ReplicaIdentity;

use super::facts::{Facts, TableFacts, TableKind};
use super::{SetupError, SourceSettings, TablePattern, TablesWithoutIdentity, sql};
use crate::postgres::quote_identifier;

/// Most existing tables named when a pattern matches none.
const EXISTING_MAX: usize = 10;

/// A table that the patterns take.
#[derive(Debug)]
pub(crate) struct Taken<'a> {
    pub(crate) table: &'a TableFacts,
    /// Named in full, not by a `*`.
    pub(crate) named: bool,
    /// The table itself, or the partitions of it, on which UPDATE and DELETE would fail once it is published.
    pub(crate) without_identity: Vec<&'a TableFacts>,
    /// Why it is left out, unless the publication has it anyway.
    pub(crate) skip: Option<&'static str>,
}

/// The tables of a stream.
#[derive(Debug, Default)]
pub(crate) struct Selection<'a> {
    pub(crate) taken: Vec<Taken<'a>>,
    oids: HashSet<u32>,
    /// Partitions that the settings exclude although their root is taken: they come with it.
    pub(crate) not_excludable: Vec<&'a TableFacts>,
    pub(crate) problems: Vec<SetupError>,
}

impl<'a> Selection<'a> {
    pub(crate) fn new(facts: &'a Facts, settings: &SourceSettings) -> Self {
        let mut selection = Self::default();
        selection.problems.extend(unmatched_patterns(facts, settings));
        let included = |table: &TableFacts| matching(&settings.tables, table).next().is_some();
        let excluded = |table: &TableFacts| matching(&settings.exclude, table).next().is_some();
        let by_oid: HashMap<u32, &TableFacts> = facts.tables.iter().map(|table| (table.oid, table)).collect();
        let mut partitions: HashMap<u32, Vec<&TableFacts>> = HashMap::new();
        for table in &facts.tables {
            table.ancestors.iter().for_each(|root| partitions.entry(*root).or_default().push(table));
        }
        for table in facts.tables.iter().filter(|table| included(table) && !excluded(table)) {
            let named = matching(&settings.tables, table).any(TablePattern::is_exact);
            // A partition comes with its root, or stays out with it. A pattern that only partitions match takes those.
            let of_matched_root = table.ancestors.iter().filter_map(|oid| by_oid.get(oid)).any(|root| included(root));
            if of_matched_root && !named {
                continue;
            }
            match (not_publishable(table), named) {
                (Some(why), true) => selection.problems.push(SetupError::NotPublishable { table: table.shown(), why }),
                // Nobody expects views from a `*`.
                (Some(_), false) if matches!(table.kind, TableKind::View | TableKind::MaterializedView) => {}
                (skip, _) => {
                    let extension = table.of_extension && !named;
                    selection.taken.push(Taken {
                        table,
                        named,
                        without_identity: without_identity(table, &partitions),
                        skip: skip.or(extension.then_some("it belongs to an extension; name it in full to take it")),
                    });
                }
            }
        }
        selection.drop_partitions_of_taken_roots();
        selection.oids = selection.taken.iter().map(|taken| taken.table.oid).collect();
        selection.not_excludable = facts
            .tables
            .iter()
            .filter(|table| matching(&settings.exclude, table).any(TablePattern::is_exact))
            .filter(|table| table.ancestors.iter().any(|oid| selection.oids.contains(oid)))
            .collect();
        selection.apply_identity_policy(settings.tables_without_identity);
        selection
    }

    fn drop_partitions_of_taken_roots(&mut self) {
        let roots: HashSet<u32> = self.taken.iter().map(|taken| taken.table.oid).collect();
        self.taken.retain(|taken| !taken.table.ancestors.iter().any(|oid| roots.contains(oid)));
    }

    fn apply_identity_policy(&mut self, policy: TablesWithoutIdentity) {
        let lacking = self.taken.iter_mut().filter(|taken| taken.skip.is_none() && !taken.without_identity.is_empty());
        match policy {
            TablesWithoutIdentity::Publish => {}
            TablesWithoutIdentity::Skip => lacking.for_each(|taken| taken.skip = Some("it has no replica identity")),
            TablesWithoutIdentity::Fail => {
                let tables: Vec<_> = lacking
                    .flat_map(|taken| &taken.without_identity)
                    .map(|table| (table.shown(), identity_statement(table)))
                    .collect();
                if !tables.is_empty() {
                    self.problems.push(SetupError::TablesWithoutIdentity { tables });
                }
            }
        }
    }

    /// Whether a table comes with what is taken: itself or as a partition.
    pub(crate) fn covers(&self, table: &TableFacts) -> bool {
        std::iter::once(&table.oid).chain(&table.ancestors).any(|oid| self.oids.contains(oid))
    }
}

fn matching<'p>(patterns: &'p [TablePattern], table: &'p TableFacts) -> impl Iterator<Item = &'p TablePattern> {
    patterns.iter().filter(|pattern| pattern.matches(&table.schema, &table.name))
}

fn unmatched_patterns(facts: &Facts, settings: &SourceSettings) -> Vec<SetupError> {
    let is_table = |table: &&TableFacts| !matches!(table.kind, TableKind::View | TableKind::MaterializedView);
    let matches_some = |pattern: &TablePattern| {
        // A view named in full is found, and refused as a view.
        let mut found = facts.tables.iter().filter(|table| pattern.is_exact() || is_table(table));
        found.any(|table| pattern.matches(&table.schema, &table.name))
    };
    let existing = || {
        let tables = facts.tables.iter().filter(is_table).filter(|table| !table.is_partition());
        tables.map(TableFacts::shown).take(EXISTING_MAX).collect()
    };
    let lost = settings.tables.iter().filter(|pattern| !matches_some(pattern));
    lost.map(|pattern| SetupError::PatternMatchesNothing {
        pattern: pattern.to_string(),
        database: facts.server.database.clone(),
        existing: existing(),
    })
    .collect()
}

fn not_publishable(table: &TableFacts) -> Option<&'static str> {
    match table.kind {
        TableKind::View => Some("a view"),
        TableKind::MaterializedView => Some("a materialized view"),
        TableKind::Foreign => Some("a foreign table"),
        TableKind::Ordinary | TableKind::Partitioned if table.unlogged => Some("an unlogged table"),
        TableKind::Ordinary | TableKind::Partitioned => None,
    }
}

fn without_identity<'a>(table: &'a TableFacts, partitions: &HashMap<u32, Vec<&'a TableFacts>>) -> Vec<&'a TableFacts> {
    let leaves = partitions.get(&table.oid).into_iter().flatten().filter(|leaf| leaf.kind == TableKind::Ordinary);
    let leaves: Vec<_> = leaves.copied().collect();
    // Rows live in the leaves, and each has an identity of its own; an empty root gives its key to those to come.
    if leaves.is_empty() {
        return if table.identity_usable { Vec::new() } else { vec![table] };
    }
    leaves.into_iter().filter(|leaf| !leaf.identity_usable).collect()
}

/// The statement that lets a table's updates and deletes be published.
pub(crate) fn identity_statement(table: &TableFacts) -> String {
    let name = sql::quoted(&table.schema, &table.name);
    match &table.identity_candidate {
        Some(index) => {
            format!("ALTER TABLE {name} REPLICA IDENTITY USING INDEX {}", quote_identifier(index))
        }
        None => format!("ALTER TABLE {name} REPLICA IDENTITY FULL"),
    }
}

/// As reports call it.
pub(crate) const fn identity_name(identity: ReplicaIdentity) -> &'static str {
    match identity {
        ReplicaIdentity::Default => "default",
        ReplicaIdentity::Nothing => "nothing",
        ReplicaIdentity::Full => "full",
        ReplicaIdentity::Index => "index",
    }
}
