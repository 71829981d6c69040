//! Numbers that must hold. Times are bounds for a busy two-core machine, well above what an idle one
//! shows; memory is exact.

use crisp_e2e::bench::steps::{Series, cycles, standing};
use crisp_e2e::bench::{Effort, Target};
use crisp_e2e::{Lab, Result, needs};
use k8s_cri::v1::NamespaceMode;

#[tokio::test(flavor = "multi_thread")]
async fn budgets_hold() -> Result<()> {
    needs!("docker-registry", "busybox");
    let lab = Lab::start().await?;
    let target = Target { name: "crisp".into(), socket: lab.machine.socket() };
    let series = Series { image: lab.image.clone(), network: NamespaceMode::Pod, logs: lab.machine.logs() };
    let mut rows = cycles(std::slice::from_ref(&target), &series, Effort::QUICK, ["up", "down"]).await?;
    rows.extend(standing(&target, &series, Effort::QUICK).await?);
    println!("{}", crisp_e2e::bench::table::render(&rows));
    let p50 =
        |what: &str| rows.iter().find(|r| r.what.starts_with(what)).map_or(f64::NAN, |r| r.percentile(50));
    for (what, limit) in [
        ("up", 60.0),
        ("down", 60.0),
        ("ExecSync", 40.0),
        ("ListContainers,", 20.0),
        ("PSS of the server", 30_000.0),
    ] {
        assert!(p50(what) < limit, "{what}: {} is not below {limit}", p50(what));
    }
    lab.close().await
}
