//! Counters of the interfaces of a pod.

use crisp_sandbox::network::InterfaceCounters;

use super::family::Kind::Counter;
use super::family::{Family, Samples, Value};

const RECEIVED_BYTES: Family = Family {
    name: "container_network_receive_bytes_total",
    help: "Bytes received.",
    kind: Counter,
    labels: &["interface"],
};
const RECEIVED_PACKETS: Family = Family {
    name: "container_network_receive_packets_total",
    help: "Packets received.",
    kind: Counter,
    labels: &["interface"],
};
const RECEIVED_DROPPED: Family = Family {
    name: "container_network_receive_packets_dropped_total",
    help: "Packets dropped that were to be received.",
    kind: Counter,
    labels: &["interface"],
};
const RECEIVED_ERRORS: Family = Family {
    name: "container_network_receive_errors_total",
    help: "Packets not received for an error.",
    kind: Counter,
    labels: &["interface"],
};
const SENT_BYTES: Family = Family {
    name: "container_network_transmit_bytes_total",
    help: "Bytes sent.",
    kind: Counter,
    labels: &["interface"],
};
const SENT_PACKETS: Family = Family {
    name: "container_network_transmit_packets_total",
    help: "Packets sent.",
    kind: Counter,
    labels: &["interface"],
};
const SENT_DROPPED: Family = Family {
    name: "container_network_transmit_packets_dropped_total",
    help: "Packets dropped that were to be sent.",
    kind: Counter,
    labels: &["interface"],
};
const SENT_ERRORS: Family = Family {
    name: "container_network_transmit_errors_total",
    help: "Packets not sent for an error.",
    kind: Counter,
    labels: &["interface"],
};

pub(super) const FAMILIES: &[Family] = &[
    RECEIVED_BYTES,
    RECEIVED_PACKETS,
    RECEIVED_DROPPED,
    RECEIVED_ERRORS,
    SENT_BYTES,
    SENT_PACKETS,
    SENT_DROPPED,
    SENT_ERRORS,
];

/// Prefixes of interfaces whose traffic is counted on other interfaces too: cAdvisor leaves them out.
const LEFT_OUT: [&str; 4] = ["lo", "veth", "docker", "nerdctl"];

pub(super) fn usage(name: &str, counters: &InterfaceCounters, samples: &mut impl Samples) {
    if LEFT_OUT.iter().any(|beginning| name.to_lowercase().starts_with(beginning)) {
        return;
    }
    for (family, count) in [
        (&RECEIVED_BYTES, counters.rx_bytes),
        (&RECEIVED_PACKETS, counters.rx_packets),
        (&RECEIVED_DROPPED, counters.rx_dropped),
        (&RECEIVED_ERRORS, counters.rx_errors),
        (&SENT_BYTES, counters.tx_bytes),
        (&SENT_PACKETS, counters.tx_packets),
        (&SENT_DROPPED, counters.tx_dropped),
        (&SENT_ERRORS, counters.tx_errors),
    ] {
        samples.add(family, &[name], Value::Count(count));
    }
}
