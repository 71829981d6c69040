//! The whole service with faults: stages that hang or fail, disks that refuse, servers that end in the middle
//! of an operation. One at a time, because a fault is armed for the whole process.
//!
//! Needs what the tests of containers need.

#![allow(clippy::unwrap_used, reason = "tests")]
#![cfg(debug_assertions)]

#[allow(dead_code, reason = "shared with the tests of containers")]
#[path = "../containers/lab.rs"]
mod lab;

mod background;
mod commit;
mod crash;
mod disk;
mod exclusion;
mod lost_exit;

use std::time::Duration;

use crisp_operation::fault::Armed;
use crisp_proto::runtime::v1::{ContainerConfig, Device};

static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// With a device, whose number its start has to look up: its plan is not made before.
fn compiled_at_start(config: ContainerConfig) -> ContainerConfig {
    let device = Device {
        container_path: "/dev/null".into(),
        host_path: "/dev/null".into(),
        permissions: "rw".into(),
    };
    ContainerConfig { devices: vec![device], ..config }
}

/// Waits until a stage has come to the fault.
async fn reached(fault: &Armed) {
    until(|| fault.is_reached()).await;
}

async fn until(mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap();
}
