//! `dbstreamd schemas`: the schema versions of a stream's tables, and what changed from one to the next.

mod difference;

use std::collections::HashMap;

use clap::Args;
use dbstreamd_model::Lsn;
use serde_json::{Value, json};

use super::{CliError, Output, Paint, ServerArguments, client};
use crate::json::hex;
use crate::proto::{Column, FactsOrigin, ListSchemasRequest, Schema};
use crate::schema_json::{identity_name, schema_document, table_name};
use difference::{Change, difference};

#[derive(Args, Debug)]
#[command(after_help = "\
A version is what rows looked like from its first use on; its facts (keys, defaults, comments, labels of enums) are as of the
moment they name. With ddl_capture a schema_change event says what changed in between, see dbstreamd tail.

Examples:
  dbstreamd schemas shop
  dbstreamd schemas shop public.orders --diff
  dbstreamd schemas shop 'public.*' --json")]
pub(crate) struct SchemasArguments {
    /// The stream's name
    #[arg(value_name = "STREAM")]
    stream: String,
    /// Only this table, or tables of this pattern
    #[arg(value_name = "TABLE")]
    table: Option<String>,
    /// What changed from each version to the next, instead of all columns
    #[arg(long)]
    diff: bool,
    /// One JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArguments,
}

pub(super) async fn run(arguments: SchemasArguments) -> Result<(), CliError> {
    let SchemasArguments { stream, table, diff, json, server } = arguments;
    let server = &server.server;
    let mut client = client::connect(server).await?;
    let request = ListSchemasRequest { stream: stream.clone(), tables: table.clone().into_iter().collect() };
    let answer = client.list_schemas(request).await.map_err(|status| client::refused(server, &status))?;
    let versions = versions(answer.into_inner().schemas);
    let mut out = Output::new();
    if json {
        let listed: Vec<_> = versions.iter().map(|version| document(version, diff)).collect();
        out.line(&json!({ "schemas": listed }).to_string())?;
        return out.flush();
    }
    if versions.is_empty() {
        let of = table.map_or_else(String::new, |table| format!(" of {table}"));
        out.line(&format!("stream {stream} has no schema version{of} yet: one appears with a table's first change"))?;
    }
    for version in &versions {
        print(&mut out, version, diff)?;
    }
    out.flush()
}

/// A version, and the one of the same table before it.
struct Version {
    schema: Schema,
    before: Option<Schema>,
}

/// Tables in the order of their first use, the versions of each one after the other.
fn versions(schemas: Vec<Schema>) -> Vec<Version> {
    let mut places: HashMap<(String, String), usize> = HashMap::new();
    let mut tables: Vec<Vec<Version>> = Vec::new();
    for schema in schemas {
        let next = tables.len();
        let place = *places.entry((schema.schema.clone(), schema.table.clone())).or_insert(next);
        if place == next {
            tables.push(Vec::new());
        }
        if let Some(table) = tables.get_mut(place) {
            let before = table.last().map(|version| version.schema.clone());
            table.push(Version { schema, before });
        }
    }
    tables.into_iter().flatten().collect()
}

fn document(version: &Version, diff: bool) -> Value {
    let mut document = schema_document(&version.schema);
    if let (true, Value::Object(fields)) = (diff, &mut document) {
        let changes = version.before.as_ref().map(|before| difference(before, &version.schema));
        let listed = |change: Change| json!({ "change": change.kind.name(), "text": change.text });
        fields.insert("changes".into(), changes.map(|all| all.into_iter().map(listed).collect::<Vec<_>>()).into());
    }
    document
}

fn print(out: &mut Output, version: &Version, diff: bool) -> Result<(), CliError> {
    let schema = &version.schema;
    let style = out.style();
    let mut head = String::new();
    style.paint(Paint::Bold, &format!("{} v{}", table_name(&schema.schema, &schema.table), schema.version), &mut head);
    style.paint(Paint::Dim, &format!("  {}  identity {}", hex(&schema.fingerprint), identity_name(schema)), &mut head);
    if let Some(facts) = &schema.facts {
        let origin = if facts.origin() == FactsOrigin::Ddl { "told with the change" } else { "from the catalog" };
        style.paint(Paint::Dim, &format!("  facts {origin} as of {}", Lsn(facts.as_of_lsn)), &mut head);
    }
    out.line(&head)?;
    match (&version.before, diff) {
        (Some(before), true) => {
            for change in difference(before, schema) {
                let mut line = String::from("  ");
                let text = format!("{} {}", change.kind.sign(), change.text);
                style.paint(change.kind.paint(), &text, &mut line);
                out.line(&line)?;
            }
        }
        _ => {
            for column in &schema.columns {
                out.line(&format!("  {}", column_line(schema, column)))?;
            }
        }
    }
    Ok(())
}

/// A column as SQL would have it, as far as it is known.
fn column_line(schema: &Schema, column: &Column) -> String {
    let mut line = format!("{} {}", column.name, difference::type_text(schema, column));
    let facts = schema.facts.as_ref().and_then(|facts| facts.columns.iter().find(|fact| fact.name == column.name));
    if let Some(facts) = facts {
        if facts.not_null {
            line.push_str(" NOT NULL");
        }
        match (&facts.default, facts.generated.as_str()) {
            (Some(expression), "") => line += &format!(" DEFAULT {expression}"),
            (Some(expression), kind) => line += &format!(" GENERATED ALWAYS AS ({expression}) {}", kind.to_uppercase()),
            (None, _) => {}
        }
        if !facts.identity.is_empty() {
            line += &format!(" GENERATED {} AS IDENTITY", facts.identity.to_uppercase());
        }
        if !facts.collation.is_empty() {
            line += &format!(" COLLATE {}", facts.collation);
        }
    }
    if column.in_identity {
        line.push_str("  [identity]");
    }
    line
}
