//! The files around a process: mounts, devices, masked paths, working directory; and attacks of an image or a
//! volume on the host.

use crisp_executor::plan::{Device, MountKind};
use crisp_executor::run::{self, PodContext, Stdio};

use crate::lab::{Files, Pod, detached, wait, watch};
use crate::plans::{NODEV, NOSUID, RDONLY, bind, c, mount};

pub const TESTS: &[crate::Test] = &[
    ("file_systems_are_there", file_systems_are_there),
    ("devices_and_links", devices_and_links),
    ("a_volume_takes_the_place_of_a_device", a_volume_takes_the_place_of_a_device),
    ("nothing_is_made_in_the_hosts_dev", nothing_is_made_in_the_hosts_dev),
    (
        "the_hosts_console_is_only_covered_where_the_host_does_not_see_it",
        the_hosts_console_is_only_covered_where_the_host_does_not_see_it,
    ),
    ("masked_and_readonly_paths", masked_and_readonly_paths),
    ("the_working_directory_is_made", the_working_directory_is_made),
    ("the_host_is_out_of_reach", the_host_is_out_of_reach),
    ("binds_files_and_folders", binds_files_and_folders),
    ("links_in_targets_stay_inside", links_in_targets_stay_inside),
    ("a_volume_can_not_hide_proc", a_volume_can_not_hide_proc),
    ("proc_is_no_link", proc_is_no_link),
    ("sys_is_no_link", sys_is_no_link),
    ("readonly_and_shared_roots", readonly_and_shared_roots),
    ("one_static_file_is_an_image", one_static_file_is_an_image),
    ("shared_memory_is_the_pods", shared_memory_is_the_pods),
    ("cgroup_v1_layout", cgroup_v1_layout),
    ("a_readonly_tmpfs_with_mounts_in_it", a_readonly_tmpfs_with_mounts_in_it),
];

fn file_systems_are_there() {
    let pod = Files::busybox().pod();
    let mounts = pod.sh("cat /proc/self/mounts");
    for line in [
        "proc /proc proc rw,nosuid,nodev,noexec",
        "tmpfs /dev tmpfs rw,nosuid,relatime,size=65536k,mode=755",
        "devpts /dev/pts devpts rw,nosuid,noexec,relatime,gid=5,mode=620,ptmxmode=666",
        "mqueue /dev/mqueue mqueue rw,nosuid,nodev,noexec",
        "shm /dev/shm tmpfs rw,nosuid,nodev,noexec,relatime,size=65536k",
        "sysfs /sys sysfs ro,nosuid,nodev,noexec",
    ] {
        assert!(mounts.good().contains(line), "{line}: {}", mounts.out);
    }
    assert!(!mounts.out.contains("/null "), "the pod's root is gone: {}", mounts.out);
    assert_eq!(pod.sh("ls /sys/class/net").good(), "lo", "sysfs is of the pod's network namespace");
    pod.sh("touch /dev/mqueue/q && touch /dev/shm/s").good();
}

fn devices_and_links() {
    let pod = Files::busybox().pod();
    let script = "stat -c '%n %F %a %t:%T' /dev/null /dev/tty; echo x > /dev/null; \
                  readlink /dev/fd; readlink /dev/stdin; readlink /dev/ptmx; head -c 4 /dev/zero | wc -c";
    let text = pod.sh(script);
    assert_eq!(
        text.good(),
        "/dev/null character special file 666 1:3\n/dev/tty character special file 666 5:0\n\
         /proc/self/fd\n/proc/self/fd/0\npts/ptmx\n4"
    );
    let script = "stat -c '%F %a %u:%g %t:%T' /dev/deep/er/node /elsewhere";
    let outcome = pod.run_with(&["/bin/sh", "-c", script], |plan| {
        let device = |path: &str, mode| Device { path: c(path), mode, major: 1, minor: 5, uid: 7, gid: 8 };
        plan.devices.push(device("/dev/deep/er/node", libc::S_IFCHR | 0o640));
        plan.devices.push(device("/elsewhere", libc::S_IFIFO | 0o600));
    });
    assert_eq!(outcome.good(), "character special file 640 7:8 1:5\nfifo 600 7:8 0:0");
}

fn masked_and_readonly_paths() {
    let files = Files::busybox();
    files.write("secret/folder/file", "s").write("secret/file", "s").write("sealed/file", "s");
    files.folder("sealed/sub");
    let pod = files.pod();
    let script = "cat /secret/file | wc -c; ls /secret/folder | wc -c; stat -c %t:%T /proc/keys /secret/file; \
                  echo 1 > /proc/sys/kernel/domainname; touch /sealed/sub/x; chmod 777 /secret/file; \
                  mkdir /secret/folder/x; cat /sealed/file";
    let outcome = pod.run_with(&["/bin/sh", "-c", script], |plan| {
        plan.masked_paths.extend(["/secret/file", "/secret/folder", "/sys/firmware", "/not/there"].map(c));
        plan.readonly_paths.extend(["/sealed", "/not/there"].map(c));
    });
    assert_eq!(outcome.good(), "0\n0\n1:3\n1:3\ns");
    assert_eq!(outcome.err.matches("Read-only file system").count(), 4, "{}", outcome.err);
}

fn the_working_directory_is_made() {
    let files = Files::busybox();
    files.link("/data/real", "work");
    let pod = files.pod();
    let run = |cwd: &str, args: &[&str]| pod.run_with(args, |plan| plan.process.cwd = c(cwd));
    assert_eq!(run("/new/deep/folder", &["/bin/pwd"]).good(), "/new/deep/folder");
    assert_eq!(run("/work", &["/bin/pwd"]).good(), "/data/real");
    assert_eq!(run("/", &["bin/pwd"]).good(), "/");
    assert_eq!(pod.sh("stat -c %a:%u /new/deep").good(), "755:0");
    let file = run("/bin/sh", &["/bin/pwd"]).error();
    assert_eq!(file, "working directory \"/bin/sh\": is not a folder in the image");
}

fn the_host_is_out_of_reach() {
    let pod = Files::busybox().pod();
    for number in (0..32).chain([1023]) {
        let outcome = pod.run_with(&["/bin/pwd"], |plan| {
            plan.process.cwd = c(&format!("/proc/self/fd/{number}"));
        });
        let error = outcome.error();
        assert!(error.starts_with(&format!("working directory \"/proc/self/fd/{number}\"")), "{error}");
    }
    let init = pod.started(&["/bin/sleep", "1000"]);
    let exec = pod.exec_with(&init, &["/bin/pwd"], |process| process.cwd = c("/proc/self/fd/9/.."));
    assert!(exec.error().starts_with("working directory \"/proc/self/fd/9/..\""), "{exec:?}");
    assert_eq!(pod.sh("ls /proc/1/root/..; cd /proc/1/cwd/../../..; ls").good().lines().next(), Some("bin"));
    assert!(!pod.sh("ls -d /null /shm").out.contains('/'), "the pod's root is out of reach too");
}

fn binds_files_and_folders() {
    let files = Files::busybox();
    let volume = files.volume("volume");
    std::fs::write(volume.join("file"), "content").unwrap();
    let pod = Pod::enter(|| vec![files.detached(), detached(&volume), detached(&volume.join("file"))]);
    let outcome = pod.run_with(&["/bin/sh", "-c", "cat /a/b/file /etc/one; touch /a/b/new"], |plan| {
        plan.mounts.push(bind("/a/b", 1, false));
        plan.mounts.push(bind("/etc/one", 2, true));
    });
    assert_eq!(outcome.good(), "contentcontent");
    let wrong = pod.run_with(&["/bin/true"], |plan| plan.mounts.push(bind("/bin", 2, true)));
    assert_eq!(wrong.error(), "mount \"/bin\": is a folder in the image, but a file is mounted there");
}

fn links_in_targets_stay_inside() {
    let files = Files::busybox();
    files.link("../../../../host-file", "etc/hosts").link("/outside/folder", "data");
    files.link("/proc/self/root/escape", "magic").link("loop", "loop");
    let volume = files.volume("volume");
    std::fs::write(volume.join("file"), "content").unwrap();
    let root = files.path("");
    let before = std::fs::read_dir("/").unwrap().count();
    let host = std::fs::File::open("/").unwrap();
    let pod = Pod::enter(|| vec![files.detached(), detached(&volume), detached(&volume.join("file"))]);
    let outcome = pod.run_with(&["/bin/sh", "-c", "cat /host-file /outside/folder/in/file"], |plan| {
        plan.mounts.push(bind("/etc/hosts", 2, true));
        plan.mounts.push(bind("/data/in", 1, false));
    });
    assert_eq!(outcome.good(), "contentcontent");
    for target in ["/magic/x", "/loop/x", "/proc/self/fd/3/x"] {
        let outcome = pod.run_with(&["/bin/true"], |plan| plan.mounts.push(bind(target, 1, false)));
        assert!(outcome.error().starts_with(&format!("mount {target:?}")), "{outcome:?}");
    }
    let after = rustix::fs::Dir::read_from(&host).unwrap().count() - 2;
    assert_eq!(before, after, "nothing was made on the host ({})", root.display());
}

fn a_volume_can_not_hide_proc() {
    let files = Files::busybox();
    let volume = files.volume("volume");
    std::os::unix::fs::symlink("/proc/self", volume.join("link")).unwrap();
    let pod = Pod::enter(|| vec![files.detached(), detached(&volume), detached(&volume)]);
    let error = |targets: &[&str]| {
        let outcome = pod.run_with(&["/bin/true"], |plan| {
            plan.mounts.extend(targets.iter().enumerate().map(|(n, target)| bind(target, n + 1, false)));
        });
        outcome.error()
    };
    assert_eq!(
        error(&["/vol", "/vol/link/attr"]),
        "mount \"/vol/link/attr\": leads into /proc, where no volume may be mounted"
    );
    assert_eq!(error(&["/proc"]), "mount \"/proc\": only a proc file system may be mounted over it");
    let own = pod.run_with(&["/bin/cat", "/proc/self/comm"], |plan| {
        let mut again = plan.mounts[0].clone();
        again.attributes |= RDONLY;
        plan.mounts.push(again);
    });
    assert_eq!(own.good(), "cat");
}

fn proc_is_no_link() {
    refuses_link("proc");
}

fn sys_is_no_link() {
    refuses_link("sys");
}

/// Else its masks would be looked up where a neighbour can move things about.
fn refuses_link(name: &str) {
    let files = Files::busybox();
    files.link("/elsewhere", name);
    let error = files.pod().run(&["/bin/true"]).error();
    assert_eq!(error, format!("mount \"/{name}\": is a link in the image, it must be a folder"));
}

fn readonly_and_shared_roots() {
    let files = Files::busybox();
    let volume = files.volume("volume");
    let pod = Pod::enter(|| vec![files.detached(), detached(&volume)]);
    let script = "touch /x; touch /vol/x && echo vol; touch /dev/x && echo dev; pwd; \
                  grep ' / / ' /proc/self/mountinfo | grep -c shared: ; grep -c shared: /proc/self/mountinfo";
    let outcome = pod.run_with(&["/bin/sh", "-c", script], |plan| {
        plan.root.readonly = true;
        plan.process.cwd = c("/made/before");
        plan.mounts.push(bind("/vol", 1, false));
    });
    assert!(outcome.err.contains("/x: Read-only file system"), "{outcome:?}");
    assert!(outcome.out.starts_with("vol\ndev\n/made/before\n"), "{outcome:?}");
    let shared = pod.run_with(&["/bin/sh", "-c", "head -n 1 /proc/self/mountinfo"], |p| p.root.shared = true);
    assert!(shared.good().contains("shared:"), "{shared:?}");
    let private = pod.sh("head -n 1 /proc/self/mountinfo");
    assert!(!private.good().contains("shared:"), "{private:?}");
}

fn one_static_file_is_an_image() {
    let files = Files::empty();
    std::fs::copy("/bin/busybox", files.path("busybox")).unwrap();
    let pod = files.pod();
    let outcome = pod.run_with(&["/busybox", "ls", "/"], |plan| plan.process.env.clear());
    assert_eq!(outcome.good(), "busybox\ndev\nproc\nsys");
    let bare = pod.run_with(&["/busybox", "pwd"], |plan| {
        plan.mounts.clear();
        plan.devices.clear();
        plan.process.oom_score_adj = Some(100);
    });
    assert_eq!(bare.good(), "/");
}

fn shared_memory_is_the_pods() {
    let pod = Files::busybox().pod();
    pod.sh("echo shared > /dev/shm/word").good();
    assert_eq!(pod.sh("cat /dev/shm/word; stat -c %a /dev/shm").good(), "shared\n1777");
    let locked = pod.run_with(&["/bin/sh", "-c", "cat /dev/shm/word; echo x > /dev/shm/word"], |plan| {
        plan.mounts.iter_mut().filter(|m| m.kind == MountKind::PodShm).for_each(|m| m.attributes |= RDONLY);
    });
    assert!(locked.out == "shared\n" && locked.err.contains("Read-only"), "{locked:?}");
    assert!(pod.sh("dd if=/dev/zero of=/dev/shm/big bs=1M count=65").err.contains("No space left"));
}

/// Which v1 hierarchies this machine has, as a plan names them.
fn hierarchies() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let middle = text.lines().filter_map(|line| line.split(':').nth(1));
    middle.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn cgroup_v1_layout() {
    let hierarchies = hierarchies();
    let unified = std::path::Path::new("/sys/fs/cgroup/unified").is_dir();
    if hierarchies.is_empty() {
        crisp_skip::unsupported!(CgroupV1("any controller"));
    }
    let pod = Files::busybox().pod();
    let outcome = pod.run_with(&["/bin/sh", "-c", "ls /sys/fs/cgroup; touch /sys/fs/cgroup/x"], |plan| {
        let kind = MountKind::Cgroup1 { hierarchies: hierarchies.iter().map(|h| c(h)).collect(), unified };
        plan.mounts.push(mount("/sys/fs/cgroup", kind, NOSUID | NODEV | RDONLY));
    });
    for hierarchy in &hierarchies {
        let name = hierarchy.strip_prefix("name=").unwrap_or(hierarchy);
        assert!(outcome.out.lines().any(|line| line == name), "{name}: {outcome:?}");
    }
    assert_eq!(outcome.out.lines().any(|line| line == "unified"), unified, "{outcome:?}");
    assert!(outcome.err.contains("Read-only file system"), "{outcome:?}");
}

fn a_readonly_tmpfs_with_mounts_in_it() {
    let files = Files::busybox();
    let volume = files.volume("volume");
    let pod = Pod::enter(|| vec![files.detached(), detached(&volume)]);
    let outcome = pod.run_with(&["/bin/sh", "-c", "touch /t/a/b/c/x && echo in; touch /t/x"], |plan| {
        plan.mounts.push(mount("/t", MountKind::Tmpfs { options: vec![c("size=1m")] }, RDONLY));
        plan.mounts.push(bind("/t/a/b/c", 1, false));
    });
    assert!(outcome.out == "in\n" && outcome.err.contains("Read-only"), "{outcome:?}");
    let wrong = pod.run_with(&["/bin/true"], |plan| {
        plan.mounts.push(mount("/t", MountKind::Tmpfs { options: vec![c("size=banana")] }, 0));
    });
    let error = wrong.error();
    assert!(error.starts_with("mount \"/t\": invalid argument (tmpfs: Bad value for 'size'"), "{error}");
}

/// As `hostPath: /dev/kvm` mounted at the same place.
fn a_volume_takes_the_place_of_a_device() {
    let files = Files::busybox();
    let volume = files.volume("volume");
    std::fs::write(volume.join("seed"), "not random").unwrap();
    let seed = detached(&volume.join("seed"));
    let node = detached(std::path::Path::new("/dev/zero"));
    let pod = Pod::enter(|| vec![files.detached(), seed.try_clone().unwrap(), node.try_clone().unwrap()]);
    let tun = |path: &str| Device {
        path: c(path),
        mode: libc::S_IFCHR | 0o600,
        major: 10,
        minor: 200,
        uid: 0,
        gid: 0,
    };
    let outcome =
        pod.run_with(&["/bin/sh", "-c", "cat /dev/urandom; stat -c ' %F %t:%T' /dev/net/tun"], |plan| {
            plan.devices.push(tun("/dev/net/tun"));
            plan.mounts.push(bind("/dev/urandom", 1, true));
            plan.mounts.push(bind("/dev/net/tun", 2, true));
        });
    assert_eq!(outcome.good(), "not random character special file 1:5");
}

fn nothing_is_made_in_the_hosts_dev() {
    let files = Files::busybox();
    let host = files.volume("dev");
    std::fs::write(host.join("null"), "the host's").unwrap();
    std::fs::create_dir(host.join("net")).unwrap();
    std::fs::create_dir(host.join("pts")).unwrap();
    let inside = detached(&host);
    let dev = || vec![files.detached(), detached(&host)];
    let pod = Pod::enter(dev);
    let outcome =
        pod.run_with(&["/bin/sh", "-c", "cat /dev/null; ls /dev; stat -c %t:%T /made/here"], |plan| {
            plan.mounts.retain(|m| !m.target.to_bytes().starts_with(b"/dev"));
            plan.mounts.push(bind("/dev", 1, false));
            for path in ["/dev/net/tun", "/dev/new/folder/node", "/made/here"] {
                let mode = libc::S_IFCHR | 0o600;
                plan.devices.push(Device { path: c(path), mode, major: 10, minor: 200, uid: 0, gid: 0 });
            }
        });
    assert_eq!(outcome.good(), "the host'snet\nnull\npts\na:c8");
    let notes: Vec<String> = outcome.notes.iter().map(ToString::to_string).collect();
    assert!(
        notes.contains(&"make device \"/dev/net/tun\": left out, as a volume covers its folder".into()),
        "{notes:?}"
    );
    let missing = pod.run_with(&["/bin/true"], |plan| {
        plan.mounts.retain(|m| !m.target.to_bytes().starts_with(b"/dev"));
        plan.mounts.push(bind("/dev", 1, false));
        plan.mounts.push(bind("/dev/own/volume", 1, false));
    });
    assert_eq!(missing.error(), "mount \"/dev/own/volume\": the /dev that is mounted here does not have it");
    let terminal = pod.started_with(&["/bin/sleep", "1000"], |plan| {
        plan.mounts.retain(|m| m.target.as_c_str() != c"/dev");
        plan.mounts.insert(0, bind("/dev", 1, false));
        plan.process.terminal = true;
    });
    drop(terminal);
    let mut left: Vec<String> = rustix::fs::Dir::read_from(inside_folder(&inside))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    left.sort();
    assert_eq!(left, [".", "..", "net", "null", "pts"]);
}

fn the_hosts_console_is_only_covered_where_the_host_does_not_see_it() {
    let files = Files::busybox();
    let host = files.volume("dev");
    std::fs::create_dir(host.join("pts")).unwrap();
    std::fs::write(host.join("console"), "the host's").unwrap();
    let pod = Pod::enter(|| vec![files.detached(), detached(&host)]);
    for (shared, test) in [(false, "-c"), (true, "-f")] {
        let mut plan = pod.plan.clone();
        plan.mounts.retain(|m| m.target.as_c_str() != c"/dev");
        plan.mounts.insert(0, bind("/dev", 1, false));
        plan.root.shared = shared;
        plan.process.terminal = true;
        plan.process.args = ["/bin/test", test, "/dev/console"].map(c).to_vec();
        let starting =
            run::start(&pod.id, &plan, &pod.fds(), Stdio::default(), &PodContext::default()).unwrap();
        // With the terminal's other end, whose close would be a hang-up.
        let watched = watch(&starting.report);
        assert!(watched.failed.is_none(), "{watched:?}");
        assert_eq!(wait(&starting), 0, "{shared}");
    }
}

fn inside_folder(mount: &std::os::fd::OwnedFd) -> std::os::fd::OwnedFd {
    rustix::fs::openat(mount, ".", rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap()
}
