//! What PostgreSQL prints, read; what it would never print, refused.

mod shapes;
mod whole;

use std::borrow::Cow;

use crate::*;
use whole::{Between, Whole};

use dbstreamd_model::{CellRef, Column, TypeDescription, TypeKind};

fn column(type_name: &str, description: Option<TypeDescription>) -> Column {
    let (name, type_name) = ("c".to_owned(), type_name.to_owned());
    Column { name, type_name, type_oid: 0, type_modifier: -1, in_identity: false, description }
}

fn decoder(type_name: &str) -> Decoder {
    Decoder::for_column(&column(type_name, None))
}

/// Reads a value, whose decoder stays for good.
fn read<'a>(type_name: &str, text: &'a str) -> Result<Value<'a>, ValueError> {
    Box::leak(Box::new(decoder(type_name))).decode(CellRef::Text(text.as_bytes()))
}

fn text(text: &str) -> Value<'_> {
    Value::Text(Cow::Borrowed(text.as_bytes()))
}

fn numeric(text: &str) -> Value<'_> {
    Value::Numeric(Cow::Borrowed(text.as_bytes()))
}

/// Reads all of it.
fn whole(type_name: &str, text: &str) -> Result<Whole, ValueError> {
    Whole::read(&decoder(type_name), CellRef::Text(text.as_bytes()))
}

fn array(dimensions: &[(u32, i32)], elements: Vec<Whole>, delimiter: u8) -> Whole {
    let dimensions = dimensions.iter().map(|&(length, lower_bound)| Dimension { length, lower_bound }).collect();
    Whole::Array { dimensions, elements, delimiter }
}

fn bounds(lower: Option<Whole>, upper: Option<Whole>, inclusive: (bool, bool)) -> Between {
    Between::Bounds { lower: lower.map(Box::new), upper: upper.map(Box::new), inclusive }
}

fn interval(months: i32, days: i32, time: i64) -> Value<'static> {
    Value::Interval(Interval { months, days, time })
}

fn geometry(kind: GeometryKind, coordinates: &[f64], open: bool) -> Whole {
    let coordinates = coordinates.iter().map(|coordinate| format!("{coordinate:e}")).collect();
    Whole::Geometry { kind, coordinates, open }
}

fn network(address: &str, prefix: u8, cidr: bool) -> Value<'static> {
    Value::Network(Network { address: address.parse().unwrap(), prefix, cidr })
}

#[test]
fn a_type_of_somebody_elses_schema_is_text_whatever_the_schema_is_called() {
    for name in ["_ext.citext", "ext._citext", "s.int4"] {
        assert_eq!(decoder(name), Decoder::Scalar(Scalar::Other), "{name}");
    }
}

#[test]
fn every_scalar_is_read_as_postgresql_prints_it_and_prints_back_the_same() {
    let cases: Vec<(&str, &str, Value<'_>)> = vec![
        ("bool", "t", Value::Boolean(true)),
        ("bool", "f", Value::Boolean(false)),
        ("int2", "-32768", Value::Integer(-32_768)),
        ("int4", "2147483647", Value::Integer(2_147_483_647)),
        ("int8", "-9223372036854775808", Value::Integer(i64::MIN)),
        ("oid", "4294967295", Value::Unsigned(4_294_967_295)),
        ("xid8", "18446744073709551615", Value::Unsigned(u64::MAX)),
        ("regclass", "pg_catalog.pg_class", text("pg_catalog.pg_class")),
        ("numeric", "-123456789012345678901234567890.1000", numeric("-123456789012345678901234567890.1000")),
        ("numeric", "NaN", numeric("NaN")),
        ("numeric", "-Infinity", numeric("-Infinity")),
        ("text", "", text("")),
        ("name", "NULL", text("NULL")),
        ("char", "\\303", text("\\303")),
        ("date", "2000-01-01", Value::Date(0)),
        ("date", "1999-12-31", Value::Date(-1)),
        ("date", "4714-11-24 BC", Value::Date(-2_451_545)),
        ("date", "0001-02-29 BC", Value::Date(-730_426)),
        ("date", "5874897-12-31", Value::Date(2_145_031_948)),
        ("date", "infinity", Value::Infinity(Sign::Positive)),
        ("time", "00:00:00", Value::Time(0)),
        ("time", "24:00:00", Value::Time(86_400_000_000)),
        ("time", "23:59:59.999999", Value::Time(86_399_999_999)),
        ("timetz", "12:00:00.5+05:30", Value::TimeTz(TimeTz { time: 43_200_500_000, utc_offset: 19_800 })),
        ("timetz", "00:00:00-15:59:59", Value::TimeTz(TimeTz { time: 0, utc_offset: -57_599 })),
        ("timestamp", "2000-01-01 00:00:01", Value::Timestamp(1_000_000)),
        ("timestamp", "4714-11-24 00:00:00 BC", Value::Timestamp(-211_813_488_000_000_000)),
        ("timestamp", "294276-12-31 23:59:59.999999", Value::Timestamp(9_223_371_331_199_999_999)),
        ("timestamptz", "1999-12-31 23:59:59.5+00", Value::TimestampTz(-500_000)),
        ("timestamptz", "0044-03-15 12:00:00+00 BC", Value::TimestampTz(-64_464_465_600_000_000)),
        ("timestamptz", "-infinity", Value::Infinity(Sign::Negative)),
        ("interval", "00:00:00", interval(0, 0, 0)),
        ("interval", "1 year 2 mons 3 days 04:05:06.000007", interval(14, 3, 14_706_000_007)),
        ("interval", "-1 years -2 mons +3 days -04:05:06", interval(-14, 3, -14_706_000_000)),
        ("interval", "-1 days +00:00:01", interval(0, -1, 1_000_000)),
        ("interval", "-178956970 years -8 mons", interval(i32::MIN, 0, 0)),
        ("interval", "2147483647 days 2562047788:00:54.775807", interval(0, i32::MAX, i64::MAX)),
        ("interval", "-2562047788:00:54.775808", interval(0, 0, i64::MIN)),
        ("interval", "infinity", Value::Infinity(Sign::Positive)),
        ("json", "{\"a\": 1.00}", Value::Json(b"{\"a\": 1.00}")),
        ("inet", "10.0.0.1", network("10.0.0.1", 32, false)),
        ("inet", "10.0.0.1/0", network("10.0.0.1", 0, false)),
        ("cidr", "10.0.0.0/8", network("10.0.0.0", 8, true)),
        ("cidr", "::/0", network("::", 0, true)),
        ("inet", "::ffff:1.2.3.4", network("::ffff:1.2.3.4", 128, false)),
        ("macaddr", "08:00:2b:01:02:ff", Value::Mac([8, 0, 0x2b, 1, 2, 0xff])),
        ("macaddr8", "08:00:2b:ff:fe:01:02:03", Value::Mac8([8, 0, 0x2b, 0xff, 0xfe, 1, 2, 3])),
        ("money", "-$92,233,720,368,547,758.08", Value::Money(i64::MIN)),
        ("money", "$0.01", Value::Money(1)),
        ("pg_lsn", "FFFFFFFF/16B374D8", Value::Lsn(0xFFFF_FFFF_16B3_74D8)),
        ("tsquery", "'a' & 'b'", text("'a' & 'b'")),
        ("int2vector", "1 2", text("1 2")),
        ("public.hstore", r#""a"=>"1""#, text(r#""a"=>"1""#)),
    ];
    for (type_name, written, expected) in cases {
        let value = read(type_name, written).unwrap_or_else(|error| panic!("{type_name} {written}: {error}"));
        assert_eq!(value, expected, "{type_name} {written}");
        let mut out = Vec::new();
        value.to_text(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), written, "{type_name}");
    }
}

#[test]
fn every_value_of_parts_is_read_as_postgresql_prints_it_and_writes_back_the_same() {
    let integers = |numbers: &[i64]| numbers.iter().map(|&number| Value::Integer(number).into()).collect::<Vec<_>>();
    let place = |position, weight| Position { position, weight };
    let lexeme = |text: &str, positions| (text.as_bytes().to_vec(), positions);
    let cases: Vec<(&str, &str, Whole)> = vec![
        ("_int4", "{}", array(&[], vec![], b',')),
        (
            "_int4",
            "{1,NULL,-3}",
            array(&[(3, 1)], vec![Value::Integer(1).into(), Whole::Null, Value::Integer(-3).into()], b','),
        ),
        ("_int4", "[0:1][-2:-1]={{1,2},{3,4}}", array(&[(2, 0), (2, -2)], integers(&[1, 2, 3, 4]), b',')),
        ("_int2", "{{{1},{2}}}", array(&[(1, 1), (2, 1), (1, 1)], integers(&[1, 2]), b',')),
        (
            "_text",
            r#"{"",NULL,"NULL","a,b","c\"d\\e"," ",x}"#,
            array(
                &[(7, 1)],
                vec![
                    text("").into(),
                    Whole::Null,
                    text("NULL").into(),
                    text("a,b").into(),
                    text(r#"c"d\e"#).into(),
                    text(" ").into(),
                    text("x").into(),
                ],
                b',',
            ),
        ),
        (
            "_int4range",
            r#"{"[1,2)",empty}"#,
            array(
                &[(2, 1)],
                vec![
                    Whole::Range(bounds(Some(Value::Integer(1).into()), Some(Value::Integer(2).into()), (true, false))),
                    Whole::Range(Between::Nothing),
                ],
                b',',
            ),
        ),
        ("int8range", "(,)", Whole::Range(bounds(None, None, (false, false)))),
        (
            "numrange",
            "(1.50,2.0]",
            Whole::Range(bounds(Some(numeric("1.50").into()), Some(numeric("2.0").into()), (false, true))),
        ),
        (
            "tsrange",
            "[\"2000-01-01 00:00:00\",infinity)",
            Whole::Range(bounds(
                Some(Value::Timestamp(0).into()),
                Some(Value::Infinity(Sign::Positive).into()),
                (true, false),
            )),
        ),
        ("int4multirange", "{}", Whole::Multirange(vec![])),
        (
            "datemultirange",
            "{[2000-01-01,2000-01-03),[2000-01-05,)}",
            Whole::Multirange(vec![
                bounds(Some(Value::Date(0).into()), Some(Value::Date(2).into()), (true, false)),
                bounds(Some(Value::Date(4).into()), None, (true, false)),
            ]),
        ),
        ("tsvector", "", Whole::TextVector(vec![])),
        (
            "tsvector",
            r"'a''b':1A,16383 'c\\d'",
            Whole::TextVector(vec![lexeme("a'b", vec![place(1, b'A'), place(16_383, b'D')]), lexeme(r"c\d", vec![])]),
        ),
    ];
    for (type_name, written, expected) in cases {
        let value = whole(type_name, written).unwrap_or_else(|error| panic!("{type_name} {written}: {error}"));
        assert_eq!(value, expected, "{type_name} {written}");
        let mut out = Vec::new();
        value.write(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), written, "{type_name}");
    }
}

#[test]
fn floats_and_geometry_keep_every_bit() {
    for (written, expected) in
        [("-0", -0.0), ("5e-324", 5e-324), ("1.7976931348623157e+308", f64::MAX), ("0.30000000000000004", 0.1 + 0.2)]
    {
        let Ok(Value::Double(value)) = read("float8", written) else { panic!("{written}") };
        assert_eq!(value.to_bits(), expected.to_bits());
    }
    assert!(matches!(read("float4", "NaN"), Ok(Value::Float(value)) if value.is_nan()));
    assert_eq!(read("float4", "3.4028235e+38"), Ok(Value::Float(f32::MAX)));
    assert_eq!(read("float4", "-Infinity"), Ok(Value::Float(f32::NEG_INFINITY)));
    let cases = [
        ("point", "(1,-2.5)", geometry(GeometryKind::Point, &[1.0, -2.5], false)),
        ("line", "{1,-1,0}", geometry(GeometryKind::Line, &[1.0, -1.0, 0.0], false)),
        ("lseg", "[(1,2),(3,4)]", geometry(GeometryKind::Segment, &[1.0, 2.0, 3.0, 4.0], false)),
        ("box", "(3,4),(1,2)", geometry(GeometryKind::Box, &[3.0, 4.0, 1.0, 2.0], false)),
        ("path", "[(0,0),(Infinity,1)]", geometry(GeometryKind::Path, &[0.0, 0.0, f64::INFINITY, 1.0], true)),
        ("path", "((0,0))", geometry(GeometryKind::Path, &[0.0, 0.0], false)),
        ("polygon", "((0,0),(1,0))", geometry(GeometryKind::Polygon, &[0.0, 0.0, 1.0, 0.0], false)),
        ("circle", "<(1,2),1e+20>", geometry(GeometryKind::Circle, &[1.0, 2.0, 1e20], false)),
        (
            "_box",
            "{(3,4),(1,2);NULL}",
            array(&[(2, 1)], vec![geometry(GeometryKind::Box, &[3.0, 4.0, 1.0, 2.0], false), Whole::Null], b';'),
        ),
    ];
    for (type_name, written, expected) in cases {
        assert_eq!(whole(type_name, written), Ok(expected), "{type_name} {written}");
    }
}

#[test]
fn digits_become_bytes_only_when_asked() {
    let Ok(Value::Bytes(octets)) = read("bytea", r"\x00ffAb") else { panic!() };
    let mut bytes = Vec::new();
    octets.for_each_piece(|piece| bytes.extend_from_slice(piece));
    assert_eq!((octets.len(), bytes.as_slice()), (4 - 1, [0, 0xFF, 0xAB].as_slice()));
    let Ok(Value::Bits(bits)) = read("varbit", "1000000001") else { panic!() };
    assert_eq!((bits.len(), bits.packed().collect::<Vec<_>>()), (10, vec![0x80, 0x40]));
    let uuid = read("uuid", "00112233-4455-6677-8899-aabbccddeeff");
    assert_eq!(
        uuid,
        Ok(Value::Uuid([0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]))
    );
}

#[test]
fn what_postgresql_never_prints_is_refused_and_the_place_is_named() {
    let cases = [
        ("bool", "true", 0),
        ("int4", "2147483648", 0),
        ("int4", "", 0),
        ("int4", "12x", 2),
        ("int8", "9223372036854775808", 0),
        ("oid", "-1", 0),
        ("float8", "inf", 0),
        ("float8", ".5", 0),
        ("float8", "1e999", 0),
        ("numeric", "1.", 2),
        ("numeric", "1e5", 1),
        ("bytea", "\\x0", 3),
        ("bytea", "\\x0g", 3),
        ("bytea", "abc", 0),
        ("date", "2023-02-29", 0),
        ("date", "0000-01-01", 0),
        ("date", "5874898-01-01", 0),
        ("date", "4714-11-23 BC", 0),
        ("date", "2023-01-01 AD", 10),
        ("time", "24:00:01", 0),
        ("time", "12:60:00", 3),
        ("timestamp", "294277-01-01 00:00:00", 0),
        ("timestamptz", "2000-01-01 00:00:00", 19),
        ("interval", "1 days 1 year", 7),
        ("interval", "P1D", 0),
        ("interval", "1 week", 2),
        ("interval", "2562047788:00:54.775808", 10),
        ("uuid", "00112233-4455-6677-8899-aabbccddeef", 35),
        ("bit", "012", 2),
        ("inet", "10.0.0.1/33", 9),
        ("cidr", "10.0.0.0", 0),
        ("macaddr", "08:00:2b:01:02", 14),
        ("money", "5.00", 0),
        ("money", "$92,233,720,368,547,758.08", 0),
        ("pg_lsn", "1/123456789", 10),
        ("_int4", "{1,2", 4),
        ("_int4", "{{1},{2,3}}", 9),
        ("_int4", "{1,{2}}", 3),
        ("_int4", "{{1},2}", 5),
        ("_int4", "{1,,2}", 3),
        ("_int4", "{1}x", 3),
        ("_int4", "{}}", 2),
        ("_int4", "[0:1]={1}", 6),
        ("_int4", "{1,x}", 3),
        ("_int4", "{{{{{{{1}}}}}}}", 6),
        ("_text", "{\"a}", 4),
        ("int4range", "[1,2", 4),
        ("int4range", "[1;2)", 4),
        ("int4multirange", "{empty}", 1),
        ("int4multirange", "{[1,2)[3,4)}", 6),
        ("tsvector", "'a':0", 4),
        ("tsvector", "'a", 2),
    ];
    for (type_name, written, place) in cases {
        match whole(type_name, written) {
            Err(ValueError { at, .. }) => assert_eq!(at, place, "{type_name} {written}"),
            other => panic!("{type_name} {written}: {other:?}"),
        }
    }
    let error = read("int4", "12x").unwrap_err();
    assert_eq!(error.to_string(), "expected an int4, and byte 2 does not fit that");
}

#[test]
fn described_types_are_read_by_their_kind_and_domains_by_their_base() {
    let description = |name: &str, kind| TypeDescription { name: name.to_owned(), kind };
    let base = |name: &str| Box::new(description(name, TypeKind::Base));
    let of = |kind| Decoder::for_column(&column("shop.t", Some(description("shop.t", kind))));
    assert_eq!(of(TypeKind::Enum), Decoder::Scalar(Scalar::Label));
    assert_eq!(of(TypeKind::Unknown), Decoder::Scalar(Scalar::Other));
    assert_eq!(of(TypeKind::Base), Decoder::Scalar(Scalar::Other));
    let domain = TypeKind::Domain(Box::new(description("shop.inner", TypeKind::Domain(base("_int8")))));
    assert_eq!(of(domain), decoder("_int8"));
    let of_domains =
        TypeKind::Array { delimiter: b',', element: Box::new(description("d", TypeKind::Domain(base("_int4")))) };
    let nested = of(of_domains);
    let inner = array(&[(2, 1)], vec![Value::Integer(1).into(), Value::Integer(2).into()], b',');
    let outer = array(&[(2, 1)], vec![inner, array(&[], vec![], b',')], b',');
    assert_eq!(Whole::read(&nested, CellRef::Text(br#"{"{1,2}","{}"}"#)), Ok(outer));
    let range = of(TypeKind::Range(base("text")));
    let between = bounds(Some(text("a\"b").into()), Some(text("\\").into()), (true, true));
    assert_eq!(Whole::read(&range, CellRef::Text(br#"["a""b","\\"]"#)), Ok(Whole::Range(between)));
    let field = |text: &str| Some(text.as_bytes().to_vec());
    let row = Whole::read(&of(TypeKind::Composite), CellRef::Text(br#"(1,,"","a""b,","(x,y)")"#));
    assert_eq!(row, Ok(Whole::Composite(vec![field("1"), None, field(""), field("a\"b,"), field("(x,y)")])));
    let mut deep = TypeKind::Base;
    for _ in 0..1_000 {
        deep = TypeKind::Range(Box::new(description("deep", deep)));
    }
    // It ends in text, and neither making nor using it overflows the stack.
    assert!(Whole::read(&of(deep), CellRef::Text("[".repeat(5_000).as_bytes())).is_err());
}

#[test]
fn binary_scalars_are_read_and_everything_else_stays_binary() {
    let read = |type_name: &str, bytes: &'static [u8]| {
        let decoder: &'static Decoder = Box::leak(Box::new(decoder(type_name)));
        decoder.decode(CellRef::Binary(bytes)).unwrap()
    };
    assert_eq!(read("bool", &[1]), Value::Boolean(true));
    assert_eq!(read("int2", &[0xFF, 0xFE]), Value::Integer(-2));
    assert_eq!(read("int8", &[0, 0, 0, 0, 0, 0, 1, 0]), Value::Integer(256));
    assert_eq!(read("oid", &[0xFF; 4]), Value::Unsigned(u32::MAX.into()));
    assert_eq!(read("float8", &[0x80, 0, 0, 0, 0, 0, 0, 0]), Value::Double(-0.0));
    assert_eq!(read("date", &[0x7F, 0xFF, 0xFF, 0xFF]), Value::Infinity(Sign::Positive));
    assert_eq!(read("timestamp", &[0, 0, 0, 0, 0, 0, 0, 9]), Value::Timestamp(9));
    assert_eq!(
        read("timetz", &[0, 0, 0, 0, 0, 0, 0, 9, 0xFF, 0xFF, 0xF1, 0xF0]),
        Value::TimeTz(TimeTz { time: 9, utc_offset: 3_600 })
    );
    assert_eq!(read("interval", &[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0xFF, 0xFF, 0xFF, 0xFD]), interval(-3, 2, 1));
    assert_eq!(read("jsonb", b"\x01{}"), Value::Json(b"{}"));
    assert_eq!(read("char", &[0xC3]), text("\\303"));
    assert_eq!(read("char", &[0]), text(""));
    assert_eq!(read("_int4", &[1, 2]), Value::Binary(&[1, 2]));
    assert_eq!(read("inet", &[1, 2]), Value::Binary(&[1, 2]));
    let numerics: [(&'static [u8], &str); 7] = [
        (&[0, 0, 0, 0, 0, 0, 0, 2], "0.00"),
        (&[0, 1, 0, 0, 0x40, 0, 0, 0, 0, 5], "-5"),
        (&[0, 2, 0, 1, 0, 0, 0, 0, 0, 1, 0, 2], "10002"),
        (&[0, 1, 0, 1, 0, 0, 0, 0, 0, 12], "120000"),
        (&[0, 1, 0xFF, 0xFE, 0, 0, 0, 6, 0x04, 0xD2], "0.000012"),
        (&[0, 2, 0, 0, 0, 0, 0, 1, 0, 1, 0x13, 0x88], "1.5"),
        (&[0, 0, 0, 0, 0xC0, 0, 0, 0], "NaN"),
    ];
    for (bytes, written) in numerics {
        assert_eq!(read("numeric", bytes), numeric(written));
    }
    for type_name in ["int4", "uuid", "numeric", "timetz", "interval", "jsonb", "bool", "char"] {
        assert!(decoder(type_name).decode(CellRef::Binary(b"")).is_err(), "{type_name}");
    }
}
