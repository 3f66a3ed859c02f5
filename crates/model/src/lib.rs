//! The nouns of dbstreamd: positions, ids, schemas, rows and events.
//!
//! Nothing here does I/O, knows a socket, a file or an async runtime. Every other crate
//! speaks in these types, so that a position is never a bare `u64` and a row is never a
//! bare byte slice.

mod ddl;
mod event;
mod facts;
mod ids;
mod lsn;
mod name;
mod notice;
mod offset;
mod row;
mod schema;
mod timestamp;
mod type_kind;

pub use ddl::{DDL_PREFIX, DdlDivergence, DdlDocument, DdlObject};
pub use event::{BeforeKind, BodyError, EventBody, MessageBody, Op, RowChange, TruncateFlags};
pub use facts::{AttributeFacts, ColumnFacts, FactsOrigin, RecordedFacts, TableFacts, TypeFacts};
pub use ids::{ConsumerName, Epoch, NameError, SchemaId, StreamId, StreamName};
pub use lsn::{Lsn, LsnParseError};
pub use name::{Name, name_from_text};
pub use notice::{Notice, NoticeSink, Severity};
pub use offset::Offset;
pub use row::{CellRef, Cells, RowError, RowRef};
pub use schema::{Column, Fingerprint, ReplicaIdentity, SchemaDecodeError, TableSchema};
pub use timestamp::Timestamp;
pub use type_kind::{TypeDescription, TypeKind};
