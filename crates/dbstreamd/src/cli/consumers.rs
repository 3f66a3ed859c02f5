//! `dbstreamd consumers`: who reads, and how far they got; and to forget one.

use dbstreamd_model::{ConsumerName, Timestamp};
use serde_json::{Value, json};

use super::output::age_text;
use super::{
    CliError, ConsumersArguments, ConsumersCommand, Format, ListArguments, Output, Paint, bytes_text, client,
    count_text,
};
use crate::json::rfc3339;
use crate::proto::{Consumer, ConsumerState, DeleteConsumerRequest, ListConsumersRequest};

pub(super) async fn run(arguments: ConsumersArguments) -> Result<(), CliError> {
    match arguments.command {
        None => list(arguments.list).await,
        Some(ConsumersCommand::Delete { consumer, stream, server }) => delete(&server.server, stream, &consumer).await,
    }
}

async fn delete(server: &str, stream: String, consumer: &ConsumerName) -> Result<(), CliError> {
    let mut client = client::connect(server).await?;
    let request = DeleteConsumerRequest { stream, consumer: consumer.to_string() };
    let answer = client.delete_consumer(request).await.map_err(|status| client::refused(server, &status))?;
    let mut out = Output::new();
    let committed = count_text(answer.into_inner().committed_offset);
    out.line(&format!("deleted consumer {consumer}, which had committed offset {committed}"))?;
    out.flush()
}

async fn list(arguments: ListArguments) -> Result<(), CliError> {
    let server = &arguments.server.server;
    let mut client = client::connect(server).await?;
    let request = ListConsumersRequest { stream: String::new() };
    let answer = client.list_consumers(request).await.map_err(|status| client::refused(server, &status))?;
    let consumers = answer.into_inner().consumers;
    let mut out = Output::new();
    match arguments.form.chosen() {
        Format::Json => {
            let listed = json!({ "consumers": consumers.iter().map(document).collect::<Vec<_>>() });
            out.line(&listed.to_string())?;
        }
        Format::Text if consumers.is_empty() => {
            out.line(
                "no named consumers yet: one appears when it subscribes under a name (dbstreamd tail --consumer NAME)",
            )?;
        }
        Format::Text => {
            let headings = ["STREAM", "CONSUMER", "COMMITTED", "BEHIND", "BYTES", "LAST COMMIT", "NOW", "STATE"];
            out.table(&headings, &consumers.iter().map(row).collect::<Vec<_>>())?;
        }
    }
    out.flush()
}

fn row(consumer: &Consumer) -> Vec<(Paint, String)> {
    let committed_at = match consumer.committed_at_us {
        0 => "never".to_owned(),
        at => format!("{} ago", age_text(Timestamp::now().0.saturating_sub(at))),
    };
    let (paint, now) = if consumer.connected { (Paint::Good, "connected") } else { (Paint::Dim, "away") };
    let state_paint = match consumer.state() {
        ConsumerState::Active | ConsumerState::Unspecified => Paint::Plain,
        ConsumerState::Lagging | ConsumerState::Released | ConsumerState::NeedsSnapshot => Paint::Bad,
    };
    vec![
        (Paint::Plain, consumer.stream.clone()),
        (Paint::Bold, consumer.name.clone()),
        (Paint::Plain, count_text(consumer.committed_offset)),
        (Paint::Plain, count_text(consumer.lag_events)),
        (Paint::Plain, bytes_text(consumer.lag_bytes)),
        (Paint::Plain, committed_at),
        (paint, now.to_owned()),
        (state_paint, state_name(consumer).to_owned()),
    ]
}

/// A consumer with the names that `/v1/consumers` uses.
fn document(consumer: &Consumer) -> Value {
    json!({
        "stream": consumer.stream,
        "name": consumer.name,
        "committed_offset": consumer.committed_offset,
        "committed_at": rfc3339(consumer.committed_at_us),
        "lag_events": consumer.lag_events,
        "lag_bytes": consumer.lag_bytes,
        "connected": consumer.connected,
        "state": state_name(consumer),
        "state_reason": Some(consumer.state_reason.as_str()).filter(|reason| !reason.is_empty()),
        "away_seconds": consumer.away_seconds,
    })
}

fn state_name(consumer: &Consumer) -> &'static str {
    consumer.state().as_str_name().trim_start_matches("CONSUMER_STATE_")
}
