//! Refusals of the services, as errors for people.

use tonic::Status;

/// The error of a refused request: its message has everything, the code helps only where there is none.
pub fn refused(status: Status) -> anyhow::Error {
    if status.message().is_empty() {
        anyhow::anyhow!("{:?}", status.code())
    } else {
        anyhow::anyhow!("{}", status.message())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_without_a_message_is_its_code() {
        assert_eq!(refused(Status::cancelled("")).to_string(), "Cancelled");
        assert_eq!(refused(Status::internal("why")).to_string(), "why");
    }
}
