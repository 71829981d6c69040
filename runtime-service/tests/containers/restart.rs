//! The server may die.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crisp_proto::runtime::v1 as proto;
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Runtime;

use crate::lab::{Lab, lab, shell};

/// Runs `before` with one server, drops it with all its tasks, and runs `after` with the next.
pub(crate) fn over_a_restart<T>(before: impl AsyncFnOnce(&Lab) -> T, after: impl AsyncFnOnce(&Lab, T)) {
    while_no_server_runs(before, |_| (), after);
}

/// The same, with `between` while no server runs.
pub(crate) fn while_no_server_runs<T>(
    before: impl AsyncFnOnce(&Lab) -> T,
    between: impl FnOnce(&T),
    after: impl AsyncFnOnce(&Lab, T),
) {
    let first = Runtime::new().unwrap();
    let left = first.block_on(async {
        let lab = lab!();
        let known = before(&lab).await;
        Some((lab.leave(), known))
    });
    drop(first);
    let Some((left, known)) = left else { return };
    between(&known);
    Runtime::new().unwrap().block_on(async {
        let lab = left.open().await;
        after(&lab, known).await;
    });
}

/// A running container that ends when the test says so: while no server runs, however slow the machine is.
struct Endable {
    pid: Pid,
    /// The monitor's record of the exit.
    exit: PathBuf,
}

impl Endable {
    async fn of(lab: &Lab, pod: &str, id: &str) -> Self {
        let pid = i32::try_from(lab.info(id).await["pid"].as_i64().unwrap()).unwrap();
        let exit = lab.dir.path().join("run/pods").join(pod).join("exits").join(format!("exit-{id}"));
        Self { pid: Pid::from_raw(pid).unwrap(), exit }
    }

    /// Ends it with [`KILLED`], and waits until the monitor has recorded that.
    fn end(&self) {
        kill_process(self.pid, Signal::KILL).unwrap();
        while !self.exit.exists() {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The exit code of a container that SIGKILL has ended.
const KILLED: i32 = 137;

#[test]
fn running_ones_run_on_and_exits_meanwhile_are_known() {
    over_a_restart(
        async |lab| {
            let pod = lab.pod("restart").await;
            let stays = lab.run(&pod, shell("stays", "sleep 1000")).await;
            let ends = lab.run(&pod, shell("ends", "sleep 0.3; exit 5")).await;
            let waits = lab.create(&pod, shell("waits", "echo late")).await.unwrap();
            let status = lab.status(&stays).await.unwrap();
            (pod, stays, ends, waits, status)
        },
        async |lab, (pod, stays, ends, waits, before)| {
            assert_eq!(lab.status(&stays).await.unwrap(), before);
            assert_eq!(lab.exited(&ends).await.exit_code, 5);
            assert_eq!(lab.sh(&stays, "echo alive").await, "alive\n");
            assert_eq!(
                lab.status(&waits).await.unwrap().state,
                proto::ContainerState::ContainerCreated as i32
            );
            lab.start(&waits).await.unwrap();
            assert_eq!(lab.exited(&waits).await.exit_code, 0);
            lab.remove_pod(&pod).await;
        },
    );
}

#[test]
fn a_container_whose_records_the_disk_refuses_for_a_while_is_listed_then_with_its_exit() {
    while_no_server_runs(
        async |lab| {
            let pod = lab.pod("refused").await;
            let id = lab.run(&pod, shell("ends", "sleep 1000")).await;
            let folder = lab.dir.path().join("root/containers").join(&id);
            (Endable::of(lab, &pod, &id).await, pod, id, folder)
        },
        |(container, _, _, folder)| {
            container.end();
            // A folder in the place of the record stands for a disk that refuses.
            let (record, kept) = (folder.join("container.json"), folder.join("kept"));
            std::fs::rename(&record, &kept).unwrap();
            std::fs::create_dir(&record).unwrap();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_secs(4));
                std::fs::remove_dir(&record).unwrap();
                std::fs::rename(&kept, &record).unwrap();
            });
        },
        async |lab, (_, pod, id, _)| {
            let begun = Instant::now();
            while lab.status(&id).await.is_err() {
                assert!(begun.elapsed() < Duration::from_secs(60), "it is not listed");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert_eq!(lab.exited(&id).await.exit_code, KILLED);
            lab.remove_pod(&pod).await;
        },
    );
}

/// Neither its monitor nor its pod's record can say that it runs.
#[test]
fn a_container_that_runs_on_without_its_pod_is_ended() {
    let ended = |pid: i64| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    };
    while_no_server_runs(
        async |lab| {
            let pod = lab.pod("orphan").await;
            let id = lab.run(&pod, shell("app", "sleep 1000")).await;
            let pid = lab.info(&id).await["pid"].as_i64().unwrap();
            let ends = lab.run(&pod, shell("ends", "sleep 1000")).await;
            let endable = Endable::of(lab, &pod, &ends).await;
            let record = lab.dir.path().join("root/pods").join(&pod).join("pod.json");
            ((id, ends), pid, lab.monitor_pid(&pod).await, (record, endable))
        },
        |(_, pid, monitor, (record, endable))| {
            endable.end();
            kill_process(*monitor, Signal::KILL).unwrap();
            while !ended(monitor.as_raw_nonzero().get().into()) {
                std::thread::sleep(Duration::from_millis(2));
            }
            std::fs::write(record, "no").unwrap();
            assert!(!ended(*pid), "it ends with its monitor: nothing is tested here");
        },
        async |lab, ((id, ends), pid, _, (record, _))| {
            assert_eq!(lab.exited(&id).await.exit_code, 255);
            assert!(ended(pid), "it runs on");
            assert_eq!(lab.exited(&ends).await.exit_code, KILLED, "its monitor has noted that");
            for id in [id, ends] {
                lab.remove(&id).await.unwrap();
            }
            // The pod's own cgroup is where its record said.
            lab.remove_cgroups();
            assert!(!record.exists(), "the record is set aside");
        },
    );
}

/// The monitor has ended after it recorded the exit.
#[test]
fn an_exit_whose_record_the_disk_refuses_for_a_while_keeps_its_code() {
    while_no_server_runs(
        async |lab| {
            let pod = lab.pod("recorded").await;
            let id = lab.run(&pod, shell("app", "sleep 1000")).await;
            let endable = Endable::of(lab, &pod, &id).await;
            (pod.clone(), id, lab.monitor_pid(&pod).await, endable)
        },
        |(_, _, monitor, endable)| {
            endable.end();
            kill_process(*monitor, Signal::KILL).unwrap();
            // A folder in the place of the record stands for a disk that refuses.
            let (record, kept) = (endable.exit.clone(), endable.exit.with_extension("kept"));
            std::fs::rename(&record, &kept).unwrap();
            std::fs::create_dir(&record).unwrap();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_secs(2));
                std::fs::remove_dir(&record).unwrap();
                std::fs::rename(&kept, &record).unwrap();
            });
        },
        async |lab, (pod, id, _, _)| {
            assert_eq!(lab.exited(&id).await.exit_code, KILLED);
            lab.remove_pod(&pod).await;
        },
    );
}

#[test]
fn damaged_records_are_set_aside_and_the_rest_is_served() {
    let half = "f".repeat(64);
    over_a_restart(
        async |lab| {
            let pod = lab.pod("damage").await;
            let good = lab.run(&pod, shell("good", "sleep 1000")).await;
            let bad = lab.create(&pod, shell("bad", "true")).await.unwrap();
            let folder = lab.dir.path().join("root/containers");
            std::fs::write(folder.join(&bad).join("container.json"), "{\"version\":1,").unwrap();
            std::fs::create_dir_all(folder.join(&half).join("upper")).unwrap();
            (pod, good, bad)
        },
        async |lab, (pod, good, bad)| {
            assert!(lab.status(&good).await.is_ok());
            assert!(lab.status(&bad).await.is_err());
            for id in [&bad, &half] {
                let folder = lab.dir.path().join("root/containers").join(id);
                assert!(!folder.exists() && folder.with_extension("bad").exists(), "{id}");
            }
            lab.remove_pod(&pod).await;
        },
    );
}

#[test]
fn of_folders_that_were_set_aside_the_newest_are_kept_and_those_in_use() {
    let names = |n: usize| format!("{}.bad", format!("{n:02}").repeat(32));
    while_no_server_runs(
        async |lab| {
            let pod = lab.pod("aside").await;
            let runs = lab.run(&pod, shell("runs", "sleep 1000")).await;
            (pod, runs, lab.dir.path().join("root/containers"))
        },
        |(_, runs, folder)| {
            // As an earlier server sets them aside, the one that runs first.
            std::fs::rename(folder.join(runs), folder.join(format!("{runs}.bad"))).unwrap();
            for n in 0..7 {
                std::thread::sleep(Duration::from_millis(15));
                std::fs::create_dir_all(folder.join(names(n)).join("upper/data")).unwrap();
            }
        },
        async |lab, (pod, runs, folder)| {
            let is_there = |name: &str| folder.join(name).exists();
            let begun = Instant::now();
            while is_there(&names(0)) || is_there(&names(1)) {
                assert!(begun.elapsed().as_secs() < 20, "the oldest stay");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert!((2..7).all(|n| is_there(&names(n))), "the newest are gone");
            assert!(is_there(&format!("{runs}.bad")), "it runs");
            lab.remove_pod(&pod).await;
        },
    );
}

#[test]
fn a_monitor_that_died_with_the_server_leaves_exits_behind() {
    over_a_restart(
        async |lab| {
            let pod = lab.pod("killed").await;
            let ended = lab.run(&pod, shell("ended", "exit 4")).await;
            lab.exited(&ended).await;
            let running = lab.run(&pod, shell("running", "sleep 1000")).await;
            lab.recorded_as_running(&running).await;
            let pid = lab.monitor_pid(&pod).await;
            kill_process(pid, Signal::KILL).unwrap();
            (pod, ended, running)
        },
        async |lab, (pod, ended, running)| {
            assert_eq!(lab.status(&ended).await.unwrap().exit_code, 4);
            let status = lab.exited(&running).await;
            assert_eq!(status.exit_code, 255, "{status:?}");
            assert!(!status.message.is_empty());
            lab.remove_pod(&pod).await;
        },
    );
}

#[test]
fn a_start_under_way_ends_as_the_monitor_knows_it() {
    over_a_restart(
        async |lab| {
            let pod = lab.pod("midway").await;
            let runs = lab.run(&pod, shell("runs", "sleep 1000")).await;
            let never = lab.create(&pod, shell("never", "true")).await.unwrap();
            for id in [&runs, &never] {
                let record = lab.dir.path().join("root/containers").join(id).join("status.json");
                let mut status: serde_json::Value =
                    serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
                status["state"] = serde_json::json!({ "state": "starting" });
                std::fs::write(&record, status.to_string()).unwrap();
            }
            (pod, runs, never)
        },
        async |lab, (pod, runs, never)| {
            assert_eq!(
                lab.status(&runs).await.unwrap().state,
                proto::ContainerState::ContainerRunning as i32
            );
            assert_eq!(lab.sh(&runs, "echo alive").await, "alive\n");
            let status = lab.status(&never).await.unwrap();
            assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"), "{status:?}");
            lab.remove_pod(&pod).await;
        },
    );
}

/// A node that thrashes: the monitor needs seconds to answer, and the server is new.
#[test]
fn a_container_whose_monitor_is_slow_has_its_grace_period() {
    over_a_restart(
        async |lab| {
            let pod = lab.pod("slow").await;
            let line = "trap 'echo x >/data/ended; exit 7' TERM; echo ready; while :; do sleep 0.05; done";
            let id = lab.run(&pod, shell("app", line)).await;
            lab.until_log("app", "ready").await;
            lab.recorded_as_running(&id).await;
            let monitor = lab.monitor_pid(&pod).await;
            kill_process(monitor, Signal::STOP).unwrap();
            (pod, id, monitor)
        },
        async |lab, (pod, id, monitor)| {
            let ended = lab.dir.path().join("root/containers").join(&id).join("volumes/0/ended");
            let goes_on = async {
                let begun = Instant::now();
                while !ended.exists() && begun.elapsed() < Duration::from_secs(30) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                let has_ended = ended.exists();
                kill_process(monitor, Signal::CONT).unwrap();
                has_ended
            };
            let (stopped, has_ended) = tokio::join!(lab.stop(&id, 60), goes_on);
            stopped.unwrap();
            assert!(has_ended, "it had no stop signal while its monitor did not answer");
            let status = lab.exited(&id).await;
            assert_eq!(status.exit_code, 7, "{status:?}");
            lab.remove_pod(&pod).await;
        },
    );
}
