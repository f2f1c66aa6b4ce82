//! The text format of Prometheus (version 0.0.4), read strictly: what it leaves open is refused, too.

use std::collections::{BTreeMap, BTreeSet};

/// A page of metrics, by family.
#[derive(Debug, Default)]
pub struct Page(BTreeMap<String, Family>);

#[derive(Debug, Default)]
pub struct Family {
    pub kind: String,
    pub samples: Vec<Sample>,
}

#[derive(Debug)]
pub struct Sample {
    name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Page {
    /// Reads a page, which must be sound.
    pub fn read(text: &str) -> Self {
        let body = text.strip_suffix('\n').expect("the last line ends");
        let (mut page, mut current, mut series) = (Self::default(), String::new(), BTreeSet::new());
        let mut lines = body.split('\n');
        while let Some(line) = lines.next() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').expect("a help");
                assert!(is_name(name) && !help.trim().is_empty(), "{line}");
                let kind = lines.next().and_then(|line| line.strip_prefix("# TYPE ")?.strip_prefix(name));
                let kind = kind.expect("a type after the help").trim_start().to_owned();
                assert!(["counter", "gauge", "histogram"].contains(&kind.as_str()), "{name} {kind}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
                let family = Family { kind, samples: Vec::new() };
                assert!(page.0.insert(name.to_owned(), family).is_none(), "{name} comes twice");
                current = name.to_owned();
                continue;
            }
            assert!(!line.starts_with('#'), "{line}");
            let sample = read_sample(line);
            let family = page.0.get_mut(&current).expect("a head before the values");
            let suffix = sample.name.strip_prefix(&current).unwrap_or_else(|| panic!("{line} in {current}"));
            let suffixes: &[&str] =
                if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.contains(&suffix), "{line}");
            assert!(series.insert((sample.name.clone(), sample.labels.clone())), "twice: {line}");
            assert!(family.kind == "gauge" || sample.value >= 0.0, "{line}");
            family.samples.push(sample);
        }
        page.0.iter().filter(|(_, family)| family.kind == "histogram").for_each(check_histogram);
        page
    }

    pub fn families(&self) -> impl Iterator<Item = (&str, &Family)> {
        self.0.iter().map(|(name, family)| (name.as_str(), family))
    }

    /// The value of the one series with exactly these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let family = ["_count", "_sum", "_bucket"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let family = family.filter(|family| self.0.contains_key(*family)).unwrap_or(name);
        let wanted = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let family = self.0.get(family).unwrap_or_else(|| panic!("there is no {name}"));
        let found = family.samples.iter().find(|sample| sample.name == name && sample.labels == wanted);
        found.unwrap_or_else(|| panic!("there is no {name}{wanted:?} in {family:?}")).value
    }

    /// The sum of all series of a counter or gauge.
    pub fn sum(&self, name: &str) -> f64 {
        self.0[name].samples.iter().map(|sample| sample.value).sum()
    }
}

/// Buckets rise, and the last, `+Inf`, is the count.
fn check_histogram((name, family): (&String, &Family)) {
    let mut series: BTreeMap<BTreeMap<String, String>, Vec<&Sample>> = BTreeMap::new();
    for sample in &family.samples {
        let mut labels = sample.labels.clone();
        let bound = labels.remove("le");
        assert_eq!(bound.is_some(), sample.name.ends_with("_bucket"), "{sample:?}");
        series.entry(labels).or_default().push(sample);
    }
    for (labels, samples) in series {
        let (last, buckets) = samples.split_last().expect("a series has samples");
        let (sum, buckets) = buckets.split_last().expect("a sum");
        assert_eq!((&*last.name, &*sum.name), (&*format!("{name}_count"), &*format!("{name}_sum")));
        let points: Vec<(f64, f64)> =
            buckets.iter().map(|bucket| (number(&bucket.labels["le"]), bucket.value)).collect();
        assert!(points.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name}{labels:?}: {points:?}");
        assert_eq!(points.last(), Some(&(f64::INFINITY, last.value)), "{name}{labels:?}");
    }
}

fn read_sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("{line}"));
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
            assert!(is_name(label) && !label.contains(':') && !label.starts_with("__"), "{line}");
            let (value, after) = unescape(value);
            assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
            match after.split_at(1) {
                (",", more) => rest = more,
                ("}", more) => break rest = more,
                _ => panic!("{line}"),
            }
        }
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("{line}"));
    Sample { name: name.to_owned(), labels, value: number(value) }
}

/// A quoted value without its first quote, and what follows the last.
fn unescape(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.push(match characters.next() {
                Some((_, 'n')) => '\n',
                Some((_, same @ ('\\' | '"'))) => same,
                other => panic!("an escape that there is not: {other:?}"),
            }),
            other => value.push(other),
        }
    }
    panic!("a value does not end: {text}");
}

fn number(text: &str) -> f64 {
    let value = match text {
        "+Inf" => f64::INFINITY,
        text if text.starts_with(|c: char| c.is_ascii_digit() || c == '-') => text.parse().expect("a number"),
        other => panic!("{other} is no number"),
    };
    assert!(!value.is_nan());
    value
}

fn is_name(text: &str) -> bool {
    let is_first = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    text.starts_with(is_first) && text.chars().all(|c| is_first(c) || c.is_ascii_digit())
}
