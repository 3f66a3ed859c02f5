//! Every kind of type that PostgreSQL has, with values that something, somewhere, once got wrong.
//!
//! [`TYPES`] is the one table: whoever tests what becomes of values (their text, their typed form, their way back)
//! drives the test from it. [`Lab`] makes tables of it on a server: `plain` has a column per type and a row per value,
//! `arrays` a column of arrays of each type; [`Lab::texts`] asks the server for its own text of every cell.

use dbstreamd_throwaway::Cluster;

use super::{major_version, unhex};

/// One type and values of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TypeCase {
    /// As in CREATE TABLE.
    pub(crate) sql: &'static str,
    /// SQL expressions; each is cast to the type.
    pub(crate) values: &'static [&'static str],
    /// The oldest PostgreSQL that has the type, or takes these values.
    since: u32,
    /// The extension it comes from.
    extension: Option<&'static str>,
    /// Whether `::text` gives something else than the type's output function, which is what replication sends.
    pub(crate) cast_differs: bool,
    /// Whether there are arrays of it.
    has_array: bool,
}

const fn of(sql: &'static str, values: &'static [&'static str]) -> TypeCase {
    TypeCase { sql, values, since: 14, extension: None, cast_differs: false, has_array: true }
}

impl TypeCase {
    const fn since(self, major: u32) -> Self {
        Self { since: major, ..self }
    }
    const fn from(self, extension: &'static str) -> Self {
        Self { extension: Some(extension), ..self }
    }
    const fn cast_differs(self) -> Self {
        Self { cast_differs: true, ..self }
    }
    const fn no_array(self) -> Self {
        Self { has_array: false, ..self }
    }
}

/// What the user-defined types of [`TYPES`] need.
const SETUP: &str = r#"
    CREATE TYPE mood AS ENUM ('sad', 'so, "so"', 'it''s ü', E'back\\slash', '1');
    CREATE DOMAIN positive AS int4 CHECK (VALUE > 0);
    CREATE DOMAIN small_positive AS positive CHECK (VALUE < 100);
    CREATE DOMAIN words AS text[];
    CREATE DOMAIN moods AS mood[];
    CREATE TYPE pair AS (a int4, "B b" text);
    CREATE TYPE nested AS (id small_positive, pairs pair[], one pair, at timestamptz, raw bytea);
    CREATE TYPE hollow AS ();
    CREATE DOMAIN checked_pair AS pair;
    CREATE TYPE floatrange AS RANGE (subtype = float8, multirange_type_name = floatmultirange);
    CREATE TYPE textrange AS RANGE (subtype = text, collation = "C");
    CREATE TABLE "Named, oddly" (id int PRIMARY KEY);
"#;

/// Every base type that a table can have, and one of each other kind.
pub(crate) const TYPES: &[TypeCase] = &[
    of("bool", &["true", "false"]).cast_differs(),
    of("int2", &["'-32768'", "32767", "0"]),
    of("int4", &["'-2147483648'", "2147483647", "0"]),
    of("int8", &["'-9223372036854775808'", "9223372036854775807", "9007199254740993"]),
    of("float4", &["'-0'", "'0.1'", "'3.4028235e38'", "'1e-45'", "'NaN'", "'Infinity'", "'-Infinity'", "'16777217'"]),
    of(
        "float8",
        &[
            "'-0'",
            "'0.30000000000000004'",
            "'1.7976931348623157e308'",
            "'5e-324'",
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
            "'9007199254740993'",
            "'1e23'",
            "'-1.5'",
        ],
    ),
    of(
        "numeric",
        &[
            "'0'",
            "'-0.00'",
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
            "repeat('9', 1000)",
            "'-0.' || repeat('0', 400) || repeat('1234567890', 60)",
            "'1e131071'",
            "'1e-16383'",
            "'1.50'",
        ],
    ),
    of("numeric(1000,500)", &["repeat('9', 500) || '.' || repeat('1', 500)", "'-0.5'"]),
    of("numeric(5,-2)", &["'1234567'", "'-50'"]).since(15),
    of("money", &["'-92233720368547758.08'", "'92233720368547758.07'", "'0'"]),
    of("\"char\"", &["'a'", "''", "E'\\x01'", "E'\\x7f'", "'\"'"]),
    of("name", &["'n'", "repeat('n', 63)", "''", "'with \"quotes\"'"]),
    of(
        "text",
        &[
            "''",
            "' '",
            "E'\\x01\\x02\\x1f\\x7f\\t\\n\\r\\b\\f'",
            "'naïve €𝄞 👩‍👩‍👧'",
            "E'\\uFEFF\\u2028\\u2029\\uFFFF\\u0085'",
            "'\"quoted\" \\back ''single'' {brace,comma} (paren) NULL'",
            "repeat('x', 100000)",
            "E'e\\u0301'",
            "'NULL'",
        ],
    ),
    of("varchar", &["''", "'x'"]),
    of("varchar(10)", &["'ten chars.'", "''"]),
    of("char(5)", &["'ab'", "''", "'abcde'"]).cast_differs(),
    of("bpchar", &["'ab  '", "''"]).cast_differs(),
    of("bytea", &["'\\x'", "'\\x00'", "'\\x0100ff01fe'", "'\\x5c'", "decode(repeat('00ff0a', 5000), 'hex')"]),
    of("date", &["'4714-11-24 BC'", "'5874897-12-31'", "'infinity'", "'-infinity'", "'0001-12-31 BC'", "'2024-02-29'"]),
    of("time", &["'00:00'", "'24:00:00'", "'23:59:59.999999'"]),
    of("time(3)", &["'12:00:00.1236'", "'23:59:59.9999'"]),
    of("timetz", &["'00:00+15:59'", "'24:00:00-15:59:59'", "'12:00:00.000001+00'"]),
    of(
        "timestamp",
        &["'4714-11-24 00:00:00 BC'", "'294276-12-31 23:59:59.999999'", "'infinity'", "'-infinity'", "'2000-01-01'"],
    ),
    of("timestamp(0)", &["'2024-02-29 23:59:59.5'", "'0001-01-01 BC'"]),
    of(
        "timestamptz",
        &[
            "'4714-11-24 00:00:00+00 BC'",
            "'294276-12-31 23:59:59.999999+00'",
            "'infinity'",
            "'-infinity'",
            "'1890-01-01 00:00:00+00'",
            "'2024-06-01 12:00:00.000001+05:30'",
        ],
    ),
    of("timestamptz(3)", &["'2024-02-29 23:59:59.9996+00'", "'1969-12-31 23:59:59.999+00'"]),
    of(
        "interval",
        &[
            "'0'",
            "'-178000000 years'",
            "'178000000 years'",
            "'1 mon -1 days +00:00:00.000001'",
            "'-00:00:01'",
            "'P1Y2M3DT4H5M6.789S'",
            "'-1 years +1 mons -25:00:00'",
        ],
    ),
    of("interval", &["'2147483646 mons 2147483646 days 2562047788:00:54.775806'"]).since(15),
    of("interval", &["'infinity'", "'-infinity'"]).since(17),
    of("interval year to month", &["'13 months'", "'-1 month'"]),
    of("interval second(2)", &["'1.239 s'", "'0'"]),
    of("uuid", &["'00000000-0000-0000-0000-000000000000'", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'"]),
    of(
        "json",
        &[
            r#"'{"a": [1, 2.50, 1e400, "\ud834", "\u0000", {"b" :null}],  "a":1}'"#,
            "'null'",
            "'\"\\udc00 and \\ud800\\ud800\"'",
            "E' [ ]\\n'",
            "'123456789012345678901234567890.10'",
        ],
    ),
    of(
        "jsonb",
        &[
            r#"'{"b": 1, "a": [1.0000, null, true, {}], "b": 2}'"#,
            "'null'",
            r#"'"\ud834\udd1e \u0001 \\ \" \/"'"#,
            "'1e1000'",
            "'123456789012345678901234567890.10'",
        ],
    ),
    of("jsonpath", &["'strict $.a[*] ? (@.b > 1 && @.c like_regex \"^x\" flag \"i\")'", "'$'", "'$.\"a b\".size()'"]),
    of("xml", &["'<a b=\"1\">x &amp; y</a>'", "'plain'", "'<?xml version=\"1.0\"?><a/>'", "'<a>ü</a>'"]).cast_differs(),
    of("inet", &["'192.168.0.1/24'", "'::1'", "'0.0.0.0/0'", "'::ffff:1.2.3.4'", "'10.0.0.1'"]).cast_differs(),
    of("cidr", &["'10.0.0.0/8'", "'2001:db8::/32'", "'::/0'", "'1.2.3.4/32'"]),
    of("macaddr", &["'08:00:2b:01:02:03'", "'00-00-00-00-00-00'"]),
    of("macaddr8", &["'08:00:2b:01:02:03:04:05'", "'ffff.ffff.ffff.ffff'"]),
    of("point", &["'(1.5,-2)'", "'(NaN,Infinity)'", "'(-0,1e-300)'"]),
    of("line", &["'{1,2,3}'", "'{-0.1,1,1e300}'"]),
    of("lseg", &["'[(0,0),(1,1)]'", "'[(-1,-1),(Infinity,0)]'"]),
    of("box", &["'(1,1),(0,0)'", "'(0.1,0.2),(-3,4)'"]),
    of("path", &["'[(0,0),(1,1)]'", "'((0,0),(1,1),(2,0))'"]),
    of("polygon", &["'((0,0),(1,1),(2,0))'", "'((1e100,2))'"]),
    of("circle", &["'<(0,0),0>'", "'<(1.25,-1),Infinity>'"]),
    of("bit(8)", &["B'10101010'", "B'00000000'"]),
    of("bit(1)", &["B'1'", "B'0'"]),
    of("varbit", &["B''", "B'1'", "repeat('10', 500)"]),
    of("varbit(3)", &["B'101'", "B''"]),
    of("tsvector", &["$$'it''s':1A a:2,3B,16383 'back\\\\slash'$$", "''"]),
    of("tsquery", &["'a & !b <-> (c | d:*AB)'", "''", "$$'it''s' <3> x$$"]),
    of("int4range", &["'empty'", "'[1,5]'", "'(,)'", "'[,5]'", "'[-2147483648,2147483647)'"]),
    of("int8range", &["'[-9223372036854775808,9223372036854775807)'", "'empty'"]),
    of("numrange", &["'[1.10,2.20]'", "'(-Infinity,Infinity)'", "'(,NaN]'"]),
    of("tsrange", &["'[\"4714-11-24 00:00:00 BC\",infinity]'", "'(,)'"]),
    of("tstzrange", &["'[\"2024-01-01 00:00+02\",\"294276-12-31 23:59:59+00\")'", "'empty'"]),
    of("daterange", &["'[-infinity,infinity]'", "'[2024-02-28,2024-02-29]'", "'(,2024-01-01)'"]),
    of("int4multirange", &["'{}'", "'{[1,2],[5,)}'", "'{(,)}'"]),
    of("int8multirange", &["'{[1,2],[4,9223372036854775807)}'", "'{}'"]),
    of("nummultirange", &["'{[1.5,2.5),(3,Infinity]}'", "'{}'"]),
    of("tsmultirange", &["'{[\"2024-01-01 00:00\",\"2024-01-02 00:00\"),[infinity,]}'", "'{}'"]),
    of("tstzmultirange", &["'{[\"0001-01-01 00:00+00 BC\",\"2024-01-02 00:00+00\")}'", "'{}'"]),
    of("datemultirange", &["'{[2024-01-01,2024-01-02],(2024-02-01,)}'", "'{}'"]),
    of("oid", &["'4294967295'", "0"]),
    of("regclass", &["'pg_catalog.pg_class'", "'public.\"Named, oddly\"'", "'4294967295'", "'-'"]),
    of("regproc", &["'pg_catalog.now'", "0"]),
    of("regprocedure", &["'pg_catalog.abs(integer)'", "'4294967290'"]),
    of("regoper", &["'pg_catalog.||/'", "0"]),
    of("regoperator", &["'pg_catalog.+(integer,integer)'", "0"]),
    of("regtype", &["'integer'", "'timestamp with time zone[]'", "'public.mood'", "'numeric(3,1)'"]),
    of("regrole", &["'postgres'", "'4294967290'"]),
    of("regnamespace", &["'public'", "'4294967290'"]),
    of("regconfig", &["'pg_catalog.english'", "'pg_catalog.simple'"]),
    of("regdictionary", &["'pg_catalog.simple'", "'4294967290'"]),
    of("regcollation", &["'pg_catalog.\"C\"'", "0"]),
    of("xid", &["'4294967295'", "'0'"]),
    of("xid8", &["'18446744073709551615'", "'0'"]),
    of("cid", &["'4294967295'", "'0'"]),
    of("tid", &["'(4294967295,65535)'", "'(0,1)'"]),
    of("int2vector", &["'1 -2 3'", "''"]).no_array(),
    of("oidvector", &["'1 2 4294967295'", "''"]).no_array(),
    of("refcursor", &["'c'", "''"]),
    of("aclitem", &["'postgres=arwdDxt/postgres'", "'=r*/postgres'"]),
    of("pg_lsn", &["'FFFFFFFF/FFFFFFFF'", "'0/0'", "'16/B374D848'"]),
    of("pg_snapshot", &["'10:20:10,14,15'", "'1:1:'"]),
    of("txid_snapshot", &["'10:9223372036854775807:10,14'", "'1:1:'"]),
    of("mood", &["'sad'", "'so, \"so\"'", "'it''s ü'", "E'back\\\\slash'", "'1'"]),
    of("positive", &["1", "2147483647"]),
    of("small_positive", &["1", "99"]),
    of("words", &["'{}'", "'{a,NULL,\"NULL\",\"\",\"b c\"}'", "'{{a},{b}}'"]),
    of("moods", &["'{sad,1}'", "'{}'"]),
    of(
        "pair",
        &[
            "ROW(1, 'x')",
            "ROW(NULL, NULL)",
            "ROW(NULL, '')",
            "ROW(-1, E'q\"u\\\\o,te(s)\\n')",
            "ROW(2147483647, 'NULL')",
        ],
    ),
    of(
        "nested",
        &[
            "ROW(7, ARRAY[ROW(1, 'a\"b'), ROW(NULL, NULL), NULL]::pair[], ROW(2, '(,)'), '2024-01-01 00:00+05', '\\x00ff')",
            "ROW(NULL, '{}', NULL, 'infinity', '')",
        ],
    ),
    of("hollow", &["ROW()", "'()'"]),
    of("checked_pair", &["ROW(1, 'x')", "ROW(NULL, NULL)"]),
    of("floatrange", &["'[0.1,0.30000000000000004)'", "'[-Infinity,NaN]'", "'empty'"]),
    of("floatmultirange", &["'{[1.5,2.5)}'", "'{}'"]),
    of("textrange", &["'[a,\"b \"\"c\"\"\")'", "'[\"\",)'"]),
    of("hstore", &[r#"'a=>1, b=>NULL, "q\"x"=>"", "NULL"=>"NULL"'"#, "''"]).from("hstore"),
    of("citext", &["'AbC'", "''"]).from("citext"),
    of("ltree", &["'Top.A.B'", "''"]).from("ltree"),
    of("lquery", &["'Top.*{1,2}.!A|B@*'", "'*'"]).from("ltree"),
    of("ltxtquery", &["'A & !B*@'", "'x | y'"]).from("ltree"),
    of("cube", &["'(1,2),(0.1,4)'", "'()'"]).from("cube"),
    of("seg", &["'1.50 .. 2.5'", "'<6.50'", "'5(+-)0.3'"]).from("seg"),
    of("isbn13", &["'978-0-393-04002-9'", "'9780141439518'"]).from("isn"),
    of("query_int", &["'1&(2|!3)'", "'5'"]).from("intarray"),
    of("lo", &["'4294967295'", "'0'"]).from("lo"),
];

/// The session settings under which dbstreamd reads; what psql says under them is what events must say.
const AS_DBSTREAMD: &str = "SET TimeZone = 'UTC'; SET DateStyle = 'ISO, MDY'; SET IntervalStyle = 'postgres';
    SET bytea_output = 'hex'; SET extra_float_digits = 3; SET lc_monetary = 'C'; SET search_path = '';
    SET quote_all_identifiers = off;";

/// The types that a server has, and tables of them.
pub(crate) struct Lab<'a> {
    cluster: &'a Cluster,
    database: &'a str,
    pub(crate) cases: Vec<TypeCase>,
}

/// The tables of a [`Lab`].
pub(crate) const PLAIN: &str = "plain";
pub(crate) const ARRAYS: &str = "arrays";

impl<'a> Lab<'a> {
    /// Creates types and tables. What the server cannot have is left out, and said.
    pub(crate) fn new(cluster: &'a Cluster, database: &'a str) -> Self {
        cluster.psql(database, SETUP).expect("the types");
        let major = major_version(cluster);
        let possible = |case: &&TypeCase| {
            if case.since > major {
                eprintln!("left out: {} {:?} needs PostgreSQL {}", case.sql, case.values, case.since);
                return false;
            }
            let Some(extension) = case.extension else { return true };
            let made = cluster.psql(database, &format!("CREATE EXTENSION IF NOT EXISTS {extension}"));
            made.map_err(|error| eprintln!("left out: {}: {error}", case.sql)).is_ok()
        };
        let cases: Vec<_> = TYPES.iter().filter(possible).copied().collect();
        let lab = Self { cluster, database, cases };
        let columns = |suffix: &str| -> String {
            lab.cases.iter().enumerate().map(|(n, case)| format!(", c{n} {}{suffix}", case.column(suffix))).collect()
        };
        let tables = format!(
            "CREATE TABLE {PLAIN} (id int PRIMARY KEY{}); CREATE TABLE {ARRAYS} (id int PRIMARY KEY{});",
            columns(""),
            columns("[]")
        );
        cluster.psql(database, &tables).expect("the tables");
        lab
    }

    /// Inserts every value of every type, and a row of nulls; gives the number of rows.
    pub(crate) fn fill(&self) -> u64 {
        let most = self.cases.iter().map(|case| case.values.len()).max().unwrap_or(0);
        let mut sql = format!("INSERT INTO {PLAIN} (id) VALUES (0); INSERT INTO {ARRAYS} (id) VALUES (0);\n");
        for row in 0..most {
            let cells = self.cases.iter().map(|case| match case.values.get(row) {
                Some(value) => format!(", ({value})::{}", case.sql),
                None => ", NULL".to_owned(),
            });
            sql += &format!("INSERT INTO {PLAIN} VALUES ({}{});\n", row + 1, cells.collect::<String>());
        }
        let shapes: [fn(&TypeCase) -> String; 4] =
            [TypeCase::all, |_| "'{}'".to_owned(), TypeCase::square, TypeCase::bounded];
        for (row, shape) in shapes.iter().enumerate() {
            let cells = self.cases.iter().map(|case| {
                if case.has_array { format!(", ({})::{}[]", shape(case), case.sql) } else { ", NULL".to_owned() }
            });
            sql += &format!("INSERT INTO {ARRAYS} VALUES ({}{});\n", row + 1, cells.collect::<String>());
        }
        self.cluster.psql(self.database, &sql).expect("the values");
        most as u64 + 1 + shapes.len() as u64 + 1
    }

    /// The server's own text of every cell of a table, row by row in the order of `id`: what each type's output function
    /// gives (`format('%s')` calls it), and, where that is the same, what `::text` gives.
    pub(crate) fn texts(&self, table: &str) -> Vec<Vec<Option<String>>> {
        let cells = |render: &dyn Fn(usize, &TypeCase) -> String| {
            let cells: Vec<_> = self.cases.iter().enumerate().map(|(n, case)| render(n, case)).collect();
            cells.join(", ")
        };
        // Hexadecimal, so that no byte is lost on the way through psql.
        let hex =
            "(SELECT string_agg(coalesce(encode(convert_to(t, 'UTF8'), 'hex'), '-'), ' ' ORDER BY n) FROM unnest(ARRAY";
        let sql = format!(
            "{AS_DBSTREAMD} SELECT {hex}[{}]) WITH ORDINALITY AS u (t, n)) || '|' || {hex}[{}]) WITH ORDINALITY AS u (t, n)) \
             FROM public.{table} ORDER BY id",
            // A composite value of nulls IS NULL, but is not one.
            cells(&|n, _| format!("CASE num_nulls(c{n}) WHEN 0 THEN format('%s', c{n}) END")),
            cells(&|n, case| if case.cast_differs && table == PLAIN { "NULL".into() } else { format!("c{n}::text") }),
        );
        let answer = self.cluster.psql(self.database, &sql).expect("the texts");
        let decode = |cell: &str| (cell != "-").then(|| String::from_utf8(unhex(cell)).expect("UTF-8"));
        let row = |line: &str| {
            let (output, cast) = line.split_once('|').expect("two lists");
            let output: Vec<_> = output.split(' ').map(decode).collect();
            for ((case, text), cast) in self.cases.iter().zip(&output).zip(cast.split(' ').map(decode)) {
                assert!(
                    case.cast_differs && table == PLAIN || *text == cast,
                    "{}: ::text gives {cast:?} instead of {text:?}",
                    case.sql
                );
            }
            output
        };
        answer.lines().map(row).collect()
    }
}

impl TypeCase {
    /// Whether there are arrays of it.
    pub(crate) const fn has_array(&self) -> bool {
        self.has_array
    }

    fn column(&self, suffix: &str) -> &'static str {
        // An ordinary array in the place of one that cannot be: its cells are all null.
        if suffix.is_empty() || self.has_array { self.sql } else { "int4" }
    }

    fn cast(&self, value: &str) -> String {
        format!("({value})::{}", self.sql)
    }

    fn all(&self) -> String {
        let values: Vec<_> = self.values.iter().map(|value| self.cast(value)).collect();
        format!("ARRAY[{}, NULL]", values.join(", "))
    }

    fn square(&self) -> String {
        let (first, last) = (self.cast(self.values[0]), self.cast(self.values[self.values.len() - 1]));
        format!("array_cat(ARRAY[ARRAY[{first}, {last}]]::{0}[], ARRAY[ARRAY[{last}, NULL]]::{0}[])", self.sql)
    }

    fn bounded(&self) -> String {
        format!(
            "'[-1:0]=' || (ARRAY[{}, {}]::{}[])::text",
            self.cast(self.values[0]),
            self.cast(self.values[0]),
            self.sql
        )
    }
}
