//! Beside a running firewalld, which rejects forwarded packets of interfaces that are in none of its zones.

use std::process::{Child, Command, Stdio};

use crate::firewalls::{Case, V4, V6, mends};
use crate::support::{on_private_host, sh};

/// Ends the daemon with the test, which ends its namespaces too.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the bus that firewalld speaks to its command on.
fn bus() -> Daemon {
    sh("mkdir /run/dbus");
    let bus = Command::new("dbus-daemon").args(["--system", "--nofork", "--nopidfile"]).spawn().unwrap();
    sh("timeout 60 sh -c 'until [ -S /run/dbus/system_bus_socket ]; do sleep 0.05; done'");
    Daemon(bus)
}

/// Gives firewalld folders for settings and logs that are gone with this host.
fn folders() {
    sh("mkdir /run/etc /run/log && cp -a /etc/firewalld/. /run/etc/ &&
        mount --bind /run/etc /etc/firewalld && mount --bind /run/log /var/log");
}

#[test]
fn firewalld_is_named_and_its_own_command_allows_the_pods() {
    crisp_skip::needs!("firewalld", "firewall-cmd", "dbus-daemon");
    on_private_host(module_path!(), "firewalld_is_named_and_its_own_command_allows_the_pods", || {
        folders();
        let _bus = bus();
        let firewalld = Command::new("sh")
            .args(["-c", "until [ -e /run/start ]; do sleep 0.05; done; exec firewalld --nofork --nopid"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let _firewalld = Daemon(firewalld);
        mends(&[Case {
            firewall: "touch /run/start; timeout 60 sh -c 'until firewall-cmd --quiet --state; do sleep 0.1; done'",
            who: "firewalld",
            stops: &[V4, V6],
            // It accepts what is redirected: packets to host ports, and queries to the gateway.
            lets_in: true,
            stops_names: &[],
        }]);
        assert_eq!(sh("firewall-cmd --zone=trusted --list-interfaces").trim(), "crisp0", "after its reload");
    });
}
