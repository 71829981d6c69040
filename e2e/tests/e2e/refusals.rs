//! Requests that fail: the error names the cause, and nothing is left behind.

use crisp_e2e::{Image, Lab, Layer, Result, needs, request, says};
use k8s_cri::v1::{
    ContainerStatusRequest, ExecSyncRequest, PodSandboxStatusRequest, RemoveContainerRequest,
    RemovePodSandboxRequest, StopContainerRequest, StopPodSandboxRequest,
};
use serde_json::json;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_cannot_start_say_what_is_missing() -> Result<()> {
    needs!("docker-registry", "busybox", "nft");
    let mut lab = Lab::start().await?;
    let mut elf = std::fs::read("/bin/busybox")?;
    elf[18] = 0xb7; // the machine of an ELF header: now aarch64
    let layer = Layer::new()
        .file("script", 0o755, b"#!/usr/bin/absent -x\n")
        .file("foreign", 0o755, &elf)
        .file("plain", 0o644, b"#!/bin/sh\n")
        .file("dynamic", 0o755, &std::fs::read(crisp_skip::program("nft").ok_or("nft is not installed")?)?)
        .folder("folder/", 0o755);
    let image = lab.machine.registry().push("programs", "1", &Image::busybox().layer(layer).build())?;
    lab.client.pull(&image).await?;
    for (program, words) in [
        ("/absent/program", vec!["/absent/program"]),
        ("absent-word", vec!["absent-word", "PATH"]),
        ("/script", vec!["/script", "/usr/bin/absent"]),
        ("/dynamic", vec!["/dynamic", "ld-linux"]),
        ("/foreign", vec!["/foreign", "aarch64"]),
        ("/plain", vec!["/plain", "permission"]),
        ("/folder", vec!["/folder"]),
    ] {
        let name = program.replace('/', "x");
        let status = lab.refused(&name, &request::container("main", &image, &[program])).await?;
        says(&status, &words);
    }
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_that_make_no_sense() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let empty = Image::new().layer(Layer::new().file("a", 0o644, b"")).config("Env", json!([])).build();
    let empty = lab.machine.registry().push("empty", "1", &empty)?;
    lab.client.pull(&empty).await?;
    says(&lab.refused("nothing", &request::container("main", &empty, &[])).await?, &["command"]);
    let mut nameless = lab.shell("true");
    nameless.metadata = None;
    says(&lab.refused("nameless", &nameless).await?, &["metadata"]);
    let never_pulled = request::container("main", "never.test/pulled:1", &["x"]);
    let status = lab.refused("unpulled", &never_pulled).await?;
    says(&status, &["never.test/pulled:1"]);
    assert_eq!(status.code(), Code::NotFound);
    // The same name and attempt mean the same container, also with another config.
    let (sandbox, pod) = lab.pod("twice").await?;
    let first = lab.client.create(&pod, &lab.shell("sleep 9"), &sandbox).await?;
    match lab.client.create(&pod, &lab.shell("sleep 9"), &sandbox).await {
        Ok(second) => assert_eq!(first, second),
        Err(status) => assert_eq!(status.code(), Code::AlreadyExists, "{status}"),
    }
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_make_no_sense() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let base = |name: &str| request::pod(&lab.machine, name);
    let mut hostname = base("hostname");
    hostname.hostname = "not a hostname".into();
    let mut sysctl = base("sysctl");
    sysctl.linux.get_or_insert_default().sysctls.insert("kernel.core_pattern".into(), "|/evil".into());
    let mut smuggled = base("smuggled");
    smuggled
        .linux
        .get_or_insert_default()
        .sysctls
        .insert("net.core.somaxconn".into(), "1\nkernel.x=1".into());
    let mut cgroup = base("cgroup");
    cgroup.linux.get_or_insert_default().cgroup_parent = "/a/../../b".into();
    let mut nameless = base("nameless");
    nameless.metadata = None;
    for (config, words) in [
        (hostname, ["hostname", "not a hostname"]),
        (sysctl, ["sysctl", "kernel.core_pattern"]),
        (smuggled, ["sysctl", "net.core.somaxconn"]),
        (cgroup, ["cgroup", ".."]),
        (nameless, ["metadata", ""]),
    ] {
        let refused = lab.client.run_pod(&config).await.expect_err("makes no sense");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        says(&refused, &words);
    }
    let mut tuned = request::pod(&lab.machine, "tuned");
    tuned.linux.get_or_insert_default().sysctls.insert("net.core.somaxconn".into(), "777".into());
    let pod = lab.client.run_pod(&tuned).await?;
    let id = lab.client.launch(&pod, &lab.shell("cat /proc/sys/net/core/somaxconn"), &tuned).await?;
    lab.client.wait(&id).await?;
    assert_eq!(lab.machine.container_log("tuned", "main")?, "777\n");
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_ids() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let id = "0123456789abcdef".repeat(4);
    let runtime = &mut lab.client.runtime;
    runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await?;
    runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id.clone() }).await?;
    runtime.stop_container(StopContainerRequest { container_id: id.clone(), timeout: 0 }).await?;
    runtime.remove_container(RemoveContainerRequest { container_id: id.clone() }).await?;
    let pod = runtime
        .pod_sandbox_status(PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false })
        .await;
    let container =
        runtime.container_status(ContainerStatusRequest { container_id: id.clone(), verbose: false }).await;
    let exec = runtime
        .exec_sync(ExecSyncRequest { container_id: id.clone(), cmd: vec!["x".into()], timeout: 1 })
        .await;
    for code in [pod.map(drop).unwrap_err(), container.map(drop).unwrap_err(), exec.map(drop).unwrap_err()] {
        assert_eq!(code.code(), Code::NotFound, "{code}");
        says(&code, &[&id]);
    }
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_gets_its_pod_on_the_retry() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let sandbox = request::pod(&lab.machine, "retry");
    for micros in [0, 200, 1_000, 3_000] {
        let mut leaving = lab.machine.client().await?;
        let _ =
            tokio::time::timeout(std::time::Duration::from_micros(micros), leaving.run_pod(&sandbox)).await;
    }
    let first = lab.client.run_pod(&sandbox).await?;
    assert_eq!(first, lab.client.run_pod(&sandbox).await?);
    let list = lab
        .client
        .runtime
        .list_pod_sandbox(k8s_cri::v1::ListPodSandboxRequest::default())
        .await?
        .into_inner();
    assert_eq!(list.items.len(), 1);
    lab.close().await
}
