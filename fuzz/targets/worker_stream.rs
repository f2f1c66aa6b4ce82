//! What a worker streams means the same however it is cut: its logs, which are kept up to their bound as a JSON library would read them,
//! and the events of a live log.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde::Deserialize;
use serde_json::Value;
use trusted_pool::api::live_log::{EventReader, LogEvent};
use trusted_pool::store::{Logs, Truncation};
use trusted_pool::upstream::logs::LogScanner;
use trusted_pool_fuzz::cut::{self, Lengths};

/// Bounds of the kept logs: one that cuts most inputs, and one that cuts none.
const LOG_BYTES_MAX: [usize; 2] = [16, 1 << 20];

fuzz_target!(|input: &[u8]| {
    let (sent, lengths) = cut::split(input);
    for bytes_max in LOG_BYTES_MAX {
        let logs = scanned(bytes_max, std::iter::once(sent));
        assert_eq!(scanned(bytes_max, lengths.pieces(sent)), logs);
        if let Some(logs) = logs {
            agree(bytes_max, sent, &logs);
        }
    }
    let told = events(std::iter::once(sent));
    assert_eq!(events(lengths.pieces(sent)), told);
    written_again(&told.0, lengths);
});

fn scanned<'a>(bytes_max: usize, mut pieces: impl Iterator<Item = &'a [u8]>) -> Option<Logs> {
    let mut scanner = LogScanner::new(bytes_max);
    pieces.try_for_each(|piece| scanner.push(piece)).ok()?;
    scanner.finish().ok()
}

fn agree(bytes_max: usize, sent: &[u8], logs: &Logs) {
    // What says one of them twice is nothing to this reader.
    #[derive(Deserialize)]
    struct Body {
        stdout: Option<Value>,
        stderr: Option<Value>,
    }
    let Ok(Body { stdout, stderr }) = serde_json::from_slice(sent) else { return };
    for (said, kept) in [(stdout, &logs.stdout), (stderr, &logs.stderr)] {
        let said = said.as_ref().and_then(Value::as_str).unwrap_or_default();
        // A character that is cut in two is shown as one that is none.
        let whole = kept.strip_suffix('\u{fffd}').unwrap_or(kept);
        assert!(whole.len() <= bytes_max && said.starts_with(whole), "{kept:?} of {said:?}");
        let may_be_cut = logs.truncation == Truncation::Cut;
        assert!(kept == said || (may_be_cut && whole.len() + 4 > bytes_max), "{kept:?} of {said:?}");
    }
}

/// The events that can be read, and why no more can be.
fn events<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<LogEvent>, Option<String>) {
    let mut reader = EventReader::default();
    let mut events = Vec::new();
    for piece in pieces {
        if let Err(why) = reader.take_in(piece) {
            return (events, Some(why.to_string()));
        }
        loop {
            match reader.next_event() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(why) => return (events, Some(why.to_string())),
            }
        }
    }
    (events, None)
}

fn written_again(told: &[LogEvent], lengths: Lengths) {
    let text: String = told.iter().map(ToString::to_string).collect();
    assert_eq!(events(lengths.pieces(text.as_bytes())), (told.to_vec(), None));
}
