//! The listed pods, by id and by the key of equal requests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crisp_executor::ids::PodId;

use crate::config::PodKey;
use crate::pod::Pod;

/// The reason why a text does not identify one pod.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    #[error("no pod has the id {text:?} or one that starts so")]
    None { text: String },
    #[error("{count} pods have ids that start with {text:?}: give more digits")]
    Several { text: String, count: usize },
}

#[derive(Debug, Default)]
pub(crate) struct PodTable(Mutex<Index>);

#[derive(Debug, Default)]
struct Index {
    pods: HashMap<PodId, Arc<Pod>>,
    keys: HashMap<PodKey, PodId>,
}

impl PodTable {
    pub(crate) fn insert(&self, pod: &Arc<Pod>) {
        let mut index = self.index();
        index.pods.insert(pod.id.clone(), pod.clone());
        index.keys.insert(pod.config.key(), pod.id.clone());
    }

    pub(crate) fn remove(&self, pod: &Pod) {
        let mut index = self.index();
        index.pods.remove(&pod.id);
        let key = pod.config.key();
        if index.keys.get(&key) == Some(&pod.id) {
            index.keys.remove(&key);
        }
    }

    pub(crate) fn get(&self, id: &PodId) -> Option<Arc<Pod>> {
        self.index().pods.get(id).cloned()
    }

    pub(crate) fn by_key(&self, key: &PodKey) -> Option<Arc<Pod>> {
        let index = self.index();
        index.pods.get(index.keys.get(key)?).cloned()
    }

    /// The pod whose id is `text` or begins with it.
    pub(crate) fn find(&self, text: &str) -> Result<Arc<Pod>, FindError> {
        let index = self.index();
        if let Some(pod) = PodId::parse(text).ok().and_then(|id| index.pods.get(&id)) {
            return Ok(pod.clone());
        }
        let mut matches = index.pods.values().filter(|p| !text.is_empty() && p.id.as_str().starts_with(text));
        match (matches.next(), matches.count()) {
            (None, _) => Err(FindError::None { text: text.to_owned() }),
            (Some(pod), 0) => Ok(pod.clone()),
            (Some(_), more) => Err(FindError::Several { text: text.to_owned(), count: more + 1 }),
        }
    }

    /// All pods, oldest first.
    pub(crate) fn list(&self) -> Vec<Arc<Pod>> {
        let mut pods: Vec<_> = self.index().pods.values().cloned().collect();
        pods.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        pods
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
