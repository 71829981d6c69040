//! Lists of pods and containers, and their filters.

use crisp_e2e::Result;
use k8s_cri::v1::{
    Container, ContainerFilter, ContainerState, ContainerStateValue, ListContainersRequest,
    ListContainersResponse, ListPodSandboxRequest, ListPodSandboxResponse, PodSandbox, PodSandboxFilter,
    PodSandboxState, PodSandboxStateValue,
};
use prost::Message as _;

use crate::cri::{Cri, unique, unknown};
use crate::newer;

promises! {
    a_listed_pod_is_what_was_asked_for: Cri, ["ListPodSandbox", "ListPodSandboxRequest.filter",
        "ListPodSandboxResponse.items", "PodSandbox.id", "PodSandbox.metadata", "PodSandbox.state",
        "PodSandbox.created_at", "PodSandbox.labels", "PodSandbox.annotations", "PodSandbox.runtime_handler"],
        "A listed pod has what its status has";
    pods_are_filtered_by_id: Cri, ["PodSandboxFilter.id"],
        "A list of pods by id has that pod alone, and none for an unknown id";
    pods_are_filtered_by_state: Cri, ["PodSandboxFilter.state", "PodSandboxStateValue.state"],
        "A list of pods by state has those in that state alone";
    pods_are_filtered_by_labels: Cri, ["PodSandboxFilter.label_selector"],
        "A list of pods by labels has those with all of the labels alone";
    filters_of_pods_are_combined: Cri, ["PodSandboxFilter.id", "PodSandboxFilter.state",
        "PodSandboxFilter.label_selector"],
        "A listed pod matches every filter";
    a_listed_container_is_what_was_asked_for: Cri, ["ListContainers", "ListContainersRequest.filter",
        "ListContainersResponse.containers", "Container.id", "Container.pod_sandbox_id", "Container.metadata",
        "Container.image", "Container.image_ref", "Container.image_id", "Container.state", "Container.created_at",
        "Container.labels", "Container.annotations"],
        "A listed container has what its status has",
        containerd: "the list's image_ref is not the status's";
    containers_are_filtered_by_id: Cri, ["ContainerFilter.id"],
        "A list of containers by id has that container alone, and none for an unknown id";
    containers_are_filtered_by_state: Cri, ["ContainerFilter.state", "ContainerStateValue.state"],
        "A list of containers by state has those in that state alone";
    containers_are_filtered_by_pod: Cri, ["ContainerFilter.pod_sandbox_id"],
        "A list of containers by pod has the containers of that pod alone";
    containers_are_filtered_by_labels: Cri, ["ContainerFilter.label_selector"],
        "A list of containers by labels has those with all of the labels alone";
    pods_are_streamed: Cri, ["StreamPodSandboxes", "StreamPodSandboxesRequest.filter",
        "StreamPodSandboxesResponse.pod_sandboxes"],
        "StreamPodSandboxes sends what ListPodSandbox lists, with the same filters";
    containers_are_streamed: Cri, ["StreamContainers", "StreamContainersRequest.filter",
        "StreamContainersResponse.containers"],
        "StreamContainers sends what ListContainers lists, with the same filters";
}

/// The result of ListPodSandbox.
pub async fn pods(cri: &mut Cri, filter: PodSandboxFilter) -> Result<Vec<PodSandbox>> {
    let request = ListPodSandboxRequest { filter: Some(filter) };
    Ok(cri.client.runtime.list_pod_sandbox(request).await?.into_inner().items)
}

/// The result of ListContainers.
pub async fn containers(cri: &mut Cri, filter: ContainerFilter) -> Result<Vec<Container>> {
    let request = ListContainersRequest { filter: Some(filter) };
    Ok(cri.client.runtime.list_containers(request).await?.into_inner().containers)
}

async fn pod_ids(cri: &mut Cri, filter: PodSandboxFilter) -> Result<Vec<String>> {
    Ok(pods(cri, filter).await?.into_iter().map(|pod| pod.id).collect())
}

async fn container_ids(cri: &mut Cri, filter: ContainerFilter) -> Result<Vec<String>> {
    Ok(containers(cri, filter).await?.into_iter().map(|container| container.id).collect())
}

fn of_state(state: PodSandboxState) -> Option<PodSandboxStateValue> {
    Some(PodSandboxStateValue { state: state.into() })
}

fn labels(pairs: &[(&str, &str)]) -> std::collections::HashMap<String, String> {
    pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

async fn a_listed_pod_is_what_was_asked_for(cri: &mut Cri) -> Result<()> {
    let mut config = cri.sandbox();
    config.labels = labels(&[("a", "b"), ("c", "d")]);
    config.annotations = labels(&[("example.org/x", "a\nb")]);
    let pod = cri.run(&config).await?;
    let status = cri.pod_status(&pod.id).await?;
    let filter = PodSandboxFilter { id: pod.id.clone(), ..Default::default() };
    let expected = PodSandbox {
        id: pod.id,
        metadata: config.metadata,
        state: PodSandboxState::SandboxReady.into(),
        created_at: status.created_at,
        labels: config.labels,
        annotations: config.annotations,
        runtime_handler: status.runtime_handler,
    };
    assert_eq!(pods(cri, filter).await?, [expected]);
    Ok(())
}

async fn pods_are_filtered_by_id(cri: &mut Cri) -> Result<()> {
    let (one, _other) = (cri.pod().await?, cri.pod().await?);
    let by_id = |id: &str| PodSandboxFilter { id: id.into(), ..Default::default() };
    assert_eq!(pod_ids(cri, by_id(&one.id)).await?, [one.id]);
    assert!(pod_ids(cri, by_id(&unknown())).await?.is_empty());
    Ok(())
}

async fn pods_are_filtered_by_state(cri: &mut Cri) -> Result<()> {
    let (ready, stopped) = (cri.pod().await?, cri.pod().await?);
    cri.stop_pod(&stopped.id).await?;
    for (state, is, is_not) in [
        (PodSandboxState::SandboxReady, &ready, &stopped),
        (PodSandboxState::SandboxNotready, &stopped, &ready),
    ] {
        let found = pod_ids(cri, PodSandboxFilter { state: of_state(state), ..Default::default() }).await?;
        assert!(found.contains(&is.id) && !found.contains(&is_not.id), "{state:?}: {found:?}");
    }
    Ok(())
}

async fn pods_are_filtered_by_labels(cri: &mut Cri) -> Result<()> {
    let run = unique("run");
    let mut both = cri.sandbox();
    both.labels = labels(&[("run", &run), ("tier", "web")]);
    let mut one = cri.sandbox();
    one.labels = labels(&[("run", &run)]);
    let (both, one) = (cri.run(&both).await?, cri.run(&one).await?);
    let by =
        |pairs: &[(&str, &str)]| PodSandboxFilter { label_selector: labels(pairs), ..Default::default() };
    assert_eq!(pod_ids(cri, by(&[("run", &run), ("tier", "web")])).await?, std::slice::from_ref(&both.id));
    let mut found = pod_ids(cri, by(&[("run", &run)])).await?;
    let mut all = [both.id, one.id];
    found.sort();
    all.sort();
    assert_eq!(found, all);
    assert!(pod_ids(cri, by(&[("run", &run), ("tier", "other")])).await?.is_empty());
    Ok(())
}

async fn filters_of_pods_are_combined(cri: &mut Cri) -> Result<()> {
    let mut config = cri.sandbox();
    config.labels = labels(&[("x", "y")]);
    let pod = cri.run(&config).await?;
    let by = |state, value| PodSandboxFilter {
        id: pod.id.clone(),
        state: of_state(state),
        label_selector: labels(&[("x", value)]),
    };
    assert_eq!(pod_ids(cri, by(PodSandboxState::SandboxReady, "y")).await?, std::slice::from_ref(&pod.id));
    assert!(pod_ids(cri, by(PodSandboxState::SandboxNotready, "y")).await?.is_empty());
    assert!(pod_ids(cri, by(PodSandboxState::SandboxReady, "z")).await?.is_empty());
    Ok(())
}

async fn a_listed_container_is_what_was_asked_for(cri: &mut Cri) -> Result<()> {
    let mut config = cri.shell("exec sleep 1000");
    config.labels = labels(&[("a", "b")]);
    config.annotations = labels(&[("example.org/x", "a\nb")]);
    let (pod, id) = cri.running_as(&config).await?;
    let status = cri.client.status(&id).await?;
    let found = containers(cri, ContainerFilter { id: id.clone(), ..Default::default() }).await?;
    let [listed] = &found[..] else { panic!("{found:?}") };
    assert_eq!((&listed.id, &listed.pod_sandbox_id, &listed.metadata), (&id, &pod.id, &config.metadata));
    assert_eq!((&listed.labels, &listed.annotations), (&config.labels, &config.annotations));
    assert_eq!((listed.state(), listed.created_at), (ContainerState::ContainerRunning, status.created_at));
    assert_eq!(listed.image_id, status.image_id);
    let name = listed.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
    assert!(!name.is_empty() && !listed.image_ref.is_empty() && !listed.image_id.is_empty(), "{listed:?}");
    let (image_ref, should) = (&listed.image_ref, &status.image_ref);
    assert!(image_ref == should, "the list's image_ref is not the status's: {image_ref} for {should}");
    Ok(())
}

async fn containers_are_filtered_by_id(cri: &mut Cri) -> Result<()> {
    let (pod, one) = cri.running().await?;
    let other = cri.shell("true");
    cri.create(&pod, &other).await?;
    let by_id = |id: &str| ContainerFilter { id: id.into(), ..Default::default() };
    assert_eq!(container_ids(cri, by_id(&one)).await?, [one]);
    assert!(container_ids(cri, by_id(&unknown())).await?.is_empty());
    Ok(())
}

async fn containers_are_filtered_by_state(cri: &mut Cri) -> Result<()> {
    let (pod, running) = cri.running().await?;
    let config = cri.shell("true");
    let created = cri.create(&pod, &config).await?;
    let config = cri.shell("true");
    let exited = cri.end(&pod, &config).await?.id;
    for (state, id) in [
        (ContainerState::ContainerCreated, created),
        (ContainerState::ContainerRunning, running),
        (ContainerState::ContainerExited, exited),
    ] {
        let state = Some(ContainerStateValue { state: state.into() });
        let filter = ContainerFilter { state, pod_sandbox_id: pod.id.clone(), ..Default::default() };
        assert_eq!(container_ids(cri, filter).await?, [id], "{state:?}");
    }
    Ok(())
}

async fn containers_are_filtered_by_pod(cri: &mut Cri) -> Result<()> {
    let (pod, one) = cri.running().await?;
    let (_other, _) = cri.running().await?;
    let by_pod = |id: &str| ContainerFilter { pod_sandbox_id: id.into(), ..Default::default() };
    assert_eq!(container_ids(cri, by_pod(&pod.id)).await?, [one]);
    assert!(container_ids(cri, by_pod(&unknown())).await?.is_empty());
    Ok(())
}

async fn containers_are_filtered_by_labels(cri: &mut Cri) -> Result<()> {
    let run = unique("run");
    let pod = cri.pod().await?;
    let mut both = cri.shell("true");
    both.labels = labels(&[("run", &run), ("tier", "web")]);
    let both = cri.create(&pod, &both).await?;
    let mut one = cri.shell("true");
    one.labels = labels(&[("run", &run)]);
    cri.create(&pod, &one).await?;
    let by = |pairs: &[(&str, &str)]| ContainerFilter { label_selector: labels(pairs), ..Default::default() };
    assert_eq!(container_ids(cri, by(&[("run", &run), ("tier", "web")])).await?, [both]);
    assert_eq!(container_ids(cri, by(&[("run", &run)])).await?.len(), 2);
    assert!(container_ids(cri, by(&[("run", "other")])).await?.is_empty());
    Ok(())
}

async fn pods_are_streamed(cri: &mut Cri) -> Result<()> {
    let (one, _other) = (cri.pod().await?, cri.pod().await?);
    let filter = PodSandboxFilter { id: one.id, ..Default::default() };
    let request = ListPodSandboxRequest { filter: Some(filter.clone()) }.encode_to_vec();
    let streamed: ListPodSandboxResponse =
        newer::joined(&cri.client, "RuntimeService", "StreamPodSandboxes", request).await?;
    assert_eq!(streamed.items.len(), 1);
    assert_eq!(streamed.items, pods(cri, filter).await?);
    Ok(())
}

async fn containers_are_streamed(cri: &mut Cri) -> Result<()> {
    let (_pod, one) = cri.running().await?;
    let (_other, _) = cri.running().await?;
    let filter = ContainerFilter { id: one, ..Default::default() };
    let request = ListContainersRequest { filter: Some(filter.clone()) }.encode_to_vec();
    let streamed: ListContainersResponse =
        newer::joined(&cri.client, "RuntimeService", "StreamContainers", request).await?;
    assert_eq!(streamed.containers.len(), 1);
    assert_eq!(streamed.containers, containers(cri, filter).await?);
    Ok(())
}
