//! Notices: things that happened which an operator may want to know.
//!
//! Whoever sees one happen puts it into a [`NoticeSink`]; where it goes from there (a log line, a list, a counter)
//! is decided once, by whoever made the sink.

use std::fmt;
use std::sync::Arc;

use crate::{ConsumerName, StreamName};

/// Who should care.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Severity {
    /// Good to know; nothing to do.
    Info,
    /// Goes on, but somebody should look.
    Warning,
    /// Something does not work.
    Error,
}

impl Severity {
    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// Who should care.
    pub severity: Severity,
    /// What kind of thing, in `snake_case`: a fixed set of words, since they label a metric.
    pub kind: &'static str,
    /// The stream it happened to, if it was one.
    pub stream: Option<StreamName>,
    /// The consumer it happened to, if it was one.
    pub consumer: Option<ConsumerName>,
    /// What happened and, unless nothing is to be done, the remedy: one line, no secrets.
    pub text: String,
}

impl Notice {
    /// Of the whole process.
    pub fn new(severity: Severity, kind: &'static str, text: impl Into<String>) -> Self {
        Self { severity, kind, stream: None, consumer: None, text: text.into() }
    }

    /// As it is, but of this stream.
    #[must_use]
    pub fn of_stream(mut self, stream: &StreamName) -> Self {
        self.stream = Some(stream.clone());
        self
    }

    /// As it is, but of this consumer.
    #[must_use]
    pub fn of_consumer(mut self, consumer: &ConsumerName) -> Self {
        self.consumer = Some(consumer.clone());
        self
    }
}

/// Where notices go. Clones go to the same place; the default one drops them.
#[derive(Clone, Default)]
pub struct NoticeSink(Option<Arc<dyn Fn(Notice) + Send + Sync>>);

impl NoticeSink {
    /// Hands every notice to `take`, on whichever thread it happens: it must return at once.
    pub fn new(take: impl Fn(Notice) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(take)))
    }

    /// Puts a notice in.
    pub fn push(&self, notice: Notice) {
        if let Some(take) = &self.0 {
            take(notice);
        }
    }
}

impl fmt::Debug for NoticeSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "NoticeSink" } else { "NoticeSink(dropped)" })
    }
}
