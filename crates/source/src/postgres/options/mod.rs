//! `ConnectOptions`: where a server is and how to talk to it, parsed once from what libpq's users already have.
//!
//! Accepted are `postgres://` and `postgresql://` URLs, `key=value` strings, and libpq's `PG…` environment as defaults.
//! How either form is taken apart is in `syntax.rs`, what each keyword means in `keywords.rs`, the password file in
//! `passfile.rs`. Nothing here opens a socket.
//!
//! Where we differ from libpq, on purpose: `sslmode=allow` is `prefer`; `connect_timeout` is 10 s unless given (0 waits
//! for ever); TCP keepalive starts after 30 s of silence unless given, since a silent connection that holds a slot is the
//! worst of all states; `client_encoding` is UTF8 whatever is asked for; service files are not read.

mod keywords;
mod passfile;
mod syntax;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::secret::Secret;

/// The connection string, or what the environment adds to it, cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// It has no meaning as a whole.
    #[error("invalid connection string: {0}")]
    Syntax(String),
    /// A keyword that nobody knows.
    #[error(
        "invalid connection string: unknown keyword {0:?}; dbstreamd takes libpq's keywords (host, port, dbname, user, password, sslmode, …)"
    )]
    UnknownKeyword(String),
    /// A keyword of libpq that we must not ignore and do not support.
    #[error("invalid connection string: {keyword} is not supported: {remedy}")]
    Unsupported {
        /// libpq's keyword, or environment variable.
        keyword: String,
        /// What to do instead.
        remedy: &'static str,
    },
    /// A value that does not fit its keyword.
    #[error("invalid connection string: {keyword}={value:?} {expected}")]
    Value {
        /// The keyword.
        keyword: &'static str,
        /// Its value; never a password.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
}

/// A server's name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Host {
    /// A DNS name or IP address.
    Name(String),
    /// The directory that holds the Unix socket.
    Socket(PathBuf),
}

/// One place where the server may be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Its name, which a certificate must carry under `sslmode=verify-full`.
    pub host: Host,
    /// Connect to this address instead of looking the name up.
    pub address: Option<IpAddr>,
    /// TCP port, or the number in the socket file's name.
    pub port: u16,
}

impl Endpoint {
    /// The Unix socket's file.
    pub fn socket_path(&self) -> Option<PathBuf> {
        match &self.host {
            Host::Name(_) => None,
            Host::Socket(directory) => Some(directory.join(format!(".s.PGSQL.{}", self.port))),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.address) {
            (Host::Socket(directory), _) => write!(f, "{}/.s.PGSQL.{}", directory.display(), self.port),
            (Host::Name(name), None) if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            (Host::Name(name), None) => write!(f, "{name}:{}", self.port),
            (Host::Name(name), Some(address)) => write!(f, "{name}:{} ({address})", self.port),
        }
    }
}

/// An enum whose variants have libpq's names.
macro_rules! named_enum {
    ($(#[$doc:meta])* $type:ident($keyword:literal, $expected:literal) { $($(#[$vdoc:meta])* $variant:ident = $name:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $type { $($(#[$vdoc])* $variant,)+ }

        impl $type {
            /// As libpq writes it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            fn parse(text: &str) -> Result<Self, OptionsError> {
                match text {
                    $($name => Ok(Self::$variant),)+
                    _ => Err(OptionsError::Value { keyword: $keyword, value: text.to_owned(), expected: $expected }),
                }
            }
        }
    };
}

named_enum! {
    /// Whether to encrypt, and what the server must prove. Unix sockets are never encrypted.
    SslMode("sslmode", "is not one of disable, prefer, require, verify-ca, verify-full") {
        /// Never encrypt.
        Disable = "disable",
        /// Encrypt when the server can.
        Prefer = "prefer",
        /// Encrypt; check the certificate's chain only when root certificates are given.
        Require = "require",
        /// Encrypt; the certificate must be signed by a given root.
        VerifyCa = "verify-ca",
        /// Encrypt; and the certificate must be for this host.
        VerifyFull = "verify-full",
    }
}

named_enum! {
    /// Whether SCRAM must be bound to the TLS channel.
    ChannelBinding("channel_binding", "is not one of disable, prefer, require") {
        /// Never.
        Disable = "disable",
        /// When the server can.
        Prefer = "prefer",
        /// Always: fail otherwise.
        Require = "require",
    }
}

named_enum! {
    /// Which kind of server is wanted when several are given.
    TargetSession("target_session_attrs", "is not one of any, read-write, read-only, primary, standby") {
        /// The first that answers.
        Any = "any",
        /// One that accepts writes.
        ReadWrite = "read-write",
        /// One that does not.
        ReadOnly = "read-only",
        /// Not in recovery.
        Primary = "primary",
        /// In recovery.
        Standby = "standby",
    }
}

named_enum! {
    /// How TLS starts.
    SslNegotiation("sslnegotiation", "is not one of postgres, direct") {
        /// PostgreSQL's own request first.
        Postgres = "postgres",
        /// TLS at once; PostgreSQL 17 and newer.
        Direct = "direct",
    }
}

/// Which certificate authorities are trusted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RootCert {
    /// Those in this PEM file.
    File(PathBuf),
    /// Those the operating system trusts.
    System,
}

/// TCP keepalive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Between probes.
    pub interval: Duration,
    /// Unanswered probes after which the connection is dead.
    pub count: u32,
}

/// Where a server is and how to talk to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectOptions {
    /// Tried in turn; never empty.
    pub endpoints: Vec<Endpoint>,
    /// The role.
    pub user: String,
    /// Its password; otherwise `passfile` is asked.
    pub password: Option<Secret>,
    /// The password file, `~/.pgpass` unless given.
    pub passfile: Option<PathBuf>,
    /// The database.
    pub database: String,
    /// Encryption.
    pub ssl_mode: SslMode,
    /// How it starts.
    pub ssl_negotiation: SslNegotiation,
    /// Trusted authorities; `~/.postgresql/root.crt` when none is given and it exists.
    pub ssl_root_cert: Option<RootCert>,
    /// Our certificate, PEM; `~/.postgresql/postgresql.crt` when none is given and it exists.
    pub ssl_cert: Option<PathBuf>,
    /// Its key, PEM; `~/.postgresql/postgresql.key`.
    pub ssl_key: Option<PathBuf>,
    /// Whether to name the host in the handshake.
    pub ssl_sni: bool,
    /// Refuse TLS 1.2.
    pub ssl_tls13_only: bool,
    /// SCRAM and the TLS channel.
    pub channel_binding: ChannelBinding,
    /// For one endpoint, from the first packet to the end of authentication. None waits for ever.
    pub connect_timeout: Option<Duration>,
    /// Shown in `pg_stat_activity`; also what `synchronous_standby_names` would match.
    pub application_name: String,
    /// None switches it off.
    pub keepalive: Option<Keepalive>,
    /// How long sent bytes may stay unacknowledged by the server's kernel. None is the system's choice.
    pub tcp_user_timeout: Option<Duration>,
    /// Further command-line options of the session. What we pin wins over them.
    pub options: Option<String>,
    /// Which kind of server.
    pub target_session: TargetSession,
    /// Whether a password may travel in clear over unencrypted TCP. Not libpq's: our configuration sets it.
    pub allow_cleartext_password: bool,
    /// Whether text comes as the bytes that the database holds, unconverted. Not libpq's: our configuration sets it.
    pub raw_text: bool,
}

impl FromStr for ConnectOptions {
    type Err = OptionsError;

    /// Parses a URL or a `key=value` string; libpq's environment variables give what it leaves open.
    fn from_str(text: &str) -> Result<Self, OptionsError> {
        Self::parse_with(text, |name| std::env::var(name).ok())
    }
}

impl ConnectOptions {
    /// As `from_str`, with another environment.
    ///
    /// # Errors
    /// When the text or the environment makes no sense; the error never contains a password.
    pub fn parse_with(text: &str, environment: impl Fn(&str) -> Option<String>) -> Result<Self, OptionsError> {
        keywords::build(syntax::parse(text)?, environment)
    }

    /// The password for this endpoint, from the options or the password file.
    pub(crate) fn password_for(&self, endpoint: &Endpoint) -> Option<Secret> {
        self.password
            .clone()
            .or_else(|| passfile::lookup(self.passfile.as_deref()?, endpoint, &self.database, &self.user))
    }

    /// The connection as a `key=value` string without the password: for logs, status and errors. Parses back to
    /// the same options.
    pub fn display_safe(&self) -> String {
        let joined = |part: &dyn Fn(&Endpoint) -> String| self.endpoints.iter().map(part).collect::<Vec<_>>().join(",");
        let host = |endpoint: &Endpoint| match &endpoint.host {
            Host::Name(name) => name.clone(),
            Host::Socket(directory) => directory.display().to_string(),
        };
        let mut pairs = vec![
            ("host", joined(&host)),
            ("port", joined(&|endpoint| endpoint.port.to_string())),
            ("user", self.user.clone()),
            ("dbname", self.database.clone()),
            ("sslmode", self.ssl_mode.name().to_owned()),
        ];
        if self.endpoints.iter().any(|endpoint| endpoint.address.is_some()) {
            let address = |endpoint: &Endpoint| endpoint.address.map(|address| address.to_string()).unwrap_or_default();
            pairs.push(("hostaddr", joined(&address)));
        }
        if self.target_session != TargetSession::Any {
            pairs.push(("target_session_attrs", self.target_session.name().to_owned()));
        }
        if self.channel_binding != ChannelBinding::Prefer {
            pairs.push(("channel_binding", self.channel_binding.name().to_owned()));
        }
        pairs.iter().map(|(key, value)| format!("{key}={}", syntax::quoted(value))).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<ConnectOptions, OptionsError> {
        parse_env(text, &[])
    }

    fn parse_env(text: &str, environment: &[(&str, &str)]) -> Result<ConnectOptions, OptionsError> {
        ConnectOptions::parse_with(text, |name| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn names(options: &ConnectOptions) -> Vec<String> {
        options.endpoints.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_url_says_everything() {
        let options = parse(
            "postgres://al%20ice:p%40ss%2Fw@db.example:5433/my%2Ddb?sslmode=verify-full&application_name=x%20y&connect_timeout=3",
        )
        .unwrap();
        assert_eq!(names(&options), ["db.example:5433"]);
        assert_eq!((options.user.as_str(), options.database.as_str()), ("al ice", "my-db"));
        assert_eq!(options.password.unwrap().reveal(), "p@ss/w");
        assert_eq!(options.ssl_mode, SslMode::VerifyFull);
        assert_eq!(options.application_name, "x y");
        assert_eq!(options.connect_timeout, Some(Duration::from_secs(3)));
    }

    #[test]
    fn hosts_may_be_many_ipv6_or_sockets() {
        assert_eq!(names(&parse("postgresql://u@a:1,[::1]:2,c/d").unwrap()), ["a:1", "[::1]:2", "c:5432"]);
        let socket = parse("postgres://u@%2Ftmp%2Fpg:5433/d").unwrap();
        assert_eq!(names(&socket), ["/tmp/pg/.s.PGSQL.5433"]);
        assert_eq!(parse("postgres:///d?host=/tmp/pg&user=u&port=5433").unwrap(), socket);
        assert_eq!(parse("host=/tmp/pg user=u port=5433 dbname=d").unwrap(), socket);
        assert_eq!(names(&parse("host=a,b port=7 user=u").unwrap()), ["a:7", "b:7"]);
        assert_eq!(names(&parse("host=a hostaddr=10.0.0.1 user=u").unwrap()), ["a:5432 (10.0.0.1)"]);
        assert!(parse("host=a,b,c port=1,2 user=u").is_err());
    }

    #[test]
    fn keyword_strings_quote_and_escape() {
        let options = parse(r"user = 'o''brien' password='a\'b\\c d' host=h dbname=''").unwrap_err();
        assert!(matches!(options, OptionsError::Syntax(_)), "two quoted words in a row: {options}");
        let options = parse(r"user='o\'brien' password='a\'b\\c d' host = h").unwrap();
        assert_eq!(options.user, "o'brien");
        assert_eq!(options.password.unwrap().reveal(), r"a'b\c d");
        assert_eq!(options.database, "o'brien", "the database is named as the user when none is given");
    }

    #[test]
    fn what_is_unknown_or_unsafe_to_ignore_is_refused_by_name() {
        for (text, named) in [
            ("host=h usr=x", "usr"),
            ("postgres://u@h/d?sslmod=require", "sslmod"),
            ("host=h user=u sslmode=yes", "sslmode"),
            ("host=h user=u port=99999", "port"),
            ("host=h user=u service=x", "service"),
            ("host=h user=u requirepeer=x", "requirepeer"),
            ("host=h user=u gssencmode=require", "gssencmode"),
            ("host=h user=u sslrootcert=system sslmode=require", "sslmode"),
            ("host=h user=u sslnegotiation=direct sslmode=prefer", "sslnegotiation"),
            ("mysql://u@h/d", "mysql"),
            ("shop", "postgres://"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
        assert!(parse_env("host=h user=u", &[("PGSERVICE", "x")]).is_err());
    }

    #[test]
    fn the_environment_fills_gaps_and_never_overrides() {
        let environment =
            [("PGHOST", "e"), ("PGUSER", "eu"), ("PGPASSWORD", "ep"), ("PGSSLMODE", "require"), ("PGDATABASE", "ed")];
        let options = parse_env("postgres://h/", &environment).unwrap();
        assert_eq!(names(&options), ["h:5432"]);
        assert_eq!((options.user.as_str(), options.database.as_str()), ("eu", "ed"));
        assert_eq!(options.ssl_mode, SslMode::Require);
        let options = parse_env("sslmode=disable", &environment).unwrap();
        assert_eq!(names(&options), ["e:5432"]);
        assert_eq!(options.ssl_mode, SslMode::Disable);
    }

    #[test]
    fn a_password_is_never_printed() {
        let options = parse("postgres://u:hunter2@h/d").unwrap();
        assert!(!format!("{options:?}{options:#?}{}", options.display_safe()).contains("hunter2"));
        for broken in [
            "postgres://u:hunter2@h:port/d",
            "postgres://u:hunter2@[::1/d",
            "host=h password='hunter2",
            "postgres://u:hunter2%zz@h/d",
        ] {
            let error = parse(broken).unwrap_err();
            assert!(!format!("{error}{error:?}").contains("hunter2"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,80}", tail in "[a-z=' \\\\:/@%?&\\[\\],0-9]{0,60}") {
            let _ = parse(&text);
            let _ = parse(&format!("postgres://{tail}"));
            let _ = parse(&tail);
        }

        #[test]
        fn any_name_and_password_survive_quoting(user in "[^\0]{1,20}", password in "[^\0]{1,20}", database in "[^\0]{1,20}") {
            let quoted = format!(
                "host=h user={} password={} dbname={}",
                syntax::quoted(&user), syntax::quoted(&password), syntax::quoted(&database)
            );
            let options = parse(&quoted).unwrap();
            prop_assert_eq!(&options.user, &user);
            prop_assert_eq!(options.password.as_ref().unwrap().reveal(), &password);
            prop_assert_eq!(&options.database, &database);

            let percent = |text: &str| text.bytes().map(|b| format!("%{b:02x}")).collect::<String>();
            let url = format!("postgres://{}:{}@h/{}", percent(&user), percent(&password), percent(&database));
            prop_assert_eq!(&parse(&url).unwrap(), &options);

            let safe = parse(&options.display_safe()).unwrap();
            prop_assert_eq!(ConnectOptions { password: options.password.clone(), ..safe }, options);
        }
    }
}
