use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

async fn get(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn serves_the_page_and_nothing_else() {
    let metrics = Metrics::new("1").unwrap();
    let server = metrics.serve("127.0.0.1:0".parse().unwrap(), Access::default()).await.unwrap();
    let page = get(server.address(), "GET /metrics").await;
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("version=0.0.4"), "{page}");
    assert!(page.contains("process_cpu_seconds_total"), "{page}");
    let request = "GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text;version=1.0.0\r\nX:";
    let page = get(server.address(), request).await;
    assert!(page.contains("content-type: application/openmetrics-text; version=1.0.0"), "{page}");
    assert!(page.contains("\n# TYPE process_cpu_seconds counter\n") && page.ends_with("\n# EOF\n"), "{page}");
    assert!(get(server.address(), "GET /healthz").await.ends_with("ok\n"));
    let ready = |failure| async move { vec![Readiness { name: "NetworkReady", failure }] };
    assert!(get(server.address(), "GET /readyz").await.starts_with("HTTP/1.1 200"));
    let fails = Arc::new(AtomicBool::new(true));
    let now = fails.clone();
    metrics
        .set_readiness(move || Box::pin(ready(now.load(Ordering::SeqCst).then(|| "no plugin".to_owned()))));
    let answer = get(server.address(), "GET /readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("[-]NetworkReady failed: no plugin\n"));
    fails.store(false, Ordering::SeqCst);
    let answer = get(server.address(), "GET /readyz").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("[+]NetworkReady ok\n"), "{answer}");
    assert!(get(server.address(), "POST /metrics").await.starts_with("HTTP/1.1 405"));
    assert!(get(server.address(), "GET /").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test(start_paused = true)]
async fn clients_that_do_not_read_do_not_keep_others_out() {
    let metrics = Metrics::new("1").unwrap();
    // More than the buffers of a connection can hold.
    let large = prometheus::Opts::new("crisp_test", "A test.").const_label("large", "x".repeat(16 << 20));
    metrics.register(Box::new(prometheus::IntGauge::with_opts(large).unwrap())).unwrap();
    let server = metrics.serve("127.0.0.1:0".parse().unwrap(), Access::default()).await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        silent.push(stream);
    }
    let start = tokio::time::Instant::now();
    assert!(get(server.address(), "GET /healthz").await.ends_with("ok\n"));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[tokio::test]
async fn silent_clients_give_way_to_those_that_request_something() {
    let metrics = Metrics::new("1").unwrap();
    let server = metrics.serve("127.0.0.1:0".parse().unwrap(), Access::default()).await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        silent.push(TcpStream::connect(server.address()).await.unwrap());
    }
    for _ in 0..3 {
        assert!(get(server.address(), "GET /healthz").await.ends_with("ok\n"));
    }
    let mut byte = [0];
    assert_eq!(silent[0].read(&mut byte).await.unwrap(), 0, "the oldest is closed");
    let newest = silent.last_mut().unwrap();
    newest.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert_eq!(newest.read(&mut byte).await.unwrap(), 1, "the newest is not");
}

#[test]
fn scrapes_whose_clients_have_gone_take_one_thread_at_most() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(2).build();
    runtime.unwrap().block_on(scrapes_whose_clients_have_gone());
}

async fn scrapes_whose_clients_have_gone() {
    let metrics = Metrics::new("1").unwrap();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (runs, released) = (Arc::new(AtomicUsize::new(0)), std::sync::Mutex::new(released));
    let counted = Arc::clone(&runs);
    metrics.set_pod_metrics(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        let _ = released.lock().unwrap().recv();
    });
    let server = metrics.serve("127.0.0.1:0".parse().unwrap(), Access::default()).await.unwrap();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(b"GET /metrics/cadvisor HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    }
    assert!(get(server.address(), "GET /healthz").await.ends_with("ok\n"));
    let other = tokio::time::timeout(Duration::from_secs(10), tokio::task::spawn_blocking(|| ())).await;
    assert!(other.is_ok(), "a thread is left for other work");
    drop(release);
    assert!(get(server.address(), "GET /metrics").await.starts_with("HTTP/1.1 200"));
    assert!(runs.load(Ordering::SeqCst) <= 2, "those of clients that have gone are not written");
}

#[tokio::test]
async fn a_thousand_scrapers_at_once_are_all_served() {
    let metrics = Metrics::new("1").unwrap();
    let server = metrics.serve("127.0.0.1:0".parse().unwrap(), Access::default()).await.unwrap();
    let mut scrapers = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        scrapers.spawn(get(server.address(), "GET /metrics"));
    }
    for page in scrapers.join_all().await {
        assert!(page.starts_with("HTTP/1.1 200") && page.contains("process_cpu_seconds_total"), "{page}");
    }
}

#[tokio::test]
async fn a_token_is_required_and_read_anew() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let token = |text: &str| std::fs::write(file.path(), text).unwrap();
    let access = Access { token: Some(TokenFile::new(file.path().to_owned())), ..Access::default() };
    let server = Metrics::new("1").unwrap().serve("127.0.0.1:0".parse().unwrap(), access).await.unwrap();
    let page = async |header: &str| {
        let request = format!("GET /metrics HTTP/1.1\r\nAuthorization: {header}\r\nX: ");
        get(server.address(), request.trim_end_matches(' ')).await[9..12].to_owned()
    };
    assert_eq!(page("Bearer ").await, "401", "an empty file is no token");
    token("secret\n");
    for (header, status) in
        [("Bearer secret", "200"), ("Bearer secre", "401"), ("Bearer secret2", "401"), ("secret", "401")]
    {
        assert_eq!(page(header).await, status, "{header}");
    }
    assert!(get(server.address(), "GET /readyz").await.contains("www-authenticate: Bearer"));
    assert!(get(server.address(), "GET /healthz").await.starts_with("HTTP/1.1 200"));
    token("other");
    assert_eq!((page("Bearer secret").await, page("Bearer other").await), ("401".into(), "200".into()));
}

#[tokio::test]
async fn a_taken_address_is_named() {
    let metrics = Metrics::new("1").unwrap();
    let first = metrics.serve("127.0.0.1:0".parse().unwrap(), Access::default()).await.unwrap();
    let error = metrics.serve(first.address(), Access::default()).await.err().unwrap();
    assert!(error.to_string().contains(&first.address().to_string()), "{error}");
}
