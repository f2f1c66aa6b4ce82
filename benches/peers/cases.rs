//! What is measured.

use std::time::Duration;

use serde_json::{Value, json};
use trusted_pool::worker::identity::SecretKey;

use crate::load::{self, Load, Requests};
use crate::report::{Row, Sample, Unit};
use crate::site::{Behind, FILES, Peer, Site};

/// Which cases, how often, and for how long each.
pub struct Plan<'a> {
    pub site: &'a Site,
    pub only: &'a str,
    pub repeat: usize,
    pub time: Duration,
}

/// What is done to a server for a while.
type Run<'a> = dyn Fn(&Peer, Duration) -> Load + 'a;

impl Plan<'_> {
    pub fn run(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        self.outputs(&mut rows);
        self.status(&mut rows);
        self.submits(&mut rows);
        self.views(&mut rows);
        rows
    }

    /// Files from the worker, through each server.
    fn outputs(&self, rows: &mut Vec<Row>) {
        for behind in [Behind::Plain, Behind::PinnedTls] {
            let fronts: &[Front] = match behind {
                Behind::Plain => &[Front::Plain, Front::Tls, Front::Http2],
                Behind::PinnedTls => &[Front::Plain, Front::Tls],
            };
            let mut names: Vec<String> = Vec::new();
            for front in fronts {
                names.extend(FILES.map(|(file, _)| case_name(file, *front, behind)));
            }
            if behind == Behind::Plain {
                names.push(SLOW.to_owned());
            }
            if !names.iter().any(|name| self.wanted(name)) {
                continue;
            }
            let peers = [self.site.nginx(behind), self.site.haproxy(behind), self.site.pool(behind)];
            for front in fronts {
                for (file, _) in FILES {
                    let unit = if file == "4KiB" { Unit::Requests } else { Unit::Bytes };
                    let run = move |peer: &Peer, time| fetch(peer, file, *front, time);
                    self.measure(&case_name(file, *front, behind), unit, &peers, &run, rows);
                }
            }
            if behind == Behind::Plain {
                let run = |peer: &Peer, time| {
                    load::slow_readers(&peer.plain(), &format!("{}1GiB", peer.prefix), 200, time)
                };
                self.measure(SLOW, Unit::Bytes, &peers, &run, rows);
            }
        }
    }

    fn status(&self, rows: &mut Vec<Row>) {
        let (ended, running) = ("/status, ended", "/status, running");
        if self.wanted(ended) {
            let run = |peer: &Peer, time| {
                let path = peer.prefix.replace("/outputs/", "/status/");
                load::wrk(&peer.plain(), path.trim_end_matches('/'), 64, time)
            };
            self.measure(ended, Unit::Requests, &[self.site.pool(Behind::Plain)], &run, rows);
        }
        if self.wanted(running) {
            let (pool, job) = self.site.busy_pool();
            let peers = [self.site.nginx(Behind::Plain), self.site.haproxy(Behind::Plain), pool];
            let run = |peer: &Peer, time| load::wrk(&peer.plain(), &format!("/status/{job}"), 64, time);
            self.measure(running, Unit::Requests, &peers, &run, rows);
        }
    }

    /// Jobs that are taken in while nothing is dispatched; and, beside them, what the disk can do.
    fn submits(&self, rows: &mut Vec<Row>) {
        if self.wanted(FSYNC) {
            let samples = (0..self.repeat).map(|_| Sample {
                load: load::fsyncs(self.site.path(), self.time),
                cpu: Duration::ZERO,
                memory: 0,
            });
            let samples = samples.collect();
            rows.push(Row {
                case: FSYNC.to_owned(),
                unit: Unit::Requests,
                server: "disk".to_owned(),
                samples,
            });
        }
        for (size, bytes) in [("500B", 500), ("64KiB", 64 << 10), ("10MiB", 10 << 20), ("1GiB", 1 << 30)] {
            for clients in [1, 16, 64] {
                let name = format!("/submit {size}, {clients} clients");
                // 64 times 1 GiB would be a measurement of the disk's size.
                if !self.wanted(&name) || (size == "1GiB" && clients > 1) || (size == "10MiB" && clients > 16)
                {
                    continue;
                }
                let (pool, _) = self.site.busy_pool();
                let run = |peer: &Peer, time| match bytes {
                    0..=0x10000 => {
                        load::wrk_submit(self.site.path(), &peer.plain(), bytes as usize, clients, time)
                    }
                    _ => load::upload_files(&peer.plain(), bytes, clients, time),
                };
                let unit = if bytes > 0x10000 { Unit::Bytes } else { Unit::Requests };
                self.measure(&name, unit, &[pool], &run, rows);
            }
        }
    }

    /// `/pool` of few workers and of many.
    fn views(&self, rows: &mut Vec<Row>) {
        for workers in [10, 10_000] {
            let name = format!("/pool of {workers}");
            if !self.wanted(&name) {
                continue;
            }
            let pool = self.site.pool_of(&format!("pool-of-{workers}"), &absent_workers(workers));
            let run = |peer: &Peer, time| load::wrk(&peer.plain(), "/pool", 16, time);
            self.measure(&name, Unit::Requests, &[pool], &run, rows);
        }
    }

    fn wanted(&self, name: &str) -> bool {
        name.contains(self.only)
    }

    /// The servers take turns, each time in another order.
    fn measure(&self, case: &str, unit: Unit, peers: &[Peer], run: &Run<'_>, rows: &mut Vec<Row>) {
        if !self.wanted(case) {
            return;
        }
        let mut samples: Vec<Vec<Sample>> = peers.iter().map(|_| Vec::new()).collect();
        for turn in 0..self.repeat {
            for at in (0..peers.len()).map(|at| (at + turn) % peers.len()) {
                let process = &peers[at].process;
                process.reset_peak();
                let before = process.cpu();
                let load = run(&peers[at], self.time);
                let cpu = process.cpu().saturating_sub(before);
                eprintln!("{case}, {}: {load:?}, {cpu:?}", peers[at].name);
                samples[at].push(Sample { load, cpu, memory: process.peak_memory() });
            }
        }
        for (peer, samples) in peers.iter().zip(samples) {
            rows.push(Row { case: case.to_owned(), unit, server: peer.name.to_owned(), samples });
        }
    }
}

/// What `/submit` cannot be faster than.
const FSYNC: &str = "/submit: 4 KiB appended and synced";

const SLOW: &str = "200 slow readers of 1GiB";

/// How clients reach a server.
#[derive(Clone, Copy, Debug)]
enum Front {
    Plain,
    Tls,
    Http2,
}

fn case_name(file: &str, front: Front, behind: Behind) -> String {
    let front = match front {
        Front::Plain => "h1",
        Front::Tls => "TLS h1",
        Front::Http2 => "TLS h2",
    };
    match behind {
        Behind::Plain => format!("{file}, {front}"),
        Behind::PinnedTls => format!("{file}, {front}, pinned TLS behind"),
    }
}

fn fetch(peer: &Peer, file: &str, front: Front, time: Duration) -> Load {
    let path = format!("{}{file}", peer.prefix);
    match (front, file) {
        (Front::Plain, "4KiB") => load::wrk(&peer.plain(), &path, 64, time),
        (Front::Tls, "4KiB") => load::wrk(&peer.tls(), &path, 64, time),
        (Front::Plain, "1MiB") => load::download(&peer.plain(), &path, 16, time),
        (Front::Tls, "1MiB") => load::download(&peer.tls(), &path, 16, time),
        (Front::Plain, _) => load::download(&peer.plain(), &path, 4, time),
        (Front::Tls, _) => load::download(&peer.tls(), &path, 4, time),
        (Front::Http2, "1GiB") => load::h2load(&peer.tls(), &path, 2, 1, Requests::Number(4)),
        (Front::Http2, _) => load::h2load(&peer.tls(), &path, 8, 8, Requests::For(time)),
    }
}

/// Workers that nobody plays: what is measured is the view of them.
fn absent_workers(number: usize) -> Value {
    (0..number)
        .map(|at| {
            let (b, c) = (at / 250, at % 250 + 1);
            let worker_id = SecretKey::generate().public().to_string();
            json!({"worker_id": worker_id, "endpoint": format!("http://127.1.{b}.{c}:9"), "max_concurrent_jobs": 4})
        })
        .collect()
}
