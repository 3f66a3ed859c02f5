//! What a source's DDL trigger writes into its WAL: one JSON document per command, in the command's own transaction.

use serde::{Deserialize, Serialize};

use crate::TableFacts;

/// The prefix of the logical messages that hold the documents.
pub const DDL_PREFIX: &str = "dbstreamd.ddl";

/// One command that changed the schema.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DdlDocument {
    /// `ALTER TABLE` and the like.
    pub tag: String,
    /// The statement as it was sent, which may hold other commands too.
    pub statement: String,
    /// Who ran it.
    pub role: String,
    /// What was created or altered.
    pub objects: Vec<DdlObject>,
    /// What was dropped, also along with something else.
    pub dropped: Vec<DdlObject>,
    /// How the tables it touched look after it.
    pub tables: Vec<TableFacts>,
    /// Tables whose rows it changed without an event for each.
    pub diverged: Vec<DdlDivergence>,
    /// Why the trigger could not record all of it; empty when it could.
    pub error: String,
}

/// An object that a command touched.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DdlObject {
    /// `table`, `table column`, `type` and so on.
    #[serde(rename = "type")]
    pub kind: String,
    /// Namespace, empty for an object without one.
    pub schema: String,
    /// Name, empty for an object that has none of its own.
    pub name: String,
    /// With namespace, quoted as in SQL.
    pub identity: String,
    /// OID in its catalog.
    pub oid: u32,
}

/// A table whose rows are no longer what the stream says.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DdlDivergence {
    /// Namespace.
    pub schema: String,
    /// Name.
    pub table: String,
    /// `rewritten`, `partition_moved` or `name_reused`.
    pub reason: String,
    /// What happened, in words.
    pub detail: String,
    /// Publications that have the table.
    pub publications: Vec<String>,
}

impl DdlDocument {
    /// Reads a document. Fields that this version does not know are passed over.
    ///
    /// # Errors
    /// When it is not JSON, or a field is of another type.
    pub fn from_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }
}
