//! Which configuration is in force: the first file by name that can be used.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::config::{Broken, NetworkList};
use crate::network::NetworkError;

/// The configuration folder. Checked on every use, which costs a few system calls; parsed only when a
/// file has changed.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    seen: Mutex<Seen>,
}

type Fingerprint = Vec<(PathBuf, Option<SystemTime>, u64)>;
type Choice = Option<Result<Arc<NetworkList>, Broken>>;

#[derive(Debug, Default)]
struct Seen {
    files: Fingerprint,
    choice: Choice,
}

impl Directory {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, seen: Mutex::default() }
    }

    /// The network in force. No file at all means that none is wanted; files of which none can be used are
    /// an error: a file that is there was meant to be used.
    pub(super) fn current(&self) -> Option<Result<Arc<NetworkList>, NetworkError>> {
        let files = fingerprint(&self.path);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if files != seen.files {
            seen.choice = choose(&files);
            seen.files = files;
        }
        seen.choice.clone().map(|choice| choice.map_err(NetworkError::from))
    }
}

fn fingerprint(dir: &Path) -> Fingerprint {
    // A folder that is missing or not readable holds nothing for us.
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.flatten().map(|e| e.path());
    let known =
        |p: &PathBuf| matches!(p.extension().and_then(|e| e.to_str()), Some("conflist" | "conf" | "json"));
    let mut files: Fingerprint = paths
        .filter(known)
        .filter_map(|path| {
            let meta = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
            Some((path, meta.modified().ok(), meta.len()))
        })
        .collect();
    files.sort();
    files
}

fn choose(files: &Fingerprint) -> Choice {
    let mut first_broken = None;
    for (path, _, _) in files {
        match read(path) {
            Ok(list) => {
                tracing::info!(file = %path.display(), network = list.name, "the CNI configuration in force: the first by name that can be used");
                return Some(Ok(Arc::new(list)));
            }
            Err(broken) => {
                tracing::warn!(file = %path.display(), field = broken.field, why = broken.why, "a CNI configuration cannot be used");
                first_broken = first_broken.or(Some(broken));
            }
        }
    }
    first_broken.map(Err)
}

fn read(path: &Path) -> Result<NetworkList, Broken> {
    let unreadable =
        |e: std::io::Error| Broken { path: path.to_owned(), field: "file".to_owned(), why: e.to_string() };
    NetworkList::parse(path, &fs::read(path).map_err(unreadable)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, text: &str) {
        fs::write(dir.join(name), text).unwrap();
    }

    fn name(directory: &Directory) -> Option<String> {
        directory.current().map(|choice| choice.map_or_else(|e| e.to_string(), |list| list.name.clone()))
    }

    #[test]
    fn the_first_usable_file_by_name_is_in_force_and_changes_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::new(dir.path().join("net.d"));
        assert_eq!(name(&directory), None);
        let dir = dir.path().join("net.d");
        fs::create_dir(&dir).unwrap();
        write(&dir, "README", "{");
        write(&dir, "05.conflist.tmp", "{");
        assert_eq!(name(&directory), None);
        write(&dir, "20.conf", r#"{"name":"b","cniVersion":"1.0.0","type":"x"}"#);
        assert_eq!(name(&directory).as_deref(), Some("b"));
        write(&dir, "10.conflist", r#"{"name":"a","cniVersion":"1.0.0","plugins":[{"type":"x"}]}"#);
        assert_eq!(name(&directory).as_deref(), Some("a"));
        write(&dir, "10.conflist", r#"{"name":"broken"}"#);
        assert_eq!(name(&directory).as_deref(), Some("b"));
        fs::remove_file(dir.join("20.conf")).unwrap();
        let error = name(&directory).unwrap();
        assert!(error.contains("10.conflist: cniVersion: is missing"), "{error}");
        fs::remove_file(dir.join("10.conflist")).unwrap();
        assert_eq!(name(&directory), None);
    }
}
