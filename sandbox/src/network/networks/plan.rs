//! Chooses the networks that a pod joins.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Inner;
use crate::network::builtin::{Builtin, DEFAULT};
use crate::network::cni::{Join, NetworkList};
use crate::network::selection::{Selection, is_first, is_none, selections};
use crate::network::{INTERFACE, NetworkError, NetworkKind};

/// Time for the kernel and the disk, in addition to plugins.
const MARGIN: Duration = Duration::from_secs(30);

/// The networks of one pod, in order for each kind.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub built_in: Vec<(Arc<Builtin>, Selection)>,
    pub cni: Vec<Join>,
    /// Whether the first CNI network is the pod's first network.
    pub cni_is_first: bool,
}

impl Plan {
    /// Whether the pod has only the loopback interface.
    pub(super) fn is_none(&self) -> bool {
        self.built_in.is_empty() && self.cni.is_empty()
    }
}

impl Inner {
    /// The default network or its replacement by the pod, followed by the pod's other networks.
    pub(super) fn plan(&self, annotations: &BTreeMap<String, String>) -> Result<Plan, NetworkError> {
        let selections = selections(annotations)?;
        let mut plan = Plan::default();
        if selections.iter().any(is_none) {
            return Ok(plan);
        }
        let (firsts, others): (Vec<_>, Vec<_>) = selections.into_iter().partition(is_first);
        match firsts.into_iter().next() {
            Some(selection) => self.add(&mut plan, selection)?,
            None => match self.in_force()? {
                Some(network) => {
                    let selection = Selection::named(&network.name, INTERFACE);
                    plan.cni.push(Join { network, selection });
                }
                None => {
                    let selection = Selection::named(DEFAULT, INTERFACE);
                    plan.built_in.push((Arc::clone(&self.builtins.default), selection));
                }
            },
        }
        plan.cni_is_first = plan.built_in.is_empty();
        for selection in others {
            self.add(&mut plan, selection)?;
        }
        Ok(plan)
    }

    fn add(&self, plan: &mut Plan, selection: Selection) -> Result<(), NetworkError> {
        if let Some(network) = self.builtins.get(&selection.name) {
            if plan.built_in.iter().any(|(other, _)| other.name() == network.name()) {
                let why = "a pod is in a built-in network once at most".to_owned();
                return Err(NetworkError::Selection { value: selection.name, why });
            }
            plan.built_in.push((network, selection));
            return Ok(());
        }
        let Some(network) = self.cni.named(&selection.name)? else {
            let dir = self.cni_conf_dir.display();
            let why =
                format!("no network that was made has this name, and no usable CNI configuration in {dir}");
            return Err(NetworkError::Selection { value: selection.name, why });
        };
        plan.cni.push(Join { network, selection });
        Ok(())
    }

    /// The CNI network of a new pod; `None` when it gets the built-in one.
    pub(super) fn in_force(&self) -> Result<Option<Arc<NetworkList>>, NetworkError> {
        match self.kind {
            NetworkKind::BuiltIn => Ok(None),
            NetworkKind::CniOrBuiltIn => self.cni.current(),
            NetworkKind::Cni => {
                let missing = || NetworkError::NoCniConfig { dir: self.cni_conf_dir.clone() };
                self.cni.current()?.ok_or_else(missing).map(Some)
            }
        }
    }

    /// An upper bound for attaching the pod when each plugin uses its full time, and for undoing that.
    pub(super) fn time_of_attach(&self, annotations: &BTreeMap<String, String>) -> Duration {
        // A plan that fails takes no time.
        let joins = self.plan(annotations).map(|plan| plan.cni).unwrap_or_default();
        MARGIN + joins.iter().map(|join| self.cni.time_of(&join.network) * 2).sum::<Duration>()
    }
}
