//! `dbstreamd tune`: the settings of a running daemon, and changing them.

use clap::Args;
use serde_json::{Value, json};

use super::{CliError, Output, Paint, ServerArguments, client};
use crate::proto::{GetSettingsRequest, Setting, SettingChange, SettingOrigin, TuneRequest};

#[derive(Args, Debug)]
#[command(after_help = "\
Without a change it shows all settings with their ranges. Changes hold at once, all of them or, when one is refused, none;
without --durable until the daemon restarts. --reset brings back what the configuration says and forgets what was stored.

Examples:
  dbstreamd tune
  dbstreamd tune group-commit-bytes=8MB retention-age=off
  dbstreamd tune retention-bytes=200GiB --durable
  dbstreamd tune log-filter=info,dbstreamd_source=debug
  dbstreamd tune --reset log-filter")]
pub(crate) struct TuneArguments {
    /// New values
    #[arg(value_name = "NAME=VALUE", value_parser = assignment)]
    changes: Vec<(String, String)>,
    /// Bring back the configured value; may be repeated
    #[arg(long, value_name = "NAME")]
    reset: Vec<String>,
    /// Keep the new values over restarts, over the configuration
    #[arg(long)]
    durable: bool,
    /// One JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArguments,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE, such as retention-age=7d".to_owned()),
    }
}

pub(super) async fn run(arguments: TuneArguments) -> Result<(), CliError> {
    let server = &arguments.server.server;
    let mut client = client::connect_control(server).await?;
    let refused = |status: tonic::Status| client::refused(server, &status);
    let set = arguments.changes.into_iter().map(|(name, value)| SettingChange { name, value: Some(value) });
    let reset = arguments.reset.into_iter().map(|name| SettingChange { name, value: None });
    let changes: Vec<_> = set.chain(reset).collect();
    let settings = if changes.is_empty() {
        client.get_settings(GetSettingsRequest {}).await.map_err(refused)?.into_inner().settings
    } else {
        let request = TuneRequest { changes, durable: arguments.durable, by: client::whoami() };
        client.tune(request).await.map_err(refused)?.into_inner().settings
    };
    let mut out = Output::new();
    if arguments.json {
        let listed = json!({ "settings": settings.iter().map(document).collect::<Vec<_>>() });
        out.line(&listed.to_string())?;
    } else {
        let headings = ["SETTING", "VALUE", "FROM", "CONFIGURED", "RANGE", "MEANING"];
        out.table(&headings, &settings.iter().map(row).collect::<Vec<_>>())?;
    }
    out.flush()
}

fn row(setting: &Setting) -> Vec<(Paint, String)> {
    let paint = match setting.origin() {
        SettingOrigin::Durable | SettingOrigin::RunTime => Paint::Change,
        _ => Paint::Plain,
    };
    let mut from = origin(setting).to_owned();
    if !setting.stored.is_empty() && setting.stored != setting.value {
        from = format!("{from} (after a restart {})", setting.stored);
    }
    vec![
        (Paint::Bold, setting.name.clone()),
        (paint, setting.value.clone()),
        (paint, from),
        (Paint::Plain, setting.configured.clone()),
        (Paint::Dim, setting.range.clone()),
        (Paint::Dim, setting.description.clone()),
    ]
}

fn origin(setting: &Setting) -> &'static str {
    match SettingOrigin::try_from(setting.origin) {
        Ok(SettingOrigin::Default) => "default",
        Ok(SettingOrigin::Config) => "config",
        Ok(SettingOrigin::Durable) => "durable",
        Ok(SettingOrigin::RunTime) => "run-time",
        // Of a newer daemon.
        Ok(SettingOrigin::Unspecified) | Err(_) => "unknown",
    }
}

fn document(setting: &Setting) -> Value {
    json!({
        "name": setting.name,
        "value": setting.value,
        "unit": setting.unit,
        "range": setting.range,
        "origin": origin(setting),
        "configured": setting.configured,
        "stored": Some(&setting.stored).filter(|stored| !stored.is_empty()),
        "description": setting.description,
    })
}
