//! Instructions for one request of each kind, counted by callgrind: `make bench-guard`.
//!
//! Unlike times, counts are nearly the same on every run of one binary, whatever else the machine does. So they can be held to what
//! they were: a change that makes a hot path longer is seen before anybody measures it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value};

use crate::client::{Connection, Door};
use crate::site::{Behind, Peer, Site, upload};

/// Requests before anything is counted: connections are made, and what is made once is.
const WARM_UP: usize = 50;

/// Requests that are counted.
const REQUESTS: usize = 500;

/// How far a count may be from what it was before it is called another: tasks in the background, and another compiler, move it a little.
const TOLERANCE: f64 = 0.10;

/// Counts, and holds them to those of the file, or writes it; whether all is as it was.
pub fn run(site: &Site, baseline: &Path, write: bool) -> bool {
    // They stay: `callgrind_annotate` tells where the instructions go.
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("callgrind.out");
    let _ = fs::create_dir_all(out.parent().expect("it is in a directory"));
    let mut valgrind = Command::new("valgrind");
    valgrind
        .arg("--tool=callgrind")
        .arg("--dump-instr=no")
        .arg(format!("--callgrind-out-file={}", out.display()));
    let pool = site.pool_under(valgrind, Behind::Plain);
    let counted = Counted { pool: &pool, out, dumps: 0 };
    let counts = counted.all();
    if write {
        let text = serde_json::to_string_pretty(&counts).expect("numbers are JSON");
        fs::write(baseline, text + "\n").unwrap_or_else(|error| panic!("{}: {error}", baseline.display()));
        return true;
    }
    let text = fs::read_to_string(baseline).unwrap_or_else(|error| panic!("{}: {error}", baseline.display()));
    let before: Map<String, Value> = serde_json::from_str(&text).expect("the baseline is a JSON object");
    let mut same = true;
    for (case, now) in &counts {
        let now = now.as_f64().expect("a count is a number");
        let verdict = match before.get(case).and_then(Value::as_f64) {
            None => "new: write the baseline".to_owned(),
            Some(before) => {
                let change = now / before - 1.0;
                same &= change <= TOLERANCE;
                let word = if change > TOLERANCE { "MORE THAN BEFORE" } else { "ok" };
                format!("{:+.1} %: {word}", 100.0 * change)
            }
        };
        println!("{case}: {now:.0} instructions, {verdict}");
    }
    same
}

/// A pool under callgrind.
struct Counted<'a> {
    pool: &'a Peer,
    out: PathBuf,
    dumps: usize,
}

impl Counted<'_> {
    fn all(mut self) -> Map<String, Value> {
        let door = self.pool.plain();
        let prefix = self.pool.prefix.clone();
        let status = prefix.replace("/outputs/", "/status/").trim_end_matches('/').to_owned();
        let mut counts = Map::new();
        for (case, path) in [
            ("4KiB", format!("{prefix}4KiB")),
            ("1MiB", format!("{prefix}1MiB")),
            ("/status, ended", status),
            ("/pool of 1", "/pool".to_owned()),
        ] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            counts.insert(case.to_owned(), self.count(&door, request.as_bytes()).into());
        }
        counts.insert(
            "/submit 500B, run and collected".to_owned(),
            self.count(&door, &upload(&[0x5a; 500])).into(),
        );
        counts
    }

    /// Instructions for one of these requests.
    fn count(&mut self, door: &Door, request: &[u8]) -> u64 {
        let mut connection = Connection::open(door).expect("the pool listens");
        let mut ask = |times: usize| {
            for _ in 0..times {
                connection.write(request).expect("the pool reads");
                let head = connection.head().expect("the pool answers");
                assert_eq!(head.status, 200);
                connection.discard_body(&head).expect("the body is whole");
            }
        };
        ask(WARM_UP);
        self.control("-z");
        ask(REQUESTS);
        self.control("-d");
        self.dumps += 1;
        let dump = self.out.with_extension(format!("out.{}", self.dumps));
        let text = fs::read_to_string(&dump).unwrap_or_else(|error| panic!("{}: {error}", dump.display()));
        let totals = text.lines().find_map(|line| line.strip_prefix("totals: "));
        let totals: u64 = totals.and_then(|count| count.trim().parse().ok()).expect("a dump has its totals");
        totals / REQUESTS as u64
    }

    fn control(&self, what: &str) {
        let pid = self.pool.process.id().to_string();
        let done = Command::new("callgrind_control").args([what, &pid]).output();
        let done = done.expect("callgrind_control comes with valgrind");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}
