//! Manifests and configurations: small documents, read whole and verified before they are parsed.

use std::collections::HashMap;

use bytes::Bytes;
use http::{Method, header};
use serde::de::IgnoredAny;

use super::blob::refuse_encoding;
use super::error::EndpointError;
use super::source::Source;
use crate::digest::Digest;

/// Limit for a manifest or index, as in registries.
pub(crate) const MAX_MANIFEST: u64 = 4 << 20;

/// Every supported type, the preferred first.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1";

const DOCKER_CONTENT_DIGEST: &str = "docker-content-digest";

/// A manifest as it was received, with its real digest.
#[derive(Debug, Clone)]
pub(crate) struct RawManifest {
    pub(crate) bytes: Bytes,
    pub(crate) digest: Digest,
    pub(crate) content_type: Option<String>,
}

impl Source {
    /// Requests the digest of a tag or digest; `None` when the registry does not tell.
    pub(crate) async fn resolve(&self, wanted: &str) -> Result<Option<Digest>, EndpointError> {
        let response = self.request(Method::HEAD, &format!("manifests/{wanted}"), Some(ACCEPT), 0).await?;
        Ok(stated_digest(&response))
    }

    /// Reads the manifest of `wanted`, a tag or a digest.
    pub(crate) async fn manifest(&self, wanted: &str) -> Result<RawManifest, EndpointError> {
        let response = self.request(Method::GET, &format!("manifests/{wanted}"), Some(ACCEPT), 0).await?;
        refuse_encoding(&response)?;
        let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let content_type = content_type.and_then(|t| t.split(';').next()).map(|t| t.trim().to_owned());
        let stated = stated_digest(&response);
        let bytes = self.http.read_all(response, MAX_MANIFEST, "the manifest").await?;
        refuse_page(&bytes, content_type.as_deref())?;
        let expected = Digest::parse(wanted).ok().or(stated);
        let digest = match expected {
            Some(expected) if expected.matches(&bytes) => expected,
            Some(expected) => {
                let (what, found) = (format!("manifest {wanted}"), Digest::sha256(&bytes));
                return Err(EndpointError::Digest { what, found, expected });
            }
            None => Digest::sha256(&bytes),
        };
        Ok(RawManifest { bytes, digest, content_type })
    }

    /// Reads a whole small blob of exactly `size` bytes, and verifies it.
    pub(crate) async fn small_blob(&self, digest: &Digest, size: u64) -> Result<Bytes, EndpointError> {
        let what = format!("blob {digest}");
        let response = self.request(Method::GET, &format!("blobs/{digest}"), None, 0).await?;
        refuse_encoding(&response)?;
        let bytes = self.http.read_all(response, size, &what).await?;
        if bytes.len() as u64 != size {
            return Err(EndpointError::Size { what, found: bytes.len() as u64, expected: size });
        }
        if !digest.matches(&bytes) {
            let (found, expected) = (Digest::sha256(&bytes), digest.clone());
            return Err(EndpointError::Digest { what, found, expected });
        }
        Ok(bytes)
    }
}

/// A captive portal, a proxy or a wrong address responds with 200 and its own page. That is this server's
/// failure and not the image's: the next server may have the manifest.
fn refuse_page(bytes: &[u8], content_type: Option<&str>) -> Result<(), EndpointError> {
    let is_object = serde_json::from_slice::<HashMap<String, IgnoredAny>>(bytes).is_ok();
    let is_page = content_type.is_some_and(|t| t.eq_ignore_ascii_case("text/html"));
    if is_object && !is_page {
        return Ok(());
    }
    let what = content_type.unwrap_or("no type");
    let why = format!("expected a manifest, it sent a page of {what} (is a proxy or a login page between?)");
    Err(EndpointError::Protocol { why })
}

fn stated_digest<B>(response: &http::Response<B>) -> Option<Digest> {
    let text = response.headers().get(DOCKER_CONTENT_DIGEST)?.to_str().ok()?;
    Digest::parse(text).ok()
}
