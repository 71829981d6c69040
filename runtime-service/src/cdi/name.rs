//! Names of devices: `vendor.com/class=device`.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The prefix of annotations that hold names.
const ANNOTATION: &str = "cdi.k8s.io/";

/// A device by its full name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceName {
    /// `vendor/class`.
    pub kind: String,
    pub device: String,
}

/// The reason why a name is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the name of a CDI device, such as vendor.com/class=name: {why}")]
pub struct InvalidName {
    pub text: String,
    why: &'static str,
}

impl DeviceName {
    /// # Errors
    /// The part of the name that is not valid.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let invalid = |why| InvalidName { text: text.to_owned(), why };
        let (kind, device) = text.split_once('=').ok_or_else(|| invalid("it has no ="))?;
        if !is_kind(kind) {
            return Err(invalid("what is before the = is not a vendor and a class"));
        }
        if !is_device(device) {
            return Err(invalid("what is after the = is not a device"));
        }
        Ok(Self { kind: kind.to_owned(), device: device.to_owned() })
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind, self.device)
    }
}

impl TryFrom<String> for DeviceName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        Self::parse(&text)
    }
}

impl From<DeviceName> for String {
    fn from(name: DeviceName) -> Self {
        name.to_string()
    }
}

/// Whether this is a vendor and a class.
pub(super) fn is_kind(text: &str) -> bool {
    let Some((vendor, class)) = text.split_once('/') else { return false };
    let starts = |part: &str| part.starts_with(|c: char| c.is_ascii_alphabetic());
    starts(vendor) && starts(class) && is_made_of(vendor, "_-.") && is_made_of(class, "_-.")
}

/// Whether this is a valid name of a device.
pub(super) fn is_device(text: &str) -> bool {
    is_made_of(text, "_-.:")
}

/// Letters and digits, with some of `others` between them.
fn is_made_of(text: &str, others: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || others.contains(c);
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.chars().all(inner) && edge(text.chars().next()) && edge(text.chars().next_back())
}

/// The names in annotations, which older device plugins use.
///
/// # Errors
/// The first name that is not valid, with its key.
pub fn of_annotations(
    annotations: &BTreeMap<String, String>,
) -> Result<Vec<DeviceName>, (String, InvalidName)> {
    let mut names = Vec::new();
    for (key, value) in annotations.iter().filter(|(key, _)| key.starts_with(ANNOTATION)) {
        for name in value.split(',') {
            names.push(DeviceName::parse(name.trim()).map_err(|error| (key.clone(), error))?);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_vendor_a_class_and_a_device() {
        for text in ["vendor.com/net=eth0", "a/b=0", "v.c/c_d-e.f=GPU-1:2.x"] {
            assert_eq!(DeviceName::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "vendor.com/net",
            "vendor.com=x",
            "/net=x",
            "v/c=",
            "v/c=-x",
            "v/c=x/y",
            "1v/c=x",
            "v/c=../x",
            "v/c=x\n",
        ] {
            let error = DeviceName::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{text:?} is not the name of a CDI device")), "{error}");
        }
    }

    #[test]
    fn annotations_of_cdi_hold_names() {
        let of = |key: &str, value: &str| of_annotations(&[(key.to_owned(), value.to_owned())].into());
        let names = of("cdi.k8s.io/plugin_1", "v/c=a, v/c=b").unwrap();
        assert_eq!(names.iter().map(DeviceName::to_string).collect::<Vec<_>>(), ["v/c=a", "v/c=b"]);
        assert_eq!(of("other/plugin", "x"), Ok(Vec::new()));
        assert_eq!(of("cdi.k8s.io/plugin", "v/c=a,").unwrap_err().0, "cdi.k8s.io/plugin");
    }
}
