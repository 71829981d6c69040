//! Why an exec failed: the kernel has a handful of numbers for dozens of reasons.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;

use rustix::fs::{
    Access, AtFlags, CWD, FileType, Mode, OFlags, StatVfsMountFlags, accessat, fstat, lstat, open, readlink,
    stat, statvfs,
};
use rustix::io::{Errno, pread};

use super::elf;
use super::error::{Quoted, words};

/// Read of a program's start: the kernel looks at as much for a `#!` line.
const HEAD: usize = 256;

/// The text after `exec "path": ` in the error.
pub(crate) fn explain(path: &CStr, errno: Errno, uid: u32) -> String {
    match errno {
        Errno::NOENT => missing(path),
        Errno::NOTDIR => "a folder of this path is a file in the image".to_owned(),
        Errno::ACCESS | Errno::PERM => denied(path, errno, uid),
        Errno::NOEXEC => not_a_program(path),
        Errno::TOOBIG => "arguments and environment are longer than the kernel takes".to_owned(),
        Errno::AGAIN => format!("the limit of processes (RLIMIT_NPROC) of user {uid} is reached"),
        Errno::LOOP => "leads through too many links".to_owned(),
        errno => words(errno),
    }
}

fn missing(path: &CStr) -> String {
    let Some(program) = Program::read(path) else {
        return match readlink(path, Vec::new()) {
            Ok(target) if stat(path).is_err() => {
                format!("is a link to {}, which does not exist in the image", Quoted(&target))
            }
            _ => "no such file or directory in the image".to_owned(),
        };
    };
    if let Some(script) = program.script_interpreter() {
        return script_without(&script);
    }
    match program.elf_interpreter() {
        Some(interpreter) => {
            let name = Quoted(&interpreter);
            format!(
                "its interpreter {name} is missing in the image (is the program built for another C library?)"
            )
        }
        None => words(Errno::NOENT),
    }
}

fn script_without(interpreter: &CStr) -> String {
    let name = Quoted(interpreter);
    if interpreter.to_bytes().ends_with(b"\r") {
        return format!(
            "#! program {name} is missing: the script has Windows line ends, save it with Unix ones"
        );
    }
    format!("#! program {name} is missing in the image")
}

fn denied(path: &CStr, errno: Errno, uid: u32) -> String {
    let Ok(about) = stat(path) else {
        return format!("permission denied: user {uid} may not search a folder of this path");
    };
    let denied = words(errno);
    if FileType::from_raw_mode(about.st_mode) == FileType::Directory {
        return format!("{denied}: is a folder");
    }
    let mode = about.st_mode & 0o7777;
    if mode & 0o111 == 0 {
        return format!("{denied}: not executable (mode {mode:04o}; chmod +x it in the image)");
    }
    if statvfs(path).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::NOEXEC)) {
        return format!("{denied}: lies on a mount without exec");
    }
    if accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).is_err() {
        let (owner, group) = (about.st_uid, about.st_gid);
        return format!("{denied}: user {uid} may not run it (mode {mode:04o}, owner {owner}:{group})");
    }
    let program = Program::read(path);
    match program.and_then(|p| p.script_interpreter().or_else(|| p.elf_interpreter())) {
        Some(interpreter) => format!("{denied}: its interpreter {} may not be run", Quoted(&interpreter)),
        None => denied,
    }
}

fn not_a_program(path: &CStr) -> String {
    let error = "exec format error";
    let Some(program) = Program::read(path) else {
        return format!("{error} (is the image for another architecture?)");
    };
    let head = &program.head;
    if head.is_empty() {
        return format!("{error}: the file is empty");
    }
    if head.iter().all(|&b| b == 0) {
        return format!("{error}: the file starts with zeros only (is the image damaged?)");
    }
    if let Some(machine) = elf::machine(head) {
        let (theirs, ours) = (elf::machine_name(machine), std::env::consts::ARCH);
        if theirs == ours {
            return format!("{error}: it is a program for {theirs}, but damaged or of another kind");
        }
        return format!(
            "{error}: it is built for {theirs}, this host is {ours} (is the image for another architecture?)"
        );
    }
    format!("{error}: neither a program nor a script that starts with #!")
}

/// The start of a file that could not be executed.
struct Program {
    file: OwnedFd,
    head: Vec<u8>,
}

impl Program {
    /// None when it can't be read, which also happens to programs that can be run.
    fn read(path: &CStr) -> Option<Self> {
        let about = lstat(path).ok()?;
        // Opening a FIFO would wait for its other end.
        let plain =
            matches!(FileType::from_raw_mode(about.st_mode), FileType::RegularFile | FileType::Symlink);
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = plain.then(|| open(path, flags, Mode::empty()).ok()).flatten()?;
        if FileType::from_raw_mode(fstat(&file).ok()?.st_mode) != FileType::RegularFile {
            return None;
        }
        let mut head = vec![0; HEAD];
        let length = pread(&file, &mut head[..], 0).ok()?;
        head.truncate(length);
        Some(Self { file, head })
    }

    fn script_interpreter(&self) -> Option<CString> {
        let line = self.head.strip_prefix(b"#!")?.split(|&b| b == b'\n').next()?;
        let line = line.trim_ascii_start();
        let end = line.iter().position(|b| matches!(b, b' ' | b'\t')).unwrap_or(line.len());
        CString::new(&line[..end]).ok()
    }

    fn elf_interpreter(&self) -> Option<CString> {
        elf::interpreter(&self.head, |at, length| {
            let mut bytes = vec![0; length];
            let got = pread(&self.file, &mut bytes[..], at).ok()?;
            bytes.truncate(got);
            Some(bytes)
        })
    }
}
