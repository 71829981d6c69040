//! The processes that a command leaves behind: those that left its session, and did not end with it.

use super::cgroup::ExecGroup;

/// The processes that a command has left. Dropping it kills them; when they are gone, another command can use their
/// cgroup. A server that crashes between the command's end and that leaves them alive.
pub(in crate::ops) struct Leftover(Option<ExecGroup>);

impl Leftover {
    pub(super) fn new(group: Option<ExecGroup>) -> Self {
        Self(group)
    }

    /// Leaves them alive.
    pub(in crate::ops) fn stay(mut self) {
        self.0 = None;
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        if let Some(group) = self.0.take().filter(ExecGroup::is_populated) {
            group.kill();
        }
    }
}
