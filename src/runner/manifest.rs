//! What a job asks for, read from the `manifest` part of an upload (or from its `job.json`).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::interpreter::Interpreter;
use super::path::JobPath;

/// Largest manifest taken, in bytes, as large as a pool's. It is kept in memory and its arguments become one command line.
pub const MANIFEST_BYTES_MAX: usize = 1 << 20;

/// Most `args`, `env` entries or `outputs` patterns: bubblewrap refuses command lines of more than 9,000 words.
const LIST_ENTRIES_MAX: usize = 1_000;

/// Longest `timeout` or `cpu_seconds` that can be asked for: a year, as a pool takes it. A larger number is a slip of the unit.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// A validated manifest. What it does not say is `None` or empty: the upload's files or the worker decide.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Manifest {
    /// The file to run.
    pub entrypoint: Option<JobPath>,
    /// The program to run it with.
    pub interpreter: Option<Interpreter>,
    /// Arguments after the entrypoint.
    pub args: Vec<String>,
    /// Environment variables, sorted by name.
    pub env: Vec<(String, String)>,
    /// Patterns of the files that are the job's outputs.
    pub outputs: Vec<String>,
    /// How long the job may run.
    pub timeout: Option<Duration>,
    /// How much memory it may use, in bytes.
    pub memory_bytes: Option<u64>,
    /// How much CPU time it may use.
    pub cpu: Option<Duration>,
    /// Whether it needs a network.
    pub network: Option<bool>,
    /// The prepared directory that it needs.
    pub environment: Option<String>,
}

/// A manifest that cannot be run: the sentence names the field and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError(String);

/// The fields as JSON has them. Other fields are other workers' business and are ignored.
#[derive(Deserialize)]
struct Fields {
    entrypoint: Option<String>,
    interpreter: Option<String>,
    args: Option<Vec<String>>,
    env: Option<BTreeMap<String, String>>,
    outputs: Option<Vec<String>>,
    timeout: Option<f64>,
    memory_mb: Option<u64>,
    cpu_seconds: Option<f64>,
    network: Option<bool>,
    environment: Option<String>,
    requirements: Option<Value>,
}

impl Manifest {
    /// Reads a manifest from its JSON text.
    ///
    /// # Errors
    /// When it is no JSON object of these fields, or a field's value cannot be used.
    pub fn parse(json: &[u8]) -> Result<Self, ManifestError> {
        if json.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError(format!("it is larger than {MANIFEST_BYTES_MAX} bytes")));
        }
        let fields = serde_json::from_slice(json).map_err(|error| ManifestError(error.to_string()))?;
        let Fields {
            entrypoint,
            interpreter,
            args,
            env,
            outputs,
            timeout,
            memory_mb,
            cpu_seconds,
            network,
            environment: prepared,
            requirements,
        } = fields;
        none_required(requirements.as_ref())?;
        Ok(Self {
            entrypoint: entrypoint
                .filter(|text| !text.is_empty())
                .map(|text| entry_path(&text))
                .transpose()?,
            interpreter: interpreter
                .map(|name| name.parse())
                .transpose()
                .map_err(|error: super::interpreter::UnknownInterpreter| ManifestError(error.to_string()))?,
            args: arguments(args.unwrap_or_default())?,
            env: environment(env.unwrap_or_default())?,
            outputs: bounded("outputs", outputs.unwrap_or_default())?,
            timeout: timeout.map(|seconds| duration("timeout", seconds)).transpose()?,
            memory_bytes: memory_mb.map(mebibytes).transpose()?,
            cpu: cpu_seconds.map(|seconds| duration("cpu_seconds", seconds)).transpose()?,
            network,
            environment: prepared.filter(|name| !name.is_empty()),
        })
    }
}

/// A job that needs packages and would run without them fails in a way that nobody understands.
fn none_required(requirements: Option<&Value>) -> Result<(), ManifestError> {
    match requirements {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(()),
        Some(Value::Array(list)) if list.is_empty() => Ok(()),
        Some(_) => Err(ManifestError(
            "requirements: this worker installs nothing. Name an `environment` that has the packages (GET \
             /environments lists this worker's), or put them into the upload"
                .into(),
        )),
    }
}

fn entry_path(text: &str) -> Result<JobPath, ManifestError> {
    let path = JobPath::parse(text).map_err(|error| ManifestError(format!("entrypoint: {error}")))?;
    // `python3 -c` would run something that is no file of the job.
    if path.as_str().starts_with('-') {
        return Err(ManifestError("entrypoint: a name that starts with '-' reads as an option".into()));
    }
    Ok(path)
}

fn arguments(args: Vec<String>) -> Result<Vec<String>, ManifestError> {
    match args.iter().position(|arg| arg.contains('\0')) {
        Some(at) => Err(ManifestError(format!("args[{at}] holds a NUL byte, which no argument can"))),
        None => bounded("args", args),
    }
}

fn environment(env: BTreeMap<String, String>) -> Result<Vec<(String, String)>, ManifestError> {
    for (name, value) in &env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(ManifestError(format!("env: {name:?} is no variable that a process can have")));
        }
    }
    bounded("env", env.into_iter().collect())
}

fn bounded<T>(field: &str, list: Vec<T>) -> Result<Vec<T>, ManifestError> {
    if list.len() > LIST_ENTRIES_MAX {
        return Err(ManifestError(format!(
            "{field} has {} entries, at most {LIST_ENTRIES_MAX} are taken",
            list.len()
        )));
    }
    Ok(list)
}

fn mebibytes(number: u64) -> Result<u64, ManifestError> {
    let bytes = number.checked_mul(1 << 20).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| ManifestError(format!("memory_mb is {number}, which is no amount of memory")))
}

fn duration(field: &str, seconds: f64) -> Result<Duration, ManifestError> {
    match Duration::try_from_secs_f64(seconds) {
        Ok(timeout) if !timeout.is_zero() && timeout <= TIMEOUT_MAX => Ok(timeout),
        _ => Err(ManifestError(format!(
            "{field} is {seconds}; it must be more than 0 and at most {} seconds",
            TIMEOUT_MAX.as_secs()
        ))),
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "The manifest cannot be used: {}", self.0)
    }
}

impl std::error::Error for ManifestError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifest_reads_its_fields_and_ignores_others() {
        let manifest = Manifest::parse(
            br#"{"entrypoint":"./src/main.py","interpreter":"python3","args":["-n","1"],"env":{"B":"2","A":"x=y"},
                "outputs":["results/"],"timeout":2.5,"memory_mb":512,"cpu_seconds":10,"network":true,"requirements":"","environment":"ml"}"#,
        )
        .unwrap();
        assert_eq!(manifest.entrypoint.unwrap().as_str(), "src/main.py");
        assert_eq!(manifest.interpreter, Some(Interpreter::Python3));
        assert_eq!(manifest.env, [("A".into(), "x=y".into()), ("B".into(), "2".into())]);
        assert_eq!(manifest.timeout, Some(Duration::from_millis(2500)));
        assert_eq!((manifest.memory_bytes, manifest.cpu), (Some(512 << 20), Some(Duration::from_secs(10))));
        assert_eq!((manifest.network, manifest.environment.as_deref()), (Some(true), Some("ml")));
        let nothing = br#"{"requirements":[],"environment":""}"#;
        assert_eq!(Manifest::parse(nothing).unwrap(), Manifest::default());
        assert_eq!(Manifest::parse(b"{}").unwrap(), Manifest::default());
    }

    #[test]
    fn unusable_values_are_refused_by_field() {
        for (json, part) in [
            (r#"[1]"#, "expected"),
            (r#"{"entrypoint":5}"#, "expected a string"),
            (r#"{"entrypoint":"../x.py"}"#, "entrypoint"),
            (r#"{"entrypoint":"-c"}"#, "option"),
            (r#"{"interpreter":"/bin/cat"}"#, "not allowed"),
            (r#"{"args":["a\u0000"]}"#, "args[0]"),
            (r#"{"env":{"A=B":"1"}}"#, "env"),
            (r#"{"timeout":0}"#, "timeout"),
            (r#"{"timeout":-1}"#, "timeout"),
            (r#"{"timeout":1e12}"#, "31536000"),
            (r#"{"memory_mb":0}"#, "memory_mb"),
            (r#"{"memory_mb":-1}"#, "expected u64"),
            (r#"{"memory_mb":99999999999999}"#, "memory_mb"),
            (r#"{"cpu_seconds":0}"#, "cpu_seconds"),
            (r#"{"network":"yes"}"#, "boolean"),
            (r#"{"requirements":"numpy"}"#, "environment"),
            (r#"{"requirements":["numpy"]}"#, "installs nothing"),
            (r#"{"environment":["ml"]}"#, "expected a string"),
        ] {
            let error = Manifest::parse(json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(part), "{json}: {error}");
        }
    }
}
