//! The settings that every session of ours runs under, whatever role and database prefer.
//!
//! Given at startup they win over `ALTER ROLE … SET` and `ALTER DATABASE … SET`, so two passes over the same WAL print the
//! same bytes; they are read back, since a pooler may drop them in silence. The one exception is the encoding of raw
//! text, which is set once the database's own is known.

use super::error::{PgError, one_line};

/// The encoding under which text comes as the bytes that the database holds: nothing is converted, nothing validated. It is
/// also the name of the encoding of a database that has none. Such a database can be read in no other: the server would
/// refuse to send what is not valid in it, which would wedge a slot.
const RAW: &str = "SQL_ASCII";
const ENCODING: &str = "client_encoding";

struct Pin {
    name: &'static str,
    value: &'static str,
    /// How the server may print it.
    held: &'static [&'static str],
}

/// What decides how values are printed. (xmlbinary and xmloption are for making and reading XML: what is printed does not
/// depend on them.)
const PRINTING: &[Pin] = &[
    Pin { name: ENCODING, value: "UTF8", held: &["UTF8"] },
    Pin { name: "TimeZone", value: "UTC", held: &["UTC"] },
    Pin { name: "DateStyle", value: "ISO, MDY", held: &["ISO, MDY"] },
    Pin { name: "IntervalStyle", value: "postgres", held: &["postgres"] },
    Pin { name: "bytea_output", value: "hex", held: &["hex"] },
    Pin { name: "extra_float_digits", value: "3", held: &["3"] },
    Pin { name: "lc_monetary", value: "C", held: &["C"] },
    // Empty: every name in a value (regclass and its kind) is printed with its schema. SQL of ours names schemas itself.
    Pin { name: "search_path", value: "", held: &["", "\"\""] },
    // Names in values again: quoted only where they must be.
    Pin { name: "quote_all_identifiers", value: "off", held: &["off"] },
];

/// What decides whether a session survives.
const LASTING: &[Pin] = &[
    Pin { name: "statement_timeout", value: "0", held: &["0"] },
    Pin { name: "lock_timeout", value: "0", held: &["0"] },
    Pin { name: "idle_in_transaction_session_timeout", value: "0", held: &["0"] },
];

/// What the server tells: that it goes on without a publication is a warning (`ServerError::skips_publication`).
const TELLING: &[Pin] = &[Pin { name: "client_min_messages", value: "warning", held: &["warning"] }];

fn pins() -> impl Iterator<Item = &'static Pin> {
    PRINTING.iter().chain(LASTING).chain(TELLING)
}

/// Whether text of a database in this encoding comes raw, also when nobody wished for that.
pub(super) fn has_no_encoding(server_encoding: Option<&str>) -> bool {
    server_encoding == Some(RAW)
}

/// Names and values for the startup packet. `raw` is what is wished for; the database is not known yet.
pub(super) fn at_startup<'a>(raw: bool) -> impl Iterator<Item = (&'a str, &'a str)> {
    pins().map(move |pin| (pin.name, if raw && pin.name == ENCODING { RAW } else { pin.value }))
}

/// A statement whose row has the server's version, as a number and in words, and then every setting as [`verify`] wants it.
pub(super) fn statement(raw: bool) -> String {
    let encoding = if raw { format!("SET {ENCODING} TO '{RAW}'; ") } else { String::new() };
    let settings: String = pins().map(|pin| format!(", pg_catalog.current_setting('{}')", pin.name)).collect();
    // The last two exist only in newer versions, where they would end an idle or a long session.
    format!(
        "{encoding}SELECT pg_catalog.current_setting('server_version_num'), pg_catalog.current_setting('server_version'){settings}; \
         SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
         WHERE name IN ('idle_session_timeout', 'transaction_timeout')"
    )
}

/// Checks the settings, in the order of [`statement`].
pub(super) fn verify(raw: bool, mut found: impl Iterator<Item = String>) -> Result<(), PgError> {
    for pin in pins() {
        let found = found.next().unwrap_or_default();
        let (wanted, held): (_, &[_]) = match pin.name {
            ENCODING if raw => (RAW, &[RAW]),
            _ => (pin.value, pin.held),
        };
        if !held.contains(&found.as_str()) {
            return Err(PgError::SettingNotHeld { name: pin.name, found: one_line(&found), wanted });
        }
    }
    Ok(())
}

/// What the bytes of every value depend on, as `name=value; …`.
pub(super) fn decode_profile(raw: bool, binary: bool) -> String {
    let encoding = if raw { RAW } else { "UTF8" };
    let pins = PRINTING.iter().filter(|pin| pin.name != ENCODING);
    let pins: String = pins.map(|pin| format!("{}={}; ", pin.name, pin.value)).collect();
    format!("{pins}{ENCODING}={encoding}; binary={binary}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_is_not_held_is_named_and_raw_text_is_another_profile() {
        let held = |raw: bool| at_startup(raw).map(|(_, value)| value.to_owned()).collect::<Vec<_>>();
        assert!(verify(false, held(false).into_iter()).is_ok());
        assert!(verify(true, held(true).into_iter()).is_ok());
        let mut lost = held(false);
        lost[1] = "Asia/Tokyo".to_owned();
        let error = verify(false, lost.into_iter()).unwrap_err().to_string();
        assert!(error.contains("TimeZone = \"Asia/Tokyo\" instead of \"UTC\""), "{error}");
        assert!(verify(true, held(false).into_iter()).is_err());
        assert_ne!(decode_profile(true, false), decode_profile(false, false));
        // Hashed on disk in users' logs: another text makes the next start compare less.
        assert!(decode_profile(false, false).ends_with("client_encoding=UTF8; binary=false"));
    }
}
