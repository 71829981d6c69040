//! `crisp cp` with paths that pass through a container's symbolic links: all of them end in the container.

use std::path::Path;

use crisp_e2e::{Lab, Result, needs};

use crate::copy::{Files, cp};

/// The beginnings of links that lead to the root: the container's own, or this machine's.
const ROOTS: [(&str, &str); 2] = [("absolute", "/"), ("relative", "../../../..")];

/// A place that exists on this machine and in a container, by the same path.
struct CopyFixture {
    files: Files,
    id: String,
    copies: usize,
}

impl CopyFixture {
    fn path(&self) -> String {
        self.files.path("place")
    }

    fn inside(&self, path: &str) -> String {
        format!("{}:{path}", self.id)
    }

    /// The content of a file in the container.
    fn read(&mut self, lab: &Lab, path: &str, args: &[&str]) -> Result<String> {
        self.copies += 1;
        let copy = format!("copy-{}", self.copies);
        cp(lab, &[args, &[&self.inside(path), &self.files.path(&copy)]].concat())?;
        self.files.read(&copy)
    }

    /// Copies out of the container through links.
    fn copies_out(&mut self, lab: &Lab) -> Result<()> {
        let place = self.path();
        for (name, root) in ROOTS {
            let text = self.read(lab, &format!("/links/{name}{place}/file"), &[])?;
            assert_eq!(text, "of the container", "{name}: in the middle");
            let text = self.read(lab, &format!("/links/{name}-file"), &["-L"])?;
            assert_eq!(text, "of the container", "{name}: at the end");
            // The link itself, which is not followed on this machine either.
            let (link, copy) = (format!("/links/{name}-file"), format!("link-{}-{name}", self.copies));
            cp(lab, &[&self.inside(&link), &self.files.path(&copy)])?;
            let target = std::fs::read_link(self.files.path(&copy))?;
            assert_eq!(target, Path::new(&format!("{}{place}/file", root.trim_end_matches('/'))));
            let folder = format!("folder-{}-{name}", self.copies);
            cp(lab, &[&self.inside(&format!("/links/{name}-place/")), &self.files.path(&folder)])?;
            assert_eq!(self.files.read(&format!("{folder}/file"))?, "of the container", "{name}: a folder");
        }
        Ok(())
    }

    /// Copies into the container through links. `state`: that of the container.
    fn copies_in(&mut self, lab: &Lab, state: &str) -> Result<()> {
        let place = self.path();
        for (name, _) in ROOTS {
            let text = format!("{state}, {name}");
            let file = format!("crisp-{}-{state}-{name}", std::process::id());
            let new = self.files.write(&file, &text)?;
            for (link, made) in [
                (format!("/links/{name}{place}/middle"), format!("{place}/middle")),
                (format!("/links/{name}-file"), format!("{place}/file")),
                (format!("/links/{name}-missing"), format!("{place}/missing-{name}")),
                (format!("/links/{name}-place"), format!("{place}/{file}")),
                (format!("/links/{name}"), format!("/{file}")),
            ] {
                cp(lab, &[&new, &self.inside(&link)])?;
                assert_eq!(self.read(lab, &made, &[])?, text, "{link}");
            }
            assert!(!Path::new("/").join(&file).exists(), "{file} is in the root of this machine");
        }
        let old = self.files.write("old", "of the container")?;
        cp(lab, &[&old, &self.inside(&format!("{place}/file"))])?;
        Ok(())
    }

    /// Nothing on this machine has changed.
    fn is_as_before(&self) -> Result<()> {
        assert_eq!(self.files.read("place/file")?, "of the machine");
        let names = std::fs::read_dir(self.path())?.map(|entry| Ok(entry?.file_name()));
        assert_eq!(names.collect::<std::io::Result<Vec<_>>>()?, ["file"]);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_of_a_container_lead_to_its_own_files_whether_it_runs_or_not() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("links").await?;
    let id = lab.client.launch(&pod, &lab.shell("exec sleep 1000"), &sandbox).await?;
    let mut place = CopyFixture { files: Files::new()?, id, copies: 0 };
    place.files.write("place/file", "of the machine")?;
    let path = place.path();
    lab.client
        .sh(&place.id, &format!("mkdir -p /links {path}; echo -n of the container > {path}/file"))
        .await?;
    for (name, root) in ROOTS {
        let base = root.trim_end_matches('/');
        let links = format!(
            "ln -s {root} /links/{name}; ln -s {base}{path} /links/{name}-place; \
             ln -s {base}{path}/file /links/{name}-file; ln -s {base}{path}/missing-{name} /links/{name}-missing"
        );
        lab.client.sh(&place.id, &links).await?;
    }
    for state in ["running", "stopped"] {
        if state == "stopped" {
            assert!(lab.machine.crisp(&["stop", "--timeout", "0", &place.id])?.status.success());
        }
        place.copies_out(&lab).map_err(|error| format!("{state}: {error}"))?;
        place.copies_in(&lab, state).map_err(|error| format!("{state}: {error}"))?;
        place.is_as_before()?;
    }
    lab.close().await
}
