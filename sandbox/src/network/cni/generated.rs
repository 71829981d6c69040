//! Makes a configuration file from a template and the node's pod CIDR.

use std::fs;
use std::path::PathBuf;

use crisp_operation::record::{Durability, write_file};

use super::Cni;
use super::config::NetworkList;
use super::template::{Values, render};
use crate::network::NetworkError;
use crate::network::error::file;
use crate::network::node_cidr::NodeCidr;

/// The name sorts the file before those of most networks.
const NAME: &str = "10-crisp.conflist";

impl Cni {
    /// Writes the file if a template is set. Another configuration in force is not replaced.
    pub(in crate::network) fn generate(&self, cidr: &NodeCidr) -> Result<(), NetworkError> {
        let Some(template) = &self.template else { return Ok(()) };
        let path = PathBuf::from(format!("{}/{NAME}", self.directory.path().display()));
        if let Ok(Some(other)) = self.current()
            && other.path != path
        {
            let (network, file) = (&other.name, other.path.display());
            tracing::info!(network, %file, "no CNI configuration is made from the template: this one is in force");
            return Ok(());
        }
        let broken = |why: String| NetworkError::CniConfig {
            path: template.clone(),
            field: "template".to_owned(),
            why,
        };
        let text = fs::read_to_string(template).map_err(file("read", template))?;
        let text = render(&text, &Values::of(&cidr.networks())).map_err(broken)?;
        // Errors name the path of the template, because that must be corrected.
        NetworkList::parse(template, text.as_bytes())?;
        if fs::read_to_string(&path).is_ok_and(|now| now == text) {
            return Ok(());
        }
        fs::create_dir_all(self.directory.path()).map_err(file("create folder", self.directory.path()))?;
        write_file(&path, text.as_bytes(), 0o644, Durability::PowerCut).map_err(file("write", &path))?;
        tracing::info!(file = %path.display(), "made a CNI configuration from the template and the node's pod CIDR");
        Ok(())
    }
}
