//! The checks of a manifest's known keys: each takes a value's JSON text and says what would be right.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::DeserializeOwned;

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

/// A number above 0. JSON knows no infinity, and a number that overflows is refused by its reader.
pub fn positive(json: &str) -> Result<f64, String> {
    let number: f64 = read(json, "a number")?;
    if number > 0.0 { Ok(number) } else { Err("must be above 0".into()) }
}

fn read<T: DeserializeOwned>(json: &str, kind: &str) -> Result<T, String> {
    serde_json::from_str(json).map_err(|_| format!("must be {kind}"))
}
