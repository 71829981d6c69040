//! Chooses the image of an index that runs best on this machine.

use std::fmt;

use serde::Deserialize;

/// Operating system, processor and its variant, with Go's names, which images use.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Written")]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `v7` of arm, `v3` of amd64, or empty.
    pub variant: String,
}

/// A platform as a document has it.
#[derive(Deserialize)]
struct Written {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
}

/// Replaces names that are not Go's but common in images built by hand, as containerd does.
impl From<Written> for Platform {
    fn from(written: Written) -> Self {
        let os = written.os.unwrap_or_default().to_ascii_lowercase();
        let architecture = written.architecture.unwrap_or_default().to_ascii_lowercase();
        let variant = written.variant.unwrap_or_default().to_ascii_lowercase();
        let (architecture, variant) = match architecture.as_str() {
            "x86_64" | "x86-64" => ("amd64".to_owned(), variant),
            "i386" => ("386".to_owned(), variant),
            "aarch64" => ("arm64".to_owned(), variant),
            "armhf" => ("arm".to_owned(), "v7".to_owned()),
            "armel" => ("arm".to_owned(), "v6".to_owned()),
            _ => (architecture, variant),
        };
        let is_number = !variant.is_empty() && variant.bytes().all(|byte| byte.is_ascii_digit());
        let variant = if is_number { format!("v{variant}") } else { variant };
        Self { os, architecture, variant }
    }
}

/// The rank of images for the 32-bit processor; all for the own one have a lower number.
const LAST_RESORT: u32 = 1000;

impl Platform {
    /// This machine.
    #[must_use]
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", amd64_level()),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            "x86" => ("386", ""),
            "powerpc64" => ("ppc64le", ""),
            other => (other, ""),
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: variant.into() }
    }

    /// How well an image for `offered` runs here: lower is better, `None` means not at all.
    pub(super) fn rank(&self, offered: &Self) -> Option<u32> {
        if offered.os != self.os {
            return None;
        }
        let number = |variant: &str| variant.trim_start_matches('v').parse::<u32>().ok();
        // An image without a variant is for the lowest common one.
        let lowest = match offered.architecture.as_str() {
            "arm64" => 8,
            "arm" => 7,
            _ => 1,
        };
        let theirs = if offered.variant.is_empty() { lowest } else { number(&offered.variant)? };
        match (self.architecture.as_str(), offered.architecture.as_str()) {
            (own, other) if own == other => number(&self.variant).unwrap_or(lowest).checked_sub(theirs),
            // A 64-bit kernel runs 32-bit programs; they are the last resort.
            ("amd64", "386") => Some(LAST_RESORT),
            ("arm64", "arm") => Some(LAST_RESORT + 8_u32.checked_sub(theirs)?),
            _ => None,
        }
    }

    /// Whether an image whose configuration says `offered` runs here. Empty fields match: images built by
    /// hand often lack them. An image without an index that is for another processor is refused, although
    /// containerd and docker pull it: it would fail at its start, except on nodes with binfmt_misc.
    pub(crate) fn accepts(&self, offered: &Self) -> bool {
        let or_own =
            |theirs: &str, own: &str| if theirs.is_empty() { own.to_owned() } else { theirs.to_owned() };
        let offered = Self {
            os: or_own(&offered.os, &self.os),
            architecture: or_own(&offered.architecture, &self.architecture),
            variant: offered.variant.clone(),
        };
        self.rank(&offered).is_some()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

/// The x86-64 psABI's micro-architecture level, in the form of images.
#[cfg(target_arch = "x86_64")]
fn amd64_level() -> &'static str {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("cmpxchg16b") && has!("popcnt") && has!("sse4.2") && has!("ssse3");
    let v3 = has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("f16c")
        && has!("fma")
        && has!("lzcnt")
        && has!("movbe");
    let v4 = has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
    match (v2, v3, v4) {
        (true, true, true) => "v4",
        (true, true, false) => "v3",
        (true, false, _) => "v2",
        _ => "v1",
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn amd64_level() -> &'static str {
    "v1"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Platform { os: next(), architecture: next(), variant: next() }
    }

    #[test]
    fn names_that_are_not_those_of_go_are_replaced() {
        for (json, name) in [
            (r#"{"os":"Linux","architecture":"x86_64"}"#, "linux/amd64"),
            (r#"{"os":"linux","architecture":"aarch64","variant":"8"}"#, "linux/arm64/v8"),
            (r#"{"os":"linux","architecture":"armhf"}"#, "linux/arm/v7"),
            (r#"{"os":"linux","architecture":"armel","variant":null}"#, "linux/arm/v6"),
            (r#"{"os":"linux","architecture":"arm","variant":"7"}"#, "linux/arm/v7"),
            (r#"{"os":"LINUX","architecture":"i386"}"#, "linux/386"),
            (r#"{"os":"linux","architecture":"riscv64","variant":null,"features":[]}"#, "linux/riscv64"),
        ] {
            assert_eq!(serde_json::from_str::<Platform>(json).unwrap().to_string(), name);
        }
    }

    #[test]
    fn this_machine_runs_its_own_images() {
        let host = Platform::host();
        assert!(host.accepts(&host) && host.accepts(&platform("")));
        assert!(!host.accepts(&platform("windows")) && !host.accepts(&platform("linux/s390x")));
    }
}
