//! Operations on one container exclude each other, and none keeps it from being stopped.

use std::time::{Duration, Instant};

use crisp_operation::fault::{self, Fault};
use crisp_proto::runtime::v1 as proto;
use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use tonic::{Code, Request, Status};

use crate::lab::{Lab, lab, resources, shell};
use crate::{ONE_AT_A_TIME, compiled_at_start, reached, until};

async fn update(
    lab: &Lab,
    id: &str,
    change: impl FnOnce(&mut proto::LinuxContainerResources),
) -> Result<(), Status> {
    let mut linux = proto::LinuxContainerResources::default();
    change(&mut linux);
    let request = proto::UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(linux),
        ..Default::default()
    };
    lab.service.update_container_resources(Request::new(request)).await.map(drop)
}

async fn limits(lab: &Lab, id: &str) -> proto::LinuxContainerResources {
    lab.status(id).await.unwrap().resources.unwrap().linux.unwrap()
}

/// Nothing is built or compiled a second time, unless the limits have changed.
#[tokio::test]
async fn a_prepared_start_goes_straight_to_the_monitor() {
    let _one = ONE_AT_A_TIME.lock().await;
    let lab = lab!();
    let pod = lab.pod("straight").await;
    for changed in [false, true] {
        let name = format!("app-{changed}");
        let id = lab.create(&pod, shell(&name, "sleep 1000")).await.unwrap();
        let log = lab.logs().join(format!("{name}.log"));
        // The rest is prepared before the start gets its turn.
        until(|| log.exists()).await;
        if changed {
            update(&lab, &id, |linux| linux.cpu_shares = 512).await.unwrap();
        }
        let stages = ["spec", "compile"];
        let faults = stages.map(|stage| fault::arm(&format!("start_container/{stage}@{id}"), Fault::Fail));
        assert_eq!(lab.start(&id).await.is_err(), changed);
        assert_eq!(faults[0].is_reached(), changed);
    }
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn a_start_that_hangs_is_ended_by_a_stop_and_by_a_removal() {
    let _one = ONE_AT_A_TIME.lock().await;
    let lab = lab!();
    let pod = lab.pod("hangs").await;
    for (stage, remove) in [("compile:after", false), ("monitor:after", false), ("monitor:after", true)] {
        let config = shell(&format!("app-{stage}-{remove}"), "sleep 1000");
        let config = if stage.starts_with("compile") { compiled_at_start(config) } else { config };
        let id = lab.create(&pod, config).await.unwrap();
        let hang = fault::arm(&format!("start_container/{stage}@{id}"), Fault::Hang);
        let started = async { lab.start(&id).await.unwrap_err() };
        let ended = async {
            reached(&hang).await;
            let begun = Instant::now();
            if remove {
                lab.remove(&id).await.unwrap()
            } else {
                lab.stop(&id, 0).await.unwrap()
            }
            assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
        };
        let (error, ()) = tokio::join!(started, ended);
        assert_eq!(error.code(), Code::Aborted, "{error}");
        assert!(error.message().contains("stopped while it started"), "{error}");
        if remove {
            assert!(lab.status(&id).await.is_err());
        } else {
            let status = lab.status(&id).await.unwrap();
            assert_eq!(status.state, proto::ContainerState::ContainerExited as i32, "{stage}: {status:?}");
            // The end of a process that has run is known from the monitor, unless the failed start is first.
            let codes = if stage == "monitor:after" { [137, 128] } else { [128, 128] };
            assert!(codes.contains(&status.exit_code), "{stage}: {status:?}");
            lab.remove(&id).await.unwrap();
        }
    }
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn a_kill_does_not_wait_for_the_grace_period_of_an_earlier_stop() {
    let _one = ONE_AT_A_TIME.lock().await;
    let lab = lab!();
    let pod = lab.pod("grace").await;
    let id = lab.run(&pod, shell("app", "trap '' TERM; echo ready; while :; do sleep 1; done")).await;
    until(|| lab.log("app").contains("ready")).await;
    let begun = Instant::now();
    let polite = lab.stop(&id, i64::MAX);
    let kill = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        lab.stop(&id, 0).await
    };
    let (polite, kill) = tokio::join!(polite, kill);
    polite.unwrap();
    kill.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(lab.status(&id).await.unwrap().exit_code, 137);
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn what_is_stopped_before_its_start_got_its_turn_does_not_run_later() {
    let _one = ONE_AT_A_TIME.lock().await;
    let lab = lab!();
    let pod = lab.pod("turn").await;
    let id = lab.create(&pod, shell("app", "sleep 1000")).await.unwrap();
    // Holds the container's lock until its deadline.
    let hang = fault::arm(&format!("update_container_resources/record@{id}"), Fault::Hang);
    let holder = update(&lab, &id, |linux| linux.cpu_shares = 100);
    let started = async {
        reached(&hang).await;
        lab.start(&id).await
    };
    let stopped = async {
        reached(&hang).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let begun = Instant::now();
        lab.stop(&id, 0).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    };
    let (held, started, ()) = tokio::join!(holder, started, stopped);
    held.unwrap_err();
    let error = started.expect_err("it runs although it was stopped");
    assert_eq!(error.code(), Code::Aborted, "{error}");
    assert!(error.message().contains("stopped"), "{error}");
    assert_eq!(lab.status(&id).await.unwrap().state, proto::ContainerState::ContainerCreated as i32);
    drop(hang);
    lab.start(&id).await.expect("a later request starts it");
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn limits_change_while_a_stop_waits_for_its_grace_period() {
    let _one = ONE_AT_A_TIME.lock().await;
    let lab = lab!();
    let pod = lab.pod("graceful").await;
    let id = lab.run(&pod, shell("app", "trap '' TERM; echo ready; while :; do sleep 1; done")).await;
    until(|| lab.log("app").contains("ready")).await;
    let polite = lab.stop(&id, 600);
    let meanwhile = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let begun = Instant::now();
        let updated = update(&lab, &id, |linux| linux.memory_limit_in_bytes = 32 << 20).await;
        let took = begun.elapsed();
        lab.stop(&id, 0).await.unwrap();
        updated.unwrap();
        assert!(took < Duration::from_secs(5), "{took:?}");
    };
    let (polite, ()) = tokio::join!(polite, meanwhile);
    polite.unwrap();
    assert_eq!(limits(&lab, &id).await.memory_limit_in_bytes, 32 << 20);
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn no_update_is_lost_to_another_one() {
    let _one = ONE_AT_A_TIME.lock().await;
    let lab = lab!();
    let pod = lab.pod("updates").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    for round in 1..6 {
        let (memory, shares) = (i64::from(round) * (16 << 20), i64::from(round) * 100);
        let (a, b) = tokio::join!(
            update(&lab, &id, |linux| linux.memory_limit_in_bytes = memory),
            update(&lab, &id, |linux| linux.cpu_shares = shares)
        );
        a.unwrap();
        b.unwrap();
        let now = limits(&lab, &id).await;
        assert_eq!((now.memory_limit_in_bytes, now.cpu_shares), (memory, shares));
    }
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn an_update_during_a_start_holds() {
    let _one = ONE_AT_A_TIME.lock().await;
    let lab = lab!();
    let pod = lab.pod("race").await;
    let mut config = shell("app", "sleep 1000");
    resources(&mut config).memory_limit_in_bytes = 64 << 20;
    // A start takes some milliseconds: these updates come at its start, in its middle and at its end.
    for delay in 0..8 {
        config.metadata.get_or_insert_default().attempt = delay;
        let id = lab.create(&pod, config.clone()).await.unwrap();
        let update = async {
            tokio::time::sleep(Duration::from_millis(delay.into())).await;
            update(&lab, &id, |linux| linux.memory_limit_in_bytes = 32 << 20).await
        };
        let (started, updated) = tokio::join!(lab.start(&id), update);
        started.unwrap();
        updated.unwrap();
        assert_eq!(limits(&lab, &id).await.memory_limit_in_bytes, 32 << 20);
        let request = Request::new(proto::ContainerStatsRequest { container_id: id.clone() });
        let stats = lab.service.container_stats(request).await.unwrap().into_inner().stats.unwrap();
        let available = stats.memory.unwrap().available_bytes.unwrap().value;
        assert!(available <= 32 << 20, "{delay} ms: the kernel has the old limit");
        lab.stop(&id, 0).await.unwrap();
    }
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn an_update_that_cannot_be_recorded_puts_the_old_limits_back() {
    let _one = ONE_AT_A_TIME.lock().await;
    let lab = lab!();
    let pod = lab.pod("undo").await;
    let mut config = shell("app", "sleep 1000");
    resources(&mut config).memory_limit_in_bytes = 64 << 20;
    let id = lab.run(&pod, config).await;
    let fail = fault::arm(&format!("update_container_resources/record@{id}"), Fault::Fail);
    let error = update(&lab, &id, |linux| linux.memory_limit_in_bytes = 32 << 20).await.unwrap_err();
    assert!(error.message().contains("stage record"), "{error}");
    drop(fail);
    assert_eq!(limits(&lab, &id).await.memory_limit_in_bytes, 64 << 20);
    let request = proto::ContainerStatsRequest { container_id: id.clone() };
    let stats = lab.service.container_stats(Request::new(request)).await.unwrap().into_inner().stats.unwrap();
    assert!(stats.memory.unwrap().available_bytes.unwrap().value > 48 << 20, "the kernel has the new limit");
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn a_create_of_the_same_name_with_another_configuration_is_not_joined() {
    let _one = ONE_AT_A_TIME.lock().await;
    let lab = lab!();
    let pod = lab.pod("names").await;
    let (a, b) = tokio::join!(
        lab.create(&pod, shell("app", "true")),
        lab.create(&pod, shell("app", "something else"))
    );
    let (id, error) = match (a, b) {
        (Ok(id), Err(error)) | (Err(error), Ok(id)) => (id, error),
        (a, b) => panic!("one of two creations with one name must fail: {a:?}, {b:?}"),
    };
    assert_eq!(error.code(), Code::AlreadyExists, "{error}");
    assert!(error.message().contains(&id), "{error}");
    lab.remove_pod(&pod).await;
}
