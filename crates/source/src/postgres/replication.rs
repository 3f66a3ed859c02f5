//! Replication commands: who the server is, slots, and the start of streaming.

use std::time::Duration;

use dbstreamd_model::Lsn;
use serde::{Deserialize, Serialize};

use super::connection::{Connection, Row, unexpected};
use super::error::{PgError, SystemIdentity};
use super::feedback::FeedbackWriter;
use super::wal::WalReader;
use super::wire::server_error;

/// After a cancel request the server answers at once; if it does not, the connection is given up.
const CANCEL_ANSWER_MAX: Duration = Duration::from_secs(5);
/// `CREATE_REPLICATION_SLOT` took its options in a list from here on.
const VERSION_NUM_OPTION_LIST: u32 = 150_000;

/// What to stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replication {
    /// The slot.
    pub slot: String,
    /// The publications.
    pub publications: Vec<String>,
    /// Values in binary form. A fallback for what has no text form (bytea beyond 512 MiB); no faster.
    pub binary: bool,
    /// Which changes, by where they were first made.
    pub origin: Origin,
}

/// Which changes are sent, by where they were first made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// All of them.
    #[default]
    Any,
    /// Only those that were made on this server, not those that were replicated to it. PostgreSQL 16 and newer.
    None,
}

/// A slot that was just created.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreatedSlot {
    /// Its name.
    pub name: String,
    /// Changes committed after this position will be sent.
    pub consistent_point: Lsn,
}

impl Connection {
    /// `IDENTIFY_SYSTEM`.
    ///
    /// # Errors
    /// When the connection is not for replication, or broke.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, PgError> {
        let rows = self.simple_query("IDENTIFY_SYSTEM").await?;
        let row = rows.first();
        Ok(SystemIdentity {
            system_id: field(row, 0, "IDENTIFY_SYSTEM", "systemid")?,
            timeline: field(row, 1, "IDENTIFY_SYSTEM", "timeline")?,
            flush_lsn: field(row, 2, "IDENTIFY_SYSTEM", "xlogpos")?,
            database: row.and_then(|row| row.get(3)?.clone()),
        })
    }

    /// Whether the server is a standby.
    ///
    /// # Errors
    /// When the connection is for physical replication, or broke.
    pub async fn is_in_recovery(&mut self) -> Result<bool, PgError> {
        let rows = self.simple_query("SELECT pg_catalog.pg_is_in_recovery()").await?;
        let answer: String = field(rows.first(), 0, "pg_is_in_recovery()", "answer")?;
        Ok(answer == "t")
    }

    /// `TIMELINE_HISTORY`: where the server's timeline came from, as the text of its history file.
    ///
    /// # Errors
    /// When the server has no such file: timeline 1 has none.
    pub async fn timeline_history(&mut self, timeline: u32) -> Result<String, PgError> {
        let rows = self.simple_query(&format!("TIMELINE_HISTORY {timeline}")).await?;
        field(rows.first(), 1, "TIMELINE_HISTORY", "content")
    }

    /// Creates a permanent logical slot with pgoutput, without a snapshot.
    ///
    /// # Errors
    /// [`PgError::SlotTimeout`] when transactions that are open in the cluster kept the server from it for `timeout`;
    /// the creation is then cancelled and leaves nothing behind. Otherwise what the server says.
    pub async fn create_logical_slot(&mut self, slot: &str, timeout: Duration) -> Result<CreatedSlot, PgError> {
        let snapshot = if self.server_version_num() >= VERSION_NUM_OPTION_LIST {
            "(SNAPSHOT 'nothing')"
        } else {
            "NOEXPORT_SNAPSHOT"
        };
        self.send_query(&format!("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput {snapshot}", quote_identifier(slot)))
            .await?;
        let rows = match tokio::time::timeout(timeout, self.collect_rows()).await {
            Ok(rows) => rows?,
            Err(_) => return self.give_up_slot(slot, timeout).await,
        };
        created(&rows)
    }

    /// Cancels the creation. It may have succeeded in this very moment, which is then what counts.
    async fn give_up_slot(&mut self, slot: &str, after: Duration) -> Result<CreatedSlot, PgError> {
        let late = PgError::SlotTimeout { slot: slot.to_owned(), after };
        self.cancel().await?;
        match tokio::time::timeout(CANCEL_ANSWER_MAX, self.collect_rows()).await {
            Ok(Ok(rows)) => created(&rows),
            Ok(Err(error)) if error.sqlstate() == Some("57014") => Err(late),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(late),
        }
    }

    /// Drops a slot that nobody uses.
    ///
    /// # Errors
    /// What the server says: no such slot (42704), active elsewhere (55006).
    pub async fn drop_slot(&mut self, slot: &str) -> Result<(), PgError> {
        self.simple_query(&format!("DROP_REPLICATION_SLOT {}", quote_identifier(slot))).await.map(drop)
    }

    /// Starts to stream. `start` behind what the slot has confirmed is silently moved forward by the server, so compare
    /// with the slot before. `0/0` is the slot's own position.
    ///
    /// # Errors
    /// What the server says: no such slot, no such publication (only at the first change), slot active (55006).
    pub async fn start_replication(
        mut self,
        what: &Replication,
        start: Lsn,
    ) -> Result<(WalReader, FeedbackWriter), PgError> {
        let publications: Vec<_> = what.publications.iter().map(|name| quote_identifier(name)).collect();
        let binary = if what.binary { ", binary 'true'" } else { "" };
        let origin = match what.origin {
            Origin::Any => "",
            Origin::None => ", origin 'none'",
        };
        let command = format!(
            "START_REPLICATION SLOT {} LOGICAL {start} (proto_version '1', publication_names {}, messages 'true'{binary}{origin})",
            quote_identifier(&what.slot),
            // The replication grammar knows no escapes but the doubled quote.
            format_args!("'{}'", publications.join(",").replace('\'', "''")),
        );
        self.send_query(&command).await?;
        loop {
            let message = self.wire.receive().await?;
            match message.tag {
                b'W' => return WalReader::start(self.wire),
                b'E' => return Err(PgError::Server { error: Box::new(server_error(&message.body)) }),
                b'S' => {}
                tag => return Err(unexpected(tag, "START_REPLICATION")),
            }
        }
    }
}

fn created(rows: &[Row]) -> Result<CreatedSlot, PgError> {
    const COMMAND: &str = "CREATE_REPLICATION_SLOT";
    Ok(CreatedSlot {
        name: field(rows.first(), 0, COMMAND, "slot_name")?,
        consistent_point: field(rows.first(), 1, COMMAND, "consistent_point")?,
    })
}

fn field<T: std::str::FromStr>(
    row: Option<&Row>,
    index: usize,
    command: &'static str,
    name: &str,
) -> Result<T, PgError> {
    let text = row.and_then(|row| row.get(index)?.as_deref());
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| PgError::Answer { command, detail: format!("no usable {name}") })
}

/// A name for SQL, whatever is in it.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text for SQL, whatever is in it and however `standard_conforming_strings` is set.
pub fn quote_literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') { format!(" E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_survives_quotes() {
        assert_eq!(quote_identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal(r"a\b"), r" E'a\\b'");
    }
}
