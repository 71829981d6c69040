//! The configuration in force: the first valid file by name.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::config::{Broken, NetworkList, plugin_files};
use super::exec;
use crate::network::NetworkError;
use crate::network::error::file;

/// The configuration folder. Checked on every use, which costs a few system calls; parsed only when a file
/// has changed.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// See [`NetworkConfig::cni_replace_grace`](crate::network::NetworkConfig::cni_replace_grace).
    grace: Duration,
    seen: Mutex<Seen>,
}

type Fingerprint = Vec<(PathBuf, Option<Stamp>)>;
type Choice = Option<Result<Arc<NetworkList>, Broken>>;

/// A valid configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniConfiguration {
    /// The name of the network.
    pub name: String,
    pub file: PathBuf,
    /// Its plugins that are not installed.
    pub missing: Vec<String>,
}

/// The valid configurations in a folder; the first one is in force. For checks of a machine without a server.
///
/// # Errors
/// The folder cannot be listed.
pub fn configurations(folder: &Path, bin_dirs: &[PathBuf]) -> Result<Vec<CniConfiguration>, NetworkError> {
    let all = Directory::new(folder.to_owned(), Duration::ZERO).all()?;
    let of_list = |list: NetworkList| {
        let plugins = list.plugins.iter().map(|plugin| plugin.kind.clone());
        let missing = plugins.filter(|plugin| exec::find(plugin, bin_dirs).is_none()).collect();
        CniConfiguration { name: list.name, file: list.path, missing }
    };
    Ok(all.into_iter().map(of_list).collect())
}

#[derive(Debug, Default)]
struct Seen {
    files: Fingerprint,
    /// Files of plugins in separate folders.
    added: Fingerprint,
    choice: Choice,
    /// The file in force is no longer valid: until this time it may be about to be replaced.
    replaced_until: Option<Instant>,
}

impl Directory {
    pub(super) fn new(path: PathBuf, grace: Duration) -> Self {
        Self { path, grace, seen: Mutex::default() }
    }

    /// The network with that name, in any file.
    pub(super) fn named(&self, name: &str) -> Result<Option<Arc<NetworkList>>, NetworkError> {
        Ok(self.all()?.into_iter().find(|list| list.name == name).map(Arc::new))
    }

    /// All valid configurations.
    pub(super) fn all(&self) -> Result<Vec<NetworkList>, NetworkError> {
        let files = fingerprint(&self.path).map_err(file("list", &self.path))?;
        Ok(files.iter().filter_map(|(path, ..)| read(path).ok()).collect())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The network in force; `None` when there is no file. If there are files but no valid one, that is an
    /// error.
    pub(super) fn current(&self) -> Result<Option<Arc<NetworkList>>, NetworkError> {
        let files = fingerprint(&self.path);
        let added = added_plugins(&self.path).into_iter().filter_map(stamp).collect();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match files {
            Ok(files) => {
                let late = seen.replaced_until.is_some_and(|until| until <= Instant::now());
                if files != seen.files || added != seen.added || late {
                    seen.added = added;
                    seen.choose(files, self.grace);
                }
            }
            // This says nothing about the file in force.
            Err(error) => match &seen.choice {
                Some(Ok(_)) => {
                    tracing::warn!(folder = %self.path.display(), %error, "cannot look for changes of the CNI configuration")
                }
                _ => return Err(file("list", &self.path)(error)),
            },
        }
        seen.choice.clone().transpose().map_err(NetworkError::from)
    }
}

impl Seen {
    fn choose(&mut self, files: Fingerprint, grace: Duration) {
        let choice = choose(&files);
        self.files = files;
        let in_force = match &self.choice {
            Some(Ok(list)) => Some(&list.path),
            _ => None,
        };
        let is_usable =
            |path: &PathBuf| self.files.iter().any(|(file, _)| file == path) && read(path).is_ok();
        let gone = in_force.filter(|path| !is_usable(path)).cloned();
        let until = self.replaced_until.unwrap_or_else(|| Instant::now() + grace);
        match gone {
            Some(path) if Instant::now() < until => {
                tracing::warn!(file = %path.display(), "the CNI configuration in force cannot be read any more; it stays in force for some seconds, as it may be about to be replaced");
                self.replaced_until = Some(until);
            }
            _ => {
                if let Some(Ok(list)) = &choice {
                    tracing::info!(file = %list.path.display(), network = list.name, "the CNI configuration in force: the first by name that can be used");
                }
                self.choice = choice;
                self.replaced_until = None;
            }
        }
    }
}

/// A value that changes with the file. A file with the size and the time of the one that it replaces, as `mv` and
/// `cp --preserve` keep it, has another inode number or time of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Stamp {
    inode: (u64, u64),
    /// Seconds and nanoseconds, as are those of the change of the inode.
    modified: (i64, i64),
    changed: (i64, i64),
    length: u64,
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            inode: (meta.dev(), meta.ino()),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            length: meta.len(),
        }
    }
}

/// The file with its stamp. None when there is no file.
fn stamp(path: PathBuf) -> Option<(PathBuf, Option<Stamp>)> {
    match fs::metadata(&path) {
        Ok(meta) if meta.is_file() => Some((path, Some(Stamp::of(&meta)))),
        Ok(_) => None,
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        // Reading it shows why it cannot be used.
        Err(_) => Some((path, None)),
    }
}

/// The configuration files by name. Empty for a missing folder.
fn fingerprint(dir: &Path) -> io::Result<Fingerprint> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Fingerprint::new();
    for entry in entries {
        let path = entry?.path();
        if matches!(path.extension().and_then(|e| e.to_str()), Some("conflist" | "conf" | "json")) {
            files.extend(stamp(path));
        }
    }
    files.sort();
    Ok(files)
}

/// Plugins that other programs added to networks, in separate folders.
fn added_plugins(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.flat_map(|folder| plugin_files(&folder.path())).collect()
}

fn choose(files: &Fingerprint) -> Choice {
    let mut first_broken = None;
    for (path, _) in files {
        match read(path) {
            Ok(list) => return Some(Ok(Arc::new(list))),
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
        |e: io::Error| Broken { path: path.to_owned(), field: "file".to_owned(), why: e.to_string() };
    NetworkList::parse(path, &fs::read(path).map_err(unreadable)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, text: &str) {
        fs::write(dir.join(name), text).unwrap();
    }

    fn name(directory: &Directory) -> Option<String> {
        match directory.current() {
            Ok(list) => list.map(|list| list.name.clone()),
            Err(error) => Some(error.to_string()),
        }
    }

    #[test]
    fn the_first_usable_file_by_name_is_in_force_and_changes_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::new(dir.path().join("net.d"), Duration::ZERO);
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

    const A: &str = r#"{"name":"a","cniVersion":"1.0.0","type":"x"}"#;
    const B: &str = r#"{"name":"b","cniVersion":"1.0.0","type":"x"}"#;

    #[test]
    fn a_file_that_is_replaced_stays_in_force_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let directory = Directory::new(dir.to_owned(), Duration::from_secs(600));
        write(dir, "10.conf", A);
        write(dir, "87-other.conf", B);
        assert_eq!(name(&directory).as_deref(), Some("a"));
        write(dir, "10.conf", &A[..20]);
        assert_eq!(name(&directory).as_deref(), Some("a"), "half written, and no reason for the other one");
        fs::remove_file(dir.join("10.conf")).unwrap();
        fs::remove_file(dir.join("87-other.conf")).unwrap();
        assert_eq!(name(&directory).as_deref(), Some("a"));
        write(dir, "10.conf", B);
        assert_eq!(name(&directory).as_deref(), Some("b"));
    }

    #[test]
    fn a_file_of_the_same_size_and_time_is_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let (dir, file) = (folder.path(), folder.path().join("10.conf"));
        let directory = Directory::new(dir.to_owned(), Duration::ZERO);
        write(dir, "10.conf", A);
        assert_eq!(name(&directory).as_deref(), Some("a"));
        let time = fs::metadata(&file).unwrap().modified().unwrap();
        let set_time =
            |path: &Path| fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        // As `mv` and `cp --preserve` do.
        let other = dir.join("10.conf.tmp");
        fs::write(&other, B).unwrap();
        set_time(&other);
        fs::rename(&other, &file).unwrap();
        assert_eq!(name(&directory).as_deref(), Some("b"));
        // The clock of files has ticks.
        std::thread::sleep(Duration::from_millis(20));
        fs::write(&file, A).unwrap();
        set_time(&file);
        assert_eq!(name(&directory).as_deref(), Some("a"), "written again into the same file");
    }

    #[test]
    fn a_file_that_does_not_come_back_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::new(folder.path().to_owned(), Duration::from_millis(50));
        write(folder.path(), "10.conf", A);
        assert_eq!(name(&directory).as_deref(), Some("a"));
        fs::remove_file(folder.path().join("10.conf")).unwrap();
        assert_eq!(name(&directory).as_deref(), Some("a"));
        while name(&directory).is_some() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_folder_that_cannot_be_listed_is_not_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("net.d");
        // Stands for a list that fails because there are no descriptors left.
        fs::write(&dir, "").unwrap();
        let directory = Directory::new(dir.clone(), Duration::ZERO);
        assert!(name(&directory).unwrap().contains("net.d"));
        fs::remove_file(&dir).unwrap();
        fs::create_dir(&dir).unwrap();
        write(&dir, "10.conf", A);
        assert_eq!(name(&directory).as_deref(), Some("a"));
        fs::rename(&dir, dir.with_extension("aside")).unwrap();
        fs::write(&dir, "").unwrap();
        assert_eq!(name(&directory).as_deref(), Some("a"), "nothing says that it is not in force any more");
    }
}
