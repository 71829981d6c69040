//! The service Log, which is not part of the CRI: the level of the server's log.

use crisp_proto::crisp::v1::log_server::Log;
use crisp_proto::crisp::v1::{SetLevelReply, SetLevelRequest};
use tonic::{Request, Response, Status};

use crate::config::check_log_level;
use crate::logging::LogLevel;

/// Serves the log of one server.
pub struct LogService(pub LogLevel);

#[tonic::async_trait]
impl Log for LogService {
    async fn set_level(&self, request: Request<SetLevelRequest>) -> Result<Response<SetLevelReply>, Status> {
        let SetLevelRequest { level } = request.into_inner();
        let previous = self.0.get();
        if !level.is_empty() {
            let level =
                check_log_level(level).map_err(|why| Status::invalid_argument(format!("level: {why}")))?;
            self.0.set(&level).map_err(|error| Status::invalid_argument(format!("level: {error:#}")))?;
            tracing::info!(level, previous, "the log level was set by a request");
        }
        Ok(Response::new(SetLevelReply { level: self.0.get(), previous }))
    }
}
