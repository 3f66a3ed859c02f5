//! The table of docs/types.md, line by line.

use bytes::Bytes;

use super::*;

fn json_of(kind: Kind) -> String {
    json_in("", kind)
}

fn json_in(type_name: &str, kind: Kind) -> String {
    let column = proto::Column { type_name: type_name.to_owned(), ..proto::Column::default() };
    let mut out = Vec::new();
    put_value(&mut out, &Value { kind: Some(kind) }, wide(&column));
    String::from_utf8(out).unwrap()
}

fn integer(number: i64) -> Value {
    Value { kind: Some(Kind::Integer(number)) }
}

#[test]
fn the_type_and_not_the_value_decides_whether_an_integer_is_a_number() {
    assert_eq!(json_in("int4", Kind::Integer(-7)), "-7");
    assert_eq!(json_in("int8", Kind::Integer(7)), r#""7""#);
    assert_eq!(json_in("oid", Kind::Unsigned(u32::MAX.into())), "4294967295");
    assert_eq!(json_in("xid8", Kind::Unsigned(u64::MAX)), r#""18446744073709551615""#);
    let array = |type_name: &str| {
        let dimensions = vec![proto::Dimension { length: 2, lower_bound: 1 }];
        json_in(type_name, Kind::Array(proto::Array { dimensions, elements: vec![integer(1), Value::default()] }))
    };
    assert_eq!((array("_int4").as_str(), array("_int8").as_str()), ("[1,null]", r#"["1",null]"#));
    // Through a domain, an array and a range: what counts is what is innermost.
    let base = |name: &str| proto::Type { name: name.to_owned(), kind: TypeKind::Base.into(), inner: None };
    let of = |kind: TypeKind, inner| proto::Type {
        name: "shop.t".to_owned(),
        kind: kind.into(),
        inner: Some(Box::new(inner)),
    };
    let column = |described| proto::Column { r#type: Some(described), ..proto::Column::default() };
    assert!(wide(&column(of(TypeKind::Array, of(TypeKind::Domain, base("_int8"))))));
    assert!(wide(&column(base("int8multirange"))));
    assert!(!wide(&column(of(TypeKind::Domain, base("int4")))));
    assert!(!wide(&column(base("shop.int8"))));
}

#[test]
fn floats_are_the_shortest_numbers_that_read_back_and_words_where_json_has_none() {
    let cases = [
        (Kind::Float(0.1), "0.1"),
        (Kind::Double(0.1), "0.1"),
        (Kind::Double(1e300), "1e+300"),
        (Kind::Double(-0.0), "-0.0"),
        (Kind::Double(f64::NAN), r#""NaN""#),
        (Kind::Float(f32::NEG_INFINITY), r#""-Infinity""#),
        (Kind::Numeric("1.10".into()), r#""1.10""#),
        (Kind::Money(-5), r#""-0.05""#),
    ];
    for (kind, expected) in cases {
        assert_eq!(json_of(kind), expected);
    }
}

#[test]
fn times_are_iso_8601_and_postgresqls_own_form_where_that_has_none() {
    let interval = |months, days, time| Kind::Interval(proto::Interval { months, days, time });
    let cases = [
        (Kind::Date(0), r#""2000-01-01""#),
        (Kind::Date(-2_451_545), r#""4714-11-24 BC""#),
        (Kind::Time(86_400_000_000), r#""24:00:00""#),
        (Kind::Timetz(proto::TimeTz { time: 1_500_000, utc_offset: 19_800 }), r#""00:00:01.5+05:30""#),
        (Kind::Timestamp(-1), r#""1999-12-31T23:59:59.999999""#),
        (Kind::Timestamptz(0), r#""2000-01-01T00:00:00Z""#),
        (Kind::Timestamptz(9_223_371_331_199_999_999), r#""294276-12-31 23:59:59.999999+00""#),
        (Kind::Timestamp(-64_464_465_600_000_000), r#""0044-03-15 12:00:00 BC""#),
        (Kind::Infinity(Infinity::Negative.into()), r#""-infinity""#),
        (interval(0, 0, 0), r#""PT0S""#),
        (interval(-14, 3, -3_661_000_001), r#""P-1Y-2M3DT-1H-1M-1.000001S""#),
        (interval(0, 0, -500_000), r#""PT-0.5S""#),
        (interval(0, 0, i64::MIN), r#""PT-2562047788H-54.775808S""#),
    ];
    for (kind, expected) in cases {
        assert_eq!(json_of(kind), expected);
    }
}

#[test]
fn documents_are_embedded_as_they_are_on_one_line() {
    let json = |text: &'static [u8]| json_of(Kind::Json(Bytes::from_static(text)));
    assert_eq!(
        json(b"{\"a\": 1.00,\r\n \"b\":[12345678901234567890]}"),
        "{\"a\": 1.00,   \"b\":[12345678901234567890]}"
    );
    assert_eq!(json(br#""\ud834""#), r#""\ud834""#);
    assert_eq!(json(b"\"\xff\""), r#"{"base64":"Iv8i"}"#);
    assert_eq!(json(b"{]"), r#"{"text":"{]"}"#);
}

#[test]
fn everything_else_is_a_list_an_object_or_a_string() {
    let dimensions = |bounds: &[(u32, i32)]| {
        bounds.iter().map(|&(length, lower_bound)| proto::Dimension { length, lower_bound }).collect::<Vec<_>>()
    };
    let four = || (1..=4).map(integer).collect::<Vec<_>>();
    let range = |lower| proto::Range { lower, upper_inclusive: true, ..proto::Range::default() };
    let geometry = |kind: GeometryKind, coordinates: &[f64]| {
        Kind::Geometry(proto::Geometry { kind: kind.into(), coordinates: coordinates.to_vec(), open: false })
    };
    let network = |address: &'static [u8], prefix, cidr| {
        Kind::Network(proto::Network { address: Bytes::from_static(address), prefix, cidr })
    };
    let position = proto::LexemePosition { position: 3, weight: String::new() };
    let lexeme = proto::Lexeme { text: Bytes::from_static(b"cat"), positions: vec![position] };
    let cases = [
        (Kind::Boolean(true), "true"),
        (Kind::Text(Bytes::from_static(b"a\"b")), r#""a\"b""#),
        (Kind::Text(Bytes::from_static(b"\xff")), r#"{"base64":"/w=="}"#),
        (Kind::Label(Bytes::from_static(b"sad")), r#""sad""#),
        (Kind::Bytes(Bytes::from_static(&[0, 0xFF])), r#"{"base64":"AP8="}"#),
        (Kind::Binary(Bytes::from_static(&[0, 1])), r#"{"binary":"AAE="}"#),
        (Kind::Uuid(Bytes::from_static(&[7; 16])), r#""07070707-0707-0707-0707-070707070707""#),
        (Kind::MacAddress(Bytes::from_static(&[8, 0, 43, 1, 2, 3])), r#""08:00:2b:01:02:03""#),
        (Kind::BitString(proto::BitString { length: 9, bits: Bytes::from_static(&[0x80, 0x80]) }), r#""100000001""#),
        (network(&[10, 0, 0, 1], 32, false), r#""10.0.0.1""#),
        (network(&[10, 0, 0, 0], 8, true), r#""10.0.0.0/8""#),
        (Kind::Lsn(0x16_B374_D848), r#""16/B374D848""#),
        (Kind::Array(proto::Array::default()), "[]"),
        (Kind::Array(proto::Array { dimensions: dimensions(&[(2, 1), (2, 1)]), elements: four() }), "[[1,2],[3,4]]"),
        (
            Kind::Array(proto::Array { dimensions: dimensions(&[(2, 0), (2, 1)]), elements: four() }),
            r#"{"bounds":[[0,1],[1,2]],"elements":[[1,2],[3,4]]}"#,
        ),
        (Kind::Range(Box::new(proto::Range { empty: true, ..Default::default() })), r#"{"empty":true}"#),
        (
            Kind::Range(Box::new(range(Some(Box::new(integer(1)))))),
            r#"{"lower":1,"lower_inclusive":false,"upper":null,"upper_inclusive":true}"#,
        ),
        (
            Kind::Multirange(proto::Multirange { ranges: vec![range(None)] }),
            r#"[{"lower":null,"lower_inclusive":false,"upper":null,"upper_inclusive":true}]"#,
        ),
        (Kind::Composite(proto::Composite { fields: vec![Value::default()] }), "[null]"),
        (geometry(GeometryKind::Point, &[1.5, 2.0]), r#"{"x":1.5,"y":2.0}"#),
        (geometry(GeometryKind::Circle, &[1.0, 2.0, f64::INFINITY]), r#"{"x":1.0,"y":2.0,"radius":"Infinity"}"#),
        (geometry(GeometryKind::Path, &[1.0, 2.0]), r#"{"points":[[1.0,2.0]],"open":false}"#),
        (
            Kind::TextVector(proto::TextVector { lexemes: vec![lexeme] }),
            r#"[{"text":"cat","positions":[{"position":3,"weight":"D"}]}]"#,
        ),
    ];
    for (kind, expected) in cases {
        let json = json_of(kind);
        assert_eq!(json, expected);
        assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok());
    }
}
