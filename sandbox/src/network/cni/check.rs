//! CHECK: verifies that the networks of pods are intact.

use crisp_executor::ids::PodId;

use super::Cni;
use super::call::passes_result_on;
use super::exec::Verb;
use crate::network::NetworkError;

impl Cni {
    /// Calls the plugins of the pod's networks. Stops at the first error.
    pub(in crate::network) async fn check(&self, pod: &PodId) -> Result<(), NetworkError> {
        let Some(record) = self.records().get(pod).cloned() else { return Ok(()) };
        for joined in record.joined() {
            let network = &joined.network;
            let Some(result) = &joined.result else { continue };
            if network.disable_check || !passes_result_on(network) {
                continue;
            }
            for plugin in &network.plugins {
                self.call(&record, joined, plugin, Verb::Check, Some(result)).await?;
            }
        }
        Ok(())
    }
}
