//! The journal of notices: the newest things that happened, for `/v1/notices`, `ListNotices` and `dbstreamd notices`.
//!
//! [`Notices::push`] is the one place that keeps a notice, counts it and writes its log line. The journal lives in
//! memory and is bounded; what it forgets is in the log lines.

use std::collections::VecDeque;
use std::sync::Arc;

use dbstreamd_model::{Notice, NoticeSink, Severity, Timestamp};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

/// Notices kept: enough for a bad night, and with [`TEXT_BYTES_MAX`] at most a few MiB.
pub(crate) const KEPT_MAX: usize = 1_000;

/// Longest text kept of one notice: longer ones quote a server at length.
const TEXT_BYTES_MAX: usize = 2_048;

/// A notice with its place in the journal.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    /// Rises by one from notice to notice. The first one of a process is its start in milliseconds since 1970, so
    /// that it rises over restarts too and a follower need not know of them.
    pub(crate) sequence: u64,
    pub(crate) time: Timestamp,
    pub(crate) notice: Notice,
}

/// Part of the journal.
#[derive(Debug)]
pub(crate) struct Page {
    /// Oldest first.
    pub(crate) notices: Vec<Arc<Recorded>>,
    /// The oldest sequence that is kept; none while the journal is empty. A follower whose position is before the one
    /// before it has missed some.
    pub(crate) oldest: Option<u64>,
    /// The newest sequence given out, or the one before the first.
    pub(crate) newest: u64,
}

/// Labels of the counter.
pub(crate) type Labels = [(&'static str, &'static str); 2];

/// The journal. Clones are the same journal.
#[derive(Clone, Debug)]
pub(crate) struct Notices(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    ring: Mutex<Ring>,
    counted: Family<Labels, Counter>,
}

#[derive(Debug)]
struct Ring {
    newest: u64,
    kept: VecDeque<Arc<Recorded>>,
}

impl Default for Notices {
    fn default() -> Self {
        let newest = u64::try_from(Timestamp::now().0 / 1_000).unwrap_or(0);
        Self(Arc::new(Shared { ring: Mutex::new(Ring { newest, kept: VecDeque::new() }), counted: Family::default() }))
    }
}

impl Notices {
    /// Keeps a notice, counts it, and writes its log line. Cheap, but not for anything that happens per event.
    pub(crate) fn push(&self, mut notice: Notice) {
        shorten(&mut notice.text);
        write_line(&notice);
        self.0.counted.get_or_create(&[("kind", notice.kind), ("severity", notice.severity.name())]).inc();
        let mut ring = self.0.ring.lock();
        ring.newest += 1;
        let recorded = Recorded { sequence: ring.newest, time: Timestamp::now(), notice };
        if ring.kept.len() == KEPT_MAX {
            ring.kept.pop_front();
        }
        ring.kept.push_back(Arc::new(recorded));
    }

    /// Where parts that do not know this journal put their notices.
    pub(crate) fn sink(&self) -> NoticeSink {
        let notices = self.clone();
        NoticeSink::new(move |notice| notices.push(notice))
    }

    /// Up to `limit` notices after this sequence, oldest first.
    pub(crate) fn after(&self, sequence: u64, limit: usize) -> Page {
        let ring = self.0.ring.lock();
        let first = ring.kept.partition_point(|recorded| recorded.sequence <= sequence);
        Page {
            notices: ring.kept.iter().skip(first).take(limit).cloned().collect(),
            oldest: ring.kept.front().map(|recorded| recorded.sequence),
            newest: ring.newest,
        }
    }

    /// How many there were, by kind and severity.
    pub(crate) fn counted(&self) -> Family<Labels, Counter> {
        self.0.counted.clone()
    }
}

fn write_line(notice: &Notice) {
    let Notice { severity, kind, stream, consumer, text } = notice;
    let (stream, consumer) = (stream.as_ref().map(|name| name.as_str()), consumer.as_ref().map(|name| name.as_str()));
    // A level is part of a line's static description, so there is one line of code for each.
    match severity {
        Severity::Info => tracing::info!(kind, stream, consumer, "{text}"),
        Severity::Warning => tracing::warn!(kind, stream, consumer, "{text}"),
        Severity::Error => tracing::error!(kind, stream, consumer, "{text}"),
    }
}

fn shorten(text: &mut String) {
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(number: usize) -> Notice {
        Notice::new(Severity::Info, "test", number.to_string())
    }

    fn texts(page: &Page) -> Vec<&str> {
        page.notices.iter().map(|recorded| recorded.notice.text.as_str()).collect()
    }

    #[test]
    fn the_newest_thousand_are_kept_and_a_follower_sees_each_once() {
        let notices = Notices::default();
        let empty = notices.after(0, 10);
        assert_eq!((empty.notices.len(), empty.oldest), (0, None));
        (0..KEPT_MAX + 5).for_each(|number| notices.push(numbered(number)));
        let all = notices.after(0, usize::MAX);
        assert_eq!((all.notices.len(), all.newest), (KEPT_MAX, empty.newest + KEPT_MAX as u64 + 5));
        assert_eq!(all.oldest, Some(empty.newest + 6));
        assert_eq!(texts(&all)[0], "5");

        let page = notices.after(all.newest - 3, 2);
        assert_eq!(texts(&page), ["1002", "1003"]);
        assert_eq!(texts(&notices.after(page.notices[1].sequence, 2)), ["1004"]);
        assert!(notices.after(all.newest, 2).notices.is_empty());
        let labels = [("kind", "test"), ("severity", "info")];
        assert_eq!(notices.counted().get_or_create(&labels).get(), KEPT_MAX as u64 + 5);
    }

    #[test]
    fn a_text_without_end_is_cut_between_two_characters() {
        let notices = Notices::default();
        notices.push(Notice::new(Severity::Error, "test", "ü".repeat(TEXT_BYTES_MAX)));
        let page = notices.after(0, 1);
        let text = &page.notices[0].notice.text;
        assert!(text.len() <= TEXT_BYTES_MAX + "…".len() && text.ends_with("ü…"));
    }
}
