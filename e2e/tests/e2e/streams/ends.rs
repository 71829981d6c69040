//! Containers and pods that end while sessions are open: every client sees the end.

use std::time::{Duration, Instant};

use crisp_e2e::pod_server::{PodServer, Service};
use crisp_e2e::session::{Channel, Forward, ForwardProtocol, Protocol};
use crisp_e2e::{Lab, Result, needs};
use k8s_cri::v1::{RemovePodSandboxRequest, StopContainerRequest, StopPodSandboxRequest};

use super::protocols::{PIPES, TERMINAL, exec, forward_url};

#[tokio::test(flavor = "multi_thread")]
async fn commands_end_with_their_container_over_every_usual_protocol() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("container-ends").await?;
    let id = lab.client.launch(&pod, &lab.shell("exec sleep 1000"), &sandbox).await?;
    let mut sessions = Vec::new();
    for protocol in Protocol::USUAL {
        for streams in [PIPES, TERMINAL] {
            let mut process = exec(&mut lab, &id, "echo up; exec sleep 1000", protocol, streams).await?;
            process.until(|process| process.text(Channel::Stdout).trim() == "up")?;
            sessions.push((protocol, streams, process));
        }
    }
    lab.client.runtime.stop_container(StopContainerRequest { container_id: id, timeout: 0 }).await?;
    for (protocol, streams, mut process) in sessions {
        let code = process.exit_code().map_err(|error| format!("{protocol:?}, {streams:?}: {error}"))?;
        assert_eq!(code, 137, "{protocol:?}, {streams:?}");
    }
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarded_connections_end_with_their_pod_over_every_protocol() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    for is_removed in [false, true] {
        let (_, pod) = lab.pod(if is_removed { "pod-removed" } else { "pod-stopped" }).await?;
        let server = PodServer::start(&lab.machine, &pod, 8080, Service::Echo)?;
        let mut sessions = Vec::new();
        for protocol in ForwardProtocol::ALL {
            let mut forward = Forward::open(&forward_url(&mut lab, &pod, 8080).await?, protocol, 8080)?;
            forward.send(b"hello")?;
            forward.until(|forward| forward.data() == b"hello")?;
            sessions.push((protocol, forward));
        }
        let pod_sandbox_id = pod.clone();
        if is_removed {
            lab.client.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id }).await?;
        } else {
            lab.client.runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id }).await?;
        }
        for (protocol, mut forward) in sessions {
            forward.until_closed().map_err(|error| format!("{protocol:?}, {is_removed}: {error}"))?;
        }
        let ended = Instant::now();
        while server.open() > 0 {
            assert!(ended.elapsed() < Duration::from_secs(60), "{} connections are open", server.open());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    lab.close().await
}
