//! Whether the event triggers of `ddl_capture` are there, and whether this role may install them.
//!
//! Nothing here keeps a stream from starting: without them schema versions are derived from what the server announces.

use super::SourceSettings;
use super::assessment::Assessment;
use super::facts::Facts;
use crate::postgres::capture::{self, Installed};

/// What is said of it.
const SUBJECT: &str = "ddl_capture";

/// How to do by hand what the role may not.
const BY_HAND: &str =
    "have a superuser run, in this database, what `dbstreamd check --print-sql` prints; or set ddl_capture = false";

/// Who owns the function decides what runs in everybody's commands.
const FOREIGN: &str = "schema dbstreamd or its function capture_ddl belongs to a role that is no superuser and made no event triggers: nothing is installed into it, and what it records need not be true";

/// How to be rid of it.
const REMOVE_FOREIGN: &str =
    "have a superuser look at what is in it and run, in this database, DROP SCHEMA dbstreamd CASCADE; then start again";

pub(crate) fn judge(facts: &Facts, settings: &SourceSettings, to: &mut Assessment) {
    if facts.capture == Installed::Foreign {
        to.findings.warn(SUBJECT, SUBJECT, FOREIGN, REMOVE_FOREIGN);
        return;
    }
    if !settings.ddl_capture {
        if facts.capture != Installed::No {
            to.findings.ok(
                SUBJECT,
                SUBJECT,
                "event triggers of dbstreamd are installed here: what they record is delivered as schema changes",
            );
        }
        return;
    }
    if facts.setting("event_triggers") == "off" {
        to.findings.warn(
            SUBJECT,
            SUBJECT,
            "event triggers are switched off on this server: no schema change is recorded",
            "set event_triggers = on",
        );
    }
    let (missing, done) = match facts.capture {
        Installed::Yes => {
            return to.findings.ok(SUBJECT, SUBJECT, "the event triggers that record schema changes are installed");
        }
        Installed::No | Installed::Foreign => ("are not installed", "installed"),
        Installed::Outdated => ("are older than this version's, or not all there and enabled", "updated"),
    };
    let role = &facts.role;
    let changeable = !facts.server.read_only && !facts.server.in_recovery;
    // Managed services let their own administrators create event triggers.
    if changeable && (role.superuser || !role.cloud.is_empty()) {
        to.findings.ok(
            SUBJECT,
            SUBJECT,
            format!("the event triggers that record schema changes are {done} at the start"),
        );
        to.plan.install_capture = Some(capture::install_sql());
        return;
    }
    let why = if changeable {
        format!("role {} may not create event triggers", facts.server.user)
    } else {
        "nothing can be changed on this server".to_owned()
    };
    to.findings.warn(
        SUBJECT,
        SUBJECT,
        format!("the event triggers that record schema changes {missing}, and {why}: changes are noticed late and without their statements"),
        BY_HAND,
    );
}
