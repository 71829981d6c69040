//! How a pod in the foreground shows what its containers write.

use std::sync::{Arc, Mutex};

use super::streams::Streams;
use crate::progress::Bars;

/// One pod's part of the screen.
#[derive(Clone)]
pub struct Screen {
    /// Before the names of containers, where there are several pods.
    pub prefix: String,
    /// Of the longest name.
    pub width: usize,
    /// Number of the pod's first container on this screen: containers differ by colour.
    pub first: usize,
    /// Pulls, of all pods together.
    pub bars: Option<Arc<Mutex<Bars>>>,
    /// Of the one container of a `crisp run IMAGE`, which has the screen for itself.
    pub streams: Option<Arc<Streams>>,
}
