//! Builds the kubelet of the tests, unless it is there, and prints where it is.

fn main() -> crisp_e2e::Result<()> {
    println!("{}", crisp_e2e::kubelet::build()?.display());
    Ok(())
}
