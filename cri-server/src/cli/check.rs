//! `crisp check`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use crisp_proto::crisp::v1::{CheckLayersReply, CheckLayersRequest, LayerCondition};
use serde_json::json;

use super::client::refused;
use super::listing::Format;
use super::pull::{credentials_of_environment, pull};
use super::{Client, json};
use crate::print;
use crate::table::{size, without_control};

/// Check the unpacked layers of images
///
/// Reads every file of every layer and compares it with what was unpacked. The next pull of an image replaces
/// its damaged layers; containers that run on them keep the old ones. The exit code is 0 when no layer is damaged,
/// or every damaged one was replaced.
#[derive(Debug, clap::Args)]
pub struct Check {
    /// Pull the images of damaged layers again; CRISP_CREDS in the environment has USER:PASSWORD for that
    #[arg(long)]
    pull: bool,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    /// Images, by tag, digest or id [default: all layers]
    images: Vec<String>,
}

impl Check {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let layers = self.check(&mut client, self.images.clone()).await?;
        if !self.output.print(|| Ok(json!({ "layers": json::list(&layers)? })))? {
            let bytes = layers.iter().map(|layer| layer.bytes).sum();
            let damaged = layers.iter().filter(|layer| is(layer, LayerCondition::ConditionDamaged)).count();
            print::best_effort(format_args!(
                "{} layers checked ({}), {damaged} damaged",
                layers.len(),
                size(bytes)
            ));
        }
        let bad: Vec<&CheckLayersReply> = layers.iter().filter(|layer| is_bad(layer)).collect();
        let replaced = self.pull && !bad.is_empty() && self.replace(&mut client, &bad).await?;
        Ok(if bad.is_empty() || replaced { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Checks layers and prints each damaged one as soon as it is found.
    async fn check(&self, client: &mut Client, images: Vec<String>) -> anyhow::Result<Vec<CheckLayersReply>> {
        let mut replies =
            client.layers.check(CheckLayersRequest { images }).await.map_err(refused)?.into_inner();
        let mut layers = Vec::new();
        while let Some(layer) = replies.message().await.map_err(refused)? {
            if !self.output.is_document() && !is(&layer, LayerCondition::ConditionSound) {
                // It has names of files of the layer.
                print::best_effort(without_control(&line(&layer)));
            }
            layers.push(layer);
        }
        Ok(layers)
    }

    /// Pulls the images of damaged layers again. Returns whether all these layers are sound afterwards.
    async fn replace(&self, client: &mut Client, bad: &[&CheckLayersReply]) -> anyhow::Result<bool> {
        let auth = credentials_of_environment()?;
        let mut all = true;
        // One image replaces a layer for all that have it.
        let images: BTreeSet<&String> = bad.iter().filter_map(|layer| layer.images.first()).collect();
        for image in images {
            match pull(client, image, auth.clone(), None).await {
                Ok(_) => print::warning(format_args!("{image}: pulled again")),
                Err(error) => {
                    print::warning(format_args!("crisp: {image}: {error:#}"));
                    all = false;
                }
            }
        }
        let again = client.layers.check(CheckLayersRequest { images: Vec::new() }).await.map_err(refused)?;
        let mut again = again.into_inner();
        while let Some(layer) = again.message().await.map_err(refused)? {
            all &= !is_bad(&layer) || bad.iter().all(|before| before.layer != layer.layer);
        }
        Ok(all)
    }
}

fn is(layer: &CheckLayersReply, condition: LayerCondition) -> bool {
    layer.condition() == condition
}

fn is_bad(layer: &CheckLayersReply) -> bool {
    is(layer, LayerCondition::ConditionDamaged) || is(layer, LayerCondition::ConditionUnchecked)
}

/// Describes the damage of one layer, and the remedy.
fn line(layer: &CheckLayersReply) -> String {
    let condition = match layer.condition() {
        LayerCondition::ConditionSound => "sound",
        LayerCondition::ConditionDamaged => "damaged",
        LayerCondition::ConditionUnknown => "cannot be compared",
        LayerCondition::ConditionUnchecked => "not checked",
    };
    let images = match &layer.images[..] {
        [] => "no image has it any more; it goes with the last container on it".to_owned(),
        images => format!("in {}", images.join(", ")),
    };
    format!("{}: {condition}: {} ({images})", layer.layer, layer.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_layer_is_named_with_its_images() {
        let layer = CheckLayersReply {
            layer: "sha256:ab".to_owned(),
            condition: LayerCondition::ConditionDamaged.into(),
            reason: "it has 3 inodes instead of 4".to_owned(),
            images: vec!["a:1".to_owned(), "b:1".to_owned()],
            bytes: 1,
        };
        assert_eq!(line(&layer), "sha256:ab: damaged: it has 3 inodes instead of 4 (in a:1, b:1)");
        assert!(is_bad(&layer));
        let unknown = LayerCondition::ConditionUnknown.into();
        let gone = CheckLayersReply { images: Vec::new(), condition: unknown, ..layer };
        assert!(line(&gone).contains("no image has it") && !is_bad(&gone));
    }
}
