//! Containers from start to forgotten.

use crisp_executor::plan::{CgroupJoin, FdIndex, PidNamespace};
use crisp_monitor::wire::{ExitRecord, ExitStatus, Failure};
use crisp_sandbox::link::{ContainerState, Event, LinkError};

use crate::harness::{DEADLINE, Pod, exit_of, missing, until};
use crate::plans::{plan, sh};

#[tokio::test]
async fn a_container_runs_logs_and_its_exit_is_known_three_times() {
    if missing() {
        return;
    }
    let pod = Pod::open().await;
    let mut events = pod.link.events();
    let (id, started) = pod.start(&sh("echo hello; echo pid $$; echo oops >&2; exit 7")).await.unwrap();
    assert!(started.pid > 1 && started.started_at_ns > 0, "{started:?}");
    let exit = exit_of(&mut events, &id).await;
    assert_eq!((exit.status, exit.status.code(), exit.oom), (ExitStatus::Code(7), 7, false));
    assert!(exit.finished_at_ns >= started.started_at_ns);
    assert_eq!(pod.output(&id, "stdout"), "hello\npid 1\n");
    assert_eq!(pod.output(&id, "stderr"), "oops\n");

    let report = pod.link.report().await.unwrap();
    assert_eq!(report.containers.len(), 1);
    assert_eq!(report.containers[0].state, ContainerState::Exited(exit));
    assert_eq!(report.containers[0].log.written, "hello\npid 1\noops\n".len() as u64);

    let record = pod.folder.path().join(ExitRecord::file_name(&id));
    let noted = ExitRecord::parse(&std::fs::read_to_string(&record).unwrap()).unwrap();
    assert_eq!((noted.container, noted.pid, noted.exit), (id.clone(), started.pid, exit));

    pod.link.forget(&id).await.unwrap();
    assert!(pod.link.report().await.unwrap().containers.is_empty());
    assert!(!record.exists());
    pod.shutdown().await;
}

#[tokio::test]
async fn signals_end_containers_with_their_number() {
    if missing() {
        return;
    }
    let pod = Pod::open().await;
    let mut events = pod.link.events();
    let (id, _) = pod.start(&plan(&["/bin/busybox", "sleep", "1000"])).await.unwrap();
    // The first process of a PID namespace gets only what it asks for, even from outside: all but KILL.
    pod.link.signal(&id, 9, true).await.unwrap();
    let exit = exit_of(&mut events, &id).await;
    assert_eq!((exit.status, exit.status.code()), (ExitStatus::Signal(9), 137));
    let again = pod.link.signal(&id, 9, false).await.unwrap_err();
    assert_eq!(again.failure(), Some(&Failure::NotRunning { container: id.to_string() }));

    let (id, _) = pod.start(&sh("trap 'echo bye; exit 3' TERM; while :; do sleep 0.05; done")).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    pod.link.signal(&id, 15, false).await.unwrap();
    assert_eq!(exit_of(&mut events, &id).await.status, ExitStatus::Code(3));
    assert_eq!(pod.output(&id, "stdout"), "bye\n");
    pod.shutdown().await;
}

#[tokio::test]
async fn a_real_time_signal_arrives() {
    if missing() {
        return;
    }
    let pod = Pod::open().await;
    let mut events = pod.link.events();
    // SIGRTMIN+3, with which systemd is told to stop.
    let script = "trap 'echo bye; exit 3' 37; echo up; while :; do sleep 0.05; done";
    let (id, _) = pod.start(&sh(script)).await.unwrap();
    until("the trap", || pod.output(&id, "stdout") == "up\n").await;
    pod.link.signal(&id, 37, false).await.unwrap();
    assert_eq!(exit_of(&mut events, &id).await.status, ExitStatus::Code(3));
    for number in [0, -1, 65] {
        let refused = pod.link.signal(&id, number, false).await.unwrap_err();
        assert!(matches!(refused.failure(), Some(Failure::Malformed { .. })), "{number}: {refused}");
    }
    pod.shutdown().await;
}

#[tokio::test]
async fn a_failed_stage_is_named_and_leaves_nothing() {
    if missing() {
        return;
    }
    let pod = Pod::open().await;
    let error = pod.start(&plan(&["/bin/nothing", "x"])).await.unwrap_err();
    assert!(matches!(&error, LinkError::Stage(_)), "{error:?}");
    assert!(error.to_string().contains("\"/bin/nothing\""), "{error}");
    assert!(pod.link.report().await.unwrap().containers.is_empty());
    let mut broken = plan(&["/bin/sh"]);
    broken.root.mount = FdIndex(9);
    assert!(matches!(pod.start(&broken).await, Err(LinkError::Stage(_))));
    assert!(pod.link.report().await.unwrap().containers.is_empty());
    assert_eq!(pod.run("exit 0").await.1.status, ExitStatus::Code(0));
    pod.shutdown().await;
}

#[tokio::test]
async fn out_of_memory_is_told_from_a_plain_kill() {
    if missing() {
        return;
    }
    let pod = Pod::open().await;
    let mut events = pod.link.events();
    for (text, oom) in [("oom 1\noom_kill 1\n", true), ("oom 0\noom_kill 0\n", false)] {
        let path = pod.folder.path().join("memory.events");
        std::fs::write(&path, text).unwrap();
        let mut plan = sh("exit 1");
        plan.cgroup = CgroupJoin { oom_events: Some(FdIndex(1)), ..CgroupJoin::default() };
        let fds = vec![pod.root(), std::fs::File::open(&path).unwrap().into()];
        let (id, _) = pod.start_with(&plan, fds, |_| {}).await.unwrap();
        assert_eq!(exit_of(&mut events, &id).await.oom, oom);
    }
    pod.shutdown().await;
}

#[tokio::test]
async fn a_name_is_taken_until_it_is_forgotten() {
    if missing() {
        return;
    }
    let pod = Pod::open().await;
    let (id, _) = pod.run("exit 0").await;
    let same = |request: &mut crisp_sandbox::link::StartRequest| request.container = id.clone();
    let taken = pod.start_with(&sh("exit 0"), vec![pod.root()], same).await.unwrap_err();
    assert_eq!(taken.failure(), Some(&Failure::ContainerExists { container: id.to_string() }));
    pod.link.forget(&id).await.unwrap();
    pod.start_with(&sh("exit 0"), vec![pod.root()], same).await.unwrap();
    pod.shutdown().await;
}

#[tokio::test]
async fn a_grandchild_that_keeps_the_pipe_does_not_hold_back_the_exit() {
    if missing() {
        return;
    }
    let (pod, opened) = Pod::open_with(|request| request.shared_pid = true).await;
    assert!(opened.init.is_some());
    let mut plan = sh("echo first; busybox sleep 1000 & exit 5");
    plan.pid = PidNamespace::Pod;
    let (id, exit) = pod.run_plan(&plan).await;
    assert_eq!(exit.status, ExitStatus::Code(5));
    assert_eq!(pod.output(&id, "stdout"), "first\n");
    pod.shutdown().await;
}

#[tokio::test]
async fn containers_of_a_shared_pid_namespace_end_with_its_init() {
    if missing() {
        return;
    }
    let (pod, opened) = Pod::open_with(|request| request.shared_pid = true).await;
    let mut events = pod.link.events();
    let mut shared = sh("echo $$; busybox sleep 1000");
    shared.pid = PidNamespace::Pod;
    let (id, _) = pod.start(&shared).await.unwrap();
    until("output", || !pod.output(&id, "stdout").is_empty()).await;
    let init = rustix::process::Pid::from_raw(opened.init.unwrap()).unwrap();
    rustix::process::kill_process(init, rustix::process::Signal::KILL).unwrap();
    let mut init_ended = false;
    let wait = async {
        loop {
            match events.recv().await.unwrap() {
                Event::InitExited { status } => init_ended = status == ExitStatus::Signal(9),
                Event::Exited { container, exit, .. } if container == id => return exit,
                _ => {}
            }
        }
    };
    let exit = tokio::time::timeout(DEADLINE, wait).await.unwrap();
    assert_eq!(exit.status, ExitStatus::Signal(9));
    assert_eq!(pod.output(&id, "stdout"), "2\n");
    while !init_ended {
        let event = tokio::time::timeout(DEADLINE, events.recv()).await.unwrap().unwrap();
        init_ended = matches!(event, Event::InitExited { .. });
    }
    assert_eq!(pod.link.report().await.unwrap().init, None);
    pod.shutdown().await;
}

#[tokio::test]
async fn stdin_stays_open_until_it_is_closed() {
    if missing() {
        return;
    }
    let pod = Pod::open().await;
    let mut events = pod.link.events();
    let keep = |request: &mut crisp_sandbox::link::StartRequest| request.stdin = true;
    let (id, _) = pod.start_with(&plan(&["/bin/busybox", "cat"]), vec![pod.root()], keep).await.unwrap();
    let stdin = pod.link.open_stdin(&id).await.unwrap();
    rustix::io::write(&stdin, b"typed\n").unwrap();
    drop(stdin);
    until("the first client's words", || pod.output(&id, "stdout") == "typed\n").await;
    assert_eq!(pod.link.report().await.unwrap().containers[0].state, ContainerState::Running);
    rustix::io::write(pod.link.open_stdin(&id).await.unwrap(), b"more\n").unwrap();
    pod.link.close_stdin(&id).await.unwrap();
    assert_eq!(exit_of(&mut events, &id).await.status, ExitStatus::Code(0));
    assert_eq!(pod.output(&id, "stdout"), "typed\nmore\n");
    let closed = pod.link.open_stdin(&id).await.unwrap_err();
    assert_eq!(closed.failure(), Some(&Failure::NoStdin { container: id.to_string() }));
    pod.shutdown().await;
}

#[tokio::test]
async fn stdin_once_ends_with_its_first_client() {
    if missing() {
        return;
    }
    let pod = Pod::open().await;
    let mut events = pod.link.events();
    let once = |request: &mut crisp_sandbox::link::StartRequest| {
        request.stdin = true;
        request.stdin_once = true;
    };
    let (id, _) = pod.start_with(&plan(&["/bin/busybox", "cat"]), vec![pod.root()], once).await.unwrap();
    let stdin = pod.link.open_stdin(&id).await.unwrap();
    let second = pod.link.open_stdin(&id).await.unwrap_err();
    assert_eq!(second.failure(), Some(&Failure::NoStdin { container: id.to_string() }));
    rustix::io::write(&stdin, b"typed\n").unwrap();
    // As when the client ends, or the server that holds it for the client.
    drop(stdin);
    assert_eq!(exit_of(&mut events, &id).await.status, ExitStatus::Code(0));
    assert_eq!(pod.output(&id, "stdout"), "typed\n");
    pod.shutdown().await;
}

#[tokio::test]
async fn a_terminal_outlives_its_last_user_while_the_container_runs() {
    if missing() {
        return;
    }
    let pod = Pod::open().await;
    let mut events = pod.link.events();
    // As an init does that closes its console and later opens it for a getty.
    let mut plan = sh("echo first; exec 0</dev/null 1>/dev/null 2>&1; busybox sleep 0.3; \
                       exec 0<>/dev/console 1>&0 2>&1; echo second; read line; echo got $line");
    plan.process.terminal = true;
    let keep = |request: &mut crisp_sandbox::link::StartRequest| request.stdin = true;
    let (id, _) = pod.start_with(&plan, vec![pod.root()], keep).await.unwrap();
    until("the output after the pause", || pod.output(&id, "stdout").contains("second")).await;
    rustix::io::write(pod.link.open_stdin(&id).await.unwrap(), b"words\n").unwrap();
    let exit = exit_of(&mut events, &id).await;
    assert_eq!(exit.status, ExitStatus::Code(0));
    let output = pod.output(&id, "stdout").replace('\r', "");
    assert!(output.starts_with("first\nsecond\n") && output.ends_with("got words\n"), "{output}");
    pod.shutdown().await;
}

#[tokio::test]
async fn a_terminal_has_its_size_and_one_stream() {
    if missing() {
        return;
    }
    let pod = Pod::open().await;
    let mut events = pod.link.events();
    let mut plan = sh("busybox stty size; echo err >&2; read line; busybox stty size; echo got $line");
    plan.process.terminal = true;
    let size = crisp_sandbox::link::WindowSize { columns: 100, rows: 30 };
    let change = |request: &mut crisp_sandbox::link::StartRequest| {
        request.stdin = true;
        request.size = Some(size);
    };
    let (id, _) = pod.start_with(&plan, vec![pod.root()], change).await.unwrap();
    let bigger = crisp_sandbox::link::WindowSize { columns: 200, rows: 50 };
    pod.link.resize(&id, bigger).await.unwrap();
    let terminal = pod.link.open_stdin(&id).await.unwrap();
    rustix::io::write(&terminal, b"words\n").unwrap();
    assert_eq!(exit_of(&mut events, &id).await.status, ExitStatus::Code(0));
    let output = pod.output(&id, "stdout").replace('\r', "");
    assert!(
        output.contains("50 200\n") && output.contains("err\n") && output.ends_with("got words\n"),
        "{output}"
    );
    pod.shutdown().await;
}

#[tokio::test]
async fn attached_clients_get_a_copy_and_the_end() {
    if missing() {
        return;
    }
    use std::io::Read;
    let pod = Pod::open().await;
    let mut events = pod.link.events();
    let keep = |request: &mut crisp_sandbox::link::StartRequest| request.stdin = true;
    let (id, _) = pod.start_with(&plan(&["/bin/busybox", "cat"]), vec![pod.root()], keep).await.unwrap();
    let (read, write) = std::io::pipe().unwrap();
    pod.link.attach(&id, Some(write.into()), None).await.unwrap();
    // Neither a second client nor one that has left takes anything from the first.
    let (second, write) = std::io::pipe().unwrap();
    pod.link.attach(&id, Some(write.into()), None).await.unwrap();
    let (left, write) = std::io::pipe().unwrap();
    pod.link.attach(&id, Some(write.into()), None).await.unwrap();
    drop(left);
    let stdin = pod.link.open_stdin(&id).await.unwrap();
    rustix::io::write(&stdin, b"for all\n").unwrap();
    drop(stdin);
    pod.link.close_stdin(&id).await.unwrap();
    exit_of(&mut events, &id).await;
    for mut client in [read, second] {
        let mut copy = String::new();
        client.read_to_string(&mut copy).unwrap();
        assert_eq!(copy, "for all\n");
    }
    assert_eq!(pod.output(&id, "stdout"), "for all\n");
    pod.shutdown().await;
}

#[tokio::test]
async fn clients_that_left_a_silent_container_hold_no_descriptor() {
    if missing() {
        return;
    }
    let pod = Pod::open().await;
    let (id, _) = pod.start(&plan(&["/bin/busybox", "sleep", "1000"])).await.unwrap();
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", pod.pid)).unwrap().count();
    let before = descriptors();
    for _ in 0..300 {
        let (left, write) = std::io::pipe().unwrap();
        pod.link.attach(&id, Some(write.into()), None).await.unwrap();
        drop(left);
    }
    assert!(descriptors() <= before + 2, "{before} before, {} after", descriptors());
    // Those that stay are counted.
    let mut stay = Vec::new();
    let refusal = loop {
        let (read, write) = std::io::pipe().unwrap();
        stay.push(read);
        match pod.link.attach(&id, Some(write.into()), None).await {
            Ok(()) => assert!(stay.len() < 1000),
            Err(error) => break error.to_string(),
        }
    };
    assert!(refusal.contains("attach one more client"), "{refusal}");
    pod.shutdown().await;
}

#[tokio::test]
async fn a_client_whose_pipe_is_full_for_a_moment_misses_nothing_and_one_that_never_reads_is_given_up() {
    if missing() {
        return;
    }
    use std::io::Read;
    const SIZE: usize = 4 << 20;
    let pod = Pod::open().await;
    let mut events = pod.link.events();
    let keep = |request: &mut crisp_sandbox::link::StartRequest| request.stdin = true;
    let line = format!("read -r go; yes | head -c {SIZE}");
    let (id, _) = pod.start_with(&sh(&line), vec![pod.root()], keep).await.unwrap();
    let (mut late, write) = std::io::pipe().unwrap();
    pod.link.attach(&id, Some(write.into()), None).await.unwrap();
    let (mut never, write) = std::io::pipe().unwrap();
    pod.link.attach(&id, Some(write.into()), None).await.unwrap();
    let stdin = pod.link.open_stdin(&id).await.unwrap();
    rustix::io::write(&stdin, b"go\n").unwrap();
    let reader = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        // The pipe is full long before.
        std::thread::sleep(std::time::Duration::from_millis(300));
        late.read_to_end(&mut all).unwrap();
        all.len()
    });
    exit_of(&mut events, &id).await;
    assert_eq!(reader.await.unwrap(), SIZE);
    let mut part = Vec::new();
    never.read_to_end(&mut part).unwrap();
    assert!(part.len() < SIZE, "{}", part.len());
    assert!(pod.output(&id, "stdout").len() >= SIZE);
    pod.shutdown().await;
}
