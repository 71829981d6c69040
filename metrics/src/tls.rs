//! The certificate of a listener, read again when its files change: of /metrics, and of streams.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The shortest time between two checks of the files.
const LOOK: Duration = Duration::from_secs(5);

/// A certificate, key or authority that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("certificate {}: {why}", path.display())]
pub struct TlsError {
    path: PathBuf,
    why: String,
}

/// The parsed content of the files.
#[derive(Clone)]
struct Used {
    config: Arc<ServerConfig>,
    /// The first certificate of the chain.
    own: CertificateDer<'static>,
}

/// The PEM files of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Its certificate, with the intermediate ones after it.
    pub chain: PathBuf,
    /// The key of the first certificate.
    pub key: PathBuf,
    /// The authorities of clients. With them, a client needs a certificate that one of them has signed.
    pub client_ca: Option<PathBuf>,
}

/// The certificate in use, and the files that it comes from.
pub struct Certificates {
    files: TlsFiles,
    used: Mutex<Used>,
    /// Locked while one thread looks at the files: others use what there is.
    last_check: Mutex<LastCheck>,
}

struct LastCheck {
    times: [Option<SystemTime>; 3],
    at: Instant,
}

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`] names the file.
    pub fn load(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let times = times(&files);
        let used = Mutex::new(read(&files)?);
        Ok(Arc::new(Self { files, used, last_check: Mutex::new(LastCheck { times, at: Instant::now() }) }))
    }

    /// Does the handshake of a new connection.
    ///
    /// # Errors
    /// The client speaks no TLS, does not accept the certificate, or shows none that is accepted.
    pub async fn accept(self: Arc<Self>, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let used = tokio::task::spawn_blocking(move || self.current()).await.map_err(io::Error::other)?;
        TlsAcceptor::from(used.config).accept(socket).await
    }

    /// Returns the server's own certificate, in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        let text = STANDARD.encode(&self.current().own);
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    }

    /// Returns the present certificate. While the files do not match, for example between two writes, the
    /// last matching pair stays in use.
    fn current(&self) -> Used {
        if let Ok(mut last) = self.last_check.try_lock()
            && last.at.elapsed() >= LOOK
        {
            last.at = Instant::now();
            let times = times(&self.files);
            if times != last.times {
                match read(&self.files) {
                    Ok(used) => {
                        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = used;
                        last.times = times;
                    }
                    Err(error) => tracing::warn!(%error, "the old certificate stays in use"),
                }
            }
        }
        self.used.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn times(files: &TlsFiles) -> [Option<SystemTime>; 3] {
    let time = |path: &PathBuf| std::fs::metadata(path).and_then(|found| found.modified()).ok();
    [time(&files.chain), time(&files.key), files.client_ca.as_ref().and_then(time)]
}

fn read(files: &TlsFiles) -> Result<Used, TlsError> {
    let (chain, key) = (&files.chain, &files.key);
    let of = |path: &Path, why: String| TlsError { path: path.to_owned(), why };
    let all = |path: &Path| {
        let certificates =
            CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        certificates.map_err(|error| of(path, error.to_string()))
    };
    let certificates = all(chain)?;
    let own = certificates.first().cloned().ok_or_else(|| of(chain, "it holds no certificate".to_owned()))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| of(key, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| of(chain, error.to_string()))?;
    let config = match &files.client_ca {
        None => config.with_no_client_auth(),
        Some(path) => {
            let mut authorities = RootCertStore::empty();
            for authority in all(path)? {
                authorities.add(authority).map_err(|error| of(path, error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider);
            config.with_client_cert_verifier(verifier.build().map_err(|error| of(path, error.to_string()))?)
        }
    };
    let config =
        config.with_single_cert(certificates, private).map_err(|error| of(chain, error.to_string()))?;
    Ok(Used { config: Arc::new(config), own })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(name: &str) -> Vec<u8> {
        let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/pem", name].iter().collect();
        std::fs::read(path).unwrap()
    }

    /// Replaces a file, and checks both files when they are `due`.
    fn replace(certificates: &Certificates, path: &Path, name: &str, age: u64, due: bool) {
        let file = std::fs::File::create(path).unwrap();
        io::Write::write_all(&mut &file, &pem(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        if due {
            certificates.last_check.lock().unwrap().at = Instant::now().checked_sub(LOOK).unwrap();
        }
    }

    #[test]
    fn certificates_are_read_anew_when_both_files_fit_again() {
        let folder = tempfile::tempdir().unwrap();
        let (chain, key) = (folder.path().join("crt"), folder.path().join("key"));
        std::fs::write(&chain, pem("one.crt")).unwrap();
        std::fs::write(&key, pem("one.key")).unwrap();
        let files = TlsFiles { chain: chain.clone(), key: key.clone(), client_ca: None };
        let certificates = Certificates::load(files).unwrap();
        let first = certificates.pem();
        replace(&certificates, &chain, "two.crt", 100, true);
        assert_eq!(certificates.pem(), first, "between the two writes");
        replace(&certificates, &key, "two.key", 50, false);
        assert_eq!(certificates.pem(), first, "not due yet");
        replace(&certificates, &key, "two.key", 20, true);
        assert_ne!(certificates.pem(), first);
    }
}
