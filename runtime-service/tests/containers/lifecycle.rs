//! From CreateContainer to RemoveContainer.

use std::time::Instant;

use crisp_proto::runtime::v1 as proto;
use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use tonic::{Code, Request};

use crate::lab::{lab, resources, shell};

#[tokio::test]
async fn a_container_runs_logs_and_ends_with_its_code() {
    let lab = lab!();
    let pod = lab.pod("life").await;
    let id = lab.run(&pod, shell("app", "echo out; echo err >&2; exit 7")).await;
    let status = lab.exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"));
    assert!(status.created_at <= status.started_at && status.started_at <= status.finished_at, "{status:?}");
    let log = lab.log("app");
    assert!(log.contains(" stdout F out\n") && log.contains(" stderr F err\n"), "{log:?}");
    lab.remove(&id).await.unwrap();
    assert_eq!(lab.status(&id).await.unwrap_err().code(), Code::NotFound);
    lab.remove(&id).await.unwrap();
    lab.remove_pod(&pod).await;
    assert_eq!(std::fs::read_dir(lab.dir.path().join("root/containers")).unwrap().count(), 0);
}

#[tokio::test]
async fn the_images_command_environment_folder_and_volume_are_used() {
    let lab = lab!();
    let pod = lab.pod("image").await;
    let mut config = shell("app", "");
    config.command.clear();
    let id = lab.run(&pod, config).await;
    assert_eq!(lab.exited(&id).await.exit_code, 0);
    assert!(lab.log("app").contains("from the image"), "{}", lab.log("app"));
    let id =
        lab.run(&pod, shell("more", "echo $FROM; pwd; cat /data/given; echo x > /data/new; hostname")).await;
    lab.exited(&id).await;
    let log = lab.log("more");
    assert!(log.contains("F image\n") && log.contains("F /home\n") && log.contains("by the image"), "{log}");
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn a_start_that_fails_is_told_and_kept() {
    let lab = lab!();
    let pod = lab.pod("missing").await;
    let mut config = shell("app", "");
    config.command = vec!["/bin/nope".into()];
    let id = lab.create(&pod, config).await.unwrap();
    let error = lab.start(&id).await.unwrap_err();
    assert!(error.message().contains("/bin/nope"), "{error}");
    let status = lab.status(&id).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    assert!(status.message.contains("/bin/nope"), "{status:?}");
    assert_eq!(lab.start(&id).await.unwrap_err().code(), Code::FailedPrecondition);
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn a_create_asked_for_twice_is_one() {
    let lab = lab!();
    let pod = lab.pod("twice").await;
    let (a, b) = tokio::join!(lab.create(&pod, shell("app", "true")), lab.create(&pod, shell("app", "true")));
    let a = a.unwrap();
    assert_eq!(a, b.unwrap());
    assert_eq!(lab.create(&pod, shell("app", "true")).await.unwrap(), a);
    let error = lab.create(&pod, shell("app", "something else")).await.unwrap_err();
    assert_eq!(error.code(), Code::AlreadyExists, "{error}");
    assert!(error.message().contains(&a), "{error}");
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn stop_asks_then_kills() {
    let lab = lab!();
    let pod = lab.pod("stop").await;
    let polite =
        lab.run(&pod, shell("polite", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.02; done")).await;
    // A signal before the trap is set would simply end it.
    while !lab.log("polite").contains("ready") {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    lab.stop(&polite, 10).await.unwrap();
    assert_eq!(lab.status(&polite).await.unwrap().exit_code, 3);
    let deaf = lab.run(&pod, shell("deaf", "trap '' TERM; echo ready; while :; do sleep 1; done")).await;
    while !lab.log("deaf").contains("ready") {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let begun = Instant::now();
    lab.stop(&deaf, 1).await.unwrap();
    assert!(begun.elapsed().as_millis() >= 900 && begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
    assert_eq!(lab.status(&deaf).await.unwrap().exit_code, 137);
    lab.stop(&deaf, 1).await.unwrap();
    lab.stop("ffff", 1).await.unwrap();
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn removing_a_pod_takes_running_containers_with_it() {
    let lab = lab!();
    let pod = lab.pod("down").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    lab.remove_pod(&pod).await;
    assert_eq!(lab.status(&id).await.unwrap_err().code(), Code::NotFound);
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn out_of_memory_is_called_so() {
    let lab = lab!();
    let pod = lab.pod("oom").await;
    let mut config = shell("app", "dd if=/dev/zero of=/dev/null bs=200M count=1");
    resources(&mut config).memory_limit_in_bytes = 20 << 20;
    let id = lab.run(&pod, config).await;
    let status = lab.exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"), "{status:?}");
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn a_rotated_log_is_reopened() {
    let lab = lab!();
    let pod = lab.pod("rotate").await;
    let id = lab.run(&pod, shell("app", "while :; do echo tick; sleep 0.01; done")).await;
    let path = lab.logs().join("app.log");
    while !lab.log("app").contains("tick") {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    std::fs::rename(&path, lab.logs().join("app.log.1")).unwrap();
    let request = proto::ReopenContainerLogRequest { container_id: id.clone() };
    lab.service.reopen_container_log(Request::new(request)).await.unwrap();
    while !lab.log("app").contains("tick") {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn lists_are_filtered() {
    let lab = lab!();
    let pod = lab.pod("lists").await;
    let mut config = shell("a", "sleep 100");
    config.labels = [("tier".to_owned(), "web".to_owned())].into();
    let a = lab.run(&pod, config).await;
    let b = lab.create(&pod, shell("b", "true")).await.unwrap();
    let list = |filter: proto::ContainerFilter| {
        let request = proto::ListContainersRequest { filter: Some(filter) };
        let service = lab.service.clone();
        async move {
            let list = service.list_containers(Request::new(request)).await.unwrap().into_inner().containers;
            list.into_iter().map(|c| c.id).collect::<Vec<_>>()
        }
    };
    let labels = [("tier".to_owned(), "web".to_owned())].into();
    let running = Some(proto::ContainerStateValue { state: 1 });
    assert_eq!(list(proto::ContainerFilter::default()).await.len(), 2);
    assert_eq!(
        list(proto::ContainerFilter { label_selector: labels, ..Default::default() }).await,
        std::slice::from_ref(&a)
    );
    assert_eq!(
        list(proto::ContainerFilter { state: running, ..Default::default() }).await,
        std::slice::from_ref(&a)
    );
    assert_eq!(
        list(proto::ContainerFilter { id: b[..20].into(), ..Default::default() }).await,
        std::slice::from_ref(&b)
    );
    assert_eq!(lab.status(&b[..16]).await.unwrap().id, b);
    lab.remove_pod(&pod).await;
}
