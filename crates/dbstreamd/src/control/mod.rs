//! What an operator may do to a running daemon: tune it, and pause, resume or drain its streams.
//!
//! This is the part that knows; gRPC's handlers only translate. What is to last over restarts is stored in the log
//! as a setting (docs/format.md): `tune.NAME` for a tuned value, `pause.STREAM` for a stream that stays paused.

pub(crate) mod lifecycle;
pub(crate) mod settings;
pub(crate) mod tuning;

/// Prefixes of the names under which the log keeps settings.
const TUNED: &str = "tune.";
const PAUSED: &str = "pause.";
