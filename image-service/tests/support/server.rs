//! A registry in this process that does as it is told: serves an image, and for chosen requests lies,
//! cuts, stalls or asks for credentials.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::image::Image;

/// A request, as far as tests look at it.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    /// Path with query.
    pub target: String,
    /// Lower-case names.
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    pub fn is_blob(&self) -> bool {
        self.path().contains("/blobs/")
    }
}

/// The response, and its faults.
#[derive(Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Close after this many bytes of the body.
    pub cut_after: Option<usize>,
    /// Say nothing more after this many bytes of the body, for a long time.
    pub stall_after: Option<usize>,
    /// No Content-Length.
    pub chunked: bool,
    /// Before anything is sent.
    pub delay: Duration,
    /// Send `drip_bytes` of the body at a time, with this pause before each.
    pub drip: Option<Duration>,
    pub drip_bytes: usize,
}

impl Reply {
    pub fn new(status: u16) -> Self {
        let (headers, body) = (Vec::new(), Vec::new());
        Self {
            status,
            headers,
            body,
            cut_after: None,
            stall_after: None,
            chunked: false,
            delay: Duration::ZERO,
            drip: None,
            drip_bytes: 1,
        }
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

type Behaviour = dyn Fn(&Asked, Option<Reply>) -> Option<Reply> + Send + Sync;

struct Shared {
    content: HashMap<String, Reply>,
    ranges: bool,
    behaviour: Box<Behaviour>,
    log: Mutex<Vec<Asked>>,
}

pub struct Server {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Serves `images` under `app` with their tags. `behaviour` sees each request with the honest answer
    /// and returns what is sent instead; `None` closes the connection without a word.
    pub async fn start(
        images: &[(&str, &Image)],
        behaviour: impl Fn(&Asked, Option<Reply>) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut content = HashMap::new();
        for (tag, image) in images {
            add(&mut content, Some(tag), image);
        }
        let shared =
            Arc::new(Shared { content, ranges: true, behaviour: Box::new(behaviour), log: Mutex::default() });
        let for_task = shared.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, for_task.clone()));
            }
        });
        Self { address, shared, task }
    }

    pub async fn honest(images: &[(&str, &Image)]) -> Self {
        Self::start(images, |_, honest| honest).await
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.shared.log.lock().unwrap().clone()
    }

    pub fn asked_for(&self, part: &str) -> Vec<Asked> {
        self.asked().into_iter().filter(|a| a.target.contains(part)).collect()
    }
}

fn add(content: &mut HashMap<String, Reply>, tag: Option<&str>, image: &Image) {
    let manifest = Reply::new(200)
        .header("content-type", image.media_type)
        .header("docker-content-digest", image.digest.as_str())
        .body(image.manifest.clone());
    if let Some(tag) = tag {
        content.insert(format!("/v2/app/manifests/{tag}"), manifest.clone());
    }
    content.insert(format!("/v2/app/manifests/{}", image.digest), manifest);
    for (digest, bytes) in &image.blobs {
        content.insert(format!("/v2/app/blobs/{digest}"), Reply::new(200).body(bytes.clone()));
    }
    for child in &image.children {
        add(content, None, child);
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    let mut buffer = Vec::new();
    while let Some(asked) = read_request(&mut stream, &mut buffer).await {
        shared.log.lock().unwrap().push(asked.clone());
        let honest = shared.content.get(asked.path()).cloned().map(|r| ranged(r, &asked, shared.ranges));
        let honest = honest.or_else(|| {
            let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
            Some(Reply::new(404).body(body))
        });
        let Some(reply) = (shared.behaviour)(&asked, honest) else { return };
        if !send(&mut stream, &asked, reply).await {
            return;
        }
    }
}

fn ranged(reply: Reply, asked: &Asked, ranges: bool) -> Reply {
    let from = asked
        .header("range")
        .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    match from {
        Some(from) if ranges => {
            let total = reply.body.len();
            Reply::new(206)
                .header("content-range", format!("bytes {from}-{}/{total}", total - 1))
                .body(reply.body[from..].to_vec())
        }
        _ => reply,
    }
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Asked> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(buffer[..end].to_vec()).ok()?;
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: HashMap<_, _> = lines
        .filter_map(|l| l.split_once(": "))
        .map(|(k, v)| (k.to_ascii_lowercase(), v.to_owned()))
        .collect();
    let length = headers.get("content-length").and_then(|l| l.parse::<usize>().ok()).unwrap_or(0);
    while buffer.len() < end + 4 + length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body = String::from_utf8_lossy(&buffer[end + 4..end + 4 + length]).into_owned();
    buffer.drain(..end + 4 + length);
    Some(Asked { method, target, headers, body })
}

/// Whether the connection can be used on.
async fn send(stream: &mut TcpStream, asked: &Asked, reply: Reply) -> bool {
    tokio::time::sleep(reply.delay).await;
    let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let stated = reply.headers.iter().any(|(name, _)| name == "content-length");
    if reply.chunked {
        head += "transfer-encoding: chunked\r\n";
    } else if !stated {
        head += &format!("content-length: {}\r\n", reply.body.len());
    }
    head += "\r\n";
    let mut bytes = head.into_bytes();
    if let Some(pause) = reply.drip.filter(|_| asked.method != "HEAD") {
        return drip(stream, bytes, &reply, pause).await;
    }
    if asked.method != "HEAD" {
        let limit = reply.cut_after.or(reply.stall_after).unwrap_or(reply.body.len()).min(reply.body.len());
        if reply.chunked {
            bytes.extend(format!("{limit:x}\r\n").into_bytes());
            bytes.extend(&reply.body[..limit]);
            bytes.extend(b"\r\n0\r\n\r\n");
        } else {
            bytes.extend(&reply.body[..limit]);
        }
    }
    if stream.write_all(&bytes).await.is_err() {
        return false;
    }
    if asked.method != "HEAD" && reply.stall_after.is_some() {
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    asked.method == "HEAD" || (reply.cut_after.is_none() && reply.stall_after.is_none())
}

async fn drip(stream: &mut TcpStream, head: Vec<u8>, reply: &Reply, pause: Duration) -> bool {
    if stream.write_all(&head).await.is_err() {
        return false;
    }
    for piece in reply.body.chunks(reply.drip_bytes) {
        tokio::time::sleep(pause).await;
        if stream.write_all(piece).await.is_err() {
            return false;
        }
    }
    true
}
