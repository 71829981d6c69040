//! The Debian package.

use std::path::Path;
use std::process::Command;

use crisp_e2e::{Result, machine, needs};

fn output(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn one_command_makes_a_package_that_has_what_a_node_needs() -> Result<()> {
    needs!("dpkg-deb", "ldd");
    let folder = tempfile::tempdir()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cri-server/package/deb.sh");
    let printed = output(Command::new(script).arg(folder.path()).env("CRISP_BIN", machine::crisp()))?;
    let package = printed.lines().last().ok_or("no package")?;
    let version = output(Command::new("dpkg-deb").args(["--field", package, "Version"]))?;
    let depends = output(Command::new("dpkg-deb").args(["--field", package, "Depends"]))?;
    assert!(depends.contains("libc6 (>= "), "{depends}");
    let root = folder.path().join("root");
    output(Command::new("dpkg-deb").arg("--extract").args([package.as_ref(), root.as_path()]))?;
    let program = output(Command::new(root.join("usr/bin/crisp")).arg("--version"))?;
    assert!(program.contains(version.trim()), "{program}, not {version}");
    let pages = root.join("usr/share/man/man1");
    for page in ["crisp.1.gz", "crisp-run.1.gz", "crisp-ps.1.gz"] {
        assert!(std::fs::metadata(pages.join(page))?.len() > 200, "{page}");
    }
    for script in [
        "bash-completion/completions/crisp",
        "zsh/vendor-completions/_crisp",
        "fish/vendor_completions.d/crisp.fish",
    ] {
        assert!(
            std::fs::read_to_string(root.join("usr/share").join(script))?.contains("restart"),
            "{script}"
        );
    }
    // Keys in the file that are not settings would be errors.
    let config = root.join("etc/crisp/config.toml");
    output(Command::new(root.join("usr/bin/crisp")).arg("config").arg("--config").arg(&config))?;
    let commented =
        std::fs::read_to_string(&config)?.replace("# network", "network").replace("# metrics", "metrics");
    std::fs::write(&config, commented)?;
    let settings =
        output(Command::new(root.join("usr/bin/crisp")).arg("config").arg("--config").arg(&config))?;
    assert!(settings.contains("127.0.0.1:9090"), "{settings}");
    let unit = std::fs::read_to_string(root.join("usr/lib/systemd/system/crisp.service"))?;
    // Without the first, a restart would end all pods; without the second, systemd would not wait for the socket.
    for line in ["KillMode=process\n", "Type=notify\n", "Delegate=yes\n", "WatchdogSec="] {
        assert!(unit.contains(line), "{line}: {unit}");
    }
    let scripts = output(Command::new("dpkg-deb").args(["--info", package]))?;
    for script in ["postinst", "prerm", "conffiles"] {
        assert!(scripts.contains(script), "{script}: {scripts}");
    }
    Ok(())
}
