//! The bars of the design: bounds for the results of Crisp.

use super::table::Row;

/// The bound of a result.
#[derive(Debug, Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// Names of rows, as the series set them, with the bounds of their medians.
type Bars = [(&'static str, Bound)];

/// Bars of a whole run.
const WHOLE: [(&str, Bound); 15] = [
    ("up, pod network, apart", Bound::AtMost(9.0)),
    ("up, host network, apart", Bound::AtMost(6.0)),
    ("down, pod network, apart", Bound::AtMost(7.0)),
    ("ExecSync true, apart", Bound::AtMost(2.0)),
    ("ListContainerStats, pods standing, at once", Bound::AtMost(1.5)),
    ("ListPodSandboxStats, pods standing, at once", Bound::AtMost(2.0)),
    ("full cycles, 8 workers", Bound::AtLeast(120.0)),
    ("CPU per cycle, 1 worker", Bound::AtMost(12.0)),
    ("CPU per cycle, 8 workers", Bound::AtMost(12.0)),
    ("streaming exec, request to first output, apart", Bound::AtMost(5.0)),
    ("exec stdout, of plain TCP", Bound::AtLeast(50.0)),
    ("port-forward, of plain TCP", Bound::AtLeast(50.0)),
    ("CPU of the server per scrape and 100 containers", Bound::AtMost(2.0)),
    ("PSS of the server, per streaming session", Bound::AtMost(200.0)),
    ("PSS of the server, after the whole run", Bound::AtMost(20_000.0)),
];

/// Bars of the network part, which only an option runs.
const NETWORK: [(&str, Bound); 4] = [
    ("RunPodSandbox, apart", Bound::AtMost(4.0)),
    (ABOVE_PLUGINS, Bound::AtMost(5.0)),
    (RELATIVE_THROUGHPUT, Bound::AtLeast(90.0)),
    (RELATIVE_LATENCY, Bound::AtMost(110.0)),
];

/// Time that Crisp adds to plugins which are run by hand.
pub const ABOVE_PLUGINS: &str = "RunPodSandbox with plugins, above the plugins by hand";
pub const RELATIVE_THROUGHPUT: &str = "pod to pod, one TCP stream, relative to Debian's bridge plugin";
pub const RELATIVE_LATENCY: &str = "pod to pod, one byte and back, relative to Debian's bridge plugin";

/// Checks the results of a whole run, see [`compare`].
#[must_use]
pub fn check(rows: &[Row], runtime: &str) -> (String, bool) {
    compare(rows, runtime, &WHOLE)
}

/// Checks the results of the network part, see [`compare`].
#[must_use]
pub fn check_network(rows: &[Row], runtime: &str) -> (String, bool) {
    compare(rows, runtime, &NETWORK)
}

/// Makes one line per bar, and returns whether all bars are met. A bar without a result is not met.
fn compare(rows: &[Row], runtime: &str, bars: &Bars) -> (String, bool) {
    let mut text = String::new();
    let mut kept = true;
    for &(what, bound) in bars {
        let row = rows.iter().find(|row| row.what == what && row.runtime == runtime);
        let value = row.map_or(f64::NAN, |row| row.percentile(50));
        let unit = row.map_or("", |row| row.unit);
        // A comparison with NaN is false.
        let (good, sign, limit) = match bound {
            Bound::AtMost(limit) => (value <= limit, "<=", limit),
            Bound::AtLeast(limit) => (value >= limit, ">=", limit),
        };
        kept &= good;
        let verdict = if good { "kept  " } else { "MISSED" };
        text.push_str(&format!("{verdict} {what}: {value:.2} {unit} (bar {sign} {limit})\n"));
    }
    (text, kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(change: impl Fn(&str, f64) -> f64) -> Vec<Row> {
        let row = |(what, bound)| {
            let (Bound::AtMost(limit) | Bound::AtLeast(limit)) = bound;
            Row::new("crisp", what, "x", vec![change(what, limit)])
        };
        WHOLE.into_iter().map(row).collect()
    }

    #[test]
    fn a_figure_on_its_bar_keeps_it() {
        let (text, kept) = check(&rows(|_, limit| limit), "crisp");
        assert!(kept && !text.contains("MISSED"), "{text}");
    }

    #[test]
    fn one_slow_figure_misses_and_is_named() {
        let slow = rows(|what, limit| if what.starts_with("down") { limit + 0.1 } else { limit });
        let (text, kept) = check(&slow, "crisp");
        assert!(!kept && text.contains("MISSED down, pod network, apart: 7.10 x (bar <= 7)"), "{text}");
        let few = rows(|what, limit| if what.contains("8 workers") { limit - 1.0 } else { limit });
        assert!(!check(&few, "crisp").1);
    }

    #[test]
    fn a_figure_that_was_not_measured_is_a_miss() {
        assert!(!check(&[], "crisp").1 && !check_network(&[], "crisp").1);
        assert!(!check(&rows(|_, limit| limit), "other").1);
    }
}
