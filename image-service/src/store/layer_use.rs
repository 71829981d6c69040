//! The users of the layers.

use super::Store;

/// A layer and its users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerUse {
    /// Its diff id.
    pub layer: String,
    /// The images that contain it: a name of each, or its id if it has none.
    pub images: Vec<String>,
    /// Whether a container leases it, or a pull holds it.
    pub is_in_use: bool,
}

impl Store {
    /// Every layer, in the order of their ids.
    #[must_use]
    pub fn layer_uses(&self) -> Vec<LayerUse> {
        let state = self.inner.state();
        let of_layer = |diff: &crate::digest::DiffId| {
            let images = state.images.values().filter(|stored| stored.record.lower().contains(diff));
            let mut images: Vec<String> = images
                .map(|stored| {
                    let image = &stored.image;
                    let name = image.repo_tags.first().or(image.repo_digests.first()).cloned();
                    name.unwrap_or_else(|| image.id.to_string())
                })
                .collect();
            images.sort();
            LayerUse { layer: diff.to_string(), images, is_in_use: state.users.contains_key(diff) }
        };
        let mut all: Vec<LayerUse> = state.layers.keys().map(of_layer).collect();
        all.sort_by(|a, b| a.layer.cmp(&b.layer));
        all
    }
}
