//! Work that no client waits for.

use crisp_operation::fault::{self, Fault};

use crate::lab::{lab, shell};
use crate::{ONE_AT_A_TIME, reached, until};

#[tokio::test]
async fn a_deletion_that_hangs_does_not_hold_back_the_others() {
    let _one = ONE_AT_A_TIME.lock().await;
    let lab = lab!();
    let pod = lab.pod("deletions").await;
    let first = lab.create(&pod, shell("first", "true")).await.unwrap();
    let second = lab.create(&pod, shell("second", "true")).await.unwrap();
    let hang = fault::arm(&format!("delete_files/folder@{first}"), Fault::Hang);
    let discarded = lab.dir.path().join("root/discarded");
    lab.remove(&first).await.unwrap();
    reached(&hang).await;
    lab.remove(&second).await.unwrap();
    until(|| !discarded.join(&second).exists()).await;
    assert!(discarded.join(&first).exists(), "it was to hang");
    drop(hang);
    lab.remove_pod(&pod).await;
}
