//! A physical standby of a cluster: a base backup of it that streams its WAL.

use std::path::Path;

use crate::builder::Home;
use crate::cluster::{Cluster, Parts, SUPERUSER};
use crate::error::ThrowawayError;

impl Cluster {
    /// Creates a hot standby of this running cluster, on a port of its own and with the same password, and starts it; returns
    /// when it answers. It streams by itself from then on, and goes on without this cluster: `pg_promote` makes a primary
    /// of it. Not for clusters with TLS, whose files would stay here.
    ///
    /// # Errors
    /// When this cluster does not run, `pg_basebackup` is missing or fails, or the standby does not start.
    pub fn standby(&self) -> Result<Self, ThrowawayError> {
        let (binaries, account) = (self.parts.binaries.clone(), self.parts.account.clone());
        let parent = self.folder().parent().unwrap_or_else(|| Path::new("/"));
        let Home { folder, warden, socket_dir } = Home::create(&account, parent)?;
        let program = binaries.postgres.with_file_name("pg_basebackup");
        let output = account
            .command(&program)
            .args(["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"])
            .args(["--host", Self::host(), "--port", &self.port().to_string(), "--username", SUPERUSER, "--pgdata"])
            .arg(folder.path().join("data"))
            .env("PGPASSWORD", self.password())
            .current_dir("/")
            .output()
            .map_err(ThrowawayError::io(format!("run {}", program.display())))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
            return Err(ThrowawayError::Program { program: "pg_basebackup", status: output.status, output: said });
        }
        let password = self.password().to_owned();
        let standby = Self::assemble(Parts { binaries, account, socket_dir, password, tls: None, folder, warden });
        standby.start_first()?;
        Ok(standby)
    }
}
