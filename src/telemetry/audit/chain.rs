//! The file of the audit log: lines of which each carries the hash of the one before.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Entry, Event};

/// Bytes of a line, its end included. What clients can put into one is far shorter; a longer one is not ours.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// What stands in the first line for the hash of the one before.
const NOTHING_BEFORE: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A line as it is written.
#[derive(Serialize)]
struct Line<'a> {
    sequence: u64,
    #[serde(flatten)]
    entry: &'a Entry,
    /// SHA-256 of the line before, without its end.
    previous: &'a str,
}

/// What of a line holds the chain together.
#[derive(Deserialize)]
struct Link {
    sequence: u64,
    previous: String,
}

/// Where a file ends.
struct Tail {
    sequence: u64,
    hash: String,
    /// Bytes up to the end of the last whole line.
    length: u64,
    /// Bytes after it: a line that a crash has cut.
    broken: Vec<u8>,
}

/// A file whose chain is whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Sound {
    pub lines: u64,
    /// Of the last line. Whoever notes it elsewhere can tell later whether lines were cut off the end.
    pub last: String,
}

/// Where a chain breaks.
#[derive(Debug)]
pub enum Broken {
    Io(io::Error),
    /// From 1.
    Line {
        number: u64,
        why: String,
    },
}

/// Writes entries to the end of the file, durably, all of them or none. Processes that do so at the same time wait for one another.
///
/// # Errors
/// When the file cannot be written. What was written of a failed try is taken back, now or by the next one.
pub fn append(path: &Path, entries: &[Entry]) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    // Let go when the file is closed.
    file.lock()?;
    let Tail { mut sequence, mut hash, length, broken } = tail(&mut file)?;
    let mut text = Vec::new();
    let mut add = |entry: &Entry| {
        sequence += 1;
        let line = Line { sequence, entry, previous: &hash };
        let line = serde_json::to_vec(&line).expect("plain data is written as JSON");
        hash = hex(&line);
        text.extend_from_slice(&line);
        text.push(b'\n');
    };
    if !broken.is_empty() {
        let about = serde_json::json!({ "bytes_removed": broken.len(), "sha256_removed": hex(&broken) });
        add(&Entry::new(Event::TailRepaired, about));
        file.set_len(length)?;
    }
    entries.iter().for_each(add);
    let written = file.write_all(&text).and_then(|()| file.sync_data());
    if written.is_err() {
        // Half of it may stand there, as on a full disk. Should this fail too, the next try finds a line that is cut.
        let _ = file.set_len(length);
    }
    written
}

fn tail(file: &mut File) -> io::Result<Tail> {
    let end = file.seek(SeekFrom::End(0))?;
    let from = end.saturating_sub(2 * LINE_BYTES_MAX);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let broken = bytes.split_off(whole);
    let length = end - broken.len() as u64;
    let Some(lines) = bytes.strip_suffix(b"\n") else {
        if from > 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its end is no audit log"));
        }
        return Ok(Tail { sequence: 0, hash: NOTHING_BEFORE.to_owned(), length, broken });
    };
    let last = lines.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    // A last line that somebody has changed is `verify`'s to find; what follows counts on from nothing.
    let sequence = serde_json::from_slice(last).map_or(0, |link: Link| link.sequence);
    Ok(Tail { sequence, hash: hex(last), length, broken })
}

/// Walks the chain.
///
/// # Errors
/// Where it breaks first.
pub fn verify(path: &Path) -> Result<Sound, Broken> {
    let file = File::open(path).map_err(Broken::Io)?;
    // A line that is being written is no broken one.
    file.lock_shared().map_err(Broken::Io)?;
    let mut reader = BufReader::new(file);
    let mut sound = Sound { lines: 0, last: NOTHING_BEFORE.to_owned() };
    loop {
        let number = sound.lines + 1;
        let broken = |why: String| Broken::Line { number, why };
        let mut line = Vec::new();
        let read = (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).map_err(Broken::Io)?;
        if read == 0 {
            return Ok(sound);
        }
        if line.pop() != Some(b'\n') {
            return Err(broken(
                "it is cut, or longer than a line can be; the pool repairs a cut end at its next entry"
                    .to_owned(),
            ));
        }
        let link: Link = serde_json::from_slice(&line)
            .map_err(|error| broken(format!("it is no line of an audit log: {error}")))?;
        if link.sequence != number {
            return Err(broken(format!("it says that it is line {}", link.sequence)));
        }
        if link.previous != sound.last {
            return Err(broken(
                "it does not follow the line before, which was changed or is another".to_owned(),
            ));
        }
        sound = Sound { lines: number, last: hex(&line) };
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use serde_json::{Value, json};

    use super::*;

    fn entry(n: u64) -> Entry {
        Entry::new(Event::Submit, json!({ "job_id": format!("pool-{n}") }))
    }

    fn log(lines: u64) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        (0..lines).for_each(|n| append(&path, &[entry(n)]).unwrap());
        (directory, path)
    }

    fn broken_line(path: &Path) -> u64 {
        match verify(path) {
            Err(Broken::Line { number, .. }) => number,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lines_follow_one_another_in_a_file_of_its_owner() {
        let (_directory, path) = log(2);
        append(&path, &[entry(2), entry(3)]).unwrap();
        assert_eq!(verify(&path).unwrap().lines, 4);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(
            (&last["sequence"], &last["event"], &last["about"]["job_id"]),
            (&json!(4), &json!("submit"), &json!("pool-3"))
        );
    }

    #[test]
    fn a_line_that_is_changed_taken_out_or_moved_breaks_the_chain_there() {
        let (_directory, path) = log(4);
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let with = |lines: &[&str]| {
            fs::write(&path, lines.join("\n") + "\n").unwrap();
            broken_line(&path)
        };
        let changed = lines[1].replace("pool-1", "pool-7");
        assert_eq!(with(&[lines[0], &changed, lines[2], lines[3]]), 3);
        assert_eq!(with(&[lines[0], lines[2], lines[3]]), 2);
        assert_eq!(with(&[lines[1], lines[2]]), 1);
        assert_eq!(with(&[lines[0], lines[2], lines[1], lines[3]]), 2);
        assert_eq!(with(&[lines[0], "{}", lines[2]]), 2);
    }

    #[test]
    fn a_tail_that_a_crash_has_cut_is_taken_off_and_said() {
        for cut in [1, 5, 40] {
            let (_directory, path) = log(3);
            let length = fs::metadata(&path).unwrap().len();
            OpenOptions::new().write(true).open(&path).unwrap().set_len(length - cut).unwrap();
            assert_eq!(broken_line(&path), 3);
            append(&path, &[entry(9)]).unwrap();
            assert_eq!(verify(&path).unwrap().lines, 4, "cut {cut}");
            let text = fs::read_to_string(&path).unwrap();
            let repair: Value = serde_json::from_str(text.lines().nth(2).unwrap()).unwrap();
            assert_eq!(repair["event"], "tail_repaired");
        }
    }

    #[test]
    fn writers_side_by_side_keep_one_chain() {
        let (_directory, path) = log(0);
        std::thread::scope(|scope| {
            for n in 0..4 {
                let path = &path;
                scope.spawn(move || (0..10).for_each(|_| append(path, &[entry(n)]).unwrap()));
            }
        });
        assert_eq!(verify(&path).unwrap().lines, 40);
    }

    #[test]
    fn an_empty_log_is_sound() {
        let (_directory, path) = log(0);
        fs::write(&path, "").unwrap();
        assert_eq!(verify(&path).unwrap().lines, 0);
    }
}
