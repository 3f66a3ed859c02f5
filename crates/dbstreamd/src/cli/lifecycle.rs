//! `dbstreamd pause`, `resume` and `drain`: the lives of streams.

use std::time::Duration;

use clap::Args;
use dbstreamd_model::Lsn;
use serde_json::{Value, json};

use super::{CliError, Output, ServerArguments, client, count_text, note, streams};
use crate::config::units;
use crate::proto::{DrainStreamRequest, PauseStreamRequest, ResumeStreamRequest, Stream, StreamState};

#[derive(Args, Debug)]
#[command(after_help = "\
What was received whole becomes durable and is confirmed, then the connection is closed. The slot stays, so the server
keeps its WAL until the stream is resumed. Consumers go on reading what is there.

Examples:
  dbstreamd pause shop
  dbstreamd pause shop --durable --why 'database moves on Sunday'")]
pub(crate) struct PauseArguments {
    #[command(flatten)]
    stream: StreamArguments,
    #[command(flatten)]
    pause: LastingArguments,
}

#[derive(Args, Debug)]
#[command(after_help = "\
A failed stream tries again at once instead of waiting. Exit code 1 when it fails again.

With --skip-to, consumers that are parked because an event cannot be read go on at that offset. What they leave out is gone for
them; it is recorded in the log, told to each of them in its place, and shown by dbstreamd streams --json.

Examples:
  dbstreamd resume shop
  dbstreamd resume shop --skip-to 4711 --why 'schema lost, table is copied anew'")]
pub(crate) struct ResumeArguments {
    #[command(flatten)]
    stream: StreamArguments,
    /// Give up what cannot be read before this offset
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(u64).range(2..))]
    skip_to: Option<u64>,
    /// Why, for who finds the skip recorded
    #[arg(long, value_name = "TEXT", default_value = "", requires = "skip_to")]
    why: String,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Asks the source where its history ends now, streams until all of that is durable and visible here, and pauses the stream.
Stop whatever writes to the database first, or what it writes meanwhile stays behind. When it takes too long the stream goes
on as before, and the exit code is 1.

Examples:
  dbstreamd drain shop
  dbstreamd drain shop --durable --timeout 5m")]
pub(crate) struct DrainArguments {
    #[command(flatten)]
    stream: StreamArguments,
    #[command(flatten)]
    pause: LastingArguments,
    /// How long it may take, at most 1h
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = units::duration)]
    timeout: Duration,
}

#[derive(Args, Debug)]
struct StreamArguments {
    /// The stream's name
    #[arg(value_name = "STREAM")]
    stream: String,
    /// One JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Args, Debug)]
struct LastingArguments {
    /// Stay paused over restarts of the daemon
    #[arg(long)]
    durable: bool,
    /// Why, for those who see it paused
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
}

pub(super) async fn pause(arguments: PauseArguments) -> Result<(), CliError> {
    let PauseArguments { stream: StreamArguments { stream, json, server }, pause } = arguments;
    let server = &server.server;
    let mut client = client::connect_control(server).await?;
    let request = PauseStreamRequest { stream, durable: pause.durable, by: client::whoami(), why: pause.why };
    let answer = client.pause_stream(request).await.map_err(|status| client::refused(server, &status))?.into_inner();
    let stream = answer.stream.unwrap_or_default();
    if json {
        return print(&json!({ "stream": streams::document(&stream), "warning": answer.warning }).to_string());
    }
    print(&format!("stream {} is {}", stream.name, standing(&stream)))?;
    note(&format!("warning: {}", answer.warning));
    Ok(())
}

pub(super) async fn resume(arguments: ResumeArguments) -> Result<(), CliError> {
    let ResumeArguments { stream: StreamArguments { stream, json, server }, skip_to, why } = arguments;
    let server = &server.server;
    let mut client = client::connect_control(server).await?;
    let request = ResumeStreamRequest { stream, by: client::whoami(), skip_to: skip_to.unwrap_or(0), why };
    let answer = client.resume_stream(request).await.map_err(|status| client::refused(server, &status))?.into_inner();
    let stream = answer.stream.unwrap_or_default();
    if json {
        print(&json!({ "stream": streams::document(&stream) }).to_string())?;
    } else if stream.state() != StreamState::Failed {
        print(&format!("stream {} is {}", stream.name, standing(&stream)))?;
    }
    if stream.state() == StreamState::Failed {
        return Err(CliError::Failed(format!("stream {} failed: {}", stream.name, stream.error)));
    }
    Ok(())
}

pub(super) async fn drain(arguments: DrainArguments) -> Result<(), CliError> {
    let DrainArguments { stream: StreamArguments { stream, json, server }, pause, timeout } = arguments;
    let server = &server.server;
    let mut client = client::connect_control(server).await?;
    let request = DrainStreamRequest {
        stream,
        durable: pause.durable,
        by: client::whoami(),
        why: pause.why,
        // Zero would mean "as the daemon likes".
        timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1),
    };
    let answer = client.drain_stream(request).await.map_err(|status| client::refused(server, &status))?.into_inner();
    let stream = answer.stream.unwrap_or_default();
    let (target, reached) = (Lsn(answer.target_lsn), Lsn(answer.reached_lsn));
    if json {
        let document: Value = json!({
            "stream": streams::document(&stream),
            "target_lsn": target.to_string(),
            "reached_lsn": reached.to_string(),
            "warning": answer.warning,
        });
        return print(&document.to_string());
    }
    print(&format!(
        "stream {} is {}: everything of the source up to {target} is here (it got to {reached})",
        stream.name,
        standing(&stream)
    ))?;
    note(&format!("warning: {}", answer.warning));
    Ok(())
}

fn standing(stream: &Stream) -> String {
    format!("{} at offset {}", streams::state_name(stream), count_text(stream.visible_offset))
}

fn print(line: &str) -> Result<(), CliError> {
    let mut out = Output::new();
    out.line(line)?;
    out.flush()
}
