//! All containers, by id (or the beginning of one) and by name.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use crisp_executor::ids::{ContainerId, PodId};

use super::Container;
use super::config::ContainerConfig;
use super::status::Status;

/// The parts of a request that identify a container when a client repeats it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name {
    pub pod: PodId,
    pub name: String,
    pub attempt: u32,
}

impl Name {
    #[must_use]
    pub fn new(pod: &PodId, config: &ContainerConfig) -> Self {
        Self { pod: pod.clone(), name: config.name.clone(), attempt: config.attempt }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} (attempt {}) of pod {}", self.name, self.attempt, self.pod.short())
    }
}

/// The reason why no container was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    #[error("no container has the id {0:?} or one that begins so")]
    Unknown(String),
    #[error("more than one container has an id that begins with {0:?}: give more digits")]
    Ambiguous(String),
}

/// Locks are held for a map operation only.
#[derive(Debug, Default)]
pub struct Table {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_id: BTreeMap<String, Arc<Container>>,
    by_name: HashMap<Name, Arc<Container>>,
}

impl Table {
    pub fn insert(&self, container: Arc<Container>) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.by_name.insert(container.name(), container.clone());
        inner.by_id.insert(container.id().as_str().to_owned(), container);
    }

    pub fn remove(&self, id: &ContainerId) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(container) = inner.by_id.remove(id.as_str()) {
            let name = container.name();
            // A recovered container with the same name may have replaced it.
            if inner.by_name.get(&name).is_some_and(|c| c.id() == id) {
                inner.by_name.remove(&name);
            }
        }
    }

    /// By whole id or by the beginning of exactly one.
    ///
    /// # Errors
    /// [`LookupError`].
    pub fn find(&self, id: &str) -> Result<Arc<Container>, LookupError> {
        if id.is_empty() {
            return Err(LookupError::Unknown(String::new()));
        }
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let mut matching = inner.by_id.range(id.to_owned()..).take_while(|(known, _)| known.starts_with(id));
        match (matching.next(), matching.next()) {
            (None, _) => Err(LookupError::Unknown(id.chars().take(80).collect())),
            (Some((_, container)), None) => Ok(container.clone()),
            (Some((known, container)), Some(_)) if known == id => Ok(container.clone()),
            (Some(_), Some(_)) => Err(LookupError::Ambiguous(id.to_owned())),
        }
    }

    #[must_use]
    pub fn get(&self, id: &ContainerId) -> Option<Arc<Container>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).by_id.get(id.as_str()).cloned()
    }

    #[must_use]
    pub fn named(&self, name: &Name) -> Option<Arc<Container>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).by_name.get(name).cloned()
    }

    /// All, in the order of their ids.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Container>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).by_id.values().cloned().collect()
    }

    /// The containers of a pod, each with its status now.
    #[must_use]
    pub fn statuses_of_pod(&self, pod: &PodId) -> Vec<(Arc<Container>, Arc<Status>)> {
        let with_status = |container: Arc<Container>| {
            let status = container.status();
            (container, status)
        };
        self.of_pod(pod).into_iter().map(with_status).collect()
    }

    #[must_use]
    pub fn of_pod(&self, pod: &PodId) -> Vec<Arc<Container>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.by_id.values().filter(|c| c.metadata.pod == *pod).cloned().collect()
    }
}
