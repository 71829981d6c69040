//! `kubernetes PROGRAM...`: builds programs of Kubernetes, containerd and runc for the tests, unless they
//! exist, and prints their paths.

use crisp_e2e::programs::{self, Program};

fn main() -> crisp_e2e::Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let programs: Vec<Program> = wanted
        .iter()
        .map(|name| {
            let known = programs::ALL.into_iter().find(|program| program.name == name);
            let names = programs::ALL.map(|program| program.name);
            known.ok_or_else(|| format!("{name:?} is none of {names:?}"))
        })
        .collect::<Result<_, _>>()?;
    programs::build(&programs)?;
    for program in programs {
        println!("{}", program.path().display());
    }
    Ok(())
}
