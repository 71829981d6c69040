//! StreamContainers: the same list in parts, for those too long for one message.

use crisp_proto::runtime::v1::{StreamContainersRequest, StreamContainersResponse};

use super::{ServiceState, Parts, Reply, in_parts};
use crate::convert::answer;
use crate::filter::Filter;

pub(super) async fn call(
    service: &ServiceState,
    request: StreamContainersRequest,
) -> Reply<Parts<StreamContainersResponse>> {
    let containers = Filter::from(request.filter).containers(service);
    let containers = containers.iter().map(|c| answer::container(c)).collect();
    Ok(in_parts(containers, |containers| StreamContainersResponse { containers }))
}
