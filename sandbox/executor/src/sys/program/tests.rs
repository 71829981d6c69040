use std::io::Read;
use std::process::Command;

use super::vfork::set_signal_mask;
use super::*;

fn run(args: &[&str], cgroup: Option<BorrowedFd<'_>>) -> (Spawned, String) {
    let file = std::fs::File::open("/bin/sh").unwrap();
    let args: Vec<CString> = args.iter().map(|arg| CString::new(*arg).unwrap()).collect();
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let stdio = [null.as_fd(), writer.as_fd(), writer.as_fd()];
    let (file, options) = (ProgramFile::Open(file.as_fd()), SpawnOptions::default());
    let spawned = Program { file, args: &args, env: &[], stdio, cgroup, options }.spawn().unwrap();
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    let options = rustix::process::WaitIdOptions::EXITED;
    let end = rustix::process::waitid(rustix::process::WaitId::PidFd(spawned.pidfd.as_fd()), options);
    assert_eq!(end.unwrap().unwrap().exit_status(), Some(0), "{text}");
    (spawned, text)
}

#[test]
fn a_program_has_its_streams_and_nothing_of_the_callers() {
    // A descriptor that is not close-on-exec, an ignored and a blocked signal.
    let leak = rustix::io::dup(std::io::stdout()).unwrap();
    let before = set_signal_mask(1 << (libc::SIGUSR1 - 1));
    let script = "echo $0 $1; pwd; readlink /proc/self/fd/* | grep -c .; env | grep -c HOME; \
                  grep -E 'SigBlk|SigIgn' /proc/self/status";
    let (spawned, text) = run(&["name", "-c", script, "zero", "one"], None);
    set_signal_mask(before);
    drop(leak);
    assert!(!spawned.in_cgroup);
    let lines: Vec<&str> = text.lines().collect();
    // Three streams. The shell expands /proc/self/fd before it opens any other descriptor.
    assert_eq!(lines[..4], ["zero one", "/", "3", "0"], "{text}");
    assert!(lines[4..].iter().all(|line| line.ends_with("0000000000000000")), "{text}");
}

#[test]
fn a_program_leads_a_session() {
    let (spawned, text) = run(&["sh", "-c", "cut -d ' ' -f 6 /proc/$$/stat"], None);
    assert_eq!(text.trim().parse(), Ok(spawned.pid));
}

#[test]
fn a_file_that_cannot_be_run_is_an_error_and_leaves_no_process() {
    let file = std::fs::File::open("/etc/passwd").unwrap();
    let args = [c"passwd".to_owned()];
    let stdio = [file.as_fd(); 3];
    let (open, options) = (ProgramFile::Open(file.as_fd()), SpawnOptions::default());
    let program = Program { file: open, args: &args, env: &[], stdio, cgroup: None, options };
    let error = program.spawn().unwrap_err();
    assert_eq!((error.step, error.errno), ("exec", Errno::ACCESS));
    let children = format!("/proc/self/task/{}/children", rustix::thread::gettid().as_raw_nonzero());
    assert_eq!(std::fs::read_to_string(children).unwrap_or_default(), "");
}

#[test]
fn programs_start_while_other_threads_allocate() {
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    drop(std::hint::black_box(vec![1u8; 5000]));
                }
            });
        }
        let starters: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    (0..40).map(|n| run(&["sh", "-c", &format!("echo {n}")], None).1).collect::<String>()
                })
            })
            .collect();
        let starters: Vec<_> = starters.into_iter().map(|starter| starter.join().unwrap()).collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let expected: String = (0..40).map(|n| format!("{n}\n")).collect();
        assert_eq!(starters, [expected.clone(), expected.clone(), expected]);
    });
}

#[test]
fn a_program_is_born_in_its_cgroup() {
    crisp_skip::needs!();
    let hierarchies = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(std::path::Path::new);
    let Some(v2) = hierarchies.into_iter().find(|path| path.join("cgroup.controllers").exists()) else {
        crisp_skip::unsupported!(CgroupV2);
    };
    let name = format!("crisp-program-test-{}", std::process::id());
    let path = v2.join(&name);
    std::fs::create_dir(&path).unwrap();
    let folder = std::fs::File::open(&path).unwrap();
    let (spawned, text) = run(&["sh", "-c", "cat /proc/self/cgroup"], Some(folder.as_fd()));
    let removed = Command::new("rmdir").arg(&path).status().unwrap();
    assert!(spawned.in_cgroup && removed.success());
    assert!(text.lines().any(|line| line == format!("0::/{name}")), "{text}");
}
