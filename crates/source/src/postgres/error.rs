//! Everything that can go wrong between us and a PostgreSQL server: cause and remedy in one line each.
//!
//! [`PgError::is_transient`] is the one table that decides whether trying again can help. What to do about an
//! error that the server itself reports is in [`ServerError::advice`].

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use dbstreamd_model::Lsn;

use super::options::OptionsError;

/// A failed conversation with a server.
#[derive(Debug, thiserror::Error)]
pub enum PgError {
    /// The connection string or its environment.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The name has no address.
    #[error("cannot find the host {host:?}: {source}; check the spelling in the connection string, and DNS")]
    UnknownHost {
        /// As given.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// Nobody answered there.
    #[error(
        "cannot connect to {address}: {source}; check that PostgreSQL runs there, that listen_addresses and port fit, and that no firewall is between"
    )]
    Unreachable {
        /// Host and port, or the socket file.
        address: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Several hosts were given and none would do.
    #[error("no host of the connection string can be used: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | "))]
    NoHost(Vec<PgError>),
    /// It took too long.
    #[error("{address} did not complete the connection within {} s; check host, port and firewall, or raise connect_timeout", .after.as_secs())]
    ConnectTimeout {
        /// Host and port, or the socket file.
        address: String,
        /// The limit.
        after: Duration,
    },
    /// It took the connection and ended it before it had answered.
    #[error(
        "{address} ended the connection before it had answered ({how}): a proxy does so while the server behind it is away, and so does what is not a PostgreSQL server; if it stays so, check host and port of the connection string"
    )]
    HungUp {
        /// Host and port, or the socket file.
        address: String,
        /// In which way.
        how: String,
    },
    /// Somebody answered, in another language.
    #[error("{address} is not a PostgreSQL server ({detail}); check host and port of the connection string")]
    NotPostgres {
        /// Host and port, or the socket file.
        address: String,
        /// What came instead.
        detail: String,
    },
    /// Connected to a server in the wrong role.
    #[error(
        "{address} is {found}, but target_session_attrs={wanted}; give the address of a fitting server, or all of them"
    )]
    WrongRole {
        /// Host and port, or the socket file.
        address: String,
        /// What the server is.
        found: &'static str,
        /// What was asked for.
        wanted: &'static str,
    },
    /// The server said no while we connected.
    #[error("{address} refused the connection: {error}; {}", .error.advice())]
    Refused {
        /// Host and port, or the socket file.
        address: String,
        /// Its words.
        error: Box<ServerError>,
    },
    /// The server wants a password and there is none.
    #[error(
        "the server asks for a password of user {user:?} and none is set; put it into the connection string, PGPASSWORD or the password file"
    )]
    PasswordMissing {
        /// The role.
        user: String,
    },
    /// The server wants the password in clear over a connection that others can read.
    #[error(
        "{address} asks for the password in clear text over an unencrypted connection, which would show it to the network; use sslmode=require, a Unix socket or scram-sha-256 in pg_hba.conf, or allow it with allow_cleartext_password = true"
    )]
    CleartextRefused {
        /// Host and port.
        address: String,
    },
    /// A way of authenticating that we do not speak.
    #[error(
        "the server asks for {method} authentication, which dbstreamd does not speak; use scram-sha-256 (or a client certificate) for this user in pg_hba.conf"
    )]
    AuthMethod {
        /// Its name.
        method: String,
    },
    /// The exchange of proofs failed, or the server could not prove that it knows the password.
    #[error(
        "SCRAM authentication failed: {0}; the server may be an impostor, do not send it a password in another way"
    )]
    Scram(String),
    /// The connection cannot be bound to the TLS channel.
    #[error("channel_binding=require cannot be met: {0}")]
    ChannelBinding(&'static str),
    /// The server does not do TLS.
    #[error(
        "{address} does not accept TLS and sslmode={mode} demands it; set ssl = on at the server, or choose another sslmode"
    )]
    TlsRefused {
        /// Host and port.
        address: String,
        /// As given.
        mode: &'static str,
    },
    /// Bytes in clear after the answer to our request for TLS: somebody injects data.
    #[error(
        "{address} sent unencrypted bytes after agreeing to TLS; somebody between may be injecting data, the connection was closed"
    )]
    TlsInjection {
        /// Host and port.
        address: String,
    },
    /// A certificate or key file.
    #[error("cannot use {} ({what}): {detail}", .path.display())]
    TlsFile {
        /// Which setting named it.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// TLS settings that contradict each other or this machine.
    #[error("TLS cannot be set up: {0}")]
    TlsSetup(String),
    /// The server's certificate does not convince.
    #[error("the certificate of {address} was not accepted: {detail}")]
    TlsCertificate {
        /// Host and port.
        address: String,
        /// Why, and what to do.
        detail: String,
    },
    /// The handshake failed for another reason.
    #[error("the TLS handshake with {address} failed: {source}; check the server's ssl settings and its log")]
    TlsHandshake {
        /// Host and port.
        address: String,
        /// What rustls said.
        source: io::Error,
    },
    /// A setting that decides how values are printed is not what we asked for.
    #[error(
        "the server runs this session with {name} = {found:?} instead of {wanted:?}: values would not be in the one form that consumers rely on; remove what overrides it (a connection pooler in between? connect to PostgreSQL directly)"
    )]
    SettingNotHeld {
        /// Setting.
        name: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// Too old to stream from.
    #[error("the server is PostgreSQL {0}; dbstreamd needs version 14 or newer")]
    TooOld(String),
    /// The conversation was running and ended.
    #[error("the connection to the server was lost: {0}; dbstreamd connects again by itself")]
    Lost(io::Error),
    /// The server ended the stream in an orderly way.
    #[error("the server ended the replication stream; dbstreamd connects again by itself")]
    StreamEnded,
    /// The server sent something that the protocol does not allow here.
    #[error("the server broke the protocol: {0}; a proxy or pooler in between? connect to PostgreSQL directly")]
    Protocol(String),
    /// The server refused a command, or ended the session.
    #[error("{error}; {}", .error.advice())]
    Server {
        /// Its words.
        error: Box<ServerError>,
    },
    /// Slot creation waits for every transaction that was open.
    #[error("the slot {slot:?} could not be created within {} s: PostgreSQL first waits for every transaction that is open in the cluster, prepared ones included; end it, or raise slot_timeout", .after.as_secs())]
    SlotTimeout {
        /// Slot name.
        slot: String,
        /// The limit.
        after: Duration,
    },
    /// An answer without the columns it must have.
    #[error("the server answered {command} in an unknown form: {detail}; is a proxy in between?")]
    Answer {
        /// The command.
        command: &'static str,
        /// What is missing.
        detail: String,
    },
}

impl PgError {
    /// Whether the same attempt may succeed later without anybody changing anything: the one policy table.
    pub fn is_transient(&self) -> bool {
        match self {
            // Networks and servers come back.
            Self::UnknownHost { .. }
            | Self::Unreachable { .. }
            | Self::ConnectTimeout { .. }
            | Self::Lost(_)
            | Self::HungUp { .. }
            | Self::StreamEnded
            | Self::SlotTimeout { .. }
            | Self::TlsHandshake { .. } => true,
            // A failover may be under way.
            Self::WrongRole { .. } => true,
            Self::NoHost(errors) => errors.iter().any(Self::is_transient),
            Self::Refused { error, .. } | Self::Server { error } => error.is_transient(),
            // Somebody must change a setting, a file or an address.
            Self::Options(_)
            | Self::NotPostgres { .. }
            | Self::PasswordMissing { .. }
            | Self::CleartextRefused { .. }
            | Self::AuthMethod { .. }
            | Self::Scram(_)
            | Self::ChannelBinding(_)
            | Self::TlsRefused { .. }
            | Self::TlsInjection { .. }
            | Self::TlsFile { .. }
            | Self::TlsSetup(_)
            | Self::TlsCertificate { .. }
            | Self::SettingNotHeld { .. }
            | Self::TooOld(_)
            | Self::Protocol(_)
            | Self::Answer { .. } => false,
        }
    }

    /// What the server said, when it was the server.
    pub fn server_error(&self) -> Option<&ServerError> {
        match self {
            Self::Refused { error, .. } | Self::Server { error } => Some(error),
            Self::NoHost(errors) => errors.iter().find_map(Self::server_error),
            _ => None,
        }
    }

    /// The SQLSTATE of [`Self::server_error`].
    pub fn sqlstate(&self) -> Option<&str> {
        self.server_error().map(|error| error.sqlstate.as_str())
    }

    pub(crate) fn protocol(detail: impl Into<String>) -> Self {
        Self::Protocol(detail.into())
    }
}

/// An error as PostgreSQL reports it (documentation, "Error and Notice Message Fields").
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServerError {
    /// ERROR, FATAL or PANIC.
    pub severity: String,
    /// Five characters; appendix A of the PostgreSQL documentation.
    pub sqlstate: String,
    /// One line.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// The server's own advice.
    pub hint: Option<String>,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", one_line(&self.message))?;
        if let Some(detail) = &self.detail {
            write!(f, " ({})", one_line(detail))?;
        }
        write!(f, " [{}]", one_line(&self.sqlstate))
    }
}

impl ServerError {
    /// Severities after which the server closes the connection.
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity.as_str(), "FATAL" | "PANIC")
    }

    /// Whether the server will probably think differently later.
    pub fn is_transient(&self) -> bool {
        match self.sqlstate.as_str() {
            // Shutdown, crash recovery, starting up, resources that come back; a slot held by a dying connection.
            "57P01" | "57P02" | "57P03" | "57014" | "57P05" | "55006" | "25P02" | "40001" | "40P01" | "55P03" => true,
            // Too many connections: somebody disconnects. "All replication slots are in use" (53400) is a setting.
            "53300" | "53200" | "53100" => true,
            state => state.starts_with("08") || state.starts_with("58"),
        }
    }

    /// Whether it says that changes are left out since there was no such publication when they were made: PostgreSQL 18
    /// and newer warn of that where older versions end the stream. The words are in the server's language, the name is not.
    pub fn skips_publication(&self, publication: &str) -> bool {
        self.severity == "WARNING" && self.sqlstate == "55000" && self.message.contains(publication)
    }

    /// The process that holds a slot, from `replication slot "x" is active for PID 4711`.
    pub fn active_pid(&self) -> Option<i32> {
        let (_, rest) = self.message.rsplit_once(" PID ")?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }

    /// What an operator can do about it: the server's hint where it has one, ours where we know better.
    pub fn advice(&self) -> String {
        let ours = match self.sqlstate.as_str() {
            "28P01" => "check user and password of the connection string",
            "28000" if self.message.contains("pg_hba.conf") && self.message.contains("no encryption") => {
                "allow this host, user and database in the server's pg_hba.conf and reload it, or use sslmode=require if only hostssl lines match"
            }
            "28000" if self.message.contains("pg_hba.conf") => {
                "allow this host, user and database in the server's pg_hba.conf (replication connections use the database's line) and reload it"
            }
            "28000" if self.message.contains("does not exist") => {
                "create the role, or correct the user in the connection string"
            }
            "28000" => "check the user's right to log in",
            "3D000" => "create the database, or correct its name in the connection string",
            "53300" => {
                "the server has no free connection or walsender: raise max_connections or max_wal_senders, or close other clients"
            }
            "53400" => "raise max_replication_slots, or drop a slot that nobody uses",
            "57P01" | "57P02" => "the server was shut down or restarted; dbstreamd connects again by itself",
            "57P03" => "the server is starting up or shutting down; dbstreamd tries again by itself",
            "55006" => {
                "another connection uses the slot: it is released when that one ends (see pg_stat_replication), one slot serves one reader"
            }
            "42501" => "grant the missing privilege to this role (replication needs ALTER ROLE … REPLICATION)",
            "55000" if self.message.contains("wal_level") => "set wal_level = logical at the server and restart it",
            "42704" if self.message.contains("replication slot") => "create the slot, or let dbstreamd create it",
            "42704" if self.message.contains("publication") => {
                "the slot is older than the publication and cannot see it: drop the slot, and start a stream under another name"
            }
            "42710" => "use another name, or drop the old object if nobody uses it",
            // A value's text, or the message with the row, would pass PostgreSQL's limit of 1 GiB for one piece of memory.
            "XX000" if self.message.starts_with("invalid memory alloc request size") => TOO_LARGE_AS_TEXT,
            "54000" => TOO_LARGE_AS_TEXT,
            // A character that UTF-8 lacks; bytes that are none in the database's own encoding; no conversion at all.
            "22P05" | "22021" => NOT_UTF8,
            "22023" | "0A000" if self.message.starts_with("conversion between") => NOT_UTF8,
            "58P01" | "XX000" | "XX001" | "XX002" => "see the server's log",
            _ => "",
        };
        match (&self.hint, ours) {
            (_, ours) if !ours.is_empty() => ours.to_owned(),
            (Some(hint), _) => one_line(hint),
            (None, _) => "see the server's log for more".to_owned(),
        }
    }
}

/// What helps against a row that the server cannot print.
const TOO_LARGE_AS_TEXT: &str = "a value is too large to be sent as text (a bytea of 512 MiB and more is, since each byte becomes two digits): set binary = true for this source and restart dbstreamd";

/// What helps against text that the server cannot convert.
const NOT_UTF8: &str = "the database holds text in its own encoding that the server cannot convert to UTF-8: set raw_text = true for this source, so that it comes as the bytes it is, and restart dbstreamd";

/// Text of a stranger, fit for one line of a log: no control characters, not too long.
pub(crate) fn one_line(text: &str) -> String {
    const CHARS_MAX: usize = 500;
    let mut line: String = text.chars().take(CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        line.push('…');
    }
    line
}

/// What `IDENTIFY_SYSTEM` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SystemIdentity {
    /// Unique to a cluster, kept by its standbys and by restored copies.
    pub system_id: u64,
    /// Rises at every promotion.
    pub timeline: u32,
    /// How far WAL is flushed.
    pub flush_lsn: Lsn,
    /// The connected database.
    pub database: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(sqlstate: &str, message: &str) -> ServerError {
        ServerError {
            severity: "FATAL".into(),
            sqlstate: sqlstate.into(),
            message: message.into(),
            ..Default::default()
        }
    }

    #[test]
    fn the_holder_of_a_slot_is_found_in_the_message() {
        assert_eq!(server("55006", "replication slot \"a PID b\" is active for PID 4711").active_pid(), Some(4711));
        assert_eq!(server("55006", "replication slot \"a\" is active for PID 4711").active_pid(), Some(4711));
        assert_eq!(server("55006", "something else").active_pid(), None);
    }

    #[test]
    fn only_a_warning_that_names_the_publication_says_that_it_is_skipped_in_whatever_language() {
        let said = |severity: &str, state, message| {
            let said = ServerError { severity: severity.into(), ..server(state, message) };
            said.skips_publication("shop")
        };
        assert!(said("WARNING", "55000", "skipped loading publication \"shop\""));
        assert!(said("WARNING", "55000", "Laden der Publikation »shop« übersprungen"));
        assert!(!said("WARNING", "55000", "skipped loading publication \"other\""));
        assert!(!said("WARNING", "01000", "skipped loading publication \"shop\""));
        assert!(!said("NOTICE", "55000", "skipped loading publication \"shop\""));
    }

    #[test]
    fn a_wrong_password_needs_an_operator_and_a_restart_does_not() {
        let refused = |state| PgError::Refused { address: "h:1".into(), error: Box::new(server(state, "x")) };
        assert!(!refused("28P01").is_transient());
        assert!(!refused("3D000").is_transient());
        assert!(refused("57P03").is_transient());
        assert!(PgError::NoHost(vec![refused("28P01"), refused("57P01")]).is_transient());
    }

    #[test]
    fn a_servers_words_stay_on_one_line() {
        let text = server("XX000", "a\nb\u{1b}[31mc").to_string();
        assert_eq!(text, "a b [31mc [XX000]");
        assert!(one_line(&"x".repeat(10_000)).len() < 600);
    }
}
