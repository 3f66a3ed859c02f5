//! One table as the stream tells of it: its structure, and its rows as text.

use std::collections::{BTreeMap, HashSet};

use crate::schemas::catalog::Table;
use crate::schemas::model::{Sent, Unsent, Wrong};
use dbstreamd_client::{ColumnFacts, Operation, TableFacts, TypeFacts};

/// A row's values, one for each published column.
pub(crate) type Values = Vec<Option<String>>;

/// A table.
#[derive(Default, Debug)]
pub(crate) struct Held {
    pub(crate) schema: String,
    pub(crate) name: String,
    /// In the words of the contract.
    kind: String,
    primary_key: Vec<String>,
    /// All of them; rows have values for those that are not generated.
    columns: Vec<ColumnFacts>,
    types: BTreeMap<String, TypeFacts>,
    pub(crate) rows: Vec<Values>,
    /// Its rows are not what the events say: to be read from the database at the next checkpoint.
    pub(crate) unknown: bool,
}

impl Held {
    pub(crate) fn published(&self, by_root: bool) -> bool {
        match self.kind.as_str() {
            "partition" => !by_root,
            "partitioned table" => by_root,
            _ => true,
        }
    }

    pub(crate) fn column_names(&self) -> impl Iterator<Item = &str> {
        published(&self.columns).map(|column| column.name.as_str())
    }

    /// Takes a schema change.
    pub(crate) fn become_like(&mut self, facts: &TableFacts, by_root: bool) {
        let was_published = !self.kind.is_empty() && self.published(by_root);
        let existed = !self.kind.is_empty();
        self.schema.clone_from(&facts.schema);
        self.name.clone_from(&facts.table);
        self.kind.clone_from(&facts.kind);
        self.primary_key.clone_from(&facts.primary_key);
        self.convert_types(&facts.types);
        self.convert_columns(&facts.columns);
        let is_published = self.published(by_root);
        if !is_published {
            self.rows.clear();
            self.unknown = false;
        } else if existed && !was_published {
            // A partition that stands alone now: its rows came under its root's name.
            self.unknown = true;
        }
    }

    fn convert_columns(&mut self, columns: &[ColumnFacts]) {
        let before: Vec<(u32, String)> =
            published(&self.columns).map(|column| (column.number, column.r#type.clone())).collect();
        let generated: HashSet<u32> =
            self.columns.iter().filter(|column| !column.generated.is_empty()).map(|column| column.number).collect();
        // What a generated column had in it was never sent; now that it is a column like others, that has to be read.
        if published(columns).any(|column| generated.contains(&column.number)) {
            self.unknown = true;
        }
        for row in &mut self.rows {
            let next =
                published(columns).map(|column| match before.iter().position(|(number, _)| *number == column.number) {
                    Some(place) => {
                        let value = row.get_mut(place).and_then(Option::take)?;
                        let type_before = before.get(place).map_or("", |(_, name)| name.as_str());
                        Some(recast(value, type_before, &column.r#type))
                    }
                    None => column.added_value.clone(),
                });
            *row = next.collect();
        }
        self.columns = columns.to_vec();
    }

    /// Labels that were renamed, and attributes that were added: no row says so.
    pub(crate) fn convert_types(&mut self, types: &[TypeFacts]) {
        for now in types {
            if let Some(before) = self.types.insert(now.name.clone(), now.clone()) {
                let array = format!("{}[]", now.name);
                let more = now.attributes.len().saturating_sub(before.attributes.len());
                // An addition that was not described, and a new name: which is which cannot be told.
                let added = before.labels.iter().all(|label| now.labels.contains(label));
                let unclear = !added && before.labels.len() != now.labels.len();
                let places: Vec<usize> = published(&self.columns)
                    .enumerate()
                    .filter(|(_, column)| column.r#type == now.name || column.r#type == array)
                    .map(|(place, _)| place)
                    .collect();
                self.unknown |= unclear && !places.is_empty();
                for row in &mut self.rows {
                    for place in &places {
                        if let Some(Some(text)) = row.get_mut(*place) {
                            *text = relabelled(text, &before.labels, &now.labels);
                            if more > 0 && text.pop() == Some(')') {
                                text.extend(std::iter::repeat_n(',', more).chain([')']));
                            }
                        }
                    }
                }
            }
        }
    }

    /// Takes a change of its rows.
    pub(crate) fn apply(
        &mut self,
        operation: Operation,
        before: Option<Vec<Sent>>,
        before_is_full: bool,
        after: Option<Vec<Sent>>,
        identity: &[bool],
    ) -> Result<(), Wrong> {
        if operation == Operation::Truncate {
            self.rows.clear();
            self.unknown = false;
            return Ok(());
        }
        if before_is_full && after.iter().flatten().any(Result::is_err) {
            return Err(("unchanged-is-filled", "a value is missing that the old row has".to_owned()));
        }
        if self.unknown {
            return Ok(());
        }
        let missing = |what: &str| ("readable", format!("{what} is missing"));
        if operation == Operation::Insert {
            let row: Result<Values, Unsent> = after.ok_or_else(|| missing("the row"))?.into_iter().collect();
            self.rows.push(row.map_err(|_| ("readable", "an INSERT leaves a value out".to_owned()))?);
            return Ok(());
        }
        let key = before.as_ref().or(after.as_ref()).ok_or_else(|| missing("the key"))?;
        let compared: Vec<(usize, &Option<String>)> = key
            .iter()
            .zip(identity)
            .enumerate()
            .filter(|(_, (_, in_identity))| before_is_full || **in_identity)
            .filter_map(|(place, (value, _))| Some((place, value.as_ref().ok()?)))
            .collect();
        if compared.is_empty() {
            return Err(("row-known", format!("a row of {} is changed, and nothing says which", self.name)));
        }
        let is_it = |row: &Values| compared.iter().all(|(place, value)| row.get(*place) == Some(*value));
        let found = self.rows.iter().position(is_it);
        let found = found.ok_or_else(|| {
            let key: Vec<String> = compared.iter().map(|(_, value)| shown(value)).collect();
            ("row-known", format!("{} has no row {}", self.name, key.join(", ")))
        })?;
        let old = self.rows.swap_remove(found);
        if operation == Operation::Update {
            let after = after.ok_or_else(|| missing("the new row"))?;
            let merged = after.into_iter().zip(old).map(|(new, old)| new.unwrap_or(old));
            self.rows.push(merged.collect());
        }
        Ok(())
    }

    /// How it differs from what it truly is, apart from rows.
    pub(crate) fn differs(&self, table: &Table) -> Option<String> {
        let told = (
            &self.schema,
            &self.name,
            self.kind == "partition",
            &self.primary_key,
            self.columns
                .iter()
                .map(|column| {
                    let generated = !column.generated.is_empty();
                    (column.number, column.name.as_str(), column.r#type.as_str(), column.not_null, generated)
                })
                .collect::<Vec<_>>(),
        );
        let truth = (
            &table.schema,
            &table.name,
            table.parent.is_some(),
            &table.primary_key,
            table
                .columns
                .iter()
                .map(|column| {
                    let (name, type_sql) = (column.name.as_str(), column.type_sql.as_str());
                    (column.number, name, type_sql, column.not_null, column.generated)
                })
                .collect::<Vec<_>>(),
        );
        (told != truth).then(|| format!("told was {told:?}, it is {truth:?}"))
    }

    /// The first rows that are in only one of both.
    pub(crate) fn compare(&self, truth: &[Values]) -> Result<(), String> {
        let (mut mine, mut theirs): (Vec<&Values>, Vec<&Values>) = (self.rows.iter().collect(), truth.iter().collect());
        mine.sort_unstable();
        theirs.sort_unstable();
        if mine == theirs {
            return Ok(());
        }
        let only = |of: &[&Values], other: &[&Values]| {
            let row = of.iter().find(|row| !other.contains(*row));
            row.map_or_else(|| "none".to_owned(), |row| row.iter().map(shown).collect::<Vec<_>>().join(" | "))
        };
        Err(format!(
            "{}.{} ({}): {} rows by the stream, {} in the database; only by the stream: {}; only in the database: {}",
            self.schema,
            self.name,
            self.column_names().collect::<Vec<_>>().join(" | "),
            mine.len(),
            theirs.len(),
            only(&mine, &theirs),
            only(&theirs, &mine)
        ))
    }
}

fn published(columns: &[ColumnFacts]) -> impl Iterator<Item = &ColumnFacts> {
    columns.iter().filter(|column| column.generated.is_empty())
}

/// A value, short enough to be read.
fn shown(value: &Option<String>) -> String {
    const CHARACTERS_MAX: usize = 60;
    match value {
        None => "NULL".to_owned(),
        Some(text) if text.chars().count() <= CHARACTERS_MAX => format!("{text:?}"),
        Some(text) => {
            format!(
                "{:?}… of {} characters",
                text.chars().take(CHARACTERS_MAX).collect::<String>(),
                text.chars().count()
            )
        }
    }
}

/// A value whose column got another type without being written anew: the same bits, which the new type may write another way.
fn recast(value: String, before: &str, now: &str) -> String {
    const PLAIN: &str = "timestamp without time zone";
    const ZONED: &str = "timestamp with time zone";
    match (before, now) {
        (PLAIN, ZONED) if !value.ends_with("infinity") => match value.strip_suffix(" BC") {
            Some(value) => format!("{value}+00 BC"),
            None => format!("{value}+00"),
        },
        (ZONED, PLAIN) => value.replace("+00", ""),
        ("integer", "oid") => value.parse::<i32>().map_or(value, |number| number.cast_unsigned().to_string()),
        _ => value,
    }
}

/// A label, or an array of them, after labels were renamed: as many as before, in the same order.
fn relabelled(text: &str, before: &[String], now: &[String]) -> String {
    if before.len() != now.len() || before == now {
        return text.to_owned();
    }
    let rename = |word: &str| match before.iter().position(|label| label == word) {
        Some(place) => now.get(place).cloned().unwrap_or_default(),
        None => word.to_owned(),
    };
    let mut out = String::with_capacity(text.len());
    for piece in text.split_inclusive([',', '{', '}']) {
        let word = piece.trim_end_matches([',', '{', '}']);
        out += &rename(word);
        out += piece.get(word.len()..).unwrap_or_default();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(row: &[&str]) -> Values {
        row.iter().map(|value| Some((*value).to_owned())).collect()
    }

    fn facts(columns: &[(u32, &str, Option<&str>)]) -> TableFacts {
        let columns = columns.iter().map(|(number, name, added)| ColumnFacts {
            number: *number,
            name: (*name).to_owned(),
            added_value: added.map(str::to_owned),
            ..Default::default()
        });
        TableFacts { kind: "table".into(), columns: columns.collect(), ..TableFacts::default() }
    }

    #[test]
    fn rows_follow_their_columns_by_number_and_get_the_added_value() {
        let mut held = Held::default();
        held.become_like(&facts(&[(1, "a", None), (2, "b", None)]), false);
        held.rows.push(values(&["1", "x"]));
        held.become_like(&facts(&[(2, "renamed", None), (3, "c", Some("7")), (4, "d", None)]), false);
        assert_eq!(held.rows, [vec![Some("x".into()), Some("7".into()), None]]);
    }

    #[test]
    fn labels_are_renamed_in_values_and_arrays() {
        let labels = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect::<Vec<_>>();
        let renamed = |text| relabelled(text, &labels(&["a", "b"]), &labels(&["a", "c"]));
        assert_eq!((renamed("b").as_str(), renamed("{b,NULL,ab,a,b}").as_str()), ("c", "{c,NULL,ab,a,c}"));
        assert_eq!(relabelled("a", &labels(&["a"]), &labels(&["a", "b"])), "a", "one was added");
    }

    #[test]
    fn an_update_without_its_row_and_a_difference_of_one_row_are_noticed() {
        let mut held = Held::default();
        held.become_like(&facts(&[(1, "a", None)]), false);
        held.rows.push(values(&["1"]));
        let sent = |text: &str| Some(vec![Ok(Some(text.to_owned()))]);
        assert!(held.apply(Operation::Update, None, false, sent("2"), &[true]).is_err());
        assert!(held.apply(Operation::Update, sent("1"), false, sent("2"), &[true]).is_ok());
        assert!(held.compare(&[values(&["2"])]).is_ok());
        for truth in [vec![], vec![values(&["1"])], vec![values(&["2"]), values(&["2"])]] {
            assert!(held.compare(&truth).is_err());
        }
    }
}
