//! Fault points: in debug builds, any stage of any operation can be made to fail, hang or kill the
//! server, before or after its work. Release builds contain none of it.
//!
//! The environment variable `CRISP_FAULTS` has a comma-separated list of
//! `OPERATION/STAGE[:after][@SUBJECT]=fail|hang|kill`: the stage; `:after` when the fault comes after the
//! stage's work (the result of the work is lost); a part of the subject (`pod …`, `container …`) that must
//! match; and the effect.

/// The effect of a fault point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The stage fails with [`Interrupted::Fault`](crate::Interrupted::Fault).
    Fail,
    /// The stage does not end until it is cancelled.
    Hang,
    /// The server ends at once, as by SIGKILL.
    Kill,
}

/// Whether the fault comes before or after a stage's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    Before,
    After,
}

#[cfg(not(debug_assertions))]
pub(crate) fn armed(_operation: &str, _stage: &str, _subject: &str, _when: When) -> Option<Fault> {
    None
}

#[cfg(debug_assertions)]
pub(crate) use points::armed;
#[cfg(debug_assertions)]
pub use points::{Armed, arm};

/// A fault point in blocking code that is not a stage of an operation. In release builds it does nothing.
///
/// # Errors
/// [`Interrupted::Fault`](crate::Interrupted::Fault) when it is armed to fail. Only stages can hang, because
/// only stages can be cancelled.
pub fn point(operation: &str, stage: &str, subject: &str) -> Result<(), crate::Interrupted> {
    match armed(operation, stage, subject, When::Before) {
        Some(Fault::Kill) => kill(),
        Some(Fault::Fail | Fault::Hang) => Err(crate::Interrupted::Fault),
        None => Ok(()),
    }
}

/// Ends the process as SIGKILL would: no destructor, no flush.
pub(crate) fn kill() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort()
}

#[cfg(debug_assertions)]
mod points {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

    use super::{Fault, When};

    #[derive(Debug, Clone)]
    struct Point {
        number: u64,
        operation: String,
        stage: String,
        when: When,
        subject: String,
        fault: Fault,
        reached: Arc<AtomicBool>,
    }

    static POINTS: LazyLock<Mutex<Vec<Point>>> =
        LazyLock::new(|| Mutex::new(parse(&std::env::var("CRISP_FAULTS").unwrap_or_default())));
    static NUMBER: AtomicU64 = AtomicU64::new(1);

    fn points() -> MutexGuard<'static, Vec<Point>> {
        POINTS.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A fault that is armed until this is dropped.
    #[must_use = "a fault is disarmed at once when this is dropped"]
    #[derive(Debug)]
    pub struct Armed {
        number: u64,
        reached: Arc<AtomicBool>,
    }

    impl Armed {
        /// Whether a stage has reached the fault.
        #[must_use]
        pub fn is_reached(&self) -> bool {
            self.reached.load(Ordering::SeqCst)
        }
    }

    impl Drop for Armed {
        fn drop(&mut self) {
            points().retain(|point| point.number != self.number);
        }
    }

    /// Arms a fault for every stage `point` (as in `CRISP_FAULTS`, without the `=`) from now on.
    ///
    /// # Panics
    /// When `point` does not have that form: a test with a fault that is never armed would test nothing.
    pub fn arm(point: &str, fault: Fault) -> Armed {
        let mut parsed = parse_point(point, fault).unwrap_or_else(|| panic!("not a fault point: {point:?}"));
        parsed.number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let armed = Armed { number: parsed.number, reached: parsed.reached.clone() };
        points().push(parsed);
        armed
    }

    pub(crate) fn armed(operation: &str, stage: &str, subject: &str, when: When) -> Option<Fault> {
        let matches = |p: &&Point| {
            p.operation == operation && p.stage == stage && p.when == when && subject.contains(&p.subject)
        };
        let points = points();
        let point = points.iter().find(matches)?;
        point.reached.store(true, Ordering::SeqCst);
        Some(point.fault)
    }

    fn parse(list: &str) -> Vec<Point> {
        let one = |text: &str| {
            let (point, fault) = text.split_once('=')?;
            let fault = match fault {
                "fail" => Fault::Fail,
                "hang" => Fault::Hang,
                "kill" => Fault::Kill,
                _ => return None,
            };
            parse_point(point, fault)
        };
        let mut found = Vec::new();
        for text in list.split(',').filter(|text| !text.is_empty()) {
            match one(text) {
                Some(point) => found.push(point),
                None => tracing::error!(fault = text, "CRISP_FAULTS: not of the form OPERATION/STAGE=FAULT"),
            }
        }
        found
    }

    fn parse_point(text: &str, fault: Fault) -> Option<Point> {
        let (stage, subject) = text.split_once('@').unwrap_or((text, ""));
        let (operation, stage) = stage.split_once('/')?;
        let (stage, when) = match stage.split_once(':') {
            None => (stage, When::Before),
            Some((stage, "after")) => (stage, When::After),
            Some(_) => return None,
        };
        let owned = str::to_owned;
        Some(Point {
            number: 0,
            operation: owned(operation),
            stage: owned(stage),
            when,
            subject: owned(subject),
            fault,
            reached: Arc::default(),
        })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_list_is_read() {
            let points = parse("run_pod/network=fail,start/root:after@pod ab=kill,nonsense,a/b:x=fail");
            assert_eq!(points.len(), 2);
            assert_eq!(points[1].when, When::After);
            assert_eq!((points[1].subject.as_str(), points[1].fault), ("pod ab", Fault::Kill));
        }

        #[test]
        fn a_fault_is_armed_for_its_subject_and_until_dropped() {
            let fault = arm("fault_test/x@one", Fault::Fail);
            assert!(!fault.is_reached());
            assert_eq!(armed("fault_test", "x", "pod one", When::Before), Some(Fault::Fail));
            assert!(fault.is_reached());
            assert_eq!(armed("fault_test", "x", "pod two", When::Before), None);
            drop(fault);
            assert_eq!(armed("fault_test", "x", "pod one", When::Before), None);
        }
    }
}
