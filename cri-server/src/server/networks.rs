//! The service for named networks.

use std::str::FromStr;
use std::sync::Arc;

use crisp_proto::crisp::v1::networks_server::Networks as Service;
use crisp_proto::crisp::v1::{
    ConnectNetworkRequest, ConnectNetworkResponse, CreateNetworkRequest, CreateNetworkResponse,
    DisconnectNetworkRequest, DisconnectNetworkResponse, ListNetworksRequest, ListNetworksResponse, Network,
    NetworkMember, PruneNetworksRequest, PruneNetworksResponse, RemoveNetworkRequest, RemoveNetworkResponse,
};
use crisp_sandbox::network::{
    Addresses, Attachment, Connection, Exclusions, ManageError, NetworkInfo, NewNetwork,
};
use crisp_sandbox::{ConnectError, Pod, Pods};
use tonic::{Code, Request, Response, Status};

/// The implementation of the service.
pub struct NetworksService(pub Pods);

#[tonic::async_trait]
impl Service for NetworksService {
    async fn create_network(
        &self,
        request: Request<CreateNetworkRequest>,
    ) -> Result<Response<CreateNetworkResponse>, Status> {
        let new = new_network(request.into_inner())?;
        let network = self.0.networks().create(new).await.map_err(status)?;
        Ok(Response::new(CreateNetworkResponse { network: Some(to_proto(network)) }))
    }

    async fn list_networks(
        &self,
        _request: Request<ListNetworksRequest>,
    ) -> Result<Response<ListNetworksResponse>, Status> {
        let networks = self.0.networks().list().await.map_err(|error| status(error.into()))?;
        Ok(Response::new(ListNetworksResponse { networks: networks.into_iter().map(to_proto).collect() }))
    }

    async fn remove_network(
        &self,
        request: Request<RemoveNetworkRequest>,
    ) -> Result<Response<RemoveNetworkResponse>, Status> {
        self.0.networks().remove(request.into_inner().name).await.map_err(status)?;
        Ok(Response::new(RemoveNetworkResponse {}))
    }

    async fn prune_networks(
        &self,
        _request: Request<PruneNetworksRequest>,
    ) -> Result<Response<PruneNetworksResponse>, Status> {
        let names = self.0.networks().prune().await.map_err(status)?;
        Ok(Response::new(PruneNetworksResponse { names }))
    }

    async fn connect_network(
        &self,
        request: Request<ConnectNetworkRequest>,
    ) -> Result<Response<ConnectNetworkResponse>, Status> {
        let ConnectNetworkRequest { name, pod_sandbox_id, interface, ips, mac, aliases } =
            request.into_inner();
        let pod = self.pod(&pod_sandbox_id)?;
        let mac = Some(mac).filter(|mac| !mac.is_empty());
        let connection = Connection { network: name, interface, ips, mac, aliases };
        let attachment = self.0.connect(&pod, connection).await.map_err(not_connected)?;
        Ok(Response::new(ConnectNetworkResponse { member: Some(joined(&pod, attachment)) }))
    }

    async fn disconnect_network(
        &self,
        request: Request<DisconnectNetworkRequest>,
    ) -> Result<Response<DisconnectNetworkResponse>, Status> {
        let DisconnectNetworkRequest { name, pod_sandbox_id } = request.into_inner();
        let pod = self.pod(&pod_sandbox_id)?;
        self.0.networks().disconnect(&pod.id, &name).await.map_err(status)?;
        Ok(Response::new(DisconnectNetworkResponse {}))
    }
}

impl NetworksService {
    fn pod(&self, id: &str) -> Result<Arc<Pod>, Status> {
        self.0.find(id).map_err(|error| Status::not_found(error.to_string()))
    }
}

fn new_network(request: CreateNetworkRequest) -> Result<NewNetwork, Status> {
    let addresses = addresses(&request)?;
    let CreateNetworkRequest {
        name, subnets, no_ipv6, mtu, internal, no_icc, masquerade_except, labels, ..
    } = request;
    let subnet = |text: &String| {
        let invalid = || format!("subnet: {text:?} is not a network: expected one like 10.1.2.0/24");
        text.parse().map_err(|_| Status::invalid_argument(invalid()))
    };
    let subnets = subnets.iter().map(subnet).collect::<Result<_, _>>()?;
    let mtu = (mtu != 0).then_some(mtu);
    let masquerade_except = Exclusions::parse(masquerade_except.iter().map(String::as_str))
        .map_err(|why| Status::invalid_argument(format!("masquerade_except: {why}")))?;
    let (ipv6, icc) = (!no_ipv6, !no_icc);
    Ok(NewNetwork { name, subnets, ipv6, mtu, internal, icc, masquerade_except, addresses, labels })
}

fn addresses(request: &CreateNetworkRequest) -> Result<Addresses, Status> {
    Ok(Addresses {
        gateway: optional("gateway", &request.gateway)?,
        range: optional("ip_range", &request.ip_range)?,
        reserved: request
            .aux_addresses
            .iter()
            .map(|text| parsed("aux_addresses", text))
            .collect::<Result<_, _>>()?,
    })
}

fn optional<T: FromStr>(field: &str, text: &str) -> Result<Option<T>, Status> {
    if text.is_empty() { Ok(None) } else { parsed(field, text).map(Some) }
}

fn parsed<T: FromStr>(field: &str, text: &str) -> Result<T, Status> {
    text.parse().map_err(|_| {
        Status::invalid_argument(format!("{field}: {text:?} is not one for IPv4, as 10.1.2.7 or 10.1.2.0/28"))
    })
}

fn to_proto(network: NetworkInfo) -> Network {
    let member = |member: crisp_sandbox::network::NetworkMember| NetworkMember {
        pod_sandbox_id: member.pod.to_string(),
        namespace: member.namespace,
        name: member.name,
        interface: member.interface,
        ips: member.ips.iter().map(ToString::to_string).collect(),
        mac: member.mac.unwrap_or_default(),
    };
    Network {
        name: network.name,
        bridge: network.bridge.unwrap_or_default(),
        file: network.file.unwrap_or_default(),
        subnets: network.subnets.iter().map(ToString::to_string).collect(),
        mtu: network.mtu.unwrap_or_default(),
        internal: network.internal,
        no_icc: !network.icc,
        is_first: network.is_first,
        created_at: network.created_at,
        members: network.members.into_iter().map(member).collect(),
        masquerade_except: network.masquerade_except.networks().iter().map(ToString::to_string).collect(),
        gateway: network.addresses.gateway.map(|ip| ip.to_string()).unwrap_or_default(),
        ip_range: network.addresses.range.map(|range| range.to_string()).unwrap_or_default(),
        aux_addresses: network.addresses.reserved.iter().map(ToString::to_string).collect(),
        labels: network.labels,
    }
}

fn joined(pod: &Pod, Attachment { interface, ips, mac, .. }: Attachment) -> NetworkMember {
    NetworkMember {
        pod_sandbox_id: pod.id.to_string(),
        namespace: pod.config.namespace.clone(),
        name: pod.config.name.clone(),
        interface,
        ips: ips.iter().map(ToString::to_string).collect(),
        mac: mac.unwrap_or_default(),
    }
}

fn not_connected(error: ConnectError) -> Status {
    match error {
        ConnectError::NotReady(error) => Status::failed_precondition(error.to_string()),
        ConnectError::Monitor(error) => Status::internal(error.to_string()),
        ConnectError::Network(error) => status(error),
    }
}

fn status(error: ManageError) -> Status {
    let code = match &error {
        ManageError::Invalid { .. } => Code::InvalidArgument,
        ManageError::Exists { .. } => Code::AlreadyExists,
        ManageError::Unknown(_) => Code::NotFound,
        ManageError::NotRemovable { .. }
        | ManageError::InUse { .. }
        | ManageError::NotConnected { .. }
        | ManageError::Failed(_) => Code::FailedPrecondition,
    };
    Status::new(code, error.to_string())
}
