//! What each libpq keyword means, which environment variable stands in for it, and what is true when neither is there.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{
    ChannelBinding, ConnectOptions, Endpoint, Host, Keepalive, OptionsError, RootCert, SslMode, SslNegotiation,
    TargetSession,
};
use crate::postgres::secret::Secret;

const PORT: u16 = 5432;
/// Where Debian's PostgreSQL has its socket.
const SOCKET_DIRECTORY: &str = "/var/run/postgresql";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const KEEPALIVE: Keepalive = Keepalive { idle: Duration::from_secs(30), interval: Duration::from_secs(10), count: 3 };
/// More than any cluster has.
const ENDPOINTS_MAX: usize = 64;

/// Keyword and its environment variable.
const SUPPORTED: &[(&str, &str)] = &[
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("dbname", "PGDATABASE"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("passfile", "PGPASSFILE"),
    ("sslmode", "PGSSLMODE"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslsni", "PGSSLSNI"),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("application_name", "PGAPPNAME"),
    ("fallback_application_name", ""),
    ("keepalives", ""),
    ("keepalives_idle", ""),
    ("keepalives_interval", ""),
    ("keepalives_count", ""),
    ("tcp_user_timeout", ""),
    ("options", "PGOPTIONS"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("gssencmode", "PGGSSENCMODE"),
    // Pinned to UTF8: asked for or not, it changes nothing.
    ("client_encoding", ""),
    // Nothing of ours depends on these two: hosts are tried in the given order, compression does not exist any more.
    ("load_balance_hosts", ""),
    ("sslcompression", ""),
];

/// Keywords that restrict or redirect a connection; ignoring one would connect where its author forbade it.
const REFUSED: &[(&str, &str, &str)] = &[
    ("service", "PGSERVICE", "put the service's settings into the connection string"),
    ("servicefile", "PGSERVICEFILE", "put the service's settings into the connection string"),
    ("requirepeer", "PGREQUIREPEER", "use TLS with sslmode=verify-full"),
    ("require_auth", "PGREQUIREAUTH", "use channel_binding=require"),
    ("sslcrl", "PGSSLCRL", "remove it"),
    ("sslcrldir", "PGSSLCRLDIR", "remove it"),
    ("sslpassword", "", "use a key file without a passphrase, readable only by dbstreamd's user"),
    ("sslcertmode", "PGSSLCERTMODE", "set or leave out sslcert"),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION", "remove it"),
    ("requiressl", "PGREQUIRESSL", "use sslmode=require"),
    ("krbsrvname", "PGKRBSRVNAME", "use scram-sha-256 authentication"),
    ("gsslib", "PGGSSLIB", "use scram-sha-256 authentication"),
    ("gssdelegation", "PGGSSDELEGATION", "use scram-sha-256 authentication"),
    ("replication", "", "remove it: dbstreamd chooses the mode of each connection"),
];

/// Keywords with the environment behind them.
struct Given<E> {
    keywords: BTreeMap<String, String>,
    environment: E,
}

impl<E: Fn(&str) -> Option<String>> Given<E> {
    /// The value of a keyword; an empty one counts as not given, as in libpq.
    fn get(&self, keyword: &str) -> Option<String> {
        let named = self.keywords.get(keyword).cloned();
        let variable = SUPPORTED.iter().find(|(name, _)| *name == keyword).map_or("", |(_, variable)| variable);
        named.or_else(|| (self.environment)(variable)).filter(|value| !value.is_empty())
    }

    fn number(&self, keyword: &'static str) -> Result<Option<u32>, OptionsError> {
        let Some(value) = self.get(keyword) else { return Ok(None) };
        match value.trim().parse::<i64>() {
            // Negative and zero mean "not set" to libpq.
            Ok(number) => Ok(Some(u32::try_from(number.clamp(0, i64::from(i32::MAX))).unwrap_or(0))),
            Err(_) => Err(OptionsError::Value { keyword, value, expected: "is not a whole number" }),
        }
    }

    fn switch(&self, keyword: &'static str) -> Result<bool, OptionsError> {
        match self.get(keyword).as_deref() {
            None | Some("1") => Ok(true),
            Some("0") => Ok(false),
            Some(value) => {
                Err(OptionsError::Value { keyword, value: value.to_owned(), expected: "is neither 0 nor 1" })
            }
        }
    }

    fn choice<T>(
        &self,
        keyword: &str,
        parse: impl Fn(&str) -> Result<T, OptionsError>,
        otherwise: T,
    ) -> Result<T, OptionsError> {
        self.get(keyword).map_or(Ok(otherwise), |value| parse(&value))
    }
}

/// Gives every keyword its meaning.
pub(super) fn build(
    pairs: Vec<(String, String)>,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<ConnectOptions, OptionsError> {
    for (keyword, _) in &pairs {
        let known = SUPPORTED.iter().any(|(name, _)| name == keyword);
        if let Some((_, _, remedy)) = REFUSED.iter().find(|(name, ..)| name == keyword) {
            return Err(OptionsError::Unsupported { keyword: keyword.clone(), remedy });
        } else if !known {
            // Anything but a plain word may be the rest of a badly quoted password.
            let plain = keyword.len() <= 40 && keyword.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_');
            return Err(OptionsError::UnknownKeyword(if plain { keyword.clone() } else { "…".to_owned() }));
        }
    }
    for (_, variable, remedy) in REFUSED {
        if !variable.is_empty() && environment(variable).is_some_and(|value| !value.is_empty()) {
            return Err(OptionsError::Unsupported { keyword: (*variable).to_owned(), remedy });
        }
    }
    let home = environment("HOME").map(PathBuf::from);
    let given = Given { keywords: pairs.into_iter().collect(), environment };
    if given.get("gssencmode").is_some_and(|mode| mode == "require") {
        return Err(OptionsError::Unsupported {
            keyword: "gssencmode=require".to_owned(),
            remedy: "use TLS: sslmode=verify-full",
        });
    }
    let user = match given.get("user") {
        Some(user) => user,
        None => system_user(&given.environment)
            .ok_or_else(|| OptionsError::Syntax("no user is given; add user=…".to_owned()))?,
    };
    let (ssl_mode, ssl_root_cert) = ssl_mode(&given)?;
    let ssl_negotiation = given.choice("sslnegotiation", SslNegotiation::parse, SslNegotiation::Postgres)?;
    if ssl_negotiation == SslNegotiation::Direct && matches!(ssl_mode, SslMode::Disable | SslMode::Prefer) {
        return Err(OptionsError::Value {
            keyword: "sslnegotiation",
            value: "direct".to_owned(),
            expected: "needs sslmode=require or stronger",
        });
    }
    let home_file = |name: &str| home.as_ref().map(|home| home.join(name));
    Ok(ConnectOptions {
        endpoints: endpoints(&given)?,
        password: given.get("password").map(Secret::new),
        passfile: given.get("passfile").map(PathBuf::from).or_else(|| home_file(".pgpass")),
        database: given.get("dbname").unwrap_or_else(|| user.clone()),
        user,
        ssl_mode,
        ssl_negotiation,
        ssl_root_cert: ssl_root_cert.or_else(|| existing(home_file(".postgresql/root.crt")).map(RootCert::File)),
        ssl_cert: given.get("sslcert").map(PathBuf::from).or_else(|| existing(home_file(".postgresql/postgresql.crt"))),
        ssl_key: given.get("sslkey").map(PathBuf::from).or_else(|| existing(home_file(".postgresql/postgresql.key"))),
        ssl_sni: given.switch("sslsni")?,
        ssl_tls13_only: match given.get("ssl_min_protocol_version").as_deref() {
            None | Some("TLSv1" | "TLSv1.1" | "TLSv1.2") => false,
            Some("TLSv1.3") => true,
            Some(other) => {
                let expected = "is not one of TLSv1.2, TLSv1.3";
                return Err(OptionsError::Value {
                    keyword: "ssl_min_protocol_version",
                    value: other.to_owned(),
                    expected,
                });
            }
        },
        channel_binding: given.choice("channel_binding", ChannelBinding::parse, ChannelBinding::Prefer)?,
        connect_timeout: match given.number("connect_timeout")? {
            None => Some(CONNECT_TIMEOUT),
            Some(0) => None,
            Some(seconds) => Some(Duration::from_secs(seconds.into())),
        },
        application_name: given
            .get("application_name")
            .or_else(|| given.get("fallback_application_name"))
            .unwrap_or_else(|| "dbstreamd".to_owned()),
        keepalive: keepalive(&given)?,
        tcp_user_timeout: given
            .number("tcp_user_timeout")?
            .filter(|ms| *ms > 0)
            .map(|ms| Duration::from_millis(ms.into())),
        options: given.get("options"),
        target_session: given.choice("target_session_attrs", TargetSession::parse, TargetSession::Any)?,
        allow_cleartext_password: false,
        raw_text: false,
    })
}

/// `sslrootcert=system` means every public authority, so it is only worth something with the name checked.
fn ssl_mode<E: Fn(&str) -> Option<String>>(given: &Given<E>) -> Result<(SslMode, Option<RootCert>), OptionsError> {
    let mode = given.get("sslmode").map(|mode| match mode.as_str() {
        "allow" => Ok(SslMode::Prefer),
        other => SslMode::parse(other),
    });
    let mode = mode.transpose()?;
    match given.get("sslrootcert").as_deref() {
        Some("system") => match mode {
            None | Some(SslMode::VerifyFull) => Ok((SslMode::VerifyFull, Some(RootCert::System))),
            Some(weaker) => {
                let expected = "is too weak for sslrootcert=system, use sslmode=verify-full";
                Err(OptionsError::Value { keyword: "sslmode", value: weaker.name().to_owned(), expected })
            }
        },
        file => Ok((mode.unwrap_or(SslMode::Prefer), file.map(|file| RootCert::File(file.into())))),
    }
}

fn keepalive<E: Fn(&str) -> Option<String>>(given: &Given<E>) -> Result<Option<Keepalive>, OptionsError> {
    if !given.switch("keepalives")? {
        return Ok(None);
    }
    let seconds = |keyword, otherwise| {
        let number = given.number(keyword)?.filter(|seconds| *seconds > 0);
        Ok::<_, OptionsError>(number.map_or(otherwise, |seconds| Duration::from_secs(seconds.into())))
    };
    Ok(Some(Keepalive {
        idle: seconds("keepalives_idle", KEEPALIVE.idle)?,
        interval: seconds("keepalives_interval", KEEPALIVE.interval)?,
        count: given.number("keepalives_count")?.filter(|count| *count > 0).unwrap_or(KEEPALIVE.count),
    }))
}

/// Pairs up the comma-separated lists of hosts, addresses and ports.
fn endpoints<E: Fn(&str) -> Option<String>>(given: &Given<E>) -> Result<Vec<Endpoint>, OptionsError> {
    let list = |keyword| {
        given.get(keyword).map(|value: String| value.split(',').map(|part| part.trim().to_owned()).collect::<Vec<_>>())
    };
    let hosts = list("host").unwrap_or_default();
    let addresses = list("hostaddr").unwrap_or_default();
    let ports = list("port").unwrap_or_default();
    let count = hosts.len().max(addresses.len()).max(1);
    if count > ENDPOINTS_MAX {
        return Err(OptionsError::Syntax(format!("{count} hosts are given, {ENDPOINTS_MAX} are possible")));
    }
    let mismatch =
        |keyword, values: &[String], expected| OptionsError::Value { keyword, value: values.join(","), expected };
    if !hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len() {
        return Err(mismatch("hostaddr", &addresses, "has another number of entries than host"));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(mismatch("port", &ports, "must be one port, or one for each host"));
    }
    (0..count)
        .map(|index| {
            let part = |list: &[String]| list.get(index).filter(|text| !text.is_empty()).cloned();
            let address = part(&addresses)
                .map(|text| text.parse().map_err(|_| mismatch("hostaddr", &addresses, "is not an IP address")))
                .transpose()?;
            let host = match part(&hosts) {
                Some(directory) if directory.starts_with('/') => Host::Socket(directory.into()),
                Some(name) if name.starts_with('@') => {
                    return Err(mismatch("host", &hosts, "is an abstract socket, which dbstreamd does not support"));
                }
                Some(name) => Host::Name(name),
                None => match address {
                    Some(address) => Host::Name(std::net::IpAddr::to_string(&address)),
                    None => default_host(),
                },
            };
            let port = match if ports.len() == 1 { ports.first() } else { ports.get(index) } {
                Some(text) if !text.is_empty() => match text.parse() {
                    Ok(port) if port > 0 => port,
                    // Text that is no number may be a password with a literal / in it.
                    _ if text.bytes().all(|b| b.is_ascii_digit()) => {
                        return Err(mismatch("port", &ports, "is not a port (1 to 65535)"));
                    }
                    _ => {
                        return Err(mismatch(
                            "port",
                            &["…".to_owned()],
                            "is not a number (a literal / in a password is written %2F)",
                        ));
                    }
                },
                _ => PORT,
            };
            Ok(Endpoint { host, address, port })
        })
        .collect()
}

/// libpq's default is a Unix socket in a directory chosen when it was built; without one, the machine itself.
fn default_host() -> Host {
    if Path::new(SOCKET_DIRECTORY).is_dir() {
        Host::Socket(SOCKET_DIRECTORY.into())
    } else {
        Host::Name("localhost".to_owned())
    }
}

fn existing(path: Option<PathBuf>) -> Option<PathBuf> {
    path.filter(|path| path.is_file())
}

/// The operating system's name of our user, as libpq takes it: from the account database, not from `$USER`.
fn system_user(environment: &impl Fn(&str) -> Option<String>) -> Option<String> {
    let uid = std::fs::metadata("/proc/self").ok()?.uid().to_string();
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    named.or_else(|| environment("USER")).filter(|name| !name.is_empty())
}
