//! Converts user namespaces and their mappings.

use crisp_executor::user_namespace::{IdMappings, IdRange};
use crisp_proto::runtime::v1 as proto;

use super::{ConvertError, invalid};
use crate::container::config::UserNamespaceRequest;

/// The pod checks whether the kernel accepts the mappings.
pub(super) fn request(
    field: &str,
    options: Option<&proto::UserNamespace>,
) -> Result<UserNamespaceRequest, ConvertError> {
    let Some(options) = options else { return Ok(UserNamespaceRequest::OfPod) };
    match proto::NamespaceMode::try_from(options.mode) {
        Ok(proto::NamespaceMode::Pod) => {
            let mappings = IdMappings { uids: ranges(&options.uids), gids: ranges(&options.gids) };
            Ok(UserNamespaceRequest::Own(mappings))
        }
        Ok(proto::NamespaceMode::Node) if options.uids.is_empty() && options.gids.is_empty() => {
            Ok(UserNamespaceRequest::Host)
        }
        Ok(proto::NamespaceMode::Node) => {
            Err(invalid(format!("{field}.uids"), "given with mode NODE, which maps nothing"))
        }
        Ok(other @ (proto::NamespaceMode::Container | proto::NamespaceMode::Target)) => {
            let reason = format!("{} is not possible: use POD or NODE", other.as_str_name());
            Err(invalid(format!("{field}.mode"), reason))
        }
        Err(_) => {
            Err(invalid(format!("{field}.mode"), format!("{} is not a value of this enum", options.mode)))
        }
    }
}

/// The mappings of a mount. None if it has none.
pub(super) fn of_mount(
    at: &str,
    uids: &[proto::IdMapping],
    gids: &[proto::IdMapping],
) -> Result<Option<IdMappings>, ConvertError> {
    if uids.is_empty() && gids.is_empty() {
        return Ok(None);
    }
    let mappings = IdMappings { uids: ranges(uids), gids: ranges(gids) };
    mappings.check().map_err(|error| invalid(format!("{at}.uidMappings"), error.to_string()))?;
    Ok(Some(mappings))
}

fn ranges(mappings: &[proto::IdMapping]) -> Vec<IdRange> {
    let range =
        |m: &proto::IdMapping| IdRange { container: m.container_id, host: m.host_id, length: m.length };
    mappings.iter().map(range).collect()
}

/// One list of mappings, for responses.
pub(super) fn to_proto(ranges: &[IdRange]) -> Vec<proto::IdMapping> {
    let mapping =
        |r: &IdRange| proto::IdMapping { host_id: r.host, container_id: r.container, length: r.length };
    ranges.iter().map(mapping).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(mode: proto::NamespaceMode, mapped: bool) -> proto::UserNamespace {
        let mapping = proto::IdMapping { host_id: 65_536, container_id: 0, length: 65_536 };
        let mappings = if mapped { vec![mapping] } else { vec![] };
        proto::UserNamespace { mode: mode.into(), uids: mappings.clone(), gids: mappings }
    }

    #[test]
    fn the_mode_decides() {
        let of = |mode, mapped| request("f", Some(&options(mode, mapped))).map_err(|error| error.to_string());
        use proto::NamespaceMode::{Container, Node, Pod, Target};
        assert_eq!(request("f", None), Ok(UserNamespaceRequest::OfPod));
        assert_eq!(of(Node, false), Ok(UserNamespaceRequest::Host));
        let UserNamespaceRequest::Own(mappings) = of(Pod, true).unwrap() else { panic!("not its own") };
        assert_eq!((mappings.host_uid(1), mappings.host_gid(65_535)), (Some(65_537), Some(131_071)));
        assert_eq!(to_proto(&mappings.uids), options(Pod, true).uids);
        assert!(of(Node, true).unwrap_err().starts_with("f.uids: "));
        for mode in [Container, Target] {
            assert!(of(mode, false).unwrap_err().starts_with("f.mode: "), "{mode:?}");
        }
    }

    #[test]
    fn mappings_of_a_mount_are_checked() {
        let mapping = |length| proto::IdMapping { host_id: 1, container_id: 0, length };
        assert_eq!(of_mount("m", &[], &[]), Ok(None));
        assert!(of_mount("m", &[mapping(1)], &[mapping(1)]).unwrap().is_some());
        let refused = |uids: &[_], gids: &[_]| of_mount("m", uids, gids).unwrap_err().to_string();
        assert!(refused(&[mapping(1)], &[]).starts_with("m.uidMappings: gids: empty"));
        assert!(refused(&[mapping(0)], &[mapping(1)]).starts_with("m.uidMappings: uids[0]: its length"));
    }
}
