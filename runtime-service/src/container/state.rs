//! The states of a container.

use serde::{Deserialize, Serialize};

use super::exit::Exit;

/// ```text
///              start                process runs
///   Created ----------> Starting ----------------> Running
///      |                   |                          |
///      |                   | a stage failed, or       | process ended
///      |                   v it was stopped           v
///      |                Exited <----------------------+
///      |                 |  ^                         |
///      |                 |  | monitor gone            | monitor silent
///      |                 |  +---- Unknown <-----------+  (becomes Running or Exited when it answers)
///      | remove          | remove, or reset: to Created once more
///      +--> Removing <---+
///              |
///              +--> (gone)
/// ```
///
/// Containers in the states Starting, Running and Unknown are stopped before they are removed. Removing is
/// never written to disk: if the server ends during a removal, the container is as before, or its folder is
/// among the discarded ones.
///
/// The process may end before the response to "start" has been read: then [`State::exited`] leads from
/// Starting to Exited and [`State::running`] only completes the exit's start time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    Created,
    Starting,
    Running {
        pid: i32,
        /// Nanoseconds since 1970.
        started_at: i64,
    },
    Exited(Exit),
    Unknown {
        /// The problem, for people.
        why: String,
        /// The state before, until the monitor confirms or corrects it.
        pid: Option<i32>,
        started_at: Option<i64>,
    },
    Removing {
        /// None if it was never started.
        exit: Option<Exit>,
    },
}

/// A transition that is not in the drawing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a container that {now} cannot {wanted}")]
pub struct Refusal {
    /// `is running`, `has exited`...
    pub now: &'static str,
    pub wanted: &'static str,
}

impl State {
    /// A start was requested.
    ///
    /// # Errors
    /// In every state but Created: a container that has ended is [reset](Self::reset) first.
    pub fn starting(&self) -> Result<Self, Refusal> {
        match self {
            Self::Created => Ok(Self::Starting),
            other => Err(other.refuse("be started")),
        }
    }

    /// The monitor reports that the process runs.
    ///
    /// # Errors
    /// From Created, and from an exit of another process.
    pub fn running(&self, pid: i32, started_at: i64) -> Result<Self, Refusal> {
        match self {
            Self::Starting | Self::Unknown { .. } => Ok(Self::Running { pid, started_at }),
            Self::Running { pid: known, .. } if *known == pid => Ok(self.clone()),
            // The ExitReport came before the response to the start.
            Self::Exited(exit) if exit.started_at.is_none_or(|told| told == started_at) => {
                Ok(Self::Exited(Exit { started_at: Some(started_at), ..exit.clone() }))
            }
            other => Err(other.refuse("begin to run")),
        }
    }

    /// The process ended, or a start failed. The first exit is kept; a second one changes nothing.
    ///
    /// # Errors
    /// From Created.
    pub fn exited(&self, exit: Exit) -> Result<Self, Refusal> {
        match self {
            Self::Created => Err(self.refuse("exit")),
            Self::Starting => Ok(Self::Exited(exit)),
            Self::Running { started_at, .. } => {
                Ok(Self::Exited(Exit { started_at: exit.started_at.or(Some(*started_at)), ..exit }))
            }
            Self::Unknown { started_at, .. } => {
                Ok(Self::Exited(Exit { started_at: exit.started_at.or(*started_at), ..exit }))
            }
            Self::Exited(_) | Self::Removing { .. } => Ok(self.clone()),
        }
    }

    /// Whether an exit of a process that started then, in nanoseconds since 1970, is not that of the running one.
    #[must_use]
    pub fn is_another_life(&self, started_at_ns: i64) -> bool {
        matches!(self, Self::Running { started_at, .. } if *started_at != started_at_ns)
    }

    /// A removal was requested. A failed removal can be requested again.
    ///
    /// # Errors
    /// A process of the container may exist.
    pub fn removing(&self) -> Result<Self, Refusal> {
        match self {
            Self::Created => Ok(Self::Removing { exit: None }),
            Self::Exited(exit) => Ok(Self::Removing { exit: Some(exit.clone()) }),
            Self::Removing { .. } => Ok(self.clone()),
            other => Err(other.refuse("be removed")),
        }
    }

    /// It will be started again. Its exit is forgotten.
    ///
    /// # Errors
    /// In every state but Exited.
    pub fn reset(&self) -> Result<Self, Refusal> {
        match self {
            Self::Exited(_) => Ok(Self::Created),
            other => Err(other.refuse("be started once more")),
        }
    }

    /// The monitor does not answer: whether the process runs is unknown.
    ///
    /// # Errors
    /// From states in which no process exists.
    pub fn lost(&self, why: String) -> Result<Self, Refusal> {
        match self {
            Self::Starting => Ok(Self::Unknown { why, pid: None, started_at: None }),
            Self::Running { pid, started_at } => {
                Ok(Self::Unknown { why, pid: Some(*pid), started_at: Some(*started_at) })
            }
            Self::Unknown { pid, started_at, .. } => {
                Ok(Self::Unknown { why, pid: *pid, started_at: *started_at })
            }
            other => Err(other.refuse("be lost")),
        }
    }

    /// For metrics and messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running { .. } => "running",
            Self::Exited(_) => "exited",
            Self::Unknown { .. } => "unknown",
            Self::Removing { .. } => "removing",
        }
    }

    /// True when no process of the container exists.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self, Self::Created | Self::Exited(_) | Self::Removing { .. })
    }

    /// True when its start has probably succeeded, and its exit has not been seen.
    #[must_use]
    pub fn may_run(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Unknown { .. })
    }

    /// Its exit, if it has ended.
    #[must_use]
    pub fn exit(&self) -> Option<&Exit> {
        match self {
            Self::Exited(exit) => Some(exit),
            Self::Removing { exit } => exit.as_ref(),
            Self::Created | Self::Starting | Self::Running { .. } | Self::Unknown { .. } => None,
        }
    }

    /// The first process, while there is one.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        match self {
            Self::Running { pid, .. } => Some(*pid),
            Self::Unknown { pid, .. } => *pid,
            Self::Created | Self::Starting | Self::Exited(_) | Self::Removing { .. } => None,
        }
    }

    /// A refusal that names the present state.
    #[must_use]
    pub fn refuse(&self, wanted: &'static str) -> Refusal {
        let now = match self {
            Self::Created => "has not been started",
            Self::Starting => "is being started",
            Self::Running { .. } => "is running",
            Self::Exited(_) => "has exited",
            Self::Unknown { .. } => "is in an unknown state",
            Self::Removing { .. } => "is being removed",
        };
        Refusal { now, wanted }
    }
}

#[cfg(test)]
mod tests {
    use super::super::exit::Reason;
    use super::*;

    fn exit(code: i32) -> Exit {
        Exit { code, reason: Reason::Error, message: String::new(), started_at: None, finished_at: 9 }
    }

    #[test]
    fn the_usual_life() {
        let running = State::Created.starting().unwrap().running(7, 5).unwrap();
        assert_eq!(running.pid(), Some(7));
        let ended = running.exited(exit(3)).unwrap();
        assert_eq!(ended.exit().map(|e| (e.code, e.started_at)), Some((3, Some(5))));
    }

    #[test]
    fn an_exit_that_overtakes_the_answer_to_start_keeps_its_code_and_gets_its_start_time() {
        let ended = State::Starting.exited(exit(0)).unwrap().running(7, 5).unwrap();
        assert_eq!(ended.exit().map(|e| (e.code, e.started_at)), Some((0, Some(5))));
        assert!(ended.running(8, 6).is_err());
    }

    #[test]
    fn the_first_exit_is_kept() {
        let ended = State::Starting.exited(exit(1)).unwrap();
        assert_eq!(ended.exited(exit(2)).unwrap(), ended);
    }

    #[test]
    fn an_exit_of_the_life_before_is_not_that_of_the_running_process() {
        let running = State::Running { pid: 7, started_at: 5 };
        assert!(running.is_another_life(4) && !running.is_another_life(5));
        // The response to the start may be under way; the first exit is kept.
        for state in [State::Starting, State::Created, State::Exited(exit(0))] {
            assert!(!state.is_another_life(4), "{state:?}");
        }
    }

    #[test]
    fn nothing_starts_twice() {
        for state in [State::Starting, State::Running { pid: 1, started_at: 1 }, State::Exited(exit(0))] {
            let refusal = state.starting().unwrap_err().to_string();
            assert!(refusal.contains("cannot be started"), "{refusal}");
        }
    }

    #[test]
    fn only_what_has_ended_is_started_once_more() {
        assert_eq!(State::Exited(exit(3)).reset().unwrap(), State::Created);
        for state in [State::Created, State::Starting, State::Running { pid: 1, started_at: 1 }] {
            assert!(state.reset().is_err(), "{state:?}");
        }
        assert!(State::Removing { exit: Some(exit(0)) }.reset().is_err());
    }

    #[test]
    fn a_lost_container_may_come_back_either_way() {
        let lost = State::Running { pid: 4, started_at: 2 }.lost("monitor gone".into()).unwrap();
        assert_eq!(lost.pid(), Some(4));
        assert_eq!(lost.running(4, 2).unwrap(), State::Running { pid: 4, started_at: 2 });
        assert_eq!(lost.exited(exit(1)).unwrap().exit().and_then(|e| e.started_at), Some(2));
        assert!(State::Created.lost(String::new()).is_err());
    }

    #[test]
    fn only_what_does_not_run_is_removed_and_nothing_leads_out_of_it() {
        assert!(State::Starting.removing().is_err());
        assert!(State::Running { pid: 1, started_at: 1 }.removing().is_err());
        let removing = State::Exited(exit(3)).removing().unwrap();
        assert_eq!(removing.exit().map(|e| e.code), Some(3));
        assert_eq!(removing.removing().unwrap(), removing);
        assert_eq!(removing.exited(exit(4)).unwrap(), removing);
        assert!(removing.starting().is_err() && removing.running(1, 1).is_err());
        assert!(removing.lost(String::new()).is_err());
    }

    #[test]
    fn states_survive_the_disk() {
        for state in [
            State::Created,
            State::Starting,
            State::Running { pid: 1, started_at: 2 },
            State::Exited(exit(137)),
            State::Unknown { why: "x".into(), pid: None, started_at: None },
        ] {
            let text = serde_json::to_string(&state).unwrap();
            assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state, "{text}");
        }
    }
}
