//! What all operations share.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use crisp_executor::cgroup::{CgroupPath, Cgroups};
use crisp_executor::id::ContainerId;
use crisp_image_service::Store;
use crisp_metrics::prometheus::{Histogram, HistogramOpts};
use crisp_metrics::{DURATION_BUCKETS, Metrics, prometheus};
use crisp_sandbox::{Pod, Pods};

use crate::clock;
use crate::config::RuntimeConfig;
use crate::container::Container;
use crate::container::table::{Name, Table};
use crate::error::RuntimeError;
use crate::events::Events;
use crate::health::Health;
use crate::join::Joint;
use crate::layout::Layout;
use crate::spec::host::HostFacts;
use crate::spec::user::Users;
use crate::stage::{Cause, Stages};
use crate::stats::StatsState;

/// The state of one runtime service, behind one `Arc`.
pub struct ServiceState {
    pub config: RuntimeConfig,
    pub layout: Layout,
    pub pods: Pods,
    pub images: Store,
    pub cgroups: Cgroups,
    pub host: HostFacts,
    pub users: Users,
    pub metrics: Metrics,
    pub containers: Table,
    pub events: Events,
    pub(crate) exec_seconds: Histogram,
    /// Names the marks of execs. An earlier server's may still be on somebody: it starts from the clock.
    pub(crate) exec_number: AtomicI64,
    pub(crate) stats: StatsState,
    pub(crate) health: Health,
    pub(crate) creates: Joint<Name, ContainerId>,
    pub(crate) starts: Joint<ContainerId, ()>,
    pub(crate) stops: Joint<(ContainerId, std::time::Duration), ()>,
    pub(crate) removes: Joint<ContainerId, ()>,
}

impl ServiceState {
    pub(crate) fn new(
        config: RuntimeConfig,
        pods: Pods,
        images: Store,
        metrics: &Metrics,
    ) -> Result<Arc<Self>, prometheus::Error> {
        let exec_seconds =
            HistogramOpts::new("crisp_exec_duration_seconds", "How long commands of ExecSync ran.");
        let exec_seconds = Histogram::with_opts(exec_seconds.buckets(DURATION_BUCKETS.to_vec()))?;
        metrics.register(Box::new(exec_seconds.clone()))?;
        Ok(Arc::new(Self {
            exec_seconds,
            exec_number: AtomicI64::new(clock::now()),
            layout: Layout::new(&config.root),
            cgroups: pods.cgroups().clone(),
            pods,
            images,
            host: HostFacts::look(),
            users: Users::default(),
            metrics: metrics.clone(),
            containers: Table::default(),
            events: Events::default(),
            stats: StatsState::default(),
            health: Health::default(),
            creates: Joint::new("create container"),
            starts: Joint::new("start container"),
            stops: Joint::new("stop container"),
            removes: Joint::new("remove container"),
            config,
        }))
    }

    pub(crate) fn stages(&self, operation: &'static str) -> Stages {
        Stages::new(&self.metrics, operation)
    }

    /// The pod that a container belongs to, while the pod exists.
    pub(crate) fn pod_of(&self, container: &Container) -> Option<Arc<Pod>> {
        self.pods.get(&container.metadata.pod)
    }

    /// The file system on which containers write, for clients that look at how full it is.
    pub(crate) fn writable_mountpoint(&self) -> String {
        self.layout.containers().to_string_lossy().into_owned()
    }

    /// Every lookup of a container by what a client wrote.
    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>, RuntimeError> {
        Ok(self.containers.find(id)?)
    }
}

/// One cgroup per container, its id the last component: what cAdvisor looks for.
pub(crate) fn cgroup_path(pod: &Pod, container: &ContainerId) -> Result<CgroupPath, Cause> {
    Ok(pod.cgroup_parent().child(container.as_str())?)
}
