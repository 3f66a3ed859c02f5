//! One SQL session of a case: transactions, savepoints, and statements that may be refused.

use std::fs::File;
use std::io::Write;

use rand::rngs::SmallRng;
use tokio_postgres::Client;

use crate::error::{TortureError, io, sql};
use crate::schemas::catalog::{Deed, Look};
use crate::schemas::changes::Change;
use crate::schemas::model::DEED;
use crate::schemas::rows::say;
use crate::schemas::values::chance;
use crate::server::Server;

/// As the stream's own session has them, so that text is compared with text. Locks of other sessions last until these come to
/// their turn, so waiting for one is of no use.
const SETTINGS: &str = "
SET search_path = pg_catalog; SET \"TimeZone\" = 'UTC'; SET \"DateStyle\" = 'ISO, MDY'; SET \"IntervalStyle\" = 'postgres';
SET bytea_output = 'hex'; SET extra_float_digits = 3; SET lock_timeout = '30ms'; SET client_min_messages = error";

/// How many statements were run, and how many of them PostgreSQL refused.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Tried {
    pub(crate) statements: u64,
    pub(crate) refused: u64,
    /// Schema changes that were done, whether or not they were rolled back later.
    pub(crate) changes: u64,
}

/// Everything that was run, in order: what is read when a case went wrong.
pub(crate) struct Script(File);

impl Script {
    pub(crate) fn create(path: &std::path::Path) -> Result<Self, TortureError> {
        Ok(Self(File::create(path).map_err(io("create the script"))?))
    }

    pub(crate) fn note(&mut self, line: &str) -> Result<(), TortureError> {
        writeln!(self.0, "{line}").map_err(io("write the script"))
    }
}

/// A session.
pub(crate) struct Session {
    pub(crate) client: Client,
    number: usize,
    open: bool,
    savepoints: u32,
    pub(crate) tried: Tried,
    /// What a statement was refused with that our own trigger has to do with.
    pub(crate) in_the_way: Option<String>,
}

impl Session {
    pub(crate) async fn connect(server: &Server, number: usize) -> Result<Self, TortureError> {
        let client = server.connect().await?;
        client.batch_execute(SETTINGS).await.map_err(sql("prepare a session"))?;
        Ok(Self { client, number, open: false, savepoints: 0, tried: Tried::default(), in_the_way: None })
    }

    /// Whether a transaction is open.
    pub(crate) fn open(&self) -> bool {
        self.open
    }

    async fn run(&mut self, statement: &str, script: &mut Script) -> Result<(), tokio_postgres::Error> {
        let result = self.client.batch_execute(statement).await;
        let outcome = match &result {
            Ok(()) => String::new(),
            Err(error) => format!(
                " -- {}",
                error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
            ),
        };
        // What cannot be noted is noticed with the next statement.
        let _ = script.note(&format!("/* {} */ {statement};{outcome}", self.number));
        result
    }

    /// A command of transactions, which is not refused.
    async fn control(&mut self, command: &str, script: &mut Script) -> Result<(), TortureError> {
        self.run(command, script).await.map_err(sql("control a transaction"))
    }

    /// Begins a transaction, or sets a savepoint.
    pub(crate) async fn begin(&mut self, script: &mut Script) -> Result<(), TortureError> {
        if !self.open {
            self.open = true;
            return self.control("BEGIN", script).await;
        }
        self.savepoints += 1;
        let command = format!("SAVEPOINT p{}", self.savepoints);
        self.control(&command, script).await
    }

    /// Back to a savepoint, if there is one.
    pub(crate) async fn back(&mut self, script: &mut Script) -> Result<(), TortureError> {
        if self.savepoints == 0 {
            return Ok(());
        }
        let command = format!("ROLLBACK TO p{0}; RELEASE p{0}", self.savepoints);
        self.savepoints -= 1;
        self.control(&command, script).await
    }

    /// Ends the transaction, if one is open.
    pub(crate) async fn end(&mut self, commit: bool, script: &mut Script) -> Result<(), TortureError> {
        if !std::mem::take(&mut self.open) {
            return Ok(());
        }
        self.savepoints = 0;
        self.control(if commit { "COMMIT" } else { "ROLLBACK" }, script).await
    }

    /// Runs a statement that PostgreSQL may refuse, now and then in a subtransaction. Whether it did it.
    pub(crate) async fn attempt(
        &mut self,
        statement: &str,
        rng: &mut SmallRng,
        script: &mut Script,
    ) -> Result<bool, TortureError> {
        let guarded = self.open && chance(rng, 60);
        self.attempt_guarded(statement, guarded, script).await
    }

    /// `guarded`: in a subtransaction, so that a refusal undoes nothing else.
    async fn attempt_guarded(
        &mut self,
        statement: &str,
        guarded: bool,
        script: &mut Script,
    ) -> Result<bool, TortureError> {
        self.tried.statements += 1;
        if guarded {
            self.control("SAVEPOINT guard", script).await?;
        }
        let Err(error) = self.run(statement, script).await else {
            if guarded {
                self.control("RELEASE guard", script).await?;
            }
            return Ok(true);
        };
        let Some(said) = error.as_db_error() else { return Err(sql("run a statement")(error)) };
        self.tried.refused += 1;
        if said.message().contains("dbstreamd") || said.where_().is_some_and(|place| place.contains("dbstreamd")) {
            self.in_the_way.get_or_insert_with(|| format!("{}: {statement}", said.message()));
        }
        if guarded {
            self.control("ROLLBACK TO guard; RELEASE guard", script).await?;
        } else if self.savepoints > 0 {
            self.back(script).await?;
        } else {
            self.end(false, script).await?;
        }
        Ok(false)
    }

    /// Changes the schema, and writes behind it, in the same transaction, what that did. `next` gives a statement that
    /// follows at once, if there shall be one.
    pub(crate) async fn change(
        &mut self,
        change: &Change,
        before: &Look,
        rng: &mut SmallRng,
        script: &mut Script,
        next: impl FnOnce(&mut SmallRng, &Look) -> Option<String>,
    ) -> Result<bool, TortureError> {
        let alone = !self.open;
        if alone {
            self.begin(script).await?;
        }
        let done = self.attempt(&change.sql, rng, script).await?;
        if done {
            self.tried.changes += 1;
            let after = Look::take(&self.client).await?;
            // A row right behind it, with nothing of ours in between.
            if let Some(statement) = next(rng, &after) {
                self.attempt_guarded(&statement, true, script).await?;
            }
            let deed = serde_json::to_string(&Deed::between(before, &after, false)).unwrap_or_default();
            // PostgreSQL orders a message by where its record ends, which is where the next record begins: of two
            // subtransactions either can come first then. The second message keeps the first apart from what comes next.
            let both = format!("{}; {}", say(DEED, &deed), say("apart", ""));
            self.client.simple_query(&both).await.map_err(sql("write a deed"))?;
        }
        if alone {
            self.end(done, script).await?;
        }
        Ok(done)
    }
}
