//! The CNI configurations, and whether their plugins are installed.

use crisp_sandbox::network::{CniConfiguration, cni_configurations};

use super::Check;
use crate::config::{NetworkKind, Settings};

pub fn checks(settings: &Settings) -> Vec<Check> {
    if settings.network.value == NetworkKind::BuiltIn {
        return vec![Check::good("CNI", "not used: network is built-in".to_owned())];
    }
    let folder = &settings.cni_conf_dir.value;
    match cni_configurations(folder, &settings.cni_bin_dir.value) {
        Ok(found) if found.is_empty() => {
            let text =
                format!("no configuration in {} that can be used: pods wait for one", folder.display());
            vec![Check::failed("CNI", text)]
        }
        Ok(found) => {
            found.iter().enumerate().map(|(number, one)| of_configuration(number == 0, one)).collect()
        }
        Err(error) => vec![Check::failed("CNI", error.to_string())],
    }
}

fn of_configuration(is_first: bool, CniConfiguration { name, file, missing }: &CniConfiguration) -> Check {
    let text = format!("network {name} in {}", file.display());
    match (&missing[..], is_first) {
        ([], true) => Check::good("CNI", format!("{text}: every pod gets it")),
        ([], false) => Check::good("CNI", text),
        (missing, _) => {
            let text = format!("{text}: plugin {} is in none of the folders cni-bin-dir", missing.join(", "));
            if is_first { Check::failed("CNI", text) } else { Check::warning("CNI", text) }
        }
    }
}
