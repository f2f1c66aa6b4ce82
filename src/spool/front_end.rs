//! The browser front end's own text format for one file: `----Tar`, `Path: ` and `Size: ` lines, an empty line, the content.
//!
//! It is forwarded untouched, but a worker stores the content under the path that it finds inside, wherever that leads.

/// What a worker knows the format by.
const MARK: &[u8] = b"----Tar\nPath:";

/// Bytes of a part that are looked at: room for the mark and the longest path that Linux takes.
pub const HEAD_BYTES: usize = 8 << 10;

/// Whether a part that begins with `head` is in this format. The error says what is wrong with its path.
pub fn recognise(head: &[u8]) -> Result<bool, String> {
    let Some(rest) = head.strip_prefix(MARK) else { return Ok(false) };
    let line = rest.split(|byte| *byte == b'\n').next().filter(|line| line.len() < rest.len());
    let path = line.and_then(|line| line.strip_prefix(b" ")).and_then(|path| std::str::from_utf8(path).ok());
    match path {
        Some(path) if is_inside(path) => Ok(true),
        _ => Err("has a `Path:` line that is no relative path without `..`".into()),
    }
}

fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.starts_with('/')
        && !path.chars().any(char::is_control)
        && path.split('/').all(|part| part != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_recognised_and_its_path_must_stay_inside() {
        assert_eq!(recognise(b"----Tar\nPath: src/main.py\nSize: 2\n\nhi"), Ok(true));
        for plain in [&b""[..], b"\x1f\x8b\x08", b"----Tar", b"----Tar\nPath", b"x----Tar\nPath: a\n"] {
            assert_eq!(recognise(plain), Ok(false));
        }
        for wrong in
            ["", " ", " \n", " ../x\n", " a/../../x\n", " /etc/x\n", "x\nPath: ../x\n", " a\0\n", " unended"]
        {
            assert!(recognise(format!("----Tar\nPath:{wrong}").as_bytes()).is_err(), "{wrong:?}");
        }
    }
}
