//! Faults of a node in CNI networking: configurations that come late, records that are lost, plugins that are
//! uninstalled.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::slice::from_ref;
use std::time::{Duration, Instant};

use crisp_sandbox::network::{NETWORKS_ANNOTATION, NetworkConfig, NetworkKind, Networks};

use crate::plugins::{RESULT, TWO, calls, plugin, scripted, write_config};
use crate::support::CollectGarbage as _;
use crate::support::{Namespace, block_on, on_private_host, sh};

const ONE: &str = r#"{"cniVersion":"1.1.0","name":"one","plugins":[{"type":"only"}]}"#;

/// A server with one pod on the network `ONE`.
fn with_one_pod(dir: &Path) -> (Networks, Namespace) {
    write_config(dir, "10.conflist", ONE);
    plugin(dir, "only", RESULT);
    let networks = Networks::open(&scripted(dir)).unwrap();
    let pod = Namespace::new();
    block_on(pod.attach(&networks, &[])).unwrap();
    (networks, pod)
}

fn record(dir: &Path, pod: &Namespace) -> std::path::PathBuf {
    dir.join("root/cni").join(format!("{}.json", pod.id))
}

#[test]
fn no_pod_gets_another_network_while_the_cni_configuration_is_not_there_yet() {
    on_private_host(
        module_path!(),
        "no_pod_gets_another_network_while_the_cni_configuration_is_not_there_yet",
        || {
            let dir = tempfile::tempdir().unwrap();
            let networks = NetworkConfig { kind: NetworkKind::Cni, ..scripted(dir.path()) };
            let networks = Networks::open(&networks).unwrap();
            let status = networks.status();
            assert_eq!((status.ready, status.reason.as_str()), (false, "NetworkPluginNotReady"));
            assert!(status.message.starts_with("no CNI configuration in"), "{status:?}");
            let pod = Namespace::new();
            let error = block_on(pod.attach(&networks, &[])).unwrap_err().to_string();
            assert_eq!(error, status.message);
            write_config(dir.path(), "10.conflist", TWO);
            plugin(dir.path(), "first", RESULT);
            plugin(dir.path(), "second", RESULT);
            assert!(networks.status().ready);
            assert_eq!(block_on(pod.attach(&networks, &[])).unwrap().network, "two");
            block_on(networks.detach(&pod.id)).unwrap();
        },
    );
}

#[test]
fn the_built_in_network_is_used_beside_a_cni_configuration_where_it_was_chosen() {
    on_private_host(
        module_path!(),
        "the_built_in_network_is_used_beside_a_cni_configuration_where_it_was_chosen",
        || {
            let dir = tempfile::tempdir().unwrap();
            write_config(dir.path(), "10.conflist", TWO);
            let networks = NetworkConfig { kind: NetworkKind::BuiltIn, ..scripted(dir.path()) };
            let networks = Networks::open(&networks).unwrap();
            assert!(networks.status().message.starts_with("built-in network"));
            let pod = Namespace::new();
            let attached = block_on(pod.attach(&networks, &[])).unwrap();
            assert!(attached.ips[0].to_string().starts_with("10.88."), "{attached:?}");
            block_on(networks.detach(&pod.id)).unwrap();
            block_on(networks.close_if_unused()).unwrap();
        },
    );
}

#[test]
fn agents_that_have_the_folder_of_namespaces_mounted_see_later_pods() {
    on_private_host(
        module_path!(),
        "agents_that_have_the_folder_of_namespaces_mounted_see_later_pods",
        || {
            let dir = tempfile::tempdir().unwrap();
            let (networks, pod) = with_one_pod(dir.path());
            let folder = || fs::metadata("/run/netns").unwrap().ino();
            let before = folder();
            block_on(networks.detach(&pod.id)).unwrap();
            assert_eq!(sh("ls /run/netns"), "");
            block_on(pod.attach(&networks, &[])).unwrap();
            assert_eq!(folder(), before);
            block_on(networks.detach(&pod.id)).unwrap();
        },
    );
}

#[test]
fn gc_frees_nothing_while_a_record_cannot_be_used() {
    on_private_host(module_path!(), "gc_frees_nothing_while_a_record_cannot_be_used", || {
        let dir = tempfile::tempdir().unwrap();
        let (networks, pod) = with_one_pod(dir.path());
        drop(networks);
        let (record, aside) = (record(dir.path(), &pod), dir.path().join("aside"));
        fs::rename(&record, &aside).unwrap();
        // Stands for a disk that refuses to read.
        fs::create_dir(&record).unwrap();
        let config = NetworkConfig { cni_gc: true, ..scripted(dir.path()) };
        block_on(Networks::open(&config).unwrap().collect_garbage(from_ref(&pod.id))).unwrap();
        assert_eq!(calls(dir.path()), ["ADD only"]);
        fs::remove_dir(&record).unwrap();
        fs::rename(&aside, &record).unwrap();
        let networks = Networks::open(&config).unwrap();
        block_on(networks.collect_garbage(from_ref(&pod.id))).unwrap();
        assert_eq!(calls(dir.path()), ["ADD only", "GC only"]);
        block_on(networks.detach(&pod.id)).unwrap();
    });
}

#[test]
fn a_pod_whose_record_is_damaged_is_taken_off_the_network_in_force() {
    on_private_host(
        module_path!(),
        "a_pod_whose_record_is_damaged_is_taken_off_the_network_in_force",
        || {
            let dir = tempfile::tempdir().unwrap();
            let (networks, pod) = with_one_pod(dir.path());
            drop(networks);
            fs::write(record(dir.path(), &pod), "{").unwrap();
            // Set aside by one server, and taken away by the next.
            drop(Networks::open(&scripted(dir.path())).unwrap());
            let networks = Networks::open(&scripted(dir.path())).unwrap();
            block_on(networks.detach(&pod.id)).unwrap();
            let text = fs::read_to_string(dir.path().join("calls")).unwrap();
            let last = text.lines().last().unwrap();
            let expected = format!("DEL only ns=/run/netns/crisp-{} eth0 IgnoreUnknown=1", pod.id.short());
            assert!(last.starts_with(&expected) && last.contains(pod.id.as_str()), "{last}");
            assert_eq!(fs::read_dir(dir.path().join("root/cni")).unwrap().count(), 0);
            assert_eq!(sh("ls /run/netns"), "");
        },
    );
}

#[test]
fn what_plugins_print_instead_of_a_result_is_an_error_and_is_taken_back() {
    let name = "what_plugins_print_instead_of_a_result_is_an_error_and_is_taken_back";
    on_private_host(module_path!(), name, || {
        let dir = tempfile::tempdir().unwrap();
        write_config(dir.path(), "10.conflist", TWO);
        plugin(dir.path(), "first", RESULT);
        let networks = Networks::open(&scripted(dir.path())).unwrap();
        let pod = Namespace::new();
        for (prints, why) in [
            ("head -c 3000 /dev/urandom", "its result is not JSON"),
            ("head -c 100000000 /dev/zero", "it printed more than 1024 kB on standard output; it was killed"),
            ("echo '[]'", "its result is not an object"),
            ("echo '{\"ips\":[{\"address\":\"10.0.0.1/8\"}],\"ips\":7}'", "its result"),
            ("echo '{\"ips\":[{\"address\":\"nowhere\"}]}'", "which is none"),
            ("kill -SEGV $$", "signal: 11"),
            (
                "for n in 1 2 3 4 5 6 7 8 9; do printf '[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[['; done",
                "its result is not JSON",
            ),
        ] {
            plugin(dir.path(), "second", &format!("[ $CNI_COMMAND = DEL ] || {{ {prints}; }}"));
            let error = block_on(pod.attach(&networks, &[])).unwrap_err().to_string();
            assert!(error.contains("\"second\" (ADD") && error.contains(why), "{prints}: {error}");
            assert!(error.len() < 20_000, "{prints}: {} bytes", error.len());
            assert_eq!(calls(dir.path()).last().unwrap(), "DEL first");
            assert!(networks.recorded().is_empty());
        }
    });
}

#[test]
fn a_configuration_that_comes_and_goes_gives_pods_one_network_or_an_error() {
    let name = "a_configuration_that_comes_and_goes_gives_pods_one_network_or_an_error";
    on_private_host(module_path!(), name, || {
        let dir = tempfile::tempdir().unwrap();
        let config = NetworkConfig { kind: NetworkKind::Cni, ..scripted(dir.path()) };
        plugin(dir.path(), "only", RESULT);
        let networks = Networks::open(&config).unwrap();
        let (path, stop) =
            (dir.path().to_owned(), std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)));
        let until = std::sync::Arc::clone(&stop);
        let changing = std::thread::spawn(move || {
            while !until.load(std::sync::atomic::Ordering::Relaxed) {
                write_config(&path, "10.conflist", ONE);
                std::thread::sleep(Duration::from_millis(3));
                fs::write(path.join("net.d/10.conflist"), &ONE[..20]).unwrap();
                std::thread::sleep(Duration::from_millis(1));
                fs::remove_file(path.join("net.d/10.conflist")).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let (mut attached, mut refused) = (0, 0);
        block_on(async {
            while attached < 5 || refused < 5 {
                let pod = Namespace::new();
                match pod.attach(&networks, &[]).await {
                    Ok(on) => {
                        assert_eq!(on.network, "one");
                        attached += 1;
                        networks.detach(&pod.id).await.unwrap();
                    }
                    Err(error) => {
                        let reason = error.reason();
                        assert!(["NetworkPluginNotReady", "CniConfigInvalid"].contains(&reason), "{error}");
                        refused += 1;
                    }
                }
            }
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        changing.join().unwrap();
        assert!(networks.recorded().is_empty());
        assert_eq!(sh("ls /run/netns"), "");
    });
}

#[test]
fn a_namespace_that_was_deleted_behind_the_servers_back_does_not_hold_its_pod() {
    let name = "a_namespace_that_was_deleted_behind_the_servers_back_does_not_hold_its_pod";
    on_private_host(module_path!(), name, || {
        let dir = tempfile::tempdir().unwrap();
        let (networks, pod) = with_one_pod(dir.path());
        sh("umount /run/netns/* && rm -r /run/netns && mkdir /run/netns");
        block_on(networks.detach(&pod.id)).unwrap();
        assert_eq!(calls(dir.path()), ["ADD only", "DEL only"]);
        // The built-in network's interface goes with the namespace, here with all that holds it.
        let config = NetworkConfig { kind: NetworkKind::BuiltIn, ..scripted(dir.path()) };
        let networks = Networks::open(&config).unwrap();
        let pod = Namespace::new();
        block_on(pod.attach(&networks, &[])).unwrap();
        sh(&format!("ip link del cr{}", &pod.id.as_str()[..11]));
        block_on(networks.detach(&pod.id)).unwrap();
        block_on(networks.close_if_unused()).unwrap();
        assert!(!sh("ip link").contains("crisp0"));
    });
}

#[test]
fn a_plugin_that_was_uninstalled_keeps_its_pods_only_while_the_network_uses_it() {
    on_private_host(
        module_path!(),
        "a_plugin_that_was_uninstalled_keeps_its_pods_only_while_the_network_uses_it",
        || {
            let dir = tempfile::tempdir().unwrap();
            let (networks, pod) = with_one_pod(dir.path());
            fs::remove_file(dir.path().join("bin/only")).unwrap();
            let error = block_on(networks.detach(&pod.id)).unwrap_err().to_string();
            assert!(error.contains("\"only\"") && error.contains("install it"), "{error}");
            // The node changes its network.
            fs::remove_file(dir.path().join("net.d/10.conflist")).unwrap();
            write_config(dir.path(), "10.conflist", TWO);
            block_on(networks.detach(&pod.id)).unwrap();
            assert!(networks.attachment(&pod.id).is_none());
            assert_eq!(sh("ls /run/netns"), "");
            let aside = record(dir.path(), &pod).with_extension("json.bad");
            assert!(aside.exists(), "it tells what may be left");
        },
    );
}

#[test]
fn a_pod_is_not_held_for_ever_by_a_plugin_that_hangs_for_ever() {
    on_private_host(module_path!(), "a_pod_is_not_held_for_ever_by_a_plugin_that_hangs_for_ever", || {
        let dir = tempfile::tempdir().unwrap();
        write_config(dir.path(), "10.conflist", TWO);
        plugin(dir.path(), "first", RESULT);
        plugin(dir.path(), "second", &format!("[ $CNI_COMMAND != DEL ] || sleep 1000; {RESULT}"));
        let limit = Duration::from_secs(2);
        let config = NetworkConfig { cni_deadline: limit, ..scripted(dir.path()) };
        let pod = Namespace::new();
        // The short limit is for the detaches alone.
        block_on(pod.attach(&Networks::open(&scripted(dir.path())).unwrap(), &[])).unwrap();
        let networks = Networks::open(&config).unwrap();
        block_on(async {
            for _ in 0..2 {
                let error = networks.detach(&pod.id).await.unwrap_err().to_string();
                assert!(error.contains("\"second\" (DEL"), "{error}");
            }
            let begun = Instant::now();
            networks.detach(&pod.id).await.unwrap();
            assert!(begun.elapsed() >= limit * 2, "{:?}: once more without the namespace", begun.elapsed());
            // Room for both plugins, twice.
            assert!(networks.time_of_detach(&pod.id) >= Duration::from_secs(30) + limit * 4);
            // A later request does not wait for the server's own try.
            let server = networks.clone();
            let tried = vec![pod.id.clone()];
            let tried = tokio::spawn(async move { server.give_back(tried).await });
            let dels = || calls(dir.path()).iter().filter(|call| *call == "DEL second").count();
            let before = dels();
            while dels() == before {
                assert!(!tried.is_finished());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            networks.detach(&pod.id).await.unwrap();
            assert!(!tried.is_finished());
            assert_eq!(tried.await.unwrap().unwrap(), [], "it is still left");
        });
    });
}

#[test]
fn a_usable_network_stays_usable_while_the_plugins_of_a_changed_file_respond() {
    let name = "a_usable_network_stays_usable_while_the_plugins_of_a_changed_file_respond";
    on_private_host(module_path!(), name, || {
        let dir = tempfile::tempdir().unwrap();
        write_config(dir.path(), "10.conflist", ONE);
        plugin(dir.path(), "only", RESULT);
        let networks = Networks::open(&scripted(dir.path())).unwrap();
        block_on(async {
            let first = networks.clone();
            let begun = Instant::now();
            let first = tokio::task::spawn_blocking(move || first.first_status()).await.unwrap();
            let in_time = begun.elapsed() < Duration::from_secs(2);
            assert!(first.ready || !in_time, "{first:?}: it waits for the first response");
            while !networks.status().ready {
                assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", networks.status());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let failing = "[ $CNI_COMMAND != STATUS ] || { sleep 0.3; echo agent is down >&2; exit 1; }";
            plugin(dir.path(), "only", failing);
            let changed = ONE.replace("\"type\":\"only\"", "\"type\":\"only\",\"mtu\":1400");
            write_config(dir.path(), "10.conflist", &changed);
            assert!(networks.status().ready, "{:?}", networks.status());
            let begun = Instant::now();
            while networks.status().ready {
                assert!(begun.elapsed() < Duration::from_secs(20), "its response is not used");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert!(networks.status().message.contains("agent is down"), "{:?}", networks.status());
            plugin(dir.path(), "only", RESULT);
            write_config(dir.path(), "10.conflist", &changed.replace("1400", "1350"));
            let begun = Instant::now();
            while !networks.status().ready {
                assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", networks.status());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            // Another network is not usable because the one before was, and unknown is not usable.
            plugin(dir.path(), "only", "[ $CNI_COMMAND != STATUS ] || sleep 1000");
            write_config(dir.path(), "10.conflist", &changed.replace("\"name\":\"one\"", "\"name\":\"two\""));
            let status = networks.status();
            assert!(!status.ready && status.message.contains("have not answered STATUS yet"), "{status:?}");
        });
    });
}

#[test]
fn a_chain_may_take_longer_than_one_plugin_may() {
    on_private_host(module_path!(), "a_chain_may_take_longer_than_one_plugin_may", || {
        let dir = tempfile::tempdir().unwrap();
        write_config(dir.path(), "10.conflist", TWO);
        let slow = format!("[ $CNI_COMMAND != ADD ] || sleep 5; {RESULT}");
        plugin(dir.path(), "first", &slow);
        plugin(dir.path(), "second", &slow);
        let limit = Duration::from_secs(9);
        let networks =
            Networks::open(&NetworkConfig { cni_deadline: limit, ..scripted(dir.path()) }).unwrap();
        let pod = Namespace::new();
        let begun = Instant::now();
        assert_eq!(block_on(pod.attach(&networks, &[])).unwrap().network, "two");
        assert!(begun.elapsed() > limit, "{:?}", begun.elapsed());
        // Both plugins at their limits, and both again to undo that.
        let time = |name: &str| {
            let networks_of = (NETWORKS_ANNOTATION.to_owned(), name.to_owned());
            networks.time_of_attach(&[networks_of].into())
        };
        assert!(time("two@eth0") >= limit * 4, "{:?}", time("two@eth0"));
        assert!(networks.time_of_attach(&Default::default()) >= limit * 4);
        let of_built_in = time("default@eth0");
        assert!(of_built_in < limit * 4, "no plugin is called: {of_built_in:?}");
        assert_eq!(time("default@eth0,two") - of_built_in, limit * 4);
        block_on(networks.detach(&pod.id)).unwrap();
    });
}
