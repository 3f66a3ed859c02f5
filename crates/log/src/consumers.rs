//! Consumers: what they committed, who is there, and how they stand to the log.
//!
//! What a consumer says is a [`Claim`]; the writer makes it durable, in the batch of whatever waits beside it. How long
//! the log is kept for a consumer's sake is decided in `holds.rs`.

use std::sync::Arc;
use std::time::Duration;

use dbstreamd_model::{ConsumerName, Epoch, Offset, StreamId, Timestamp};
use tokio::sync::oneshot;

use crate::error::LogError;
use crate::holds::{ConsumerState, HoldChange, Known};
use crate::log::{Log, Watermarks};
use crate::store::Committed;
use crate::stream::Stream;
use crate::writer::{Command, CommitCommand, Durable};

/// A consumer and what it committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerRecord {
    /// Whose events it reads.
    pub stream: StreamId,
    /// Its name.
    pub name: ConsumerName,
    /// It has everything up to here.
    pub committed: Offset,
    /// When it said so.
    pub committed_at: Timestamp,
    /// The epoch it goes on in: that of what it has committed, or the later one it has [begun](Beginning) in. None while
    /// it has had nothing.
    pub epoch: Option<Epoch>,
    /// How it stands to the log now.
    pub state: ConsumerState,
    /// Estimated bytes of the log between what it committed and the newest visible event.
    pub lag_bytes: u64,
    /// How long it has been away, at most since this process started; none while it is here.
    pub away: Option<Duration>,
}

/// A consumer is here for as long as this lives.
pub struct Attendance {
    stream: Option<Arc<Stream>>,
    consumer: ConsumerName,
}

/// What a commit below the committed offset means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewind {
    /// A mistake: refuse it.
    Refuse,
    /// The consumer wants to go back.
    Allow,
    /// A late acknowledgement: keep the higher offset.
    Ignore,
}

/// How a consumer begins that has not acknowledged anything there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// It has had nothing yet, of any epoch: there is nothing that a new epoch could make wrong.
    Blank,
    /// It says that what it has agrees with the source up to there: it goes on in the epoch of what comes next.
    Knowing,
}

/// What a consumer says of an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It has everything up to there.
    Has(Rewind),
    /// It begins behind it.
    Begins(Beginning),
}

impl Log {
    /// Stores that a consumer has everything up to `offset`.
    ///
    /// # Errors
    /// When the offset is not visible, is below the committed one and `rewind` refuses that, or the log does not
    /// write any more.
    pub async fn commit_offset(
        &self,
        stream: StreamId,
        consumer: &ConsumerName,
        offset: Offset,
        rewind: Rewind,
    ) -> Result<Durable<Offset>, LogError> {
        self.claim(stream, consumer, offset, Claim::Has(rewind)).await
    }

    /// Stores that a consumer begins behind `offset`, without having acknowledged it. It moves a known one forward only, and
    /// a known one that is [`Beginning::Blank`] not at all.
    ///
    /// # Errors
    /// When the offset is not visible, or the log does not write any more.
    pub async fn begin_consumer(
        &self,
        stream: StreamId,
        consumer: &ConsumerName,
        offset: Offset,
        beginning: Beginning,
    ) -> Result<Durable<Offset>, LogError> {
        self.claim(stream, consumer, offset, Claim::Begins(beginning)).await
    }

    async fn claim(
        &self,
        stream: StreamId,
        consumer: &ConsumerName,
        offset: Offset,
        claim: Claim,
    ) -> Result<Durable<Offset>, LogError> {
        let stream = self.shared.stream(stream)?;
        // Leaves with the command, not with the caller: one who gives up waiting does not make room for another.
        let permit = Arc::clone(&self.shared.commits).acquire_owned().await.map_err(|_| LogError::Closed)?;
        let (reply, answer) = oneshot::channel();
        let command = CommitCommand { stream, consumer: consumer.clone(), offset, claim, reply, permit };
        self.shared.send(Command::Commit(Box::new(command)))?;
        self.shared.answer(answer).await
    }

    /// Forgets a consumer, durably; what it had committed, or none when there was no such consumer.
    ///
    /// # Errors
    /// When there is no such stream, or the log does not write any more.
    pub async fn forget_consumer(&self, stream: StreamId, consumer: &ConsumerName) -> Result<Option<Offset>, LogError> {
        let stream = self.shared.stream(stream)?;
        let (reply, answer) = oneshot::channel();
        self.shared.send(Command::Forget { stream, consumer: consumer.clone(), reply })?;
        self.shared.answer(answer).await
    }

    /// All consumers, or those of one stream.
    pub fn consumers(&self, stream: Option<StreamId>) -> Vec<ConsumerRecord> {
        let streams = self.shared.all_streams();
        let wanted = streams.iter().filter(|s| stream.is_none_or(|id| s.id == id));
        wanted
            .flat_map(|stream| {
                let consumers = stream.consumers.read();
                consumers.iter().map(|(name, known)| self.record(stream, name, known)).collect::<Vec<_>>()
            })
            .collect()
    }

    /// One consumer, if it ever committed.
    pub fn consumer(&self, stream: StreamId, name: &ConsumerName) -> Option<ConsumerRecord> {
        let stream = self.shared.stream(stream).ok()?;
        let consumers = stream.consumers.read();
        consumers.get(name).map(|known| self.record(&stream, name, known))
    }

    fn record(&self, stream: &Stream, name: &ConsumerName, known: &Known) -> ConsumerRecord {
        let standing = stream.standing(known, self.shared.space_low());
        ConsumerRecord {
            stream: stream.id,
            name: name.clone(),
            committed: known.committed.offset,
            committed_at: known.committed.at,
            epoch: known.committed.epoch,
            state: standing.state(&self.shared.tunables.holds()),
            lag_bytes: standing.lag_bytes,
            away: known.away(),
        }
    }

    /// Notes that a consumer is here, until what is returned is dropped. One that has never committed is nobody yet.
    pub fn attend(&self, stream: StreamId, consumer: &ConsumerName) -> Attendance {
        let stream = self.shared.stream(stream).ok();
        let known = stream.filter(|stream| match stream.consumers.write().get_mut(consumer) {
            Some(known) => {
                known.arrive();
                true
            }
            None => false,
        });
        Attendance { stream: known, consumer: consumer.clone() }
    }

    /// Looks at all consumers; who went from one state to another since the last time. To be called now and then: it is
    /// for telling people, retention looks for itself.
    pub fn review_consumers(&self) -> Vec<HoldChange> {
        let space_low = self.shared.space_low();
        let mut changes = Vec::new();
        for stream in self.shared.all_streams() {
            for (name, known) in stream.consumers.write().iter_mut() {
                let standing = stream.standing(known, space_low);
                let state = standing.state(&self.shared.tunables.holds());
                let before = std::mem::replace(&mut known.reviewed, state);
                if before != state {
                    changes.push(HoldChange {
                        stream: stream.id,
                        consumer: name.clone(),
                        from: before,
                        to: state,
                        committed: standing.committed,
                        lag_bytes: standing.lag_bytes,
                    });
                }
            }
        }
        changes
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream
            && let Some(known) = stream.consumers.write().get_mut(&self.consumer)
        {
            known.leave();
        }
    }
}

/// What a consumer's claim comes to: what it is taken to have, and the epoch it goes on in.
pub(crate) fn judge(
    known: Option<Committed>,
    wanted: Offset,
    claim: Claim,
    marks: &Watermarks,
    epoch_of: impl FnOnce(Offset) -> Epoch,
) -> Result<(Offset, Option<Epoch>), LogError> {
    let &Watermarks { visible, trim_point, .. } = marks;
    if wanted > visible {
        return Err(LogError::CommitPastEnd { requested: wanted, visible });
    }
    let offset = match (known, claim) {
        // A late acknowledgement tells the truth, whatever became of the events meanwhile.
        (_, Claim::Has(Rewind::Refuse | Rewind::Allow)) if wanted < trim_point => {
            return Err(LogError::CommitTrimmed { requested: wanted, trim_point });
        }
        (Some(known), Claim::Has(Rewind::Refuse)) if wanted < known.offset => {
            return Err(LogError::CommitRewinds { requested: wanted, committed: known.offset });
        }
        (Some(known), Claim::Has(Rewind::Ignore) | Claim::Begins(Beginning::Knowing)) => wanted.max(known.offset),
        (Some(known), Claim::Begins(Beginning::Blank)) => known.offset,
        _ => wanted,
    };
    let epoch = match claim {
        Claim::Has(_) => (offset > Offset::NONE).then(|| epoch_of(offset)),
        Claim::Begins(Beginning::Knowing) if offset == wanted => Some(epoch_of(offset.next())),
        Claim::Begins(_) => None,
    };
    // Who does not move has not left the epoch it began in.
    let before = known.filter(|known| known.offset == offset).and_then(|known| known.epoch);
    Ok((offset, epoch.max(before)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StreamState;
    use crate::writer::Published;

    #[test]
    fn a_commit_goes_forward_up_to_the_visible_end_and_back_only_when_meant() {
        let mut marks = Published::restored(&StreamState::NEW, Offset(2)).watermarks();
        marks.visible = Offset(10);
        let judge = |known: Option<Offset>, wanted, rewind| {
            let known = known.map(|offset| Committed { offset, at: Timestamp(0), epoch: Some(Epoch::FIRST) });
            let comes_to = judge(known, Offset(wanted), Claim::Has(rewind), &marks, |_| Epoch::FIRST);
            comes_to.ok().map(|(offset, _)| offset.0)
        };
        for rewind in [Rewind::Refuse, Rewind::Allow, Rewind::Ignore] {
            assert_eq!(judge(None, 10, rewind), Some(10));
            assert_eq!(judge(Some(Offset(3)), 7, rewind), Some(7));
            assert_eq!(judge(Some(Offset(3)), 11, rewind), None);
        }
        assert_eq!(judge(Some(Offset(7)), 3, Rewind::Refuse), None);
        assert_eq!(judge(Some(Offset(7)), 3, Rewind::Allow), Some(3));
        assert_eq!(judge(Some(Offset(7)), 3, Rewind::Ignore), Some(7));
        assert_eq!(judge(Some(Offset(7)), 2, Rewind::Allow), Some(2), "the next one is still there");
        assert_eq!(judge(Some(Offset(7)), 1, Rewind::Allow), None, "the next one is gone");
        assert_eq!(judge(Some(Offset(0)), 1, Rewind::Refuse), None);
        assert_eq!(judge(Some(Offset(0)), 1, Rewind::Ignore), Some(1));
    }

    #[test]
    fn a_consumer_goes_on_in_the_epoch_of_what_it_has_or_in_the_one_it_began_in() {
        let mut marks = Published::restored(&StreamState::NEW, Offset::NONE).watermarks();
        marks.visible = Offset(5);
        // Three events of the first epoch, then a second one.
        let epoch_of = |offset: Offset| if offset < Offset(4) { Epoch(1) } else { Epoch(2) };
        let at = |offset, epoch: Option<u32>| {
            Some(Committed { offset: Offset(offset), at: Timestamp(0), epoch: epoch.map(Epoch) })
        };
        let judge = |known, wanted, claim| {
            let (offset, epoch) = judge(known, Offset(wanted), claim, &marks, epoch_of).unwrap();
            (offset.0, epoch.map(|epoch| epoch.0))
        };
        let (late, back) = (Claim::Has(Rewind::Ignore), Claim::Has(Rewind::Allow));
        let (blank, knowing) = (Claim::Begins(Beginning::Blank), Claim::Begins(Beginning::Knowing));
        assert_eq!(judge(None, 3, blank), (3, None));
        assert_eq!(judge(None, 3, knowing), (3, Some(2)), "in that of what comes next");
        assert_eq!(judge(None, 2, knowing), (2, Some(1)));
        assert_eq!(judge(None, 3, late), (3, Some(1)));
        assert_eq!(judge(at(3, None), 3, blank), (3, None));
        assert_eq!(judge(at(2, Some(1)), 3, blank), (2, Some(1)), "who is known is not made blank");
        assert_eq!(judge(at(3, Some(1)), 3, knowing), (3, Some(2)));
        assert_eq!(judge(at(3, Some(1)), 5, knowing), (5, Some(2)));
        assert_eq!(judge(at(5, Some(2)), 1, knowing), (5, Some(2)), "somebody was quicker");
        assert_eq!(judge(at(3, Some(2)), 2, late), (3, Some(2)), "what comes late takes nothing back");
        assert_eq!(judge(at(3, Some(2)), 4, late), (4, Some(2)));
        assert_eq!(judge(at(3, None), 4, late), (4, Some(2)));
        assert_eq!(judge(at(5, Some(2)), 3, back), (3, Some(1)));
        assert_eq!(judge(at(5, Some(2)), 0, back), (0, None), "it begins anew");
    }
}
