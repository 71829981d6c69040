//! The properties of a process: codes, environment, user, rights, limits, terminal, exec.

use std::io::{Read, Write};

use crisp_executor::plan::{FdIndex, MountKind, Rlimit, Seccomp};
use crisp_executor::run::{self, PodContext, Stage, Stdio};

use crate::lab::{Files, detached, wait, watch};
use crate::plans::{CAPABILITIES, bind, c, filter, refuse};

pub const TESTS: &[crate::Test] = &[
    ("exit_codes_and_signals", exit_codes_and_signals),
    ("output_and_environment", output_and_environment),
    ("only_three_descriptors", only_three_descriptors),
    ("users_groups_and_capabilities", users_groups_and_capabilities),
    ("ambient_capabilities", ambient_capabilities),
    ("no_new_privileges_and_seccomp", no_new_privileges_and_seccomp),
    ("limits_and_umask", limits_and_umask),
    ("oom_score_is_set_or_clamped", oom_score_is_set_or_clamped),
    ("a_profile_without_apparmor_is_an_error", a_profile_without_apparmor_is_an_error),
    ("signals_are_at_their_defaults", signals_are_at_their_defaults),
    ("a_terminal", a_terminal),
    ("stdout_can_be_opened_again", stdout_can_be_opened_again),
    ("the_path_is_searched", the_path_is_searched),
];

fn exit_codes_and_signals() {
    let pod = Files::busybox().pod();
    assert_eq!(pod.sh("exit 42").code, 42);
    assert_eq!(pod.run(&["/bin/true"]).code, 0);
    // PID 1 of a namespace takes no signal from within: a child of it does.
    assert_eq!(pod.sh("sh -c 'kill -9 $$'; exit $?").code, 137);
    let sleeping = pod.started(&["/bin/sleep", "1000"]);
    rustix::process::pidfd_send_signal(&sleeping.0.pidfd, rustix::process::Signal::KILL).unwrap();
    assert_eq!(wait(&sleeping.0), 137);
}

fn output_and_environment() {
    let outcome = Files::busybox().pod().sh("env; echo to-stderr >&2; cat; echo pid $$");
    let lines: Vec<&str> = outcome.good().lines().collect();
    assert!(lines.contains(&"COLOUR=blue") && lines.contains(&"PATH=/bin"), "{lines:?}");
    assert_eq!(lines.last(), Some(&"pid 1"));
    assert_eq!(outcome.err, "to-stderr\n");
}

fn only_three_descriptors() {
    let pod = Files::busybox().pod();
    let script = "ls /proc/self/fd; readlink /proc/self/fd/0";
    // ls has the folder itself open as 3.
    assert_eq!(pod.sh(script).good(), "0\n1\n2\n3\n/null");
    let init = pod.started(&["/bin/sleep", "1000"]);
    let inside = pod.exec_with(&init, &["/bin/ls", "/proc/1/fd"], |_| {});
    assert_eq!(inside.good(), "0\n1\n2");
    let exec = pod.exec_with(&init, &["/bin/ls", "/proc/self/fd"], |_| {});
    assert_eq!(exec.good(), "0\n1\n2\n3");
}

fn users_groups_and_capabilities() {
    let pod = Files::busybox().pod();
    let status = "grep -E '^(Uid|Gid|Groups|Cap)' /proc/self/status";
    let root = pod.sh(status);
    let caps = format!("{CAPABILITIES:016x}");
    for line in [format!("CapEff:\t{caps}"), format!("CapBnd:\t{caps}"), "CapInh:\t0000000000000000".into()] {
        assert!(root.good().contains(&line), "{line}: {}", root.out);
    }
    let user = pod.run_with(&["/bin/sh", "-c", status], |plan| {
        plan.process.uid = 1000;
        plan.process.gid = 1001;
        plan.process.groups = vec![7, 4_000_000];
    });
    let text = user.good();
    for line in ["Uid:\t1000\t1000\t1000\t1000", "Gid:\t1001\t1001\t1001\t1001", "Groups:\t7 4000000"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(text.contains("CapEff:\t0000000000000000"), "a user has none without ambient ones: {text}");
    assert!(text.contains(&format!("CapBnd:\t{caps}")), "{text}");
}

fn ambient_capabilities() {
    let pod = Files::busybox().pod();
    let bind_service = 1 << 10;
    let outcome = pod.run_with(&["/bin/sh", "-c", "grep Cap /proc/self/status"], |plan| {
        plan.process.uid = 1000;
        let sets = &mut plan.process.capabilities;
        (sets.bounding, sets.effective, sets.permitted) = (bind_service, bind_service, bind_service);
        (sets.inheritable, sets.ambient) = (bind_service, bind_service);
    });
    for set in ["Inh", "Prm", "Eff", "Bnd", "Amb"] {
        assert!(outcome.good().contains(&format!("Cap{set}:\t0000000000000400")), "{}", outcome.out);
    }
    let all = pod.run_with(&["/bin/true"], |plan| {
        let sets = &mut plan.process.capabilities;
        (sets.bounding, sets.effective, sets.permitted) = (u64::MAX >> 23, u64::MAX >> 23, u64::MAX >> 23);
    });
    all.good();
    for note in &all.notes {
        assert!(note.to_string().starts_with("set capabilities CAP_"), "{note}");
    }
}

fn no_new_privileges_and_seccomp() {
    let pod = Files::busybox().pod();
    let script = "grep -E 'NoNewPrivs|^Seccomp:|CapEff' /proc/self/status; mkdir /x 2>&1";
    for (no_new_privileges, uid) in [(false, 0), (true, 0), (false, 1000), (true, 1000)] {
        let outcome = pod.run_with(&["/bin/sh", "-c", script], |plan| {
            plan.process.seccomp = Some(filter());
            plan.process.no_new_privileges = no_new_privileges;
            plan.process.uid = uid;
        });
        let text = &outcome.out;
        assert!(text.contains(&format!("NoNewPrivs:\t{}", u8::from(no_new_privileges))), "{outcome:?}");
        assert!(text.contains("Seccomp:\t2"), "{outcome:?}");
        assert!(text.contains("File name too long"), "{outcome:?}");
        let caps = if uid == 0 { CAPABILITIES } else { 0 };
        assert!(
            text.contains(&format!("CapEff:\t{caps:016x}")),
            "the right to load is given up: {outcome:?}"
        );
    }
    let broken = pod.run_with(&["/bin/true"], |plan| {
        plan.process.seccomp = Some(Seccomp { program: vec![0xff; 16], flags: 0 });
    });
    assert_eq!(broken.failed.as_ref().map(|e| e.stage), Some(Stage::Seccomp), "{broken:?}");
    let mute = pod.run_with(&["/bin/nothing"], |plan| plan.process.seccomp = Some(refuse(libc::SYS_sendmsg)));
    assert_eq!(mute.failed.as_ref().map(|e| e.stage), Some(Stage::Exec), "{mute:?}");
}

fn limits_and_umask() {
    let pod = Files::busybox().pod();
    let outcome =
        pod.run_with(&["/bin/sh", "-c", "ulimit -n; ulimit -Hn; umask; touch /f; stat -c %a /f"], |plan| {
            plan.process.rlimits = vec![Rlimit { resource: libc::RLIMIT_NOFILE, soft: 100, hard: 200 }];
            plan.process.umask = Some(0o27);
        });
    assert_eq!(outcome.good(), "100\n200\n0027\n640");
    assert_eq!(pod.sh("umask").good(), "0022");
    let outcome = pod.run_with(&["/bin/true"], |plan| {
        let all = u64::MAX;
        plan.process.rlimits = vec![Rlimit { resource: libc::RLIMIT_CORE, soft: all, hard: all }];
    });
    outcome.good();
}

fn oom_score_is_set_or_clamped() {
    let pod = Files::busybox().pod();
    for wanted in [500, -990] {
        let outcome = pod.run_with(&["/bin/cat", "/proc/self/oom_score_adj"], |plan| {
            plan.process.oom_score_adj = Some(wanted);
        });
        let set: i32 = outcome.good().parse().unwrap();
        if set != wanted {
            assert!(wanted < 0 && set <= 0, "{outcome:?}");
            let note = outcome.notes.first().expect("a note on the clamped score").to_string();
            assert!(note.contains("-990") && note.contains("CAP_SYS_RESOURCE"), "{note}");
        }
    }
}

fn a_profile_without_apparmor_is_an_error() {
    if std::path::Path::new("/sys/kernel/security/apparmor").exists() {
        crisp_skip::unsupported!(Without("AppArmor"));
    }
    let outcome = Files::busybox().pod().run_with(&["/bin/true"], |plan| {
        plan.process.apparmor_profile = Some(c("strict"));
    });
    let error = outcome.error();
    assert!(error.starts_with("set AppArmor profile \"strict\": "), "{error}");
    assert!(error.contains("AppArmor is not enabled on this host"), "{error}");
}

fn signals_are_at_their_defaults() {
    let outcome = Files::busybox().pod().run(&["/bin/grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]);
    assert_eq!(outcome.good(), "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000");
}

fn a_terminal() {
    let pod = Files::busybox().pod();
    let mut plan = pod.plan.clone();
    plan.process.terminal = true;
    plan.process.uid = 1000;
    let script = "tty; stat -c '%U %a' -L /dev/pts/0; read line; echo got $line; echo hi >/dev/tty; \
                  test -c /dev/console && echo console; exit 3";
    plan.process.args = ["/bin/sh", "-c", script].map(c).to_vec();
    let starting = run::start(&pod.id, &plan, &pod.fds(), Stdio::default(), &PodContext::default()).unwrap();
    let watched = watch(&starting.report);
    assert!(watched.failed.is_none(), "{watched:?}");
    let mut master = std::fs::File::from(watched.terminal.unwrap());
    master.write_all(b"word\n").unwrap();
    let mut text = Vec::new();
    // The last close of the slave ends it with an error, not with an end.
    let _ = master.read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    for part in ["/dev/pts/0", "got word", "hi", "console"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(wait(&starting), 3);
}

fn stdout_can_be_opened_again() {
    let outcome = Files::busybox().pod().run_with(&["/bin/sh", "-c", "echo again >/dev/stdout"], |plan| {
        plan.process.uid = 1000;
        plan.process.no_new_privileges = true;
    });
    assert_eq!(outcome.good(), "again");
}

fn the_path_is_searched() {
    let files = Files::busybox();
    files.write("denied/tool", "#!/bin/sh\necho denied").mode("denied/tool", 0o644);
    files.write("tools/tool", "#!/bin/sh\necho found").mode("tools/tool", 0o755);
    let volume = files.volume("volume");
    let pod = crate::lab::Pod::enter(|| vec![files.detached(), detached(&volume)]);
    let path =
        |path: &'static str| move |plan: &mut crisp_executor::plan::Plan| plan.process.env = vec![c(path)];
    assert_eq!(pod.run_with(&["tool"], path("PATH=/none:/denied:/tools")).good(), "found");
    assert_eq!(pod.run_with(&["true"], |plan| plan.process.env.clear()).code, 0, "a default PATH");
    let denied = pod.run_with(&["tool"], path("PATH=/denied")).error();
    assert_eq!(
        denied,
        "exec \"/denied/tool\": permission denied: not executable (mode 0644; chmod +x it in the image)"
    );
    let missing = pod.run_with(&["tool"], path("PATH=/a:/b")).error();
    assert_eq!(missing, "exec \"tool\": executable file not found in $PATH (/a:/b)");
    let outcome = pod.run_with(&["true"], |plan| {
        plan.mounts.push(bind("/volume", 1, false));
        plan.mounts.push(crate::plans::mount("/x", MountKind::Bind { source: FdIndex(9), file: false }, 0));
    });
    assert_eq!(outcome.error(), "read descriptors number 9 of 2: the plan names one that did not come");
}
