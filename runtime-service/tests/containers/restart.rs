//! The server may die.

use crisp_proto::runtime::v1 as proto;

use crate::lab::{lab, shell};

#[tokio::test]
async fn running_ones_run_on_and_exits_meanwhile_are_known() {
    let lab = lab!();
    let pod = lab.pod("restart").await;
    let stays = lab.run(&pod, shell("stays", "sleep 1000")).await;
    let ends = lab.run(&pod, shell("ends", "sleep 0.3; exit 5")).await;
    let waits = lab.create(&pod, shell("waits", "echo late")).await.unwrap();
    let before = lab.status(&stays).await.unwrap();
    let dir = lab.dir.path().to_owned();
    let lab = {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        lab.restart().await
    };
    assert_eq!(dir, lab.dir.path());
    assert_eq!(lab.status(&stays).await.unwrap(), before);
    assert_eq!(lab.exited(&ends).await.exit_code, 5);
    assert_eq!(lab.sh(&stays, "echo alive").await, "alive\n");
    assert_eq!(lab.status(&waits).await.unwrap().state, proto::ContainerState::ContainerCreated as i32);
    lab.start(&waits).await.unwrap();
    assert_eq!(lab.exited(&waits).await.exit_code, 0);
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn damaged_records_are_set_aside_and_the_rest_is_served() {
    let lab = lab!();
    let pod = lab.pod("damage").await;
    let good = lab.run(&pod, shell("good", "sleep 1000")).await;
    let bad = lab.create(&pod, shell("bad", "true")).await.unwrap();
    let folder = lab.dir.path().join("root/containers");
    std::fs::write(folder.join(&bad).join("container.json"), "{\"version\":1,").unwrap();
    let half = "f".repeat(64);
    std::fs::create_dir_all(folder.join(&half).join("upper")).unwrap();
    let lab = lab.restart().await;
    assert!(lab.status(&good).await.is_ok());
    assert!(lab.status(&bad).await.is_err());
    assert!(lab.dir.path().join("root/set-aside").join(&bad).exists());
    assert!(!folder.join(&half).exists());
    lab.remove_pod(&pod).await;
}
