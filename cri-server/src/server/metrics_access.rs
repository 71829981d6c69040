//! The clients that may read the pages of metrics, by the settings.

use std::time::Duration;

use anyhow::{Context as _, bail};
use crisp_metrics::tls::{Certificates, TlsFiles};
use crisp_metrics::{Access, TokenFile};

use crate::config::Settings;

/// Time limit for reading the certificates.
const READ: Duration = Duration::from_secs(10);

/// Reads the certificates. The token is read with each request, and once here, so that a wrong path is noticed.
///
/// # Errors
/// A file that cannot be used, or settings that need others.
pub async fn metrics_access(settings: &Settings) -> anyhow::Result<Access> {
    let client_ca = settings.metrics_client_ca.value.clone();
    let certificates = match (&settings.metrics_cert.value, &settings.metrics_key.value) {
        (Some(chain), Some(key)) => {
            let files = TlsFiles { chain: chain.clone(), key: key.clone(), client_ca };
            let load = tokio::task::spawn_blocking(move || Certificates::load(files));
            let loaded = tokio::time::timeout(READ, load).await;
            let loaded = loaded.context("metrics-cert, metrics-key: cannot be read in time")?;
            Some(loaded?.context("metrics-cert, metrics-key, metrics-client-ca")?)
        }
        (None, None) if client_ca.is_some() => bail!("metrics-client-ca needs metrics-cert and metrics-key"),
        (None, None) => None,
        _ => bail!("metrics-cert and metrics-key belong together: set both or none"),
    };
    let token = settings.metrics_token_file.value.clone();
    if let Some(path) = &token {
        let read = TokenFile::new(path.clone()).read().await;
        read.with_context(|| format!("metrics-token-file {}", path.display()))?;
    }
    Ok(Access { certificates, token: token.map(TokenFile::new) })
}
