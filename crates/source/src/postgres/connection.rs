//! `Connection`: an authenticated session with pinned settings, for SQL or for replication commands.
//!
//! The order of things is libpq's: dial, agree on TLS, startup packet, authentication, parameters, ready. Replication
//! commands are in `replication.rs`.

use std::collections::HashMap;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use dbstreamd_model::name_from_text;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::auth;
use super::error::PgError;
use super::options::{ConnectOptions, Endpoint, SslMode, SslNegotiation, TargetSession};
use super::socket::{Stream, dial};
use super::wire::{Message, Wire, c_text, data_row, server_error, startup};
use super::{pinned, tls};

/// Oldest supported server: logical messages and everything else we ask pgoutput for exist since then.
const VERSION_NUM_MIN: u32 = 140_000;
/// Rows of one answer; catalog queries of a database with very many tables stay far below.
const ROWS_MAX: usize = 4_000_000;

/// One row of an answer, in text form.
pub type Row = Vec<Option<String>>;

/// What a session is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionKind {
    /// SQL.
    Ordinary,
    /// SQL and replication commands in one database (`replication=database`).
    Replication,
}

/// An authenticated session.
pub struct Connection {
    pub(super) wire: Wire,
    options: ConnectOptions,
    endpoint: Endpoint,
    parameters: HashMap<String, String>,
    /// Process and secret for a cancel request.
    backend: Option<(i32, i32)>,
    version_num: u32,
}

impl Connection {
    /// Connects to the first endpoint that will do.
    ///
    /// # Errors
    /// With cause and remedy. When the server refuses us (a wrong password), further endpoints are not tried.
    pub async fn connect(options: &ConnectOptions, kind: SessionKind) -> Result<Self, PgError> {
        let mut errors = Vec::new();
        for endpoint in &options.endpoints {
            // On the heap: this future holds the whole handshake, and callers await it inside their own.
            let attempt = Box::pin(Self::connect_to(options, endpoint, kind));
            match within(options.connect_timeout, endpoint, attempt).await {
                Ok(connection) => return Ok(connection),
                Err(error) if error.is_transient() => errors.push(error),
                Err(error) => return Err(error),
            }
        }
        match errors.pop() {
            Some(only) if errors.is_empty() => Err(only),
            Some(last) => {
                errors.push(last);
                Err(PgError::NoHost(errors))
            }
            None => Err(PgError::NoHost(errors)),
        }
    }

    async fn connect_to(options: &ConnectOptions, endpoint: &Endpoint, kind: SessionKind) -> Result<Self, PgError> {
        let encrypted = options.ssl_mode != SslMode::Disable;
        match Self::attempt(options, endpoint, kind, encrypted).await {
            // sslmode=prefer is a wish: when encryption is what fails, or what pg_hba.conf forbids, go without.
            Err(error) if options.ssl_mode == SslMode::Prefer && is_about_encryption(&error) => {
                match Self::attempt(options, endpoint, kind, false).await {
                    Err(PgError::Refused { .. }) => Err(error),
                    other => other,
                }
            }
            other => other,
        }
    }

    async fn attempt(
        options: &ConnectOptions,
        endpoint: &Endpoint,
        kind: SessionKind,
        encrypted: bool,
    ) -> Result<Self, PgError> {
        // Autotuning suits ordinary sessions; a WAL stream has a buffer that its pacing is steered by.
        let stream = dial(options, endpoint).await?;
        let stream = if encrypted { encrypt(options, endpoint, stream).await? } else { stream };
        let mut connection = Self {
            wire: Wire::new(stream, endpoint.to_string()),
            options: options.clone(),
            endpoint: endpoint.clone(),
            parameters: HashMap::new(),
            backend: None,
            version_num: 0,
        };
        connection.start(kind).await?;
        connection.verify_settings().await?;
        connection.verify_role().await?;
        Ok(connection)
    }

    async fn start(&mut self, kind: SessionKind) -> Result<(), PgError> {
        let mut parameters = vec![
            ("user", self.options.user.as_str()),
            ("database", self.options.database.as_str()),
            ("application_name", self.options.application_name.as_str()),
        ];
        if kind == SessionKind::Replication {
            parameters.push(("replication", "database"));
        }
        if let Some(options) = &self.options.options {
            parameters.push(("options", options));
        }
        parameters.extend(pinned::at_startup(self.options.raw_text));
        let packet = startup(&parameters);
        self.wire.send(&packet).await?;
        auth::authenticate(&mut self.wire, &self.options, &self.endpoint).await?;
        self.wire.established = true;
        loop {
            let message = self.wire.receive().await?;
            match message.tag {
                b'S' => self.remember(&message),
                b'K' => {
                    let mut body = &message.body[..];
                    // Protocol 3.0's four-byte secret; longer ones come only with 3.2, which we do not ask for.
                    self.backend = body.try_get_i32().ok().zip(body.try_get_i32().ok());
                }
                b'Z' => return Ok(()),
                b'E' => return Err(auth::refused(&self.wire, server_error(&message.body))),
                tag => return Err(unexpected(tag, "startup")),
            }
        }
    }

    fn remember(&mut self, message: &Message) {
        if let Some((name, rest)) = c_text(&message.body)
            && let Some((value, _)) = c_text(rest)
        {
            self.parameters.insert(name, value);
        }
    }

    async fn verify_settings(&mut self) -> Result<(), PgError> {
        let raw = self.text_is_raw();
        let rows = self.simple_query(&pinned::statement(raw)).await?;
        let mut cells = rows.into_iter().next().unwrap_or_default().into_iter().map(Option::unwrap_or_default);
        self.version_num = cells.next().and_then(|text| text.parse().ok()).unwrap_or(0);
        let version = cells.next().unwrap_or_default();
        if self.version_num < VERSION_NUM_MIN {
            return Err(PgError::TooOld(super::error::one_line(&version)));
        }
        pinned::verify(raw, cells)
    }

    /// Whether text comes as the bytes that the database holds: because it has no encoding, or by wish.
    pub fn text_is_raw(&self) -> bool {
        self.options.raw_text || pinned::has_no_encoding(self.parameter("server_encoding"))
    }

    async fn verify_role(&mut self) -> Result<(), PgError> {
        let wanted = self.options.target_session;
        if wanted == TargetSession::Any {
            return Ok(());
        }
        let sql = "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only')";
        let rows = self.simple_query(sql).await?;
        let cell = |index: usize| rows.first().and_then(|row| row.get(index)?.as_deref()).unwrap_or_default();
        let (standby, read_only) = (cell(0) == "t", cell(1) == "on");
        let (fits, found) = match wanted {
            TargetSession::Any => (true, ""),
            TargetSession::ReadWrite => (!read_only, "read-only"),
            TargetSession::ReadOnly => (read_only, "read-write"),
            TargetSession::Primary => (!standby, "a standby"),
            TargetSession::Standby => (standby, "a primary"),
        };
        if fits {
            Ok(())
        } else {
            Err(PgError::WrongRole { address: self.wire.address.clone(), found, wanted: wanted.name() })
        }
    }

    /// Runs SQL, or a replication command, and returns the rows of all its statements in text form.
    ///
    /// # Errors
    /// When the server refuses it; the session stays usable unless the error is fatal.
    pub async fn simple_query(&mut self, sql: &str) -> Result<Vec<Row>, PgError> {
        self.send_query(sql).await?;
        self.collect_rows().await
    }

    pub(super) async fn send_query(&mut self, sql: &str) -> Result<(), PgError> {
        let mut packet = BytesMut::new();
        if self.text_is_raw() {
            let sql = with_raw_names(sql);
            packet.put_u8(b'Q');
            packet.put_i32(i32::try_from(sql.len() + 5).unwrap_or(i32::MAX));
            packet.put_slice(&sql);
            packet.put_u8(0);
            return self.wire.send(&packet).await;
        }
        frontend::query(sql, &mut packet)
            .map_err(|error| PgError::protocol(format!("a query that cannot be sent: {error}")))?;
        self.wire.send(&packet).await
    }

    pub(super) async fn collect_rows(&mut self) -> Result<Vec<Row>, PgError> {
        let mut rows = Vec::new();
        let mut refused = None;
        loop {
            let message = match self.wire.receive().await {
                Ok(message) => message,
                // After a fatal error the connection ends; the reason is what was said before.
                Err(error) => return Err(refused.unwrap_or(error)),
            };
            match message.tag {
                b'D' if rows.len() < ROWS_MAX => {
                    rows.push(data_row(&message.body).ok_or_else(|| PgError::protocol("a row that is cut short"))?);
                }
                b'D' => return Err(PgError::protocol("an answer of too many rows")),
                b'E' => refused = Some(PgError::Server { error: Box::new(server_error(&message.body)) }),
                b'S' => self.remember(&message),
                // RowDescription, CommandComplete, EmptyQuery, NotificationResponse.
                b'T' | b'C' | b'I' | b'A' => {}
                b'Z' => return refused.map_or(Ok(rows), Err),
                tag => return Err(unexpected(tag, "a query")),
            }
        }
    }

    /// What the bytes of every value depend on, as `name=value; …`: the pinned settings, the encoding, and whether values
    /// are asked for in binary.
    pub fn decode_profile(&self, binary: bool) -> String {
        pinned::decode_profile(self.text_is_raw(), binary)
    }

    /// `server_version_num`, for example 150008.
    pub fn server_version_num(&self) -> u32 {
        self.version_num
    }

    /// What the server reported of one of its settings.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Where this session is connected.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether the connection is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.wire.stream.is_encrypted()
    }

    /// The server process of this session.
    pub fn backend_pid(&self) -> Option<i32> {
        self.backend.map(|(pid, _)| pid)
    }

    /// Asks the server, over a second connection, to cancel what this session runs.
    ///
    /// # Errors
    /// When the server cannot be reached. Whether it obeyed is seen on this session only.
    pub async fn cancel(&self) -> Result<(), PgError> {
        let Some((pid, secret)) = self.backend else { return Ok(()) };
        let request = async {
            let mut stream = dial(&self.options, &self.endpoint).await?;
            if self.wire.stream.is_encrypted() {
                stream = encrypt(&self.options, &self.endpoint, stream).await?;
            }
            let mut packet = BytesMut::new();
            frontend::cancel_request(pid, secret, &mut packet);
            stream.write_all(&packet).await.map_err(PgError::Lost)?;
            stream.flush().await.map_err(PgError::Lost)?;
            // The server closes when the signal is sent. What else it may say does not matter.
            let _closed = stream.read(&mut [0; 1]).await;
            Ok(())
        };
        within(self.options.connect_timeout, &self.endpoint, Box::pin(request)).await
    }

    /// Says goodbye, so that the server's log shows no lost connection.
    pub async fn close(mut self) {
        // Terminate. The server may be gone already; nobody is interested any more.
        let _sent = self.wire.send(&[b'X', 0, 0, 0, 4]).await;
        let _closed = self.wire.stream.shutdown().await;
    }
}

async fn within<T>(
    limit: Option<Duration>,
    endpoint: &Endpoint,
    work: impl Future<Output = Result<T, PgError>>,
) -> Result<T, PgError> {
    match limit {
        None => work.await,
        Some(after) => match tokio::time::timeout(after, work).await {
            Ok(done) => done,
            Err(_) => Err(PgError::ConnectTimeout { address: endpoint.to_string(), after }),
        },
    }
}

fn is_about_encryption(error: &PgError) -> bool {
    match error {
        PgError::TlsCertificate { .. }
        | PgError::TlsHandshake { .. }
        | PgError::TlsSetup(_)
        | PgError::TlsFile { .. } => true,
        PgError::Refused { error, .. } => error.sqlstate == "28000" && error.message.contains("pg_hba.conf"),
        _ => false,
    }
}

/// Asks the server for TLS and, if it agrees, starts it. Unix sockets stay as they are, whatever the mode, as in libpq.
async fn encrypt(options: &ConnectOptions, endpoint: &Endpoint, stream: Stream) -> Result<Stream, PgError> {
    let Stream::Tcp(mut tcp) = stream else { return Ok(stream) };
    let address = || endpoint.to_string();
    if options.ssl_negotiation == SslNegotiation::Postgres {
        let mut request = BytesMut::new();
        frontend::ssl_request(&mut request);
        tcp.write_all(&request).await.map_err(PgError::Lost)?;
        let stranger = |detail: String| PgError::NotPostgres { address: address(), detail };
        let mut answer = [0; 16];
        let hung_up = |how: String| PgError::HungUp { address: address(), how };
        let read = tcp.read(&mut answer).await.map_err(|error| hung_up(error.to_string()))?;
        match answer.get(..read).unwrap_or_default() {
            b"S" => {}
            // Clear text behind the "yes" would later be taken for encrypted and trusted (CVE-2021-23222).
            [b'S', ..] => return Err(PgError::TlsInjection { address: address() }),
            b"N" if options.ssl_mode == SslMode::Prefer => return Ok(Stream::Tcp(tcp)),
            b"N" => return Err(PgError::TlsRefused { address: address(), mode: options.ssl_mode.name() }),
            [] => return Err(hung_up("it closed the connection without an answer".to_owned())),
            // An ErrorResponse is possible from a server in distress; its text is not to be trusted before TLS.
            [b'E', ..] if read > 5 => {
                let source = std::io::Error::other("the server answered the request for TLS with an error");
                return Err(PgError::TlsHandshake { address: address(), source });
            }
            [first, ..] => return Err(stranger(format!("it answered with byte 0x{first:02x}"))),
        }
    }
    Ok(Stream::Tls(Box::new(Box::pin(tls::handshake(options, endpoint, tcp)).await?)))
}

pub(super) fn unexpected(tag: u8, during: &str) -> PgError {
    PgError::protocol(format!("message {:?} during {during}", char::from(tag)))
}
/// A statement as it is sent where text is raw: a quoted identifier that is the text of a name that is not UTF-8
/// (`dbstreamd_model::Name`) becomes that name.
fn with_raw_names(sql: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(sql.len());
    for (n, part) in sql.split('"').enumerate() {
        if n > 0 {
            out.push(b'"');
        }
        let name = name_from_text(part);
        // A quote in a name is doubled, as everywhere in SQL.
        name.iter().for_each(|&byte| match byte {
            b'"' => out.extend_from_slice(b"\"\""),
            byte => out.push(byte),
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_quoted_name_that_stands_for_bytes_becomes_them() {
        let sql = r#"ALTER PUBLICATION "p" ADD TABLE ONLY "public"."\x63e9", "a""\xe9z", "\x22ff" -- \xe9"#;
        let wanted =
            b"ALTER PUBLICATION \"p\" ADD TABLE ONLY \"public\".\"c\xe9\", \"a\"\"\\xe9z\", \"\"\"\xff\" -- \\xe9";
        assert_eq!(with_raw_names(sql), wanted);
    }
}
