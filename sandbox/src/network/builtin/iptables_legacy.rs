//! The old iptables, whose rules can only be read by its own program.

use std::fs;
use std::process::{Command, Output, Stdio};

/// Tables in use, one name per line.
const TABLES: [(&str, &str); 2] =
    [("iptables-legacy", "/proc/net/ip_tables_names"), ("ip6tables-legacy", "/proc/net/ip6_tables_names")];

/// The programs whose chain FORWARD drops by policy and has no rule for the bridge.
pub(super) fn dropping(bridge: &str) -> Vec<&'static str> {
    let in_use =
        |file: &str| fs::read_to_string(file).is_ok_and(|tables| tables.lines().any(|t| t == "filter"));
    let drops = |program: &str| {
        // Without the program there is no advice for a host with such rules.
        let Ok(Output { stdout, .. }) = list(program) else { return false };
        let rules = String::from_utf8_lossy(&stdout);
        rules.lines().any(|rule| rule == "-P FORWARD DROP") && !rules.contains(&format!(" {bridge} "))
    };
    TABLES
        .into_iter()
        .filter(|(program, file)| in_use(file) && drops(program))
        .map(|(program, _)| program)
        .collect()
}

#[expect(clippy::disallowed_methods, reason = "the kernel's own interface to these rules is not for others")]
fn list(program: &str) -> std::io::Result<Output> {
    Command::new(program).args(["-S", "FORWARD"]).stdin(Stdio::null()).stderr(Stdio::null()).output()
}
