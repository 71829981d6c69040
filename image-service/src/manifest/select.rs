//! Chooses one image of an index.

use super::ManifestError;
use super::parse::IndexEntry;
use super::platform::Platform;

/// The entry that runs best on `wanted`; the first among equals, which is the order of the index's author.
pub(crate) fn select(entries: &[IndexEntry], wanted: &Platform) -> Result<IndexEntry, ManifestError> {
    let ranked = entries.iter().filter_map(|entry| {
        let rank = match &entry.platform {
            Some(platform) => wanted.rank(platform)?,
            // Without a platform: its configuration decides, once it is fetched.
            None => 2000,
        };
        Some((rank, entry))
    });
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, entry)| entry.clone()).ok_or_else(|| {
        ManifestError::Platform {
            wanted: wanted.clone(),
            available: entries.iter().filter_map(|e| e.platform.clone()).collect(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::parse::Blob;
    use super::*;
    use crate::digest::Digest;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Platform { os: next(), architecture: next(), variant: next() }
    }

    fn best(wanted: &str, offered: &[&str]) -> Option<String> {
        let entries: Vec<_> = offered
            .iter()
            .map(|p| IndexEntry {
                blob: Blob { digest: Digest::sha256(p.as_bytes()), size: 1 },
                platform: (!p.is_empty()).then(|| platform(p)),
            })
            .collect();
        let chosen = select(&entries, &platform(wanted)).ok()?;
        Some(chosen.platform.map(|p| p.to_string()).unwrap_or_default())
    }

    #[test]
    fn the_best_fitting_platform_is_chosen() {
        for (wanted, offered, chosen) in [
            ("linux/amd64/v3", &["linux/arm64", "linux/amd64"][..], Some("linux/amd64")),
            ("linux/amd64/v3", &["linux/amd64", "linux/amd64/v3", "linux/amd64/v4"], Some("linux/amd64/v3")),
            ("linux/amd64/v1", &["linux/amd64/v2"], None),
            ("linux/amd64/v1", &["linux/386", "linux/amd64"], Some("linux/amd64")),
            ("linux/amd64/v1", &["linux/386", "windows/amd64"], Some("linux/386")),
            ("linux/arm64/v8", &["linux/arm/v7", "linux/arm64/v8"], Some("linux/arm64/v8")),
            ("linux/arm64/v8", &["linux/arm/v7"], Some("linux/arm/v7")),
            ("linux/arm64/v8", &["linux/arm/v5", "linux/arm", "linux/arm/v6"], Some("linux/arm")),
            ("linux/arm64/v8", &["linux/arm/v9"], None),
            ("linux/arm/v7", &["linux/arm64/v8"], None),
            ("linux/arm/v7", &["linux/arm/v5", "linux/arm/v6"], Some("linux/arm/v6")),
            ("linux/amd64", &["", "linux/arm64"], Some("")),
            ("linux/amd64", &[], None),
        ] {
            assert_eq!(best(wanted, offered).as_deref(), chosen, "{wanted} of {offered:?}");
        }
    }

    #[test]
    fn the_error_lists_what_there_is() {
        let entry = |p: &str| IndexEntry {
            blob: Blob { digest: Digest::sha256(b""), size: 1 },
            platform: Some(platform(p)),
        };
        let error =
            select(&[entry("linux/s390x"), entry("linux/arm/v7")], &platform("linux/amd64/v3")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no image for platform linux/amd64/v3; there is linux/s390x, linux/arm/v7"
        );
    }
}
