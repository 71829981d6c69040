//! Everything on the host that a cluster could leave behind, to be compared before and after.
//!
//! Other tests may run at the same time; what is theirs is left out.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use super::cgroups;
use crate::{Result, leak};

/// Links, rules, and the mounts, cgroups and processes of the cluster with this name, one line each.
pub(super) fn snapshot(name: &str) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    found.extend(links(&output("ip", &["-o", "link"])?));
    found.extend(rules(&output("nft", &["--stateless", "list", "ruleset"])?));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    found.extend(mounts.lines().filter(|line| line.contains(name)).map(|line| format!("mount {line}")));
    for hierarchy in cgroups::hierarchies()? {
        let folder = hierarchy.mount.join(name);
        found.extend(folder.exists().then(|| format!("cgroup {}", folder.display())));
    }
    found.extend(processes(name).map(|pid| format!("process {}", leak::command_line(pid))));
    Ok(found)
}

/// The processes of a cluster: they have its name in their command line, or work on its files.
pub(super) fn processes(name: &str) -> impl Iterator<Item = i32> {
    leak::processes().filter(move |pid| leak::command_line(*pid).contains(name) || is_below(*pid, name))
}

fn is_below(pid: i32, name: &str) -> bool {
    let process = Path::new("/proc").join(pid.to_string());
    let links = ["cwd", "root", "fd/1", "fd/2"].map(|link| std::fs::read_link(process.join(link)));
    links.iter().flatten().any(|path| path.to_string_lossy().contains(name))
}

fn output(program: &str, words: &[&str]) -> Result<String> {
    let output = Command::new(program).args(words).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// The links in the output of `ip -o link`, without those of other tests: their bridges and what is in these.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines() {
        let name = line.split(": ").nth(1).unwrap_or(line);
        let bridge = line.split(" master ").nth(1).and_then(|rest| rest.split(' ').next());
        if !is_bridge_of_other_tests(bridge.unwrap_or(name)) {
            // Behind the @ of a veth is the index or the name of its peer.
            found.push(format!("link {}", name.split('@').next().unwrap_or(name)));
        }
    }
    found
}

/// The lines of `nft list ruleset`, each with its table and chain. Left out are the tables of other tests, and what
/// CNI plugins write for networks that are not the cluster's.
fn rules(text: &str) -> Vec<String> {
    let (mut table, mut chain) = ("", "");
    let mut found = Vec::new();
    for line in text.lines() {
        let line_of = line.trim();
        match line_of.strip_suffix(" {") {
            Some(name) if line.starts_with("table ") => (table, chain) = (name, ""),
            Some(name) => chain = name,
            None => {}
        }
        let bridge = table.split(' ').nth(2).and_then(|name| name.strip_prefix("crisp-"));
        let is_of_plugins = chain.contains(" CNI-") || line.contains("CNI-");
        let is_other = bridge.is_some_and(is_bridge_of_other_tests)
            || is_of_plugins && !line.contains("\"cbr0\"")
            || matches!(line_of, "" | "}")
            || line_of.starts_with('#');
        if !is_other {
            found.push(format!("{table}, {chain}: {line_of}"));
        }
    }
    found
}

/// The bridges of a machine (ct1n2), of a CNI test (cb1), and of a network with a name (cr-...).
fn is_bridge_of_other_tests(name: &str) -> bool {
    let has_number = |start| {
        name.strip_prefix(start).is_some_and(|rest: &str| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    has_number("ct") || has_number("cb") || name.starts_with("cr-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_a_cluster_are_seen_beside_those_of_other_tests() {
        let text = "1: lo: <LOOPBACK> mtu 1\n\
            2: crisp0: <BROADCAST> mtu 1\n\
            3: ct77n1: <BROADCAST> mtu 1\n\
            4: veth1@if2: <UP> mtu 1 qdisc noqueue master ct77n1 state UP\n\
            5: veth2@if2: <UP> mtu 1 qdisc noqueue master cbr0 state UP\n\
            6: veth3@if2: <UP> mtu 1 qdisc noqueue state UP\n\
            7: cr-12ab: <UP> mtu 1\n";
        assert_eq!(links(text), ["link lo", "link crisp0", "link veth2", "link veth3"]);
    }

    #[test]
    fn rules_in_a_table_are_seen_and_those_of_other_tests_not() {
        let text = r#"table ip nat {
	chain POSTROUTING {
		counter jump CNI-HOSTPORT-MASQ
		counter jump KUBE-POSTROUTING
	}

	chain CNI-DN-1 {
		counter dnat to 10.0.0.1:80 comment "dnat name: \"other\""
		counter dnat to 10.0.0.1:80 comment "dnat name: "cbr0" id: x"
	}
}
table ip crisp-ct77n1 {
	chain a {
		masquerade
	}
}
table ip6 crisp-crisp0 {
}
"#;
        let expected = [
            "table ip nat, : table ip nat {",
            "table ip nat, chain POSTROUTING: chain POSTROUTING {",
            "table ip nat, chain POSTROUTING: counter jump KUBE-POSTROUTING",
            r#"table ip nat, chain CNI-DN-1: counter dnat to 10.0.0.1:80 comment "dnat name: "cbr0" id: x""#,
            "table ip6 crisp-crisp0, : table ip6 crisp-crisp0 {",
        ];
        assert_eq!(rules(text), expected);
    }
}
