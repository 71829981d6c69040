use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::KeyedLocks;
use crate::fault::{self, Fault};

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("{0}")]
    Text(&'static str),
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
}

fn operation(subject: &str) -> Operation<Cause> {
    Operation::new(&Metrics::new("test").unwrap(), "test", subject)
}

const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn undo_runs_in_reverse_and_reports_its_failures() {
    let order = Arc::new(Mutex::new(Vec::new()));
    let operation = operation("pod p");
    for name in ["first", "second"] {
        let order = order.clone();
        operation.undo(name, move || {
            order.lock().unwrap().push(name);
            if name == "second" { Err(Cause::Text("busy")) } else { Ok(()) }
        });
    }
    let result: Result<(), _> = operation.stage("third", SOON, |_| async { Err(Cause::Text("no")) }).await;
    let failure = operation.finish(result).await.unwrap_err();
    assert_eq!(
        failure.to_string(),
        "pod p: test: stage third: no; undoing it failed too: stage second: busy"
    );
    assert_eq!(*order.lock().unwrap(), ["second", "first"]);
}

#[tokio::test]
async fn success_undoes_nothing() {
    let undone = Arc::new(AtomicBool::new(false));
    let operation = operation("pod p");
    let seen = undone.clone();
    operation.undo("x", move || {
        seen.store(true, Ordering::SeqCst);
        Ok(())
    });
    let result = operation.stage("x", SOON, |_| async { Ok::<_, Cause>(7) }).await;
    assert_eq!(operation.finish(result).await.unwrap(), 7);
    assert!(!undone.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_deadline_names_the_step_under_way_and_stops_it() {
    let operation = operation("pod p");
    let result: Result<(), _> = operation
        .blocking(Duration::from_millis(50), |steps| {
            steps.step("quick", || Ok(()))?;
            steps.step("slow", || {
                while steps.cancel().check().is_ok() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(())
            })?;
            steps.step("never", || panic!("a step began after the deadline"))
        })
        .await;
    let failure = operation.finish(result).await.unwrap_err();
    assert_eq!(failure.to_string(), "pod p: test: stage slow: not done after 50 ms");
    assert!(failure.is_undone());
}

#[tokio::test]
async fn a_step_with_a_deadline_of_its_own_does_not_hang_until_that_of_all_of_them() {
    let metrics = Metrics::new("test").unwrap();
    let operation = Operation::<Cause>::cancelled_by(&metrics, "test", "pod within", Cancel::new());
    let _hang = fault::arm("test/open@pod within", Fault::Hang);
    let list = metrics.clone();
    let result: Result<(), _> = operation
        .blocking(SOON * 100, move |steps| {
            let _wait = steps.waits_for("the monitor");
            let info = list.operations().list(Duration::ZERO).remove(0);
            assert_eq!(info.waits_for.as_deref(), Some("the monitor"));
            // Work that looks at nothing but the token.
            let hangs = || {
                while !steps.cancel().is_cancelled() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(())
            };
            steps.step_within("open", Duration::from_millis(50), hangs)
        })
        .await;
    let failure = operation.finish(result).await.unwrap_err();
    assert_eq!(failure.to_string(), "pod within: test: stage open: not done after 50 ms");
}

/// Work that cannot be stopped: it ends when told by `release`.
fn stuck(release: &Arc<AtomicBool>, ended: &Arc<AtomicBool>) -> impl FnOnce() -> Result<(), Cause> + use<> {
    let (release, ended) = (release.clone(), ended.clone());
    move || {
        // It also ends by itself after a while: a failed test must not wait for it for ever.
        for _ in 0..20_000 {
            if release.load(Ordering::SeqCst) {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        ended.store(true, Ordering::SeqCst);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_does_not_run_beside_an_undo_step_that_hangs() {
    let (release, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let locks = KeyedLocks::<u8>::default();
    let mut operation = operation("container c");
    operation.hold(locks.lock(1, "test").await);
    let (later, state) = (Arc::new(AtomicBool::new(false)), ended.clone());
    let seen = later.clone();
    operation.undo("record", move || {
        assert!(state.load(Ordering::SeqCst), "ran beside the undo of the cgroup");
        seen.store(true, Ordering::SeqCst);
        Ok(())
    });
    operation.undo("cgroup", stuck(&release, &ended));
    let result: Result<(), _> = operation.stage("start", SOON, |_| async { Err(Cause::Text("no")) }).await;
    let finish = tokio::spawn(operation.finish(result));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    tokio::time::advance(DEADLINE + SOON).await;
    let failure = finish.await.unwrap().unwrap_err();
    assert_eq!((failure.pending, failure.undo.len()), (Some("cgroup"), 1));
    tokio::time::resume();
    let retry = locks.lock_within(1, "retry", Duration::from_millis(50)).await;
    assert_eq!(retry.unwrap_err().holder, "test");
    release.store(true, Ordering::SeqCst);
    assert!(locks.lock_within(1, "retry", SOON).await.is_ok());
    assert!(later.load(Ordering::SeqCst));
}

#[tokio::test]
async fn an_undo_step_that_misses_its_deadline_runs_to_its_end_before_those_after_it() {
    let locks = KeyedLocks::<u8>::default();
    let mut operation = operation("pod p");
    operation.hold(locks.lock(1, "test").await);
    let (ended, later) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
    let (seen, state) = (later.clone(), ended.clone());
    operation.undo("record", move || {
        *seen.lock().unwrap() = Some(state.load(Ordering::SeqCst));
        Ok(())
    });
    let done = ended.clone();
    operation.undo_async("network", Duration::from_millis(20), move || async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        done.store(true, Ordering::SeqCst);
        Ok(())
    });
    let result: Result<(), _> = operation.stage("start", SOON, |_| async { Err(Cause::Text("no")) }).await;
    let failure = operation.finish(result).await.unwrap_err();
    assert_eq!((failure.pending, failure.is_undone()), (Some("network"), false), "{failure}");
    assert_eq!(*later.lock().unwrap(), None, "ran beside the undo of the network");
    drop(locks.lock_within(1, "next", SOON).await.unwrap());
    assert_eq!(*later.lock().unwrap(), Some(true), "the undo of the network was given up");
}

#[tokio::test]
async fn undo_waits_for_a_thread_that_hangs_and_so_does_the_lock() {
    let (release, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let locks = KeyedLocks::<u8>::default();
    let mut operation = operation("pod p");
    operation.hold(locks.lock(1, "test").await);
    let beside = Arc::new(Mutex::new(None));
    let (seen, state) = (beside.clone(), ended.clone());
    operation.undo("mount", move || {
        *seen.lock().unwrap() = Some(state.load(Ordering::SeqCst));
        Ok(())
    });
    let work = stuck(&release, &ended);
    let short = Duration::from_millis(300);
    let result = operation.blocking(short, move |steps| steps.step("mount", work)).await;
    let failure = operation.finish(result).await.unwrap_err();
    assert_eq!(failure.pending, Some("mount"));
    assert_eq!(*beside.lock().unwrap(), None, "undo ran beside the work");
    let busy = locks.lock_within(1, "next", Duration::from_millis(10)).await.unwrap_err();
    assert_eq!(busy.holder, "test");
    release.store(true, Ordering::SeqCst);
    drop(locks.lock_within(1, "next", SOON).await.unwrap());
    assert_eq!(*beside.lock().unwrap(), Some(true));
}

#[tokio::test]
async fn the_blocking_part_of_an_asynchronous_stage_is_waited_for() {
    let (release, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let operation = operation("pod p");
    let work = stuck(&release, &ended);
    let result =
        operation
            .stage("files", Duration::from_millis(20), |stage| async move {
                stage.blocking(move |_| work()).await
            })
            .await;
    let state = ended.clone();
    operation.undo("files", move || {
        if state.load(Ordering::SeqCst) { Ok(()) } else { Err(Cause::Text("the work is under way")) }
    });
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        release.store(true, Ordering::SeqCst);
    });
    let failure = operation.finish(result).await.unwrap_err();
    assert_eq!(failure.to_string(), "pod p: test: stage files: not done after 20 ms");
}

#[tokio::test]
async fn others_cancel_an_operation() {
    let cancel = Cancel::new();
    let metrics = Metrics::new("test").unwrap();
    let operation = Operation::<Cause>::cancelled_by(&metrics, "pull", "image i", cancel.clone());
    let soon = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        cancel.cancel();
    };
    let stage = operation.stage("fetch", SOON, |_| std::future::pending::<Result<(), Cause>>());
    let (result, ()) = tokio::join!(stage, soon);
    assert_eq!(
        operation.finish(result).await.unwrap_err().to_string(),
        "image i: pull: stage fetch: cancelled"
    );
}

#[tokio::test]
async fn faults_fail_and_hang_stages() {
    let _fail = fault::arm("test/a@faulty", Fault::Fail);
    let _hang = fault::arm("test/b:after@faulty", Fault::Hang);
    let one = operation("pod faulty");
    let result = one.stage("a", SOON, |_| async { Ok::<_, Cause>(()) }).await;
    assert!(one.finish(result).await.unwrap_err().to_string().contains("on request of a test"));
    let two = operation("pod faulty");
    let ran = Arc::new(AtomicBool::new(false));
    let seen = ran.clone();
    let result = two
        .blocking(Duration::from_millis(300), move |steps| {
            steps.step("b", || {
                seen.store(true, Ordering::SeqCst);
                Ok(())
            })
        })
        .await;
    assert_eq!(
        two.finish(result).await.unwrap_err().to_string(),
        "pod faulty: test: stage b: not done after 300 ms"
    );
    assert!(ran.load(Ordering::SeqCst), "an after fault comes after the work");
}

#[tokio::test]
async fn a_stage_that_hangs_is_listed_until_it_ends() {
    let metrics = Metrics::new("test").unwrap();
    let list = || metrics.operations().list(Duration::ZERO);
    let locks = Arc::new(KeyedLocks::<u8>::default());
    let held = locks.lock(1, "other_operation").await;
    let fault = fault::arm("list_test/network@pod p", Fault::Hang);
    let operation = Operation::<Cause>::cancelled_by(&metrics, "list_test", "pod p", Cancel::new());
    let turns = locks.clone();
    let work = tokio::spawn(async move {
        drop(operation.turn(turns.lock(1, "list_test")).await);
        let result: Result<(), _> = operation.stage("network", SOON, |_| async { Ok(()) }).await;
        operation.finish(result).await
    });
    while list()[0].waits_for.is_none() {
        tokio::task::yield_now().await;
    }
    let info = list().remove(0);
    assert_eq!((info.stage, info.waits_for.as_deref()), ("turn", Some("its turn after other_operation")));
    drop(held);
    while !fault.is_reached() {
        tokio::task::yield_now().await;
    }
    let info = list().remove(0);
    assert_eq!((info.operation, info.subject.as_str(), info.stage), ("list_test", "pod p", "network"));
    assert!(info.left.is_some_and(|left| left <= SOON) && info.waits_for.is_none(), "{info:?}");
    work.abort();
    assert!(work.await.is_err());
    assert_eq!(list(), []);
}

#[tokio::test]
async fn what_hangs_in_the_kernel_stays_listed_after_the_failure() {
    let metrics = Metrics::new("test").unwrap();
    let ends = Arc::new(Mutex::new(Vec::new()));
    let told = ends.clone();
    metrics.operations().on_end(move |end| {
        told.lock().unwrap().push(end.failure.clone());
    });
    let (release, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let operation = Operation::<Cause>::cancelled_by(&metrics, "test", "pod p", Cancel::new());
    let work = stuck(&release, &ended);
    let result = operation.blocking(Duration::from_millis(300), |steps| steps.step("mount", work)).await;
    let failure = operation.finish(result).await.unwrap_err();
    assert_eq!(failure.pending, Some("mount"));
    // The undo that waits for the work is a task of its own.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let list = metrics.operations().list(Duration::ZERO);
    // Released before an assertion can fail: the test would wait for its thread.
    release.store(true, Ordering::SeqCst);
    assert_eq!((list.len(), list[0].stage), (1, "mount"));
    assert!(list[0].waits_for.as_ref().is_some_and(|what| what.contains("kernel")), "{list:?}");
    let (stage, why) = ends.lock().unwrap()[0].clone().unwrap();
    assert!(
        stage == "mount" && why.contains("not done after 300 ms") && why.contains("does not end"),
        "{why}"
    );
    while !metrics.operations().list(Duration::ZERO).is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
