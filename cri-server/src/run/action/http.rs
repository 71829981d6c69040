//! One HTTP/1.1 GET request; only the status of the response counts.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::super::manifest::HttpGet;
use super::Purpose;

/// Limit for status and headers.
const MOST_HEAD: usize = 16 << 10;
/// The same as kubelet's.
const MOST_REDIRECTS: usize = 10;

/// Sends a request to `host`. For a probe, codes from 200 to 399 are success; a redirect within the host is
/// followed, and its response counts. For a hook every response is success.
///
/// # Errors
/// A text for people.
pub async fn get(host: &str, port: u16, get: &HttpGet, purpose: Purpose) -> Result<(), String> {
    let mut path = get.path.clone();
    let mut port = port;
    for _ in 0..=MOST_REDIRECTS {
        let url = format!("http://{host}:{port}{path}");
        let response = send_request(host, port, &HttpGet { path: path.clone(), ..get.clone() }, &url).await?;
        match purpose {
            Purpose::Hook => return Ok(()),
            Purpose::Probe if !(200..400).contains(&response.code) => {
                return Err(format!("{url}: status {}", response.code));
            }
            Purpose::Probe => {}
        }
        // Redirects to another host or to HTTPS are not followed: the server has responded.
        let Some((next, of_path)) = response.redirect.and_then(|to| within(host, port, &path, &to)) else {
            return Ok(());
        };
        (port, path) = (next, of_path);
    }
    Err(format!("http://{host}:{port}{path}: more than {MOST_REDIRECTS} redirects"))
}

struct Response {
    code: u16,
    /// The target of the redirect.
    redirect: Option<String>,
}

async fn send_request(host: &str, port: u16, get: &HttpGet, url: &str) -> Result<Response, String> {
    let failed = |error: std::io::Error| format!("{url}: {error}");
    let mut stream = TcpStream::connect((host, port)).await.map_err(failed)?;
    stream.write_all(request(host, port, get).as_bytes()).await.map_err(failed)?;
    let mut head = Vec::new();
    let is_whole = |head: &[u8]| head.windows(4).any(|end| end == b"\r\n\r\n");
    while !is_whole(&head) && head.len() < MOST_HEAD {
        let mut buffer = [0; 512];
        match stream.read(&mut buffer).await.map_err(failed)? {
            0 => break,
            read => head.extend_from_slice(&buffer[..read]),
        }
    }
    let code = status(&head).ok_or_else(|| format!("{url}: the answer is not HTTP"))?;
    let redirect = [301, 302, 303, 307, 308].contains(&code).then(|| location(&head)).flatten();
    Ok(Response { code, redirect })
}

fn location(head: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(head);
    let mut headers = text.lines().skip(1).filter_map(|line| line.split_once(':'));
    headers.find(|(name, _)| name.eq_ignore_ascii_case("location")).map(|(_, to)| to.trim().to_owned())
}

/// Port and path of a redirect from a path of `host`, if it stays on the host.
fn within(host: &str, port: u16, from: &str, to: &str) -> Option<(u16, String)> {
    let rooted = |path: &str| if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let to = to.split('#').next().unwrap_or_default();
    if let Some(rest) = to.strip_prefix("http://") {
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let named = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let port = match authority.strip_prefix(&named)? {
            "" => 80,
            after => after.strip_prefix(':')?.parse().ok()?,
        };
        return Some((port, rooted(path)));
    }
    let has_scheme = to.split(['/', '?']).next().is_some_and(|first| first.contains(':'));
    if to.is_empty() || has_scheme || to.starts_with("//") {
        return None;
    }
    let above = from.split('?').next().unwrap_or_default().rsplit_once('/').map_or("", |(above, _)| above);
    Some((port, if to.starts_with('/') { to.to_owned() } else { format!("{above}/{to}") }))
}

fn request(host: &str, port: u16, get: &HttpGet) -> String {
    let own = |name: &str| get.headers.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
    let mut text = format!("GET {} HTTP/1.1\r\nConnection: close\r\n", get.path);
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    for (name, value) in
        [("Host", format!("{host}:{port}").as_str()), ("User-Agent", "crisp-probe"), ("Accept", "*/*")]
    {
        if !own(name) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    for (name, value) in &get.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text
}

/// `HTTP/1.1 200 OK`.
fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\n').next()?;
    let mut words = str::from_utf8(line).ok()?.split_ascii_whitespace();
    words.next().filter(|version| version.starts_with("HTTP/"))?;
    words.next()?.parse().ok().filter(|code| (100..600).contains(code))
}

#[cfg(test)]
mod tests {
    use super::super::super::manifest::PortRef;
    use super::*;

    #[test]
    fn a_status_is_read_and_nothing_else() {
        for (text, code) in [
            ("HTTP/1.1 200 OK\r\n", Some(200)),
            ("HTTP/1.0 404 Not Found\r\nX: y\r\n", Some(404)),
            ("HTTP/1.1 999 X\r\n", None),
            ("SSH-2.0-x\r\n", None),
            ("", None),
        ] {
            assert_eq!(status(text.as_bytes()), code, "{text}");
        }
    }

    #[test]
    fn a_redirect_is_followed_within_its_host() {
        let to = |to: &str| within("10.0.0.1", 8080, "/a/b?x", to);
        let at = |port, path: &str| Some((port, path.to_owned()));
        assert_eq!(to("/login"), at(8080, "/login"));
        assert_eq!(to("login#top"), at(8080, "/a/login"));
        assert_eq!(to("http://10.0.0.1:81/x"), at(81, "/x"));
        assert_eq!(to("http://10.0.0.1?q"), at(80, "/?q"));
        for elsewhere in ["http://10.0.0.12/", "https://10.0.0.1/", "//other/", "mailto:x", ""] {
            assert_eq!(to(elsewhere), None, "{elsewhere}");
        }
        assert_eq!(location(b"HTTP/1.1 302 Found\r\nlocation: /x \r\n\r\n").as_deref(), Some("/x"));
    }

    /// `/` redirects to `/login`, which fails; `/round` redirects to itself.
    #[tokio::test]
    async fn the_last_answer_of_redirects_counts() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let read = stream.read(&mut request).await.unwrap();
                let request = String::from_utf8_lossy(&request[..read]).into_owned();
                let response = match request.split(' ').nth(1).unwrap_or_default() {
                    "/login" => "500 Broken\r\n",
                    "/round" => "302 Found\r\nLocation: /round\r\n",
                    "/away" => "302 Found\r\nLocation: https://example.org/\r\n",
                    _ => "302 Found\r\nLocation: /login\r\n",
                };
                stream.write_all(format!("HTTP/1.1 {response}\r\n").as_bytes()).await.unwrap();
            }
        });
        let probe = async |path: &str| {
            let one = HttpGet { host: None, port: PortRef::Number(port), path: path.into(), headers: vec![] };
            get("127.0.0.1", port, &one, Purpose::Probe).await
        };
        assert!(probe("/").await.unwrap_err().contains("/login: status 500"));
        assert!(probe("/round").await.unwrap_err().contains("more than 10 redirects"));
        probe("/away").await.unwrap();
        server.abort();
    }

    #[test]
    fn own_headers_replace_the_usual_ones() {
        let headers = vec![("host".to_owned(), "a.example".to_owned()), ("X".to_owned(), "y".to_owned())];
        let get = HttpGet { host: None, port: PortRef::Number(80), path: "/x?y".into(), headers };
        let text = request("::1", 80, &get);
        assert!(text.starts_with("GET /x?y HTTP/1.1\r\n") && text.ends_with("\r\n\r\n"), "{text}");
        assert!(text.contains("host: a.example\r\n") && !text.contains("Host: "), "{text}");
        assert!(request("::1", 80, &HttpGet { headers: vec![], ..get }).contains("Host: [::1]:80\r\n"));
    }
}
