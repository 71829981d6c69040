//! Ids of pods and containers: 64 lower-case hexadecimal digits, as CRI clients expect.
//!
//! A value of these types is valid by construction, so a path or a cgroup name may be built from it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The reason why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an id: expected 64 lower-case hexadecimal digits")]
pub struct InvalidId {
    text: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The only way to make one from outside text.
            ///
            /// # Errors
            /// [`InvalidId`] when `text` is not 64 lower-case hexadecimal digits.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let valid = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                if valid { Ok(Self(text.to_owned())) } else { Err(InvalidId { text: text.chars().take(80).collect() }) }
            }

            /// A new random id.
            ///
            /// # Panics
            /// The kernel has no randomness, which only happens during boot.
            #[must_use]
            pub fn random() -> Self {
                let mut bytes = [0u8; 32];
                let mut filled = 0;
                while filled < bytes.len() {
                    match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
                        Ok(n) => filled += n,
                        Err(rustix::io::Errno::INTR) => {}
                        Err(e) => panic!("getrandom: {e}"),
                    }
                }
                Self(bytes.iter().map(|b| format!("{b:02x}")).collect())
            }

            /// The 64 digits.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first 12 digits, for people.
            #[must_use]
            pub fn short(&self) -> &str {
                &self.0[..12]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

id! {
    /// A pod sandbox.
    PodId
}
id! {
    /// A container in a pod.
    ContainerId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_parse_and_differ() {
        let (a, b) = (PodId::random(), PodId::random());
        assert_ne!(a, b);
        assert_eq!(PodId::parse(a.as_str()), Ok(a));
    }

    #[test]
    fn text_that_could_leave_a_folder_is_refused() {
        for text in ["", "../x", &"A".repeat(64), &"a".repeat(63), &"/".repeat(64)] {
            assert!(ContainerId::parse(text).is_err(), "{text}");
        }
    }
}
