//! The names in an archive, made relative to the layer's root.

/// A `..` in a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DotDot;

/// Writes the components of `name` joined by single slashes, without `.` and without slashes at the
/// ends, into `into`. The root itself is empty.
pub(super) fn normalise(name: &[u8], into: &mut Vec<u8>) -> Result<(), DotDot> {
    into.clear();
    for component in name.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err(DotDot),
            component => {
                if !into.is_empty() {
                    into.push(b'/');
                }
                into.extend_from_slice(component);
            }
        }
    }
    Ok(())
}

/// Splits a normalised path into its folder and its last component.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// The target of a symbolic link in `folder`, as a path from the root; `..` stops at the root, as for a
/// process in the container.
pub(super) fn follow(folder: &[u8], target: &[u8]) -> Vec<u8> {
    let mut path = if target.starts_with(b"/") { Vec::new() } else { folder.to_vec() };
    for component in target.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => path.truncate(split(&path).0.len()),
            component => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(component);
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_what_means_nothing() {
        let mut path = b"left over".to_vec();
        for (name, expected) in [
            ("a/b", "a/b"),
            ("./a//b/", "a/b"),
            ("/etc/passwd", "etc/passwd"),
            ("./", ""),
            ("/", ""),
            (".", ""),
            ("a/./b", "a/b"),
            ("..a/b..", "..a/b.."),
        ] {
            normalise(name.as_bytes(), &mut path).unwrap();
            assert_eq!(path, expected.as_bytes(), "{name}");
        }
        for name in ["..", "a/..", "../a", "a/../b", "/.."] {
            assert_eq!(normalise(name.as_bytes(), &mut path), Err(DotDot), "{name}");
        }
    }

    #[test]
    fn links_stay_below_the_root() {
        for (folder, target, expected) in [
            ("", "usr/lib", "usr/lib"),
            ("a/b", "../c", "a/c"),
            ("a", "../../../etc", "etc"),
            ("a", "/x/./y", "x/y"),
            ("a", "..", ""),
        ] {
            assert_eq!(follow(folder.as_bytes(), target.as_bytes()), expected.as_bytes());
        }
    }
}
