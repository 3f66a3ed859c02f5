//! Finds where to start: by position or time, in a few dozen reads of chunk headers.

use dbstreamd_model::{Lsn, Offset, Timestamp};

use super::StartAt;
use super::disk::{chunk_at, header_at};
use crate::chunk::{ChunkHeader, UnitSpan};
use crate::error::LogError;
use crate::store::{Entry, Store};
use crate::stream::Stream;

/// The first offset to deliver for `start`.
pub(crate) fn start_offset(store: &Store, stream: &Stream, start: StartAt) -> Result<Offset, LogError> {
    let marks = stream.published.watermarks();
    let layout = stream.layout.read();
    let (trim, trimmed_through) = (layout.trim, layout.trimmed_in_newest_epoch());
    drop(layout);
    match start {
        StartAt::Earliest => Ok(marks.trim_point.next()),
        StartAt::Latest => Ok(marks.visible.next()),
        StartAt::Offset(offset) => {
            let requested = offset.max(Offset::FIRST);
            if requested <= trim.point {
                return Err(LogError::OffsetTrimmed { requested, trim_point: trim.point });
            }
            let end = marks.visible.next();
            if requested > end { Err(LogError::OffsetPastEnd { requested, end }) } else { Ok(requested) }
        }
        StartAt::Lsn(lsn) if lsn < trimmed_through => Err(LogError::LsnTrimmed { requested: lsn, trimmed_through }),
        StartAt::Lsn(lsn) => first_unit_after(store, stream, lsn),
        StartAt::Time(time) if time <= trim.commit_time => Err(LogError::TimeTrimmed { requested: time }),
        StartAt::Time(time) => first_unit_at(store, stream, time),
    }
}

/// First offset of the first unit of the newest epoch that ends after `lsn`; the next offset when there is none yet.
/// LSNs are in order within an epoch only.
pub(super) fn first_unit_after(store: &Store, stream: &Stream, lsn: Lsn) -> Result<Offset, LogError> {
    let epoch_start = stream.layout.read().newest_epoch_start();
    search(
        store,
        stream,
        epoch_start,
        // What a partition says was before it counts when it begins in the epoch.
        |entry| entry.first_offset < epoch_start || entry.lsn_before <= lsn,
        |header| header.lsn_end > lsn.0,
        |unit| unit.end_lsn > lsn,
    )
}

fn first_unit_at(store: &Store, stream: &Stream, time: Timestamp) -> Result<Offset, LogError> {
    search(
        store,
        stream,
        Offset::FIRST,
        |entry| entry.commit_time_before < time,
        |header| header.commit_time_max >= time.0,
        |unit| unit.commit_time >= time,
    )
}

/// Finds the first unit from `from` on for which `unit_reaches`, given that it ends in the first chunk for which `chunk_reaches`,
/// and that this chunk is not before the start of a partition for which `starts_before`. All three are monotonic.
fn search(
    store: &Store,
    stream: &Stream,
    from: Offset,
    starts_before: impl Fn(&Entry) -> bool,
    chunk_reaches: impl Fn(&ChunkHeader) -> bool,
    unit_reaches: impl Fn(&UnitSpan) -> bool,
) -> Result<Offset, LogError> {
    let visible = stream.published.watermarks().visible;
    let end = visible.next();
    let mut low = {
        let layout = stream.layout.read();
        let partitions = layout.directory.partition_point(|(_, entry)| starts_before(entry));
        let begins = partitions.checked_sub(1).and_then(|i| layout.directory.get(i));
        begins.map_or(from, |(_, entry)| entry.first_offset.max(from)).max(layout.trim.point.next())
    };
    let mut high = end;
    // The first chunk that reaches it starts at or after `low` and before `high`, or is the one that `high` starts.
    while low < high {
        let middle = Offset(low.0 + (high.0 - low.0) / 2);
        let header = header_at(store, stream, middle, visible)?;
        if chunk_reaches(&header) {
            high = Offset(header.first_offset).max(low);
            if header.first_offset <= low.0 {
                break;
            }
        } else {
            low = header.last_offset().next();
        }
    }
    if low >= end {
        return Ok(end);
    }
    let chunk = chunk_at(store, stream, low, visible)?;
    let unit = chunk.units.iter().find(|unit| unit.finished && unit_reaches(unit));
    // The unit may have begun in earlier chunks.
    let first = unit.map(|unit| {
        Offset((chunk.first_offset.0 + u64::from(unit.first_event)).saturating_sub(u64::from(unit.first_ordinal)))
    });
    Ok(first.unwrap_or(end).max(stream.layout.read().trim.point.next()))
}
