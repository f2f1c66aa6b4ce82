//! Values that the pool holds anyway, read when somebody asks.

use std::collections::HashMap;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::text::{Family, Kind};

/// A family whose values are read when it is shown.
pub struct Live {
    family: Family,
    desc: Desc,
    /// A label and its values; without, there is one value and no label.
    label: Option<(&'static str, &'static [&'static str])>,
    read: Box<dyn Fn() -> Vec<f64> + Send + Sync>,
}

impl Live {
    /// One value; none is shown while it is `None`.
    pub fn new(family: Family, read: impl Fn() -> Option<f64> + Send + Sync + 'static) -> Self {
        Self::make(family, None, move || Vec::from_iter(read()))
    }

    /// One value for each of a label's values, in their order.
    pub fn labelled(
        family: Family,
        label: &'static str,
        values: &'static [&'static str],
        read: impl Fn() -> Vec<f64> + Send + Sync + 'static,
    ) -> Self {
        Self::make(family, Some((label, values)), read)
    }

    fn make(
        family: Family,
        label: Option<(&'static str, &'static [&'static str])>,
        read: impl Fn() -> Vec<f64> + Send + Sync + 'static,
    ) -> Self {
        let names = label.iter().map(|(name, _)| (*name).to_owned()).collect();
        let desc = Desc::new(family.name.to_owned(), family.help.to_owned(), names, HashMap::new());
        Self { family, desc: desc.expect("name and help are sound"), label, read: Box::new(read) }
    }

    fn metric(&self, value: f64, label: Option<&str>) -> Metric {
        let mut metric = match self.family.kind {
            Kind::Gauge => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                Metric::from_gauge(gauge)
            }
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                let mut metric = Metric::default();
                metric.set_counter(counter);
                metric
            }
        };
        if let (Some((name, _)), Some(value)) = (self.label, label) {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value.to_owned());
            metric.set_label(vec![pair]);
        }
        metric
    }
}

impl Collector for Live {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let values = (self.read)().into_iter();
        let metrics = match self.label {
            None => values.map(|value| self.metric(value, None)).collect(),
            Some((_, labels)) => {
                values.zip(labels).map(|(value, label)| self.metric(value, Some(label))).collect()
            }
        };
        let mut family = MetricFamily::default();
        family.set_name(self.family.name.to_owned());
        family.set_help(self.family.help.to_owned());
        family.set_field_type(match self.family.kind {
            Kind::Gauge => MetricType::GAUGE,
            Kind::Counter => MetricType::COUNTER,
        });
        family.set_metric(metrics);
        vec![family]
    }
}
