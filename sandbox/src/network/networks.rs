use crisp_executor::id::PodId;

use super::{AttachRequest, Attachment, NetworkConfig, NetworkError};

/// Whether pods can get a network, in the words of the CRI NetworkReady condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkStatus {
    /// Ready.
    pub ready: bool,
    /// One CamelCase word; empty when ready.
    pub reason: String,
    /// For people: which network is in force, or what is wrong with which file or setting.
    pub message: String,
}
/// The network of all pods of one server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Networks {
    config: std::sync::Arc<NetworkConfig>,
}

impl Networks {
    /// Reads the records of attached pods. Makes nothing: the bridge comes with the first pod.
    ///
    /// # Errors
    /// When the settings can't work or the record folders can't be made.
    pub fn open(config: NetworkConfig) -> Result<Self, NetworkError> {
        Ok(Self { config: std::sync::Arc::new(config) })
    }

    /// Gives the pod its network. A failure leaves nothing behind, or names what it left.
    ///
    /// # Errors
    /// Any [`NetworkError`].
    pub async fn attach(&self, request: AttachRequest) -> Result<Attachment, NetworkError> {
        let _ = &self.config;
        let _ = request;
        Err(NetworkError::Interrupted("attach"))
    }

    /// Takes the pod's network away, from the record alone; a pod without one is fine.
    ///
    /// # Errors
    /// What could not be taken away; calling again tries again.
    pub async fn detach(&self, pod: &PodId) -> Result<(), NetworkError> {
        let _ = pod;
        Err(NetworkError::Interrupted("detach"))
    }

    /// What the pod was given, from memory.
    #[must_use]
    pub fn attachment(&self, pod: &PodId) -> Option<Attachment> {
        let _ = pod;
        None
    }

    /// Whether a new pod would get a network. Never waits for a plugin.
    #[must_use]
    pub fn status(&self) -> NetworkStatus {
        NetworkStatus { ready: false, reason: "NotBuilt".to_owned(), message: String::new() }
    }

    /// Detaches every recorded pod that is not in `live`; returns those that were.
    ///
    /// # Errors
    /// The first failure, after all were tried.
    pub async fn gc(&self, live: &[PodId]) -> Result<Vec<PodId>, NetworkError> {
        let _ = live;
        Ok(Vec::new())
    }

    /// Removes the bridge and the packet rules if no pod uses them. For a server that ends without pods.
    ///
    /// # Errors
    /// What could not be removed.
    pub async fn close_if_unused(&self) -> Result<(), NetworkError> {
        Ok(())
    }
}
