//! What a configuration allows and its operator should know.

use super::Config;
use crate::worker::trust::Identity;

/// Workers that one warning names; a list of hundreds would hide the sentence.
const NAMED_MAX: usize = 10;

impl Config {
    /// Sentences about what is allowed and may not be meant.
    pub fn warnings(&self) -> Vec<String> {
        let plain: Vec<String> = self
            .workers
            .workers()
            .iter()
            .filter(|worker| !worker.endpoint.is_tls())
            .map(|worker| format!("{} ({})", worker.key, worker.endpoint))
            .collect();
        let Some(first) = plain.chunks(NAMED_MAX).next() else { return Vec::new() };
        let what = match self.trust.require {
            Identity::Claimed => {
                "trust.require is claimed: whoever answers at the endpoint of one of these workers and gives its id is given jobs"
            }
            Identity::Proved => {
                "trust.require is proved: what passes between the pool and these workers can be read and changed on the way"
            }
            Identity::Pinned => {
                "trust.require is pinned: these workers have no https endpoint and are given no jobs"
            }
        };
        let named = first.join(", ");
        let more = match plain.len() - first.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        vec![format!("{what}: {named}{more}")]
    }
}
