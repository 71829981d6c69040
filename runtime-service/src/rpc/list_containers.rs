//! ListContainers, from memory.

use crisp_proto::runtime::v1::{ListContainersRequest, ListContainersResponse};

use super::{Reply, ServiceState};
use crate::convert::response;
use crate::filter::Filter;

pub(super) fn call(service: &ServiceState, request: ListContainersRequest) -> Reply<ListContainersResponse> {
    let containers = Filter::from(request.filter).containers(service);
    Ok(ListContainersResponse { containers: containers.iter().map(|c| response::container(c)).collect() })
}
