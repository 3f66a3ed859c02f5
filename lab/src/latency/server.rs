//! The least of a PostgreSQL client: one blocking socket, the simple protocol, and raw replication messages. Written for
//! the lab alone, so that the reference shares no code with what it is compared with.

use std::io::{Read, Write};
use std::net::TcpStream;

use dbstreamd_throwaway::Cluster;

use crate::error::{LabError, io};

/// A connection to a server that trusts us.
pub(super) struct Connection {
    socket: TcpStream,
    buffer: Vec<u8>,
    /// What of `buffer` was used up.
    used: usize,
}

impl Connection {
    /// Connects; `options` are further startup parameters.
    pub(super) fn open(port: u16, database: &str, options: &[(&str, &str)]) -> Result<Self, LabError> {
        let socket = TcpStream::connect(("127.0.0.1", port)).map_err(io("connect to the server"))?;
        socket.set_nodelay(true).map_err(io("connect to the server"))?;
        let mut connection = Self { socket, buffer: Vec::with_capacity(64 * 1024), used: 0 };
        let mut body = 196_608_u32.to_be_bytes().to_vec();
        for (name, value) in [("user", Cluster::superuser()), ("database", database)].iter().chain(options) {
            body.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
        }
        body.push(0);
        connection.send(None, &body)?;
        connection.wait_for(b'Z')?;
        Ok(connection)
    }

    /// Runs a statement to its end.
    pub(super) fn query(&mut self, sql: &str) -> Result<(), LabError> {
        self.send(Some(b'Q'), &[sql.as_bytes(), b"\0"].concat())?;
        self.wait_for(b'Z')
    }

    /// Begins to stream.
    pub(super) fn start_replication(&mut self, slot: &str, publication: &str) -> Result<(), LabError> {
        let sql = format!(
            "START_REPLICATION SLOT {slot} LOGICAL 0/0 (proto_version '1', publication_names '{publication}')\0"
        );
        self.send(Some(b'Q'), sql.as_bytes())?;
        self.wait_for(b'W')
    }

    /// One read of the socket, with whatever is there.
    pub(super) fn receive(&mut self) -> Result<(), LabError> {
        self.buffer.drain(..self.used);
        self.used = 0;
        let filled = self.buffer.len();
        self.buffer.resize(filled + 64 * 1024, 0);
        let read = self.socket.read(self.buffer.get_mut(filled..).unwrap_or_default()).map_err(io("read"))?;
        self.buffer.truncate(filled + read);
        if read == 0 { Err(LabError::Failed("the server closed the connection".into())) } else { Ok(()) }
    }

    /// The next whole message of what was received: its type and its body.
    pub(super) fn message(&mut self) -> Result<Option<(u8, &[u8])>, LabError> {
        let rest = self.buffer.get(self.used..).unwrap_or_default();
        let Some((&tag, after)) = rest.split_first() else { return Ok(None) };
        let Some(length) = after.first_chunk().map(|length| u32::from_be_bytes(*length) as usize) else {
            return Ok(None);
        };
        let Some(body) = after.get(4..length) else { return Ok(None) };
        self.used += 1 + length;
        if tag == b'E' {
            return Err(LabError::Failed(format!("the server: {}", String::from_utf8_lossy(body).replace('\0', " "))));
        }
        Ok(Some((tag, body)))
    }

    /// Confirms everything up to `lsn`.
    pub(super) fn confirm(&mut self, lsn: u64) -> Result<(), LabError> {
        let mut body = vec![b'r'];
        body.extend([lsn, lsn, lsn, 0].iter().flat_map(|number| number.to_be_bytes()));
        body.push(0);
        self.send(Some(b'd'), &body)
    }

    fn wait_for(&mut self, wanted: u8) -> Result<(), LabError> {
        loop {
            while let Some((tag, _)) = self.message()? {
                if tag == wanted {
                    return Ok(());
                }
            }
            self.receive()?;
        }
    }

    fn send(&mut self, tag: Option<u8>, body: &[u8]) -> Result<(), LabError> {
        let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
        let mut message: Vec<u8> = tag.into_iter().collect();
        message.extend(length.to_be_bytes());
        message.extend_from_slice(body);
        self.socket.write_all(&message).map_err(io("write"))
    }
}

/// Drops a slot; a walsender lets go of it a moment after its client has gone.
pub(super) fn drop_slot(cluster: &Cluster, database: &str, slot: &str) -> Result<(), LabError> {
    let sql = format!(
        "DO $$ BEGIN WHILE (SELECT active FROM pg_replication_slots WHERE slot_name = '{slot}') LOOP PERFORM pg_sleep(0.01); END LOOP;
         PERFORM pg_drop_replication_slot('{slot}'); END $$"
    );
    cluster.psql(database, &sql)?;
    Ok(())
}
