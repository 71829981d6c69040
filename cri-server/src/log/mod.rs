//! Container logs as the CRI has them: `time stream tag content`, one line per line or part of one.

mod follow;
mod line;

pub use follow::Follower;
pub use line::{Line, Stream};
