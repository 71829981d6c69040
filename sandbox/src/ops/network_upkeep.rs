//! Looks after the pods' networks while the server runs.

use std::sync::Arc;
use std::time::Duration;

use crate::network::LastUpkeep;
use crate::service_state::ServiceState;

/// Another program that removes all packet rules cuts pods off for so long at most.
const INTERVAL: Duration = Duration::from_secs(5);

/// Ends with the service.
pub(crate) fn start(service: &Arc<ServiceState>) {
    let service = Arc::downgrade(service);
    tokio::spawn(async move {
        let mut last = LastUpkeep::default();
        while let Some(service) = service.upgrade() {
            service.networks.keep_up(&mut last).await;
            drop(service);
            tokio::time::sleep(INTERVAL).await;
        }
    });
}
