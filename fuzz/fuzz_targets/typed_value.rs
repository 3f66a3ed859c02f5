//! No bytes make a decoder panic, and what it accepts says the same when it is written and read again.
#![no_main]

use dbstreamd_model::{CellRef, Column, TypeDescription, TypeKind};
use dbstreamd_values::Decoder;
use libfuzzer_sys::fuzz_target;
use whole::Whole;

/// Shared with the crate's own tests.
#[path = "../../crates/values/src/tests/whole.rs"]
mod whole;

/// PostgreSQL's own types that are read as something else than text.
const TYPES: [&str; 56] = [
    "bool", "int2", "int4", "int8", "oid", "xid", "xid8", "float4", "float8", "numeric", "text", "char", "bytea",
    "date", "time", "timetz", "timestamp", "timestamptz", "interval", "uuid", "json", "jsonb", "bit", "varbit",
    "inet", "cidr", "macaddr", "macaddr8", "point", "line", "lseg", "box", "path", "polygon", "circle", "money",
    "pg_lsn", "tsvector", "xml", "int4range", "numrange", "tsrange", "tstzrange", "daterange", "int8multirange",
    "nummultirange", "tsmultirange", "_int4", "_text", "_box", "_numrange", "_timestamptz", "_bytea", "_interval",
    "_tsvector", "_int4multirange",
];

// The first byte says which type, the second what was made of it, the third whether the rest is text or binary.
fuzz_target!(|bytes: &[u8]| {
    let [which, made, form, rest @ ..] = bytes else { return };
    let Some(type_name) = TYPES.get(usize::from(*which) % TYPES.len()) else { return };
    let inner = Box::new(TypeDescription { name: (*type_name).to_owned(), kind: TypeKind::Base });
    let kind = match made % 8 {
        0 => TypeKind::Enum,
        1 => TypeKind::Composite,
        2 => TypeKind::Array { delimiter: b',', element: inner },
        3 => TypeKind::Range(inner),
        4 => TypeKind::Multirange(inner),
        5 => TypeKind::Domain(inner),
        _ => inner.kind,
    };
    let decoder = Decoder::for_column(&Column {
        name: "c".to_owned(),
        type_name: (*type_name).to_owned(),
        type_oid: 0,
        type_modifier: -1,
        in_identity: false,
        description: (made % 8 < 6).then(|| TypeDescription { name: "t".to_owned(), kind }),
    });
    if form % 2 == 1 {
        let _ = Whole::read(&decoder, CellRef::Binary(rest));
        return;
    }
    let Ok(value) = Whole::read(&decoder, CellRef::Text(rest)) else { return };
    let (mut once, mut twice) = (Vec::new(), Vec::new());
    value.write(&mut once);
    Whole::read(&decoder, CellRef::Text(&once)).expect("what was written can be read").write(&mut twice);
    assert_eq!(once, twice);
});
