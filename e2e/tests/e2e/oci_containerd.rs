//! A real containerd runs containers with `crisp oci`.

use std::time::{Duration, Instant};

use crisp_e2e::bundle::Bundle;
use crisp_e2e::containerd::Containerd;
use crisp_e2e::{Result, needs, programs};

#[test]
fn containerd_runs_a_container() -> Result<()> {
    needs!("busybox");
    if !programs::can_build(&Containerd::PROGRAMS) {
        needs!("go");
    }
    let bundle = Bundle::new(&["true"])?;
    let rootfs = bundle.path().join("rootfs");
    let containerd = Containerd::start()?;

    let once = containerd.run(
        &["--rm"],
        &rootfs,
        "once",
        &["sh", "-c", "echo from $(hostname); echo err >&2; exit 3"],
    )?;
    assert_eq!(once.status.code(), Some(3), "{once:?}\n{}", containerd.log());
    assert!(String::from_utf8_lossy(&once.stdout).starts_with("from "), "{once:?}");
    // In addition to containerd's warning about cgroup v1.
    assert!(String::from_utf8_lossy(&once.stderr).contains("err\n"), "{once:?}");

    let missing = containerd.run(&["--rm"], &rootfs, "missing", &["no-such-program"])?;
    let error = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(error.contains("no-such-program") && error.contains("executable file not found"), "{error}");

    let web = containerd.run(&["-d"], &rootfs, "web", &["sleep", "1000"])?;
    assert!(web.status.success(), "{web:?}\n{}", containerd.log());
    let exec =
        containerd.good(&["task", "exec", "--exec-id", "e1", "web", "sh", "-c", "echo in $0", "it"])?;
    assert_eq!(exec, "in it\n");
    assert_eq!(
        containerd.ctr(&["task", "exec", "--exec-id", "e2", "web", "sh", "-c", "exit 7"])?.status.code(),
        Some(7)
    );
    assert_eq!(containerd.good(&["task", "ps", "web"])?.lines().count(), 2);
    containerd.good(&["task", "pause", "web"])?;
    assert!(containerd.good(&["task", "ls"])?.contains("PAUSED"));
    containerd.good(&["task", "resume", "web"])?;
    assert!(containerd.good(&["task", "metrics", "web"])?.contains("memory"));
    containerd.good(&["task", "kill", "--signal", "SIGKILL", "web"])?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while !containerd.good(&["task", "ls"])?.contains("STOPPED") {
        assert!(Instant::now() < deadline, "{}", containerd.good(&["task", "ls"])?);
        std::thread::sleep(Duration::from_millis(50));
    }
    containerd.good(&["task", "rm", "web"])?;
    containerd.good(&["container", "rm", "web"])?;
    Ok(())
}
