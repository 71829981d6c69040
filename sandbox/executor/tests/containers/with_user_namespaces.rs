//! Containers of a pod with a user namespace: who they are to the host, and what they cannot do to it.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::time::{Duration, Instant};

use crisp_executor::plan::{Device, MountKind, PidNamespace, Plan};
use crisp_executor::run::{self, PodContext};
use crisp_executor::source::{self, Options};
use crisp_executor::user_namespace::{IdMappings, IdRange, UserNamespace};
use crisp_executor::{rootfs, source::Source};

use crate::lab::{Files, Pod};
use crate::plans::{CAPABILITIES, RDONLY, bind, c, mount};

pub const TESTS: &[crate::Test] = &[
    ("root_is_another_user_of_the_host", root_is_another_user_of_the_host),
    ("file_systems_belong_to_the_namespace", file_systems_belong_to_the_namespace),
    ("namespaces_belong_to_the_user_namespace", namespaces_belong_to_the_user_namespace),
    ("devices_work_in_a_user_namespace", devices_work_in_a_user_namespace),
    ("volumes_have_mapped_ids", volumes_have_mapped_ids),
    ("a_container_with_all_rights_has_none_on_the_host", a_container_with_all_rights_has_none_on_the_host),
    ("a_read_only_volume_cannot_be_made_writable", a_read_only_volume_cannot_be_made_writable),
    ("settings_of_the_host_cannot_be_written", settings_of_the_host_cannot_be_written),
    ("scores_limits_and_terminals_as_without", scores_limits_and_terminals_as_without),
    ("a_pid_namespace_for_the_pod", a_pid_namespace_for_the_pod),
    ("a_user_that_is_not_mapped_is_named", a_user_that_is_not_mapped_is_named),
];

/// Where the ids of these pods begin on the host.
const FIRST: u32 = 700_000;
const ALL: u64 = (1 << 41) - 1;

fn mappings() -> IdMappings {
    let range = IdRange { container: 0, host: FIRST, length: 65_536 };
    IdMappings { uids: vec![range], gids: vec![range] }
}

/// An overlay of `files`, whose root belongs to the container's.
fn root(files: &Files, number: usize, user: &UserNamespace) -> OwnedFd {
    let (upper, work) = (files.volume(&format!("upper-{number}")), files.volume(&format!("work-{number}")));
    chown(&upper, Some(FIRST), Some(FIRST)).unwrap();
    rootfs::assemble(&[files.path("")], &upper, &work, Some(user.as_fd())).unwrap()
}

fn pod(files: &Files) -> Pod {
    pod_with(files, |_| vec![])
}

/// `more` makes further descriptors of each start.
fn pod_with(files: &Files, more: impl Fn(&UserNamespace) -> Vec<OwnedFd>) -> Pod {
    let count = std::cell::Cell::new(0);
    Pod::enter_inside(mappings(), |user| {
        count.set(count.get() + 1);
        let mut fds = vec![root(files, count.get(), user)];
        fds.extend(more(user));
        fds
    })
}

fn open(path: &Path, options: Options) -> Source {
    source::open(path, options, Duration::from_secs(5)).unwrap()
}

fn mapped(path: &Path, options: Options, user: &UserNamespace) -> OwnedFd {
    let source = open(path, options);
    source::map_ids(&source, path, user.as_fd(), false).unwrap();
    source.mount
}

fn may_everything(plan: &mut Plan) {
    let sets = &mut plan.process.capabilities;
    (sets.bounding, sets.effective, sets.permitted) = (ALL, ALL, ALL);
}

fn root_is_another_user_of_the_host() {
    let pod = pod(&Files::busybox());
    let script = "id -u; id -G; cat /proc/self/uid_map /proc/self/gid_map; stat -c %u:%g / /bin; \
                  echo again > /proc/self/fd/1; grep -E 'Cap(Bnd|Eff)' /proc/self/status";
    let words = pod.sh(script).good().split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let map = ["0", "700000", "65536"];
    assert_eq!(words[..8], [&["0", "0"], &map[..], &map[..]].concat());
    let set = format!("{CAPABILITIES:016x}");
    assert_eq!(words[8..], ["0:0", "0:0", "again", "CapEff:", &set, "CapBnd:", &set]);
    let script = "id -u; id -G; readlink /proc/self/ns/user; readlink /proc/1/ns/user; pwd; \
                  echo again > /proc/self/fd/1; grep CapEff /proc/self/status; echo x > /made; stat -c %u /made";
    let running = pod.started(&["sleep", "60"]);
    let exec = pod.exec_with(&running, &["sh", "-c", script], |process| {
        (process.uid, process.gid, process.groups) = (0, 0, vec![7]);
    });
    let lines: Vec<&str> = exec.good().lines().collect();
    assert_eq!(lines[..2], ["0", "0 7"]);
    assert_eq!(lines[2], lines[3], "of the same namespace");
    assert_eq!(lines[4..], ["/", "again", &format!("CapEff:\t{set}"), "0"]);
    let exec = pod.exec_with(&running, &["sh", "-c", "id -u; echo again > /proc/self/fd/1"], |process| {
        (process.uid, process.gid) = (1000, 1000);
    });
    assert_eq!(exec.good(), "1000\nagain");
}

fn file_systems_belong_to_the_namespace() {
    let pod = pod(&Files::busybox());
    let script = "stat -c '%n %u:%g' /dev /dev/null /dev/pts /dev/pts/ptmx /dev/mqueue /dev/shm /tmp; \
        touch /dev/mqueue/q /dev/shm/s /x /tmp/x; touch /sys/x 2>&1; ls /sys/class/net; cat /proc/self/mounts";
    let outcome = pod.run_with(&["/bin/sh", "-c", script], |plan| {
        plan.mounts.push(mount("/tmp", MountKind::Tmpfs { options: vec![] }, 0));
    });
    let text = outcome.good();
    for place in ["/dev", "/dev/null", "/dev/pts", "/dev/pts/ptmx", "/dev/mqueue", "/dev/shm", "/tmp"] {
        assert!(text.contains(&format!("{place} 0:0\n")), "{place}: {text}");
    }
    for line in [
        "touch: /sys/x: Read-only file system\nlo\n",
        "proc /proc proc rw,nosuid,nodev,noexec,",
        "devpts /dev/pts devpts rw,nosuid,noexec,relatime,gid=700005,",
        "sysfs /sys sysfs ro,nosuid,nodev,noexec,",
        "tmpfs /tmp tmpfs rw,relatime,uid=700000,gid=700000",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let places: Vec<&str> =
        text.lines().filter(|line| line.contains(" rw,") || line.contains(" ro,")).collect();
    let left = places.iter().filter(|line| line.contains(" /root") || line.contains(" /null"));
    assert_eq!(left.count(), 0, "nothing of the pod's root is left: {places:?}");
}

fn namespaces_belong_to_the_user_namespace() {
    let pod = pod(&Files::busybox());
    let running = pod.started(&["sleep", "60"]);
    let link = |name: &str| {
        let namespace = in_host(&pod, running.0.pid, name);
        UserNamespace::owner_of(namespace.as_fd(), mappings()).unwrap()
    };
    let inode = |fd: &dyn AsFd| rustix::fs::fstat(fd.as_fd()).unwrap().st_ino;
    let user = inode(&in_host(&pod, running.0.pid, "user"));
    for name in ["net", "ipc", "uts", "mnt", "pid", "cgroup"] {
        assert_eq!(inode(&link(name)), user, "{name}");
    }
}

/// A namespace of a process, by the host's /proc.
fn in_host(pod: &Pod, pid: i32, name: &str) -> OwnedFd {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let path = format!("{pid}/ns/{name}");
    rustix::fs::openat(pod.context().proc.unwrap(), path, flags, rustix::fs::Mode::empty()).unwrap()
}

fn devices_work_in_a_user_namespace() {
    let pod = pod(&Files::busybox());
    let script = "echo x > /dev/null; head -c 4 /dev/zero | wc -c; head -c 2 /dev/deep/er/node | wc -c; \
        stat -c '%n %F %a %u:%g %t:%T' /dev/null /dev/deep/er/node /elsewhere; readlink /dev/fd";
    let outcome = pod.run_with(&["/bin/sh", "-c", script], |plan| {
        let device = |path: &str, mode| Device { path: c(path), mode, major: 1, minor: 5, uid: 7, gid: 8 };
        plan.devices.push(device("/dev/deep/er/node", libc::S_IFCHR | 0o640));
        plan.devices.push(device("/elsewhere", libc::S_IFIFO | 0o600));
    });
    assert_eq!(
        outcome.good(),
        "4\n2\n/dev/null character special file 666 0:0 1:3\n\
         /dev/deep/er/node character special file 640 7:8 1:5\n/elsewhere fifo 600 7:8 0:0\n/proc/self/fd"
    );
    assert!(outcome.notes.is_empty(), "{outcome:?}");
    let outcome = pod.run_with(&["dd", "if=/dev/zero", "of=/elsewhere/x", "count=1"], may_everything);
    assert_ne!(outcome.code, 0);
}

fn volumes_have_mapped_ids() {
    let files = Files::busybox();
    let volume = files.volume("volume");
    let own = |name: &str, id: u32, mode: u32| {
        std::fs::write(volume.join(name), name).unwrap();
        chown(volume.join(name), Some(id), Some(id)).unwrap();
        std::fs::set_permissions(volume.join(name), PermissionsExt::from_mode(mode)).unwrap();
    };
    own("of-root", 0, 0o600);
    own("of-app", 1000, 0o600);
    own("of-none", 70_000, 0o600);
    let pod = pod_with(&files, |user| {
        let recursive = Options { recursive: true, ..Options::default() };
        vec![mapped(&volume, recursive, user), open(&volume, recursive).mount]
    });
    let script = "cd /mapped; stat -c '%n %u:%g' of-*; cat of-root; cat of-none; \
        touch made; chown 5:6 made; cd /raw; stat -c '%n %u:%g' of-*; cat of-root; touch more";
    let outcome = pod.run_with(&["/bin/sh", "-c", script], |plan| {
        plan.mounts.extend([bind("/mapped", 1, false), bind("/raw", 2, false)]);
    });
    let expected = "of-app 1000:1000\nof-none 65534:65534\nof-root 0:0\nof-root\
        of-app 65534:65534\nof-none 65534:65534\nof-root 65534:65534\n";
    assert_eq!(outcome.out, expected, "{}", outcome.err);
    for refused in ["'of-none': Permission denied", "'of-root': Permission denied", "more: Permission denied"]
    {
        assert!(outcome.err.contains(refused), "{refused}: {}", outcome.err);
    }
}

/// The attack: a container with every capability tries what they allow on the host.
fn a_container_with_all_rights_has_none_on_the_host() {
    let files = Files::busybox();
    let (volume, raw) = (files.volume("volume"), files.volume("raw"));
    std::fs::write(raw.join("secret"), "secret").unwrap();
    std::fs::set_permissions(raw.join("secret"), PermissionsExt::from_mode(0o600)).unwrap();
    // Outside of the pod's root this test sees no path of the host any more.
    let kept = [&volume, &raw].map(|path| std::fs::File::open(path).unwrap());
    let pod = pod_with(&files, |user| {
        vec![mapped(&volume, Options::default(), user), open(&raw, Options::default()).mount]
    });
    let script = "cd /; for attack in 'cat /raw/secret' 'chown 0:0 /raw/secret' 'chmod 666 /raw/secret' \
        'mv /raw/secret /raw/taken' 'touch /raw/x' 'mknod /mapped/sda b 8 0' 'mknod /mapped/mem c 1 1' \
        'mount -o bind /proc/1/root /tmp' 'mount -t ext4 /dev/vda /tmp' 'chown 65536 /mapped'; \
        do if $attack 2>/dev/null; then echo \"$attack\"; fi; done; \
        echo x > /mapped/suid; chmod 4755 /mapped/suid; id -u";
    let outcome = pod.run_with(&["/bin/busybox", "sh", "-c", script], |plan| {
        may_everything(plan);
        plan.mounts.extend([bind("/mapped", 1, false), bind("/raw", 2, false)]);
    });
    assert_eq!(outcome.good(), "0", "none of them succeeded: {outcome:#?}");
    let stat = rustix::fs::statat(&kept[0], "suid", rustix::fs::AtFlags::empty()).unwrap();
    // By its volume's ids it is root's on disk, as without a user namespace.
    assert_eq!((stat.st_uid, stat.st_mode & 0o7777), (0, 0o4755));
    assert_eq!(kept[1].metadata().unwrap().uid(), 0);
    let names: Vec<_> = rustix::fs::Dir::read_from(&kept[1])
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.'))
        .collect();
    assert_eq!(names, ["secret"]);
}

/// The attack: CAP_SYS_ADMIN is enough to change the flags of a mount, but for those that are locked.
fn a_read_only_volume_cannot_be_made_writable() {
    let files = Files::busybox();
    let volume = files.volume("volume");
    let pod = pod_with(&files, |user| {
        let readonly = Options { readonly: true, attributes: 2 | 4 | 8, ..Options::default() };
        vec![mapped(&volume, readonly, user)]
    });
    let script = "mount -o remount,bind,rw /ro; mount -o remount,bind,ro,suid,dev,exec /ro; touch /ro/x; \
        mount -o bind /ro /tmp && mount -o remount,bind,rw /tmp; touch /tmp/x; grep -E ' /(ro|tmp) ' /proc/self/mounts";
    let outcome = pod.run_with(&["/bin/sh", "-c", script], |plan| {
        may_everything(plan);
        plan.mounts.push(bind("/ro", 1, false));
        plan.mounts.push(mount("/tmp", MountKind::Tmpfs { options: vec![] }, 0));
    });
    let lines: Vec<&str> = outcome.good().lines().filter(|line| !line.starts_with("tmpfs")).collect();
    assert_eq!(lines.len(), 2, "{outcome:#?}");
    for line in lines {
        assert!(line.contains(" ro,nosuid,nodev,noexec,"), "{line}");
    }
    assert_eq!(outcome.err.matches("Read-only file system").count(), 2, "{outcome:#?}");
}

/// The attack: settings that are not of the pod's namespaces, with nothing read-only or masked.
fn settings_of_the_host_cannot_be_written() {
    let pod = pod(&Files::busybox());
    let script = "for file in kernel/core_pattern kernel/modprobe kernel/sysrq vm/drop_caches fs/file-max \
        kernel/domainname kernel/msgmax net/ipv4/ip_forward; do echo 1 2>/dev/null > /proc/sys/$file && echo $file; done; \
        echo b 2>/dev/null > /proc/sysrq-trigger && echo sysrq-trigger; true";
    let outcome = pod.run_with(&["/bin/sh", "-c", script], |plan| {
        may_everything(plan);
        (plan.readonly_paths, plan.masked_paths) = (vec![], vec![]);
    });
    assert_eq!(outcome.good(), "kernel/msgmax\nnet/ipv4/ip_forward", "those of the pod");
}

fn scores_limits_and_terminals_as_without() {
    let pod = pod(&Files::busybox());
    let script = "cat /proc/self/oom_score_adj; ulimit -n; ulimit -Hn; pwd; umask; echo $COLOUR; \
                  readlink /proc/self/ns/cgroup > /dev/null && echo cgroup";
    let outcome = pod.run_with(&["/bin/sh", "-c", script], |plan| {
        let nofile = crisp_executor::plan::Rlimit { resource: libc::RLIMIT_NOFILE, soft: 11, hard: 600 };
        plan.process.rlimits = vec![nofile];
        plan.process.oom_score_adj = Some(300);
        plan.process.cwd = c("/made/for/it");
    });
    assert_eq!(outcome.good(), "300\n11\n600\n/made/for/it\n0022\nblue\ncgroup");
    assert!(outcome.notes.is_empty(), "{outcome:?}");
    let mut plan = pod.plan.clone();
    plan.process.args =
        ["sh", "-c", "tty; stat -c %u:%g $(tty) /dev/console; test -t 0 && echo yes"].map(c).to_vec();
    plan.process.terminal = true;
    (plan.process.uid, plan.process.gid) = (1000, 1000);
    let starting = run::start(&pod.id, &plan, &pod.fds(), Default::default(), &pod.context()).unwrap();
    let watched = crate::lab::watch(&starting.report);
    assert!(watched.failed.is_none(), "{watched:?}");
    let master = watched.terminal.unwrap();
    crate::lab::wait(&starting);
    let mut text = [0u8; 200];
    let length = rustix::io::read(&master, &mut text[..]).unwrap();
    assert_eq!(String::from_utf8_lossy(&text[..length]), "/dev/pts/0\r\n1000:5\r\n1000:5\r\nyes\r\n");
}

fn a_pid_namespace_for_the_pod() {
    let pod = pod(&Files::busybox());
    let init = run::pod_init::start(pod.context().user).unwrap();
    // It is in the namespace at once, and gets its name and user a moment later.
    let begun = Instant::now();
    while std::fs::read_to_string(format!("/proc/{}/comm", init.pid)).unwrap() != "pod-init\n" {
        assert!(begun.elapsed() < Duration::from_secs(20), "it has no name");
        std::thread::sleep(Duration::from_millis(5));
    }
    let context = PodContext { init: Some(init.pidfd.as_fd()), ..pod.context() };
    let mut plan = pod.plan.clone();
    plan.pid = PidNamespace::Pod;
    plan.process.args = ["sh", "-c", "ps -o pid,user,comm"].map(c).to_vec();
    let outcome = pod.run_in(&plan, &context);
    let lines: Vec<Vec<&str>> =
        outcome.good().lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[1], ["1", "65535", "pod-init"], "{outcome:?}");
    assert!(lines[2..].iter().all(|line| line[1] == "0"), "{outcome:?}");
    let namespaces = ["pid_for_children", "user"].map(|name| in_host(&pod, init.pid, name));
    let owner = UserNamespace::owner_of(namespaces[0].as_fd(), mappings()).unwrap();
    let inode = |fd: std::os::fd::BorrowedFd<'_>| rustix::fs::fstat(fd).unwrap().st_ino;
    assert_eq!(inode(owner.as_fd()), inode(namespaces[1].as_fd()));
}

fn a_user_that_is_not_mapped_is_named() {
    let pod = pod(&Files::busybox());
    let outcome = pod.run_with(&["true"], |plan| plan.process.uid = 65_536);
    assert_eq!(outcome.error(), "set user 65536: is not mapped in the user namespace of the pod");
    let outcome = pod.run_with(&["true"], |plan| plan.mounts.push(bind("/x", 9, false)));
    assert!(outcome.error().starts_with("read descriptors number 9 of 1"), "{}", outcome.error());
    assert_eq!(pod.run_with(&["true"], |plan| plan.mounts[0].attributes |= RDONLY).code, 0);
}
