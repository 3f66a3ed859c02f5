//! What is wanted of a running stream: to run, to pause, or to end with the process.
//!
//! [`run`](crate::run) looks at one place, a wish that can change at any time; whoever operates the stream changes it
//! and never touches the loop. What became of the wish is in the stream's [`Lifecycle`](crate::Lifecycle).

use std::fmt;
use std::sync::Arc;

use dbstreamd_model::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Who paused a stream, when and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PauseNote {
    /// Who asked for it.
    pub by: String,
    /// Why, in the asker's words; may be empty.
    pub why: String,
    /// When it was asked for.
    pub since: Timestamp,
    /// Whether it outlasts a restart of the process.
    pub durable: bool,
}

impl fmt::Display for PauseNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "paused by {}", self.by)?;
        if let Some(since) = jiff::Timestamp::from_microsecond(self.since.0).ok().filter(|_| self.since.0 != 0) {
            write!(f, " at {since:.0}")?;
        }
        if !self.why.is_empty() {
            write!(f, " ({})", self.why)?;
        }
        let lasts = if self.durable { "also after a restart" } else { "until resumed or restarted" };
        write!(f, ", {lasts}; the source keeps its WAL meanwhile")
    }
}

/// What a stream shall do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Goal {
    /// Stream, and after a fault come back.
    Run,
    /// Stop cleanly and stay so.
    Pause(Arc<PauseNote>),
}

/// A goal, and which of all that were set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wish {
    /// What to do.
    pub goal: Goal,
    /// Rises with every wish, also with one for the same goal.
    pub serial: u64,
}

/// The handle by which a stream is operated. Clones operate the same stream.
#[derive(Clone, Debug)]
pub struct Control {
    wish: Arc<watch::Sender<Wish>>,
    shutdown: CancellationToken,
}

impl Control {
    /// Of a stream that starts with this goal and ends when `shutdown` fires.
    pub fn new(goal: Goal, shutdown: CancellationToken) -> Self {
        Self { wish: Arc::new(watch::Sender::new(Wish { goal, serial: 0 })), shutdown }
    }

    /// Sets a new goal. [`Goal::Run`] for a stream that waits after a fault means: try again now.
    pub fn set(&self, goal: Goal) -> Wish {
        let mut set = None;
        self.wish.send_modify(|wish| {
            *wish = Wish { goal, serial: wish.serial + 1 };
            set = Some(wish.clone());
        });
        set.unwrap_or_else(|| self.wish())
    }

    /// The wish now.
    pub fn wish(&self) -> Wish {
        self.wish.borrow().clone()
    }

    /// To be told of every new wish.
    pub fn watch(&self) -> watch::Receiver<Wish> {
        self.wish.subscribe()
    }

    pub(crate) fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }
}

/// Without an operator: runs until the token fires.
impl From<CancellationToken> for Control {
    fn from(shutdown: CancellationToken) -> Self {
        Self::new(Goal::Run, shutdown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_says_who_wanted_it_when_why_and_for_how_long() {
        let mut note = PauseNote {
            by: "ana@ops".into(),
            why: "moving".into(),
            since: Timestamp(1_767_225_600_000_000),
            durable: true,
        };
        let text = note.to_string();
        assert!(text.starts_with("paused by ana@ops at 2026-01-01T00:00:00Z (moving), also after a restart"), "{text}");
        (note.why, note.since, note.durable) = (String::new(), Timestamp(0), false);
        let text = note.to_string();
        assert!(text.starts_with("paused by ana@ops, until resumed or restarted"), "{text}");
    }
}
