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
    encode(chunk, &chunk.key(), &mut Scratch::default()).unwrap().to_vec()
}

/// As if somebody had written these bytes on purpose.
fn make_checksum_right(key: &ChunkKey, value: &mut [u8]) {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&value[..4]);
    crc.update(&key.to_bytes());
    crc.update(&value[8..]);
    value[4..8].copy_from_slice(&crc.finalize().to_le_bytes());
}

/// Everything that a reader or a search can see of a chunk.
fn seen(chunk: &Chunk) -> impl PartialEq + std::fmt::Debug + use<> {
    let events: Vec<_> = chunk.events(0..chunk.len()).map(|event| format!("{event:?}")).collect();
    (events, chunk.units.clone(), chunk.lsn_end, chunk.commit_time_max, chunk.first_offset)
}

/// Units of rows as PostgreSQL sends them, enough of them for columns; of each table with as many columns as it has.
fn units_of_rows() -> impl Strategy<Value = Vec<RandomUnit>> {
    let cell = prop_oneof![
        Just(b"n".to_vec()),
        Just(b"u".to_vec()),
        (0..40_u8, any::<u8>(), prop_oneof![Just(b't'), Just(b'b')])
            .prop_map(|(length, byte, state)| { [&[state, 0, 0, 0, length][..], &vec![byte; length.into()]].concat() }),
        (100..200_u8, "[a-z]").prop_map(|(length, letter)| {
            [&[b't', 0, 0, 0, length][..], letter.repeat(length.into()).as_bytes()].concat()
        }),
    ];
    let event = (1..=3_u8, prop_oneof![Just(vec![b'N']), Just(b"KN".to_vec()), Just(b"ON".to_vec())]).prop_flat_map(
        move |(schema, markers)| {
            let columns = [1_u8, 4, 9][usize::from(schema) - 1];
            let row = proptest::collection::vec(cell.clone(), usize::from(columns));
            proptest::collection::vec(row, markers.len()).prop_map(move |rows| {
                let mut body = Vec::new();
                for (marker, cells) in markers.iter().zip(rows) {
                    body.extend([*marker, 0, columns]);
                    body.extend(cells.concat());
                }
                (if markers.len() == 1 { 1 } else { 2 }, schema, body)
            })
        },
    );
    let message = Just((Op::Message as u8, 0, b"\x01audit\0\0\0\0\x02hi".to_vec()));
    let event = prop_oneof![9 => event, 1 => message];
    proptest::collection::vec(
        (proptest::collection::vec(event, 20..60), any::<u32>(), -5000..5000_i64, any::<u64>()),
        2..4,
    )
}

/// Either.
fn any_units() -> impl Strategy<Value = Vec<RandomUnit>> {
    prop_oneof![random_units(), units_of_rows()]
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
    fn a_chunk_of_whole_units_comes_back_as_it_was(units in any_units()) {
        let chunk = chunk_of(&units, 0, true);
        let back = decode(&chunk.key(), &encoded(&chunk), &registry()).unwrap();
        prop_assert_eq!(seen(&back), seen(&chunk));
        prop_assert_eq!(chunk.events(0..usize::MAX).filter(|event| event.last_in_unit).count(), units.len());
    }

    #[test]
    fn a_fragment_comes_back_as_it_was(units in any_units(), ordinal in 1..u32::MAX / 2, finished: bool) {
        let chunk = chunk_of(&units[..1], ordinal, finished);
        let back = decode(&chunk.key(), &encoded(&chunk), &registry()).unwrap();
        prop_assert_eq!(seen(&back), seen(&chunk));
        prop_assert_eq!(back.event(0).unwrap().ordinal, ordinal);
        prop_assert_eq!(back.event(back.len() - 1).unwrap().last_in_unit, finished);
    }

    #[test]
    fn any_slice_of_events_reads_as_the_whole_does(units in any_units(), a: prop::sample::Index, b: prop::sample::Index) {
        let chunk = chunk_of(&units, 0, true);
        let (a, b) = (a.index(chunk.len()), b.index(chunk.len() + 1));
        let all: Vec<_> = chunk.events(0..chunk.len()).map(|event| format!("{event:?}")).collect();
        let slice: Vec<_> = chunk.events(a..b).map(|event| format!("{event:?}")).collect();
        prop_assert_eq!(slice.as_slice(), all.get(a..b).unwrap_or_default());
        prop_assert_eq!(chunk.event(a).map(|event| format!("{event:?}")), Some(all[a].clone()));
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_detected(units in any_units(), place: prop::sample::Index, bit in 0..8_u8) {
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
        units in any_units(), place: prop::sample::Index, byte: u8
    ) {
        let chunk = chunk_of(&units, 0, true);
        let mut value = encoded(&chunk);
        let place = 8 + place.index(value.len() - 8);
        value[place] = byte;
        make_checksum_right(&chunk.key(), &mut value);
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

/// Which of its versions a chunk is stored in.
fn version(chunk: &Chunk) -> u8 {
    encoded(chunk)[2]
}

fn rows_of(schema: u8, columns: u8, count: u16) -> RandomUnit {
    let row = |n: u16| {
        let letter = b'a' + n.to_be_bytes()[1] % 26;
        let cells = (0..columns).flat_map(|column| [b"t\0\0\0\x02".as_slice(), &[letter, column]].concat());
        [b'N', 0, columns].into_iter().chain(cells).collect()
    };
    ((0..count).map(|n| (1, schema, row(n))).collect(), 7, 1, 1)
}

#[test]
fn enough_rows_are_put_into_columns_and_take_less_room() {
    assert_eq!(version(&chunk_of(&[rows_of(1, 5, 50)], 0, true)), 1, "too few");
    let rows = chunk_of(&[rows_of(1, 5, 400), rows_of(2, 3, 400)], 0, true);
    assert_eq!(version(&rows), 2);
    assert!(encoded(&rows).len() < rows.body_bytes() / 20, "{} of {}", encoded(&rows).len(), rows.body_bytes());
    assert_eq!(version(&chunk_of(&[rows_of(1, 200, 1000)], 0, true)), 1, "more than anybody should hold twice");
}

#[test]
fn columns_of_hexadecimal_digits_are_packed_and_any_damage_is_detected() {
    let chunk = golden_packed();
    let (key, value) = (chunk.key(), encoded(&chunk));
    assert_eq!(value[2], 3);
    // Sixteen new bytes a row, an index and five bytes of lengths.
    assert!(value.len() < 100 * 36, "{}", value.len());
    for place in 0..value.len() {
        let mut flipped = value.clone();
        flipped[place] ^= 1 << (place % 8);
        assert!(decode(&key, &flipped, &registry()).is_err(), "byte {place}");
        // The same under a right checksum: an error or a chunk.
        if place >= 8 {
            make_checksum_right(&key, &mut flipped);
            if let Ok(back) = decode(&key, &flipped, &registry()) {
                back.events(0..back.len()).for_each(|event| drop(format!("{event:?}")));
            }
        }
    }
}

#[test]
fn bodies_that_are_not_what_they_say_or_too_wide_are_stored_as_they_are() {
    let cut = (vec![(1, 1, b"N\0\x01t\0\0\0\x02x".to_vec())], 7, 1, 1);
    let other_marker = (vec![(1, 1, b"X\0\x01n".to_vec())], 7, 1, 1);
    let wide = (vec![(1, 2, [b"N\x13\x88".as_slice(), &[b'n'; 5000]].concat())], 7, 1, 1);
    // The last one is as if rows of a schema could have another number of columns.
    for odd in [cut, other_marker, wide, rows_of(1, 4, 1)] {
        let chunk = chunk_of(&[rows_of(1, 5, 400), odd], 0, true);
        assert_eq!(version(&chunk), 1);
        assert_eq!(seen(&decode(&chunk.key(), &encoded(&chunk), &registry()).unwrap()), seen(&chunk));
    }
}

#[test]
fn nulls_and_empty_bodies_alone_make_columns_too() {
    let nulls =
        (0..4000).map(|n| (1, 1 + (n % 2) as u8, if n % 2 == 0 { b"N\0\x01n".to_vec() } else { vec![] })).collect();
    let chunk = chunk_of(&[(nulls, 7, 1, 1)], 0, true);
    assert_eq!(version(&chunk), 2);
    assert_eq!(seen(&decode(&chunk.key(), &encoded(&chunk), &registry()).unwrap()), seen(&chunk));
}

/// What the fixtures hold.
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

/// What the fixture of version 2 holds: rows of two tables, old and new ones, each kind of cell, and messages.
fn golden_columns() -> Chunk {
    let row = |marker: u8, n: u8| {
        let digits = [b'0' + n / 10 % 10, b'0' + n % 10];
        [&[marker], b"\0\x05t\0\0\0\x08order-".as_slice(), &digits, b"nub\0\0\0\x03\x01\0", &[n], b"t\0\0\0\0"].concat()
    };
    let units: Vec<RandomUnit> = (0..100)
        .map(|n| {
            let update = [row(b'O', n), row(b'N', n + 1)].concat();
            let events = vec![
                (1, 1, row(b'N', n)),
                (2, 2, update),
                (3, 1, row(b'K', n)),
                (5, 0, b"\x01audit\0\0\0\0\x02hi".to_vec()),
            ];
            (events, 700 + u32::from(n), 250, 0xABCD << (n % 32))
        })
        .collect();
    chunk_of(&units, 0, true)
}

/// What the fixture of version 3 holds: rows with a UUID, a hash of an odd number of digits, and a word.
fn golden_packed() -> Chunk {
    let text =
        |text: String| [b"t".as_slice(), &u32::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat();
    let row = |n: u64| {
        let digits = format!("{:016x}", (n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let (a, b) = digits.split_at(8);
        let uuid = format!("{a}-{}-4{}-a{}-{digits}", &b[..4], &b[5..], &a[1..4]);
        let cells = [uuid[..36].to_owned(), format!("b{digits}{digits}"), "paid".to_owned()];
        [b"N\0\x03".to_vec(), cells.map(text).concat()].concat()
    };
    let units: Vec<RandomUnit> = (0..10_u32)
        .map(|n| ((0..10).map(|m| (1, 1, row(u64::from(10 * n + m)))).collect(), 700 + n, 250, 0xABCD << n))
        .collect();
    chunk_of(&units, 0, true)
}

/// Bytes that a version wrote must be readable for ever. `UPDATE_FIXTURES=3` writes those of version 3 anew,
/// which is right only while nobody has any.
#[test]
fn golden_chunks_of_all_versions_are_readable() {
    for (version, chunk) in [(1, golden()), (2, golden_columns()), (3, golden_packed())] {
        let path = format!("{}/tests/fixtures/chunk-v{version}.bin", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE_FIXTURES").is_some_and(|of| of == version.to_string().as_str()) {
            std::fs::write(&path, encoded(&chunk)).unwrap();
        }
        let value = std::fs::read(path).unwrap();
        assert_eq!(value[2], version);
        let back = decode(&chunk.key(), &value, &registry()).unwrap();
        assert_eq!(seen(&back), seen(&chunk));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_heads_and_values_are_bodies_or_nothing_but_never_a_panic(
        heads in proptest::collection::vec(prop_oneof![3 => 0..12_u8, 1 => any::<u8>()], 0..60),
        values in proptest::collection::vec(any::<u8>(), 0..40),
        packed in proptest::collection::vec(any::<u8>(), 0..20),
        body_bytes in 0..200_usize,
    ) {
        if let Some(bodies) = columns::join(&heads, &values, &packed, body_bytes) {
            prop_assert_eq!(bodies.len(), body_bytes);
        }
    }
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
    let framer = Framer::new(2_000_000);
    let chunk = chunk_of_noise(100_000);
    let mut ahead: Vec<_> = std::iter::from_fn(|| framer.frame(&chunk)).collect();
    assert!((18..=21).contains(&ahead.len()), "{} frames of 100 kB", ahead.len());
    assert!(ahead.iter().all(|framed| framed.value() == encoded(&chunk)));
    // Once the writer has taken one there is room for another.
    ahead.pop();
    let again = framer.frame(&chunk);
    assert!(again.is_some() && framer.frame(&chunk).is_none());
    drop((ahead, again));
    assert!(framer.frame(&chunk_of_noise(1_000_000)).is_none(), "one huge event keeps everyone waiting");
}
