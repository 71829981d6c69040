//! etcd and a kube-apiserver that allows everything with one token.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;
use crate::programs::API_SERVER;
use crate::registry::free_port;

const TOKEN: &str = "crisp-e2e";
const READY: Duration = Duration::from_secs(60);

/// The two processes, on ports of their own.
pub(crate) struct ApiServer {
    folder: PathBuf,
    address: String,
    etcd: Child,
    server: Child,
}

impl ApiServer {
    /// Starts both on the loopback interface and waits until requests are answered. Pods have no tokens.
    pub(super) fn start(folder: &Path) -> Result<Self> {
        Self::start_at(
            folder,
            &format!("127.0.0.1:{}", free_port()?),
            &["--disable-admission-plugins=ServiceAccount"],
        )
    }

    /// Starts both, with more flags and the API server on this address, and waits until requests are answered.
    pub(crate) fn start_at(folder: &Path, address: &str, flags: &[&str]) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let etcd_port = free_port()?;
        let etcd = start_etcd(folder, etcd_port)?;
        let (host, port) = address.rsplit_once(':').ok_or("an address has a port")?;
        let key = folder.join("service-account.key");
        make_key(&key)?;
        let tokens = folder.join("tokens.csv");
        std::fs::write(&tokens, format!("{TOKEN},admin,1,system:masters\n"))?;
        let path = |path: &Path| path.display().to_string();
        let server = spawn(&API_SERVER.path(), &folder.join("api-server.log"), |command| {
            command
                .arg(format!("--etcd-servers=http://127.0.0.1:{etcd_port}"))
                .arg(format!("--secure-port={port}"))
                .arg(format!("--bind-address={host}"))
                .arg(format!("--cert-dir={}", path(&folder.join("certificates"))))
                .arg(format!("--service-account-key-file={}", path(&key)))
                .arg(format!("--service-account-signing-key-file={}", path(&key)))
                .arg("--service-account-issuer=https://127.0.0.1")
                .arg(format!("--token-auth-file={}", path(&tokens)))
                .arg("--authorization-mode=AlwaysAllow")
                .args(["--service-cluster-ip-range=10.96.0.0/16", "--allow-privileged=true"])
                .arg("--kubelet-preferred-address-types=InternalIP")
                .args(flags);
        })?;
        let mut this = Self { folder: folder.to_owned(), address: address.to_owned(), etcd, server };
        std::fs::write(this.kubeconfig(), this.config())?;
        this.wait_until_ready()?;
        Ok(this)
    }

    /// The file with which clients, and the kubelet, find the server.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// The key that signs the tokens of service accounts.
    pub(crate) fn key(&self) -> PathBuf {
        self.folder.join("service-account.key")
    }

    /// The certificate that the server made for itself, with that of its authority.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.join("certificates/apiserver.crt")
    }

    fn config(&self) -> String {
        format!(
            r#"apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "https://{address}", insecure-skip-tls-verify: true}}}}]
users: [{{name: u, user: {{token: {TOKEN}}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
"#,
            address = self.address
        )
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY;
        let url = format!("https://{}/readyz", self.address);
        let token = format!("Authorization: Bearer {TOKEN}");
        loop {
            let mut curl = Command::new("curl");
            let answer = curl.args(["-ks", "--max-time", "5", "-H", &token, &url]).output()?;
            if answer.stdout == b"ok" {
                return Ok(());
            }
            let ended = self.server.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let log = std::fs::read_to_string(self.folder.join("api-server.log")).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(20).collect();
                return Err(format!("the API server is not ready ({ended:?}):\n{}", tail.join("\n")).into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        for child in [&mut self.server, &mut self.etcd] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn start_etcd(folder: &Path, port: u16) -> Result<Child> {
    let program = crisp_skip::program("etcd").ok_or("etcd is not installed")?;
    let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{}", free_port()?));
    spawn(&program, &folder.join("etcd.log"), |command| {
        command.arg("--data-dir").arg(folder.join("etcd"));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        // No data has to outlive the test.
        command.args(["--initial-cluster", &format!("default={peer}"), "--unsafe-no-fsync"]);
    })
}

fn make_key(path: &Path) -> Result<()> {
    let made = Command::new("openssl").args(["genrsa", "-out"]).arg(path).arg("2048").output()?;
    if made.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&made.stderr).into()) }
}

/// Starts a program whose output goes to a new file.
pub(crate) fn spawn(program: &Path, log: &Path, arguments: impl FnOnce(&mut Command)) -> Result<Child> {
    let log = std::fs::File::create(log)?;
    let mut command = Command::new(program);
    arguments(&mut command);
    Ok(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?)
}
