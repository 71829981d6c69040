//! Pausing processes with the freezer.

use super::*;

/// The cgroup as a host without the v2 tree would have it; None without v1.
fn v1_only(own: &Own) -> Option<Cgroup> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts: String =
        mounts.lines().filter(|line| !line.contains(" - cgroup2 ")).collect::<Vec<_>>().join("\n");
    let host = Host::from_mountinfo(&mounts).ok()?;
    let has_freezer = host.v1.iter().any(|hierarchy| hierarchy.has("freezer"));
    let host = Arc::new(host);
    has_freezer.then(|| Cgroups { host }.open(own.cgroup.path()).unwrap())
}

/// How far the counter in `file` comes within a while.
fn progress(file: &Path) -> u64 {
    let size = || std::fs::metadata(file).map_or(0, |file| file.len());
    let before = size();
    std::thread::sleep(std::time::Duration::from_millis(100));
    size() - before
}

#[test]
fn paused_processes_stand_still_go_on_and_can_be_killed() {
    let Some(own) = Own::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("count");
    for freezer in [Some(own.cgroup.clone()), v1_only(&own)] {
        let Some(freezer) = freezer else { continue };
        std::fs::write(&file, "").unwrap();
        // Bounded: a line each 5 ms.
        let script = format!("while :; do echo >> {}; sleep 0.005; done", file.display());
        let mut child = own.run(&script);
        while progress(&file) == 0 {}
        for _ in 0..3 {
            freezer.freeze().unwrap();
            assert!(freezer.is_frozen().unwrap());
            assert_eq!(progress(&file), 0, "paused");
            freezer.thaw().unwrap();
            while progress(&file) == 0 {}
            assert!(!freezer.is_frozen().unwrap());
        }
        freezer.freeze().unwrap();
        // Also where another program has paused it by the other freezer.
        own.cgroup.kill().unwrap();
        child.wait().unwrap();
        freezer.thaw().unwrap();
    }
}
