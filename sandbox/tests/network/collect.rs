//! The CNI verb GC.

use std::fs;
use std::path::Path;
use std::slice::from_ref;
use std::time::{Duration, Instant};

use crisp_sandbox::network::{NETWORKS_ANNOTATION, NetworkConfig, Networks};

use crate::plugins::{RESULT, calls, plugin, scripted, write_config};
use crate::support::CollectGarbage as _;
use crate::support::{Namespace, block_on, on_private_host};

/// Two networks of one plugin each; only the first is in force.
fn two(dir: &Path, body: &str) -> NetworkConfig {
    for (file, name) in [("10.conflist", "first"), ("20.conflist", "second")] {
        let list = format!(r#"{{"cniVersion":"1.1.0","name":"{name}","plugins":[{{"type":"{name}"}}]}}"#);
        write_config(dir, file, &list);
        plugin(dir, name, &format!("{body}; {RESULT}"));
    }
    NetworkConfig { cni_gc: true, ..scripted(dir) }
}

/// The GC calls, with the input.
fn collected(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(dir.join("calls")).unwrap_or_default();
    text.lines().filter(|line| line.starts_with("GC")).map(str::to_owned).collect()
}

#[test]
fn gc_is_sent_to_every_network_also_one_that_only_a_pod_has() {
    on_private_host(module_path!(), "gc_is_sent_to_every_network_also_one_that_only_a_pod_has", || {
        let dir = tempfile::tempdir().unwrap();
        let networks = Networks::open(&two(dir.path(), ":")).unwrap();
        let pod = Namespace::new();
        let mut request = pod.request(&[]);
        request.annotations.insert(NETWORKS_ANNOTATION.to_owned(), "second".to_owned());
        block_on(async {
            networks.attach(request).await.unwrap();
            networks.collect_garbage(from_ref(&pod.id)).await.unwrap();
            let sent = collected(dir.path());
            let valid = |interface: &str| {
                format!(
                    r#""cni.dev/valid-attachments":[{{"containerID":"{}","ifname":"{interface}"}}]"#,
                    pod.id
                )
            };
            assert_eq!(sent.len(), 2, "{sent:?}");
            assert!(sent[0].starts_with("GC first") && sent[0].contains(&valid("eth0")), "{sent:?}");
            assert!(sent[1].starts_with("GC second") && sent[1].contains(&valid("net1")), "{sent:?}");
            fs::remove_file(dir.path().join("net.d/20.conflist")).unwrap();
            networks.collect_garbage(from_ref(&pod.id)).await.unwrap();
            assert_eq!(collected(dir.path()).len(), 4);
            networks.detach(&pod.id).await.unwrap();
            networks.collect_garbage(&[]).await.unwrap();
            assert_eq!(collected(dir.path()).len(), 5, "no pod and no file has it");
        });
    });
}

#[test]
fn a_pod_does_not_wait_for_gc_and_gc_does_not_run_beside_its_attach() {
    on_private_host(
        module_path!(),
        "a_pod_does_not_wait_for_gc_and_gc_does_not_run_beside_its_attach",
        || {
            let dir = tempfile::tempdir().unwrap();
            let body = "[ $CNI_COMMAND != GC ] || { sleep 20; echo done >>$0.collected; }
[ $CNI_COMMAND != ADD ] || sleep 0.5";
            let networks = Networks::open(&two(dir.path(), body)).unwrap();
            let (a, b) = (Namespace::new(), Namespace::new());
            block_on(async {
                let collector = networks.clone();
                let collecting = tokio::spawn(async move { collector.collect_garbage(&[]).await });
                while collected(dir.path()).is_empty() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                let before = Instant::now();
                a.attach(&networks, &[]).await.unwrap();
                collecting.await.unwrap().unwrap();
                assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
                assert_eq!(calls(dir.path()), ["GC first", "ADD first"]);
                // Beside an attach none begins.
                let attach = async {
                    b.attach(&networks, &[]).await.unwrap();
                };
                let collect = async {
                    while calls(dir.path()).len() < 3 {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    networks.collect_garbage(&[a.id.clone(), b.id.clone()]).await.unwrap();
                };
                tokio::join!(attach, collect);
                assert_eq!(collected(dir.path()).len(), 1);
            });
            assert!(!dir.path().join("bin/first.collected").exists(), "it was killed");
        },
    );
}

#[test]
fn a_plugin_that_fails_to_collect_does_not_keep_the_next_one_from_it() {
    let name = "a_plugin_that_fails_to_collect_does_not_keep_the_next_one_from_it";
    on_private_host(module_path!(), name, || {
        let dir = tempfile::tempdir().unwrap();
        let list = r#"{"cniVersion":"1.1.0","name":"pair","plugins":[{"type":"a"},{"type":"b"}]}"#;
        write_config(dir.path(), "10.conflist", list);
        plugin(dir.path(), "a", "[ $CNI_COMMAND != GC ] || { echo the pool is locked >&2; exit 1; }");
        plugin(dir.path(), "b", RESULT);
        let networks = Networks::open(&NetworkConfig { cni_gc: true, ..scripted(dir.path()) }).unwrap();
        let error = block_on(networks.collect_garbage(&[])).unwrap_err().to_string();
        assert!(error.contains("\"a\" (GC, network \"pair\")") && error.contains("locked"), "{error}");
        assert_eq!(calls(dir.path()), ["GC a", "GC b"]);
    });
}
