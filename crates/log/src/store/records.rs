//! The values of the `meta` column family. Layout in docs/format.md, "Records".
//!
//! Each is a version byte and fixed fields, big-endian. RocksDB's own checksums guard them; what does not read back
//! is an error that stops the start, never a default. Streams, consumers and partitions are here; `tables` has the
//! rest, `fields` what they are made of.

mod fields;
mod tables;

use dbstreamd_model::{Epoch, Lsn, Offset, SchemaId, Timestamp};

pub(crate) use tables::{decode_schema, decode_setting, decode_skip, encode_schema, encode_setting, encode_skip};

use self::fields::{RECORD_VERSION, encode_numbers, read, read_versions};
use crate::epochs::{EpochReason, EpochRecord};
use crate::error::LogError;

/// First byte of a stream's state since it counts schema versions.
const STATE_VERSION: u8 = 2;

/// First byte of a [`Committed`]. Version 1 had no epoch.
const COMMITTED_VERSION: u8 = 2;

/// A stream's watermarks: written in the batch of whatever moves them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamState {
    pub(crate) epoch: Epoch,
    /// The newest offset on disk, perhaps of a unit whose end is not.
    pub(crate) durable: Offset,
    pub(crate) visible: Offset,
    /// End of the newest visible unit.
    pub(crate) visible_lsn: Lsn,
    /// Commit time of the newest visible unit.
    pub(crate) visible_commit_time: Timestamp,
    /// Running maximum of all visible units' commit times.
    pub(crate) commit_time_max: Timestamp,
    pub(crate) confirmed_through: Lsn,
    /// Bytes of all chunks ever written, as stored.
    pub(crate) bytes: u64,
    /// The highest number given to a schema version; 0 in records of version 1, which did not say.
    pub(crate) schemas: SchemaId,
}

impl StreamState {
    /// Of a stream without events.
    pub(crate) const NEW: Self = Self {
        epoch: Epoch::FIRST,
        durable: Offset::NONE,
        visible: Offset::NONE,
        visible_lsn: Lsn::ZERO,
        visible_commit_time: Timestamp(i64::MIN),
        commit_time_max: Timestamp(i64::MIN),
        confirmed_through: Lsn::ZERO,
        bytes: 0,
        schemas: SchemaId(0),
    };

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![STATE_VERSION];
        out.extend_from_slice(&self.epoch.0.to_be_bytes());
        let times = [self.visible_commit_time, self.commit_time_max].map(|time| time.0.cast_unsigned());
        let [newest, max] = times;
        let numbers =
            [self.durable.0, self.visible.0, self.visible_lsn.0, newest, max, self.confirmed_through.0, self.bytes];
        numbers.iter().for_each(|number| out.extend_from_slice(&number.to_be_bytes()));
        out.extend_from_slice(&self.schemas.0.to_be_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, LogError> {
        read_versions("a stream's state", bytes, STATE_VERSION, |version, input| {
            let state = Self {
                epoch: Epoch(input.u32()?),
                durable: Offset(input.u64()?),
                visible: Offset(input.u64()?),
                visible_lsn: Lsn(input.u64()?),
                visible_commit_time: Timestamp(input.u64()?.cast_signed()),
                commit_time_max: Timestamp(input.u64()?.cast_signed()),
                confirmed_through: Lsn(input.u64()?),
                bytes: input.u64()?,
                schemas: SchemaId(if version < STATE_VERSION { 0 } else { input.u32()? }),
            };
            (state.visible <= state.durable).then_some(state)
        })
    }
}

/// What a consumer committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) offset: Offset,
    pub(crate) at: Timestamp,
    /// The epoch it goes on in: that of its offset, or a later one that it began in. None while it has had nothing.
    pub(crate) epoch: Option<Epoch>,
}

impl Committed {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![COMMITTED_VERSION];
        out.extend_from_slice(&self.offset.0.to_be_bytes());
        out.extend_from_slice(&self.at.0.to_be_bytes());
        out.extend_from_slice(&self.epoch.map_or(0, |epoch| epoch.0).to_be_bytes());
        out
    }

    /// What [`encode`](Self::encode) wrote, or what version 1 did: `epoch_of` says what that one left out.
    pub(crate) fn decode(bytes: &[u8], epoch_of: impl FnOnce(Offset) -> Epoch) -> Result<Self, LogError> {
        read_versions("a consumer's offset", bytes, COMMITTED_VERSION, |version, input| {
            let (offset, at) = (Offset(input.u64()?), Timestamp(input.u64()?.cast_signed()));
            let epoch = match version {
                RECORD_VERSION => (offset > Offset::NONE).then(|| epoch_of(offset)),
                _ => Some(Epoch(input.u32()?)).filter(|epoch| *epoch >= Epoch::FIRST),
            };
            Some(Self { offset, at, epoch })
        })
    }
}

/// A partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Partition {
    pub(crate) created_at: Timestamp,
    /// Retention has trimmed past it; what is left of it is to be removed.
    pub(crate) dropping: bool,
    /// Streams that are kept about as long as each other share partitions (`writer/partitions.rs`); 0 in logs that were
    /// written before there were classes. At most 127.
    pub(crate) class: u8,
}

impl Partition {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = encode_numbers(&[self.created_at.0.cast_unsigned()]);
        out.push(u8::from(self.dropping) | self.class << 1);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, LogError> {
        read("a partition", bytes, |input| {
            let created_at = Timestamp(input.u64()?.cast_signed());
            let flags = input.u8()?;
            Some(Self { created_at, dropping: flags & 1 == 1, class: flags >> 1 })
        })
    }
}

/// Where a stream starts in a partition, and what lay before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Offset of the stream's first event in the partition.
    pub(crate) first_offset: Offset,
    /// End of the newest unit that ended before it.
    pub(crate) lsn_before: Lsn,
    /// Running maximum of commit times before it.
    pub(crate) commit_time_before: Timestamp,
    /// Bytes of all the stream's chunks before it, as stored.
    pub(crate) bytes_before: u64,
}

impl Entry {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let time = self.commit_time_before.0.cast_unsigned();
        encode_numbers(&[self.first_offset.0, self.lsn_before.0, time, self.bytes_before])
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, LogError> {
        read("the partition directory", bytes, |input| {
            Some(Self {
                first_offset: Offset(input.u64()?),
                lsn_before: Lsn(input.u64()?),
                commit_time_before: Timestamp(input.u64()?.cast_signed()),
                bytes_before: input.u64()?,
            })
        })
    }
}

/// How far retention went in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trim {
    /// Everything up to and including this offset is gone.
    pub(crate) point: Offset,
    /// End of the newest unit that is gone.
    pub(crate) lsn: Lsn,
    /// Running maximum of the commit times of what is gone.
    pub(crate) commit_time: Timestamp,
}

impl Trim {
    /// Nothing was trimmed.
    pub(crate) const NONE: Self = Self { point: Offset::NONE, lsn: Lsn::ZERO, commit_time: Timestamp(i64::MIN) };

    pub(crate) fn encode(&self) -> Vec<u8> {
        encode_numbers(&[self.point.0, self.lsn.0, self.commit_time.0.cast_unsigned()])
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, LogError> {
        read("a trim point", bytes, |input| {
            Some(Self {
                point: Offset(input.u64()?),
                lsn: Lsn(input.u64()?),
                commit_time: Timestamp(input.u64()?.cast_signed()),
            })
        })
    }
}

/// Whose history a stream is: another one is never spliced onto it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceIdentity {
    /// The cluster: its standbys and restored copies have the same.
    pub system_id: u64,
    /// Rises at every promotion of a standby and at every point-in-time recovery; 0 when it is not to be compared.
    pub timeline: u32,
}

/// Identifies the form in which a source prints values: two readings of the same changes give the same bytes if they have
/// the same form. A hash of the session's settings; what it is a hash of is the source's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueForm(pub u64);

/// The form of a stream's newest units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredForm {
    /// Which.
    pub form: ValueForm,
    /// Units of this epoch that end at or before this were printed in some other form.
    pub since: Lsn,
}

/// Whose history a stream is, and how it is printed; the latter is unknown in logs that were written before it was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SourceRecord {
    pub(crate) identity: SourceIdentity,
    pub(crate) form: Option<StoredForm>,
}

impl SourceRecord {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = encode_numbers(&[self.identity.system_id]);
        out.extend_from_slice(&self.identity.timeline.to_be_bytes());
        if let Some(StoredForm { form, since }) = self.form {
            out.extend_from_slice(&form.0.to_be_bytes());
            out.extend_from_slice(&since.0.to_be_bytes());
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, LogError> {
        read("a stream's source", bytes, |input| {
            let identity = SourceIdentity { system_id: input.u64()?, timeline: input.u32()? };
            let form = match input.0 {
                [] => None,
                _ => Some(StoredForm { form: ValueForm(input.u64()?), since: Lsn(input.u64()?) }),
            };
            Some(Self { identity, form })
        })
    }
}

impl EpochRecord {
    /// Without its number, which is in the key.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = encode_numbers(&[
            self.first_offset.0,
            self.log_lsn.0,
            self.source_lsn.0,
            self.source.system_id,
            self.started_at.0.cast_unsigned(),
        ]);
        out.extend_from_slice(&self.source.timeline.to_be_bytes());
        out.push(self.reason.code());
        out
    }
}

/// Reads what [`EpochRecord::encode`] wrote.
pub(crate) fn decode_epoch(epoch: Epoch, bytes: &[u8]) -> Result<EpochRecord, LogError> {
    read("an epoch", bytes, |input| {
        let (first_offset, log_lsn, source_lsn) = (Offset(input.u64()?), Lsn(input.u64()?), Lsn(input.u64()?));
        let (system_id, started_at) = (input.u64()?, Timestamp(input.u64()?.cast_signed()));
        let source = SourceIdentity { system_id, timeline: input.u32()? };
        let reason = EpochReason::from_code(input.u8()?)?;
        let record = EpochRecord { epoch, first_offset, reason, log_lsn, source_lsn, source, started_at };
        (first_offset >= Offset::FIRST).then_some(record)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dbstreamd_model::{FactsOrigin, RecordedFacts, TableFacts, TableSchema};

    use super::*;
    use crate::schemas::StoredSchema;
    use crate::skips::Skip;
    use crate::tables::{Divergence, DivergenceReason, TableBinding};

    /// Comes back from its bytes, and from no cut, extension or other version of them.
    fn check<T: PartialEq + std::fmt::Debug>(value: &T, bytes: &[u8], decode: impl Fn(&[u8]) -> Result<T, LogError>) {
        assert_eq!(&decode(bytes).unwrap(), value);
        (0..bytes.len()).for_each(|cut| assert!(decode(&bytes[..cut]).is_err()));
        assert!(decode(&[bytes, &[0]].concat()).is_err());
        assert!(decode(&[&[9], &bytes[1..]].concat()).is_err());
    }

    #[test]
    fn every_record_comes_back_whole_or_not_at_all() {
        let time = Timestamp(-5);
        let state = StreamState {
            durable: Offset(9),
            visible: Offset(7),
            visible_lsn: Lsn(u64::MAX),
            visible_commit_time: time,
            confirmed_through: Lsn(3),
            bytes: 11,
            schemas: SchemaId(3),
            ..StreamState::NEW
        };
        check(&state, &state.encode(), |bytes| {
            // A version 1 of it is shorter by the count of schemas.
            if bytes.first() == Some(&RECORD_VERSION) { StreamState::decode(&[]) } else { StreamState::decode(bytes) }
        });
        let older = [&[RECORD_VERSION], &state.encode()[1..61]].concat();
        assert_eq!(StreamState::decode(&older).unwrap(), StreamState { schemas: SchemaId(0), ..state });
        let impossible = StreamState { visible: Offset(10), ..state };
        assert!(StreamState::decode(&impossible.encode()).is_err(), "visible is never above durable");
        for epoch in [None, Some(Epoch(2))] {
            let committed = Committed { offset: Offset(4), at: time, epoch };
            check(&committed, &committed.encode(), |bytes| Committed::decode(bytes, |_| Epoch(7)));
            let old = [&[RECORD_VERSION], &committed.encode()[1..17]].concat();
            let committed = Committed { epoch: Some(Epoch(7)), ..committed };
            check(&committed, &old, |bytes| Committed::decode(bytes, |_| Epoch(7)));
        }
        let partition = Partition { created_at: time, dropping: true, class: 127 };
        check(&partition, &partition.encode(), Partition::decode);
        let entry = Entry { first_offset: Offset(1), lsn_before: Lsn(2), commit_time_before: time, bytes_before: 3 };
        check(&entry, &entry.encode(), Entry::decode);
        let trim = Trim { point: Offset(1), lsn: Lsn(2), commit_time: time };
        check(&trim, &trim.encode(), Trim::decode);
        let source = SourceIdentity { system_id: u64::MAX, timeline: 3 };
        let formless = SourceRecord { identity: source, form: None };
        assert_eq!(SourceRecord::decode(&formless.encode()).unwrap(), formless);
        let formed = SourceRecord { form: Some(StoredForm { form: ValueForm(u64::MAX), since: Lsn(9) }), ..formless };
        let bytes = formed.encode();
        assert_eq!(SourceRecord::decode(&bytes).unwrap(), formed);
        // A cut where the form begins is what older versions wrote.
        let whole = [formless.encode().len(), bytes.len()];
        let cuts = (0..bytes.len()).filter(|cut| !whole.contains(cut));
        cuts.for_each(|cut| assert!(SourceRecord::decode(&bytes[..cut]).is_err()));
        assert!(SourceRecord::decode(&[bytes.as_slice(), &[0]].concat()).is_err());
        let binding = TableBinding { relation: u32::MAX, schema: SchemaId(2) };
        check(&binding, &binding.encode(), TableBinding::decode);
        for reason in DivergenceReason::ALL {
            let divergence =
                Divergence { reason, detail: "ä".into(), offset: Offset(3), lsn: Lsn(u64::MAX), noticed_at: time };
            check(&divergence, &divergence.encode(), Divergence::decode);
        }
        for reason in EpochReason::ALL {
            let epoch = EpochRecord {
                epoch: Epoch(2),
                first_offset: Offset(7),
                reason,
                log_lsn: Lsn(u64::MAX),
                source_lsn: Lsn(9),
                source,
                started_at: time,
            };
            check(&epoch, &epoch.encode(), |bytes| decode_epoch(Epoch(2), bytes));
            let none = EpochRecord { first_offset: Offset::NONE, ..epoch };
            assert!(decode_epoch(Epoch(2), &none.encode()).is_err(), "offsets start at 1");
            let unknown = [&epoch.encode()[..45], &[0]].concat();
            assert!(decode_epoch(Epoch(2), &unknown).is_err(), "a reason nobody knows");
        }
        check(&"7d".to_owned(), &encode_setting("7d"), decode_setting);
        let skip = Skip { first: Offset(3), next: Offset(9), at: time, note: "ann: broken".into() };
        check(&skip, &encode_skip(&skip), |bytes| decode_skip(Offset(3), bytes));
    }

    #[test]
    fn a_schema_comes_back_with_its_facts_or_without() {
        let schema = TableSchema {
            namespace: "shop".into(),
            table: "orders".into(),
            replica_identity: dbstreamd_model::ReplicaIdentity::Full,
            columns: vec![],
        };
        let fingerprint = schema.fingerprint();
        let table = TableFacts { primary_key: vec!["id".into()], comment: Some("\"x\"".into()), ..Default::default() };
        let facts = RecordedFacts { origin: FactsOrigin::Ddl, as_of: Lsn(7), table };
        let id = SchemaId(3);
        for facts in [None, Some(Arc::new(facts))] {
            let stored = StoredSchema { id, fingerprint, schema: Arc::new(schema.clone()), version: 0, facts };
            let bytes = encode_schema(&stored);
            assert_eq!(decode_schema(id, &bytes).unwrap(), Some(stored));
            (0..bytes.len()).for_each(|cut| assert_eq!(decode_schema(id, &bytes[..cut]).unwrap(), None));
            assert!(decode_schema(id, &[&[9], &bytes[1..]].concat()).is_err(), "of a newer version");
        }
    }
}
