//! `kubernetes PROGRAM...`: builds programs of Kubernetes for the tests, unless they exist, and prints their
//! folder.

use crisp_e2e::kubernetes::{self, Program};

fn main() -> crisp_e2e::Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let programs: Vec<Program> = wanted
        .iter()
        .map(|name| {
            let known = kubernetes::ALL.into_iter().find(|program| program == name);
            known.ok_or_else(|| format!("{name:?} is none of {:?}", kubernetes::ALL))
        })
        .collect::<Result<_, _>>()?;
    println!("{}", kubernetes::build(&programs)?.display());
    Ok(())
}
