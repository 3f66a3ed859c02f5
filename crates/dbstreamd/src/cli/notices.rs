//! `dbstreamd notices`: what happened lately in a running daemon.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::{CliError, Output, Paint, ServerArguments, client};
use crate::json::rfc3339;
use crate::proto::{ListNoticesRequest, Notice, NoticeSeverity};

/// How often a follower asks.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Args, Debug)]
#[command(after_help = "\
Oldest first. The daemon keeps the newest 1000 in memory; its log lines have them all. With --json one object a line.

Examples:
  dbstreamd notices
  dbstreamd notices --follow
  dbstreamd notices --json --after 1795268055123")]
pub(crate) struct NoticesArguments {
    /// Go on with what happens from now on
    #[arg(long)]
    follow: bool,
    /// Only what came after the notice of this sequence
    #[arg(long, value_name = "SEQUENCE", default_value_t = 0)]
    after: u64,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArguments,
}

pub(super) async fn run(arguments: NoticesArguments) -> Result<(), CliError> {
    let server = &arguments.server.server;
    let mut client = client::connect_control(server).await?;
    let mut out = Output::new();
    let mut after = arguments.after;
    loop {
        let answer = client.list_notices(ListNoticesRequest { after, limit: 0 }).await;
        let answer = answer.map_err(|status| client::refused(server, &status))?.into_inner();
        for notice in &answer.notices {
            after = after.max(notice.sequence);
            let line = if arguments.json { document(notice).to_string() } else { text(&out, notice) };
            out.line(&line)?;
        }
        out.flush()?;
        if !arguments.follow {
            return Ok(());
        }
        tokio::time::sleep(FOLLOW_INTERVAL).await;
    }
}

fn text(out: &Output, notice: &Notice) -> String {
    let style = out.style();
    let mut line = String::new();
    style.paint(Paint::Dim, &rfc3339(notice.time_us).unwrap_or_default(), &mut line);
    line.push(' ');
    let paint = match notice.severity() {
        NoticeSeverity::Error => Paint::Bad,
        NoticeSeverity::Warning => Paint::Change,
        _ => Paint::Good,
    };
    style.paint(paint, &format!("{:<7}", severity(notice)), &mut line);
    line.push(' ');
    style.paint(Paint::Bold, &notice.kind, &mut line);
    for (what, name) in [("stream", &notice.stream), ("consumer", &notice.consumer)] {
        if !name.is_empty() {
            line.push_str(&format!(" {what} {name}"));
        }
    }
    line.push_str(": ");
    line.push_str(&notice.text);
    line
}

fn severity(notice: &Notice) -> &'static str {
    match NoticeSeverity::try_from(notice.severity) {
        Ok(NoticeSeverity::Info) => "info",
        Ok(NoticeSeverity::Warning) => "warning",
        Ok(NoticeSeverity::Error) => "error",
        // Of a newer daemon.
        Ok(NoticeSeverity::Unspecified) | Err(_) => "unknown",
    }
}

/// A notice with the names that `/v1/notices` uses.
fn document(notice: &Notice) -> Value {
    let named = |name: &str| Some(name.to_owned()).filter(|name| !name.is_empty());
    json!({
        "sequence": notice.sequence,
        "time": rfc3339(notice.time_us),
        "severity": severity(notice),
        "kind": notice.kind,
        "stream": named(&notice.stream),
        "consumer": named(&notice.consumer),
        "text": notice.text,
    })
}
