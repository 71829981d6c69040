//! The results, and the table of them.

use std::time::Duration;

/// One row: a series of measurements of one step on one runtime.
#[derive(Debug, Clone)]
pub struct Row {
    pub runtime: String,
    pub what: &'static str,
    pub unit: &'static str,
    values: Vec<f64>,
}

impl Row {
    #[must_use]
    pub fn new(runtime: &str, what: &'static str, unit: &'static str, mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { runtime: runtime.into(), what, unit, values }
    }

    /// A series of durations, in milliseconds.
    #[must_use]
    pub fn times(runtime: &str, what: &'static str, times: &[Duration]) -> Self {
        Self::new(runtime, what, "ms", times.iter().map(|t| t.as_secs_f64() * 1e3).collect())
    }

    /// One row of the values of both.
    #[must_use]
    pub fn joined(mut self, other: Self) -> Self {
        self.values.extend(other.values);
        Self::new(&self.runtime, self.what, self.unit, self.values)
    }

    /// The value below which `percent` of the series lies.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> f64 {
        let last = self.values.len().saturating_sub(1);
        self.values.get((last * percent).div_ceil(100)).copied().unwrap_or(f64::NAN)
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cell = |percent| format!("{:.2}", self.percentile(percent));
        write!(
            f,
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            self.what,
            self.runtime,
            self.unit,
            self.values.len(),
            cell(0),
            cell(50),
            cell(90),
            cell(99)
        )
    }
}

/// Formats all rows; rows of the same step are adjacent.
#[must_use]
pub fn render(rows: &[Row]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for row in rows {
        if !names.contains(&row.what) {
            names.push(row.what);
        }
    }
    let mut text = String::from(
        "| what | runtime | unit | n | min | p50 | p90 | p99 |\n|---|---|---|---|---|---|---|---|\n",
    );
    for name in names {
        for row in rows.iter().filter(|row| row.what == name) {
            text.push_str(&format!("{row}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_of_the_series() {
        let row = Row::new("x", "y", "ms", vec![5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!([0, 50, 90, 99].map(|p| row.percentile(p)), [1.0, 3.0, 5.0, 5.0]);
    }
}
