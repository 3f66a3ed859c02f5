//! What changed from one schema version of a table to the next. Pure.

use super::super::Paint;
use crate::proto::{Column, ColumnFacts, Schema, TableFacts, TypeFacts};
use crate::schema_json::identity_name;

/// What kind of change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Added,
    Removed,
    Changed,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        }
    }

    pub(super) const fn sign(self) -> char {
        match self {
            Self::Added => '+',
            Self::Removed => '-',
            Self::Changed => '~',
        }
    }

    pub(super) const fn paint(self) -> Paint {
        match self {
            Self::Added => Paint::Good,
            Self::Removed => Paint::Bad,
            Self::Changed => Paint::Change,
        }
    }
}

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Change {
    pub(super) kind: Kind,
    pub(super) text: String,
}

/// Everything that is different in `now`, columns first. Facts are compared when both versions have them.
pub(super) fn difference(before: &Schema, now: &Schema) -> Vec<Change> {
    let mut changes = Vec::new();
    columns(before, now, &mut changes);
    compare("replica identity", &identity_name(before), &identity_name(now), &mut changes);
    let identity = |schema: &Schema| names(schema.columns.iter().filter(|column| column.in_identity));
    compare("columns of the identity", &identity(before), &identity(now), &mut changes);
    if let (Some(before), Some(now)) = (&before.facts, &now.facts) {
        facts(before, now, &mut changes);
    }
    changes
}

/// A column's type as SQL has it, when that is known.
pub(super) fn type_text(schema: &Schema, column: &Column) -> String {
    let facts = schema.facts.as_ref().and_then(|facts| facts.columns.iter().find(|fact| fact.name == column.name));
    match (facts, &column.r#type) {
        (Some(facts), _) => facts.r#type.clone(),
        (None, _) if column.type_modifier != -1 => format!("{} (modifier {})", column.type_name, column.type_modifier),
        (None, Some(described)) if !described.name.is_empty() => described.name.clone(),
        (None, _) => column.type_name.clone(),
    }
}

fn columns(before: &Schema, now: &Schema, changes: &mut Vec<Change>) {
    let find = |schema: &Schema, name: &str| schema.columns.iter().find(|column| column.name == name).cloned();
    // A column that keeps its number was renamed.
    let renamed = |from: &Column| {
        let number = number(before.facts.as_ref()?, &from.name)?;
        let facts = now.facts.as_ref()?.columns.iter().find(|fact| fact.number == number)?;
        find(now, &facts.name).filter(|_| find(before, &facts.name).is_none())
    };
    let mut renamed_to = Vec::new();
    for column in &before.columns {
        let old = type_text(before, column);
        let text = match (find(now, &column.name), renamed(column)) {
            (Some(new), _) if is_other_type(column, &new) => {
                let new = type_text(now, &new);
                (Kind::Changed, format!("column {}: {old} → {new}", column.name))
            }
            (Some(_), _) => continue,
            (None, Some(new)) => {
                renamed_to.push(new.name.clone());
                let types = if is_other_type(column, &new) {
                    format!(": {old} → {}", type_text(now, &new))
                } else {
                    String::new()
                };
                (Kind::Changed, format!("column {} is now {}{types}", column.name, new.name))
            }
            (None, None) => (Kind::Removed, format!("column {} {old}", column.name)),
        };
        changes.push(Change { kind: text.0, text: text.1 });
    }
    for column in &now.columns {
        if find(before, &column.name).is_none() && !renamed_to.contains(&column.name) {
            let text = format!("column {}", super::column_line(now, column));
            changes.push(Change { kind: Kind::Added, text });
        }
    }
    let order =
        |of: &Schema, other: &Schema| names(of.columns.iter().filter(|column| find(other, &column.name).is_some()));
    compare("order of columns", &order(before, now), &order(now, before), changes);
}

fn is_other_type(before: &Column, now: &Column) -> bool {
    before.type_name != now.type_name || before.type_modifier != now.type_modifier || before.r#type != now.r#type
}

fn number(facts: &TableFacts, column: &str) -> Option<u32> {
    facts.columns.iter().find(|fact| fact.name == column).map(|fact| fact.number)
}

fn names<'a>(columns: impl Iterator<Item = &'a Column>) -> String {
    columns.map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn facts(before: &TableFacts, now: &TableFacts, changes: &mut Vec<Change>) {
    if before.oid != now.oid {
        let text = format!("another table of this name (relation {} → {})", before.oid, now.oid);
        changes.push(Change { kind: Kind::Changed, text });
    }
    compare("primary key", &before.primary_key.join(", "), &now.primary_key.join(", "), changes);
    compare("kind", &before.kind, &now.kind, changes);
    compare("owner", &before.owner, &now.owner, changes);
    compare("comment", &before.comment, &now.comment, changes);
    compare("partition of", &before.partition_of, &now.partition_of, changes);
    compare("partition bound", &before.partition_bound, &now.partition_bound, changes);
    compare("partition key", &before.partition_key, &now.partition_key, changes);
    for column in &now.columns {
        if let Some(old) = before.columns.iter().find(|old| old.name == column.name) {
            column_facts(old, column, changes);
        }
    }
    for described in &now.types {
        if let Some(old) = before.types.iter().find(|old| old.name == described.name) {
            type_facts(old, described, changes);
        }
    }
}

fn column_facts(before: &ColumnFacts, now: &ColumnFacts, changes: &mut Vec<Change>) {
    let text = |word: &str| format!("column {}: {word}", now.name);
    let null = |facts: &ColumnFacts| if facts.not_null { "NOT NULL" } else { "null allowed" }.to_owned();
    compare(&text("nullability"), &null(before), &null(now), changes);
    let default = |facts: &ColumnFacts| facts.default.clone().unwrap_or_default();
    compare(&text("default"), &default(before), &default(now), changes);
    compare(&text("generated"), &before.generated, &now.generated, changes);
    compare(&text("identity"), &before.identity, &now.identity, changes);
    compare(&text("collation"), &before.collation, &now.collation, changes);
    compare(&text("comment"), &before.comment, &now.comment, changes);
}

fn type_facts(before: &TypeFacts, now: &TypeFacts, changes: &mut Vec<Change>) {
    let text = |word: &str| format!("type {}: {word}", now.name);
    compare(&text("labels"), &before.labels.join(", "), &now.labels.join(", "), changes);
    let attributes = |facts: &TypeFacts| {
        let shown = facts.attributes.iter().map(|attribute| format!("{} {}", attribute.name, attribute.r#type));
        shown.collect::<Vec<_>>().join(", ")
    };
    compare(&text("attributes"), &attributes(before), &attributes(now), changes);
    compare(&text("base"), &before.base, &now.base, changes);
    compare(&text("checks"), &before.checks.join(", "), &now.checks.join(", "), changes);
}

fn compare(what: &str, before: &str, now: &str, changes: &mut Vec<Change>) {
    if before == now {
        return;
    }
    let shown = |text: &str| if text.is_empty() { "none".to_owned() } else { text.to_owned() };
    let text = format!("{what}: {} → {}", shown(before), shown(now));
    changes.push(Change { kind: Kind::Changed, text });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, type_name: &str) -> Column {
        Column { name: name.into(), type_name: type_name.into(), type_modifier: -1, ..Default::default() }
    }

    fn schema(columns: &[(&str, &str)]) -> Schema {
        let columns = columns.iter().map(|(name, type_name)| column(name, type_name)).collect();
        Schema { columns, ..Default::default() }
    }

    fn with_facts(schema: Schema, numbers: &[u32]) -> Schema {
        let fact = |(column, &number): (&Column, &u32)| ColumnFacts {
            name: column.name.clone(),
            number,
            r#type: column.type_name.clone(),
            ..Default::default()
        };
        let columns = schema.columns.iter().zip(numbers).map(fact).collect();
        Schema { facts: Some(TableFacts { columns, ..Default::default() }), ..schema }
    }

    fn texts(before: &Schema, now: &Schema) -> Vec<String> {
        difference(before, now).into_iter().map(|change| format!("{} {}", change.kind.sign(), change.text)).collect()
    }

    #[test]
    fn columns_that_came_went_moved_or_got_another_type_are_told() {
        let before = schema(&[("id", "int4"), ("old", "text"), ("n", "int4"), ("z", "bool")]);
        let now = schema(&[("id", "int4"), ("z", "bool"), ("n", "int8"), ("new", "text")]);
        assert_eq!(
            texts(&before, &now),
            [
                "- column old text",
                "~ column n: int4 → int8",
                "+ column new text",
                "~ order of columns: id, n, z → id, z, n"
            ]
        );
        assert!(texts(&before, &before).is_empty());
    }

    #[test]
    fn a_column_that_keeps_its_number_was_renamed_and_one_that_keeps_its_name_was_not() {
        let before = with_facts(schema(&[("id", "int4"), ("old", "text")]), &[1, 2]);
        let renamed = with_facts(schema(&[("id", "int4"), ("new", "text")]), &[1, 2]);
        assert_eq!(texts(&before, &renamed), ["~ column old is now new"]);
        let replaced = with_facts(schema(&[("id", "int4"), ("new", "text")]), &[1, 3]);
        assert_eq!(texts(&before, &replaced), ["- column old text", "+ column new text"]);
    }

    #[test]
    fn what_else_is_known_of_a_table_is_compared_when_both_versions_have_it() {
        let before = with_facts(schema(&[("id", "int4")]), &[1]);
        let mut now = before.clone();
        let facts = now.facts.as_mut().unwrap();
        facts.primary_key = vec!["id".into()];
        facts.columns[0].not_null = true;
        facts.columns[0].default = Some("1".into());
        assert_eq!(
            texts(&before, &now),
            [
                "~ primary key: none → id",
                "~ column id: nullability: null allowed → NOT NULL",
                "~ column id: default: none → 1"
            ]
        );
        assert!(texts(&schema(&[("id", "int4")]), &now).is_empty());
    }
}
