//! A container that stands still for a commit goes on, whatever becomes of that.

use std::time::Duration;

use crisp_operation::fault::{self, Fault};
use crisp_proto::crisp::v1::CommitContainerRequest;
use crisp_proto::crisp::v1::containers_server::Containers as _;
use tonic::{Request, Status};

use crate::crash::crash;
use crate::lab::{Lab, lab, shell};
use crate::{ONE_AT_A_TIME, reached};

async fn commit(lab: &Lab, id: &str) -> Result<(), Status> {
    let request =
        CommitContainerRequest { container_id: id.to_owned(), tag: "made:1".into(), ..Default::default() };
    lab.service.commit(Request::new(request)).await.map(drop)
}

/// Its processes run: a command in it ends.
async fn until_it_runs(lab: &Lab, id: &str) {
    let runs = async {
        while lab.exec(id, &["true"], 20).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), runs).await.expect("it stands still");
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_no_paused_container() {
    let _one = ONE_AT_A_TIME.lock().await;
    let lab = lab!();
    let pod = lab.pod("commit").await;
    let id = lab.run(&pod, shell("app", "sleep 1000")).await;
    let hang = fault::arm(&format!("commit_container/image@{id}"), Fault::Hang);
    tokio::select! {
        made = commit(&lab, &id) => panic!("{made:?}"),
        () = reached(&hang) => assert!(lab.exec(&id, &["true"], 1).await.is_err(), "it is not paused"),
    }
    until_it_runs(&lab, &id).await;
    drop(hang);
    commit(&lab, &id).await.unwrap();
    until_it_runs(&lab, &id).await;
    lab.remove_pod(&pod).await;
}

#[test]
fn the_next_server_unpauses_it() {
    let _one = ONE_AT_A_TIME.blocking_lock();
    for point in ["commit_container/image", "pause_container/freezer", "pause_container/record"] {
        crash(
            point,
            async |lab| {
                let pod = lab.pod("commit").await;
                (pod.clone(), lab.run(&pod, shell("app", "sleep 1000")).await)
            },
            async |lab, (_, id)| drop(commit(lab, &id).await),
            async |lab, (pod, id)| {
                until_it_runs(lab, &id).await;
                lab.remove_pod(&pod).await;
            },
        );
    }
}

/// The stop signal lets it go on: what has been read is no image of one moment.
#[tokio::test]
async fn a_stop_ends_the_commit() {
    let _one = ONE_AT_A_TIME.lock().await;
    let lab = lab!();
    let pod = lab.pod("commit").await;
    let line = "dd if=/dev/zero of=/big bs=1M count=0 seek=4096 2>/dev/null; echo ready; sleep 1000";
    let id = lab.run(&pod, shell("app", line)).await;
    lab.until_log("app", "ready").await;
    let stop = async {
        let begun = std::time::Instant::now();
        while !status_on_disk(&lab, &id).contains("\"paused\":true") {
            assert!(begun.elapsed() < Duration::from_secs(20), "it is not paused");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        lab.stop(&id, 0).await.unwrap();
    };
    let (made, ()) = tokio::join!(commit(&lab, &id), stop);
    let error = made.unwrap_err();
    assert!(error.message().contains("stopped or unpaused"), "{error}");
    assert!(lab.images.store().find("made:1").is_err());
    lab.remove_pod(&pod).await;
}

fn status_on_disk(lab: &Lab, id: &str) -> String {
    std::fs::read_to_string(lab.dir.path().join("root/containers").join(id).join("status.json")).unwrap()
}
