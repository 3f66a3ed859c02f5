//! What a throwaway cluster shall be like, and its making: folder, initdb, configuration, first start.

use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::account::Account;
use crate::binaries::Binaries;
use crate::cluster::{Cluster, Parts, SUPERUSER};
use crate::error::ThrowawayError;
use crate::tls::TlsFiles;
use crate::warden::Warden;

/// Settings every cluster starts from. Real durability stays on: what is measured and tested depends on it.
const DEFAULTS: [(&str, &str); 9] = [
    ("listen_addresses", "127.0.0.1"),
    ("wal_level", "logical"),
    ("max_wal_senders", "20"),
    ("max_replication_slots", "20"),
    ("max_connections", "100"),
    ("shared_buffers", "32MB"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("log_line_prefix", "%m [%p] %q%a "),
];

/// How a throwaway cluster shall be set up.
#[derive(Clone, Debug)]
pub struct Builder {
    settings: Vec<(String, String)>,
    hba: Vec<String>,
    tls: bool,
    password_auth: String,
    bin_dir: Option<PathBuf>,
    parent_dir: Option<PathBuf>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            settings: Vec::new(),
            hba: Vec::new(),
            tls: false,
            password_auth: "scram-sha-256".to_owned(),
            bin_dir: None,
            parent_dir: None,
        }
    }
}

impl Builder {
    /// Sets a server setting (`postgresql.conf`), over the defaults.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a line to `pg_hba.conf`, before the default lines for TCP and in the order of the calls.
    #[must_use]
    pub fn hba(mut self, line: &str) -> Self {
        self.hba.push(line.to_owned());
        self
    }

    /// Lets the server speak TLS, with a certificate for `localhost` and `127.0.0.1` of its own authority.
    #[must_use]
    pub fn tls(mut self, on: bool) -> Self {
        self.tls = on;
        self
    }

    /// How passwords are asked for: `scram-sha-256` (default), `md5`, `password` or `trust`.
    #[must_use]
    pub fn password_auth(mut self, method: &str) -> Self {
        method.clone_into(&mut self.password_auth);
        self
    }

    /// Uses the PostgreSQL programs of this folder.
    #[must_use]
    pub fn bin_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.bin_dir = Some(folder.into());
        self
    }

    /// Puts the cluster's folder below this one instead of the system's temporary folder.
    #[must_use]
    pub fn parent_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.parent_dir = Some(folder.into());
        self
    }

    /// Creates the cluster and starts its server; returns when the server answers.
    ///
    /// # Errors
    /// When PostgreSQL is not installed, or cannot be set up or started here.
    pub fn start(self) -> Result<Cluster, ThrowawayError> {
        let binaries = Binaries::find(self.bin_dir.as_deref())?;
        let account = Account::for_server()?;
        if let Some(folder) = binaries.postgres.canonicalize().ok().as_deref().and_then(Path::parent) {
            account.check_reach(folder)?;
        }
        let Home { folder, warden, socket_dir } =
            Home::create(&account, &self.parent_dir.clone().unwrap_or_else(std::env::temp_dir))?;
        let password = random_password()?;
        self.initdb(&binaries, &account, folder.path(), &password)?;
        let tls = self.tls.then(|| TlsFiles::create(folder.path(), &account, SUPERUSER)).transpose()?;
        self.configure(folder.path(), tls.as_ref())?;
        let cluster = Cluster::assemble(Parts { binaries, account, folder, socket_dir, password, tls, warden });
        cluster.start_first()?;
        Ok(cluster)
    }

    fn initdb(
        &self,
        binaries: &Binaries,
        account: &Account,
        folder: &Path,
        password: &str,
    ) -> Result<(), ThrowawayError> {
        let password_file = folder.join("password");
        std::fs::write(&password_file, password).map_err(ThrowawayError::io("write the password file"))?;
        account.own(&password_file)?;
        let output = account
            .command(&binaries.initdb)
            .args(["--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C.UTF-8"])
            .arg(format!("--username={SUPERUSER}"))
            .arg(format!("--auth={}", self.password_auth))
            .arg(format!("--pwfile={}", password_file.display()))
            .arg("--pgdata")
            .arg(folder.join("data"))
            .current_dir("/")
            .output()
            .map_err(ThrowawayError::io(format!("run {}", binaries.initdb.display())))?;
        std::fs::remove_file(&password_file).map_err(ThrowawayError::io("remove the password file"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        Err(ThrowawayError::Program { program: "initdb", status: output.status, output: said })
    }

    fn configure(&self, folder: &Path, tls: Option<&TlsFiles>) -> Result<(), ThrowawayError> {
        let mut conf = String::from("\n# Throwaway cluster.\n");
        let mut set = |name: &str, value: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(conf, "{name} = '{}'", value.replace('\\', "\\\\").replace('\'', "''"));
        };
        for (name, value) in DEFAULTS {
            set(name, value);
        }
        if let Some(tls) = tls {
            set("ssl", "on");
            set("ssl_ca_file", &tls.ca.to_string_lossy());
            set("ssl_cert_file", &tls.server_cert.to_string_lossy());
            set("ssl_key_file", &tls.server_key.to_string_lossy());
        }
        for (name, value) in &self.settings {
            set(name, value);
        }
        append(&folder.join("data/postgresql.conf"), &conf)?;

        let method = &self.password_auth;
        let mut hba = format!("local all all {method}\n");
        for line in &self.hba {
            let _ = writeln!(hba, "{line}");
        }
        let _ = writeln!(hba, "host all all 127.0.0.1/32 {method}\nhost replication all 127.0.0.1/32 {method}");
        std::fs::write(folder.join("data/pg_hba.conf"), hba).map_err(ThrowawayError::io("write pg_hba.conf"))
    }
}

/// Where a cluster lives.
pub(crate) struct Home {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) warden: Warden,
    pub(crate) socket_dir: PathBuf,
}

impl Home {
    /// A new folder below `parent`, which goes when the process goes.
    pub(crate) fn create(account: &Account, parent: &Path) -> Result<Self, ThrowawayError> {
        let parent = parent.canonicalize().map_err(ThrowawayError::io(format!("find {}", parent.display())))?;
        account.check_reach(&parent)?;
        let folder = tempfile::Builder::new()
            .prefix("dbstreamd-pg-")
            .tempdir_in(&parent)
            .map_err(ThrowawayError::io(format!("create a folder in {}", parent.display())))?;
        let warden = Warden::watch(folder.path())?;
        account.own(folder.path())?;
        let socket_dir = folder.path().join("socket");
        std::fs::create_dir(&socket_dir).map_err(ThrowawayError::io("create the socket's folder"))?;
        account.own(&socket_dir)?;
        Ok(Self { folder, warden, socket_dir })
    }
}

fn append(path: &Path, text: &str) -> Result<(), ThrowawayError> {
    use std::io::Write;
    let what = || format!("write {}", path.display());
    let mut file = std::fs::OpenOptions::new().append(true).open(path).map_err(ThrowawayError::io(what()))?;
    file.write_all(text.as_bytes()).map_err(ThrowawayError::io(what()))
}

fn random_password() -> Result<String, ThrowawayError> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(ThrowawayError::io("read /dev/urandom"))?;
    Ok(bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")))
}
