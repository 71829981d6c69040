//! The page in the OpenMetrics format, version 1.0.0, for clients that ask for it: it has exemplars.
//!
//! The differences to the Prometheus format: families of counters have no `_total`, bounds of buckets are written
//! as `1.0` and not as `1`, and the text has an end, so that a cut one is noticed.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

use crate::exemplars::{Exemplar, Exemplars};

/// The type of the response.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether the `Accept` headers of a request prefer OpenMetrics to the Prometheus text format.
pub(crate) fn is_accepted<'a>(accept: impl Iterator<Item = &'a str>) -> bool {
    let (mut open, mut text) = (0.0, 0.0);
    for range in accept.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let (mut quality, mut version) = (1.0_f64, None);
        for (name, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
            match name.trim() {
                "q" => quality = value.trim().parse().unwrap_or(0.0),
                "version" => version = Some(value.trim().trim_matches('"')),
                _ => {}
            }
        }
        match (kind.as_str(), version) {
            ("application/openmetrics-text", None | Some("1.0.0")) => open = quality.max(open),
            ("text/plain", None | Some("0.0.4")) => text = quality.max(text),
            _ => {}
        }
    }
    open > 0.0 && open >= text
}

/// All families, with the exemplars of the histogram that has some.
pub(crate) fn encode(families: &[MetricFamily], exemplars: &Exemplars) -> String {
    let mut text = String::new();
    for family in families {
        encode_family(&mut text, family, exemplars);
    }
    text.push_str("# EOF\n");
    text
}

fn encode_family(text: &mut String, family: &MetricFamily, exemplars: &Exemplars) {
    let name = family.name();
    // A counter without the suffix may not be called one.
    let (base, kind) = match (family.get_field_type(), name.strip_suffix("_total")) {
        (MetricType::COUNTER, Some(base)) => (base, "counter"),
        (MetricType::GAUGE, _) => (name, "gauge"),
        (MetricType::HISTOGRAM, _) => (name, "histogram"),
        (MetricType::SUMMARY, _) => (name, "summary"),
        (MetricType::COUNTER | MetricType::UNTYPED, _) => (name, "unknown"),
    };
    line(text, format_args!("# TYPE {base} {kind}"));
    if !family.help().is_empty() {
        line(text, format_args!("# HELP {base} {}", escaped(family.help())));
    }
    for metric in family.get_metric() {
        let labels = metric.get_label();
        match family.get_field_type() {
            MetricType::COUNTER => sample(text, name, labels, metric.get_counter().get_value()),
            MetricType::GAUGE => sample(text, name, labels, metric.get_gauge().get_value()),
            // The crate makes none.
            MetricType::UNTYPED => {}
            MetricType::HISTOGRAM => histogram(text, name, metric, exemplars),
            MetricType::SUMMARY => summary(text, name, metric),
        }
    }
}

fn histogram(text: &mut String, name: &str, metric: &Metric, exemplars: &Exemplars) {
    let (labels, histogram) = (metric.get_label(), metric.get_histogram());
    let of_series = exemplars.of_series(name, labels);
    let bucket = |text: &mut String, index: usize, bound: f64, count: u64| {
        let labels = Labels { labels, more: Some(("le", bound)) };
        let _ = write!(text, "{name}_bucket{labels} {count}");
        if let Some(Exemplar { trace_id, value, at }) = of_series.get(&index) {
            let _ = write!(text, " # {{trace_id=\"{trace_id}\"}} {value} {at:.3}");
        }
        text.push('\n');
    };
    let buckets = histogram.get_bucket();
    for (index, of) in buckets.iter().enumerate().filter(|(_, of)| of.upper_bound().is_finite()) {
        bucket(text, index, of.upper_bound(), of.cumulative_count());
    }
    bucket(text, buckets.len(), f64::INFINITY, histogram.get_sample_count());
    let labels = Labels { labels, more: None };
    line(text, format_args!("{name}_count{labels} {}", histogram.get_sample_count()));
    line(text, format_args!("{name}_sum{labels} {}", histogram.get_sample_sum()));
}

fn summary(text: &mut String, name: &str, metric: &Metric) {
    let (labels, summary) = (metric.get_label(), metric.get_summary());
    for quantile in summary.get_quantile() {
        let labels = Labels { labels, more: Some(("quantile", quantile.quantile())) };
        line(text, format_args!("{name}{labels} {}", Number(quantile.value())));
    }
    let labels = Labels { labels, more: None };
    line(text, format_args!("{name}_count{labels} {}", summary.sample_count()));
    line(text, format_args!("{name}_sum{labels} {}", Number(summary.sample_sum())));
}

fn sample(text: &mut String, name: &str, labels: &[LabelPair], value: f64) {
    line(text, format_args!("{name}{} {}", Labels { labels, more: None }, Number(value)));
}

fn line(text: &mut String, content: fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = text.write_fmt(content);
    text.push('\n');
}

/// Labels of one sample, with braces if there are any.
struct Labels<'a> {
    labels: &'a [LabelPair],
    /// The bound of a bucket, or the quantile.
    more: Option<(&'static str, f64)>,
}

impl fmt::Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lead = '{';
        for label in self.labels {
            write!(f, "{lead}{}=\"{}\"", label.name(), escaped(label.value()))?;
            lead = ',';
        }
        if let Some((name, value)) = self.more {
            write!(f, "{lead}{name}=\"")?;
            // Whole numbers with their ".0".
            if value.is_finite() {
                write!(f, "{value:?}")?
            } else {
                write!(f, "{}", Number(value))?
            }
            f.write_str("\"")?;
            lead = ',';
        }
        if lead == ',' { f.write_str("}") } else { Ok(()) }
    }
}

struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            f64::INFINITY => f.write_str("+Inf"),
            f64::NEG_INFINITY => f.write_str("-Inf"),
            value => write!(f, "{value}"),
        }
    }
}

fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(['\\', '"', '\n']) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use prometheus::core::Collector as _;
    use prometheus::{Gauge, HistogramOpts, HistogramVec, IntCounterVec, Opts};

    use super::*;

    #[test]
    fn openmetrics_is_for_clients_that_prefer_it() {
        let is_accepted = |headers: &[&str]| is_accepted(headers.iter().copied());
        // Of Prometheus 2.42 and 3.
        assert!(is_accepted(&[
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
        ]));
        assert!(is_accepted(&[
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
        ]));
        assert!(is_accepted(&["text/plain;q=0.5", " application/openmetrics-text; version=\"1.0.0\" "]));
        for not in [
            &[][..],
            &["*/*"],
            &["text/html,application/xhtml+xml,*/*;q=0.8"],
            &["text/plain;version=0.0.4, application/openmetrics-text;version=1.0.0;q=0.3"],
            &["application/openmetrics-text;version=0.0.1"],
            &["application/openmetrics-text;q=0"],
            &["application/openmetrics-text;q=much"],
        ] {
            assert!(!is_accepted(not), "{not:?}");
        }
    }

    #[test]
    fn families_have_the_names_types_and_escapes_of_the_format() {
        let pulls =
            IntCounterVec::new(Opts::new("pulls_total", "Pulls \"all\"\nof them."), &["name"]).unwrap();
        pulls.with_label_values(&["a\\b\"c\nd"]).inc_by(3);
        let gauge = Gauge::new("free_ratio", "Free.").unwrap();
        gauge.set(f64::INFINITY);
        let families = [pulls.collect(), gauge.collect()].concat();
        let expected = "# TYPE pulls counter\n# HELP pulls Pulls \\\"all\\\"\\nof them.\n\
                        pulls_total{name=\"a\\\\b\\\"c\\nd\"} 3\n\
                        # TYPE free_ratio gauge\n# HELP free_ratio Free.\nfree_ratio +Inf\n# EOF\n";
        assert_eq!(encode(&families, &Exemplars::default()), expected);
    }

    #[test]
    fn buckets_have_the_exemplars_of_their_series() {
        let options =
            HistogramOpts::new(crate::exemplars::FAMILY, "Duration.").buckets(vec![0.0005, 0.001, 1.0]);
        let histogram = HistogramVec::new(options, &["service", "method", "code"]).unwrap();
        histogram.with_label_values(&["S", "M", "OK"]).observe(0.0007);
        histogram.with_label_values(&["S", "M", "OK"]).observe(9.0);
        histogram.with_label_values(&["S", "N", "OK"]).observe(0.0007);
        let exemplars = Exemplars::default();
        exemplars.record(["S", "M", "OK"], 0.0007, "0af7".to_owned(), 1700000000.1234);
        let text = encode(&histogram.collect(), &exemplars);
        let series = |method, le, rest| {
            let name = crate::exemplars::FAMILY;
            format!("\n{name}_bucket{{code=\"OK\",method=\"{method}\",service=\"S\",le=\"{le}\"}} {rest}\n")
        };
        for line in [
            series("M", "0.0005", "0"),
            series("M", "0.001", "1 # {trace_id=\"0af7\"} 0.0007 1700000000.123"),
            series("M", "1.0", "1"),
            series("M", "+Inf", "2"),
            series("N", "0.001", "1"),
        ] {
            assert!(text.contains(&line), "{line} is missing in\n{text}");
        }
        assert!(text.contains("_count{code=\"OK\",method=\"M\",service=\"S\"} 2\n"), "{text}");
    }
}
