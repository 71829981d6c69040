//! Which networks a pod joins.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Inner;
use crate::network::builtin::{Builtin, DEFAULT};
use crate::network::cni::{Join, NetworkList};
use crate::network::selection::{Selection, is_first, selections};
use crate::network::{INTERFACE, NetworkError, NetworkKind};

/// For the kernel and the disk, beside what plugins may need.
const MARGIN: Duration = Duration::from_secs(30);

/// The networks of one pod: those of each kind in order.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub built_in: Vec<(Arc<Builtin>, Selection)>,
    pub cni: Vec<Join>,
    /// The first of these is the pod's first network.
    pub cni_is_first: bool,
}

impl Inner {
    /// The network that every pod gets, or what the pod asks for in its place, and then what else it asks for.
    pub(super) fn plan(&self, annotations: &BTreeMap<String, String>) -> Result<Plan, NetworkError> {
        let (firsts, others): (Vec<_>, Vec<_>) = selections(annotations)?.into_iter().partition(is_first);
        let mut plan = Plan::default();
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

    /// The CNI network that a new pod gets; `None` when it gets the built-in one.
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

    /// Above what attaching the pod takes with plugins that each use up their time, and so does taking it back.
    pub(super) fn time_of_attach(&self, annotations: &BTreeMap<String, String>) -> Duration {
        // A plan that fails takes no time.
        let joins = self.plan(annotations).map(|plan| plan.cni).unwrap_or_default();
        MARGIN + joins.iter().map(|join| self.cni.time_of(&join.network) * 2).sum::<Duration>()
    }
}
