//! Packs a directory as a `.tar.gz`, in a temporary file that is gone with its handle.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, HeaderMode};

/// Directories within directories, before it is taken for a mistake.
const DEPTH_MAX: usize = 256;

/// What is in the directory, below no directory of its own.
///
/// The same content gives the same bytes, whatever the times and the order on the disk: so a repeated submit under an
/// idempotency key is recognised.
pub(super) fn directory(path: &Path) -> io::Result<File> {
    let encoder = GzEncoder::new(BufWriter::new(tempfile::tempfile()?), Compression::default());
    let mut archive = Builder::new(encoder);
    archive.mode(HeaderMode::Deterministic);
    archive.follow_symlinks(false);
    append(&mut archive, path, Path::new(""), DEPTH_MAX)?;
    let mut file = archive.into_inner()?.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.rewind()?;
    Ok(file)
}

fn append<W: Write>(archive: &mut Builder<W>, from: &Path, below: &Path, depth: usize) -> io::Result<()> {
    if depth == 0 {
        return Err(io::Error::other(format!("{}: too deep a directory", from.display())));
    }
    let mut entries: Vec<PathBuf> =
        fs::read_dir(from)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    entries.sort();
    for path in entries {
        let name = below.join(path.file_name().expect("an entry of a directory has a name"));
        let kind = fs::symlink_metadata(&path)?.file_type();
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        if kind.is_dir() {
            archive.append_dir(&name, &path).map_err(named)?;
            append(archive, &path, &name, depth - 1)?;
        } else if kind.is_file() || kind.is_symlink() {
            archive.append_path_with_name(&path, &name).map_err(named)?;
        } else {
            return Err(io::Error::other(format!("{}: is neither a file nor a directory", path.display())));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use tempfile::TempDir;

    use super::*;

    fn names(file: File) -> Vec<String> {
        let mut archive = tar::Archive::new(GzDecoder::new(file));
        let name =
            |entry: io::Result<tar::Entry<'_, _>>| entry.unwrap().path().unwrap().display().to_string();
        archive.entries().unwrap().map(name).collect()
    }

    fn bytes(mut file: File) -> Vec<u8> {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn job(files: &[&str]) -> TempDir {
        let directory = TempDir::new().unwrap();
        fs::create_dir(directory.path().join("data")).unwrap();
        for name in files {
            fs::write(directory.path().join(name), name).unwrap();
        }
        directory
    }

    #[test]
    fn everything_in_the_directory_is_packed_and_no_link_is_followed() {
        let directory = job(&["main.py", "data/ü b.txt"]);
        std::os::unix::fs::symlink("/etc", directory.path().join("link")).unwrap();
        let names = names(super::directory(directory.path()).unwrap());
        assert_eq!(names, ["data", "data/ü b.txt", "link", "main.py"]);
    }

    #[test]
    fn the_same_content_packs_to_the_same_bytes() {
        let (one, other) = (job(&["b", "a"]), job(&["a", "b"]));
        let pack = |job: &TempDir| bytes(directory(job.path()).unwrap());
        assert_eq!(pack(&one), pack(&other));
    }
}
