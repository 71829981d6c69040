//! Errors of the services, converted for people.

use tonic::Status;

/// The error of a refused request. Its message is complete; the code is used only when there is no message.
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
