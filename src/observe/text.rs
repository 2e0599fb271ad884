//! Prometheus's text format, version 0.0.4.

use std::fmt::{Display, Write};

use super::kinds::{Family, Histogram};

/// What the text is, for the header of the answer that carries it.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The text, as it is written.
#[derive(Debug, Default)]
pub struct Text(String);

impl Text {
    pub fn into_string(self) -> String {
        self.0
    }

    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.begin(name, "counter", help);
        self.sample(name, &[], value);
    }

    pub fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.begin(name, "gauge", help);
        self.sample(name, &[], value);
    }

    pub fn family<const N: usize>(&mut self, name: &str, help: &str, family: &Family<N>) {
        self.begin(name, "counter", help);
        for (value, count) in family.each() {
            self.sample(name, &[(family.label, value)], count);
        }
    }

    pub fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.begin(name, "histogram", help);
        self.spread(name, &[], histogram);
    }

    /// The lines that stand before a metric's samples.
    pub fn begin(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            self.line(format_args!("{}{label}=\"{}\"", if at == 0 { '{' } else { ',' }, Escaped(text)));
        }
        self.line(format_args!("{} {value}\n", if labels.is_empty() { "" } else { "}" }));
    }

    /// A histogram's samples.
    pub fn spread(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        let snapshot = histogram.snapshot();
        let bucket = format!("{name}_bucket");
        let ends = snapshot.buckets.iter().map(|(end, below)| (end.to_string(), *below));
        for (end, below) in ends.chain([("+Inf".to_owned(), snapshot.count)]) {
            let labels: Vec<(&str, &str)> = labels.iter().copied().chain([("le", end.as_str())]).collect();
            self.sample(&bucket, &labels, below);
        }
        self.sample(&format!("{name}_sum"), labels, snapshot.sum);
        self.sample(&format!("{name}_count"), labels, snapshot.count);
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        self.0.write_fmt(line).expect("a string takes whatever is written to it");
    }
}

struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for character in self.0.chars() {
            match character {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::kinds::Bounds;
    use super::*;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        static BOUNDS: Bounds = Bounds::of_nanos(&[500_000, 10_000_000_000]);
        let (histogram, mut text) = (Histogram::new(&BOUNDS), Text::default());
        histogram.observe(500_000);
        text.histogram("x_seconds", "How long.", &histogram);
        text.begin("y_info", "gauge", "What.");
        text.sample("y_info", &[("a", "1"), ("b", "\"\\\n")], 1);
        assert_eq!(
            text.into_string(),
            "# HELP x_seconds How long.\n# TYPE x_seconds histogram\nx_seconds_bucket{le=\"0.0005\"} 1\nx_seconds_bucket{le=\"10\"} 1\n\
             x_seconds_bucket{le=\"+Inf\"} 1\nx_seconds_sum 0.0005\nx_seconds_count 1\n\
             # HELP y_info What.\n# TYPE y_info gauge\ny_info{a=\"1\",b=\"\\\"\\\\\\n\"} 1\n"
        );
    }
}
