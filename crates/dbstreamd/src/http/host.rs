//! Under which host names the server answers: protection against DNS rebinding.
//!
//! A foreign page can point a name of its own at 127.0.0.1 and have the visitor's browser ask us. Its requests
//! carry that name in `Host`, so only loopback names, plain addresses and configured names are answered.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

/// Names that are answered besides loopback ones and plain addresses.
#[derive(Debug, Default)]
pub(crate) struct AllowedHosts(Vec<String>);

impl AllowedHosts {
    pub(crate) fn new(names: &[String]) -> Self {
        Self(names.iter().map(|name| name.to_ascii_lowercase()).collect())
    }

    fn allow(&self, host: &str) -> bool {
        let name = without_port(host).to_ascii_lowercase();
        let name = name.trim_end_matches('.');
        // An address cannot be rebound: a browser that sends it was pointed at it by that address.
        name == "localhost"
            || name.ends_with(".localhost")
            || name.parse::<IpAddr>().is_ok()
            || self.0.iter().any(|allowed| allowed == name)
    }
}

fn without_port(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Refuses requests under foreign names.
pub(super) async fn check(State(hosts): State<Arc<AllowedHosts>>, request: Request, next: Next) -> Response {
    let host = match request.headers().get(header::HOST).map(|host| host.to_str()) {
        Some(Ok(host)) => Some(host),
        Some(Err(_)) => Some("?"),
        // Only HTTP/1.0 clients leave it out; no browser does.
        None => request.uri().host(),
    };
    match host {
        Some(host) if !hosts.allow(host) => super::problem(
            StatusCode::MISDIRECTED_REQUEST,
            "this host name is not answered: use an IP address or localhost, or add the name to http.allowed_hosts",
        ),
        _ => next.run(request).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_names_are_refused_and_addresses_are_not() {
        let hosts = AllowedHosts::new(&["Streams.Example.com".to_owned()]);
        for good in [
            "localhost",
            "LOCALHOST:7401",
            "a.localhost",
            "127.0.0.1:7401",
            "[::1]:7401",
            "[::1]",
            "10.1.2.3",
            "streams.example.com:80",
            "localhost.",
        ] {
            assert!(hosts.allow(good), "{good} was refused");
        }
        for bad in [
            "",
            "evil.example",
            "evil.example:7401",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "[evil]",
            "example.com",
            "?",
        ] {
            assert!(!hosts.allow(bad), "{bad} was allowed");
        }
    }
}
