//! What endpoints are asked for before the layers.

use bytes::Bytes;

use super::sources::{Need, Question};
use crate::digest::Digest;
use crate::reference::Reference;
use crate::registry::{EndpointError, RawManifest, Source};

/// Which digest does this reference stand for? `None`: the registry does not say.
pub(crate) struct WhichDigest<'a>(pub(crate) &'a Reference);

/// The manifest that this reference stands for.
pub(crate) struct ManifestOf<'a>(pub(crate) &'a Reference);

/// The manifest with this digest.
pub(crate) struct ManifestBy<'a>(pub(crate) &'a Digest);

/// The small blob with this digest and size.
pub(crate) struct SmallBlob<'a>(pub(crate) &'a Digest, pub(crate) u64);

/// Only a tag has to be resolved; a digest is content.
fn need_of(reference: &Reference) -> Need {
    if reference.digest().is_some() { Need::Pull } else { Need::Resolve }
}

impl Question for WhichDigest<'_> {
    type Answer = Option<Digest>;

    fn need(&self) -> Need {
        need_of(self.0)
    }

    async fn ask(&self, source: &Source) -> Result<Option<Digest>, EndpointError> {
        source.resolve(self.0.wanted()).await
    }
}

impl Question for ManifestOf<'_> {
    type Answer = RawManifest;

    fn need(&self) -> Need {
        need_of(self.0)
    }

    async fn ask(&self, source: &Source) -> Result<RawManifest, EndpointError> {
        source.manifest(self.0.wanted()).await
    }
}

impl Question for ManifestBy<'_> {
    type Answer = RawManifest;

    fn need(&self) -> Need {
        Need::Pull
    }

    async fn ask(&self, source: &Source) -> Result<RawManifest, EndpointError> {
        source.manifest(self.0.as_str()).await
    }
}

impl Question for SmallBlob<'_> {
    type Answer = Bytes;

    fn need(&self) -> Need {
        Need::Pull
    }

    async fn ask(&self, source: &Source) -> Result<Bytes, EndpointError> {
        source.small_blob(self.0, self.1).await
    }
}
