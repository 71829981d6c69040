//! Destinations that pods reach with their own addresses.

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Each costs a rule that new connections pass.
const MOST: usize = 64;
const OFF: &str = "off";

/// Networks outside of the host to which pods are not masqueraded: those that have a route back to the pods,
/// for example the pods of other nodes. As text: CIDRs with commas between, or `off`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Exclusions(Vec<IpNet>);

impl Exclusions {
    /// Parses each of the texts.
    ///
    /// # Errors
    /// One of them is not a network, or there are too many.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let all: Vec<IpNet> = texts.into_iter().map(network).collect::<Result<_, _>>()?;
        if all.len() > MOST {
            return Err(format!("{} networks, at most {MOST} are possible", all.len()));
        }
        Ok(Self(all))
    }

    /// The networks.
    #[must_use]
    pub fn networks(&self) -> &[IpNet] {
        &self.0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let shown: String = text.chars().take(80).collect();
    let network: IpNet = text
        .parse()
        .map_err(|_| format!("{shown:?} is not a network: expected one like 10.244.0.0/16 or fd00:1::/48"))?;
    if network.trunc() == network {
        return Ok(network);
    }
    Err(format!("{network} has address bits behind its prefix: {} is meant", network.trunc()))
}

impl FromStr for Exclusions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == OFF { Ok(Self::default()) } else { Self::parse(text.split(',')) }
    }
}

impl fmt::Display for Exclusions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(OFF);
        }
        let texts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_comes_back_and_what_is_wrong_is_named() {
        for text in ["off", "10.244.0.0/16", "10.244.0.0/16,fd00:1::/48,192.168.7.7/32"] {
            assert_eq!(text.parse::<Exclusions>().unwrap().to_string(), text);
        }
        for (text, why) in [
            ("", "\"\" is not a network"),
            ("10.244.0.0", "\"10.244.0.0\" is not a network"),
            ("10.244.1.0/16", "10.244.0.0/16 is meant"),
            (&["10.0.0.0/8"; 65].join(","), "65 networks, at most 64"),
        ] {
            let error = text.parse::<Exclusions>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
