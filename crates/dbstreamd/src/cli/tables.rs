//! `dbstreamd tables clear`: a table whose rows changed without events was read anew.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{CliError, Output, ServerArguments, client, count_text};
use crate::proto::ClearTableRequest;
use crate::schema_json::divergence_document;

#[derive(Args, Debug)]
#[command(after_help = "\
Tables that diverged are shown by `dbstreamd streams`, with the reason.

Examples:
  dbstreamd tables clear shop public.orders")]
pub(crate) struct TablesArguments {
    #[command(subcommand)]
    command: TablesCommand,
}

#[derive(Subcommand, Debug)]
enum TablesCommand {
    /// Say that whoever needs it has read this table anew since it diverged
    #[command(after_help = "\
The table is taken off the stream's list of tables that diverged. No event is changed. Who said so is written down.

Examples:
  dbstreamd tables clear shop public.orders
  dbstreamd tables clear shop '\"Sales\".\"Order Lines\"'")]
    Clear(ClearArguments),
}

#[derive(Args, Debug)]
struct ClearArguments {
    /// The stream's name
    #[arg(value_name = "STREAM")]
    stream: String,
    /// The table, as schema.table
    #[arg(value_name = "TABLE")]
    table: String,
    /// One JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArguments,
}

pub(super) async fn run(arguments: TablesArguments) -> Result<(), CliError> {
    let TablesCommand::Clear(ClearArguments { stream, table, json, server }) = arguments.command;
    let server = &server.server;
    let mut client = client::connect_control(server).await?;
    let request = ClearTableRequest { stream: stream.clone(), table: table.clone(), by: client::whoami() };
    let answer = client.clear_table(request).await.map_err(|status| client::refused(server, &status))?;
    let left = answer.into_inner().diverged;
    let mut out = Output::new();
    if json {
        let left: Vec<_> = left.iter().map(divergence_document).collect();
        out.line(&json!({ "cleared": table, "diverged": left }).to_string())?;
    } else {
        let left = count_text(left.len() as u64);
        out.line(&format!("table {table} of stream {stream} counts as read anew; {left} more that diverged"))?;
    }
    out.flush()
}
