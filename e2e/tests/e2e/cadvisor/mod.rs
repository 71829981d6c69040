//! The `container_*` series and the stats of a pod, compared with those of a kubelet with containerd.

mod compare;
mod disk;
mod reasons;
mod summary;
mod table;
mod workload;

use std::collections::BTreeSet;
use std::path::Path;

use crisp_e2e::containerd::Cri;
use crisp_e2e::exposition::Sample;
use crisp_e2e::programs::{self, KUBELET, LIBSECCOMP};
use crisp_e2e::{Image, Machine, Result, Setup, free_port, needs};
use serde_json::json;

use self::reasons::HostKind;
use self::workload::CONTAINERS;

#[tokio::test(flavor = "multi_thread")]
async fn series_are_those_of_a_kubelet_with_containerd() -> Result<()> {
    let host_kind = HostKind::of_this();
    // The table of cgroup v1 is of a host with v2 beside it for the pressure.
    if host_kind == HostKind::V1 {
        if !Path::new("/sys/fs/cgroup/memory").exists() {
            crisp_skip::unsupported!(CgroupV1("memory"));
        }
        if !Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists() || !Path::new("/proc/pressure").exists()
        {
            crisp_skip::unsupported!(Device("/sys/fs/cgroup/unified, with pressure"));
        }
    }
    needs!("docker-registry", "busybox", "curl", Cri::PLUGIN);
    if !programs::can_build(&[&Cri::PROGRAMS[..], &[KUBELET]].concat()) {
        needs!("go", "gcc", "pkg-config", LIBSECCOMP);
    }
    let host = format!("127.0.0.1:{}", free_port()?);
    let setup = Setup { args: vec!["--metrics-listen".into(), host.clone()], ..Default::default() };
    let machine = Machine::start_with(setup).await?;
    let image = machine.registry().push("busybox", "1", &Image::busybox().build())?;
    let pause = Image::busybox().config("Cmd", json!(["sleep", "1000000"])).build();
    let pause = machine.registry().push("pause", "1", &pause)?;

    if host_kind == HostKind::V1 && !disk::count_requests(machine.folder())? {
        crisp_skip::unsupported!(FileSystem("a disk"));
    }
    let theirs = workload::on_containerd(Cri::start(&pause)?, &image).await?;
    let ours = workload::on_crisp(machine, &host, &image).await?;

    assert_eq!(containers(&theirs.kubelet), containers(&ours.own), "names and images of containers");
    assert_eq!(series(&ours.kubelet), series(&ours.own), "a kubelet's series, and those of the server");
    let comparison = compare::compare(&theirs.kubelet, &ours.own);
    let reasons: Vec<_> = reasons::REASONS.iter().filter(|reason| reason.is_of(host_kind)).collect();
    let (table, problems) = table::table(&comparison, host_kind, &reasons);
    assert!(problems.is_empty(), "{}\n{table}", problems.join("\n"));
    table::is_documented(&table, host_kind);
    summary::is_full(&ours.summary);
    summary::lacks_nothing(&theirs.summary, &ours.summary);
    Ok(())
}

/// Name, image, namespace and pod of the containers; and that the cgroup's path ends with the id.
fn containers(samples: &[Sample]) -> BTreeSet<([&str; 4], bool)> {
    let of_containers = samples.iter().filter(|sample| CONTAINERS.contains(&sample.label("container")));
    let labels = ["container", "image", "namespace", "pod"];
    of_containers
        .map(|sample| {
            let end = format!("/pod{}/{}", workload::UID, sample.label("name"));
            (labels.map(|name| sample.label(name)), sample.label("id").ends_with(&end))
        })
        .collect()
}

/// Names, types and labels.
fn series(samples: &[Sample]) -> BTreeSet<String> {
    samples.iter().map(|sample| format!("{} {} {:?}", sample.family, sample.kind, sample.labels)).collect()
}
