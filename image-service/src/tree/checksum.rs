//! A checksum of a tree, computed entry by entry in any order while the tree is unpacked.
//!
//! It finds damage (a power cut, a broken disk, a person's edit), not forgery: content was verified against
//! its digest when it was unpacked, and only root can change it. So CRC-32 is sufficient, and costs nearly
//! nothing beside the SHA-256 of the archive.
//!
//! Every name adds one term to `metadata`: its path, kind, owner, mode, size, device and link target.
//! Every file adds one term to `content`: its bytes and extended attributes. Times are left out, as file
//! systems keep them with different precision.

use serde::{Deserialize, Serialize};

/// The sums over one tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checksum {
    /// Of names and attributes: checked by reading each inode.
    pub metadata: u64,
    /// Of file contents: checked by reading everything.
    pub content: u64,
}

/// The metadata of one name.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Attributes<'a> {
    /// With the file type, as in stat(2). Permissions of symbolic links have no meaning and are ignored.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Of regular files; ignored for others.
    pub size: u64,
    pub device: u64,
    /// Of symbolic links.
    pub target: &'a [u8],
}

const TYPE: u32 = 0o170_000;
const SYMLINK: u32 = 0o120_000;
const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;

impl Checksum {
    /// Adds a name.
    pub(crate) fn add_name(&mut self, path: &[u8], attributes: &Attributes<'_>) {
        let Attributes { mode, uid, gid, size, device, target } = *attributes;
        let kind = mode & TYPE;
        let mode = if kind == SYMLINK { kind } else { mode };
        let size = if kind == REGULAR { size } else { 0 };
        let mut crc = crc32fast::Hasher::new();
        for number in [u64::from(mode), u64::from(uid), u64::from(gid), size, device] {
            crc.update(&number.to_le_bytes());
        }
        crc.update(target);
        self.metadata = self.metadata.wrapping_add(term(crc32fast::hash(path), crc.finalize()));
    }

    /// Adds a directory whose owner and mode may still change: only its path counts.
    pub(crate) fn add_implied(&mut self, path: &[u8]) {
        self.metadata = self.metadata.wrapping_add(term(crc32fast::hash(path), DIRECTORY));
    }

    /// Adds the content of an inode: the CRC-32 of a file's bytes, and of its extended attributes.
    pub(crate) fn add_content(&mut self, bytes: u32, xattrs: u32) {
        self.content = self.content.wrapping_add(term(bytes, xattrs));
    }
}

/// The checksum of extended attributes in any order; zero without any. Attributes that a file system or a
/// security module adds itself do not count.
pub(crate) fn xattr_checksum<'a>(xattrs: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> u32 {
    xattrs.filter(|(name, _)| counts(name)).fold(0, |sum, (name, value)| {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&(name.len() as u64).to_le_bytes());
        crc.update(name);
        crc.update(value);
        sum ^ crc.finalize()
    })
}

fn counts(name: &[u8]) -> bool {
    name == b"security.capability" || name.starts_with(b"user.") || name.starts_with(b"trusted.")
}

/// Spreads two checksums over 64 bits, so that sums of different terms hardly ever agree (the finaliser of
/// splitmix64).
fn term(high: u32, low: u32) -> u64 {
    let mut x = (u64::from(high) << 32 | u64::from(low)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_matter_and_every_field_does() {
        let file = Attributes { mode: REGULAR | 0o644, uid: 1, gid: 2, size: 3, device: 0, target: b"" };
        let sum = |entries: &[(&str, Attributes<'_>)]| {
            let mut sum = Checksum::default();
            for (path, attributes) in entries {
                sum.add_name(path.as_bytes(), attributes);
            }
            sum
        };
        let one = sum(&[("a", file), ("b", file)]);
        assert_eq!(one, sum(&[("b", file), ("a", file)]));
        for changed in [
            Attributes { mode: REGULAR | 0o600, ..file },
            Attributes { uid: 0, ..file },
            Attributes { gid: 0, ..file },
            Attributes { size: 0, ..file },
            Attributes { device: 1, ..file },
            Attributes { target: b"x", ..file },
        ] {
            assert_ne!(one, sum(&[("a", changed), ("b", file)]), "{changed:?}");
        }
        assert_ne!(one, sum(&[("a", file)]));
        assert_ne!(one, sum(&[("a", file), ("c", file)]));
    }
}
