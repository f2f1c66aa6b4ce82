//! The manifest of a submit: a file's, the flags', or the one that lies in the directory that is sent.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::cli::exit::Failure;

/// What to run, and how
#[derive(Debug, clap::Args)]
pub(super) struct ManifestArgs {
    /// The manifest, JSON. Without it and without --entrypoint, manifest.json or job.json in the directory that is sent
    #[arg(long, value_name = "FILE", conflicts_with = "entrypoint")]
    manifest: Option<PathBuf>,
    /// The file to run
    #[arg(long, value_name = "FILE")]
    entrypoint: Option<String>,
    /// What runs it, such as python3
    #[arg(long, requires = "entrypoint", value_name = "NAME")]
    interpreter: Option<String>,
    /// An argument for it; may be given several times
    #[arg(long = "arg", requires = "entrypoint", value_name = "ARG", allow_hyphen_values = true)]
    args: Vec<String>,
    /// A variable of its environment; may be given several times
    #[arg(long = "env", requires = "entrypoint", value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// A pattern of the files that it puts out; may be given several times
    #[arg(long = "output", requires = "entrypoint", value_name = "GLOB")]
    outputs: Vec<String>,
    /// How long it may run
    #[arg(long, requires = "entrypoint", value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    timeout: Option<u32>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a variable is NAME=VALUE".to_owned()),
    }
}

/// Where a directory may have its manifest, in the order in which they are looked for.
const IN_DIRECTORY: [&str; 2] = ["manifest.json", "job.json"];

impl ManifestArgs {
    /// The manifest for a submit of these paths.
    pub(super) fn json(&self, paths: &[PathBuf]) -> Result<String, Failure> {
        if let Some(entrypoint) = &self.entrypoint {
            return Ok(self.of_flags(entrypoint).to_string());
        }
        if let Some(file) = &self.manifest {
            return read(file);
        }
        for path in paths {
            for name in IN_DIRECTORY {
                let file = path.join(name);
                if file.is_file() {
                    return read(&file);
                }
            }
        }
        // Archives may have theirs inside, and some programs are found by their names.
        Ok("{}".to_owned())
    }

    fn of_flags(&self, entrypoint: &str) -> Value {
        let Self { manifest: _, entrypoint: _, interpreter, args, env, outputs, timeout } = self;
        let mut manifest = Map::new();
        manifest.insert("entrypoint".to_owned(), entrypoint.into());
        let mut add = |name: &str, value: Option<Value>| {
            manifest.extend(value.map(|value| (name.to_owned(), value)));
        };
        add("interpreter", interpreter.clone().map(Value::from));
        add("args", (!args.is_empty()).then(|| json!(args)));
        add(
            "env",
            (!env.is_empty())
                .then(|| env.iter().cloned().map(|(name, value)| (name, Value::from(value))).collect()),
        );
        add("outputs", (!outputs.is_empty()).then(|| json!(outputs)));
        add("timeout", timeout.map(Value::from));
        Value::Object(manifest)
    }
}

/// Reads a manifest and sees that it is one: a slip in it is better found before a long upload than after.
fn read(file: &Path) -> Result<String, Failure> {
    let wrong = |error: String| Failure::Setup(format!("{}: {error}", file.display()));
    let text = fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    let manifest: Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if manifest.is_object() { Ok(text) } else { Err(wrong("a manifest is a JSON object".to_owned())) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use tempfile::TempDir;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        manifest: ManifestArgs,
    }

    fn args(line: &[&str]) -> ManifestArgs {
        Line::try_parse_from([&["submit"], line].concat()).unwrap_or_else(|error| panic!("{error}")).manifest
    }

    #[test]
    fn flags_make_a_manifest() {
        let line = "--entrypoint main.py --interpreter python3 --arg -x --arg a=b --env A=1=2 --output *.png --timeout 5";
        let json = args(&line.split(' ').collect::<Vec<_>>()).json(&[]).unwrap();
        let expected = r#"{"entrypoint":"main.py","interpreter":"python3","args":["-x","a=b"],"env":{"A":"1=2"},"outputs":["*.png"],"timeout":5}"#;
        assert_eq!(json, expected);
        assert_eq!(args(&["--entrypoint", "run.sh"]).json(&[]).unwrap(), r#"{"entrypoint":"run.sh"}"#);
        for wrong in [
            &["--arg", "x"][..],
            &["--manifest", "a", "--entrypoint", "b"],
            &["--entrypoint", "b", "--env", "=x"],
        ] {
            assert!(Line::try_parse_from([&["submit"], wrong].concat()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_directory_brings_its_own() {
        let directory = TempDir::new().unwrap();
        let paths = [directory.path().to_owned()];
        assert_eq!(args(&[]).json(&paths).unwrap(), "{}");
        fs::write(directory.path().join("job.json"), r#"{"entrypoint": "job"}"#).unwrap();
        assert_eq!(args(&[]).json(&paths).unwrap(), r#"{"entrypoint": "job"}"#);
        fs::write(directory.path().join("manifest.json"), r#"{"entrypoint": 1,}"#).unwrap();
        let Err(Failure::Setup(message)) = args(&[]).json(&paths) else {
            panic!("a broken manifest was taken")
        };
        assert!(message.contains("manifest.json: ") && message.contains("line 1"), "{message}");
    }
}
