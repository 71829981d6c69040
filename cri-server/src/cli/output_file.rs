//! The file of `-o`: a regular file appears under its name when it is complete, and the earlier one stays until
//! then. A pipe or a device, as /dev/stdout, is written to directly and never removed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use tonic::Streaming;

use super::client::refused;
use super::signals::Signals;

/// Writes the pieces of a reply to a file; to standard output for None.
///
/// # Errors
/// The server ends the stream with an error, or the file cannot be written. An earlier file stays then.
pub async fn write<T>(
    path: Option<&Path>,
    mut replies: Streaming<T>,
    data: impl Fn(T) -> Vec<u8>,
) -> anyhow::Result<ExitCode> {
    let Some(path) = path else {
        let mut out = io::stdout();
        while let Some(reply) = replies.message().await.map_err(refused)? {
            out.write_all(&data(reply))?;
        }
        out.flush()?;
        return Ok(ExitCode::SUCCESS);
    };
    let failed = || path.display().to_string();
    let mut out = OutputFile::create(path).with_context(failed)?;
    // A blocked pipe is left by the signal's default action.
    let mut signals = if out.is_regular() { Some(Signals::new()?) } else { None };
    loop {
        let signal = async {
            match &mut signals {
                Some(signals) => signals.next().await,
                None => std::future::pending().await,
            }
        };
        let reply = tokio::select! {
            reply = replies.message() => reply.map_err(refused)?,
            number = signal => return Ok(ExitCode::from(128 + number)),
        };
        let Some(reply) = reply else { break };
        out.write_all(&data(reply)).with_context(failed)?;
    }
    out.finish().with_context(failed)?;
    Ok(ExitCode::SUCCESS)
}

/// The file being written; it disappears when it is dropped before [`finish`](Self::finish).
struct OutputFile {
    out: BufWriter<File>,
    /// None for a file that is not a regular one.
    draft: Option<Draft>,
}

struct Draft {
    path: PathBuf,
    target: PathBuf,
}

impl OutputFile {
    fn create(path: &Path) -> io::Result<Self> {
        let Some(target) = replaceable(path)? else {
            let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
            return Ok(Self { out: BufWriter::new(file), draft: None });
        };
        let there = fs::metadata(&target).ok();
        let draft = target.with_file_name(format!(".crisp-{}.new", std::process::id()));
        let mode = if there.is_some() { 0o600 } else { 0o666 };
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
        let file = Self { out: BufWriter::new(file), draft: Some(Draft { path: draft, target }) };
        if let Some(there) = there {
            // Like a file that is written in place. Only root can give files away.
            let _ = fchown(file.out.get_ref(), Some(there.uid()), Some(there.gid()));
            file.out.get_ref().set_permissions(there.permissions())?;
        }
        Ok(file)
    }

    fn is_regular(&self) -> bool {
        self.draft.is_some()
    }

    /// Gives a regular file its name.
    fn finish(mut self) -> io::Result<()> {
        self.out.flush()?;
        if let Some(draft) = &self.draft {
            self.out.get_ref().sync_all()?;
            fs::rename(&draft.path, &draft.target)?;
            self.draft = None;
        }
        Ok(())
    }
}

/// The path of the regular file that another one may replace. None for a pipe or a device, and for a link whose file
/// has no path here: that of /dev/stdout may be deleted, or belong to another mount namespace.
fn replaceable(path: &Path) -> io::Result<Option<PathBuf>> {
    if path.as_os_str().as_bytes().ends_with(b"/") {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let there = match fs::metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let is_free = fs::symlink_metadata(path).is_err();
            return Ok(is_free.then(|| path.to_owned()));
        }
        Err(error) => return Err(error),
    };
    if !there.is_file() {
        return Ok(None);
    }
    // A link to a file stays a link.
    let Ok(target) = fs::canonicalize(path) else { return Ok(None) };
    let is_same =
        fs::metadata(&target).is_ok_and(|target| (target.dev(), target.ino()) == (there.dev(), there.ino()));
    Ok((is_same && !is_mount_point(&target)).then_some(target))
}

/// A file that is bind-mounted cannot be replaced by another one.
fn is_mount_point(path: &Path) -> bool {
    let there = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
    there.is_ok_and(|there| there.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if let Some(draft) = &self.draft {
            let _ = fs::remove_file(&draft.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_output_that_fails_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("a.tar"), folder.path().join("link"));
        fs::write(&path, "last week").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        symlink(&path, &link).unwrap();
        let mut file = OutputFile::create(&link).unwrap();
        file.write_all(b"half").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "last week");
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "last week");

        let mut file = OutputFile::create(&link).unwrap();
        file.write_all(b"new").unwrap();
        file.finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(names(folder.path()), ["a.tar", "link"]);
    }

    #[test]
    fn a_name_that_no_file_can_get_is_refused_before_the_transfer() {
        let folder = tempfile::tempdir().unwrap();
        assert!(OutputFile::create(&folder.path().join("new/")).is_err());
        assert_eq!(names(folder.path()), Vec::<String>::new());
    }

    #[test]
    fn a_file_that_is_mounted_is_written_in_place() {
        crisp_skip::needs!("mount");
        let folder = tempfile::tempdir().unwrap();
        let (outside, mounted) = (folder.path().join("outside"), folder.path().join("a.tar"));
        fs::write(&outside, "last week").unwrap();
        fs::write(&mounted, "").unwrap();
        rustix::mount::mount_bind(&outside, &mounted).unwrap();
        let written = OutputFile::create(&mounted)
            .and_then(|mut file| file.write_all(b"new").and_then(|()| file.finish()));
        rustix::mount::unmount(&mounted, rustix::mount::UnmountFlags::DETACH).unwrap();
        written.unwrap();
        assert_eq!(fs::read_to_string(&outside).unwrap(), "new");
    }

    /// As /dev/stdout when it is a file that was deleted.
    #[test]
    fn a_link_to_a_file_without_a_path_stays() {
        let folder = tempfile::tempdir().unwrap();
        let mut deleted = tempfile::tempfile().unwrap();
        let link = folder.path().join("stdout");
        symlink(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&deleted)), &link).unwrap();
        let mut file = OutputFile::create(&link).unwrap();
        file.write_all(b"text").unwrap();
        file.finish().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(names(folder.path()), ["stdout"]);
        io::Seek::rewind(&mut deleted).unwrap();
        assert_eq!(io::read_to_string(deleted).unwrap(), "text");
    }

    #[test]
    fn a_pipe_without_a_reader_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (reader, writer) = io::pipe().unwrap();
        let link = folder.path().join("stdout");
        symlink(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&writer)), &link).unwrap();
        let mut file = OutputFile::create(&link).unwrap();
        drop(reader);
        file.write_all(b"text").unwrap();
        assert_eq!(file.flush().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert!(file.finish().is_err());
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        let mut null = OutputFile::create(Path::new("/dev/null")).unwrap();
        null.write_all(b"text").unwrap();
        drop(null);
        assert!(Path::new("/dev/null").exists());
    }
}
