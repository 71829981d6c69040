//! StreamContainers: the result of ListContainers in several messages, for lists that are too long for one.

use crisp_proto::runtime::v1::{StreamContainersRequest, StreamContainersResponse};

use super::messages::{MessageStream, in_messages};
use super::{Reply, ServiceState};
use crate::convert::response;
use crate::filter::Filter;

pub(super) fn call(
    service: &ServiceState,
    request: StreamContainersRequest,
) -> Reply<MessageStream<StreamContainersResponse>> {
    let containers = Filter::from(request.filter).containers(service);
    let containers = containers.iter().map(|c| response::container(c)).collect();
    Ok(in_messages(containers, |containers| StreamContainersResponse { containers }))
}
