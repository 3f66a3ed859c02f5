//! Prints events in the chosen format.

use super::TailFormat;
use crate::cli::{CliError, Output, Paint, Pretty};
use crate::json::{JsonError, Renderer, epoch_document, epoch_reason, skipped_document};
use crate::proto;

pub(super) struct Printer {
    out: Output,
    form: Form,
    line: Vec<u8>,
}

enum Form {
    Pretty(Pretty),
    Json(Renderer),
}

impl Printer {
    pub(super) fn new(format: TailFormat) -> Self {
        let form = match format {
            TailFormat::Pretty => Form::Pretty(Pretty::default()),
            TailFormat::Json => Form::Json(Renderer::default()),
        };
        Self { out: Output::new(), form, line: Vec::new() }
    }

    pub(super) fn learn(&mut self, schema: proto::Schema) {
        match &mut self.form {
            Form::Pretty(pretty) => pretty.learn(schema),
            Form::Json(renderer) => renderer.learn(&schema),
        }
    }

    /// Prints one event into the buffer.
    pub(super) fn print(&mut self, event: &proto::Event) -> Result<(), CliError> {
        let misfit = |error: JsonError| CliError::failed(&error);
        match &mut self.form {
            Form::Json(renderer) => {
                self.line.clear();
                renderer.write_event(event, &mut self.line).map_err(misfit)?;
                self.line.push(b'\n');
                self.out.bytes(&self.line)
            }
            Form::Pretty(pretty) => {
                if let Some(day) = pretty.new_day(event) {
                    let mut line = String::new();
                    self.out.style().paint(Paint::Dim, &format!("── {day} ──"), &mut line);
                    self.out.line(&line)?;
                }
                let (style, width) = (self.out.style(), self.out.width());
                self.out.line(&pretty.line(&pretty.in_cells(event), style, width).map_err(misfit)?)
            }
        }
    }

    /// Prints that an epoch begins here.
    pub(super) fn epoch(&mut self, epoch: &proto::Epoch) -> Result<(), CliError> {
        match &mut self.form {
            Form::Json(_) => self.out.line(&serde_json::json!({ "epoch_started": epoch_document(epoch) }).to_string()),
            Form::Pretty(_) => {
                let mut line = String::new();
                let text = format!(
                    "── epoch {} begins at offset {}: {}; what is above was of another history ──",
                    epoch.epoch,
                    epoch.first_offset,
                    epoch_reason(epoch)
                );
                self.out.style().paint(Paint::Bold, &text, &mut line);
                self.out.line(&line)
            }
        }
    }

    /// Prints that events were left out here.
    pub(super) fn skipped(&mut self, skipped: &proto::Skipped) -> Result<(), CliError> {
        match &mut self.form {
            Form::Json(_) => self.out.line(&serde_json::json!({ "skipped": skipped_document(skipped) }).to_string()),
            Form::Pretty(_) => {
                let mut line = String::new();
                let (first, last) = (skipped.first_offset, skipped.next_offset.saturating_sub(1));
                let text = format!(
                    "── up to offset {last} left out what cannot be read from {first} on, as {} ──",
                    skipped.note
                );
                self.out.style().paint(Paint::Bold, &text, &mut line);
                self.out.line(&line)
            }
        }
    }

    /// Hands everything printed to the operating system.
    pub(super) fn flush(&mut self) -> Result<(), CliError> {
        self.out.flush()
    }
}
