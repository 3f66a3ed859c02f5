//! TLS: which certificates convince us, ours, and the hash that binds SCRAM to the channel.
//!
//! The verification levels are libpq's. `require` and `prefer` check the chain only when root certificates are there;
//! `verify-ca` checks the chain; `verify-full` the name too. Two things that OpenSSL accepts and webpki does not are
//! accepted here as well, because PostgreSQL's own documentation produces such certificates: a self-signed certificate
//! that is its own root, and a host name in the subject's common name when there is no subjectAltName at all.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256, Sha384, Sha512};
use tokio::io::BufReader;
use tokio_rustls::TlsConnector;
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::SubjectAltName;

use super::error::PgError;
use super::options::{ConnectOptions, Endpoint, Host, RootCert, SslMode, SslNegotiation};
use super::quiet::Quiet;
use super::socket::{Encrypted, TLS_READ_AHEAD_BYTES};

/// Encrypts a connected socket.
pub(crate) async fn handshake(options: &ConnectOptions, endpoint: &Endpoint, tcp: Quiet) -> Result<Encrypted, PgError> {
    let config = client_config(options)?;
    let name = server_name(endpoint)?;
    let buffered = BufReader::with_capacity(TLS_READ_AHEAD_BYTES, tcp);
    TlsConnector::from(Arc::new(config)).connect(name, buffered).await.map_err(|source| {
        let address = endpoint.to_string();
        let inner = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match inner {
            Some(rustls::Error::InvalidCertificate(error)) => {
                PgError::TlsCertificate { address, detail: certificate_advice(error) }
            }
            Some(rustls::Error::AlertReceived(alert)) => PgError::TlsCertificate {
                address,
                detail: format!("the server ended the handshake with alert {alert:?}; it may want a client certificate (sslcert, sslkey) or another TLS version"),
            },
            _ => PgError::TlsHandshake { address, source },
        }
    })
}

/// The RFC 5929 `tls-server-end-point` data; none when the certificate's signature has no single hash of its own.
pub(crate) fn server_end_point(stream: &Encrypted) -> Option<Vec<u8>> {
    end_point_hash(stream.get_ref().1.peer_certificates()?.first()?)
}

fn end_point_hash(certificate: &[u8]) -> Option<Vec<u8>> {
    let parsed = Certificate::from_der(certificate).ok()?;
    match parsed.signature_algorithm.oid.to_string().as_str() {
        // MD5 and SHA-1 are replaced by SHA-256 (RFC 5929, section 4.1): with RSA, with DSA, with ECDSA.
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.10040.4.3" | "1.2.840.10045.4.1"
        // SHA-256 with RSA, ECDSA, DSA.
        | "1.2.840.113549.1.1.11" | "1.2.840.10045.4.3.2" | "2.16.840.1.101.3.4.3.2" => Some(Sha256::digest(certificate).to_vec()),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Some(Sha384::digest(certificate).to_vec()),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Some(Sha512::digest(certificate).to_vec()),
        // Ed25519, RSA-PSS and the rest: PostgreSQL cannot name a hash either, or depends on its version.
        _ => None,
    }
}

fn client_config(options: &ConnectOptions) -> Result<ClientConfig, PgError> {
    // Named, never the process default: an embedding program may have installed another provider, or none.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions: &[_] = if options.ssl_tls13_only { &[&rustls::version::TLS13] } else { rustls::DEFAULT_VERSIONS };
    let verifier = Verifier {
        trust: trust(options)?,
        check_name: options.ssl_mode == SslMode::VerifyFull,
        provider: Arc::clone(&provider),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| PgError::TlsSetup(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match client_certificate(options)? {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| PgError::TlsSetup(format!("sslcert and sslkey cannot be used: {error}")))?,
    };
    config.enable_sni = options.ssl_sni;
    if options.ssl_negotiation == SslNegotiation::Direct {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(config)
}

fn server_name(endpoint: &Endpoint) -> Result<ServerName<'static>, PgError> {
    let Host::Name(name) = &endpoint.host else {
        return Err(PgError::TlsSetup("Unix sockets are not encrypted".to_owned()));
    };
    match ServerName::try_from(name.trim_end_matches('.').to_owned()) {
        Ok(name) => Ok(name),
        Err(_) => Err(PgError::TlsSetup(format!(
            "{name:?} is not a valid DNS name; give it as host and its address as hostaddr"
        ))),
    }
}

/// Whom to believe; none believes everyone.
fn trust(options: &ConnectOptions) -> Result<Option<Trust>, PgError> {
    let verify = matches!(options.ssl_mode, SslMode::VerifyCa | SslMode::VerifyFull);
    let certificates = match &options.ssl_root_cert {
        None if verify => {
            return Err(PgError::TlsSetup(format!(
                "sslmode={} needs root certificates: set sslrootcert to a file or to system, or create ~/.postgresql/root.crt",
                options.ssl_mode.name()
            )));
        }
        None => return Ok(None),
        Some(RootCert::File(path)) => certificates("sslrootcert", path)?,
        Some(RootCert::System) => {
            let loaded = rustls_native_certs::load_native_certs();
            if loaded.certs.is_empty() {
                let reason = loaded.errors.first().map(ToString::to_string).unwrap_or_default();
                return Err(PgError::TlsSetup(format!(
                    "this system has no trusted certificates for sslrootcert=system: install ca-certificates {reason}"
                )));
            }
            loaded.certs
        }
    };
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates.iter().cloned());
    if added == 0 {
        return Err(PgError::TlsSetup("no certificate of sslrootcert can be used as an authority".to_owned()));
    }
    Ok(Some(Trust { roots, pinned: certificates }))
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, PgError> {
    let broken = |detail: String| PgError::TlsFile { what, path: path.to_owned(), detail };
    let text = fs::read(path).map_err(|error| broken(error.to_string()))?;
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|error| broken(error.to_string()))?;
    if found.is_empty() {
        return Err(broken("it holds no PEM certificate".to_owned()));
    }
    Ok(found)
}

type ClientCertificate = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_certificate(options: &ConnectOptions) -> Result<Option<ClientCertificate>, PgError> {
    let (Some(certificate), Some(key)) = (&options.ssl_cert, &options.ssl_key) else {
        return match &options.ssl_cert {
            Some(_) => Err(PgError::TlsSetup("sslcert is given without sslkey".to_owned())),
            None => Ok(None),
        };
    };
    let broken = |detail: String| PgError::TlsFile { what: "sslkey", path: key.clone(), detail };
    let metadata = fs::metadata(key).map_err(|error| broken(error.to_string()))?;
    // libpq's rule: our own key is ours alone; root's may be read by a group.
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.mode() & forbidden != 0 {
        return Err(broken("others can read it; chmod 600 it".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| broken(format!("it holds no usable PEM key without passphrase: {error}")))?;
    Ok(Some((certificates("sslcert", certificate)?, key)))
}

#[derive(Debug)]
struct Trust {
    roots: RootCertStore,
    /// The same certificates as they are: one of them may be the server's own.
    pinned: Vec<CertificateDer<'static>>,
}

#[derive(Debug)]
struct Verifier {
    trust: Option<Trust>,
    check_name: bool,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn chain(
        &self,
        trust: &Trust,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        if trust.pinned.iter().any(|pinned| pinned == certificate) {
            return in_force(certificate, now);
        }
        let parsed = ParsedCertificate::try_from(certificate)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        rustls::client::verify_server_cert_signed_by_trust_anchor(&parsed, &trust.roots, intermediates, now, algorithms)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(trust) = &self.trust {
            self.chain(trust, certificate, intermediates, now)?;
            if self.check_name {
                check_name(certificate, name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        // X.509 version 1 is what `openssl x509 -req` makes without extensions; webpki reads only version 3, but the
        // proof that the server holds the key needs nothing but the key.
        match public_key_of_version_1(certificate) {
            Some(key) => verify_tls13_signature_with_raw_key(message, &key, signature, algorithms),
            None => verify_tls13_signature(message, certificate, signature, algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn public_key_of_version_1(certificate: &[u8]) -> Option<SubjectPublicKeyInfoDer<'static>> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let version_1 = parsed.tbs_certificate.version == x509_cert::Version::V1;
    let key = version_1.then(|| parsed.tbs_certificate.subject_public_key_info.to_der().ok()).flatten()?;
    Some(SubjectPublicKeyInfoDer::from(key))
}

fn parsed(certificate: &[u8]) -> Result<Certificate, rustls::Error> {
    Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding.into())
}

/// The dates of a certificate that is trusted by being listed itself.
fn in_force(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), rustls::Error> {
    let validity = parsed(certificate)?.tbs_certificate.validity;
    if now.as_secs() < validity.not_before.to_unix_duration().as_secs() {
        Err(CertificateError::NotValidYet.into())
    } else if now.as_secs() > validity.not_after.to_unix_duration().as_secs() {
        Err(CertificateError::Expired.into())
    } else {
        Ok(())
    }
}

/// subjectAltName decides; only a certificate without one may carry its name in the subject, as with libpq.
fn check_name(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), rustls::Error> {
    let x509 = parsed(certificate)?;
    let has_alternatives = matches!(x509.tbs_certificate.get::<SubjectAltName>(), Ok(Some(_)) | Err(_));
    if has_alternatives {
        return rustls::client::verify_server_name(&ParsedCertificate::try_from(certificate)?, name);
    }
    let wanted = name.to_str();
    match common_name(&x509) {
        Some(found) if name_matches(&found, &wanted) => Ok(()),
        _ => Err(CertificateError::NotValidForName.into()),
    }
}

fn common_name(certificate: &Certificate) -> Option<String> {
    const COMMON_NAME: &str = "2.5.4.3";
    let attributes = certificate.tbs_certificate.subject.0.iter().flat_map(|names| names.0.iter());
    let mut found = attributes.filter(|attribute| attribute.oid.to_string() == COMMON_NAME);
    let value = &found.next_back()?.value;
    String::from_utf8(value.value().to_vec()).ok()
}

/// Case does not matter; a wildcard stands for the whole first label and for no dot.
fn name_matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.trim_end_matches('.'), name.trim_end_matches('.'));
    match pattern.strip_prefix("*.") {
        Some(parent) if parent.contains('.') => {
            name.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(parent))
        }
        _ => !pattern.is_empty() && pattern.eq_ignore_ascii_case(name),
    }
}

fn certificate_advice(error: &CertificateError) -> String {
    match error {
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is for another host name; connect by a name that it carries, or use sslmode=verify-ca".to_owned()
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "no authority of sslrootcert has signed it; set sslrootcert to the certificate authority of this server"
                .to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired; renew it at the server".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet; check the clocks of both machines".to_owned()
        }
        other => {
            let text = format!("{other:?}");
            if text.contains("UnsupportedCertVersion") {
                "it is an X.509 version 1 certificate, which cannot be verified; issue it again with a subjectAltName"
                    .to_owned()
            } else {
                format!("{other}; issue it again, signed by an authority of sslrootcert and with a subjectAltName")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_covers_one_label_and_never_a_whole_domain() {
        assert!(name_matches("DB.example.com", "db.Example.com."));
        assert!(name_matches("*.example.com", "db.example.com"));
        assert!(!name_matches("*.example.com", "a.db.example.com"));
        assert!(!name_matches("*.example.com", "example.com"));
        assert!(!name_matches("*.com", "example.com"));
        assert!(!name_matches("*", "example"));
        assert!(!name_matches("", ""));
    }

    #[test]
    fn bytes_that_are_no_certificate_have_no_end_point_hash() {
        assert_eq!(end_point_hash(b"nonsense"), None);
    }
}
