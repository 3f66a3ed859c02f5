//! Statements that change schemas.

use rand::Rng;
use rand::rngs::SmallRng;

use crate::schemas::catalog::{Column, Look, SCHEMAS, Table, quoted};
use crate::schemas::rows::{Counter, PARTITION_KEY, PARTITION_KEYS, number_of};
use crate::schemas::values::{chance, key_type, literal, name, pick, string, type_of, volatile};

/// More tables than this make a case slow, and each of them poor.
const TABLES_MAX: usize = 9;
const COLUMNS_MAX: usize = 9;
/// Partitions of one table: their numbers.
const PARTITIONS: u64 = 4;
/// Names that are used again and again, so that what was dropped and what was renamed come back as something else.
const NAMES: [&str; 5] = ["orders", "items", "events", "\"Zwei Worte\"", "t"];

/// A change, before it is run.
pub(crate) struct Change {
    /// A short name, for counting.
    pub(crate) kind: &'static str,
    pub(crate) sql: String,
    /// Takes no lock on the tables whose rows it changes: what other transactions have written and not committed would come
    /// behind it in the stream, as it was before. Only while there are none.
    pub(crate) alone: bool,
}

/// What every case begins with. A database without any table is refused.
pub(crate) const PREPARATION: &str = "
CREATE SCHEMA s1; CREATE SCHEMA s2; CREATE TABLE public.first (id int PRIMARY KEY);
CREATE SEQUENCE s1.numbers;
CREATE TYPE s1.mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN s1.amount AS numeric(10,2);
CREATE TYPE s1.pair AS (x int, y text)";

struct Maker<'a> {
    rng: &'a mut SmallRng,
    look: &'a Look,
    counter: &'a mut Counter,
}

/// Some change; none when what was chosen is not possible now.
pub(crate) fn change(rng: &mut SmallRng, look: &Look, counter: &mut Counter) -> Option<Change> {
    let choice = rng.random_range(0..100);
    let few = look.tables.len() < 3;
    let mut maker = Maker { rng, look, counter };
    let (kind, sql) = match choice {
        0..=9 => ("create table", maker.create_table()?),
        _ if few => ("create table", maker.create_table()?),
        10..=13 => ("create partitioned", maker.create_partitioned()?),
        14..=15 => ("create table as", maker.create_table_as()?),
        16..=17 => ("drop table", maker.drop_table()?),
        18..=19 => ("drop and create again", maker.drop_and_create_again()?),
        20..=27 => ("add column", maker.add_column(None)?),
        28..=35 => ("add column with default", maker.add_column(Some(true))?),
        36..=38 => ("add column computed", maker.add_column(Some(false))?),
        39..=40 => ("add generated column", maker.add_generated()?),
        41..=47 => ("drop column", maker.drop_column()?),
        48..=53 => ("rename column", maker.rename_column()?),
        54..=58 => ("rename table", maker.rename_table()?),
        59..=61 => ("swap tables", maker.swap()?),
        62..=69 => ("alter type", maker.alter_type()?),
        70..=73 => ("set schema", maker.set_schema()?),
        74..=76 => ("add label", maker.add_label()),
        77..=79 => {
            return Some(Change { kind: "rename label", sql: maker.rename_label()?, alone: true });
        }
        80 => {
            return Some(Change { kind: "add attribute", sql: maker.add_attribute(), alone: true });
        }
        81..=83 => ("comment", maker.comment()?),
        84..=88 => ("attach or detach", maker.attach_or_detach()?),
        89..=95 => ("replica identity", maker.replica_identity()?),
        96..=97 => ("set default", maker.set_default()?),
        98 => ("drop expression", maker.drop_expression()?),
        _ => ("drop primary key", maker.drop_primary_key()?),
    };
    Some(Change { kind, sql, alone: false })
}

impl Maker<'_> {
    /// A table that nobody else has locked.
    fn table(&mut self, fits: impl Fn(&Table) -> bool) -> Option<Table> {
        let free: Vec<&Table> = self.look.tables.iter().filter(|table| !table.locked && fits(table)).collect();
        pick(self.rng, &free).map(|table| (*table).clone())
    }

    /// A table whose columns can be changed.
    fn alterable(&mut self) -> Option<Table> {
        let look = self.look;
        self.table(|table| table.parent.is_none() && look.partitions(table.oid).all(|partition| !partition.locked))
    }

    /// A table without a number in its name that says which keys it has.
    fn movable(&mut self) -> Option<Table> {
        self.table(|table| table.parent.is_none() && !table.partitioned() && number_of(table).is_none())
    }

    fn literal(&mut self, type_sql: &str) -> String {
        literal(self.rng, type_sql, &self.look.labels, self.look.attributes)
    }

    fn free_name(&mut self) -> Option<String> {
        let schema = pick(self.rng, &SCHEMAS)?;
        let table = pick(self.rng, &NAMES)?;
        let full = format!("{schema}.{}", quoted(table.trim_matches('"')));
        (!self.look.tables.iter().any(|known| known.full_name() == full)).then_some(full)
    }

    fn new_column(&mut self) -> String {
        let n = self.counter.next() % 40;
        name(self.rng, "c", n)
    }

    fn create_table(&mut self) -> Option<String> {
        if self.look.tables.len() >= TABLES_MAX {
            return None;
        }
        let name = self.free_name()?;
        Some(self.table_of_name(&name))
    }

    fn table_of_name(&mut self, name: &str) -> String {
        let mut columns = Vec::new();
        let mut then = String::new();
        match self.rng.random_range(0..10) {
            0..=5 => columns.push(format!("id {} PRIMARY KEY", key_type(self.rng))),
            6 => columns.push("a integer, b text, PRIMARY KEY (b, a)".to_owned()),
            7 => {
                columns.push(format!("id {} NOT NULL", key_type(self.rng)));
                let index = format!("by_identity_{}", self.counter.next());
                then = format!(
                    "; CREATE UNIQUE INDEX {index} ON {name} (id); ALTER TABLE {name} REPLICA IDENTITY USING INDEX {index}"
                );
            }
            8 => then = format!("; ALTER TABLE {name} REPLICA IDENTITY FULL"),
            _ => {}
        }
        for _ in 0..self.rng.random_range(1..=5) {
            let column = self.new_column();
            if columns.iter().any(|known| known.starts_with(&format!("{column} "))) {
                continue;
            }
            let type_sql = type_of(self.rng);
            let rest = match self.rng.random_range(0..10) {
                0 => format!(" NOT NULL DEFAULT {}", self.literal(type_sql)),
                1 => format!(" DEFAULT {}", self.literal(type_sql)),
                _ => String::new(),
            };
            // NULL is a literal of any type, and no default of a column that has none.
            columns.push(format!("{column} {type_sql}{}", rest.replace(" NOT NULL DEFAULT NULL", "")));
        }
        if let Some(parent) = self.parent() {
            let action = *pick(self.rng, &["CASCADE", "SET NULL"]).unwrap_or(&"CASCADE");
            columns.push(format!("parent {parent} ON DELETE {action}"));
        }
        format!("CREATE TABLE {name} ({}){then}", columns.join(", "))
    }

    /// Now and then a reference to another table, so that a TRUNCATE … CASCADE has somewhere to go, and a DELETE.
    fn parent(&mut self) -> Option<String> {
        if !chance(self.rng, 20) {
            return None;
        }
        let parent = self.table(|table| table.primary_key.len() == 1 && table.parent.is_none())?;
        let key = parent.columns.iter().find(|column| parent.primary_key.contains(&column.name))?;
        Some(format!("{} REFERENCES {} ({})", key.type_sql, parent.full_name(), quoted(&key.name)))
    }

    fn create_partitioned(&mut self) -> Option<String> {
        if self.look.tables.iter().any(Table::partitioned) {
            return self.create_partition();
        }
        let schema = pick(self.rng, &SCHEMAS)?;
        let n = self.counter.next();
        let root = format!("{schema}.parts{n}");
        let identity = if chance(self.rng, 60) { ", PRIMARY KEY (k, id)" } else { "" };
        let type_sql = type_of(self.rng);
        let mut sql = format!(
            "CREATE TABLE {root} (k integer NOT NULL, id bigint NOT NULL, v text, w {type_sql}{identity}) PARTITION BY RANGE (k)"
        );
        for number in 0..2 {
            sql += &format!("; CREATE TABLE {root}_p{number} PARTITION OF {root} {}", bound(number));
        }
        if identity.is_empty() {
            sql += &format!("; ALTER TABLE {root} REPLICA IDENTITY FULL");
            for number in 0..2 {
                sql += &format!("; ALTER TABLE {root}_p{number} REPLICA IDENTITY FULL");
            }
        }
        Some(sql)
    }

    fn create_partition(&mut self) -> Option<String> {
        let root = self.table(Table::partitioned)?;
        let number = self.rng.random_range(0..PARTITIONS);
        let leaf = format!("{}.{}", root.schema, quoted(&format!("{}_p{number}", root.name)));
        let how = if chance(self.rng, 50) {
            format!("PARTITION OF {} {}", root.full_name(), bound(number))
        } else {
            format!("(LIKE {} INCLUDING ALL)", root.full_name())
        };
        let identity = identity_of(&root.identity);
        Some(format!("CREATE TABLE {leaf} {how}; ALTER TABLE {leaf} REPLICA IDENTITY {identity}"))
    }

    fn create_table_as(&mut self) -> Option<String> {
        if self.look.tables.len() >= TABLES_MAX {
            return None;
        }
        let name = self.free_name()?;
        let from = self.table(|table| !table.partitioned())?;
        let columns: Vec<String> = from.published_columns().map(|column| quoted(&column.name)).collect();
        Some(format!("CREATE TABLE {name} AS SELECT {} FROM {}", columns.join(", "), from.full_name()))
    }

    fn drop_table(&mut self) -> Option<String> {
        let look = self.look;
        let table = self.table(|table| look.partitions(table.oid).all(|partition| !partition.locked))?;
        Some(format!("DROP TABLE {} CASCADE", table.full_name()))
    }

    fn drop_and_create_again(&mut self) -> Option<String> {
        let name = self.movable()?.full_name();
        Some(format!("DROP TABLE {name} CASCADE; {}", self.table_of_name(&name)))
    }

    /// `constant`: the kind of default; none for none.
    fn add_column(&mut self, constant: Option<bool>) -> Option<String> {
        let table = self.alterable().filter(|table| table.columns.len() < COLUMNS_MAX)?;
        let (column, type_sql) = (self.new_column(), type_of(self.rng));
        let rest = match constant {
            None => String::new(),
            Some(true) => {
                let not_null = if chance(self.rng, 30) { " NOT NULL" } else { "" };
                format!(" DEFAULT {}{not_null}", self.literal(type_sql))
            }
            Some(false) => format!(" DEFAULT {}", volatile(type_sql)?),
        };
        Some(format!("ALTER TABLE {} ADD COLUMN {column} {type_sql}{rest}", table.full_name()))
    }

    fn add_generated(&mut self) -> Option<String> {
        let table = self.alterable().filter(|table| table.columns.len() < COLUMNS_MAX)?;
        let from = table.columns.iter().find(|column| column.type_sql == "integer")?;
        let column = self.new_column();
        Some(format!(
            "ALTER TABLE {} ADD COLUMN {column} bigint GENERATED ALWAYS AS ({}::bigint * 2) STORED",
            table.full_name(),
            quoted(&from.name)
        ))
    }

    fn drop_column(&mut self) -> Option<String> {
        let table = self.alterable().filter(|table| table.published_columns().count() > 2)?;
        // A key goes seldom: most of what a table can do goes with it.
        let spare_key = chance(self.rng, 90);
        let column = column(self.rng, &table, |column| !(spare_key && table.primary_key.contains(&column.name)))?;
        Some(format!("ALTER TABLE {} DROP COLUMN {} CASCADE", table.full_name(), quoted(&column.name)))
    }

    fn rename_column(&mut self) -> Option<String> {
        let table = self.alterable()?;
        let column = column(self.rng, &table, |_| true)?;
        let to = self.new_column();
        Some(format!("ALTER TABLE {} RENAME COLUMN {} TO {to}", table.full_name(), quoted(&column.name)))
    }

    fn rename_table(&mut self) -> Option<String> {
        let table = self.movable()?;
        let to = pick(self.rng, &NAMES)?;
        Some(format!("ALTER TABLE {} RENAME TO {to}", table.full_name()))
    }

    /// Two tables of one schema, under a third name in between.
    fn swap(&mut self) -> Option<String> {
        let one = self.movable()?;
        let other = self.table(|table| {
            table.oid != one.oid
                && table.schema == one.schema
                && table.parent.is_none()
                && !table.partitioned()
                && number_of(table).is_none()
        })?;
        let (schema, one, other) = (&one.schema, quoted(&one.name), quoted(&other.name));
        Some(format!(
            "ALTER TABLE {schema}.{one} RENAME TO aside; ALTER TABLE {schema}.{other} RENAME TO {one}; \
             ALTER TABLE {schema}.aside RENAME TO {other}"
        ))
    }

    fn alter_type(&mut self) -> Option<String> {
        let table = self.alterable()?;
        let column = column(self.rng, &table, |_| true)?;
        let name = quoted(&column.name);
        let to = match column.type_sql.as_str() {
            "smallint" => "integer",
            "integer" => *pick(self.rng, &["bigint", "numeric", "oid"])?,
            "bigint" => "numeric",
            "numeric(10,2)" => *pick(self.rng, &["numeric(12,2)", "numeric", "numeric(10,1)"])?,
            "s1.amount" => "numeric(10,2)",
            "character varying(20)" => *pick(self.rng, &["character varying(40)", "text", "character varying(8)"])?,
            "character varying" => "text",
            "text" => *pick(self.rng, &["character varying", "text COLLATE \"C\""])?,
            "timestamp without time zone" => "timestamp with time zone",
            "timestamp with time zone" => "timestamp without time zone",
            "boolean" | "date" | "uuid" | "s1.mood" => "text",
            "integer[]" => "bigint[]",
            "double precision" => "numeric",
            _ => return None,
        };
        let using = match (column.type_sql.as_str(), to) {
            ("double precision", _) => format!(" USING CASE WHEN abs({name}) < 1e9 THEN {name}::numeric END"),
            ("uuid" | "s1.mood", _) => format!(" USING upper({name}::text)"),
            ("integer", "oid") => format!(" USING {name}::oid"),
            ("character varying(20)", "character varying(8)") => format!(" USING left({name}, 8)"),
            _ => String::new(),
        };
        let default = if chance(self.rng, 50) { format!("ALTER {name} DROP DEFAULT, ") } else { String::new() };
        Some(format!("ALTER TABLE {} {default}ALTER {name} TYPE {to}{using}", table.full_name()))
    }

    fn set_schema(&mut self) -> Option<String> {
        let table = self.movable()?;
        let to = SCHEMAS.iter().find(|schema| **schema != table.schema)?;
        Some(format!("ALTER TABLE {} SET SCHEMA {to}", table.full_name()))
    }

    fn add_label(&mut self) -> String {
        format!("ALTER TYPE s1.mood ADD VALUE '{}'", self.new_label())
    }

    fn new_label(&mut self) -> String {
        format!("mood{}", self.counter.next())
    }

    fn rename_label(&mut self) -> Option<String> {
        let from = string(pick(self.rng, &self.look.labels)?);
        Some(format!("ALTER TYPE s1.mood RENAME VALUE {from} TO '{}'", self.new_label()))
    }

    fn add_attribute(&mut self) -> String {
        format!("ALTER TYPE s1.pair ADD ATTRIBUTE z{} int", self.counter.next())
    }

    fn comment(&mut self) -> Option<String> {
        let table = self.table(|_| true)?;
        let column = column(self.rng, &table, |_| true)?;
        let text = string(&format!("it's {}", self.counter.next()));
        Some(if chance(self.rng, 50) {
            format!("COMMENT ON TABLE {} IS {text}", table.full_name())
        } else {
            format!("COMMENT ON COLUMN {}.{} IS {text}", table.full_name(), quoted(&column.name))
        })
    }

    fn attach_or_detach(&mut self) -> Option<String> {
        let root = self.table(Table::partitioned)?;
        let leaf = self.table(|table| {
            number_of(table).is_some() && table.name.starts_with(&root.name) && table.identity == root.identity
        })?;
        let number = number_of(&leaf)?;
        Some(match leaf.parent {
            Some(_) => format!("ALTER TABLE {} DETACH PARTITION {}", root.full_name(), leaf.full_name()),
            None => {
                format!("ALTER TABLE {} ATTACH PARTITION {} {}", root.full_name(), leaf.full_name(), bound(number))
            }
        })
    }

    /// A partitioned table has the identity that its partitions have: otherwise PostgreSQL sends old rows of the one kind
    /// under the other's schema.
    fn replica_identity(&mut self) -> Option<String> {
        let table = self.alterable()?;
        let identity = match self.rng.random_range(0..10) {
            0..=4 => "FULL",
            5..=8 => "DEFAULT",
            _ => "NOTHING",
        };
        let family = std::iter::once(&table).chain(self.look.partitions(table.oid));
        let all = family.map(|table| format!("ALTER TABLE {} REPLICA IDENTITY {identity}", table.full_name()));
        Some(all.collect::<Vec<_>>().join("; "))
    }

    fn set_default(&mut self) -> Option<String> {
        let table = self.alterable()?;
        let column = column(self.rng, &table, |column| !column.generated && column.name != PARTITION_KEY)?;
        let value = self.literal(&column.type_sql);
        Some(format!("ALTER TABLE {} ALTER {} SET DEFAULT {value}", table.full_name(), quoted(&column.name)))
    }

    fn drop_expression(&mut self) -> Option<String> {
        let table =
            self.table(|table| table.parent.is_none() && table.columns.iter().any(|column| column.generated))?;
        let column = table.columns.iter().find(|column| column.generated)?;
        Some(format!("ALTER TABLE {} ALTER {} DROP EXPRESSION", table.full_name(), quoted(&column.name)))
    }

    fn drop_primary_key(&mut self) -> Option<String> {
        let table = self.movable().filter(|table| !table.primary_key.is_empty())?;
        // PostgreSQL names it so, from the name that the table had; after a rename there is nothing of that name.
        Some(format!(
            "ALTER TABLE {} DROP CONSTRAINT {} CASCADE",
            table.full_name(),
            quoted(&format!("{}_pkey", table.name))
        ))
    }
}

/// `pg_class.relreplident` in SQL.
fn identity_of(identity: &str) -> &'static str {
    match identity {
        "f" => "FULL",
        "n" => "NOTHING",
        _ => "DEFAULT",
    }
}

fn bound(number: u64) -> String {
    format!("FOR VALUES FROM ({}) TO ({})", number * PARTITION_KEYS, (number + 1) * PARTITION_KEYS)
}

/// A column, but not the one that partitions.
fn column(rng: &mut SmallRng, table: &Table, fits: impl Fn(&Column) -> bool) -> Option<Column> {
    let columns: Vec<&Column> =
        table.columns.iter().filter(|column| column.name != PARTITION_KEY && fits(column)).collect();
    pick(rng, &columns).map(|column| (*column).clone())
}
