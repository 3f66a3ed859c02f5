//! A chunk as bytes: what goes in comes out, and whatever is changed on the way is noticed.

use std::sync::{Arc, OnceLock};

use dbstreamd_model::{Column, Epoch, Lsn, Offset, Op, ReplicaIdentity, SchemaId, StreamId, TableSchema, Timestamp};
use proptest::prelude::*;

use super::*;
use crate::schemas::SchemaRegistry;
use crate::store::ChunkKey;

/// One unit of a random chunk: its events as (operation, schema, body), and the step to the next unit.
type RandomUnit = (Vec<(u8, u8, Vec<u8>)>, u32, i64, u64);

fn registry() -> SchemaRegistry {
    let mut registry = SchemaRegistry::default();
    for id in 1..=3 {
        let schema = TableSchema {
            namespace: "shop".into(),
            table: format!("t{id}"),
            replica_identity: ReplicaIdentity::Default,
            columns: vec![Column {
                name: "id".into(),
                type_name: "int8".into(),
                type_oid: 20,
                type_modifier: -1,
                in_identity: true,
                description: None,
            }],
        };
        let stored = StoredSchema {
            id: SchemaId(id),
            fingerprint: schema.fingerprint(),
            schema: Arc::new(schema),
            version: 1,
            facts: None,
        };
        assert!(registry.insert(stored));
    }
    registry
}

fn chunk_of(units: &[RandomUnit], first_ordinal: u32, finished: bool) -> Chunk {
    let registry = registry();
    let mut builder = Builder::default();
    let mut lsn = 0x16_B374_D848;
    let mut time = 1_700_000_000_000_000;
    for (place, (events, xid, step, hash)) in units.iter().enumerate() {
        builder.begin_unit(UnitSpan {
            commit_lsn: Lsn(lsn),
            end_lsn: Lsn::ZERO,
            commit_time: Timestamp(time),
            hash: 0,
            xid: *xid,
            first_ordinal: if place == 0 { first_ordinal } else { 0 },
            first_event: 0,
            events: 0,
            finished: false,
        });
        for (op, schema, body) in events {
            let schema = registry.get(SchemaId(u32::from(*schema)));
            builder.push(Op::from_code(*op).unwrap(), schema, body);
        }
        if finished || place + 1 < units.len() {
            builder.end_unit(Lsn(lsn + 48), *hash);
        }
        lsn += u64::from(xid % 1000) + 48;
        time += step;
    }
    let parts = builder.take_all();
    Chunk {
        stream: StreamId(7),
        epoch: Epoch(1),
        first_offset: Offset(1001),
        lsn_end: Lsn(lsn),
        commit_time_max: Timestamp(time),
        events: parts.events,
        units: parts.units,
        schemas: parts.schemas,
        body_start: 0,
        bytes: parts.bodies,
        encoded: OnceLock::new(),
        encoded_bytes: None,
        visible_at: None,
    }
}

fn encoded(chunk: &Chunk) -> Vec<u8> {
    encode(chunk, &chunk.key(), &mut CodecChoice::default(), &mut Scratch::default()).unwrap().to_vec()
}

/// Everything that a reader or a search can see of a chunk.
fn seen(chunk: &Chunk) -> impl PartialEq + std::fmt::Debug + use<> {
    let events: Vec<_> = chunk.events(0..chunk.len()).map(|event| format!("{event:?}")).collect();
    (events, chunk.units.clone(), chunk.lsn_end, chunk.commit_time_max, chunk.first_offset)
}

fn random_units() -> impl Strategy<Value = Vec<RandomUnit>> {
    let body = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        (any::<u8>(), 0..400_usize).prop_map(|(byte, length)| vec![byte; length]),
    ];
    let event = (1..=5_u8, 0..=3_u8, body);
    proptest::collection::vec(
        (proptest::collection::vec(event, 1..12), any::<u32>(), -5000..5000_i64, any::<u64>()),
        1..12,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_chunk_of_whole_units_comes_back_as_it_was(units in random_units()) {
        let chunk = chunk_of(&units, 0, true);
        let back = decode(&chunk.key(), &encoded(&chunk), &registry()).unwrap();
        prop_assert_eq!(seen(&back), seen(&chunk));
        prop_assert_eq!(chunk.events(0..usize::MAX).filter(|event| event.last_in_unit).count(), units.len());
    }

    #[test]
    fn a_fragment_comes_back_as_it_was(units in random_units(), ordinal in 1..u32::MAX / 2, finished: bool) {
        let chunk = chunk_of(&units[..1], ordinal, finished);
        let back = decode(&chunk.key(), &encoded(&chunk), &registry()).unwrap();
        prop_assert_eq!(seen(&back), seen(&chunk));
        prop_assert_eq!(back.event(0).unwrap().ordinal, ordinal);
        prop_assert_eq!(back.event(back.len() - 1).unwrap().last_in_unit, finished);
    }

    #[test]
    fn any_slice_of_events_reads_as_the_whole_does(units in random_units(), a: prop::sample::Index, b: prop::sample::Index) {
        let chunk = chunk_of(&units, 0, true);
        let (a, b) = (a.index(chunk.len()), b.index(chunk.len() + 1));
        let all: Vec<_> = chunk.events(0..chunk.len()).map(|event| format!("{event:?}")).collect();
        let slice: Vec<_> = chunk.events(a..b).map(|event| format!("{event:?}")).collect();
        prop_assert_eq!(slice.as_slice(), all.get(a..b).unwrap_or_default());
        prop_assert_eq!(chunk.event(a).map(|event| format!("{event:?}")), Some(all[a].clone()));
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_detected(units in random_units(), place: prop::sample::Index, bit in 0..8_u8) {
        let chunk = chunk_of(&units, 0, true);
        let mut value = encoded(&chunk);
        let place = place.index(value.len());
        prop_assert!(decode(&chunk.key(), &value[..place], &registry()).is_err());
        value[place] ^= 1 << bit;
        prop_assert!(decode(&chunk.key(), &value, &registry()).is_err());
        prop_assert!(peek(&chunk.key(), &value).is_err());
    }

    #[test]
    fn damage_under_a_right_checksum_is_an_error_or_a_chunk_but_never_a_panic(
        units in random_units(), place: prop::sample::Index, byte: u8
    ) {
        let chunk = chunk_of(&units, 0, true);
        let mut value = encoded(&chunk);
        let place = 8 + place.index(value.len() - 8);
        value[place] = byte;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&value[..4]);
        crc.update(&chunk.key().to_bytes());
        crc.update(&value[8..]);
        let crc = crc.finalize().to_le_bytes();
        value[4..8].copy_from_slice(&crc);
        if let Ok(back) = decode(&chunk.key(), &value, &registry()) {
            back.events(0..back.len()).for_each(|event| drop(format!("{event:?}")));
        }
    }
}

#[test]
fn every_flipped_bit_of_one_chunk_is_detected() {
    let chunk = golden();
    let value = encoded(&chunk);
    for place in 0..value.len() {
        for bit in 0..8 {
            let mut flipped = value.clone();
            flipped[place] ^= 1 << bit;
            assert!(decode(&chunk.key(), &flipped, &registry()).is_err(), "bit {bit} of byte {place}");
        }
    }
}

#[test]
fn a_value_under_another_key_is_not_served() {
    let chunk = golden();
    let (key, value) = (chunk.key(), encoded(&chunk));
    for other in [
        ChunkKey { stream: StreamId(8), ..key },
        ChunkKey { epoch: Epoch(2), ..key },
        ChunkKey { last_offset: key.last_offset.next(), ..key },
    ] {
        assert_eq!(decode(&other, &value, &registry()).unwrap_err(), FrameError::Checksum);
    }
}

#[test]
fn a_chunk_of_an_unknown_version_or_schema_says_so() {
    let chunk = golden();
    let mut value = encoded(&chunk);
    let missing = decode(&chunk.key(), &value, &SchemaRegistry::default());
    assert_eq!(missing.unwrap_err(), FrameError::UnknownSchema(1));
    value[2] = 9;
    assert_eq!(decode(&chunk.key(), &value, &registry()).unwrap_err(), FrameError::Version(9));
}

#[test]
fn incompressible_bodies_are_stored_as_they_are() {
    let mut state = 1_u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    });
    let body: Vec<u8> = noise.take(50_000).collect();
    let chunk = chunk_of(&[(vec![(1, 1, body.clone())], 5, 1, 6)], 0, true);
    let value = encoded(&chunk);
    assert!((body.len()..body.len() + 120).contains(&value.len()), "{} bytes", value.len());
    assert_eq!(value[3] & 3, 0, "not compressed");
    assert_eq!(seen(&decode(&chunk.key(), &value, &registry()).unwrap()), seen(&chunk));
}

#[test]
fn a_chunk_is_encoded_to_the_outside_once() {
    let chunk = golden();
    let made = |byte| EncodedRun { bytes: vec![byte].into(), ends: vec![1] };
    assert_eq!(chunk.encoded(|_| made(1)).bytes, vec![1]);
    assert_eq!(chunk.encoded(|_| made(2)).bytes, vec![1]);
}

/// What the fixture holds.
fn golden() -> Chunk {
    let row = |n: u8| [b"N\0\x01t\0\0\0\x08order-".as_slice(), &[b'0' + n / 10, b'0' + n % 10]].concat();
    let units: Vec<RandomUnit> = (0..20)
        .map(|n| {
            (
                vec![(1, 1, row(n)), (2, 2, row(n)), (5, 0, b"\x01audit\0\0\0\0\x02hi".to_vec())],
                700 + u32::from(n),
                250,
                0xABCD << n,
            )
        })
        .collect();
    chunk_of(&units, 0, true)
}

/// Bytes that version 1 wrote must be readable for ever. `UPDATE_FIXTURES=1` writes them anew, which is right only
/// together with a new format version.
#[test]
fn the_golden_chunk_of_version_1_is_readable() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/chunk-v1.bin");
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        std::fs::write(path, encoded(&golden())).unwrap();
    }
    let value = std::fs::read(path).unwrap();
    let back = decode(&golden().key(), &value, &registry()).unwrap();
    assert_eq!(seen(&back), seen(&golden()));
}

/// A chunk of one event that nothing makes smaller.
fn chunk_of_noise(bytes: usize) -> Chunk {
    let mut state = 1_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    chunk_of(&[(vec![(Op::Insert as u8, 1, (0..bytes).map(|_| noise()).collect())], 7, 1, 1)], 0, true)
}

#[test]
fn what_is_made_ahead_of_the_writer_is_what_the_writer_would_make_and_is_bounded() {
    let (framer, mut choice) = (Framer::new(2_000_000), CodecChoice::default());
    let chunk = chunk_of_noise(100_000);
    let mut ahead: Vec<_> = std::iter::from_fn(|| framer.frame(&chunk, &mut choice)).collect();
    assert!((18..=21).contains(&ahead.len()), "{} frames of 100 kB", ahead.len());
    assert!(ahead.iter().all(|framed| framed.value() == encoded(&chunk)));
    // Once the writer has taken one there is room for another.
    ahead.pop();
    let again = framer.frame(&chunk, &mut choice);
    assert!(again.is_some() && framer.frame(&chunk, &mut choice).is_none());
    drop((ahead, again));
    assert!(framer.frame(&chunk_of_noise(1_000_000), &mut choice).is_none(), "one huge event keeps everyone waiting");
}
