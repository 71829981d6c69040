//! How long a start takes, from the plan to the exec and to the end of the process.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crisp_executor::plan::Plan;
use crisp_executor::run::{self, PodContext, Stdio};

use crate::lab::{Files, Pod, wait, watch};
use crate::plans::c;

pub const TESTS: &[crate::Test] =
    &[("time_of_a_start", time_of_a_start), ("time_of_an_exec", time_of_an_exec)];

pub const ROUNDS: usize = 200;
/// Far above what any machine needs; what it catches is a wait where none should be.
const LIMIT: Duration = Duration::from_secs(10);

fn time_of_a_start() {
    let files = Files::busybox();
    let roots: Vec<_> = (0..ROUNDS).map(|number| files.overlay(number)).collect();
    let pod = Pod::enter_for(0, Vec::new);
    let mut plan = pod.plan.clone();
    plan.process.args = vec![c("/bin/true")];
    measure(&plan, roots.into_iter().map(|root| vec![root]).collect());
}

/// Starts `plan` once with each set of descriptors.
pub fn measure(plan: &Plan, sets: Vec<Vec<OwnedFd>>) {
    let id = crisp_executor::ids::ContainerId::random();
    let (mut cloned, mut executed, mut ended) = (Vec::new(), Vec::new(), Vec::new());
    for fds in sets {
        let start = Instant::now();
        let starting = run::start(&id, plan, &fds, Stdio::default(), &PodContext::default()).unwrap();
        cloned.push(start.elapsed());
        let watched = watch(&starting.report);
        executed.push(start.elapsed());
        assert!(watched.failed.is_none(), "{watched:?}");
        assert_eq!(wait(&starting), 0);
        ended.push(start.elapsed());
    }
    print("cloned", &mut cloned);
    print("executed", &mut executed);
    print("ended", &mut ended);
    assert!(ended[ended.len() / 2] < LIMIT);
}

fn time_of_an_exec() {
    let pod = Files::busybox().pod();
    let init = pod.started(&["/bin/sleep", "1000"]);
    let mut process = pod.plan.process.clone();
    process.args = vec![c("/bin/true")];
    let (join, init) = (crisp_executor::plan::CgroupJoin::default(), std::os::fd::AsFd::as_fd(&init.0.pidfd));
    let mut ended = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let starting =
            run::exec(&pod.id, &process, &join, &[], Stdio::default(), init, &PodContext::default()).unwrap();
        let watched = watch(&starting.report);
        assert!(watched.failed.is_none(), "{watched:?}");
        assert_eq!(wait(&starting), 0);
        ended.push(start.elapsed());
    }
    print("exec ended", &mut ended);
    assert!(ended[ROUNDS / 2] < LIMIT);
}

fn print(what: &str, times: &mut [Duration]) {
    times.sort();
    let at = |percent: usize| times[times.len() * percent / 100].as_micros();
    println!("{what:>12}: n {} min {} p50 {} p90 {} p99 {} us", times.len(), at(0), at(50), at(90), at(99));
}
