//! Resolver settings of the host.

use crisp_proto::runtime::v1::DnsConfig;
use crisp_sandbox::Dns;

/// The host's resolver settings, for a pod on the host's network or on its own: there, only the servers that the
/// pod can reach.
pub fn host_dns(is_host_network: bool) -> DnsConfig {
    let host = if is_host_network { crisp_sandbox::host_dns() } else { crisp_sandbox::host_dns_of_pods() };
    let Dns { servers, searches, options } = host;
    DnsConfig { servers, searches, options }
}
