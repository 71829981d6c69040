//! One operation on several objects that the user names, with one exit code for all.

use std::process::ExitCode;

use crate::print;

/// Calls `work` for each name and prints the name when it is done. After a failure it prints the error and
/// goes on with the next name.
pub async fn each(names: &[String], mut work: impl AsyncFnMut(&str) -> anyhow::Result<()>) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for name in names {
        match work(name).await {
            // The work goes on when the reader of the output has left.
            Ok(()) => print::best_effort(name),
            Err(error) => {
                print::warning(format_args!("crisp: {name}: {error:#}"));
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_does_not_keep_the_others_from_their_turn() {
        let mut done = Vec::new();
        let names = ["a", "b", "c"].map(str::to_owned);
        let code = each(&names, async |name| {
            done.push(name.to_owned());
            if name == "b" { Err(anyhow::anyhow!("no")) } else { Ok(()) }
        })
        .await;
        assert_eq!(done, ["a", "b", "c"]);
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::FAILURE));
    }
}
