//! The operation kernel of the server: the one way to run stages and undo them, to join equal requests, to
//! exclude operations on the same object, to write a record, and to tell the time.
//!
//! ```text
//!  RPC ──> SingleFlight ──> KeyedLocks ──> Operation ──> stage ──> stage ──> stage fails
//!          equal requests   one at a time              undo <──  undo <──────┘
//!          are one          per pod, container         last registered, first run
//! ```
//!
//! Cast: [`Operation`] runs named stages, each with a deadline and timed in the metrics, and undoes them in
//! reverse when one fails; [`Steps`] are blocking stages that share one thread; [`SingleFlight`] joins equal
//! requests; [`KeyedLocks`] excludes operations on the same pod or container; [`record`] writes versioned
//! records; [`tree`] deletes folders of any depth; [`StatusCell`] holds a status in memory and keeps its
//! record equal to it; [`fault`] kills, fails or hangs any stage in test builds; [`clock`] has the time and
//! the boot id; [`parse_duration`] parses durations. While an operation is under way it is in the list of
//! [`crisp_metrics::Operations`], with its stage and what it [waits for](waits_for). For a request that is traced,
//! operations, stages and undo steps are [spans](crisp_metrics::trace), and tasks that are made here go on in the
//! trace of their request.
//!
//! Rules that hold everywhere:
//! - A stage whose deadline passes is stopped by its [`Cancel`] token, which blocking work checks between
//!   system calls.
//! - An undo step is registered before the work that it undoes, and never runs at the same time as that work:
//!   when a thread hangs in the kernel, the undo waits for it in the background and the operation keeps all
//!   that it [holds](Operation::hold).
//! - An undo step is never abandoned: a step that misses its deadline continues in the background, and the
//!   steps after it wait for it.
//! - Every failure names the operation, the subject and the stage, and contains the failures of the undo.
//!
//! ```
//! # use std::time::Duration;
//! # use crisp_operation::{Interrupted, Operation};
//! #[derive(Debug, thiserror::Error)]
//! enum Cause {
//!     #[error("{0}")]
//!     Io(#[from] std::io::Error),
//!     #[error("{0}")]
//!     Interrupted(#[from] Interrupted),
//! }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let metrics = crisp_metrics::Metrics::new("0.1.0").unwrap();
//! let folder = std::env::temp_dir().join(format!("crisp-operation-{}", std::process::id()));
//! let operation = Operation::<Cause>::new(&metrics, "create_folder", "folder x");
//! let made = folder.clone();
//! let result = operation
//!     .blocking(Duration::from_secs(5), move |steps| {
//!         let undo = made.clone();
//!         steps.undo("folder", move || Ok(std::fs::remove_dir(&undo)?));
//!         steps.step("folder", || Ok(std::fs::create_dir(&made)?))?;
//!         steps.step("check", || Err(std::io::Error::other("no space for more").into()))
//!     })
//!     .await;
//! let failure = operation.finish::<()>(result).await.unwrap_err();
//! assert_eq!(failure.to_string(), "folder x: create_folder: stage check: no space for more");
//! assert!(!folder.exists());
//! # }
//! ```

#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod cancel;
pub mod clock;
mod duration;
mod failure;
pub mod fault;
mod flight;
mod lock;
mod operation;
pub mod record;
mod status;
pub mod tree;
mod undo;
mod waits;

pub use cancel::{Cancel, Interrupted};
pub use duration::parse_duration;
pub use failure::{Failure, StageFailure};
pub use flight::{Flight, SingleFlight, detached};
pub use lock::{Busy, KeyedGuard, KeyedLocks};
pub use operation::{Operation, Stage, Steps};
pub use status::{StatusCell, StatusError};
pub use waits::{of_this_operation, waits_for};
