//! Debian's docker-registry, the real thing, on a folder and a port of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::image::Image;

const BINARY: &str = "/usr/bin/docker-registry";

pub struct DockerRegistry {
    pub address: SocketAddr,
    process: Child,
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl DockerRegistry {
    /// `None`, and a skip reported, where the program is not installed.
    pub fn start(storage: &Path, settings: &[(&str, String)]) -> Option<Self> {
        crisp_skip::needs!(BINARY);
        // Free a moment ago; the registry takes no descriptor.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = storage.join("config.yml");
        std::fs::create_dir_all(storage).unwrap();
        std::fs::write(
            &config,
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: /nowhere\nhttp:\n  addr: x\n",
        )
        .unwrap();
        let process = Command::new(BINARY)
            .args(["serve".as_ref(), config.as_os_str()])
            .env("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", storage.join("data"))
            .env("REGISTRY_HTTP_ADDR", address.to_string())
            .env("REGISTRY_LOG_LEVEL", "error")
            .env("OTEL_TRACES_EXPORTER", "none")
            .envs(settings.iter().map(|(k, v)| (*k, v.as_str())))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(started.elapsed() < Duration::from_secs(20), "docker-registry did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Self { address, process })
    }

    /// Pushes an image, layers first, as `app:tag`. Only to a registry without TLS and authentication.
    pub fn push(&self, tag: &str, image: &Image) {
        for child in &image.children {
            self.push(child.digest.as_str(), child);
        }
        for (digest, bytes) in &image.blobs {
            let (_, headers) = self.http("POST", "/v2/app/blobs/uploads/", &[], &[]);
            let location = headers.iter().find(|(k, _)| k == "location").map(|(_, v)| v.clone()).unwrap();
            let path = &location[location.find("/v2/").unwrap()..];
            let separator = if path.contains('?') { '&' } else { '?' };
            let kind = [("content-type", "application/octet-stream")];
            let (status, _) = self.http("PUT", &format!("{path}{separator}digest={digest}"), &kind, bytes);
            assert_eq!(status, 201);
        }
        let kind = [("content-type", image.media_type)];
        let (status, _) = self.http("PUT", &format!("/v2/app/manifests/{tag}"), &kind, &image.manifest);
        assert_eq!(status, 201);
    }

    fn http(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> (u16, Vec<(String, String)>) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("Content-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answered = Vec::new();
        loop {
            line.clear();
            reader.read_line(&mut line).unwrap();
            match line.trim_end().split_once(": ") {
                Some((name, value)) => answered.push((name.to_ascii_lowercase(), value.to_owned())),
                None => break,
            }
        }
        let _ = reader.read_to_end(&mut Vec::new());
        (status, answered)
    }
}

/// Certificates for 127.0.0.1, made by openssl: an authority, a server and a client.
pub struct Certificates {
    pub dir: PathBuf,
}

impl Certificates {
    /// `None`, and a skip reported, where openssl is not installed.
    pub fn make(dir: &Path) -> Option<Self> {
        std::fs::create_dir_all(dir).unwrap();
        let new = Self { dir: dir.to_owned() };
        let authority = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority \
            -keyout ca.key -out ca.pem -addext basicConstraints=critical,CA:TRUE";
        crisp_skip::needs!("openssl");
        assert!(new.openssl(authority));
        for (name, extension) in
            [("server", "subjectAltName=IP:127.0.0.1"), ("client", "extendedKeyUsage=clientAuth")]
        {
            std::fs::write(dir.join(format!("{name}.ext")), extension).unwrap();
            let request = format!(
                "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
            );
            let sign = format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile {name}.ext -out {name}.pem"
            );
            assert!(new.openssl(&request) && new.openssl(&sign));
        }
        Some(new)
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn openssl(&self, arguments: &str) -> bool {
        let run = Command::new("openssl")
            .args(arguments.split_ascii_whitespace())
            .current_dir(&self.dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        run.is_ok_and(|status| status.success())
    }
}
