//! Typed values: what a program gets instead of texts is the same value, for every type, and stops where it cannot be.

use std::collections::HashMap;

use dbstreamd::proto;
use dbstreamd::proto::subscribe_response::Response;
use dbstreamd::proto::value::Kind;
use dbstreamd::proto::{GeometryKind, Infinity, Operation, Value};
use dbstreamd_throwaway::Cluster;
use serde_json::json;

use crate::fidelity::streaming;
use crate::ordering::wait_visible;
use crate::support::grpc::block_on;
use crate::support::types::{ARRAYS, Lab, PLAIN, TypeCase};
use crate::support::{Daemon, cluster, database};

/// The rows that were inserted into each table, typed; until `count` events were read.
fn typed_rows(daemon: &Daemon, count: u64) -> HashMap<String, Vec<proto::Row>> {
    block_on(async {
        let start = proto::Start {
            stream: "shop".into(),
            from: Some(proto::StartFrom { from: Some(proto::start_from::From::Earliest(proto::Empty {})) }),
            values: proto::ValueForm::Typed.into(),
            ..proto::Start::default()
        };
        let request = proto::SubscribeRequest { request: Some(proto::subscribe_request::Request::Start(start)) };
        let requests = futures_util::StreamExt::chain(
            futures_util::stream::once(async { request }),
            futures_util::stream::pending(),
        );
        let mut client = daemon.client().await.max_decoding_message_size(proto::RESPONSE_BYTES_MAX);
        let mut responses = client.subscribe(requests).await.expect("a subscription").into_inner();
        let mut tables = HashMap::new();
        let mut rows: HashMap<String, Vec<proto::Row>> = HashMap::new();
        let mut read = 0;
        while read < count {
            match responses.message().await.expect("a response").and_then(|response| response.response) {
                Some(Response::Schema(schema)) => {
                    tables.insert(schema.fingerprint, schema.table);
                }
                Some(Response::Events(batch)) => {
                    for event in batch.events {
                        read += 1;
                        assert_eq!(event.operation(), Operation::Insert);
                        let row = event.after.expect("a row");
                        assert!(row.cells.is_empty(), "not both forms");
                        rows.entry(tables[&event.fingerprint].clone()).or_default().push(row);
                    }
                }
                _ => {}
            }
        }
        rows
    })
}

/// `comparable`: which columns have an equality at all, so that IS NOT DISTINCT FROM can be asked; json, xml, point and some
/// others have none, and their texts must do. `differs`: how a value that was made of its typed form differs from what is
/// stored; by its text too, since equality takes -0 for 0, one box for another of its area, and 1.0 for 1.00. `element`:
/// an array's element in quotes.
const FUNCTIONS: &str = r#"
    CREATE FUNCTION comparable(t text, c text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
      EXECUTE format('SELECT bool_and(a.%1$s IS NOT DISTINCT FROM b.%1$s) FROM %2$s a, %2$s b', c, t);
      RETURN true;
    EXCEPTION WHEN undefined_function THEN RETURN false; END $$;
    CREATE FUNCTION differs(t text, c text, row_id int, back text, comparable bool) RETURNS text LANGUAGE plpgsql AS $$
    DECLARE said text; BEGIN
      EXECUTE format(
        'SELECT pg_typeof(c) || '' is '' || coalesce(format(''%%s'', v), ''null'') || '' instead of '' || coalesce(format(''%%s'', c), ''null'')
           FROM (SELECT %s AS v, %s AS c FROM %s WHERE id = %s) both_of_them
           WHERE NOT (num_nulls(v) = num_nulls(c) AND format(''%%s'', v) = format(''%%s'', c) AND %s)',
        back, c, t, row_id, CASE WHEN comparable THEN 'v IS NOT DISTINCT FROM c' ELSE 'true' END) INTO said;
      RETURN left(said, 1000);
    EXCEPTION WHEN OTHERS THEN RETURN left(t || '.' || c || ' row ' || row_id || ': ' || SQLERRM || ' in ' || back, 1000); END $$;
    CREATE FUNCTION element(t text) RETURNS text LANGUAGE sql AS
      $$ SELECT '"' || replace(replace(t, '\', '\\'), '"', '\"') || '"' $$"#;

#[test]
fn a_typed_value_of_every_type_converts_back_to_what_the_server_holds() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "");
    let lab = Lab::new(&cluster, "shop");
    let daemon = Daemon::serving(&[&url]);
    let count = lab.fill();
    wait_visible(&daemon, count);
    let columns: Vec<_> = lab.cases.iter().enumerate().collect();
    let rows = typed_rows(&daemon, count);
    let cases = cases_that_convert_back(&cluster, &rows, &columns, &[(PLAIN, ""), (ARRAYS, "[]")]);
    // All cases but unchanged, binary and null.
    assert_eq!(cases.len(), 30, "{cases:?}");
}

#[test]
fn an_array_of_five_million_elements_arrives_in_typed_form() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "CREATE TABLE t (id int PRIMARY KEY, v int4[])");
    let daemon = Daemon::serving(&[&url]);
    cluster.psql("shop", "INSERT INTO t SELECT 1, array_agg(g) FROM generate_series(1, 5000000) g").unwrap();
    wait_visible(&daemon, 1);
    let taken_in = daemon.peak_rss();
    let rows = typed_rows(&daemon, 1);
    let peak = daemon.peak_rss();
    eprintln!("peak RSS {} MiB, delivered {} MiB", taken_in >> 20, peak >> 20);
    let Some(Kind::Array(array)) = &rows["t"][0].values[1].kind else { panic!("no array") };
    assert_eq!(array.dimensions, [proto::Dimension { length: 5_000_000, lower_bound: 1 }]);
    assert!((1..=5_000_000).eq(array.elements.iter().map(|element| match element.kind {
        Some(Kind::Integer(number)) => number,
        _ => 0,
    })));
}

#[test]
fn typed_values_of_a_source_in_binary_form_convert_back_where_they_have_a_case() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "");
    let lab = Lab::new(&cluster, "shop");
    lab.fill();
    // PostgreSQL itself stops at a type that has no binary form.
    let sent = "SELECT attname FROM pg_attribute JOIN pg_type t ON t.oid = atttypid
        WHERE attrelid = 'plain'::regclass AND attnum > 1 AND typsend <> 0";
    let sent = cluster.psql("shop", sent).unwrap();
    let sent: Vec<_> = sent.lines().collect();
    let columns: Vec<_> =
        lab.cases.iter().enumerate().filter(|(n, _)| sent.contains(&format!("c{n}").as_str())).collect();
    let list = format!("id, {}", columns.iter().map(|(n, _)| format!("c{n}")).collect::<Vec<_>>().join(", "));
    let forms =
        format!("CREATE TABLE forms AS SELECT {list} FROM plain WITH NO DATA; ALTER TABLE forms ADD PRIMARY KEY (id)");
    cluster.psql("shop", &forms).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let daemon = streaming(&url, dir.path(), "binary = true\ntables = [\"public.forms\"]");
    let fill = format!("INSERT INTO forms SELECT {list} FROM plain ORDER BY id; SELECT count(*) FROM forms");
    let count = cluster.psql("shop", &fill).unwrap().parse().unwrap();
    wait_visible(&daemon, count);
    let cases = cases_that_convert_back(&cluster, &typed_rows(&daemon, count), &columns, &[("forms", "")]);
    let have =
        "boolean integer unsigned float double numeric text bytes date time timetz timestamp timestamptz infinity
        interval uuid json money lsn label";
    for case in have.split_whitespace() {
        assert!(cases.contains_key(case), "no {case} in {cases:?}");
    }
}

/// Compares each value with what its typed form says, in tables whose columns are of these types with this suffix; gives
/// how many values there were of each case. Values in binary form say nothing but that.
fn cases_that_convert_back(
    cluster: &Cluster,
    rows: &HashMap<String, Vec<proto::Row>>,
    columns: &[(usize, &TypeCase)],
    tables: &[(&str, &str)],
) -> HashMap<&'static str, u32> {
    cluster.psql("shop", FUNCTIONS).unwrap();
    let mut script =
        "SET TimeZone = 'UTC'; SET lc_monetary = 'C'; SET bytea_output = 'hex'; SET extra_float_digits = 3;
        SET search_path = public;\n"
            .to_owned();
    let (mut compared, mut equal, mut cases) = (0, 0, HashMap::<&'static str, u32>::new());
    for (table, suffix) in tables {
        let calls: Vec<_> = columns.iter().map(|(n, _)| format!("comparable('{table}', 'c{n}')")).collect();
        let answer =
            cluster.psql("shop", &format!("SELECT array_to_string(ARRAY[{}], ' ')", calls.join(", "))).unwrap();
        let comparable: Vec<bool> = answer.split(' ').map(|word| word == "t").collect();
        for (id, row) in rows[*table].iter().enumerate() {
            assert_eq!(row.values.len(), columns.len() + 1);
            assert_eq!(row.values[0].kind, Some(Kind::Integer(id.try_into().unwrap())));
            for (((n, case), value), comparable) in columns.iter().zip(&row.values[1..]).zip(&comparable) {
                if let Some(Kind::Binary(_)) = value.kind {
                    continue;
                }
                let in_column = if suffix.is_empty() || case.has_array() { case.sql } else { "int4" };
                let back = expression(value, &format!("{in_column}{suffix}"));
                script += &format!(
                    "SELECT d FROM differs('{table}', 'c{n}', {id}, $back${back}$back$, {comparable}) d WHERE d IS NOT NULL;\n"
                );
                if value.kind.is_some() {
                    compared += 1;
                    equal += u32::from(*comparable);
                    *cases.entry(name_of(value)).or_default() += 1;
                }
            }
        }
    }
    assert_eq!(cluster.psql("shop", &script).unwrap(), "");
    eprintln!("{compared} values compared, {equal} of them by IS NOT DISTINCT FROM too; by case: {cases:?}");
    assert!(equal * 2 > compared, "most types have an equality");
    cases
}

fn name_of(value: &Value) -> &'static str {
    match value.kind.as_ref().unwrap() {
        Kind::Unchanged(_) => "unchanged",
        Kind::Boolean(_) => "boolean",
        Kind::Integer(_) => "integer",
        Kind::Unsigned(_) => "unsigned",
        Kind::Float(_) => "float",
        Kind::Double(_) => "double",
        Kind::Numeric(_) => "numeric",
        Kind::Text(_) => "text",
        Kind::Bytes(_) => "bytes",
        Kind::Date(_) => "date",
        Kind::Time(_) => "time",
        Kind::Timetz(_) => "timetz",
        Kind::Timestamp(_) => "timestamp",
        Kind::Timestamptz(_) => "timestamptz",
        Kind::Infinity(_) => "infinity",
        Kind::Interval(_) => "interval",
        Kind::Uuid(_) => "uuid",
        Kind::Json(_) => "json",
        Kind::Array(_) => "array",
        Kind::Range(_) => "range",
        Kind::Multirange(_) => "multirange",
        Kind::Composite(_) => "composite",
        Kind::Label(_) => "label",
        Kind::BitString(_) => "bit_string",
        Kind::Network(_) => "network",
        Kind::MacAddress(_) => "mac_address",
        Kind::Geometry(_) => "geometry",
        Kind::Money(_) => "money",
        Kind::Lsn(_) => "lsn",
        Kind::TextVector(_) => "text_vector",
        Kind::Xml(_) => "xml",
        Kind::Binary(_) => "binary",
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(bytes: &[u8]) -> String {
    format!("convert_from(decode('{}', 'hex'), 'UTF8')", hex(bytes))
}

/// SQL that gives the value as this type, made from its parts and never from a text of our own making.
fn expression(value: &Value, sql: &str) -> String {
    let Some(kind) = &value.kind else { return format!("NULL::{sql}") };
    let made = match kind {
        Kind::Unchanged(_) | Kind::Binary(_) => panic!("not expected here: {kind:?}"),
        Kind::Boolean(value) => value.to_string(),
        Kind::Integer(number) => format!("({number})"),
        Kind::Unsigned(number) => format!("'{number}'"),
        Kind::Float(number) => format!("'{number:?}'::float4"),
        Kind::Double(number) => double(*number),
        Kind::Numeric(digits) => format!("'{digits}'::numeric"),
        // A cast of text to regclass is a look-up of its own, which takes fewer forms.
        Kind::Text(bytes) if sql == "regclass" => format!("'{}'", std::str::from_utf8(bytes).unwrap()),
        Kind::Text(bytes) | Kind::Label(bytes) | Kind::Json(bytes) | Kind::Xml(bytes) => text(bytes),
        Kind::Bytes(bytes) => format!("decode('{}', 'hex')", hex(bytes)),
        Kind::Date(days) => format!("(date '2000-01-01' + ({days}))"),
        Kind::Time(micros) => time(*micros),
        Kind::Timetz(value) => {
            let (sign, east) = (if value.utc_offset < 0 { '-' } else { '+' }, value.utc_offset.abs());
            let offset = format!("{sign}{}:{}:{}", east / 3_600, east / 60 % 60, east % 60);
            format!("({}::text || '{offset}')", time(value.time))
        }
        Kind::Timestamp(micros) => since("timestamp '2000-01-01'", *micros),
        Kind::Timestamptz(micros) => since("timestamptz '2000-01-01 00:00+00'", *micros),
        Kind::Infinity(sign) if *sign == i32::from(Infinity::Positive) => "'infinity'".to_owned(),
        Kind::Infinity(_) => "'-infinity'".to_owned(),
        Kind::Interval(value) => {
            let time = format!(
                "interval '{} hours' + {}",
                value.time / 3_600_000_000,
                microseconds(value.time % 3_600_000_000)
            );
            format!("(make_interval(months => {}, days => {}) + {time})", value.months, value.days)
        }
        Kind::Uuid(bytes) | Kind::MacAddress(bytes) => format!("'{}'", hex(bytes)),
        Kind::Array(array) => elements(array, sql),
        Kind::Range(range) => self::range(range, sql),
        Kind::Multirange(ranges) => {
            let of = match sql.trim_end_matches("[]") {
                "floatmultirange" => "floatrange".to_owned(),
                other => other.replace("multirange", "range"),
            };
            let ranges: Vec<_> = ranges.ranges.iter().map(|range| self::range(range, &of)).collect();
            format!("{sql}({})", ranges.join(", "))
        }
        Kind::Composite(fields) => {
            let attributes: &[&str] = match sql {
                "pair" | "checked_pair" => &["int4", "text"],
                "nested" => &["small_positive", "pair[]", "pair", "timestamptz", "bytea"],
                _ => &[],
            };
            let fields = attributes.iter().zip(&fields.fields).map(|(of, field)| expression(field, of));
            let row = format!("ROW({})", fields.collect::<Vec<_>>().join(", "));
            if sql == "checked_pair" { format!("{row}::pair") } else { row }
        }
        Kind::BitString(bits) => {
            let digits: String = bits.bits.iter().map(|byte| format!("{byte:08b}")).collect();
            format!("B'{}'", &digits[..bits.length as usize])
        }
        Kind::Network(network) => {
            let address = match network.address.len() {
                4 => std::net::IpAddr::from(<[u8; 4]>::try_from(network.address.as_ref()).unwrap()),
                _ => std::net::IpAddr::from(<[u8; 16]>::try_from(network.address.as_ref()).unwrap()),
            };
            format!("set_masklen('{address}'::inet, {})", network.prefix)
        }
        Kind::Geometry(geometry) => self::geometry(geometry),
        Kind::Money(hundredths) => format!("({hundredths}::numeric * 0.01)"),
        Kind::Lsn(lsn) => format!("(pg_lsn '0/0' + {lsn}::numeric)"),
        Kind::TextVector(vector) => {
            let lexeme = |lexeme: &proto::Lexeme| {
                let positions = lexeme.positions.iter().map(|place| format!("{}{}", place.position, place.weight));
                let positions: Vec<_> = positions.collect();
                let colon = if positions.is_empty() { "" } else { ":" };
                let word = format!("replace(replace({}, '\\', '\\\\'), '''', '''''')", text(&lexeme.text));
                format!("'''' || {word} || '''{colon}{} '", positions.join(","))
            };
            let lexemes: Vec<_> = vector.lexemes.iter().map(lexeme).collect();
            if lexemes.is_empty() { "''".to_owned() } else { format!("({})", lexemes.join(" || ")) }
        }
    };
    format!("{made}::{sql}")
}

fn double(number: f64) -> String {
    format!("'{number:?}'::float8")
}

fn time(micros: i64) -> String {
    let seconds = micros % 60_000_000;
    let parts = (micros / 3_600_000_000, micros / 60_000_000 % 60, seconds / 1_000_000, seconds % 1_000_000);
    format!("make_time({}, {}, {}.{:06})", parts.0, parts.1, parts.2, parts.3)
}

/// As intervals whose numbers PostgreSQL 14 takes too: 32 bits.
fn microseconds(micros: i64) -> String {
    format!("interval '{} seconds' + interval '{} microseconds'", micros / 1_000_000, micros % 1_000_000)
}

fn since(epoch: &str, micros: i64) -> String {
    let (days, rest) = (micros.div_euclid(86_400_000_000), micros.rem_euclid(86_400_000_000));
    format!("({epoch} + interval '{days} days' + {})", microseconds(rest))
}

fn range(range: &proto::Range, sql: &str) -> String {
    if range.empty {
        return format!("'empty'::{sql}");
    }
    let subtype = match sql {
        "int4range" => "int4",
        "int8range" => "int8",
        "numrange" => "numeric",
        "tsrange" => "timestamp",
        "tstzrange" => "timestamptz",
        "daterange" => "date",
        "floatrange" => "float8",
        "textrange" => "text",
        other => panic!("what is a bound of {other}?"),
    };
    let bound = |bound: &Option<Box<Value>>| expression(&bound.as_deref().cloned().unwrap_or_default(), subtype);
    let (open, close) = (if range.lower_inclusive { '[' } else { '(' }, if range.upper_inclusive { ']' } else { ')' });
    format!("{sql}({}, {}, '{open}{close}')", bound(&range.lower), bound(&range.upper))
}

/// The server writes each element's text and reads the whole.
fn elements(array: &proto::Array, sql: &str) -> String {
    let of = match sql {
        "words" => "text",
        "moods" => "mood",
        other => other.strip_suffix("[]").unwrap(),
    };
    if array.dimensions.is_empty() {
        assert!(array.elements.is_empty());
        return "'{}'".to_owned();
    }
    let lengths: Vec<usize> = array.dimensions.iter().map(|dimension| dimension.length as usize).collect();
    assert_eq!(lengths.iter().product::<usize>(), array.elements.len());
    let bounds = array.dimensions.iter().map(|dimension| {
        let lower = dimension.lower_bound;
        format!("[{lower}:{}]", i64::from(lower) + i64::from(dimension.length) - 1)
    });
    let mut pieces = vec![format!("'{}='", bounds.collect::<String>())];
    let delimiter = if of == "box" { ';' } else { ',' };
    nest(&array.elements, &lengths, delimiter, of, &mut pieces);
    format!("({})", pieces.join(" || "))
}

fn nest(elements: &[Value], lengths: &[usize], delimiter: char, of: &str, pieces: &mut Vec<String>) {
    let [length, inner @ ..] = lengths else {
        let [element] = elements else { panic!("one element at a time") };
        let text = format!("element(format('%s', {}))", expression(element, of));
        return pieces.push(if element.kind.is_none() { "'NULL'".to_owned() } else { text });
    };
    pieces.push("'{'".to_owned());
    for (n, part) in elements.chunks(elements.len() / length).enumerate() {
        if n > 0 {
            pieces.push(format!("'{delimiter}'"));
        }
        nest(part, inner, delimiter, of, pieces);
    }
    pieces.push("'}'".to_owned());
}

fn geometry(geometry: &proto::Geometry) -> String {
    let numbers = &geometry.coordinates;
    let point = |pair: &[f64]| format!("point({}, {})", double(pair[0]), double(pair[1]));
    let points: Vec<String> = numbers.chunks_exact(2).map(point).collect();
    let written: Vec<String> = numbers.chunks_exact(2).map(|pair| format!("({:?},{:?})", pair[0], pair[1])).collect();
    match geometry.kind() {
        GeometryKind::Unspecified => panic!("a geometry of no kind"),
        GeometryKind::Point => points[0].clone(),
        GeometryKind::Line => format!("'{{{:?},{:?},{:?}}}'", numbers[0], numbers[1], numbers[2]),
        GeometryKind::Segment => format!("lseg({})", points.join(", ")),
        GeometryKind::Box => format!("box({})", points.join(", ")),
        GeometryKind::Path if geometry.open => format!("'[{}]'", written.join(",")),
        GeometryKind::Path | GeometryKind::Polygon => format!("'({})'", written.join(",")),
        GeometryKind::Circle => format!("circle({}, {})", points[0], double(numbers[2])),
    }
}

#[test]
fn json_of_typed_values_has_numbers_where_every_reader_can_hold_them() {
    let cluster = cluster();
    let schema = "CREATE TYPE pair AS (a int, b text);
        CREATE TABLE t (id int PRIMARY KEY, big int8, n numeric, f float8, j jsonb, raw json, at timestamptz, d date,
            b bytea, a int8[], z int[], r int4range, p pair, e interval, m money, big2 text);
        ALTER TABLE t ALTER big2 SET STORAGE EXTERNAL";
    let url = database(&cluster, "shop", schema);
    let daemon = Daemon::serving(&[&url]);
    let work =
        "INSERT INTO t VALUES (1, 9007199254740993, 1.10, 'NaN', '{\"a\": 12345678901234567890.10}', E'[1.0,\\n2]',
            '2024-02-29 12:00:00.5+00', '0044-03-15 BC', '\\x00ff', '{1,NULL}', '[0:1]={1,2}', '[1,5)', ROW(1, NULL),
            '1 year -2 days 00:00:00.5', -5, repeat('x', 100000));
        UPDATE t SET big = 2";
    cluster.psql("shop", work).unwrap();
    wait_visible(&daemon, 2);
    let args = ["shop", "--from", "earliest", "--until-caught-up", "--values", "typed"];
    let events = daemon.tail(&args);
    let after = &events[0]["after"];
    assert_eq!(after["id"], json!(1));
    assert_eq!(after["big"], "9007199254740993");
    assert_eq!(after["n"], "1.10");
    assert_eq!(after["f"], "NaN");
    assert_eq!(after["at"], "2024-02-29T12:00:00.5Z");
    assert_eq!(after["d"], "0044-03-15 BC");
    assert_eq!(after["b"], json!({"base64": "AP8="}));
    assert_eq!(after["a"], json!(["1", null]));
    assert_eq!(after["z"], json!({"bounds": [[0, 1]], "elements": [1, 2]}));
    assert_eq!(after["r"], json!({"lower": 1, "lower_inclusive": true, "upper": 5, "upper_inclusive": false}));
    assert_eq!(after["p"], json!(["1", null]));
    assert_eq!(after["e"], "P1Y-2DT0.5S");
    assert_eq!(after["m"], "-5.00");
    assert_eq!(events[1]["unchanged"], json!(["big2"]));
    assert_eq!(events[1]["after"].get("big2"), None);
    // Through no parser of ours: a document's digits are its own, and each event is one line.
    let shown = daemon.ask(&[&["tail", "--format", "json"], args.as_slice()].concat());
    assert_eq!(shown.stdout.lines().count(), 2, "{}", shown.stderr);
    assert!(shown.stdout.contains(r#""j":{"a": 12345678901234567890.10},"raw":[1.0, 2],"#), "{}", shown.stdout);
    // The same over server-sent events, and for people.
    let path = "/v1/streams/shop/events?from=earliest&limit=2&values=typed";
    let (status, body) = crate::support::http::get(&daemon.http, path).unwrap();
    assert_eq!(status, 200);
    for line in shown.stdout.lines() {
        assert!(body.contains(line), "{line} is not in {body}");
    }
    let people = daemon.ask(&[&["tail"], args.as_slice()].concat());
    assert!(
        people.stdout.contains("big=9007199254740993") && people.stdout.contains("big2=(unchanged)"),
        "{}",
        people.stdout
    );
}
