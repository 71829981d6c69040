//! The settings of a manifest inside its containers: variables, files, sidecars, probes, hooks.

use crisp_e2e::standalone::{Host, Standalone, manifest};
use crisp_e2e::{Image, Machine, Result, Setup, needs};
use rustix::process::Signal;

const NONE: [&str; 0] = [];

async fn machine() -> Result<(Machine, Host, String)> {
    let machine = Machine::start_with(Setup::default()).await?;
    let image = machine.registry().push("busybox", "1", &Image::busybox().build())?;
    let host = Host::new(&machine)?;
    Ok((machine, host, image))
}

/// The lines of a container's output, without its name.
fn lines(run: &Standalone, container: &str) -> Vec<String> {
    let of = |line: &str| {
        let (name, text) = line.split_once(" | ")?;
        (name.trim() == container).then(|| text.to_owned())
    };
    run.output().lines().filter_map(of).collect()
}

const OBJECTS: &str = r#"apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {COLOUR: blue, app.conf: "x=1"}
---
apiVersion: v1
kind: Secret
metadata: {name: login}
stringData: {password: hunter2}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
"#;

#[tokio::test(flavor = "multi_thread")]
async fn variables_and_files_come_from_everywhere() -> Result<()> {
    needs!("docker-registry", "busybox", "unshare");
    let (machine, host, image) = machine().await?;
    let line = r#"echo "$COLOUR $PASSWORD $POD/$POD_UID $CPU $GREETING"; cat /conf/app.conf /one /secret/password; echo; cat /labels; echo; id -G; mkdir -p /parts/x && touch /parts/x/y; find /work -name y; echo again >> /data/log; wc -l < /data/log; touch /conf/new 2>&1; echo bye > /dev/termination-log; exit 3"#;
    let pod = format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: alone, uid: u-1, labels: {{app: web}}}}
spec:
  hostNetwork: true
  restartPolicy: Never
  securityContext: {{fsGroup: 4000}}
  containers:
  - name: a
    image: '{image}'
    command: [sh, -c, {line}]
    resources: {{requests: {{cpu: 1500m}}}}
    envFrom: [{{configMapRef: {{name: settings}}}}]
    env:
    - {{name: PASSWORD, valueFrom: {{secretKeyRef: {{name: login, key: password}}}}}}
    - {{name: POD, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
    - {{name: POD_UID, valueFrom: {{fieldRef: {{fieldPath: metadata.uid}}}}}}
    - {{name: CPU, valueFrom: {{resourceFieldRef: {{resource: requests.cpu, divisor: 1m}}}}}}
    - {{name: GREETING, value: "hello $(POD) in $(COLOUR)"}}
    volumeMounts:
    - {{name: conf, mountPath: /conf}}
    - {{name: conf, mountPath: /one, subPath: app.conf}}
    - {{name: secret, mountPath: /secret}}
    - {{name: labels, mountPath: /labels, subPath: labels}}
    - {{name: work, mountPath: /work}}
    - {{name: work, mountPath: /parts, subPathExpr: $(POD)/deep}}
    - {{name: data, mountPath: /data}}
  volumes:
  - {{name: conf, configMap: {{name: settings}}}}
  - {{name: secret, secret: {{secretName: login}}}}
  - {{name: labels, downwardAPI: {{items: [{{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}]}}}}
  - {{name: work, emptyDir: {{}}}}
  - {{name: data, persistentVolumeClaim: {{claimName: data}}}}
"#,
        line = serde_json::json!(line)
    );
    for times in 1..=2 {
        let mut run = host.start("a", &format!("{OBJECTS}{pod}"), &NONE)?;
        assert_eq!(run.end().await?.code(), Some(3), "{}", run.errors());
        let expected = [
            "blue hunter2 alone/u-1 1500 hello alone in blue".to_owned(),
            "x=1x=1hunter2".to_owned(),
            "app=\"web\"".to_owned(),
            "0 4000".to_owned(),
            "/work/alone/deep/x/y".to_owned(),
            // The claim still exists after the run.
            times.to_string(),
            "touch: /conf/new: Read-only file system".to_owned(),
        ];
        assert_eq!(lines(&run, "a"), expected, "{}", run.errors());
        assert!(run.errors().contains("a has ended with code 3: bye"), "{}", run.errors());
    }
    let left: Vec<_> = std::fs::read_dir(host.lib().join("crisp-run/standalone"))?.flatten().collect();
    assert_eq!(left.iter().map(std::fs::DirEntry::file_name).collect::<Vec<_>>(), ["volumes"]);
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_runs_beside_the_others_and_ends_after_them() -> Result<()> {
    needs!("docker-registry", "busybox", "unshare");
    let (machine, host, image) = machine().await?;
    let quote = |line: &str| serde_json::json!(line);
    let side = "trap 'echo side ends; exit 0' TERM; echo side begins; sleep 1; touch /shared/up; while :; do sleep 0.1; done";
    let spec = format!(
        r#"  restartPolicy: Never
  volumes: [{{name: shared, emptyDir: {{}}}}]
  initContainers:
  - name: side
    image: '{image}'
    restartPolicy: Always
    command: [sh, -c, {}]
    volumeMounts: [{{name: shared, mountPath: /shared}}]
    startupProbe: {{exec: {{command: [test, -e, /shared/up]}}, periodSeconds: 1, failureThreshold: 30}}
  - name: first
    image: '{image}'
    command: [sh, -c, {}]
    volumeMounts: [{{name: shared, mountPath: /shared}}]
"#,
        quote(side),
        quote("test -e /shared/up && echo first sees it")
    );
    let mut run =
        host.start("a", &manifest(&image, &spec, &[("main", "echo main; sleep 1; echo main ends")]), &NONE)?;
    assert!(run.end().await?.success(), "{}", run.errors());
    let texts: Vec<String> =
        run.output().lines().filter_map(|l| Some(l.split_once(" | ")?.1.to_owned())).collect();
    assert_eq!(texts, ["side begins", "first sees it", "main", "main ends", "side ends"], "{}", run.errors());
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_fails_its_liveness_probe_is_started_again_after_its_hook() -> Result<()> {
    needs!("docker-registry", "busybox", "unshare");
    let (machine, host, image) = machine().await?;
    let line = "trap 'echo stopped; exit 0' TERM; echo begins; touch /tmp/healthy; sleep 2; [ -e /out/second ] || rm /tmp/healthy; touch /out/second; while :; do sleep 0.1; done";
    let probes = "startupProbe: {exec: {command: [test, -e, /tmp/healthy]}, periodSeconds: 1}, livenessProbe: {exec: {command: [cat, /tmp/healthy]}, periodSeconds: 1, failureThreshold: 1}, readinessProbe: {exec: {command: [test, -e, /out/second]}, periodSeconds: 1}, lifecycle: {postStart: {exec: {command: [sh, -c, 'echo after > /tmp/post']}}, preStop: {exec: {command: [sh, -c, 'cat /tmp/post > /proc/1/fd/1']}}}, volumeMounts: [{name: out, mountPath: /out}],";
    let spec = "  volumes: [{name: out, emptyDir: {}}]\n";
    let yaml = manifest(&image, spec, &[("a", line)]).replace("name: a,", &format!("name: a, {probes}"));
    let mut run = host.start("a", &yaml, &NONE)?;
    run.until("is not started again", |run| run.output().matches("begins").count() == 2).await?;
    // At first it is ready only for a moment.
    let is_ready = |run: &Standalone| {
        run.errors().rsplit("a has started").next().is_some_and(|after| after.contains("a is ready"))
    };
    run.until("is not ready", is_ready).await?;
    let stopped = run.errors().contains("a is stopped: livenessProbe: cat ends with code 1: cat: can't open");
    assert!(stopped, "{}", run.errors());
    assert_eq!(lines(&run, "a"), ["begins", "after", "stopped", "begins"], "{}", run.errors());
    run.signal(Signal::INT)?;
    assert_eq!(run.end().await?.code(), Some(130), "{}", run.errors());
    assert_eq!(lines(&run, "a")[4..], ["after", "stopped"], "{}", run.errors());
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_by_http_and_tcp_reach_the_pod() -> Result<()> {
    needs!("docker-registry", "busybox", "unshare");
    let (machine, host, image) = machine().await?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let line = format!("mkdir /w; echo ok > /w/health; sleep 1; httpd -f -p {port} -h /w");
    let ports = format!("ports: [{{name: web, containerPort: {port}}}],");
    let probes = "readinessProbe: {httpGet: {port: web, path: /health}, periodSeconds: 1}, startupProbe: {tcpSocket: {port: web}, periodSeconds: 1, failureThreshold: 30}, livenessProbe: {httpGet: {port: web, path: /none}, initialDelaySeconds: 3, periodSeconds: 1, failureThreshold: 2, terminationGracePeriodSeconds: 1}";
    let yaml = manifest(&image, "  restartPolicy: Never\n", &[("a", &line)])
        .replace("name: a,", &format!("name: a, {ports} {probes},"));
    let mut run = host.start("a", &yaml, &NONE)?;
    // It ignores the stop signal, and has the grace period of the probe.
    let begun = std::time::Instant::now();
    assert_eq!(run.end().await?.code(), Some(137), "{}", run.errors());
    assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
    let errors = run.errors();
    let (ready, stopped) =
        (errors.find("a is ready"), errors.find("a is stopped: livenessProbe: http://127.0.0.1"));
    assert!(ready.is_some() && ready < stopped && errors.contains("/none: status 404"), "{errors}");
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn several_pods_run_beside_each_other_and_a_job_begins_anew() -> Result<()> {
    needs!("docker-registry", "busybox", "unshare");
    let (machine, host, image) = machine().await?;
    let yaml = format!(
        r#"apiVersion: batch/v1
kind: Job
metadata: {{name: job}}
spec:
  parallelism: 2
  backoffLimit: 1
  template:
    spec:
      hostNetwork: true
      restartPolicy: Never
      containers: [{{name: a, image: '{image}', command: [sh, -c, 'echo runs; exit 5']}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: late}}
spec:
  hostNetwork: true
  activeDeadlineSeconds: 12
  terminationGracePeriodSeconds: 1
  containers: [{{name: b, image: '{image}', command: [sh, -c, 'echo up; sleep 1000']}}]
"#
    );
    let mut run = host.start("a", &yaml, &NONE)?;
    let code = run.end().await?.code();
    assert!(matches!(code, Some(5 | 124)), "{code:?} {}", run.errors());
    assert_eq!(lines(&run, "job-0/a"), ["runs", "runs"], "{}", run.errors());
    assert_eq!((lines(&run, "job-1/a"), lines(&run, "late/b")), (vec!["runs".into(); 2], vec!["up".into()]));
    assert!(
        run.errors().contains("late: the pod has run for 12 s, its activeDeadlineSeconds"),
        "{}",
        run.errors()
    );
    machine.close().await
}
