//! `crisp images`.

use std::io::Write as _;
use std::process::ExitCode;

use crisp_proto::runtime::v1::{Image, ListImagesRequest};
use serde_json::json;

use super::client::refused;
use super::listing::Format;
use super::{Client, json};
use crate::table::{Table, short, size};

/// List images
#[derive(Debug, clap::Args)]
pub struct Images {
    /// Print only ids
    #[arg(long, short)]
    quiet: bool,
    /// Also print digests
    #[arg(long)]
    digests: bool,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

impl Images {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let request = ListImagesRequest::default();
        let mut images = client.images.list_images(request).await.map_err(refused)?.into_inner().images;
        images.sort_by(|a, b| (&a.repo_tags, &a.id).cmp(&(&b.repo_tags, &b.id)));
        if self.output.print(|| Ok(json!({ "images": json::list(&images)? })))? {
            return Ok(ExitCode::SUCCESS);
        }
        if self.quiet {
            images.iter().try_for_each(|i| writeln!(std::io::stdout(), "{}", i.id))?;
        } else {
            self.table(&images).write(&mut std::io::stdout().lock())?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn table(&self, images: &[Image]) -> Table {
        let mut heading = vec!["IMAGE", "TAG", "IMAGE ID", "SIZE"];
        if self.digests {
            heading.insert(2, "DIGEST");
        }
        let mut table = Table::new(&heading);
        for image in images {
            for (name, tag) in names(image) {
                let mut row = vec![name.to_owned(), tag.to_owned(), short(&image.id), size(image.size)];
                if self.digests {
                    row.insert(2, digest(image, name).to_owned());
                }
                table.row(row);
            }
        }
        table
    }
}

/// Repository and tag of each of its names; an image without a tag has one row too.
fn names(image: &Image) -> Vec<(&str, &str)> {
    if image.repo_tags.is_empty() {
        let name =
            image.repo_digests.first().and_then(|d| d.split_once('@')).map_or("<none>", |(name, _)| name);
        return vec![(name, "<none>")];
    }
    image.repo_tags.iter().map(|tag| tag.rsplit_once(':').unwrap_or((tag, "<none>"))).collect()
}

fn digest<'a>(image: &'a Image, name: &str) -> &'a str {
    let mut digests = image.repo_digests.iter().filter_map(|d| d.split_once('@'));
    digests.find(|(repository, _)| *repository == name).map_or("<none>", |(_, digest)| digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_port_is_no_tag_and_untagged_images_are_shown() {
        let digests = vec!["h:5000/a@sha256:1".to_owned()];
        let tagged =
            Image { repo_tags: vec!["h:5000/a:1".into()], repo_digests: digests.clone(), ..Image::default() };
        assert_eq!(names(&tagged), [("h:5000/a", "1")]);
        assert_eq!(digest(&tagged, "h:5000/a"), "sha256:1");
        assert_eq!(names(&Image { repo_digests: digests, ..Image::default() }), [("h:5000/a", "<none>")]);
        assert_eq!(names(&Image::default()), [("<none>", "<none>")]);
    }
}
