//! Points in time as the pool stores and shows them; the only place that reads a clock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A point in time: microseconds since the Unix epoch.
///
/// Stored as an integer; shown to clients as Unix seconds with a fraction ([`Timestamp::as_unix_seconds`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    pub const fn as_micros(self) -> i64 {
        self.0
    }

    pub fn as_unix_seconds(self) -> f64 {
        // Exact to the microsecond until the year 2255 (2^53 µs).
        self.0 as f64 / 1e6
    }

    /// Time gone by since `earlier`; zero when the clock was set back in between.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }

    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0.div_euclid(1_000_000), self.0.rem_euclid(1_000_000))
    }
}

/// A wait for a time of day looks at the clock this often.
const CLOCK_READ_AGAIN: Duration = Duration::from_secs(30);

/// Where `now` comes from: the system's clock, or the paused clock of a simulation.
#[derive(Clone, Debug)]
pub enum Clock {
    System,
    /// Time that moves only as the runtime's own clock does, so that a simulation owns it.
    Runtime {
        start: Timestamp,
        origin: tokio::time::Instant,
        /// Microseconds by which it was set ahead or back since.
        set_ahead: Arc<AtomicI64>,
    },
}

impl Clock {
    /// A clock that reads `start` now and follows the runtime's (possibly paused) clock.
    pub fn runtime(start: Timestamp) -> Self {
        Self::Runtime { start, origin: tokio::time::Instant::now(), set_ahead: Arc::default() }
    }

    /// Sets a simulation's clock ahead, or back, as an administrator or NTP does.
    #[cfg(test)]
    pub fn jump(&self, micros: i64) {
        if let Self::Runtime { set_ahead, .. } = self {
            set_ahead.fetch_add(micros, Ordering::Relaxed);
        }
    }

    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => match SystemTime::now().duration_since(UNIX_EPOCH) {
                Ok(since_epoch) => Timestamp(0).plus(since_epoch),
                Err(before_epoch) => Timestamp(0).minus(before_epoch.duration()),
            },
            Self::Runtime { start, origin, set_ahead } => {
                Timestamp(start.0 + set_ahead.load(Ordering::Relaxed)).plus(origin.elapsed())
            }
        }
    }

    /// Waits for a time; for ever when there is none.
    pub async fn reached(&self, at: Option<Timestamp>) {
        let Some(at) = at else { return std::future::pending().await };
        loop {
            let left = at.since(self.now());
            if left.is_zero() {
                return;
            }
            // The clock may be set meanwhile: it is read again now and then.
            tokio::time::sleep(left.min(CLOCK_READ_AGAIN)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_set_back_gives_no_negative_duration() {
        let (early, late) = (Timestamp::from_micros(1_000_000), Timestamp::from_micros(3_500_000));
        assert_eq!(late.since(early), Duration::from_millis(2500));
        assert_eq!(early.since(late), Duration::ZERO);
    }

    #[test]
    fn shows_unix_seconds_with_a_fraction() {
        assert_eq!(Timestamp::from_micros(1_795_478_492_250_000).as_unix_seconds(), 1_795_478_492.25);
    }
}
