//! Image references: `[registry[:port]/]repository[:tag][@digest]`, read the way docker, containerd and
//! kubelet read them, so that `busybox` and `docker.io/library/busybox:latest` are one value.
//!
//! ```
//! # use crisp_image_service::Reference;
//! let reference = Reference::parse("busybox")?;
//! assert_eq!(reference.to_string(), "docker.io/library/busybox:latest");
//! # Ok::<(), crisp_image_service::InvalidReference>(())
//! ```

use std::fmt;

use crate::digest::{Digest, InvalidDigest};

/// The registry of references that name none.
const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag of references with neither tag nor digest.
const DEFAULT_TAG: &str = "latest";
/// Longest repository name with its registry (distribution specification).
const MAX_NAME: usize = 255;
/// Longest tag.
const MAX_TAG: usize = 128;

/// The reason why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReference {
    /// It is empty.
    #[error("image reference is empty")]
    Empty,
    /// Longer than any registry accepts.
    #[error("image reference {0:?}… is too long: a name has at most {MAX_NAME} characters")]
    TooLong(String),
    /// The part before the first slash is not a host.
    #[error("image reference {text:?}: {registry:?} is not a registry host: {why}")]
    Registry {
        /// The whole reference.
        text: String,
        /// The part that is wrong.
        registry: String,
        /// The reason.
        why: &'static str,
    },
    /// The repository has a character or a form that no registry accepts.
    #[error("image reference {text:?}: {component:?} is not a valid part of a repository name: {why}")]
    Repository {
        /// The whole reference.
        text: String,
        /// The part that is wrong.
        component: String,
        /// The reason.
        why: &'static str,
    },
    /// The tag has a character or a form that no registry accepts.
    #[error(
        "image reference {text:?}: {tag:?} is not a tag: \
         expected 1 to {MAX_TAG} letters, digits, '_', '.' or '-', not starting with '.' or '-'"
    )]
    Tag {
        /// The whole reference.
        text: String,
        /// The part that is wrong.
        tag: String,
    },
    /// The text after the `@` is not a digest.
    #[error("image reference {text:?}: {source}")]
    Digest {
        /// The whole reference.
        text: String,
        /// The reason.
        source: InvalidDigest,
    },
    /// An image id instead of a name.
    #[error("{0:?} is an image id, not a reference: an image can only be pulled by name")]
    ImageId(String),
}

/// A complete image reference: registry, repository, and a tag or a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The only way to make one from outside text.
    ///
    /// # Errors
    /// [`InvalidReference`], naming the part that is wrong.
    pub fn parse(text: &str) -> Result<Self, InvalidReference> {
        if text.is_empty() {
            return Err(InvalidReference::Empty);
        }
        if text.len() > MAX_NAME + MAX_TAG + 150 {
            return Err(InvalidReference::TooLong(text.chars().take(60).collect()));
        }
        if let Some((scheme, _)) = text.split_once("://") {
            let (text, registry) = (text.to_owned(), format!("{scheme}:"));
            return Err(InvalidReference::Registry {
                text,
                registry,
                why: "write it without http:// or https://",
            });
        }
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => {
                let digest = Digest::parse(digest)
                    .map_err(|source| InvalidReference::Digest { text: text.to_owned(), source })?;
                (rest, Some(digest))
            }
        };
        let (name, tag) = split_tag(rest);
        if let Some(tag) = tag {
            check_tag(tag)
                .map_err(|()| InvalidReference::Tag { text: text.to_owned(), tag: tag.to_owned() })?;
        }
        let (registry, repository) = split_registry(text, name)?;
        check_repository(text, &repository)?;
        if registry.len() + 1 + repository.len() > MAX_NAME {
            return Err(InvalidReference::TooLong(text.chars().take(60).collect()));
        }
        let tag = tag.map(str::to_owned);
        let tag = if tag.is_none() && digest.is_none() { Some(DEFAULT_TAG.to_owned()) } else { tag };
        Ok(Self { registry, repository, tag, digest })
    }

    /// Host and optional port, as users write it: `docker.io`, `localhost:5000`, `[::1]:5000`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The name below the registry: `library/busybox`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Registry and repository: `docker.io/library/busybox`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The tag, if one was given or implied.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was given. It decides what is pulled; a tag beside it has no effect.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The identifier in requests to a registry: the digest if there is one, else the tag.
    #[must_use]
    pub fn wanted(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => DEFAULT_TAG,
        }
    }

    /// The tag name of a pulled image: `name:tag`. A reference with a digest has none, because the registry
    /// was not asked whether the tag points to it.
    #[must_use]
    pub fn repo_tag(&self) -> Option<String> {
        match (&self.digest, &self.tag) {
            (None, Some(tag)) => Some(format!("{}:{tag}", self.name())),
            _ => None,
        }
    }

    /// The digest name of a pulled image: `name@digest`.
    #[must_use]
    pub fn repo_digest(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.name())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Reference {
    type Err = InvalidReference;
    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        Self::parse(text)
    }
}

/// A colon after the last slash starts a tag; one before it starts a port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    let name_start = text.rfind('/').map_or(0, |slash| slash + 1);
    match text[name_start..].find(':') {
        Some(colon) => (&text[..name_start + colon], Some(&text[name_start + colon + 1..])),
        None => (text, None),
    }
}

fn check_tag(tag: &str) -> Result<(), ()> {
    let first = tag.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    let rest = tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if first && rest && tag.len() <= MAX_TAG { Ok(()) } else { Err(()) }
}

/// Docker's rule: the first part is a host if it cannot be part of a repository's name, or is `localhost`.
fn split_registry(text: &str, name: &str) -> Result<(String, String), InvalidReference> {
    let is_host = |first: &str| first.contains(['.', ':', '[']) || first == "localhost";
    let host = name
        .split_once('/')
        .filter(|(first, _)| is_host(first) || first.bytes().any(|b| b.is_ascii_uppercase()));
    let (registry, repository) = match host {
        Some((registry, repository)) => {
            check_registry(registry).map_err(|why| InvalidReference::Registry {
                text: text.to_owned(),
                registry: registry.to_owned(),
                why,
            })?;
            // A host that differs from a repository only by its upper-case letters keeps them: `Host/app` in
            // lower case is another image, on Docker Hub.
            let lower = registry.to_ascii_lowercase();
            (if is_host(&lower) { lower } else { registry.to_owned() }, repository)
        }
        None => {
            if name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(InvalidReference::ImageId(text.to_owned()));
            }
            (DEFAULT_REGISTRY.to_owned(), name)
        }
    };
    let registry = if registry == "index.docker.io" || registry == "registry-1.docker.io" {
        DEFAULT_REGISTRY.to_owned()
    } else {
        registry
    };
    let official = registry == DEFAULT_REGISTRY && !repository.contains('/');
    let repository = if official { format!("library/{repository}") } else { repository.to_owned() };
    Ok((registry, repository))
}

fn check_registry(registry: &str) -> Result<(), &'static str> {
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or("the ']' of an IPv6 address is missing")?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| "not an IPv6 address")?;
            (
                "",
                if port.is_empty() {
                    None
                } else {
                    Some(port.strip_prefix(':').ok_or("expected ':port' after ']'")?)
                },
            )
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, None),
        },
    };
    if let Some(port) = port
        && (port.is_empty()
            || !port.bytes().all(|b| b.is_ascii_digit())
            || port.parse::<u16>().ok().is_none_or(|p| p == 0))
    {
        return Err("the port is not a number from 1 to 65535");
    }
    if registry.starts_with('[') {
        return Ok(());
    }
    for label in host.split('.') {
        let inside = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if label.is_empty() || !inside || label.starts_with('-') || label.ends_with('-') {
            return Err("a host name is made of letters, digits and inner '-', in parts joined by '.'");
        }
    }
    Ok(())
}

fn check_repository(text: &str, repository: &str) -> Result<(), InvalidReference> {
    for component in repository.split('/') {
        if let Err(why) = check_component(component) {
            let (text, component) = (text.to_owned(), component.to_owned());
            return Err(InvalidReference::Repository { text, component, why });
        }
    }
    Ok(())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn check_component(component: &str) -> Result<(), &'static str> {
    if component.is_empty() {
        return Err("it is empty");
    }
    if component.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("upper-case letters are not allowed");
    }
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !component.bytes().all(|b| is_word(b) || matches!(b, b'.' | b'_' | b'-')) {
        return Err("only a-z, 0-9, '.', '_' and '-' are allowed");
    }
    for separator in component.split(|c: char| c.is_ascii_alphanumeric()).filter(|s| !s.is_empty()) {
        if !(separator == "."
            || separator == "_"
            || separator == "__"
            || separator.bytes().all(|b| b == b'-'))
        {
            return Err("words are separated by one '.', one or two '_' or any number of '-'");
        }
    }
    let ends = component.bytes().next().is_some_and(is_word) && component.bytes().last().is_some_and(is_word);
    if ends { Ok(()) } else { Err("it must start and end with a letter or a digit") }
}

#[cfg(test)]
mod tests;
