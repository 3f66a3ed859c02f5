//! Relation messages, and how one becomes a schema version.

use dbstreamd_model::{Column, Name, ReplicaIdentity, TableSchema};

use crate::ParseError;
use crate::input::Input;

/// A column's flag: it belongs to the replica identity.
const IN_IDENTITY: u8 = 1;

/// PostgreSQL's limit for a table (`MaxHeapAttributeNumber`).
const COLUMNS_MAX: u16 = 1_600;

/// Types with a lower OID come with PostgreSQL itself and are never described; their OIDs are the same on every
/// server (`FirstGenbkiObjectId`).
const DESCRIBED_FROM_OID: u32 = 10_000;

/// `R`: a table and its columns, checked whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RelationMessage<'a> {
    oid: u32,
    namespace: Name<'a>,
    table: Name<'a>,
    replica_identity: ReplicaIdentity,
    column_count: u16,
    /// As on the wire; `parse` has read each of them once.
    columns: &'a [u8],
}

/// One column of a [`RelationMessage`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RelationColumn<'a> {
    /// Whether it belongs to the replica identity.
    pub in_identity: bool,
    /// Its name.
    pub name: Name<'a>,
    /// Its type's OID.
    pub type_oid: u32,
    /// Its type modifier, -1 for none.
    pub type_modifier: i32,
}

impl<'a> RelationMessage<'a> {
    pub(crate) fn parse(mut input: Input<'a>) -> Result<Self, ParseError> {
        let oid = input.u32("OID")?;
        let namespace = input.namespace()?;
        let table = input.name("name")?;
        let identity = input.byte("replica identity")?;
        let replica_identity =
            ReplicaIdentity::from_code(identity).ok_or_else(|| input.undefined("replica identity", identity.into()))?;
        let column_count = input.u16("column count")?;
        if column_count > COLUMNS_MAX {
            return Err(input.undefined("column count", column_count.into()));
        }
        let columns = input.rest();
        for _ in 0..column_count {
            next_column(&mut input)?;
        }
        input.end()?;
        Ok(Self { oid, namespace, table, replica_identity, column_count, columns })
    }

    /// The table's OID: what row messages of this connection refer to.
    pub const fn oid(&self) -> u32 {
        self.oid
    }

    /// The table's namespace; never empty, although `pg_catalog` is sent so.
    pub const fn namespace(&self) -> Name<'a> {
        self.namespace
    }

    /// The table's name.
    pub const fn table(&self) -> Name<'a> {
        self.table
    }

    /// What identifies a row in updates and deletes.
    pub const fn replica_identity(&self) -> ReplicaIdentity {
        self.replica_identity
    }

    /// The columns, in the order of a row's cells.
    pub const fn columns(&self) -> Columns<'a> {
        Columns { input: Input::new("Relation", self.columns), left: self.column_count }
    }

    /// The schema version this message describes; `type_name` knows PostgreSQL's own types and those that Type
    /// messages described before.
    ///
    /// # Errors
    /// When a column's type should have been described and was not.
    pub fn to_schema(&self, type_name: impl Fn(u32) -> Option<String>) -> Result<TableSchema, ParseError> {
        let columns = self.columns().map(|column| {
            let type_name = match type_name(column.type_oid) {
                Some(name) => name,
                // A type of a newer PostgreSQL than our list of its types: its number names it as well.
                None if column.type_oid < DESCRIBED_FROM_OID => format!("pg_catalog.oid_{}", column.type_oid),
                None => {
                    return Err(ParseError::UnknownType {
                        table: format!("{}.{}", self.namespace.to_text(), self.table.to_text()),
                        column: column.name.to_text().into_owned(),
                        oid: column.type_oid,
                    });
                }
            };
            Ok(Column {
                name: column.name.to_text().into_owned(),
                type_name,
                type_oid: column.type_oid,
                type_modifier: column.type_modifier,
                in_identity: column.in_identity,
                description: None,
            })
        });
        Ok(TableSchema {
            namespace: self.namespace.to_text().into_owned(),
            table: self.table.to_text().into_owned(),
            replica_identity: self.replica_identity,
            columns: columns.collect::<Result<_, _>>()?,
        })
    }
}

/// Iterator over the columns of a [`RelationMessage`].
#[derive(Clone)]
pub struct Columns<'a> {
    input: Input<'a>,
    left: u16,
}

impl<'a> Iterator for Columns<'a> {
    type Item = RelationColumn<'a>;

    fn next(&mut self) -> Option<RelationColumn<'a>> {
        self.left = self.left.checked_sub(1)?;
        // The message was checked when it was parsed, so this column is there.
        next_column(&mut self.input).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left.into(), Some(self.left.into()))
    }
}

impl ExactSizeIterator for Columns<'_> {}

fn next_column<'a>(input: &mut Input<'a>) -> Result<RelationColumn<'a>, ParseError> {
    let flags = input.byte("column flags")?;
    let name = input.name("column name")?;
    let type_oid = input.u32("column type")?;
    let type_modifier = input.i32("column type modifier")?;
    Ok(RelationColumn { in_identity: flags & IN_IDENTITY != 0, name, type_oid, type_modifier })
}
