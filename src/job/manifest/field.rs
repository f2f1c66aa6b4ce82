//! The checks of a manifest's known keys: each takes a value's JSON text and says what would be right.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::job::Terms;

/// Longest time a job may ask for, in seconds: a year, so that adding it to a clock cannot overflow.
const TIMEOUT_SECONDS_MAX: f64 = 365.0 * 86_400.0;

/// Whether a key's value is checked at all.
pub fn is_checked(key: &str) -> bool {
    matches!(
        key,
        "entrypoint"
            | "interpreter"
            | "environment"
            | "args"
            | "outputs"
            | "env"
            | "timeout"
            | "memory_mb"
            | "cpu_seconds"
            | "requires"
            | "pool"
    )
}

/// A path, or a pattern of paths, inside the job's directory.
pub fn path(json: &str) -> Result<String, String> {
    let path: String = read(json, "a string")?;
    check_path(&path)?;
    Ok(path)
}

/// Paths, or patterns of paths, inside the job's directory.
pub fn paths(json: &str) -> Result<Vec<String>, String> {
    let paths: Vec<String> = read(json, "an array of strings")?;
    for (index, path) in paths.iter().enumerate() {
        check_path(path).map_err(|message| format!("item {index} {message}"))?;
    }
    Ok(paths)
}

fn check_path(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("must not be empty".into());
    }
    if path.chars().any(char::is_control) {
        return Err("must not contain control characters".into());
    }
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err("must be a relative path without `..`".into());
    }
    Ok(())
}

/// A name without control characters.
pub fn word(json: &str) -> Result<String, String> {
    let word: String = read(json, "a string")?;
    if word.chars().any(char::is_control) {
        return Err("must not contain control characters".into());
    }
    Ok(word)
}

/// A program's arguments.
pub fn arguments(json: &str) -> Result<Vec<String>, String> {
    let arguments: Vec<String> = read(json, "an array of strings")?;
    match arguments.iter().position(|argument| argument.contains('\0')) {
        Some(index) => Err(format!("item {index} must not contain a NUL character")),
        None => Ok(arguments),
    }
}

/// A program's environment variables.
pub fn environment(json: &str) -> Result<BTreeMap<String, String>, String> {
    let variables: BTreeMap<String, String> = read(json, "an object of strings")?;
    for (name, value) in &variables {
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(format!(
                "has the name {name:?}: a name is letters, digits and `_`, and starts with no digit"
            ));
        }
        if value.contains('\0') {
            return Err(format!("has a NUL character in the value of {name}"));
        }
    }
    Ok(variables)
}

/// A number of seconds that a job may run.
pub fn timeout(json: &str) -> Result<Duration, String> {
    let seconds = positive(json)?;
    if seconds > TIMEOUT_SECONDS_MAX {
        return Err(format!("must be at most {TIMEOUT_SECONDS_MAX} seconds"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Most labels that a job may require, and the longest of their names and values in bytes.
const LABELS_MAX: usize = 32;
const LABEL_BYTES_MAX: usize = 128;

/// Most attempts that a job may ask for: one that kills its workers must end.
const ATTEMPTS_MAX: u64 = 100;

/// The labels that a job's worker must have.
pub fn labels(json: &str) -> Result<BTreeMap<String, String>, String> {
    let labels: BTreeMap<String, String> = read(json, "an object of strings")?;
    if labels.len() > LABELS_MAX {
        return Err(format!("must have at most {LABELS_MAX} labels"));
    }
    let is_good =
        |text: &str| !text.is_empty() && text.len() <= LABEL_BYTES_MAX && !text.chars().any(char::is_control);
    match labels.iter().find(|(name, value)| !is_good(name) || !is_good(value)) {
        Some((name, _)) => Err(format!(
            "has the label {name:?}: a name and its value are 1 to {LABEL_BYTES_MAX} bytes without control characters"
        )),
        None => Ok(labels),
    }
}

/// What the client asks of the pool.
pub fn terms(json: &str, terms: &mut Terms) -> Result<(), String> {
    let members: BTreeMap<String, Box<RawValue>> = read(json, "an object")?;
    for (key, value) in &members {
        term(key, value.get(), terms).map_err(|message| format!("has a wrong `{key}`: it {message}"))?;
    }
    Ok(())
}

fn term(key: &str, value: &str, terms: &mut Terms) -> Result<(), String> {
    match key {
        "on_unknown" => {
            let policy = read::<String>(value, "a string")?;
            terms.on_unknown = Some(policy.parse().map_err(|_| "must be `hold` or `retry`".to_owned())?);
        }
        "on_worker_lost" => {
            let policy = read::<String>(value, "a string")?;
            terms.on_worker_lost =
                Some(policy.parse().map_err(|_| "must be `hold`, `retry` or `fail`".to_owned())?);
        }
        "max_attempts" => {
            let attempts: u64 = read(value, "a whole number")?;
            let attempts =
                u32::try_from(attempts).ok().filter(|n| (1..=ATTEMPTS_MAX).contains(&u64::from(*n)));
            terms.max_attempts = Some(attempts.ok_or_else(|| format!("must be from 1 to {ATTEMPTS_MAX}"))?);
        }
        "queue_timeout" => terms.queue_timeout = Some(timeout(value)?),
        _ => {
            return Err(
                "is not known; known are on_unknown, on_worker_lost, max_attempts, queue_timeout".to_owned()
            );
        }
    }
    Ok(())
}

/// A number above 0. JSON knows no infinity, and a number that overflows is refused by its reader.
pub fn positive(json: &str) -> Result<f64, String> {
    let number: f64 = read(json, "a number")?;
    if number > 0.0 { Ok(number) } else { Err("must be above 0".into()) }
}

fn read<T: DeserializeOwned>(json: &str, kind: &str) -> Result<T, String> {
    serde_json::from_str(json).map_err(|_| format!("must be {kind}"))
}
