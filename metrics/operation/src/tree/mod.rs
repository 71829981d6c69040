//! Trees of files, as deep and as wide as a container or an archive makes them. They are walked and deleted
//! without recursion and with a handful of descriptors.
//!
//! A path in a tree may be longer than the kernel accepts at once (a link in an archive can lead a thousand
//! levels down, and the next entry continue from there), so the functions here go from directory to
//! directory.

mod cursor;
mod delete;

pub use cursor::{Cursor, is_dot, open_beneath, open_root};
pub use delete::delete;
