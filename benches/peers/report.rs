//! What came out: medians with their spread, beside each other.

use std::time::Duration;

use serde_json::{Value, json};

use crate::load::Load;

/// What a case counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Requests,
    Bytes,
}

/// One repetition of a case at one server.
#[derive(Clone, Debug)]
pub struct Sample {
    pub load: Load,
    /// Processor time of the server.
    pub cpu: Duration,
    /// The most memory that the server had, in bytes.
    pub memory: u64,
}

/// All repetitions of a case at one server.
pub struct Row {
    pub case: String,
    pub unit: Unit,
    pub server: String,
    pub samples: Vec<Sample>,
}

/// A median, and the least and the most.
#[derive(Clone, Copy, Debug)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Row {
    /// Requests a second, or GiB a second.
    fn rate(&self) -> Spread {
        self.spread(|sample| self.amount(sample) / sample.load.elapsed.as_secs_f64())
    }

    /// Processor time for one request in microseconds, or for one GiB in seconds.
    fn cost(&self) -> Spread {
        let scale = if self.unit == Unit::Requests { 1e6 } else { 1.0 };
        self.spread(|sample| scale * sample.cpu.as_secs_f64() / self.amount(sample))
    }

    fn amount(&self, sample: &Sample) -> f64 {
        match self.unit {
            Unit::Requests => sample.load.requests as f64,
            Unit::Bytes => sample.load.bytes as f64 / (1_u64 << 30) as f64,
        }
    }

    fn memory(&self) -> Spread {
        self.spread(|sample| sample.memory as f64 / (1 << 20) as f64)
    }

    fn latency(&self) -> Option<(Spread, Spread)> {
        self.samples.iter().all(|sample| sample.load.latency.is_some()).then(|| {
            let of = |take: fn((Duration, Duration)) -> Duration| {
                self.spread(|sample| 1e3 * take(sample.load.latency.unwrap_or_default()).as_secs_f64())
            };
            (of(|(p50, _)| p50), of(|(_, p99)| p99))
        })
    }

    fn spread(&self, of: impl Fn(&Sample) -> f64) -> Spread {
        let mut values: Vec<f64> = self.samples.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        Spread { median: values[values.len() / 2], least: values[0], most: values[values.len() - 1] }
    }
}

/// A table for people. What the pool does is compared with each other server of the same case.
pub fn print(rows: &[Row]) {
    println!(
        "| case | server | rate (least–most) | ratio | CPU | ratio | MiB | p50, p99 ms |\n|---|---|---|---|---|---|---|---|"
    );
    for row in rows {
        let (rate, cost) = (row.rate(), row.cost());
        let pool = rows.iter().find(|other| other.case == row.case && other.server == "pool");
        let ratio = |of: fn(&Row) -> Spread, own: Spread| match pool {
            Some(pool) if pool.server != row.server => format!("{:.2}", of(pool).median / own.median),
            Some(_) | None => String::new(),
        };
        let (rates, costs) = match row.unit {
            Unit::Bytes => (
                format!("{:.2} GiB/s ({:.2}–{:.2})", rate.median, rate.least, rate.most),
                format!("{:.2} s/GiB", cost.median),
            ),
            Unit::Requests => (
                format!("{:.0}/s ({:.0}–{:.0})", rate.median, rate.least, rate.most),
                format!("{:.1} µs", cost.median),
            ),
        };
        let latency = row.latency().map(|(p50, p99)| format!("{:.2}, {:.2}", p50.median, p99.median));
        println!(
            "| {} | {} | {rates} | {} | {costs} | {} | {:.0} | {} |",
            row.case,
            row.server,
            ratio(Row::rate, rate),
            ratio(Row::cost, cost),
            row.memory().most,
            latency.unwrap_or_default()
        );
    }
}

/// The same for programs, with every repetition.
pub fn to_json(rows: &[Row]) -> Value {
    let sample = |sample: &Sample| {
        json!({
            "requests": sample.load.requests, "bytes": sample.load.bytes,
            "seconds": sample.load.elapsed.as_secs_f64(), "cpu_seconds": sample.cpu.as_secs_f64(),
            "peak_memory_bytes": sample.memory,
            "p50_ms": sample.load.latency.map(|(p50, _)| 1e3 * p50.as_secs_f64()),
            "p99_ms": sample.load.latency.map(|(_, p99)| 1e3 * p99.as_secs_f64()),
        })
    };
    let row = |row: &Row| {
        let samples: Vec<Value> = row.samples.iter().map(sample).collect();
        json!({"case": row.case, "server": row.server, "counts": format!("{:?}", row.unit).to_lowercase(), "samples": samples})
    };
    Value::Array(rows.iter().map(row).collect())
}
