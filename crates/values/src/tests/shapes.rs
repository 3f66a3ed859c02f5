//! Values of any shape, written and read back; and bytes of any kind.

use dbstreamd_model::CellRef;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::whole::{Between, Whole};
use super::{array, bounds, decoder, geometry, interval, read};
use crate::*;

const TYPES: [&str; 40] = [
    "bool",
    "int2",
    "int4",
    "int8",
    "oid",
    "xid8",
    "float4",
    "float8",
    "numeric",
    "text",
    "bytea",
    "date",
    "time",
    "timetz",
    "timestamp",
    "timestamptz",
    "interval",
    "uuid",
    "json",
    "varbit",
    "inet",
    "cidr",
    "macaddr",
    "macaddr8",
    "point",
    "line",
    "lseg",
    "box",
    "path",
    "polygon",
    "circle",
    "money",
    "pg_lsn",
    "tsvector",
    "xml",
    "_box",
    "_text",
    "numrange",
    "tstzmultirange",
    "char",
];

fn any_decoder() -> impl Strategy<Value = Decoder> {
    let leaf = prop_oneof![
        proptest::sample::select(TYPES.as_slice()).prop_map(decoder),
        Just(Decoder::Composite),
        Just(Decoder::Scalar(Scalar::Label)),
    ];
    leaf.prop_recursive(3, 8, 1, |inner| {
        let inner = inner.prop_map(Box::new);
        prop_oneof![
            (prop_oneof![Just(b','), Just(b';')], inner.clone())
                .prop_map(|(delimiter, element)| Decoder::Array { delimiter, element }),
            inner.clone().prop_map(Decoder::Range),
            inner.prop_map(Decoder::Multirange),
        ]
    })
}

fn any_text() -> impl Strategy<Value = Vec<u8>> {
    let tricky = proptest::sample::select(b"\"\\'{}()[],; NUL\x0b\xff".as_slice());
    prop_oneof![Just(b"NULL".to_vec()), vec(tricky, 0..8), vec(any::<u8>(), 0..12)]
}

fn some_value(decoder: &Decoder) -> BoxedStrategy<Whole> {
    match decoder {
        Decoder::Scalar(scalar) => scalar_value(*scalar),
        Decoder::Array { delimiter, element } => {
            let (delimiter, element) = (*delimiter, some_value(element));
            let shape = vec((1..4_u32, prop_oneof![4 => Just(1), 1 => -3..4_i32]), 0..4);
            shape
                .prop_flat_map(move |shape| {
                    let count = shape.iter().map(|&(length, _)| length as usize).product::<usize>();
                    let count = if shape.is_empty() { 0 } else { count };
                    let element = prop_oneof![4 => element.clone(), 1 => Just(Whole::Null)];
                    vec(element, count..=count).prop_map(move |elements| array(&shape, elements, delimiter))
                })
                .boxed()
        }
        Decoder::Range(subtype) => {
            let empty = Just(Between::Nothing);
            prop_oneof![1 => empty, 6 => some_range(subtype)].prop_map(Whole::Range).boxed()
        }
        Decoder::Multirange(subtype) => vec(some_range(subtype), 0..4).prop_map(Whole::Multirange).boxed(),
        Decoder::Composite => vec(option::of(any_text()), 1..5).prop_map(Whole::Composite).boxed(),
    }
}

fn some_range(subtype: &Decoder) -> impl Strategy<Value = Between> + use<> {
    let bound = option::of(some_value(subtype));
    (bound.clone(), bound, any::<(bool, bool)>()).prop_map(|(lower, upper, inclusive)| bounds(lower, upper, inclusive))
}

fn scalar_value(scalar: Scalar) -> BoxedStrategy<Whole> {
    const DAY: i64 = 86_400_000_000;
    let infinite = || prop_oneof![Just(Sign::Positive), Just(Sign::Negative)].prop_map(Value::<'static>::Infinity);
    let one = |value: Value<'static>| Whole::from(value);
    let micros = || -211_813_488_000_000_000..=9_223_371_331_199_999_999_i64;
    match scalar {
        Scalar::Boolean => any::<bool>().prop_map(Value::Boolean).prop_map(one).boxed(),
        Scalar::Int2 => any::<i16>().prop_map(|number| Value::Integer(number.into())).prop_map(one).boxed(),
        Scalar::Int4 => any::<i32>().prop_map(|number| Value::Integer(number.into())).prop_map(one).boxed(),
        Scalar::Int8 => any::<i64>().prop_map(Value::Integer).prop_map(one).boxed(),
        Scalar::Unsigned4 => any::<u32>().prop_map(|number| Value::Unsigned(number.into())).prop_map(one).boxed(),
        Scalar::Unsigned8 => any::<u64>().prop_map(Value::Unsigned).prop_map(one).boxed(),
        Scalar::Float4 => any::<f32>().prop_map(Value::Float).prop_map(one).boxed(),
        Scalar::Float8 => any::<f64>().prop_map(Value::Double).prop_map(one).boxed(),
        Scalar::Numeric => prop_oneof!["-?[0-9]{1,40}", "-?[0-9]{1,9}\\.[0-9]{1,40}", "NaN|-?Infinity"]
            .prop_map(|text| Value::Numeric(text.as_bytes().into()).into())
            .boxed(),
        Scalar::Text | Scalar::Char | Scalar::Other => {
            any_text().prop_map(|text| Value::Text(text.into()).into()).boxed()
        }
        Scalar::Bytes => "([0-9a-f]{2}){0,9}".prop_map(|hex| Value::Bytes(Octets::Hex(hex.as_bytes())).into()).boxed(),
        Scalar::Date => {
            prop_oneof![(-2_451_545..=2_145_031_948).prop_map(Value::Date), infinite()].prop_map(one).boxed()
        }
        Scalar::Time => (0..=DAY).prop_map(Value::Time).prop_map(one).boxed(),
        Scalar::TimeTz => (0..=DAY, -57_599..=57_599)
            .prop_map(|(time, utc_offset)| Value::TimeTz(TimeTz { time, utc_offset }))
            .prop_map(one)
            .boxed(),
        Scalar::Timestamp => prop_oneof![micros().prop_map(Value::Timestamp), infinite()].prop_map(one).boxed(),
        Scalar::TimestampTz => prop_oneof![micros().prop_map(Value::TimestampTz), infinite()].prop_map(one).boxed(),
        Scalar::Interval => {
            let any = (any::<i32>(), any::<i32>(), any::<i64>());
            prop_oneof![any, (-30..30, -2..2, -3..3_i64)]
                .prop_map(|(months, days, time)| interval(months, days, time))
                .prop_map(one)
                .boxed()
        }
        Scalar::Uuid => any::<[u8; 16]>().prop_map(Value::Uuid).prop_map(one).boxed(),
        Scalar::Json | Scalar::Jsonb => any_text().prop_map(|text| Value::Json(&text).into()).boxed(),
        Scalar::Xml => any_text().prop_map(|text| Value::Xml(&text).into()).boxed(),
        Scalar::Label => any_text().prop_map(|text| Value::Label(&text).into()).boxed(),
        Scalar::Bits => "[01]{0,20}".prop_map(|bits| read("varbit", &bits).unwrap().into()).boxed(),
        Scalar::Inet | Scalar::Cidr => {
            let cidr = scalar == Scalar::Cidr;
            let four = (any::<[u8; 4]>().prop_map(std::net::IpAddr::from), 0..=32_u8);
            let six = (any::<[u8; 16]>().prop_map(std::net::IpAddr::from), 0..=128_u8);
            prop_oneof![four, six]
                .prop_map(move |(address, prefix)| Value::Network(Network { address, prefix, cidr }))
                .prop_map(one)
                .boxed()
        }
        Scalar::Mac => any::<[u8; 6]>().prop_map(Value::Mac).prop_map(one).boxed(),
        Scalar::Mac8 => any::<[u8; 8]>().prop_map(Value::Mac8).prop_map(one).boxed(),
        Scalar::Geometry(kind) => {
            let (length, open) = match kind {
                GeometryKind::Point => (1..=1, false),
                GeometryKind::Line | GeometryKind::Circle => (3..=3, false),
                GeometryKind::Segment | GeometryKind::Box => (2..=2, false),
                GeometryKind::Path => (1..=5, true),
                GeometryKind::Polygon => (1..=5, false),
            };
            let each = if matches!(kind, GeometryKind::Line | GeometryKind::Circle) { 1 } else { 2 };
            (vec(vec(any::<f64>(), each..=each), length), any::<bool>())
                .prop_map(move |(points, is_open)| geometry(kind, &points.concat(), open && is_open))
                .boxed()
        }
        Scalar::Money => any::<i64>().prop_map(Value::Money).prop_map(one).boxed(),
        Scalar::Lsn => any::<u64>().prop_map(Value::Lsn).prop_map(one).boxed(),
        Scalar::TextVector => {
            let place = (1..=16_383_u16, proptest::sample::select(b"ABCD".as_slice()));
            let places = vec(place.prop_map(|(position, weight)| Position { position, weight }), 0..3);
            vec((any_text(), places), 0..4).prop_map(Whole::TextVector).boxed()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_value_of_any_shape_reads_back_as_it_was_written(
        (decoder, value) in any_decoder().prop_flat_map(|decoder| (Just(decoder.clone()), some_value(&decoder)))
    ) {
        let mut text = Vec::new();
        value.write(&mut text);
        prop_assert_eq!(Whole::read(&decoder, CellRef::Text(&text)), Ok(value), "{}", text.escape_ascii());
    }

    #[test]
    fn no_bytes_make_a_decoder_panic_and_what_it_accepts_reads_back(
        decoder in any_decoder(),
        bytes in prop_oneof![vec(any::<u8>(), 0..64), "[\\[\\](){}<>,;:\"\\\\ '0-9a-fNUL.+-]{0,40}".prop_map(String::into_bytes)],
    ) {
        let _ = decoder.decode(CellRef::Binary(&bytes));
        if let Ok(value) = Whole::read(&decoder, CellRef::Text(&bytes)) {
            let mut text = Vec::new();
            value.write(&mut text);
            let mut again = Vec::new();
            Whole::read(&decoder, CellRef::Text(&text)).unwrap().write(&mut again);
            prop_assert_eq!(text, again);
        }
    }

    #[test]
    fn a_cut_or_changed_value_never_panics(
        (decoder, value) in any_decoder().prop_flat_map(|decoder| (Just(decoder.clone()), some_value(&decoder))),
        cut in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut text = Vec::new();
        value.write(&mut text);
        if !text.is_empty() {
            let place = cut.index(text.len());
            let _ = Whole::read(&decoder, CellRef::Text(&text[..place]));
            text[place] = byte;
            let _ = Whole::read(&decoder, CellRef::Text(&text));
        }
    }
}
