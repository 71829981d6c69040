//! Makes a server from settings; it only needs a socket then.

use anyhow::{Context as _, bail};
use crisp_executor::cgroup::Cgroups;
use crisp_image_service::{ImageConfig, ImageService, Limits};
use crisp_metrics::Metrics;
use crisp_runtime_service::{LiveConfig, LogLimits, RuntimeConfig, RuntimeService};
use crisp_sandbox::network::{NetworkConfig, NetworkKind, Networks};
use crisp_sandbox::spawn::MonitorBinary;
use crisp_sandbox::systemd::{NoSystemd, Systemd};
use crisp_sandbox::{Pods, SandboxConfig};
use crisp_streaming::{StreamConfig, StreamServer};

use super::lock::FolderLock;
use super::{folder, layout, open_files};
use crate::config::{self, CgroupDriver, Settings};

/// The monitor's program, built by build.rs.
const MONITOR: &[u8] = include_bytes!(env!("CRISP_POD"));

/// The CRI services and the state that they share.
pub struct Server {
    pub metrics: Metrics,
    pub images: ImageService,
    pub pods: Pods,
    pub runtime: RuntimeService,
    pub streams: StreamServer,
    _locks: [FolderLock; 2],
}

impl Server {
    /// Locks the folders, recovers what an earlier server left in them, and is ready to serve.
    ///
    /// # Errors
    /// A folder is in use or cannot be used, or the host lacks something that pods need.
    pub async fn open(settings: &Settings) -> anyhow::Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("running pods needs root: namespaces, mounts and cgroups are not given to others");
        }
        open_files::raise_limit();
        // Files with the usual modes then need no chmod when layers are unpacked, and the modes of new files
        // do not depend on the shell or unit that started the server.
        rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
        let (root, state) = (&settings.root.value, &settings.state.value);
        folder::make_private(root)?;
        folder::make_private(state)?;
        let locks = [FolderLock::take(state)?, FolderLock::take(root)?];

        let metrics = Metrics::new(env!("CARGO_PKG_VERSION"))?;
        let images = ImageService::open(
            ImageConfig {
                root: root.clone(),
                state: Some(state.clone()),
                registry_config_dir: Some(settings.registry_config_dir.value.clone()),
                limits: Limits {
                    bytes: settings.max_layer_bytes.value,
                    inodes: settings.max_layer_files.value,
                    ..Limits::default()
                },
                check_interval: settings.image_check_interval.value,
                ..ImageConfig::default()
            },
            &metrics,
        )
        .await
        .context("cannot open the images")?;
        let cgroups = Cgroups::detect().context("cannot use this host's cgroups")?;
        let systemd = systemd(settings, &cgroups).await?;
        let networks = Networks::open(&network(settings)).context("cannot open the pod network")?;
        let sandboxes = SandboxConfig {
            root: root.clone(),
            state: state.clone(),
            monitor: MonitorBinary::new(MONITOR)?,
            cgroups,
            systemd,
            networks,
        };
        let pods = Pods::open(sandboxes, &metrics).await.context("cannot open the pods")?;
        let streams = streams(settings)?;
        let streams =
            StreamServer::open(&streams).await.context("cannot serve exec, attach and port-forward")?;
        let runtime = RuntimeConfig {
            root: root.clone(),
            cdi_spec_dirs: settings.cdi_spec_dir.value.clone(),
            live: live(settings),
        };
        let runtime = RuntimeService::new(runtime, pods.clone(), images.clone(), streams.clone(), &metrics)
            .await
            .context("cannot open the containers")?;
        // By now containers have the leases of their layers again.
        if let Err(error) = images.start_collection().await {
            tracing::warn!(%error, "cannot delete image layers that nothing uses");
        }
        Ok(Self { metrics, images, pods, runtime, streams, _locks: locks })
    }
}

/// The settings that a running server takes anew.
pub(super) fn live(settings: &Settings) -> LiveConfig {
    let (size, files) = (settings.container_log_max_size.value, settings.container_log_max_files.value);
    let log_limits = (size > 0).then_some(LogLimits { size, files });
    LiveConfig { exec_grace: settings.exec_grace.value, log_limits }
}

/// None for the cgroupfs driver.
async fn systemd(settings: &Settings, cgroups: &Cgroups) -> anyhow::Result<Option<Systemd>> {
    let setting = &settings.cgroup_driver;
    match setting.value {
        CgroupDriver::Cgroupfs => Ok(None),
        CgroupDriver::Systemd => {
            let systemd = Systemd::detect(cgroups).await;
            systemd.map(Some).context("the setting cgroup-driver = systemd cannot be used here")
        }
        CgroupDriver::Auto => match Systemd::detect(cgroups).await {
            Ok(systemd) => Ok(Some(systemd)),
            Err(
                why @ (NoSystemd::Unreachable(_) | NoSystemd::OtherPids { .. } | NoSystemd::OtherTree { .. }),
            ) => {
                tracing::warn!(%why, "the cgroup driver is cgroupfs, on a host whose init is systemd");
                Ok(None)
            }
            Err(why @ (NoSystemd::NotInit { .. } | NoSystemd::NotV2)) => {
                tracing::debug!(%why, "the cgroup driver is cgroupfs");
                Ok(None)
            }
        },
    }
}

fn streams(settings: &Settings) -> anyhow::Result<StreamConfig> {
    let tls = match (&settings.stream_cert.value, &settings.stream_key.value) {
        (Some(chain), Some(key)) => Some((chain.clone(), key.clone())),
        (None, None) => None,
        _ => bail!("stream-cert and stream-key belong together: set both or none"),
    };
    Ok(StreamConfig { listen: settings.stream_listen.value, tls, ..StreamConfig::default() })
}

fn network(settings: &Settings) -> NetworkConfig {
    NetworkConfig {
        kind: match settings.network.value {
            config::NetworkKind::Auto | config::NetworkKind::Cni => NetworkKind::Cni,
            config::NetworkKind::BuiltIn => NetworkKind::BuiltIn,
            config::NetworkKind::CniOrBuiltIn => NetworkKind::CniOrBuiltIn,
        },
        cni_conf_dir: settings.cni_conf_dir.value.clone(),
        cni_bin_dirs: settings.cni_bin_dir.value.clone(),
        pod_cidrs: settings.pod_cidr.value.clone(),
        pod_cidrs_v6: settings.pod_cidr_v6.value.clone(),
        masquerade_except: settings.masquerade_except.value.clone(),
        cni_gc: settings.cni_gc.value,
        cni_conf_template: settings.cni_conf_template.value.clone(),
        cni_deadline: settings.cni_timeout.value,
        cni_check_interval: settings.cni_check_interval.value,
        cni_cache_dir: layout::network(&settings.root.value),
        bridge_name: settings.bridge_name.value.clone(),
        state_dir: layout::network(&settings.state.value),
        root_dir: layout::network(&settings.root.value),
        ..NetworkConfig::default()
    }
}
