//! The bar that shows an upload or a download, on standard error, where that is a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar for so many bytes; `None` when nobody knows how many.
pub(super) fn bar(bytes: Option<u64>) -> ProgressBar {
    let bar = match bytes {
        Some(bytes) => ProgressBar::new(bytes),
        None => ProgressBar::no_length(),
    };
    let style = ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}")
        .expect("the template is a valid one");
    bar.with_style(style)
}
