//! Containers whose records are not valid. Their folders are set aside, and they are not listed, but they may
//! run: their layers are kept until no monitor can have them.
//!
//! ```text
//!   set aside ─> in any pod that may run ─┬─ a monitor reports it as running ─> in that pod, until it ends
//!                                         └─ all others have reported, or ended ─> its layers may go
//! ```

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crisp_executor::ids::{ContainerId, PodId};
use crisp_image_service::store::{Hold, KeepAll};
use crisp_image_service::{DiffId, Store};
use crisp_sandbox::Pods;
use crisp_sandbox::link::{ContainerReport, ContainerState};
use serde_json::Value;

use crate::layout;

/// The containers that were set aside and may run.
#[derive(Debug, Default)]
pub(crate) struct SetAside(Mutex<Vec<MayRun>>);

#[derive(Debug)]
struct MayRun {
    id: ContainerId,
    /// The pods in which it may run.
    pods: HashSet<PodId>,
    _layers: HeldLayers,
}

#[derive(Debug)]
#[expect(dead_code, reason = "held until it is dropped")]
enum HeldLayers {
    Layers(Hold),
    /// Its record does not tell its layers.
    All(KeepAll),
}

impl SetAside {
    /// Keeps the layers of a container as long as it may run.
    pub(crate) fn keep_layers(&self, pods: &Pods, images: &Store, id: ContainerId, folder: &Path) {
        let pods = pods.list();
        let pods: HashSet<PodId> =
            pods.iter().filter(|pod| pod.status().state.may_run()).map(|pod| pod.id.clone()).collect();
        if pods.is_empty() {
            return;
        }
        let layers = match layers_of(folder) {
            Some(layers) => HeldLayers::Layers(images.hold(&layers)),
            None => HeldLayers::All(images.keep_all()),
        };
        self.change(|all| all.push(MayRun { id, pods, _layers: layers }));
    }

    /// Whether the container of that folder may run.
    pub(crate) fn may_run(&self, folder: &Path) -> bool {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().any(|container| name.starts_with(container.id.as_str()))
    }

    /// Handles a monitor's report of all containers of its pod.
    pub(crate) fn reported(&self, pod: &PodId, containers: &[ContainerReport]) {
        let runs = |id: &ContainerId| {
            containers
                .iter()
                .any(|report| report.id == *id && !matches!(report.state, ContainerState::Exited(_)))
        };
        self.change(|all| {
            for container in all.iter_mut() {
                if !runs(&container.id) {
                    container.pods.remove(pod);
                } else {
                    container.pods = HashSet::from([pod.clone()]);
                }
            }
        });
    }

    /// Handles the end of a pod.
    pub(crate) fn ended(&self, pod: &PodId) {
        self.change(|all| all.iter_mut().for_each(|container| container.pods.retain(|other| other != pod)));
    }

    fn change(&self, change: impl FnOnce(&mut Vec<MayRun>)) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut all);
        all.retain(|container| !container.pods.is_empty());
    }
}

/// The layers in a record, even if the rest of it is not valid.
fn layers_of(folder: &Path) -> Option<Vec<DiffId>> {
    let record: Value = serde_json::from_slice(&fs::read(layout::record_in(folder)).ok()?).ok()?;
    let root: Vec<DiffId> = serde_json::from_value(record.pointer("/image/diff_ids")?.clone()).ok()?;
    let mounted: Vec<Vec<DiffId>> = match record.get("mounted_images") {
        Some(images) => serde_json::from_value(images.clone()).ok()?,
        None => Vec::new(),
    };
    Some(root.into_iter().chain(mounted.into_iter().flatten()).collect())
}
