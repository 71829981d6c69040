//! The certificate of the streaming server, read again when its files change.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The shortest time between two checks of the files.
const LOOK: Duration = Duration::from_secs(5);

/// A certificate that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("streaming certificate {}: {why}", path.display())]
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

/// The certificate in use, and the files that it comes from.
pub(super) struct Certificates {
    chain: PathBuf,
    key: PathBuf,
    current: Mutex<Current>,
}

struct Current {
    used: Used,
    times: [Option<SystemTime>; 2],
    looked: Instant,
}

impl Certificates {
    pub(super) fn load(chain: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        let times = times(chain, key);
        let current = Current { used: read(chain, key)?, times, looked: Instant::now() };
        Ok(Arc::new(Self { chain: chain.to_owned(), key: key.to_owned(), current: Mutex::new(current) }))
    }

    pub(super) async fn accept(self: Arc<Self>, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let used = tokio::task::spawn_blocking(move || self.current()).await.map_err(io::Error::other)?;
        TlsAcceptor::from(used.config).accept(socket).await
    }

    /// Returns the server's own certificate, in PEM.
    pub(super) fn pem(&self) -> String {
        let text = STANDARD.encode(&self.current().own);
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    }

    /// Returns the present certificate. While the two files do not match, for example between two writes, the
    /// last matching pair stays in use.
    fn current(&self) -> Used {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.elapsed() >= LOOK {
            current.looked = Instant::now();
            let times = times(&self.chain, &self.key);
            if times != current.times {
                match read(&self.chain, &self.key) {
                    Ok(used) => {
                        current.used = used;
                        current.times = times;
                    }
                    Err(error) => tracing::warn!(%error, "the old certificate stays in use"),
                }
            }
        }
        current.used.clone()
    }
}

fn times(chain: &Path, key: &Path) -> [Option<SystemTime>; 2] {
    [chain, key].map(|path| std::fs::metadata(path).and_then(|found| found.modified()).ok())
}

fn read(chain: &Path, key: &Path) -> Result<Used, TlsError> {
    let of = |path: &Path, why: String| TlsError { path: path.to_owned(), why };
    let certificates = CertificateDer::pem_file_iter(chain).map_err(|error| of(chain, error.to_string()))?;
    let certificates =
        certificates.collect::<Result<Vec<_>, _>>().map_err(|error| of(chain, error.to_string()))?;
    let own = certificates.first().cloned().ok_or_else(|| of(chain, "it holds no certificate".to_owned()))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| of(key, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| of(chain, error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(certificates, private)
        .map_err(|error| of(chain, error.to_string()))?;
    Ok(Used { config: Arc::new(config), own })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(name: &str) -> Vec<u8> {
        let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/sessions/pem", name].iter().collect();
        std::fs::read(path).unwrap()
    }

    /// Replaces a file, and checks both files when they are `due`.
    fn replace(certificates: &Certificates, path: &Path, name: &str, age: u64, due: bool) {
        let file = std::fs::File::create(path).unwrap();
        io::Write::write_all(&mut &file, &pem(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        if due {
            let mut current = certificates.current.lock().unwrap();
            current.looked = Instant::now().checked_sub(LOOK).unwrap();
        }
    }

    #[test]
    fn certificates_are_read_anew_when_both_files_fit_again() {
        let folder = tempfile::tempdir().unwrap();
        let (chain, key) = (folder.path().join("crt"), folder.path().join("key"));
        std::fs::write(&chain, pem("one.crt")).unwrap();
        std::fs::write(&key, pem("one.key")).unwrap();
        let certificates = Certificates::load(&chain, &key).unwrap();
        let first = certificates.pem();
        replace(&certificates, &chain, "two.crt", 100, true);
        assert_eq!(certificates.pem(), first, "between the two writes");
        replace(&certificates, &key, "two.key", 50, false);
        assert_eq!(certificates.pem(), first, "not due yet");
        replace(&certificates, &key, "two.key", 20, true);
        assert_ne!(certificates.pem(), first);
    }
}
