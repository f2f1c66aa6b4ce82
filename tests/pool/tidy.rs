//! Who may use what: the directions that keep the tree readable.

use std::fs;
use std::path::{Path, PathBuf};

/// A text, and the places in `src` that may hold it; nobody else may.
const ALLOWED: [(&str, &[&str]); 6] = [
    ("crate::dispatch", &["dispatch", "server", "simulation"]),
    ("crate::proxy", &["proxy", "server"]),
    ("crate::config", &["config", "server", "cli"]),
    ("crate::server", &["server", "cli"]),
    ("rusqlite", &["store/sqlite"]),
    ("pingora", &["proxy", "server", "upstream/peer.rs", "pool/prober.rs", "telemetry"]),
];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn modules_use_only_what_lies_below_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 100, "{} files", files.len());
    for file in files {
        let place = file.strip_prefix(&root).expect("a file below src").display().to_string();
        let text = fs::read_to_string(&file).expect("a readable source");
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for (line, (what, places)) in code.flat_map(|line| ALLOWED.iter().map(move |rule| (line, rule))) {
            let may = places.iter().any(|allowed| place.starts_with(allowed));
            assert!(may || !line.contains(what), "{place} uses {what}: {line}");
        }
    }
}
