//! The error of a failed operation.

use std::fmt::{self, Display, Formatter};

/// The stage that failed, and the cause.
#[derive(Debug, thiserror::Error)]
#[error("stage {stage}: {cause}")]
pub struct StageFailure<E: Display> {
    pub stage: &'static str,
    pub cause: E,
}

/// The error of a failed operation, with the failures of its undo.
#[derive(Debug)]
pub struct Failure<E: Display> {
    /// The subject of the operation: container or pod, with its id.
    pub subject: String,
    pub operation: &'static str,
    pub failure: StageFailure<E>,
    /// Undo steps that failed. When there are none, nothing of the operation is left.
    pub undo: Vec<StageFailure<E>>,
    /// A stage or an undo step that has not ended in time, for example one whose thread hangs in the kernel.
    /// The rest of the undo runs after it ends.
    pub pending: Option<&'static str>,
}

impl<E: Display> Failure<E> {
    /// Whether everything that the operation did has been undone.
    #[must_use]
    pub fn is_undone(&self) -> bool {
        self.undo.is_empty() && self.pending.is_none()
    }

    /// The cause of the stage's failure, with the failures of the undo.
    #[must_use]
    pub fn reason(&self) -> String {
        let mut text = self.failure.cause.to_string();
        // Writing to a string cannot fail.
        let _ = self.write_undo(&mut text);
        text
    }

    fn write_undo(&self, f: &mut impl fmt::Write) -> fmt::Result {
        for (i, failure) in self.undo.iter().enumerate() {
            let lead = if i == 0 { "; undoing it failed too: " } else { "; " };
            write!(f, "{lead}{failure}")?;
        }
        if let Some(stage) = self.pending {
            write!(f, "; stage {stage} does not end; what was done is undone when it has ended")?;
        }
        Ok(())
    }
}

impl<E: Display> Display for Failure<E> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.subject, self.operation, self.failure)?;
        self.write_undo(f)
    }
}

impl<E: Display + fmt::Debug> std::error::Error for Failure<E> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_failures_are_in_the_message() {
        let stage = |stage| StageFailure { stage, cause: "x" };
        let failure = Failure {
            subject: "container c".into(),
            operation: "start_container",
            failure: stage("cgroup"),
            undo: vec![stage("root"), stage("log")],
            pending: Some("mounts"),
        };
        assert_eq!(
            failure.to_string(),
            "container c: start_container: stage cgroup: x; undoing it failed too: stage root: x; stage log: \
             x; stage mounts does not end; what was done is undone when it has ended"
        );
        assert!(!failure.is_undone());
    }
}
