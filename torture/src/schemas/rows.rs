//! Statements that change rows.

use rand::Rng;
use rand::rngs::SmallRng;

use crate::schemas::catalog::{Column, Look, Table, quoted};
use crate::schemas::values::{chance, literal, pick, string, unique};

/// Rows of one INSERT.
const ROWS_MAX: u64 = 6;
/// A partition has the keys from its number times this on.
pub(crate) const PARTITION_KEYS: u64 = 1_000;
/// The partitioned tables' key; never renamed or dropped.
pub(crate) const PARTITION_KEY: &str = "k";

/// Where the numbers come from that make rows differ.
#[derive(Default, Debug)]
pub(crate) struct Counter(u64);

impl Counter {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }
}

/// A statement over the rows of some table; none when the one that was chosen allows none.
pub(crate) fn statement(rng: &mut SmallRng, look: &Look, by_root: bool, counter: &mut Counter) -> Option<String> {
    let open: Vec<&Table> = look.tables.iter().filter(|table| !table.barred && !table.columns.is_empty()).collect();
    let table = *pick(rng, &open)?;
    Some(match rng.random_range(0..100) {
        0..=39 => insert(rng, look, table, counter),
        40..=52 => upsert(rng, look, table, counter)?,
        53..=82 => update(rng, look, table, counter)?,
        83..=92 => delete(rng, table)?,
        93..=95 => truncate(rng, table, by_root)?,
        _ => message(rng),
    })
}

fn message(rng: &mut SmallRng) -> String {
    let transactional = chance(rng, 70);
    format!("SELECT pg_logical_emit_message({transactional}, 'noise', '{:x}')", rng.random::<u64>())
}

/// Which partitions there are to insert into, by their numbers.
fn numbers(look: &Look, table: &Table) -> Vec<u64> {
    if table.partitioned() {
        return look.partitions(table.oid).filter_map(number_of).collect();
    }
    number_of(table).into_iter().collect()
}

/// The number in a partition's name, which says which keys it has.
pub(crate) fn number_of(table: &Table) -> Option<u64> {
    table.name.rsplit_once("_p")?.1.parse().ok()
}

fn value(rng: &mut SmallRng, look: &Look, table: &Table, column: &Column, counter: &mut Counter) -> String {
    if column.name == PARTITION_KEY
        && let Some(number) = pick(rng, &numbers(look, table))
    {
        return (number * PARTITION_KEYS + rng.random_range(0..PARTITION_KEYS)).to_string();
    }
    if table.primary_key.contains(&column.name) || (column.in_identity && table.identity == "i") {
        return unique(&column.type_sql, counter.next());
    }
    if !column.not_null && chance(rng, 12) {
        return "NULL".to_owned();
    }
    literal(rng, &column.type_sql, &look.labels, look.attributes)
}

/// The columns that an INSERT gives values for.
fn given<'a>(rng: &mut SmallRng, table: &'a Table) -> Vec<&'a Column> {
    let settable = table.columns.iter().filter(|column| !column.generated && !column.always);
    settable.filter(|column| column.not_null || column.name == PARTITION_KEY || !chance(rng, 15)).collect()
}

fn names(columns: &[&Column]) -> String {
    columns.iter().map(|column| quoted(&column.name)).collect::<Vec<_>>().join(", ")
}

fn insert(rng: &mut SmallRng, look: &Look, table: &Table, counter: &mut Counter) -> String {
    let columns = given(rng, table);
    if columns.is_empty() {
        return format!("INSERT INTO {} DEFAULT VALUES", table.full_name());
    }
    let rows: Vec<String> = (0..rng.random_range(1..=ROWS_MAX))
        .map(|_| {
            let values: Vec<String> = columns.iter().map(|column| value(rng, look, table, column, counter)).collect();
            format!("({})", values.join(", "))
        })
        .collect();
    format!("INSERT INTO {} ({}) VALUES {}", table.full_name(), names(&columns), rows.join(", "))
}

/// Rows chosen by their contents, so that it depends on nothing else which they are.
fn some_rows(rng: &mut SmallRng, table: &Table) -> String {
    let (at, rows, name) = (rng.random_range(0..1_000), rng.random_range(1..4), table.full_name());
    format!(
        "SELECT zz_row.tableoid, zz_row.ctid FROM {name} zz_row ORDER BY zz_row::text COLLATE \"C\" \
         OFFSET ({at} % greatest(1, (SELECT count(*) FROM {name}))) LIMIT {rows} FOR UPDATE SKIP LOCKED"
    )
}

fn update(rng: &mut SmallRng, look: &Look, table: &Table, counter: &mut Counter) -> Option<String> {
    if !table.has_identity() {
        return None;
    }
    let move_key = chance(rng, 20);
    let settable: Vec<&Column> = table
        .columns
        .iter()
        .filter(|column| !column.generated && !column.always)
        .filter(|column| move_key || !(table.primary_key.contains(&column.name) || column.name == PARTITION_KEY))
        .collect();
    let mut sets = Vec::new();
    for _ in 0..rng.random_range(1..=2) {
        let column = *pick(rng, &settable)?;
        if !sets.iter().any(|(name, _)| *name == column.name) {
            sets.push((column.name.clone(), value(rng, look, table, column, counter)));
        }
    }
    let sets: Vec<String> = sets.into_iter().map(|(name, value)| format!("{} = {value}", quoted(&name))).collect();
    let rows = some_rows(rng, table);
    Some(format!("UPDATE {} SET {} WHERE (tableoid, ctid) IN ({rows})", table.full_name(), sets.join(", ")))
}

fn delete(rng: &mut SmallRng, table: &Table) -> Option<String> {
    if !table.has_identity() {
        return None;
    }
    Some(format!("DELETE FROM {} WHERE (tableoid, ctid) IN ({})", table.full_name(), some_rows(rng, table)))
}

/// A row that may be there already.
fn upsert(rng: &mut SmallRng, look: &Look, table: &Table, counter: &mut Counter) -> Option<String> {
    if table.primary_key.is_empty() || !table.has_identity() {
        return None;
    }
    let key: Vec<String> = table.primary_key.iter().map(|name| quoted(name)).collect();
    let others: Vec<&Column> =
        given(rng, table).into_iter().filter(|column| !table.primary_key.contains(&column.name)).collect();
    let mut columns = key.clone();
    let mut values: Vec<String> = key.iter().map(|name| format!("zz_row.{name}")).collect();
    for column in &others {
        columns.push(quoted(&column.name));
        values.push(value(rng, look, table, column, counter));
    }
    let sets: Vec<String> = others.iter().map(|column| format!("{0} = EXCLUDED.{0}", quoted(&column.name))).collect();
    let action = if sets.is_empty() || chance(rng, 20) {
        "NOTHING".to_owned()
    } else {
        format!("UPDATE SET {}", sets.join(", "))
    };
    let (name, at) = (table.full_name(), rng.random_range(0..1_000));
    Some(format!(
        "INSERT INTO {name} ({}) SELECT {} FROM {name} zz_row ORDER BY zz_row::text COLLATE \"C\" \
         OFFSET ({at} % greatest(1, (SELECT count(*) FROM {name}))) LIMIT 1 ON CONFLICT ({}) DO {action}",
        columns.join(", "),
        values.join(", "),
        key.join(", ")
    ))
}

/// Never of one partition alone while the root is published: nothing tells of that.
fn truncate(rng: &mut SmallRng, table: &Table, by_root: bool) -> Option<String> {
    if table.locked || (by_root && table.parent.is_some()) {
        return None;
    }
    let restart = if chance(rng, 50) { " RESTART IDENTITY" } else { "" };
    let cascade = if chance(rng, 50) { " CASCADE" } else { "" };
    Some(format!("TRUNCATE {}{restart}{cascade}", table.full_name()))
}

/// A message that the harness itself writes into the stream.
pub(crate) fn say(prefix: &str, content: &str) -> String {
    format!("SELECT pg_logical_emit_message(true, {}, {})", string(prefix), string(content))
}
