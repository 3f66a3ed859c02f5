//! What changes do not say of their tables: asked of the source when a table is announced as its stream has not seen it.

use std::sync::Arc;

use async_trait::async_trait;
use dbstreamd_model::{RecordedFacts, TableSchema};

use crate::SourceError;

/// A source's catalog, over a connection of its own.
///
/// It is asked at some time after the change that it explains. So it may be asked only for what cannot have changed
/// since (what kind of type an OID is), and for facts, which say as of when they are true.
#[async_trait]
pub trait Catalog: Send {
    /// Describes the types that are not the source's own, and the table, as announced in the transaction with this id,
    /// which may have made them. Takes no longer than about fifteen seconds.
    ///
    /// # Errors
    /// When types would have to be looked up, and the source cannot be asked or does not show what that transaction did.
    async fn describe(&mut self, relation: u32, announced: &TableSchema, xid: u32) -> Result<Described, SourceError>;

    /// Whether the source has a publication of this name now. Takes no longer than about fifteen seconds.
    ///
    /// # Errors
    /// When the source cannot be asked.
    async fn has_publication(&mut self, publication: &str) -> Result<bool, SourceError>;

    /// Called now and then while there is nothing to ask: a connection may be let go.
    async fn rest(&mut self) {}
}

/// A table as it was announced, with what its source's catalog adds.
#[derive(Debug, Clone)]
pub struct Described {
    /// With the descriptions of its columns' types.
    pub schema: Arc<TableSchema>,
    /// None when the table is gone, has another name or other columns by now, or the source would not say.
    pub facts: Option<Arc<RecordedFacts>>,
}
