//! Every way in which a command can't be run says which one it is.

use crate::lab::{Files, Pod, detached};
use crate::plans::bind;

pub const TESTS: &[crate::Test] = &[
    ("missing_programs", missing_programs),
    ("missing_interpreters", missing_interpreters),
    ("denied_programs", denied_programs),
    ("files_that_are_no_programs", files_that_are_no_programs),
];

const X: u32 = 0o755;

fn missing_programs() {
    let files = Files::busybox();
    files.link("/opt/gone", "bin/link").write("etc/passwd", "x");
    let pod = files.pod();
    let error = |path: &str| pod.run(&[path]).error();
    assert_eq!(error("/bin/foo"), "exec \"/bin/foo\": no such file or directory in the image");
    assert_eq!(error("./foo"), "exec \"./foo\": no such file or directory in the image");
    assert_eq!(
        error("/bin/link"),
        "exec \"/bin/link\": is a link to \"/opt/gone\", which does not exist in the image"
    );
    assert_eq!(
        error("/etc/passwd/x"),
        "exec \"/etc/passwd/x\": a folder of this path is a file in the image"
    );
    assert_eq!(error("foo"), "exec \"foo\": executable file not found in $PATH (/bin)");
    assert_eq!(error(""), "exec \"\": the command is empty");
    let long = "x".repeat(3 << 20);
    assert_eq!(
        pod.run(&["/bin/true", &long]).error(),
        "exec \"/bin/true\": arguments and environment are longer than the kernel takes"
    );
}

fn missing_interpreters() {
    let files = Files::busybox();
    std::fs::copy(std::env::current_exe().unwrap(), files.path("dynamic")).unwrap();
    files.write("bash", "#!/bin/bash -e\necho").mode("bash", X);
    files.write("windows", "#!/bin/sh\r\necho\r\n").mode("windows", X);
    let pod = files.pod();
    let error = |path: &str| pod.run(&[path]).error();
    let dynamic = error("/dynamic");
    assert!(dynamic.starts_with("exec \"/dynamic\": its interpreter \"/lib"), "{dynamic}");
    assert!(dynamic.contains("is missing in the image"), "{dynamic}");
    assert_eq!(error("/bash"), "exec \"/bash\": #! program \"/bin/bash\" is missing in the image");
    assert_eq!(
        error("/windows"),
        "exec \"/windows\": #! program \"/bin/sh\\r\" is missing: the script has Windows line ends, save it with Unix ones"
    );
}

fn denied_programs() {
    let files = Files::busybox();
    files.write("plain", "x").mode("plain", 0o644);
    files.write("private/tool", "#!/bin/sh").mode("private/tool", X).mode("private", 0o700);
    files.write("owned", "#!/bin/sh").mode("owned", 0o700);
    files.write("through", "#!/plain").mode("through", X);
    let volume = files.volume("volume");
    std::fs::copy("/bin/busybox", volume.join("true")).unwrap();
    let pod = Pod::enter(|| vec![files.detached(), detached(&volume)]);
    let as_user = |plan: &mut crisp_executor::plan::Plan| {
        plan.process.uid = 1000;
        plan.process.capabilities = crisp_executor::plan::Capabilities::default();
    };
    let error = |path: &str| pod.run_with(&[path], as_user).error();
    assert_eq!(
        error("/plain"),
        "exec \"/plain\": permission denied: not executable (mode 0644; chmod +x it in the image)"
    );
    assert_eq!(error("/bin"), "exec \"/bin\": permission denied: is a folder");
    assert_eq!(
        error("/private/tool"),
        "exec \"/private/tool\": permission denied: user 1000 may not search a folder of this path"
    );
    assert_eq!(
        error("/owned"),
        "exec \"/owned\": permission denied: user 1000 may not run it (mode 0700, owner 0:0)"
    );
    assert_eq!(
        error("/through"),
        "exec \"/through\": permission denied: its interpreter \"/plain\" may not be run"
    );
    let private = pod.run_with(&["/bin/true"], |plan| {
        as_user(plan);
        plan.process.cwd = crate::plans::c("/private");
        plan.mounts.push(bind("/vol", 1, false));
    });
    // Entered with root's rights, as people expect of a WORKDIR.
    assert_eq!(private.code, 0, "{private:?}");
}

fn files_that_are_no_programs() {
    let files = Files::busybox();
    files.write("empty", "").mode("empty", X).write("zeros", [0; 4096]).mode("zeros", X);
    files.write("text", "echo hello\n").mode("text", X);
    let mut foreign = std::fs::read("/bin/busybox").unwrap();
    foreign[18..20].copy_from_slice(&183u16.to_le_bytes());
    files.write("foreign", foreign).mode("foreign", X);
    let pod = files.pod();
    let error = |path: &str| pod.run(&[path]).error();
    assert_eq!(error("/empty"), "exec \"/empty\": exec format error: the file is empty");
    assert_eq!(
        error("/zeros"),
        "exec \"/zeros\": exec format error: the file starts with zeros only (is the image damaged?)"
    );
    assert_eq!(
        error("/text"),
        "exec \"/text\": exec format error: neither a program nor a script that starts with #!"
    );
    let ours = std::env::consts::ARCH;
    assert_eq!(
        error("/foreign"),
        format!(
            "exec \"/foreign\": exec format error: it is built for aarch64, this host is {ours} (is the image for another architecture?)"
        )
    );
}
