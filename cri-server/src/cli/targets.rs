//! The containers that a name stands for: one container, or all of a pod.

use anyhow::bail;
use crisp_proto::runtime::v1::{Container, ContainerState};

use super::names::{Names, Target};
use crate::table::short;

/// A supervisor (kubelet, `crisp run`) counts its starts of a container in this annotation.
const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";

/// A container, or the running containers of a pod.
///
/// # Errors
/// Nothing has the name, or no container of the pod runs.
pub fn running(names: &Names, text: &str) -> anyhow::Result<Vec<String>> {
    let pod = match names.either(text)? {
        Target::Container(container) => return Ok(vec![container.id.clone()]),
        Target::Pod(pod) => pod,
    };
    let of_pod = names.containers.iter().filter(|c| c.pod_sandbox_id == pod.id);
    let running = of_pod.filter(|c| c.state() == ContainerState::ContainerRunning);
    let ids: Vec<String> = running.map(|c| c.id.clone()).collect();
    if ids.is_empty() {
        bail!("no container of the pod runs");
    }
    Ok(ids)
}

/// Calls `work` for each of these containers. A failure does not keep the others from their turn.
///
/// # Errors
/// The failures, each with its container's id.
pub async fn all(
    ids: &[String],
    mut work: impl AsyncFnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for id in ids {
        if let Err(error) = work(id).await {
            failed.push(if ids.len() == 1 {
                format!("{error:#}")
            } else {
                format!("{}: {error:#}", short(id))
            });
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("; ")) }
}

/// Whether a kubelet or a `crisp run` decides when this container is started again.
pub fn is_supervised(container: &Container) -> bool {
    container.annotations.contains_key(RESTART_COUNT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_refuses_does_not_keep_the_others_from_their_turn() {
        let ids = ["a", "b", "c"].map(str::to_owned);
        let mut done = Vec::new();
        let error = all(&ids, async |id| {
            done.push(id.to_owned());
            if id == "c" { Ok(()) } else { bail!("no") }
        })
        .await
        .unwrap_err();
        assert_eq!((done.len(), error.to_string().as_str()), (3, "a: no; b: no"));
    }
}
