//! What the demo shows: changes no faster than one can look at them, a line of figures that stays, and a summary.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::ledger::Totals;
use crate::cli::{CliError, DemoArguments, Output, Paint, Pretty, bytes_text, count_text};
use crate::proto;

/// Changes shown per second; the rest is counted.
const LINES_PER_SECOND: f64 = 24.0;
/// How many lines may come at once after a pause.
const LINES_BURST: f64 = 36.0;
/// Once changes are hidden, how many lines must be allowed again before any is shown: runs read better than crumbs.
const LINES_RESUME: f64 = 12.0;

/// The demo's output.
pub(super) struct Screen {
    out: Output,
    pretty: Pretty,
    seconds: u32,
    rate: u32,
    /// Lines that may be shown now.
    budget: f64,
    budget_at: Instant,
    /// Whether the transaction at hand is shown.
    showing: bool,
    hidden: u64,
    status: String,
    status_drawn: bool,
}

/// The end of a demo.
pub(super) struct Summary {
    pub(super) totals: Totals,
    pub(super) lasted: Duration,
    pub(super) log_bytes: u64,
}

impl Screen {
    pub(super) fn new(arguments: &DemoArguments) -> Self {
        Self {
            out: Output::new(),
            pretty: Pretty::default(),
            seconds: arguments.seconds,
            rate: arguments.rate,
            budget: LINES_BURST,
            budget_at: Instant::now(),
            showing: true,
            hidden: 0,
            status: String::new(),
            status_drawn: false,
        }
    }

    /// A line of text.
    pub(super) fn line(&mut self, line: &str) -> Result<(), CliError> {
        self.clear_status()?;
        self.out.line(line)?;
        self.flush()
    }

    /// What is going on, and how to look at it from elsewhere.
    pub(super) fn introduce(&mut self, version: &str, grpc: &str, http: SocketAddr) -> Result<(), CliError> {
        let version = version.split(' ').next().unwrap_or_default();
        let (seconds, rate) = (self.seconds, self.rate);
        self.line(&format!(
            "PostgreSQL {version} is up, and dbstreamd streams its changes: {seconds} s of a small shop, {rate} transactions per second."
        ))?;
        self.line("")?;
        self.line("Look at the same changes from another terminal:")?;
        self.line(&format!("  dbstreamd tail --from earliest --server {grpc}"))?;
        self.line(&format!("  curl -N http://{http}/v1/streams/{}/events", super::DATABASE))?;
        self.line("")
    }

    pub(super) fn learn(&mut self, schema: proto::Schema) {
        self.pretty.learn(schema);
    }

    /// Shows an event, or counts it: whole transactions, so that what is seen is consistent.
    pub(super) fn event(&mut self, event: &proto::Event) -> Result<(), CliError> {
        if event.ordinal == 0 {
            let now = Instant::now();
            let earned = now.duration_since(self.budget_at).as_secs_f64() * LINES_PER_SECOND;
            (self.budget, self.budget_at) = ((self.budget + earned).min(LINES_BURST), now);
            self.showing = self.budget >= if self.showing { 1.0 } else { LINES_RESUME };
        }
        if !self.showing {
            self.hidden += 1;
            return Ok(());
        }
        self.clear_status()?;
        self.tell_hidden()?;
        self.budget -= 1.0;
        let (style, width) = (self.out.style(), self.out.width());
        let line = self.pretty.line(event, style, width).map_err(|error| CliError::failed(&error))?;
        self.out.line(&line)
    }

    fn tell_hidden(&mut self) -> Result<(), CliError> {
        if self.hidden == 0 {
            return Ok(());
        }
        let mut line = String::new();
        self.out.style().paint(
            Paint::Dim,
            &format!("         … {} more changes …", count_text(self.hidden)),
            &mut line,
        );
        self.hidden = 0;
        self.out.line(&line)
    }

    /// Draws the line of figures anew; only on a terminal.
    pub(super) fn status(&mut self, totals: &Totals, elapsed: Duration) -> Result<(), CliError> {
        if !self.out.is_terminal() {
            return Ok(());
        }
        let seconds = elapsed.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate shown to people")]
        let rate = totals.events as f64 / seconds.max(0.001);
        let text = format!(
            " {:.0} of {} s   {} changes, {rate:.0}/s   commit to receive {}   Ctrl-C ends it",
            seconds.min(self.seconds.into()),
            self.seconds,
            count_text(totals.events),
            percentiles(&totals.from_commit),
        );
        self.clear_status()?;
        let width = self.out.width().unwrap_or(usize::MAX);
        let text: String = text.chars().take(width.saturating_sub(1)).collect();
        self.status.clear();
        self.out.style().paint(Paint::Bold, &text, &mut self.status);
        self.flush()
    }

    /// Shows everything so far, with the line of figures below it.
    pub(super) fn flush(&mut self) -> Result<(), CliError> {
        if !self.status.is_empty() && !self.status_drawn {
            self.out.bytes(self.status.as_bytes())?;
            self.status_drawn = true;
        }
        self.out.flush()
    }

    /// Takes the line of figures away for good.
    pub(super) fn close(&mut self) -> Result<(), CliError> {
        self.clear_status()?;
        self.status.clear();
        self.out.flush()
    }

    fn clear_status(&mut self) -> Result<(), CliError> {
        if std::mem::take(&mut self.status_drawn) {
            self.out.bytes(b"\r\x1b[2K")?;
        }
        Ok(())
    }

    pub(super) fn summary(&mut self, summary: &Summary) -> Result<(), CliError> {
        self.close()?;
        self.tell_hidden()?;
        let Summary { totals, lasted, log_bytes } = summary;
        #[expect(clippy::cast_precision_loss, reason = "a rate shown to people")]
        let per_second = |count: u64| format!("{:.1}/s", count as f64 / lasted.as_secs_f64().max(0.001));
        self.line("")?;
        let rows = [
            ("transactions", format!("{:<10} {}", count_text(totals.transactions), per_second(totals.transactions))),
            ("events", format!("{:<10} {}", count_text(totals.events), per_second(totals.events))),
            (
                "commit to receive",
                format!("{}  (PostgreSQL's fsync and ours included)", percentiles(&totals.from_commit)),
            ),
            ("commit return to receive", percentiles(&totals.from_return)),
            ("log on disk", bytes_text(*log_bytes)),
        ];
        for (name, value) in rows {
            let mut line = String::from("  ");
            self.out.style().paint(Paint::Dim, &format!("{name:<26}"), &mut line);
            line.push_str(&value);
            self.line(&line)?;
        }
        let mut line = String::from("  ");
        let verdict = "Every change that was written arrived, once and in order.";
        self.out.style().paint(Paint::Good, verdict, &mut line);
        self.line(&line)?;
        self.line("")
    }
}

fn percentiles(micros: &Histogram<u64>) -> String {
    let at = |quantile: f64| milliseconds(micros.value_at_quantile(quantile));
    format!("p50 {}  p99 {}", at(0.5), at(0.99))
}

fn milliseconds(micros: u64) -> String {
    match micros {
        0..100_000 => format!("{}.{:02} ms", micros / 1_000, micros % 1_000 / 10),
        _ => format!("{} ms", micros / 1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_read_well() {
        assert_eq!([0, 42, 1_234, 100_000].map(milliseconds), ["0.00 ms", "0.04 ms", "1.23 ms", "100 ms"]);
    }
}
