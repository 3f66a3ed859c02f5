//! Schema versions and what is known of their tables, as the contract has them.

use bytes::Bytes;
use dbstreamd_log::{Divergence, DivergenceReason, StoredSchema, TableName};
use dbstreamd_model::{
    AttributeFacts, Column, ColumnFacts, DdlDivergence, DdlDocument, DdlObject, FactsOrigin, RecordedFacts,
    ReplicaIdentity, TableFacts, TypeDescription, TypeFacts, TypeKind,
};

use crate::proto;

/// A schema change out of the document that the source's trigger wrote; none when it is no such document.
pub(crate) fn change(document: &[u8]) -> Option<proto::SchemaChange> {
    let document = DdlDocument::from_json(document).ok()?;
    Some(proto::SchemaChange {
        command_tag: document.tag,
        statement: document.statement,
        role: document.role,
        objects: document.objects.into_iter().map(object).collect(),
        dropped: document.dropped.into_iter().map(object).collect(),
        tables: document.tables.iter().map(table).collect(),
        diverged: document.diverged.into_iter().map(divergence).collect(),
        error: document.error,
    })
}

fn object(object: DdlObject) -> proto::ChangedObject {
    let DdlObject { kind, schema, name, identity, oid } = object;
    proto::ChangedObject { r#type: kind, schema, name, identity, oid }
}

fn divergence(divergence: DdlDivergence) -> proto::Divergence {
    let reason =
        DivergenceReason::from_name(&divergence.reason).map_or(proto::DivergenceReason::Unspecified, reason_of);
    let DdlDivergence { schema, table, detail, .. } = divergence;
    proto::Divergence { schema, table, reason: reason.into(), detail, ..Default::default() }
}

/// A table that is on its stream's list.
pub(crate) fn diverged((name, divergence): &(TableName, Divergence)) -> proto::Divergence {
    proto::Divergence {
        schema: name.schema.clone(),
        table: name.table.clone(),
        reason: reason_of(divergence.reason).into(),
        detail: divergence.detail.clone(),
        offset: divergence.offset.0,
        commit_lsn: divergence.lsn.0,
        noticed_at_us: divergence.noticed_at.0,
    }
}

const fn reason_of(reason: DivergenceReason) -> proto::DivergenceReason {
    match reason {
        DivergenceReason::Rewritten => proto::DivergenceReason::Rewritten,
        DivergenceReason::PartitionMoved => proto::DivergenceReason::PartitionMoved,
        DivergenceReason::NameReused => proto::DivergenceReason::NameReused,
        DivergenceReason::TypeChanged => proto::DivergenceReason::TypeChanged,
    }
}

/// A schema version.
pub(crate) fn contract(stored: &StoredSchema) -> proto::Schema {
    let schema = &stored.schema;
    let identity = match schema.replica_identity {
        ReplicaIdentity::Default => proto::ReplicaIdentity::Default,
        ReplicaIdentity::Nothing => proto::ReplicaIdentity::Nothing,
        ReplicaIdentity::Full => proto::ReplicaIdentity::Full,
        ReplicaIdentity::Index => proto::ReplicaIdentity::Index,
    };
    proto::Schema {
        fingerprint: Bytes::copy_from_slice(&stored.fingerprint.0),
        schema: schema.namespace.clone(),
        table: schema.table.clone(),
        replica_identity: identity.into(),
        columns: schema.columns.iter().map(column).collect(),
        version: stored.version,
        facts: stored.facts.as_deref().map(recorded),
    }
}

fn column(column: &Column) -> proto::Column {
    let described = match &column.description {
        Some(description) => description_of(description),
        None => proto::Type { name: column.type_name.clone(), kind: proto::TypeKind::Base.into(), inner: None },
    };
    proto::Column {
        name: column.name.clone(),
        type_name: column.type_name.clone(),
        type_oid: column.type_oid,
        type_modifier: column.type_modifier,
        in_identity: column.in_identity,
        r#type: Some(described),
    }
}

fn description_of(description: &TypeDescription) -> proto::Type {
    let kind = match description.kind {
        TypeKind::Base => proto::TypeKind::Base,
        TypeKind::Enum => proto::TypeKind::Enum,
        TypeKind::Composite => proto::TypeKind::Composite,
        TypeKind::Array { .. } => proto::TypeKind::Array,
        TypeKind::Range(_) => proto::TypeKind::Range,
        TypeKind::Multirange(_) => proto::TypeKind::Multirange,
        TypeKind::Domain(_) => proto::TypeKind::Domain,
        TypeKind::Unknown => proto::TypeKind::Unknown,
    };
    let inner = description.kind.inner().map(|inner| Box::new(description_of(inner)));
    proto::Type { name: description.name.clone(), kind: kind.into(), inner }
}

/// Facts that were recorded with a schema version.
fn recorded(facts: &RecordedFacts) -> proto::TableFacts {
    let origin = match facts.origin {
        FactsOrigin::Catalog => proto::FactsOrigin::Catalog,
        FactsOrigin::Ddl => proto::FactsOrigin::Ddl,
    };
    proto::TableFacts { origin: origin.into(), as_of_lsn: facts.as_of.0, ..table(&facts.table) }
}

/// Facts alone.
pub(crate) fn table(table: &TableFacts) -> proto::TableFacts {
    proto::TableFacts {
        origin: proto::FactsOrigin::Unspecified.into(),
        as_of_lsn: 0,
        oid: table.oid,
        schema: table.schema.clone(),
        table: table.name.clone(),
        kind: table_kind(table),
        owner: table.owner.clone(),
        comment: table.comment.clone().unwrap_or_default(),
        primary_key: table.primary_key.clone(),
        partition_of: table.partition_of.clone().unwrap_or_default(),
        partition_bound: table.partition_bound.clone().unwrap_or_default(),
        partition_key: table.partition_key.clone().unwrap_or_default(),
        columns: table.columns.iter().map(column_facts).collect(),
        types: table.types.iter().map(type_facts).collect(),
    }
}

/// `pg_class.relkind` in words.
fn table_kind(table: &TableFacts) -> String {
    let kind = match table.kind.as_str() {
        "r" if table.partition_of.is_some() => "partition",
        "r" => "table",
        "p" => "partitioned table",
        "f" => "foreign table",
        "v" => "view",
        "m" => "materialized view",
        other => other,
    };
    kind.to_owned()
}

fn column_facts(column: &ColumnFacts) -> proto::ColumnFacts {
    let generated = match column.generated.as_str() {
        "s" => "stored",
        "v" => "virtual",
        other => other,
    };
    let identity = match column.identity.as_str() {
        "a" => "always",
        "d" => "by default",
        other => other,
    };
    proto::ColumnFacts {
        name: column.name.clone(),
        number: u32::try_from(column.number).unwrap_or_default(),
        r#type: column.type_sql.clone(),
        not_null: column.not_null,
        default: column.default.clone(),
        generated: generated.to_owned(),
        identity: identity.to_owned(),
        collation: column.collation.clone().unwrap_or_default(),
        comment: column.comment.clone().unwrap_or_default(),
        added_value: column.added_value(),
    }
}

fn type_facts(facts: &TypeFacts) -> proto::TypeFacts {
    let kind = match facts.kind.as_str() {
        "e" => "enum",
        "c" => "composite",
        "d" => "domain",
        other => other,
    };
    proto::TypeFacts {
        name: format!("{}.{}", facts.schema, facts.name),
        kind: kind.to_owned(),
        labels: facts.labels.clone(),
        attributes: facts.attributes.iter().map(attribute).collect(),
        base: facts.base.clone().unwrap_or_default(),
        not_null: facts.not_null,
        default: facts.default.clone(),
        checks: facts.checks.clone(),
    }
}

fn attribute(attribute: &AttributeFacts) -> proto::AttributeFacts {
    proto::AttributeFacts { name: attribute.name.clone(), r#type: attribute.type_sql.clone() }
}
