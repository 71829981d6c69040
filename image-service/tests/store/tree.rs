//! The complete content of a folder, so that two trees can be compared with one assertion.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, i64),
    pub device: u64,
    /// Of a file its bytes, of a link its target.
    pub content: Vec<u8>,
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// The first path with the same inode, if this is not it.
    pub same_as: Option<PathBuf>,
}

pub type Tree = BTreeMap<PathBuf, Node>;

/// Reads everything below `root`; the root itself has the empty path.
pub fn read(root: &Path) -> Tree {
    let mut paths = vec![PathBuf::new()];
    let mut tree = Tree::new();
    let mut inodes: HashMap<u64, PathBuf> = HashMap::new();
    while let Some(path) = paths.pop() {
        let full = root.join(&path);
        let metadata = fs::symlink_metadata(&full).unwrap_or_else(|e| panic!("{}: {e}", full.display()));
        let kind = metadata.file_type();
        let mut content = Vec::new();
        if kind.is_dir() {
            let mut names: Vec<_> = fs::read_dir(&full).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            paths.extend(names.iter().rev().map(|name| path.join(name)));
        } else if kind.is_symlink() {
            content = fs::read_link(&full).unwrap().as_os_str().as_bytes().to_vec();
        } else if kind.is_file() {
            content = fs::read(&full).unwrap();
        }
        let mut same_as = None;
        if !kind.is_dir() && metadata.nlink() > 1 {
            same_as = inodes.get(&metadata.ino()).cloned();
            inodes.entry(metadata.ino()).or_insert_with(|| path.clone());
        }
        let node = Node {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            device: metadata.rdev(),
            content,
            xattrs: xattrs(&full),
            same_as,
        };
        tree.insert(path, node);
    }
    tree
}

/// Paths with a letter for what they are, for trees where only that matters.
pub fn names(root: &Path) -> Vec<String> {
    let describe = |(path, node): (&PathBuf, &Node)| {
        let letter = match node.mode & 0o170_000 {
            0o040_000 => 'd',
            0o120_000 => 'l',
            0o100_000 => 'f',
            0o020_000 if node.device == 0 => 'w',
            0o020_000 => 'c',
            0o060_000 => 'b',
            0o010_000 => 'p',
            _ => '?',
        };
        let opaque = if node.xattrs.contains_key("trusted.overlay.opaque") { "!" } else { "" };
        format!("{letter} {}{opaque}", path.display())
    };
    read(root).iter().filter(|(path, _)| !path.as_os_str().is_empty()).map(describe).collect()
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut list = vec![0; 65536];
    let n = rustix::fs::llistxattr(path, &mut list[..]).unwrap_or(0);
    let mut found = BTreeMap::new();
    for name in list[..n].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 65536];
        let n = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        found.insert(String::from_utf8_lossy(name).into_owned(), value[..n].to_vec());
    }
    found
}
