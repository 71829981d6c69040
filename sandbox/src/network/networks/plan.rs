//! Which networks a pod joins.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Inner;
use crate::network::cni::{Join, NetworkList};
use crate::network::selection::{Selection, is_first, selections};
use crate::network::{INTERFACE, NetworkError, NetworkKind};

/// For the kernel and the disk, beside what plugins may need.
const MARGIN: Duration = Duration::from_secs(30);

/// The networks of one pod.
#[derive(Debug)]
pub(super) struct Plan {
    /// The pod's first network is the built-in one.
    pub built_in: bool,
    /// In order; the first of them is the pod's first where that is not the built-in one.
    pub cni: Vec<Join>,
}

impl Inner {
    /// The network that every pod gets, or what the pod asks for in its place, and then what else it asks for.
    pub(super) fn plan(&self, annotations: &BTreeMap<String, String>) -> Result<Plan, NetworkError> {
        let (firsts, others): (Vec<_>, Vec<_>) = selections(annotations)?.into_iter().partition(is_first);
        let first = match firsts.into_iter().next() {
            Some(selection) => Some(self.join(selection)?),
            None => {
                let selection = |network: &NetworkList| Selection::named(&network.name, INTERFACE);
                self.in_force()?.map(|network| Join { selection: selection(&network), network })
            }
        };
        let built_in = first.is_none();
        let others = others.into_iter().map(|selection| self.join(selection));
        let cni = first.map(Ok).into_iter().chain(others).collect::<Result<_, _>>()?;
        Ok(Plan { built_in, cni })
    }

    fn join(&self, selection: Selection) -> Result<Join, NetworkError> {
        match self.cni.named(&selection.name)? {
            Some(network) => Ok(Join { network, selection }),
            None => Err(NetworkError::Selection {
                value: selection.name,
                why: format!("no usable CNI configuration in {} has this name", self.cni_conf_dir.display()),
            }),
        }
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
