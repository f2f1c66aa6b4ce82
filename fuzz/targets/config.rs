//! A configuration that is taken says the same when it is shown and read again; one that is refused is refused in lines that name
//! the place.
#![no_main]

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use trusted_pool::config::{Config, ConfigErrors, ServeArgs};

/// Of this process alone, because several may run at once.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir =
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/target/config")).join(std::process::id().to_string());
    std::fs::create_dir_all(&dir).expect("a directory below target");
    dir.join("pool.yaml")
});

fuzz_target!(|text: &str| {
    let file = || Some(FILE.clone());
    if let Some(config) = load(text, ServeArgs { config: file(), ..ServeArgs::default() }) {
        let shown = config.to_string();
        let again = load(&shown, ServeArgs { config: file(), ..ServeArgs::default() });
        assert_eq!(again.as_ref(), Some(&config), "{shown}");
    }
    if let Some(config) = load(text, ServeArgs { workers: file(), ..ServeArgs::default() }) {
        let workers = config.workers.workers();
        let keys: HashSet<_> = workers.iter().map(|worker| worker.key).collect();
        let endpoints: HashSet<_> = workers.iter().map(|worker| worker.endpoint.to_string()).collect();
        assert!(!workers.is_empty() && keys.len() == workers.len() && endpoints.len() == workers.len());
    }
});

/// Loads a text from the file.
fn load(text: &str, args: ServeArgs) -> Option<Config> {
    // A file that is written over goes to the disk at once, a new one does not.
    let _ = std::fs::remove_file(&*FILE);
    std::fs::write(&*FILE, text).expect("a file below target");
    Config::load(&args).map_err(|errors| say_where(text, &errors)).ok()
}

fn say_where(text: &str, errors: &ConfigErrors) {
    assert!(!errors.problems().is_empty());
    let file = FILE.display().to_string();
    for problem in errors.problems().iter().map(ToString::to_string) {
        let Some(rest) = problem.strip_prefix(&format!("{file}:")) else { continue };
        // Not so of another file that the text names: its name may hold anything.
        assert!(problem.lines().count() == 1, "{problem:?}");
        let Some((line, _)) = rest.split_once(':') else { continue };
        let Ok(line) = line.parse::<usize>() else { continue };
        // The end of a file counts as the line behind its last.
        assert!((1..=text.split(['\n', '\r']).count() + 1).contains(&line), "{problem}");
    }
}
