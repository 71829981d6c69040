//! Command lines in docker's syntax, and the pods that they describe.

use std::collections::BTreeSet;

use clap::{Args as _, Command, Parser};
use serde_json::{Value, json};

use super::super::words::Words;
use super::*;

#[derive(Parser)]
#[command(disable_help_flag = true)]
struct Line {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    refused: Refused,
    #[command(subcommand)]
    words: Words,
}

fn read(line: &str) -> anyhow::Result<Manifests> {
    read_as(line, false)
}

fn read_as(line: &str, is_detached: bool) -> anyhow::Result<Manifests> {
    let words = std::iter::once("run").chain(line.split('|'));
    let line = Line::try_parse_from(words)?;
    line.refused.check()?;
    let (image, command) = line.words.split();
    let run = ImageRun::new(&image, command, line.options)?;
    run.manifests(&["80/tcp".to_owned(), "53/udp".to_owned()], is_detached)
}

fn pod(line: &str) -> Value {
    let manifests = read(line).unwrap_or_else(|error| panic!("{line}: {error:#}"));
    manifests.pods[0].document.clone()
}

fn container(line: &str) -> Value {
    pod(line)["spec"]["containers"][0].clone()
}

fn refusal(line: &str) -> String {
    format!("{:#}", read(line).err().unwrap_or_else(|| panic!("{line} is accepted")))
}

#[test]
fn the_table_says_of_every_option_what_is_done_with_it() {
    let names = |command: Command| -> BTreeSet<String> {
        command.get_arguments().filter_map(|arg| arg.get_long()).map(|name| format!("--{name}")).collect()
    };
    let mut works = names(Options::augment_args(Command::new("run")));
    // Also used for manifests.
    works.insert("--detach".to_owned());
    let refused = names(Refused::augment_args(Command::new("run")));
    let mut seen = BTreeSet::new();
    for row in include_str!("options.md").lines().filter(|line| line.starts_with("| `--")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let name = cells[0].trim_matches('`').to_owned();
        let fits = match cells[1] {
            "works" => works.contains(&name),
            "in part" => works.contains(&name) && !cells[2].is_empty(),
            "refused" => refused.contains(&name) && !cells[2].is_empty(),
            _ => false,
        };
        assert!(fits, "{row}");
        assert!(seen.insert(name), "{row}");
    }
    let all: BTreeSet<String> = works.union(&refused).cloned().collect();
    assert_eq!(seen, all);
    assert!(works.is_disjoint(&refused));
}

#[test]
fn a_line_is_a_pod_of_one_container() {
    let pod = pod(
        "--name|web|-p|8080:80|-e|A=$(B)|-v|data:/data|--restart|on-failure:3|--label|a=b|-it|nginx:1|echo|$HOME $(X)",
    );
    assert_eq!((&pod["metadata"]["name"], &pod["metadata"]["labels"]), (&json!("web"), &json!({ "a": "b" })));
    assert_eq!(pod["metadata"]["annotations"]["crisp/backoff-limit"], "3");
    assert_eq!(pod["spec"]["restartPolicy"], "OnFailure");
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["args"], json!(["echo", "$$HOME $$(X)"]), "no variable of a manifest");
    assert_eq!(container["env"], json!([{ "name": "A", "value": "$$(B)" }]));
    assert_eq!(container["ports"][0]["hostPort"], 8080);
    assert_eq!(container["volumeMounts"][0]["mountPath"], "/data");
    assert_eq!((&container["stdinOnce"], &container["tty"]), (&json!(true), &json!(true)));
    assert_eq!(container["imagePullPolicy"], "IfNotPresent");
    let manifests = read("-v|data:/a|-v|data:/b|-v|other:/c|nginx").unwrap();
    assert_eq!(manifests.others.len(), 2, "one claim for each volume");
    assert!(manifests.pods[0].pod.name.starts_with("nginx-"));
    let pod = &read("--name|x|alpine").unwrap().pods[0].pod;
    assert_eq!(pod.extra.oom_score_adj, Some(0));
}

#[test]
fn the_program_of_the_image_is_kept_or_replaced() {
    let words = |line| {
        let container = container(line);
        (container["command"].clone(), container["args"].clone())
    };
    assert_eq!(words("a"), (Value::Null, json!([])));
    assert_eq!(words("a|-l"), (Value::Null, json!(["-l"])));
    assert_eq!(words("--entrypoint|sh|a|x"), (json!(["sh"]), json!(["x"])));
    assert_eq!(words("--entrypoint=|a|ls|x"), (json!(["ls", "x"]), Value::Null));
}

#[test]
fn what_a_manifest_has_no_field_for_is_in_an_annotation() {
    let line = "-m|64m|--memory-swap|128m|--cpus|1.5|--cpuset-cpus|0|--pids-limit|-1|--oom-score-adj|-5|-u|www-data|--device|/dev/null:/dev/x:r|a";
    let manifests = read(line).unwrap();
    let pod = &manifests.pods[0].pod;
    let extra = &pod.extra;
    assert_eq!(
        (extra.memory_swap, extra.pids_limit, extra.oom_score_adj),
        (Some(128 << 20), Some(-1), Some(-5))
    );
    assert_eq!((extra.user.as_deref(), extra.devices[0].container.as_str()), (Some("www-data"), "/dev/x"));
    let resources = pod.containers[0].resources;
    assert_eq!((resources.memory_limit, resources.cpu_limit), (Some(64 << 20), Some(1500)));
}

#[test]
fn namespaces_networks_and_resolvers_are_the_pods() {
    let spec = |line| pod(line)["spec"].clone();
    assert_eq!(spec("--network|host|a")["hostNetwork"], true);
    assert_eq!(spec("--pid|host|--ipc|host|a")["hostPID"], true);
    assert_eq!(spec("--init|a")["shareProcessNamespace"], true);
    assert_eq!(spec("--shm-size|1g|a")["volumes"][0]["emptyDir"]["sizeLimit"], "1073741824");
    assert_eq!(spec("--add-host|db:10.0.0.1|a")["hostAliases"][0]["ip"], "10.0.0.1");
    let resolver = spec("--dns|10.0.0.9|--dns-search|.|--dns-option|ndots:2|a")["dnsConfig"].clone();
    assert_eq!((&resolver["nameservers"], &resolver["searches"]), (&json!(["10.0.0.9"]), &json!([])));
    assert_eq!(resolver["options"][0], json!({ "name": "ndots", "value": "2" }));
    let spec_of_options = spec("--dns-option|ndots:2|a");
    assert_eq!(spec_of_options["dnsPolicy"], Value::Null, "names of pods are still resolved");
    assert_eq!(spec_of_options["dnsConfig"]["nameservers"], json!([]));
    let networks = |line| {
        let document = read_as(line, true).unwrap().pods.remove(0).document;
        document["metadata"]["annotations"]["crisp/networks"].clone()
    };
    let error = read_as("--network|lan|--dns|10.0.0.1|a", true).err().unwrap().to_string();
    assert!(error.contains("names on the network lan"), "{error}");
    assert!(read_as("--network|lan|--dns-option|ndots:2|a", true).is_ok());
    assert_eq!(networks("--network|default|a"), Value::Null);
    assert_eq!(networks("--network|none|a"), "none");
    assert_eq!(
        pod("--network|none|a")["metadata"]["annotations"]["crisp/networks"],
        "none",
        "without -d too"
    );
    let text = networks("--network|lan|--network|b|--ip|10.1.0.7|--network-alias|db|a");
    let value: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
    assert_eq!(
        (&value[0]["interface"], &value[0]["ips"], &value[1]["name"]),
        (&json!("eth0"), &json!(["10.1.0.7"]), &json!("b"))
    );
}

#[test]
fn checks_are_a_probe_that_ends_nothing() {
    let container = container("--health-cmd|curl -f localhost|--health-interval|5s|--health-retries|2|a");
    let probe = &container["readinessProbe"];
    assert_eq!(probe["exec"]["command"], json!(["/bin/sh", "-c", "curl -f localhost"]));
    assert_eq!(
        (&probe["periodSeconds"], &probe["timeoutSeconds"], &probe["failureThreshold"]),
        (&json!(5), &json!(30), &json!(2))
    );
    assert!(container.get("livenessProbe").is_none());
    assert!(refusal("--health-interval|5s|a").contains("--health-cmd"));
}

#[test]
fn ports_of_the_image_are_published_by_one_option() {
    let ports = container("-P|--expose|9|a")["ports"].as_array().unwrap().clone();
    assert!(ports.len() == 3 && ports.iter().all(|port| port["hostPort"].as_u64().is_some()), "{ports:?}");
    let ports = container("-p|8080:80|-P|a")["ports"].as_array().unwrap().clone();
    assert_eq!((ports.len(), &ports[0]["hostPort"]), (2, &json!(8080)), "no second port for one");
}

#[test]
fn errors_name_the_option_and_the_value() {
    for (line, words) in [
        ("-m|5x|a", &["--memory", "5x"][..]),
        ("--memory-swap|1g|a", &["--memory-swap"]),
        ("-m|1g|--memory-swap|64m|a", &["--memory-swap"]),
        ("-p|80000|a", &["--publish", "80000"]),
        ("-v|a:b|a", &["--volume", "a:b"]),
        ("--mount|type=bind|a", &["--mount", "type=bind"]),
        ("-v|/a:/x|--tmpfs|/x/|a", &["--tmpfs", "/x"]),
        ("--name|Web|a", &["--name", "Web"]),
        ("--name|a.b|a", &["--name", "a.b"]),
        ("-h|a.b|a", &["--hostname", "a.b"]),
        ("-h|x|--network|host|a", &["--hostname"]),
        ("-p|80|--network|host|a", &["--publish"]),
        ("--network|none|--network|lan|a", &["--network none"]),
        ("--network|none|-p|80|a", &["--publish", "none"]),
        ("--network|none|--ip|10.0.0.1|a", &["--ip", "none"]),
        ("--network|lan|a", &["--network lan", "-d"]),
        ("--entrypoint=|a", &["--entrypoint", "command"]),
        ("--rm|--restart|always|a", &["--rm", "--restart"]),
        ("-c|512|a", &["--cpu-shares is not supported"]),
        ("-v|/a:/dev/shm|--shm-size|1g|a", &["/dev/shm"]),
        ("--network|container:web|a", &["--network container:web", "-d"]),
        ("--pid|container:web|a", &["--pid container:web"]),
        ("--ipc|none|a", &["--ipc", "none"]),
        ("--userns|keep-id|a", &["--userns", "keep-id"]),
        ("--ip|10.0.0.1|a", &["--ip", "--network"]),
        ("--add-host|db|a", &["--add-host", "db"]),
        ("--add-host|db:host-gateway|a", &["--add-host", "host-gateway"]),
        ("--dns|x|a", &["--dns", "x"]),
        ("-w|rel|a", &["--workdir", "rel"]),
        ("--health-cmd|x|--health-interval|100ms|a", &["--health-interval", "100ms"]),
        ("--health-cmd|x|--health-interval|0|a", &["--health-interval"]),
        ("--restart|sometimes|a", &["--restart", "sometimes"]),
        ("--stop-signal|FOO|a", &["--stop-signal", "FOO"]),
        ("--pull|often|a", &["--pull", "often"]),
        ("--oom-score-adj|1001|a", &["--oom-score-adj", "1001"]),
        ("--ulimit|nofile=5:4|a", &["--ulimit", "nofile=5:4", "hard limit"]),
        ("--ulimit|files=5|a", &["--ulimit", "files=5", "nofile"]),
        ("--gpus|0|a", &["--gpus", "0"]),
        ("--platform|linux/arm64|a", &["--platform is not supported"]),
        ("A B", &["A B", "no image"]),
    ] {
        let error = refusal(line);
        assert!(words.iter().all(|word| error.contains(word)), "{line}: {error}");
    }
}

#[test]
fn an_id_is_written_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("id");
    let options = Options { cidfile: Some(path.clone()), ..Options::default() };
    write_id(&options, "abc").unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "abc");
    let error = format!("{:#}", write_id(&options, "def").unwrap_err());
    assert!(error.contains("--cidfile"), "{error}");
    assert!(ImageRun::new("a", Vec::new(), options).unwrap_err().to_string().contains("is there already"));
}
