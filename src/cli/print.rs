//! What is printed for people: tables, ages, sizes and names that cannot disturb a terminal.

use std::io::{self, Write};

use crate::time::Clock;

/// Writes a text and ends its line.
pub(super) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// Writes rows with their columns below one another. The first row is the head.
pub(super) fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> io::Result<()> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let mut out = io::stdout().lock();
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    out.flush()
}

/// The text without what a terminal would take for a command.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// How long ago this point in time is, in Unix seconds.
pub(super) fn age(unix_seconds: f64) -> String {
    let seconds = (Clock::System.now().as_unix_seconds() - unix_seconds).max(0.0) as u64;
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7_200 => format!("{} min ago", seconds / 60),
        7_200..172_800 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_cannot_command_a_terminal() {
        assert_eq!(printable("a\x1b[2Jb\nü"), "a\u{fffd}[2Jb\u{fffd}ü");
    }
}
