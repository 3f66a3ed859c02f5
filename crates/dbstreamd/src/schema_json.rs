//! Schema versions and schema changes as JSON: what `tail`, the server-sent events and `dbstreamd schemas --json` show.
//!
//! The names are those of the contract (`proto/dbstreamd/v1`); what is not known is null.

use dbstreamd_model::Lsn;
use serde_json::{Value, json};

use crate::json::{hex, rfc3339};
use crate::proto;

/// What a schema change says.
pub(crate) fn change_document(change: &proto::SchemaChange) -> Value {
    json!({
        "command_tag": change.command_tag,
        "statement": known(&change.statement),
        "role": change.role,
        "objects": change.objects.iter().map(object_document).collect::<Vec<_>>(),
        "dropped": change.dropped.iter().map(object_document).collect::<Vec<_>>(),
        "tables": change.tables.iter().map(facts_document).collect::<Vec<_>>(),
        "diverged": change.diverged.iter().map(said).collect::<Vec<_>>(),
        "error": known(&change.error),
    })
}

fn object_document(object: &proto::ChangedObject) -> Value {
    json!({
        "type": object.r#type,
        "schema": known(&object.schema),
        "name": known(&object.name),
        "identity": object.identity,
        "oid": object.oid,
    })
}

/// A divergence as a change says it: the event has its position.
fn said(divergence: &proto::Divergence) -> Value {
    json!({
        "schema": divergence.schema,
        "table": divergence.table,
        "reason": reason_name(divergence),
        "detail": divergence.detail,
    })
}

/// A divergence as its stream keeps it.
pub(crate) fn divergence_document(divergence: &proto::Divergence) -> Value {
    let mut document = said(divergence);
    if let Value::Object(fields) = &mut document {
        fields.insert("offset".into(), divergence.offset.into());
        fields.insert("commit_lsn".into(), Lsn(divergence.commit_lsn).to_string().into());
        fields.insert("noticed_at".into(), rfc3339(divergence.noticed_at_us).into());
    }
    document
}

/// Lower-case name of why.
pub(crate) fn reason_name(divergence: &proto::Divergence) -> String {
    let name = divergence.reason().as_str_name();
    name.strip_prefix("DIVERGENCE_REASON_").unwrap_or(name).to_ascii_lowercase()
}

/// A table's name as table patterns have it, quoted only where it must be.
pub(crate) fn table_name(schema: &str, table: &str) -> String {
    let part = |name: &str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let bare = !name.is_empty() && name.chars().all(plain);
        if bare { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
    };
    format!("{}.{}", part(schema), part(table))
}

/// A schema version.
pub(crate) fn schema_document(schema: &proto::Schema) -> Value {
    json!({
        "schema": schema.schema,
        "table": schema.table,
        "version": schema.version,
        "fingerprint": hex(&schema.fingerprint),
        "replica_identity": identity_name(schema),
        "columns": schema.columns.iter().map(|column| json!({
            "name": column.name,
            "type": column.type_name,
            "type_oid": column.type_oid,
            "type_modifier": column.type_modifier,
            "in_identity": column.in_identity,
        })).collect::<Vec<_>>(),
        "facts": schema.facts.as_ref().map(facts_document),
    })
}

/// Lower-case name of a schema's replica identity.
pub(crate) fn identity_name(schema: &proto::Schema) -> String {
    let name = schema.replica_identity().as_str_name();
    name.strip_prefix("REPLICA_IDENTITY_").unwrap_or(name).to_ascii_lowercase()
}

/// What is known of a table.
pub(crate) fn facts_document(facts: &proto::TableFacts) -> Value {
    json!({
        "origin": match facts.origin() {
            proto::FactsOrigin::Catalog => Some("catalog"),
            proto::FactsOrigin::Ddl => Some("ddl"),
            proto::FactsOrigin::Unspecified => None,
        },
        "as_of_lsn": (facts.as_of_lsn != 0).then(|| Lsn(facts.as_of_lsn).to_string()),
        "oid": facts.oid,
        "schema": facts.schema,
        "table": facts.table,
        "kind": facts.kind,
        "owner": facts.owner,
        "comment": known(&facts.comment),
        "primary_key": facts.primary_key,
        "partition_of": known(&facts.partition_of),
        "partition_bound": known(&facts.partition_bound),
        "partition_key": known(&facts.partition_key),
        "columns": facts.columns.iter().map(column_document).collect::<Vec<_>>(),
        "types": facts.types.iter().map(type_document).collect::<Vec<_>>(),
    })
}

fn column_document(column: &proto::ColumnFacts) -> Value {
    json!({
        "name": column.name,
        "number": column.number,
        "type": column.r#type,
        "not_null": column.not_null,
        "default": column.default,
        "generated": known(&column.generated),
        "identity": known(&column.identity),
        "collation": known(&column.collation),
        "comment": known(&column.comment),
        "added_value": column.added_value,
    })
}

fn type_document(facts: &proto::TypeFacts) -> Value {
    let attribute = |attribute: &proto::AttributeFacts| json!({ "name": attribute.name, "type": attribute.r#type });
    json!({
        "name": facts.name,
        "kind": facts.kind,
        "labels": facts.labels,
        "attributes": facts.attributes.iter().map(attribute).collect::<Vec<_>>(),
        "base": known(&facts.base),
        "not_null": facts.not_null,
        "default": facts.default,
        "checks": facts.checks,
    })
}

fn known(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}
