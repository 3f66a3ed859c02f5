//! Certificates of a throwaway server: an authority of its own, the server's, and one for the superuser as client.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use crate::ThrowawayError;
use crate::account::Account;

/// Where the certificates and keys are.
#[derive(Clone, Debug)]
pub(crate) struct TlsFiles {
    pub(crate) ca: PathBuf,
    pub(crate) server_cert: PathBuf,
    pub(crate) server_key: PathBuf,
    pub(crate) client_cert: PathBuf,
    pub(crate) client_key: PathBuf,
}

impl TlsFiles {
    /// Makes everything new, in `folder`.
    pub(crate) fn create(folder: &Path, account: &Account, client: &str) -> Result<Self, ThrowawayError> {
        let at = |name: &str| folder.join(name);
        let files = Self {
            ca: at("ca.pem"),
            server_cert: at("server.pem"),
            server_key: at("server.key"),
            client_cert: at("client.pem"),
            client_key: at("client.key"),
        };

        let mut params = named(&[], "dbstreamd throwaway authority")?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        put(&files.ca, &params.self_signed(&key)?.pem(), account)?;
        let authority = Issuer::new(params, key);

        let mut server = named(&["localhost", "127.0.0.1"], "localhost")?;
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        put(&files.server_cert, &server.signed_by(&key, &authority)?.pem(), account)?;
        put(&files.server_key, &key.serialize_pem(), account)?;

        let mut user = named(&[], client)?;
        user.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        put(&files.client_cert, &user.signed_by(&key, &authority)?.pem(), account)?;
        put(&files.client_key, &key.serialize_pem(), account)?;
        Ok(files)
    }
}

fn named(hosts: &[&str], common_name: &str) -> Result<CertificateParams, ThrowawayError> {
    let mut params = CertificateParams::new(hosts.iter().map(|&host| host.to_owned()).collect::<Vec<_>>())?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}

/// PostgreSQL refuses a key that others may read, so nobody else may read any of it.
fn put(path: &Path, pem: &str, account: &Account) -> Result<(), ThrowawayError> {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(ThrowawayError::io(format!("create {}", path.display())))?;
    file.write_all(pem.as_bytes()).map_err(ThrowawayError::io(format!("write {}", path.display())))?;
    account.own(path)
}
