//! Servers that end at each stage of each operation.

use crisp_operation::fault::{self, Fault};
use crisp_proto::runtime::v1 as proto;
use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use tokio::runtime::Runtime;
use tonic::Request;

use crate::lab::{Lab, lab, shell};
use crate::{ONE_AT_A_TIME, compiled_at_start, reached, until};

/// Runs `before` with one server, has `operation` hang at `point`, drops the server with all its tasks (so
/// that nothing is undone, as after SIGKILL), and runs `after` with the next one.
pub fn crash<T: Clone>(
    point: &str,
    before: impl AsyncFnOnce(&Lab) -> T,
    operation: impl AsyncFnOnce(&Lab, T),
    after: impl AsyncFnOnce(&Lab, T),
) {
    let first = Runtime::new().unwrap();
    let left = first.block_on(async {
        let lab = lab!();
        let known = before(&lab).await;
        let hang = fault::arm(point, Fault::Hang);
        tokio::select! {
            () = operation(&lab, known.clone()) => panic!("{point} was not reached"),
            () = reached(&hang) => {}
        }
        Some((lab.leave(), known))
    });
    drop(first);
    let Some((left, known)) = left else { return };
    Runtime::new().unwrap().block_on(async {
        let lab = left.open().await;
        after(&lab, known).await;
    });
}

async fn containers(lab: &Lab) -> Vec<proto::Container> {
    lab.service.list_containers(Request::new(Default::default())).await.unwrap().into_inner().containers
}

/// No folder of a container that is not listed.
async fn nothing_is_left(lab: &Lab) {
    let count = |folder: &str| std::fs::read_dir(lab.dir.path().join("root").join(folder)).unwrap().count();
    until(|| count("discarded") == 0).await;
    assert_eq!(count("containers"), containers(lab).await.len());
}

fn turn() -> tokio::sync::MutexGuard<'static, ()> {
    ONE_AT_A_TIME.blocking_lock()
}

#[test]
fn during_a_create() {
    let _one = turn();
    for stage in ["lease", "folders", "spec", "records", "records:after", "commit", "commit:after"] {
        crash(
            &format!("create_container/{stage}"),
            async |lab| lab.pod("create").await,
            async |lab, pod| drop(lab.create(&pod, shell("app", "echo late")).await),
            async |lab, pod| {
                let expected = usize::from(stage == "commit:after");
                assert_eq!(containers(lab).await.len(), expected, "{stage}");
                nothing_is_left(lab).await;
                // Kubelet asks again: the same container, or a new one.
                let id = lab.create(&pod, shell("app", "echo late")).await.unwrap();
                lab.start(&id).await.unwrap();
                assert_eq!(lab.exited(&id).await.exit_code, 0, "{stage}");
                lab.remove_pod(&pod).await;
                nothing_is_left(lab).await;
            },
        );
    }
}

#[test]
fn during_a_start() {
    let _one = turn();
    for stage in ["spec", "compile", "compile:after", "monitor", "monitor:after"] {
        crash(
            &format!("start_container/{stage}"),
            async |lab| {
                let pod = lab.pod("start").await;
                let config = shell("app", "sleep 1000");
                let config = if stage.starts_with("monitor") { config } else { compiled_at_start(config) };
                let id = lab.create(&pod, config).await.unwrap();
                (pod, id)
            },
            async |lab, (_, id)| drop(lab.start(&id).await),
            async |lab, (pod, id)| {
                let status = lab.status(&id).await.unwrap();
                let expected = match stage {
                    "monitor:after" => proto::ContainerState::ContainerRunning,
                    _ => proto::ContainerState::ContainerCreated,
                };
                assert_eq!(status.state, expected as i32, "{stage}: {status:?}");
                if expected == proto::ContainerState::ContainerCreated {
                    // The client asks again.
                    lab.start(&id).await.unwrap();
                }
                let status = lab.status(&id).await.unwrap();
                assert_eq!(
                    status.state,
                    proto::ContainerState::ContainerRunning as i32,
                    "{stage}: {status:?}"
                );
                assert!(status.started_at > 0, "{stage}: {status:?}");
                lab.remove(&id).await.unwrap();
                lab.remove_pod(&pod).await;
                nothing_is_left(lab).await;
            },
        );
    }
}

#[test]
fn while_a_container_is_prepared_for_its_start() {
    let _one = turn();
    for stage in ["bundle", "root", "cgroup", "cgroup:after", "mount points", "compile", "pod:after"] {
        crash(
            &format!("prepare_container/{stage}"),
            async |lab| lab.pod("prepare").await,
            async |lab, pod| {
                for name in ["started", "removed"] {
                    lab.create(&pod, shell(name, "echo it runs")).await.unwrap();
                }
                std::future::pending().await
            },
            async |lab, pod| {
                for container in containers(lab).await {
                    if container.metadata.unwrap().name == "started" {
                        lab.start(&container.id).await.unwrap();
                        assert_eq!(lab.exited(&container.id).await.exit_code, 0, "{stage}");
                    }
                    lab.remove(&container.id).await.unwrap();
                }
                lab.remove_pod(&pod).await;
                nothing_is_left(lab).await;
            },
        );
    }
}

#[test]
fn during_a_stop() {
    let _one = turn();
    for stage in ["signal", "signal:after", "kill", "kill:after"] {
        crash(
            &format!("stop_container/{stage}"),
            async |lab| {
                let pod = lab.pod("stop").await;
                let deaf = shell("app", "trap '' TERM; echo ready; while :; do sleep 1; done");
                let id = lab.run(&pod, deaf).await;
                until(|| lab.log("app").contains("ready")).await;
                (pod, id)
            },
            async |lab, (_, id)| drop(lab.stop(&id, 1).await),
            async |lab, (pod, id)| {
                lab.stop(&id, 1).await.unwrap();
                assert_eq!(lab.exited(&id).await.exit_code, 137, "{stage}");
                lab.remove_pod(&pod).await;
                nothing_is_left(lab).await;
            },
        );
    }
}

/// The disk has no room for the exit, and the server ends before that changes: the monitor knows the exit.
#[test]
fn during_a_removal_with_an_exit_that_no_disk_has() {
    let _one = turn();
    for stage in ["monitor:after", "cgroup:after", "folder", "folder:after"] {
        crash(
            &format!("remove_container/{stage}"),
            async |lab| {
                let pod = lab.pod("full").await;
                let id = lab
                    .run(&pod, shell("app", "while [ ! -e /data/end ]; do sleep 0.01; done; exit 3"))
                    .await;
                let status = lab.dir.path().join("root/containers").join(&id).join("status.json");
                until(|| std::fs::read_to_string(&status).unwrap().contains("running")).await;
                std::fs::create_dir(status.with_extension("json.new")).unwrap();
                // Its own end may come too late: it ends with the container.
                let _ = lab.exec(&id, &["touch", "/data/end"], 20).await;
                assert_eq!(lab.exited(&id).await.exit_code, 3);
                assert!(std::fs::read_to_string(&status).unwrap().contains("running"));
                (pod, id)
            },
            async |lab, (_, id)| drop(lab.remove(&id).await),
            async |lab, (pod, id)| {
                match lab.status(&id).await {
                    Ok(status) => assert_eq!(status.exit_code, 3, "{stage}: {status:?}"),
                    Err(error) => assert_eq!(error.code(), tonic::Code::NotFound, "{stage}"),
                }
                lab.remove(&id).await.unwrap();
                nothing_is_left(lab).await;
                lab.remove_pod(&pod).await;
            },
        );
    }
}

#[test]
fn during_a_removal() {
    let _one = turn();
    for stage in ["cgroup:after", "folder", "folder:after", "monitor", "monitor:after"] {
        crash(
            &format!("remove_container/{stage}"),
            async |lab| {
                let pod = lab.pod("remove").await;
                let id = lab.run(&pod, shell("app", "exit 3")).await;
                lab.exited(&id).await;
                (pod, id)
            },
            async |lab, (_, id)| drop(lab.remove(&id).await),
            async |lab, (pod, id)| {
                if stage == "folder:after" || stage.starts_with("monitor") {
                    assert!(lab.status(&id).await.is_err(), "{stage}");
                } else {
                    assert_eq!(lab.status(&id).await.unwrap().exit_code, 3, "{stage}");
                }
                lab.remove(&id).await.unwrap();
                nothing_is_left(lab).await;
                lab.remove_pod(&pod).await;
            },
        );
    }
}
