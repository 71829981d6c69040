//! Finding an image by any of its names.

use std::sync::Arc;

use super::error::FindError;
use super::image::Image;
use super::{State, Store};
use crate::digest::{Algorithm, ImageId};
use crate::reference::Reference;

/// A shorter text is a name, not the beginning of an id.
const SHORTEST_ID: usize = 4;
/// Digits of a sha512 id.
const LONGEST_ID: usize = 128;

impl Store {
    /// Finds an image by tag (`busybox` is `docker.io/library/busybox:latest`), by `name@digest`, by id
    /// with or without its algorithm (`sha256:`, `sha512:`), or by the unique start of an id.
    ///
    /// A name takes precedence over an equal beginning of an id.
    ///
    /// # Errors
    /// [`FindError`]: no image or several images match, or the text can be neither id nor name.
    pub fn find(&self, text: &str) -> Result<Arc<Image>, FindError> {
        let state = self.inner.state();
        let algorithm = [Algorithm::Sha256, Algorithm::Sha512].into_iter().find_map(|algorithm| {
            let digits = text.strip_prefix(algorithm.name())?.strip_prefix(':')?;
            Some((algorithm, digits))
        });
        if algorithm.is_none()
            && let Some(image) = state.by_name(text)
        {
            return Ok(image);
        }
        let (algorithm, digits) = match algorithm {
            Some((algorithm, digits)) => (Some(algorithm), digits),
            None => (None, text),
        };
        let looks_like_id = (SHORTEST_ID..=LONGEST_ID).contains(&digits.len())
            && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if looks_like_id {
            return state.by_id(text, algorithm, digits);
        }
        // Returns the error with the reason.
        Reference::parse(text)?;
        Err(FindError::Unknown(text.to_owned()))
    }

    /// The image with exactly this id.
    #[must_use]
    pub fn image(&self, id: &ImageId) -> Option<Arc<Image>> {
        self.inner.state().images.get(id).map(|stored| Arc::clone(&stored.image))
    }
}

impl State {
    fn by_name(&self, text: &str) -> Option<Arc<Image>> {
        let reference = Reference::parse(text).ok()?;
        let name = match reference.digest() {
            Some(digest) => reference.repo_digest(digest),
            None => reference.repo_tag()?,
        };
        let id = self.names.get(&name)?;
        self.images.get(id).map(|stored| Arc::clone(&stored.image))
    }

    fn by_id(&self, text: &str, algorithm: Option<Algorithm>, digits: &str) -> Result<Arc<Image>, FindError> {
        let mut found = self.images.values().filter(|stored| {
            let id = &stored.record.id;
            algorithm.is_none_or(|algorithm| id.digest().algorithm() == algorithm)
                && id.hex().starts_with(digits)
        });
        let Some(first) = found.next() else { return Err(FindError::Unknown(text.to_owned())) };
        let mut candidates: Vec<String> = found.map(|stored| stored.record.id.short().to_owned()).collect();
        if candidates.is_empty() {
            return Ok(Arc::clone(&first.image));
        }
        candidates.push(first.record.id.short().to_owned());
        candidates.sort_unstable();
        Err(FindError::Ambiguous { prefix: text.to_owned(), candidates })
    }
}
