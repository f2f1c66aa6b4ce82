//! Names of uploaded files. A worker stores a file under the name it is sent, so a name must not lead anywhere.

/// Longest name in bytes: what the usual file systems take.
const NAME_BYTES_MAX: usize = 255;

/// The safe base name of what a client called a file: what follows the last `/` or `\`, with `_` for each quote and control
/// character. The error says what is wrong with it.
pub fn safe(given: &str) -> Result<String, String> {
    let base = given.rsplit(['/', '\\']).next().unwrap_or_default();
    let replace = |c: char| if c == '"' || c.is_control() { '_' } else { c };
    let name: String = base.chars().map(replace).collect();
    if matches!(name.as_str(), "" | "." | "..") {
        return Err(format!("has the file name {given:?}, which names no file"));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(format!(
            "has a file name of {} bytes; at most {NAME_BYTES_MAX} are possible",
            name.len()
        ));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_base_name_is_kept() {
        for (given, safe_name) in [
            ("main.py", "main.py"),
            ("dir/sub/main.py", "main.py"),
            (r"C:\Users\me\main.py", "main.py"),
            ("../../etc/passwd", "passwd"),
            ("größe 1%.txt", "größe 1%.txt"),
            ("a\"b\r\nX: y\0\u{85}", "a_b__X: y__"),
            (".hidden", ".hidden"),
            ("...", "..."),
        ] {
            assert_eq!(safe(given).as_deref(), Ok(safe_name), "{given:?}");
        }
    }

    #[test]
    fn a_name_of_nothing_or_of_a_directory_is_refused() {
        for given in ["", ".", "..", "/", "a/", "a/..", r"a\..", "../"] {
            assert!(safe(given).is_err(), "{given:?}");
        }
        assert!(safe(&"x".repeat(NAME_BYTES_MAX)).is_ok());
        assert!(safe(&"ü".repeat(NAME_BYTES_MAX / 2 + 1)).is_err());
    }
}
