//! The shared setup of all pods: bridge and packet rules, made with the first pod, removed after the last.

use std::sync::PoisonError;

use super::bridge::Bridge;
use super::firewall::{FirewallConflict, PodTraffic, conflicts, of_legacy};
use super::iptables_legacy::LegacyRules;
use super::record::{BuiltinRecord, ChosenNetwork};
use super::state::DnsSocket;
use super::{Builtin, forwarding, open_socket, route_socket};
use rustix::io::Errno;

use crate::network::netlink::{Protocol, Socket, rejoin};
use crate::network::nft::{Installed, Limits, Published, Ruleset};
use crate::network::pools::{self, Pools};
use crate::network::{NetlinkError, NetworkError, conntrack};

/// The step that shows whether the kernel has the required features.
const INSTALL: &str = "install (nat, masquerade, fib and conntrack must be in the kernel)";

/// The parts that this process has made or checked. A new process checks them again.
#[derive(Debug, Default)]
pub(super) struct HostSetup {
    pub bridge_checked: bool,
    pub table: Option<Installed>,
    /// The number of transactions when all ports were last seen in the table.
    pub published_at: Option<u32>,
    /// Ports that the last look did not find: those of a pod that comes or goes, or removed ones.
    pub absent: Vec<Published>,
    /// Kept open: closing one makes the kernel wait for everything that was deleted through any of them.
    rules_socket: Option<Socket>,
    pub mtu: Option<u32>,
}

impl HostSetup {
    pub(super) fn rules_socket(&mut self) -> Result<&mut Socket, NetworkError> {
        Ok(match &mut self.rules_socket {
            Some(socket) => socket,
            empty => empty.insert(open_socket(Protocol::Netfilter)?),
        })
    }
}

impl Builtin {
    /// Makes bridge and table where they are missing; returns the bridge's index.
    pub(super) fn ensure(&self, setup: &mut HostSetup, socket: &mut Socket) -> Result<u32, NetworkError> {
        if self.outlived_its_settings() {
            self.reap()?;
            *setup = HostSetup::default();
            self.state().forget_network();
        }
        if self.state().network.is_none() {
            let chosen = self.choose(setup, socket)?;
            self.state().choose(chosen);
        }
        let index = self.ensure_bridge(setup, socket)?;
        self.ensure_table(setup)?;
        Ok(index)
    }

    /// Restores bridge and tables that another program removed, if pods need them.
    pub(in crate::network) fn keep_up(&self) -> Result<(), NetworkError> {
        let mut pruned = Ok(());
        if !self.state().orphans.is_empty() {
            // Their addresses are free again, and changed settings are in force once the last pod is gone.
            pruned = self.prune_orphans();
        }
        if !self.state().is_used() {
            return pruned;
        }
        let mut setup = self.setup.lock().unwrap_or_else(PoisonError::into_inner);
        // Its last pod may have left meanwhile, and the network been removed.
        if !self.state().is_used() {
            return pruned;
        }
        self.look_for_removed_rules(&mut setup)?;
        self.ensure(&mut setup, &mut route_socket()?).map(|_| ()).and(pruned)
    }

    /// Redirects DNS queries of pods to the gateways to these sockets. The port itself stays free for others.
    pub(in crate::network) fn redirect_dns(&self, sockets: Vec<DnsSocket>) -> Result<(), NetworkError> {
        let mut setup = self.setup.lock().unwrap_or_else(PoisonError::into_inner);
        self.state().dns = sockets;
        // An earlier server may have left other sockets in the table.
        setup.table = None;
        self.ensure_table(&mut setup)?;
        let redirected: Vec<Published> = self.state().dns.iter().map(DnsSocket::published).collect();
        forget_flows(setup.rules_socket()?, &redirected);
        Ok(())
    }

    /// Whether its table redirects queries to a responder.
    pub(in crate::network) fn redirects_dns(&self) -> bool {
        !self.state().dns.is_empty()
    }

    /// Whether the network in force differs from the settings and no pod needs it.
    fn outlived_its_settings(&self) -> bool {
        let state = self.state();
        !state.is_used() && state.network.as_ref().is_some_and(|(network, _)| !self.wants(network))
    }

    fn in_use(&self) -> bool {
        let state = self.state();
        state.is_used() || !state.detached.is_empty()
    }

    fn choose(&self, setup: &mut HostSetup, socket: &mut Socket) -> Result<ChosenNetwork, NetworkError> {
        let bridge = Bridge::new(&self.bridge_name, &self.state_dir);
        let pools = self.free_pools(&bridge, socket)?;
        // No pod is on any bridge of this server: a remaining one need not be kept.
        for old in bridge.others(socket)? {
            // The table first: it is found by its bridge.
            delete_table(setup, &Ruleset::new(old.name(), pools, Limits::default()))?;
            old.delete(socket)?;
        }
        if !bridge.serves(socket, &pools)? {
            bridge.delete(socket)?;
        }
        Ok(ChosenNetwork { bridge: self.bridge_name.clone(), pools })
    }

    fn free_pools(&self, bridge: &Bridge, socket: &mut Socket) -> Result<Pools, NetworkError> {
        let candidates = self.candidates();
        if let Some(pool) = candidates.v6.first().filter(|_| !pools::ipv6_is_on()) {
            return Err(NetworkError::NoIpv6((*pool).into()));
        }
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let pools = bridge.free_pools(socket, &candidates, &others)?;
        Ok(Pools { gateway: self.options.addresses.gateway, ..pools })
    }

    fn ensure_bridge(&self, setup: &mut HostSetup, socket: &mut Socket) -> Result<u32, NetworkError> {
        let bridge = self.bridge();
        let Some(pools) = self.state().network.as_ref().map(|(network, _)| network.pools) else {
            return Err(NetworkError::Interrupted("choosing a pool"));
        };
        if let Some(link) = bridge.find(socket)? {
            if !setup.bridge_checked {
                bridge.finish(socket, &pools)?;
                // Ports of an earlier server.
                for veth in self.veths() {
                    forwarding::set_ipv6(&veth, false)?;
                }
                setup.mtu = self.options.mtu.or_else(|| bridge.mtu(socket));
                setup.bridge_checked = true;
            }
            return Ok(link.index);
        }
        let index = bridge.create(socket, &pools)?;
        setup.mtu = self.options.mtu.or_else(|| bridge.mtu(socket));
        setup.bridge_checked = true;
        // The bridge was deleted while pods used it: they are joined to the new one.
        let veths = self.veths();
        let names: Vec<&str> = veths.iter().map(String::as_str).collect();
        let step = || format!("join the pods to bridge {} again", bridge.name());
        rejoin(socket, &names, index, !self.options.icc)
            .map_err(|source| NetworkError::Netlink { step: step(), source })?;
        Ok(index)
    }

    /// The host's ends of all pods' interfaces.
    fn veths(&self) -> Vec<String> {
        let state = self.state();
        state.pods.values().map(|record| record.veth.clone()).chain(state.orphans.keys().cloned()).collect()
    }

    /// Forgets a table of which rules were removed, so that it is installed again. This lists all rules, which takes too
    /// long for each pod.
    fn look_for_removed_rules(&self, setup: &mut HostSetup) -> Result<(), NetworkError> {
        let Some(rules) = self.ruleset() else { return Ok(()) };
        let Some(mut installed) = setup.table.take() else { return Ok(()) };
        if rules.is_intact(setup.rules_socket()?, &mut installed).map_err(self.rules_failed("look up"))? {
            let generation = installed.generation();
            setup.table = Some(installed);
            self.look_for_removed_ports(setup, &rules, generation)
        } else {
            warn_of_removal(&rules);
            Ok(())
        }
    }

    /// Adds ports that two looks have not found: another program has removed them.
    fn look_for_removed_ports(
        &self,
        setup: &mut HostSetup,
        rules: &Ruleset,
        generation: Option<u32>,
    ) -> Result<(), NetworkError> {
        if generation.is_some() && setup.published_at == generation {
            return Ok(());
        }
        let ports = self.all_published();
        let before = std::mem::take(&mut setup.absent);
        let absent = match ports.is_empty() {
            true => Vec::new(),
            false => rules.absent(setup.rules_socket()?, &ports).map_err(self.rules_failed("look up"))?,
        };
        let (removed, new): (Vec<_>, Vec<_>) = absent.into_iter().partition(|port| before.contains(port));
        if !removed.is_empty() {
            warn_of_removal(rules);
            rules.add(setup.rules_socket()?, &removed).map_err(self.rules_failed("publish ports in"))?;
        }
        // A number of transactions with ports missing is not remembered: they are looked for again.
        setup.published_at = generation.filter(|_| removed.is_empty() && new.is_empty());
        setup.absent = new;
        Ok(())
    }

    /// Installs the table, if it is not there.
    fn ensure_table(&self, setup: &mut HostSetup) -> Result<(), NetworkError> {
        let pools = self.state().network.as_ref().map(|(network, _)| network.pools);
        let Some((rules, pools)) = self.ruleset().zip(pools) else { return Ok(()) };
        // Put back when it is there: after an error it is installed again.
        let before = setup.table.take();
        let socket = setup.rules_socket()?;
        if let Some(installed) = before {
            if rules.exists(socket).map_err(self.rules_failed("look up"))? {
                setup.table = Some(installed);
                return Ok(());
            }
            warn_of_removal(&rules);
        }
        let installed = rules.install(socket, &self.all_published()).map_err(self.rules_failed(INSTALL))?;
        setup.table = Some(installed);
        for conflict in self.conflicts(setup, &pools) {
            warn(&self.name, &conflict);
        }
        self.warn_of_legacy_rules();
        Ok(())
    }

    /// On a thread of its own: pods wait for this one.
    fn warn_of_legacy_rules(&self) {
        let Some(pools) = self.state().network.as_ref().map(|(network, _)| network.pools) else { return };
        if !LegacyRules::are_used() {
            return;
        }
        let (rules, name, traffic) = (self.legacy_rules.clone(), self.name.clone(), self.traffic(&pools));
        // Without a thread the status says so.
        let _ = std::thread::Builder::new().spawn(move || {
            for (program, hook) in rules.dropping(&traffic) {
                warn(&name, &of_legacy(program, hook, &traffic.bridge));
            }
        });
    }

    /// Adds a pod's ports to the table.
    pub(super) fn publish(&self, ports: &[Published]) -> Result<(), NetworkError> {
        let mut setup = self.setup.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(rules) = self.ruleset() else { return Ok(()) };
        let socket = setup.rules_socket()?;
        rules.add(socket, ports).map_err(self.rules_failed("publish ports in"))?;
        forget_flows(socket, ports);
        Ok(())
    }

    /// Removes a pod's ports from the table.
    pub(super) fn withdraw(&self, record: &BuiltinRecord) -> Result<(), NetworkError> {
        let mut setup = self.setup.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(rules) = self.ruleset() else { return Ok(()) };
        let socket = setup.rules_socket()?;
        let ports = record.published();
        if rules.remove(socket, &ports).is_ok() {
            forget_flows(socket, &ports);
            return Ok(());
        }
        // The table was flushed, or the pod's ports were never added. In both cases the ports of the other
        // pods are known.
        let others: Vec<Published> = self
            .all_published()
            .into_iter()
            .filter(|port| !record.addresses().any(|ip| ip == port.pod))
            .collect();
        let installed = rules.install(socket, &others).map_err(self.rules_failed("renew"))?;
        forget_flows(socket, &ports);
        setup.table = Some(installed);
        Ok(())
    }

    /// Removes bridge and table if no pod is left; returns `false` when there is one.
    pub(in crate::network) fn close_if_unused(&self) -> Result<bool, NetworkError> {
        self.close(false)
    }

    /// `for_good`: also tables that this process did not make, of a bridge that is gone.
    fn close(&self, for_good: bool) -> Result<bool, NetworkError> {
        self.reap()?;
        self.prune_orphans()?;
        let mut setup = self.setup.lock().unwrap_or_else(PoisonError::into_inner);
        if self.in_use() {
            return Ok(false);
        }
        let bridge = self.bridge();
        let mut socket = route_socket()?;
        // An existing bridge is this server's: find() refuses a bridge of another owner under this name.
        let rules = self.ruleset().or_else(|| self.unused_ruleset());
        if bridge.find(&mut socket)?.is_some() || setup.table.is_some() {
            if let Some(rules) = &rules {
                delete_table(&mut setup, rules)?;
            }
            bridge.delete(&mut socket)?;
        } else if for_good && let Some(rules) = &rules {
            match delete_table(&mut setup, rules) {
                Err(error) if !is_without_tables(&error) => return Err(error),
                _ => {}
            }
        }
        *setup = HostSetup::default();
        self.state().forget_network();
        Ok(true)
    }

    /// Like [`Self::close_if_unused`], and also prevents pods from joining the network later.
    pub(in crate::network) fn close_for_good(&self) -> Result<bool, NetworkError> {
        {
            let mut state = self.state();
            state.closed = !state.is_used();
            if !state.closed {
                return Ok(false);
            }
        }
        // A pod that is being attached has not seen that it is closed.
        let closed = self.close(true);
        if !matches!(closed, Ok(true)) {
            self.state().closed = false;
        }
        closed
    }

    /// The pools that it would use now.
    pub(in crate::network) fn free(&self) -> Result<Pools, NetworkError> {
        self.free_pools(&self.bridge(), &mut route_socket()?)
    }

    /// The present or future network of pods, for people.
    pub(in crate::network) fn status(&self) -> Result<String, NetworkError> {
        let mut socket = route_socket()?;
        let bridge = self.bridge();
        let chosen = self.state().network.as_ref().map(|(network, _)| network.pools);
        let pools = match chosen {
            Some(pools) => bridge.find(&mut socket).map(|_| pools)?,
            None => self.free_pools(&bridge, &mut socket)?,
        };
        let mut message = format!("built-in network on bridge {}, addresses from {pools}", bridge.name());
        if !self.state().network.as_ref().is_none_or(|(network, _)| self.wants(network)) {
            message += ", until its pods are gone: then what is asked for now";
        }
        // Does not wait for a pod that is being attached, which checks this too.
        let Ok(mut setup) = self.setup.try_lock() else { return Ok(message) };
        let rules = Ruleset::new(bridge.name(), pools, self.limits());
        rules.exists(setup.rules_socket()?).map_err(self.rules_failed("look up"))?;
        let mut conflicts = self.conflicts(&mut setup, &pools);
        // Pods must not wait for other programs.
        drop(setup);
        let legacy = self.legacy_rules.dropping(&self.traffic(&pools)).into_iter();
        conflicts.extend(legacy.map(|(program, hook)| of_legacy(program, hook, bridge.name())));
        for conflict in conflicts {
            message += &format!("; {conflict}");
        }
        Ok(message)
    }

    /// Rules in the kernel that drop packets of pods. The result is only advice.
    fn conflicts(&self, setup: &mut HostSetup, pools: &Pools) -> Vec<FirewallConflict> {
        let traffic = self.traffic(pools);
        let found = setup.rules_socket().and_then(|socket| {
            conflicts(socket, &traffic).map_err(self.rules_failed("list the chains beside"))
        });
        found.unwrap_or_else(|error| {
            tracing::debug!(network = self.name, %error, "what a firewall does to pods is not known");
            Vec::new()
        })
    }

    fn traffic(&self, pools: &Pools) -> PodTraffic {
        PodTraffic {
            bridge: self.bridge().name().to_owned(),
            has_ipv6: pools.v6.is_some(),
            is_forwarded: !self.options.internal,
        }
    }

    fn limits(&self) -> Limits {
        Limits { internal: self.options.internal, apart: !self.options.icc }
    }

    pub(super) fn ruleset(&self) -> Option<Ruleset> {
        let limits = self.limits();
        let rules = |(network, _): &(ChosenNetwork, _)| Ruleset::new(&network.bridge, network.pools, limits);
        let rules = self.state().network.as_ref().map(rules)?;
        Some(rules.without_masquerade_to(self.options.masquerade_except.networks()))
    }

    /// A rule set for deleting a table whose pool is unknown.
    fn unused_ruleset(&self) -> Option<Ruleset> {
        let pools = self.candidates().v4.first().map(|pool| Pools { v4: *pool, v6: None, gateway: None });
        pools.map(|pools| Ruleset::new(&self.bridge_name, pools, self.limits()))
    }

    pub(super) fn rules_failed(&self, what: &'static str) -> impl Fn(NetlinkError) -> NetworkError {
        let step = format!("{what} the nf_tables rules of bridge {}", self.bridge().name());
        move |source| NetworkError::Netlink { step: step.clone(), source }
    }
}

fn warn(network: &str, conflict: &FirewallConflict) {
    tracing::warn!(network, "a firewall of this host blocks pods: {conflict}");
}

/// Whether the kernel has no nf_tables, and so no table of ours.
fn is_without_tables(error: &NetworkError) -> bool {
    let NetworkError::Netlink { source: NetlinkError::Refused { errno, .. }, .. } = error else {
        return false;
    };
    matches!(*errno, Errno::OPNOTSUPP | Errno::INVAL | Errno::PROTONOSUPPORT)
}

fn delete_table(setup: &mut HostSetup, rules: &Ruleset) -> Result<(), NetworkError> {
    let socket = setup.rules_socket()?;
    let failed = |source| NetworkError::Netlink { step: "remove the nf_tables rules".to_owned(), source };
    rules.delete(socket).map_err(failed)
}

/// Best effort: without it, only senders that keep sending from one port reach the wrong pod.
fn forget_flows(socket: &mut Socket, ports: &[Published]) {
    if let Err(error) = conntrack::forget(socket, ports) {
        tracing::debug!(%error, "old flows to published UDP ports are not forgotten");
    }
}

fn warn_of_removal(rules: &Ruleset) {
    let table = rules.name();
    tracing::warn!(
        table,
        "another program removed packet rules of pods, which are installed again: it must leave tables of this name alone"
    );
}
