//! The TLS settings of one endpoint in hosts.toml: additional authorities, client certificates, no
//! verification.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_native_certs::load_certs_from_paths;

/// The verification of one endpoint's certificate, and the client certificate that is sent to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct TlsOptions {
    /// Accept any certificate.
    pub skip_verify: bool,
    /// PEM files with authorities in addition to the system's.
    pub ca: Vec<PathBuf>,
    /// Client certificates; the first is sent.
    pub client: Vec<ClientPair>,
}

/// A client certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientPair {
    /// PEM file with the certificate chain.
    pub cert: PathBuf,
    /// PEM file with the private key; `None` when it is in the certificate's file.
    pub key: Option<PathBuf>,
}

/// The reason why TLS cannot be set up as configured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// A PEM file cannot be read or has no usable content.
    #[error("{}: {why}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// No certificate could be verified.
    #[error(
        "no certificate authority is trusted: this machine has none (Debian: package ca-certificates), and hosts.toml names none with ca{why}"
    )]
    NoAuthority {
        /// The reason why the present files could not be read, after a colon.
        why: String,
    },
    /// rustls refuses the combination.
    #[error("{why}")]
    Setup {
        /// The message of rustls.
        why: String,
    },
}

/// The files with the authorities that this machine trusts.
#[derive(Debug, Clone)]
pub(crate) struct Authorities {
    file: Option<PathBuf>,
    dirs: Vec<PathBuf>,
}

impl Authorities {
    /// As in OpenSSL: `SSL_CERT_FILE` and `SSL_CERT_DIR`, or the first of the usual paths that exist.
    pub(crate) fn of_system() -> Self {
        let found = openssl_probe::probe();
        Self { file: found.cert_file, dirs: found.cert_dir }
    }

    /// A result stays valid as long as none of these changes.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.file.iter().chain(&self.dirs)
    }

    /// Adds the readable authorities, and returns the errors of the others.
    fn add_to(&self, roots: &mut RootCertStore) -> String {
        let files = self.file.iter().map(|file| load_certs_from_paths(Some(file), None));
        let dirs = self.dirs.iter().map(|dir| load_certs_from_paths(None, Some(dir)));
        let mut failures = String::new();
        for found in files.chain(dirs) {
            for error in &found.errors {
                tracing::warn!("a system certificate authority could not be read: {error}");
                failures = format!(": {error}");
            }
            roots.add_parsable_certificates(found.certs);
        }
        failures
    }
}

/// Builds the configuration. It reads the system's authorities, so it is not called for every request.
pub(crate) fn client_config(
    options: &TlsOptions,
    authorities: &Authorities,
) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let setup = |e: rustls::Error| TlsError::Setup { why: e.to_string() };
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(setup)?;
    let builder = if options.skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        builder.with_root_certificates(roots(&options.ca, authorities)?)
    };
    match options.client.first() {
        None => Ok(builder.with_no_client_auth()),
        Some(pair) => {
            let (chain, key) = read_pair(pair)?;
            builder.with_client_auth_cert(chain, key).map_err(setup)
        }
    }
}

fn roots(extra: &[PathBuf], authorities: &Authorities) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let why = authorities.add_to(&mut roots);
    for path in extra {
        let certificates = read_certificates(path)?;
        let (added, _) = roots.add_parsable_certificates(certificates);
        if added == 0 {
            return Err(TlsError::File { path: path.clone(), why: "holds no usable certificate".to_owned() });
        }
    }
    if roots.is_empty() { Err(TlsError::NoAuthority { why }) } else { Ok(roots) }
}

fn read_pair(pair: &ClientPair) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let chain = read_certificates(&pair.cert)?;
    if chain.is_empty() {
        return Err(TlsError::File { path: pair.cert.clone(), why: "holds no certificate".to_owned() });
    }
    let path = pair.key.as_ref().unwrap_or(&pair.cert);
    let key = PrivateKeyDer::from_pem_slice(&read(path)?)
        .map_err(|e| TlsError::File { path: path.clone(), why: format!("no usable private key: {e}") })?;
    Ok((chain, key))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|e| TlsError::File { path: path.to_owned(), why: format!("not PEM certificates: {e}") })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|e| TlsError::File { path: path.to_owned(), why: e.to_string() })
}

/// `skip_verify = true`: accepts any certificate. Signatures of the handshake are still checked, so that a
/// broken server is not accepted.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_authorities_is_told_so_until_it_has_some() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let authorities = Authorities { file: Some(file.clone()), dirs: vec![] };
        let config = |options: &TlsOptions| client_config(options, &authorities);
        let error = config(&TlsOptions::default()).unwrap_err().to_string();
        assert!(error.contains("ca-certificates") && error.contains("ca.pem"), "{error}");
        // Nothing is verified then.
        config(&TlsOptions { skip_verify: true, ..TlsOptions::default() }).unwrap();
        crisp_skip::needs!("/etc/ssl/certs/ca-certificates.crt");
        std::fs::copy(Authorities::of_system().file.unwrap(), file).unwrap();
        config(&TlsOptions::default()).unwrap();
    }
}
