//! The systemd units of `conf/systemd`: that systemd takes them, how much it finds open in them, and that they start what there is.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::harness::BINARY;

/// Where the units expect the binary.
const INSTALLED: &str = "/usr/local/bin/trusted-pool";

/// Each unit, and the exposure that systemd may find in it, in tenths. The worker's is higher: it makes sandboxes, for which
/// it needs user namespaces and mounts.
const UNITS: [(&str, u32); 2] = [("trusted-pool.service", 15), ("trusted-pool-worker.service", 46)];

fn unit(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/systemd").join(name);
    fs::read_to_string(path).expect("a unit").replace(INSTALLED, BINARY)
}

fn systemd_is_missing() -> bool {
    Command::new("systemd-analyze").arg("--version").output().is_err()
}

#[test]
fn systemd_takes_the_units_and_finds_little_open_in_them() {
    if systemd_is_missing() {
        return eprintln!("there is no systemd-analyze on this machine");
    }
    let dir = TempDir::new().expect("a temporary directory");
    for (name, exposure_max) in UNITS {
        let path = dir.path().join(name);
        fs::write(&path, unit(name)).expect("a writable directory");
        let threshold = format!("--threshold={exposure_max}");
        for args in [&["verify"][..], &["security", "--offline=true", "--no-pager", &threshold]] {
            let output = Command::new("systemd-analyze").args(args).arg(&path).output().expect("it runs");
            let (out, error) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success(), "{name} {args:?}\n{out}\n{error}");
            // What it does not know it warns of, and calls it success.
            assert!(!error.contains(name), "{name} {args:?}\n{error}");
        }
    }
}

#[test]
fn units_start_the_binary_with_options_that_it_has() {
    for (name, _) in UNITS {
        let text = unit(name);
        let line = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("an ExecStart");
        let words: Vec<&str> = line.split_whitespace().collect();
        let help = Command::new(words[0]).args([words[1], "--help"]).output().expect("the binary runs");
        let help = String::from_utf8_lossy(&help.stdout).into_owned();
        for option in words.iter().filter(|word| word.starts_with("--")) {
            assert!(help.contains(option), "{name}: {option}");
        }
    }
}
