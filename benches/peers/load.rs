//! Who asks: downloads and uploads of this program's own client, and wrk and h2load for many small requests.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Connection, Door, Head};
use crate::site::{form, form_type, upload, upload_head};

/// What was done, and how long it took.
#[derive(Clone, Debug, Default)]
pub struct Load {
    pub requests: u64,
    pub bytes: u64,
    pub elapsed: Duration,
    /// Half of the requests, and all but one in a hundred, were answered within.
    pub latency: Option<(Duration, Duration)>,
}

/// Downloads on so many connections, again and again until the time is over; what is under way then counts for its part.
pub fn download(door: &Door, path: &str, connections: usize, time: Duration) -> Load {
    let (requests, bytes, over) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(|| {
                let mut connection = Connection::open(door).expect("the server listens");
                while !over.load(Ordering::Relaxed) {
                    let head = connection.get(path).expect("the server answers");
                    assert_eq!(head.status, 200, "{path}");
                    let mut left = head.length;
                    while left > 0 && !over.load(Ordering::Relaxed) {
                        let read = take(&mut connection, &head, &mut left);
                        bytes.fetch_add(read, Ordering::Relaxed);
                    }
                    requests.fetch_add(u64::from(left == 0), Ordering::Relaxed);
                }
            });
        }
        thread::sleep(time);
        over.store(true, Ordering::Relaxed);
    });
    Load {
        requests: requests.into_inner(),
        bytes: bytes.into_inner(),
        elapsed: begun.elapsed(),
        latency: None,
    }
}

/// Takes what there is of a body, up to a mebibyte.
fn take(connection: &mut Connection, head: &Head, left: &mut u64) -> u64 {
    let wanted = (*left).min(1 << 20);
    let part = Head { status: head.status, length: wanted };
    connection.discard_body(&part).expect("the body is whole");
    *left -= wanted;
    wanted
}

/// So many clients that each take a piece of a file ten times a second, for `time`.
pub fn slow_readers(door: &Door, path: &str, clients: usize, time: Duration) -> Load {
    const PIECE: u64 = 16 << 10;
    let mut connections: Vec<Connection> = (0..clients)
        .map(|_| {
            let mut connection = Connection::open(door).expect("the server listens");
            assert_eq!(connection.get(path).expect("the server answers").status, 200);
            connection
        })
        .collect();
    let (begun, mut bytes) = (Instant::now(), 0);
    while begun.elapsed() < time {
        for connection in &mut connections {
            bytes += connection.discard(PIECE).expect("the body goes on") as u64;
        }
        thread::sleep(Duration::from_millis(100));
    }
    Load { requests: 0, bytes, elapsed: begun.elapsed(), latency: None }
}

/// Uploads jobs of so many bytes, one after another on each connection.
pub fn upload_files(door: &Door, file_bytes: u64, connections: usize, time: Duration) -> Load {
    let requests = AtomicU64::new(0);
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(|| {
                let mut connection = Connection::open(door).expect("the server listens");
                let piece = vec![0x5a; (1 << 20).min(usize::try_from(file_bytes).unwrap_or(usize::MAX))];
                let (head, tail) = form();
                loop {
                    let mut send = |bytes: &[u8]| connection.write(bytes).expect("the server reads");
                    send(upload_head(file_bytes).as_bytes());
                    send(head.as_bytes());
                    let mut left = file_bytes;
                    while left > 0 {
                        let now = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
                        send(&piece[..now]);
                        left -= now as u64;
                    }
                    send(tail.as_bytes());
                    let answer = connection.head().expect("the server answers");
                    let body = connection.body(&answer).expect("the server answers");
                    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&body));
                    requests.fetch_add(1, Ordering::Relaxed);
                    if begun.elapsed() >= time {
                        return;
                    }
                }
            });
        }
    });
    let requests = requests.into_inner();
    Load { requests, bytes: requests * file_bytes, elapsed: begun.elapsed(), latency: None }
}

/// Appends a page to a file and waits until it is on the disk, again and again.
pub fn fsyncs(at: &Path, time: Duration) -> Load {
    let mut file = File::create(at.join("synced")).expect("the site is writable");
    let (begun, mut requests) = (Instant::now(), 0);
    while begun.elapsed() < time {
        file.write_all(&[0x5a; 4096]).and_then(|()| file.sync_data()).expect("the disk takes it");
        requests += 1;
    }
    Load { requests, bytes: requests * 4096, elapsed: begun.elapsed(), latency: None }
}

/// Submits so many trivial jobs.
pub fn submit(door: &Door, jobs: usize, clients: usize) {
    let request = upload(b"exit 0");
    thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                let mut connection = Connection::open(door).expect("the server listens");
                for _ in 0..jobs / clients {
                    connection.write(&request).expect("the server reads");
                    let answer = connection.head().expect("the server answers");
                    let body = connection.body(&answer).expect("the server answers");
                    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&body));
                }
            });
        }
    });
}

/// Many small requests over HTTP/1.1, by wrk.
pub fn wrk(door: &Door, path: &str, connections: usize, time: Duration) -> Load {
    run_wrk(&[], door, path, connections, time)
}

/// Many small uploads, by wrk.
pub fn wrk_submit(at: &Path, door: &Door, file_bytes: usize, connections: usize, time: Duration) -> Load {
    let (head, tail) = form();
    let script = format!(
        "wrk.method = 'POST'\nwrk.headers['Content-Type'] = {}\nwrk.body = {} .. string.rep('Z', {file_bytes}) .. {}\n",
        lua_string(&form_type()),
        lua_string(&head),
        lua_string(&tail)
    );
    let file = at.join("submit.lua");
    fs::write(&file, script).expect("the site is writable");
    let script = ["-s", file.to_str().expect("the site's path is text")];
    run_wrk(&script, door, "/submit", connections, time)
}

fn run_wrk(more: &[&str], door: &Door, path: &str, connections: usize, time: Duration) -> Load {
    let mut command = Command::new("wrk");
    command.args(["-t", "1", "-c", &connections.to_string(), "--latency", "--timeout", "30s"]);
    command.args(["-d", &format!("{}s", time.as_secs().max(1))]).args(more);
    let text = output(command.arg(url(door, path)));
    for bad in ["Non-2xx", "Socket errors"] {
        assert!(!text.contains(bad), "{text}");
    }
    read_wrk(&text).unwrap_or_else(|| panic!("wrk says something else:\n{text}"))
}

fn read_wrk(text: &str) -> Option<Load> {
    let summary = text.lines().find(|line| line.contains(" requests in "))?;
    let words: Vec<&str> = summary.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let [requests, _, _, elapsed, bytes, ..] = words[..] else { return None };
    let within = |percent: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(percent))?;
        duration(line.trim())
    };
    Some(Load {
        requests: requests.parse().ok()?,
        bytes: amount(bytes)?,
        elapsed: duration(elapsed)?,
        latency: within("50%").zip(within("99%")),
    })
}

/// Requests over HTTP/2, by h2load: so many connections, so many streams on each.
pub fn h2load(door: &Door, path: &str, connections: usize, streams: usize, requests: Requests) -> Load {
    let mut command = Command::new("h2load");
    command.args(["-t", "1", "-c", &connections.to_string(), "-m", &streams.to_string()]);
    // Windows of 2^24 bytes: a transfer does not wait for the client.
    command.args(["-w", "24", "-W", "24"]);
    match requests {
        Requests::Number(number) => command.args(["-n", &number.to_string()]),
        Requests::For(time) => command.args(["-D", &time.as_secs().max(1).to_string()]),
    };
    let text = output(command.arg(url(door, path)));
    let load = read_h2load(&text).unwrap_or_else(|| panic!("h2load says something else:\n{text}"));
    assert!(text.contains(" 0 failed, 0 errored"), "{text}");
    load
}

fn read_h2load(text: &str) -> Option<Load> {
    let line = |start: &str| text.lines().find_map(|line| line.strip_prefix(start));
    let words: Vec<&str> = line("requests: ")?.split([' ', ',']).collect();
    let succeeded = words.iter().position(|word| *word == "succeeded")?;
    let traffic = line("traffic: ")?;
    Some(Load {
        requests: words[succeeded - 1].parse().ok()?,
        bytes: traffic.split(['(', ')']).nth(1)?.parse().ok()?,
        elapsed: duration(line("finished in ")?.split(',').next()?)?,
        latency: None,
    })
}

/// How long h2load goes on.
#[derive(Clone, Copy, Debug)]
pub enum Requests {
    Number(usize),
    For(Duration),
}

fn url(door: &Door, path: &str) -> String {
    let scheme = if door.tls.is_some() { "https" } else { "http" };
    format!("{scheme}://{}{path}", door.address)
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A number with a unit of time, as wrk and h2load print it.
fn duration(text: &str) -> Option<Duration> {
    let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic())?);
    let seconds = units.iter().find(|(name, _)| *name == unit)?.1;
    Some(Duration::from_secs_f64(number.parse::<f64>().ok()? * seconds))
}

/// A number of bytes as wrk prints it.
fn amount(text: &str) -> Option<u64> {
    let units = [("KB", 10), ("MB", 20), ("GB", 30), ("TB", 40), ("B", 0)];
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic())?);
    let shift = units.iter().find(|(name, _)| *name == unit)?.1;
    Some((number.parse::<f64>().ok()? * (1_u64 << shift) as f64) as u64)
}

/// A text as Lua writes it: in long brackets a carriage return would not survive.
fn lua_string(text: &str) -> String {
    format!("'{}'", text.replace('\r', "\\r").replace('\n', "\\n"))
}
