//! Operations on pods, one per file. Undoing a failed start, stopping, and cleaning up after a crash use the
//! same [`teardown`] steps, which only need the record and can be repeated.

pub(crate) mod monitor_probe;
pub(crate) mod monitor_process;
pub(crate) mod monitor_start;
pub(crate) mod network_collect;
pub(crate) mod network_connect;
pub(crate) mod network_upkeep;
pub(crate) mod pod_joined;
pub(crate) mod pod_recover;
pub(crate) mod pod_remove;
pub(crate) mod pod_run;
pub(crate) mod pod_stop;
pub(crate) mod pod_unreadable;
pub(crate) mod pod_update;
pub(crate) mod pod_watch;
pub(crate) mod teardown;
