//! Content digests (`sha256:…`) and the two identities built on them.
//!
//! A value of these types is valid by construction, so a file name may be built from [`Digest::hex`].

use std::fmt;

use serde::{Deserialize, Serialize};

/// A hash algorithm that the OCI image specification registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, the usual one.
    Sha256,
    /// SHA-512, registered and therefore accepted.
    Sha512,
}

impl Algorithm {
    /// The text before the colon.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    fn digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }

    fn ring(self) -> &'static ring::digest::Algorithm {
        match self {
            Self::Sha256 => &ring::digest::SHA256,
            Self::Sha512 => &ring::digest::SHA512,
        }
    }
}

/// The reason why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDigest {
    /// No `algorithm:` prefix.
    #[error("{0:?} is not a digest: expected algorithm:hex, for example sha256:…")]
    NoAlgorithm(String),
    /// An algorithm that is not supported.
    #[error("digest algorithm {0:?} is not supported: use sha256 or sha512")]
    Algorithm(String),
    /// Right prefix, wrong digits.
    #[error("{text:?} is not a digest: {algorithm} needs {digits} lower-case hexadecimal digits")]
    Digits {
        /// The text, cut to a readable length.
        text: String,
        /// The prefix found.
        algorithm: &'static str,
        /// Digits that it needs.
        digits: usize,
    },
}

/// The hash of some content, `algorithm:hex`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    algorithm: Algorithm,
    text: String,
}

impl Digest {
    /// The only way to make one from outside text.
    ///
    /// # Errors
    /// [`InvalidDigest`] when the algorithm is unknown or the digits are not exactly as it needs them.
    pub fn parse(text: &str) -> Result<Self, InvalidDigest> {
        let cut = || text.chars().take(150).collect::<String>();
        let (name, hex) = text.split_once(':').ok_or_else(|| InvalidDigest::NoAlgorithm(cut()))?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(InvalidDigest::Algorithm(name.chars().take(40).collect())),
        };
        let valid =
            hex.len() == algorithm.digits() && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !valid {
            let (algorithm, digits) = (algorithm.name(), algorithm.digits());
            return Err(InvalidDigest::Digits { text: cut(), algorithm, digits });
        }
        Ok(Self { algorithm, text: text.to_owned() })
    }

    /// The SHA-256 of `bytes`.
    #[must_use]
    pub fn sha256(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Whether `bytes` hash to this digest, by this digest's own algorithm.
    #[must_use]
    pub fn matches(&self, bytes: &[u8]) -> bool {
        let mut hasher = Hasher::new(self.algorithm);
        hasher.update(bytes);
        hasher.finish() == *self
    }

    /// The hash algorithm.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The digits after the colon: safe as a file name.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.text[self.algorithm.name().len() + 1..]
    }

    /// The first 12 digits, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }

    /// `algorithm:hex`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;
    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.text
    }
}

/// Hashes content piece by piece.
///
/// ring's assembly uses the SHA extensions where the CPU has them and AVX2 where not, and is equally fast
/// in unoptimised builds.
#[derive(Clone)]
pub struct Hasher {
    algorithm: Algorithm,
    context: ring::digest::Context,
}

impl Hasher {
    /// A hasher that has seen nothing.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        Self { algorithm, context: ring::digest::Context::new(algorithm.ring()) }
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    /// The digest of everything added.
    #[must_use]
    pub fn finish(self) -> Digest {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(8 + self.algorithm.digits());
        text.push_str(self.algorithm.name());
        text.push(':');
        for byte in self.context.finish().as_ref() {
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
        Digest { algorithm: self.algorithm, text }
    }
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Digest);

        impl $name {
            /// The only way to make one from outside text.
            ///
            /// # Errors
            /// [`InvalidDigest`] when `text` is not a digest.
            pub fn parse(text: &str) -> Result<Self, InvalidDigest> {
                Digest::parse(text).map(Self)
            }

            /// The digest of this identity.
            #[must_use]
            pub fn digest(&self) -> &Digest {
                &self.0
            }

            /// The digits after the colon: safe as a file name.
            #[must_use]
            pub fn hex(&self) -> &str {
                self.0.hex()
            }

            /// The first 12 digits, for people.
            #[must_use]
            pub fn short(&self) -> &str {
                self.0.short()
            }

            /// `algorithm:hex`.
            #[must_use]
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl From<Digest> for $name {
            fn from(digest: Digest) -> Self {
                Self(digest)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

identity! {
    /// A layer: the digest of its uncompressed tar archive.
    DiffId
}
identity! {
    /// An image: the digest of its configuration.
    ImageId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_parsed_back_from_its_text() {
        let digest = Digest::sha256(b"");
        assert_eq!(digest.hex(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(Digest::parse(digest.as_str()), Ok(digest.clone()));
        assert_eq!(digest.short(), "e3b0c44298fc");
        assert!(digest.matches(b"") && !digest.matches(b"x"));
    }

    #[test]
    fn sha512_is_verified_too() {
        let mut hasher = Hasher::new(Algorithm::Sha512);
        hasher.update(b"abc");
        let digest = hasher.finish();
        assert!(digest.as_str().starts_with("sha512:ddaf35a193617aba"));
        assert!(digest.matches(b"abc") && !digest.matches(b"abd"));
    }

    #[test]
    fn text_that_could_leave_a_folder_is_refused() {
        for text in ["", "sha256", "sha256:", "sha256:../x", "md5:d41d8cd98f00b204e9800998ecf8427e"] {
            assert!(DiffId::parse(text).is_err(), "{text}");
        }
        assert!(ImageId::parse(&format!("sha256:{}", "A".repeat(64))).is_err());
        assert!(ImageId::parse(&format!("sha256:{}", "a".repeat(63))).is_err());
        assert!(ImageId::parse(&format!("sha512:{}", "a".repeat(64))).is_err());
    }

    #[test]
    fn serde_goes_through_the_parser() {
        assert!(serde_json::from_str::<DiffId>("\"sha256:zz\"").is_err());
        let id = DiffId::from(Digest::sha256(b"x"));
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<DiffId>(&json).unwrap(), id);
    }
}
