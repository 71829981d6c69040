//! Streaming commands of the command line.

use std::process::Command;

use crisp_e2e::{Lab, Result, Setup, needs};

/// A server whose streams have a certificate that names no address: what its own command line is told of it
/// is enough.
#[tokio::test(flavor = "multi_thread")]
async fn exec_and_attach_work_over_tls() -> Result<()> {
    needs!("docker-registry", "busybox", "openssl");
    let keys = tempfile::tempdir()?;
    let path = |name: &str| keys.path().join(name).display().to_string();
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=streams -days 1";
    let mut openssl = Command::new("openssl");
    openssl.args(arguments.split(' ')).args(["-keyout", &key, "-out", &cert]);
    assert!(openssl.output()?.status.success());
    let args = ["--stream-cert", &cert, "--stream-key", &key].map(str::to_owned).to_vec();
    let mut lab = Lab::start_with(Setup { args, ..Setup::default() }).await?;
    let (sandbox, pod) = lab.pod("tls").await?;
    let id = lab
        .client
        .launch(&pod, &lab.shell("for n in 1 2 3 4 5; do echo tick; sleep 1; done"), &sandbox)
        .await?;
    let exec = lab.machine.crisp(&["exec", "-i", &id, "sh", "-c", "cat; echo over; exit 6"])?;
    let text = format!("{}{}", String::from_utf8_lossy(&exec.stdout), String::from_utf8_lossy(&exec.stderr));
    assert_eq!((text.as_str(), exec.status.code()), ("over\n", Some(6)));
    let attach = lab.machine.crisp(&["attach", &id])?;
    let text =
        format!("{}{}", String::from_utf8_lossy(&attach.stdout), String::from_utf8_lossy(&attach.stderr));
    assert!(text.contains("tick") && attach.status.success(), "{text}");
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_copied_in_and_out_of_containers_that_run_and_that_do_not() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("copy").await?;
    let here = tempfile::tempdir()?;
    let path = |name: &str| here.path().join(name).display().to_string();
    let crisp = |args: &[&str]| -> Result<String> {
        let output = lab.machine.crisp(args)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(String::from_utf8(output.stdout)?) } else { Err(errors.into()) }
    };
    std::fs::create_dir(path("dir"))?;
    std::fs::write(path("dir/file"), "from here")?;
    let mut client = lab.machine.client().await?;
    // Before its start, and seen by its own process.
    let created = client.create(&pod, &lab.shell("cat /tmp/dir/file; sleep 100"), &sandbox).await?;
    let inside = |path: &str| format!("{created}:{path}");
    crisp(&["cp", &path("dir"), &inside("/tmp")])?;
    client.start(&created).await?;
    crisp(&["cp", &path("dir/file"), &inside("/tmp/named")])?;
    let exec = client.exec(&created, &["cat", "/tmp/dir/file", "/tmp/named"]).await?;
    assert_eq!(String::from_utf8(exec.stdout.to_vec())?, "from herefrom here");
    client
        .exec(&created, &["sh", "-c", "echo changed > /tmp/dir/file; ln -s /etc/passwd /tmp/dir/link"])
        .await?;
    crisp(&["cp", &inside("/tmp/dir"), &path("out")])?;
    assert_eq!(std::fs::read_to_string(path("out/file"))?, "changed\n");
    assert_eq!(std::fs::read_link(path("out/link"))?, std::path::Path::new("/etc/passwd"));
    let archive = crisp(&["cp", &inside("/tmp/dir/file"), "-"])?;
    assert!(archive.starts_with("file\0") && archive.contains("changed\n"));
    let missing = crisp(&["cp", &inside("/no/such"), &path("none")]).unwrap_err().to_string();
    assert!(missing.contains("/no/such: no such file or directory"), "{missing}");
    crisp(&["stop", "--timeout", "0", &created])?;
    crisp(&["cp", &path("dir/file"), &inside("/tmp/after")])?;
    crisp(&["cp", &inside("/tmp/after"), &path("after")])?;
    assert_eq!(std::fs::read_to_string(path("after"))?, "from here");
    lab.close().await
}
