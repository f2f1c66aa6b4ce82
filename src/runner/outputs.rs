//! Which of a job's files are its outputs, and what is said about them.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use sha2::{Digest, Sha256};

use super::path::JobPath;
use super::workdir::{Found, Stamp, Walk, WorkDir};

/// Most outputs listed for one job: the listing is one JSON text.
const OUTPUTS_MAX: usize = 10_000;

/// Bytes hashed at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// What makes a file an output.
#[derive(Debug)]
pub enum OutputRule {
    /// It matches a pattern of the manifest.
    Matches(GlobSet),
    /// It was not uploaded, or is no longer as it was uploaded.
    Changed(HashMap<JobPath, Stamp>),
}

/// A pattern of the manifest that cannot be used.
#[derive(Debug)]
pub struct PatternError {
    pattern: String,
    why: String,
}

/// One output.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Output {
    /// The file and what it was when it was listed.
    pub found: Found,
    /// SHA-256 of its content in hex, once the job has ended.
    pub sha256: Option<String>,
}

/// A job's outputs.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Outputs {
    /// The files, sorted by path.
    pub files: Vec<Output>,
    /// Whether there are more than are listed.
    pub truncated: bool,
}

impl OutputRule {
    /// The rule for the patterns of a manifest, or for none. The work directory must be as it was uploaded.
    ///
    /// A pattern is a shell's: `*` and `?` do not match a slash, `**` does. One that matches a directory stands for
    /// everything below.
    ///
    /// # Errors
    /// When a pattern is malformed or leaves the job's directory.
    pub fn new(patterns: &[String], work: &WorkDir) -> Result<Self, PatternError> {
        if patterns.is_empty() {
            return Ok(Self::Changed(
                work.walk().files.into_iter().map(|Found { path, stamp }| (path, stamp)).collect(),
            ));
        }
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let error = |why: String| PatternError { pattern: pattern.clone(), why };
            let path = JobPath::parse(pattern).map_err(|why| error(why.to_string()))?;
            for glob in [path.as_str(), &format!("{path}/**")] {
                let glob = GlobBuilder::new(glob).literal_separator(true).build();
                set.add(glob.map_err(|why| error(why.kind().to_string()))?);
            }
        }
        set.build()
            .map(Self::Matches)
            .map_err(|why| PatternError { pattern: patterns.join(", "), why: why.kind().to_string() })
    }

    /// Lists the outputs there are now, without their digests.
    #[must_use]
    pub fn list(&self, work: &WorkDir) -> Outputs {
        let Walk { files, truncated } = work.walk();
        let mut files: Vec<Output> = files
            .into_iter()
            .filter(|found| self.selects(found))
            .map(|found| Output { found, sha256: None })
            .collect();
        let truncated = truncated || files.len() > OUTPUTS_MAX;
        files.truncate(OUTPUTS_MAX);
        Outputs { files, truncated }
    }

    /// Lists the outputs of a job that has ended, with their digests, as far as they have no more than `hashed_max`
    /// bytes together: holes and links can make a listing much longer than the disk that it describes.
    #[must_use]
    pub fn collect(&self, work: &WorkDir, hashed_max: u64) -> Outputs {
        let mut outputs = self.list(work);
        let mut left = hashed_max;
        for output in &mut outputs.files {
            let Some(rest) = left.checked_sub(output.found.stamp.size) else { continue };
            left = rest;
            // A file that cannot be read is listed all the same; asking for it will say why.
            output.sha256 = work.open(&output.found.path).ok().and_then(|open| sha256(open.file).ok());
        }
        outputs
    }

    fn selects(&self, found: &Found) -> bool {
        match self {
            Self::Matches(globs) => globs.is_match(&found.path),
            Self::Changed(uploaded) => uploaded.get(&found.path) != Some(&found.stamp),
        }
    }
}

impl Outputs {
    /// The digest of a file that is still as it was listed.
    #[must_use]
    pub fn digest(&self, path: &JobPath, stamp: Stamp) -> Option<&str> {
        let at = self.files.binary_search_by(|output| output.found.path.cmp(path)).ok()?;
        self.files[at].sha256.as_deref().filter(|_| self.files[at].found.stamp == stamp)
    }
}

fn sha256(mut file: impl Read) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hex(&hasher.finalize())),
            read => hasher.update(&chunk[..read]),
        }
    }
}

/// Bytes as lower-case hexadecimal text.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The MIME type that a file's name stands for.
#[must_use]
pub fn mime_type(path: &JobPath) -> String {
    mime_guess::from_path(path).first_or_octet_stream().essence_str().to_owned()
}

/// The kind of file that clients choose a presentation by.
#[must_use]
pub fn file_type(path: &JobPath) -> &'static str {
    let mime = mime_guess::from_path(path).first_or_octet_stream();
    match (mime.type_().as_str(), mime.subtype().as_str()) {
        ("text", _) | ("application", "json" | "xml" | "javascript" | "x-sh") => "text",
        ("image", _) => "image",
        ("audio", _) => "audio",
        ("video", _) => "video",
        ("application", "zip" | "gzip" | "x-tar" | "x-gzip" | "x-7z-compressed") => "archive",
        _ => "binary",
    }
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "The manifest cannot be used: outputs: pattern {:?}: {}", self.pattern, self.why)
    }
}

impl std::error::Error for PatternError {}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn work(files: &[&str]) -> (tempfile::TempDir, WorkDir) {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        let work = WorkDir::new(dir.path()).unwrap();
        (dir, work)
    }

    fn names(outputs: &Outputs) -> Vec<&str> {
        outputs.files.iter().map(|output| output.found.path.as_str()).collect()
    }

    #[test]
    fn patterns_choose_files_and_directories() {
        let (_dir, work) = work(&["a.png", "main.py", "results/b.png", "results/deep/c.txt", "results2/d"]);
        for (pattern, chosen) in [
            ("results/", vec!["results/b.png", "results/deep/c.txt"]),
            ("./results", vec!["results/b.png", "results/deep/c.txt"]),
            ("*.png", vec!["a.png"]),
            ("**/*.png", vec!["a.png", "results/b.png"]),
            ("results/*.png", vec!["results/b.png"]),
            ("{main.py,results2/?}", vec!["main.py", "results2/d"]),
            ("nothing", vec![]),
        ] {
            let rule = OutputRule::new(&[pattern.to_owned()], &work).unwrap();
            assert_eq!(names(&rule.list(&work)), chosen, "{pattern}");
        }
        for bad in ["../x", "/etc/*", "", "[", "{a"] {
            assert!(OutputRule::new(&[bad.to_owned()], &work).is_err(), "{bad}");
        }
    }

    #[test]
    fn without_patterns_what_is_new_or_changed_is_an_output() {
        let (dir, work) = work(&["main.py", "data.txt"]);
        let rule = OutputRule::new(&[], &work).unwrap();
        fs::write(dir.path().join("data.txt"), "longer than before").unwrap();
        fs::write(dir.path().join("new"), "abc").unwrap();
        let outputs = rule.collect(&work, u64::MAX);
        assert_eq!(names(&outputs), ["data.txt", "new"]);

        let new = &outputs.files[1];
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(outputs.digest(&new.found.path, new.found.stamp), Some(digest));
        assert_eq!(outputs.digest(&new.found.path, outputs.files[0].found.stamp), None);
    }
}
