//! ListContainers, from memory.

use crisp_proto::runtime::v1::{ListContainersRequest, ListContainersResponse};

use super::{ServiceState, Reply};
use crate::convert::answer;
use crate::filter::Filter;

pub(super) async fn call(service: &ServiceState, request: ListContainersRequest) -> Reply<ListContainersResponse> {
    let containers = Filter::from(request.filter).containers(service);
    Ok(ListContainersResponse { containers: containers.iter().map(|c| answer::container(c)).collect() })
}
