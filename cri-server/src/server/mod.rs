//! The server: all services of the CRI together.
//!
//! ```text
//!  serve.rs  socket, signals -----.
//!                                 v
//!  open.rs   Settings --> Server { metrics, images, pods, runtime }
//!                                 ^
//!  run/embedded.rs  (crisp run) --'
//! ```

mod deadline;
mod folder;
pub mod layout;
mod lock;
mod log_service;
mod memory;
mod metrics_access;
mod networks;
mod notify;
mod oom_score;
mod open;
mod open_files;
pub mod reload;
mod rpc;
pub mod serve;
pub mod socket;
mod socket_group;

pub use lock::LockError;
pub use metrics_access::metrics_access;
pub use open::Server;
