//! The program by itself. What it does is tested through the server's own link, in `sandbox/tests/monitor`: those
//! tests take the program that Cargo builds for this one.

#![allow(clippy::unwrap_used, reason = "only tests are here")]

use std::process::Command;

#[test]
fn without_a_pod_it_says_how_it_is_used() {
    let output = Command::new(env!("CARGO_BIN_EXE_crisp-pod")).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("usage: crisp-pod POD-ID"), "{output:?}");
}
