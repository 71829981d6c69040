//! Each stage of making and of taking down a pod fails, or the server is killed in it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crisp_operation::fault::{Fault, arm};
use crisp_sandbox::{PodConfig, PodError, PodState};

use crate::lab::{Folder, Lab, assert_empty, cgroup, config, monitors, open, uses_systemd};

/// Those of making a pod.
fn stages() -> Vec<&'static str> {
    let all = ["files", "scope", "cgroup", "monitor", "open", "network", "controllers", "commit"];
    let of_systemd = |stage: &&str| ["scope", "controllers"].contains(stage);
    all.into_iter().filter(|stage| uses_systemd() || !of_systemd(stage)).collect()
}

/// The server that a test below kills: makes a pod and takes it down again.
#[tokio::test]
#[ignore = "run by the tests below, in a process of its own"]
async fn a_server_to_be_killed() {
    let folder = std::env::var_os("CRISP_TEST_FOLDER").unwrap();
    let folder = Path::new(&folder);
    let pods = open(folder).await;
    let id = pods.run(config(folder, "killed")).await.unwrap();
    println!("made {id}");
    pods.stop(&id).await.unwrap();
    println!("stopped {id}");
    pods.remove(&id).await.unwrap();
    println!("removed {id}");
}

/// Runs the server above with `faults`; what it printed before it was killed.
fn killed_server(folder: &Path, faults: &str) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["faults::a_server_to_be_killed", "--exact", "--ignored", "--nocapture"])
        .env("CRISP_TEST_FOLDER", folder)
        .env("CRISP_FAULTS", faults)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let killed = std::os::unix::process::ExitStatusExt::signal(&output.status) == Some(9);
    assert!(killed, "{faults} does not kill: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[tokio::test]
async fn a_server_killed_in_any_stage_of_making_a_pod_leaves_nothing_or_a_listed_pod() {
    crisp_skip::needs!();
    for stage in stages() {
        for when in ["", ":after"] {
            let fault = format!("run_pod/{stage}{when}=kill");
            let folder = Folder::new();
            let printed = killed_server(folder.path(), &fault);
            assert!(!printed.contains("made"), "{fault}: {printed}");
            let lab = Lab::open(folder.clone()).await;
            let states: Vec<_> = lab.pods.list().iter().map(|pod| pod.status().state.clone()).collect();
            // Committed: the client's retry of the same request finds the pod.
            if when == ":after" && stage == "commit" {
                assert_eq!(states, [PodState::Ready], "{fault}");
                let id = lab.pods.list()[0].id.clone();
                assert_eq!(lab.pods.run(config(folder.path(), "killed")).await.unwrap(), id);
            } else {
                assert_eq!(states, [], "{fault}");
                lab.assert_empty();
                lab.pods.run(config(folder.path(), "killed")).await.expect(&fault);
            }
            lab.clear().await;
        }
    }
}

#[tokio::test]
async fn a_server_killed_in_any_stage_of_stop_or_remove_leaves_a_pod_that_can_be_removed() {
    crisp_skip::needs!();
    let stop = ["monitor", "network", "cgroup"].map(|stage| format!("stop_pod/{stage}"));
    let remove = ["network", "files"].map(|stage| format!("remove_pod/{stage}"));
    for stage in stop.iter().chain(&remove) {
        for when in ["", ":after"] {
            let fault = format!("{stage}{when}=kill");
            let folder = Folder::new();
            let printed = killed_server(folder.path(), &fault);
            assert_eq!(printed.contains("stopped"), stage.starts_with("remove"), "{fault}: {printed}");
            let lab = Lab::open(folder.clone()).await;
            let states: Vec<_> = lab.pods.list().iter().map(|pod| pod.status().state.clone()).collect();
            match fault.as_str() {
                "stop_pod/monitor=kill" => assert_eq!(states, [PodState::Ready], "{fault}"),
                "remove_pod/files:after=kill" => assert_eq!(states, [], "{fault}"),
                _ => {
                    let known = matches!(states[..], [PodState::Lost | PodState::Stopped]);
                    assert!(known, "{fault}: {states:?}");
                }
            }
            lab.clear().await;
        }
    }
}

#[tokio::test]
async fn a_stage_that_fails_leaves_nothing_and_the_pod_can_be_made_again() {
    crisp_skip::needs!();
    let lab = Lab::new().await;
    for stage in stages() {
        for when in ["", ":after"] {
            let name = format!("fails-{stage}{}", when.len());
            let fault = arm(&format!("run_pod/{stage}{when}@test/{name}"), Fault::Fail);
            let config = config(lab.folder.path(), &name);
            let error = lab.pods.run(config.clone()).await.unwrap_err().to_string();
            assert!(error.contains(&format!("run_pod: stage {stage}: ")), "{error}");
            assert!(!error.contains("undoing"), "{error}");
            assert!(lab.pods.list().is_empty());
            lab.assert_empty();
            drop(fault);
            lab.pods.run(config).await.unwrap();
            lab.clear().await;
        }
    }
}

#[tokio::test]
async fn a_stage_that_hangs_ends_at_its_deadline_and_is_undone() {
    crisp_skip::needs!();
    let lab = Lab::new().await;
    let _fault = arm("run_pod/open@test/hangs", Fault::Hang);
    let error = lab.pods.run(config(lab.folder.path(), "hangs")).await.unwrap_err().to_string();
    assert!(error.contains("stage open: not done after"), "{error}");
    assert!(lab.pods.list().is_empty());
    lab.assert_empty();
}

/// A folder of the memory hierarchy in which cgroups have no files. Removes what was made in it.
struct NoCgroups(std::path::PathBuf);

impl NoCgroups {
    fn at(folder: std::path::PathBuf) -> Self {
        std::fs::create_dir(&folder).unwrap();
        assert!(Command::new("mount").args(["-t", "tmpfs", "x"]).arg(&folder).status().unwrap().success());
        Self(folder)
    }
}

impl Drop for NoCgroups {
    fn drop(&mut self) {
        assert!(Command::new("umount").arg(&self.0).status().unwrap().success());
        std::fs::remove_dir(&self.0).unwrap();
    }
}

/// The monitor is made while the v1 cgroups are: it must not outlive their failure.
#[tokio::test]
async fn a_pod_whose_v1_cgroup_cannot_be_made_leaves_no_monitor() {
    crisp_skip::needs!("mount");
    let memory = Path::new("/sys/fs/cgroup/memory");
    if !memory.join("tasks").exists() || uses_systemd() {
        crisp_skip::unsupported!(CgroupV1("memory"));
    }
    let lab = Lab::new().await;
    let obstacle = NoCgroups::at(memory.join(cgroup(lab.folder.path()).relative()));
    for attempt in 0..5 {
        let request = PodConfig { attempt, ..config(lab.folder.path(), "no-cgroup") };
        let error = lab.pods.run(request).await.unwrap_err().to_string();
        assert!(error.contains("run_pod: stage cgroup: ") && !error.contains("undoing"), "{error}");
        assert!(monitors(lab.folder.path()).is_empty());
        assert!(lab.pods.list().is_empty());
    }
    drop(obstacle);
    lab.assert_empty();
    lab.pods.run(config(lab.folder.path(), "no-cgroup")).await.unwrap();
    lab.clear().await;
}

#[tokio::test]
async fn a_request_that_is_cancelled_while_its_monitor_works_is_undone() {
    crisp_skip::needs!();
    let lab = Lab::new().await;
    for stage in ["cgroup:after", "monitor", "open", "open:after", "commit"] {
        let name = format!("cancelled-{}", stage.replace(':', "-"));
        let hang = arm(&format!("run_pod/{stage}@test/{name}"), Fault::Hang);
        let request = config(lab.folder.path(), &name);
        let (pods, key) = (lab.pods.clone(), request.key());
        let run = tokio::spawn(async move { pods.run(request).await });
        while !hang.is_reached() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        lab.pods.cancel_run(&key);
        let error = run.await.unwrap().unwrap_err().to_string();
        assert!(error.contains("cancelled") && !error.contains("undoing"), "{error}");
        assert!(lab.pods.list().is_empty());
        lab.assert_empty();
    }
}

/// Something that removing the pod's files fails on: a folder in which nothing can be deleted.
struct Obstacle(std::path::PathBuf);

impl Obstacle {
    fn in_folder(folder: &Path) -> Self {
        let path = folder.join("obstacle");
        std::fs::create_dir(&path).unwrap();
        assert!(Command::new("mount").args(["-t", "tmpfs", "x"]).arg(&path).status().unwrap().success());
        Self(path)
    }
}

impl Drop for Obstacle {
    fn drop(&mut self) {
        assert!(Command::new("umount").arg(&self.0).status().unwrap().success());
    }
}

#[tokio::test]
async fn a_pod_whose_undo_fails_stays_listed_and_an_equal_request_clears_it_away() {
    crisp_skip::needs!("mount");
    let lab = Lab::new().await;
    let request = config(lab.folder.path(), "stuck");
    // The first stage hangs so long that an obstacle can be put where the undo has to remove a folder.
    let hang = arm("run_pod/open@test/stuck", Fault::Hang);
    let pods = lab.pods.clone();
    let failing = tokio::spawn({
        let request = request.clone();
        async move { pods.run(request).await }
    });
    let folder = loop {
        let made = std::fs::read_dir(lab.folder.path().join("root/pods")).unwrap().next();
        match made.map(|entry| entry.unwrap().path()) {
            Some(path) if path.join("pod.json").exists() => break path,
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    let obstacle = Obstacle::in_folder(&folder);
    let error = failing.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("stage open") && error.contains("undoing it failed too: stage files"), "{error}");
    drop(hang);

    let pods = lab.pods.list();
    let [pod] = &pods[..] else { panic!("{pods:?} are listed") };
    assert!(matches!(pod.status().state, PodState::Failed { .. }), "{pod:?}");
    assert!(pod.require_ready().unwrap_err().to_string().contains("could not be made"));
    // The retry says what is in the way...
    let error = lab.pods.run(request.clone()).await.unwrap_err();
    assert!(matches!(*error, PodError::LeftOver { .. }), "{error}");
    assert!(error.to_string().contains("stage files"), "{error}");
    assert_eq!(lab.pods.list().len(), 1, "nothing more is left by the retry");
    // ...and clears it away as soon as it can.
    drop(obstacle);
    let id = lab.pods.run(request).await.unwrap();
    assert_ne!(id, pod.id);
    assert_eq!(lab.pods.list().len(), 1);
    lab.clear().await;
}

#[tokio::test]
async fn a_stop_that_fails_leaves_a_pod_that_is_not_ready_and_runs_all_other_steps() {
    crisp_skip::needs!();
    let lab = Lab::new().await;
    let pod = lab.pod(config(lab.folder.path(), "not-stopped")).await;
    let monitor = crate::lab::monitor_pid(&pod);
    for stage in ["monitor", "network", "cgroup"] {
        let _fault = arm(&format!("stop_pod/{stage}@{}", pod.id), Fault::Fail);
        let error = lab.pods.stop(&pod.id).await.unwrap_err().to_string();
        assert!(error.contains(&format!("stop_pod: stage {stage}: ")), "{error}");
        assert_eq!(pod.status().state, PodState::Stopping);
        assert!(pod.require_ready().is_err());
    }
    crate::lab::ended(monitor).await;
    lab.pods.stop(&pod.id).await.unwrap();
    assert_eq!(pod.status().state, PodState::Stopped);
    lab.clear().await;
}

#[tokio::test]
async fn a_stopped_pod_is_detached_again_when_it_is_removed() {
    crisp_skip::needs!();
    let lab = Lab::new().await;
    let pod = lab.pod(config(lab.folder.path(), "stopped")).await;
    lab.pods.stop(&pod.id).await.unwrap();
    let fault = arm(&format!("remove_pod/network@{}", pod.id), Fault::Fail);
    let error = lab.pods.remove(&pod.id).await.unwrap_err().to_string();
    assert!(error.contains("remove_pod: stage network"), "{error}");
    assert!(lab.pods.get(&pod.id).is_some(), "it is listed until nothing is left");
    drop(fault);
    lab.clear().await;
    assert_empty(lab.folder.path());
}
