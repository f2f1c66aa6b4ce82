//! Which outputs are kept, and which go. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::api::OutputPath;
use crate::api::listing::{self, ListedFile};
use crate::store::{KeptRun, Results};
use crate::time::Timestamp;
use crate::worker::receipt::Evidence;

/// What an operator may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepConfig {
    /// How long outputs are kept; zero keeps none.
    pub keep: Duration,
    /// Bytes of one job's outputs; more stay on the worker.
    pub job_bytes_max: u64,
    /// Bytes of all that is kept.
    pub total_bytes_max: u64,
}

/// An output to be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub name: String,
    pub path: OutputPath,
    /// Bytes, as the listing says.
    pub size: u64,
    /// As the worker's receipt, or else its status, states it, if it does.
    pub sha256: Option<String>,
}

/// What is to become of the outputs of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    Collect {
        files: Vec<Wanted>,
        bytes: u64,
    },
    /// They stay on the worker, for this reason.
    Stay {
        reason: String,
    },
    /// The worker was asked for their listing and has not given one: there is nothing to be had.
    Expired,
}

/// Decides by what the worker said of the run at its end.
pub fn plan(results: &Results, config: &KeepConfig) -> Plan {
    let Some(listing) = &results.listing else { return Plan::Expired };
    match wanted(listing, results.worker_status.as_deref()) {
        Ok(files) => {
            let bytes = files.iter().map(|file| file.size).fold(0, u64::saturating_add);
            let most = config.job_bytes_max.min(config.total_bytes_max);
            if bytes > most {
                let reason = format!("the outputs have {bytes} bytes; the pool keeps those up to {most}");
                return Plan::Stay { reason };
            }
            Plan::Collect { files, bytes }
        }
        Err(reason) => Plan::Stay { reason },
    }
}

fn wanted(listing: &str, status: Option<&str>) -> Result<Vec<Wanted>, String> {
    let Some(listed) = listing::files(listing) else {
        return Err("the worker's listing of the outputs makes no sense".to_owned());
    };
    let receipt = match Evidence::in_status(status.unwrap_or_default()) {
        Evidence::Receipt(receipt) => Some(receipt),
        Evidence::Malformed(_) | Evidence::Unverifiable | Evidence::Nothing => None,
    };
    let signed = |name: &str| receipt.as_ref()?.output(name)?.sha256.map(|sum| sum.to_string());
    let status = status.and_then(|status| serde_json::from_str(status).ok()).unwrap_or(Value::Null);
    let mut names = BTreeSet::new();
    let mut files = Vec::new();
    for ListedFile { name, size } in listed {
        // A name that no client may ask for is none to be fetched.
        let Ok(path) = OutputPath::from_bytes(name.clone().into_bytes()) else { continue };
        let Some(size) = size else { return Err(format!("the worker does not say how long {name:?} is")) };
        let stated = status["output_files"][&name]["sha256"].as_str().filter(|sha256| !sha256.is_empty());
        let sha256 = signed(&name).or_else(|| stated.map(str::to_ascii_lowercase));
        if names.insert(name.clone()) {
            files.push(Wanted { name, path, size, sha256 });
        }
    }
    Ok(files)
}

/// Those of the kept runs, oldest first, that have to go so that `bytes_over` fewer bytes are kept.
pub fn surplus(oldest: &[KeptRun], bytes_over: u64) -> &[KeptRun] {
    let mut freed = 0_u64;
    let go = oldest.iter().take_while(|kept| {
        let goes = freed < bytes_over;
        freed = freed.saturating_add(kept.bytes);
        goes
    });
    &oldest[..go.count()]
}

/// Those of the kept runs, oldest first, that were kept long enough.
pub fn expired(oldest: &[KeptRun], keep: Duration, now: Timestamp) -> &[KeptRun] {
    let before = now.minus(keep);
    &oldest[..oldest.iter().take_while(|kept| kept.kept_at < before).count()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobId;
    use crate::store::EndedRun;

    const CONFIG: KeepConfig =
        KeepConfig { keep: Duration::from_secs(60), job_bytes_max: 100, total_bytes_max: 1000 };

    fn planned(listing: &str, status: &str) -> Plan {
        let results = Results {
            listing: Some(listing.to_owned()),
            worker_status: Some(status.to_owned()),
            ..Results::default()
        };
        plan(&results, &CONFIG)
    }

    fn kept(n: u8, bytes: u64) -> KeptRun {
        let kept_at = Timestamp::from_micros(i64::from(n) * 1_000_000);
        KeptRun { run: EndedRun { job: JobId::from_random([n; 12]), version: 3 }, bytes, kept_at }
    }

    #[test]
    fn what_is_listed_is_collected_with_the_digest_that_the_status_states() {
        let listing = r#"{"files":[{"name":"r/a","size":60},{"name":"b","size":40},{"name":"b","size":40},
            {"name":"../c","size":999}]}"#;
        let status = r#"{"output_files":{"r/a":{"sha256":"ABCD"},"b":{"sha256":""}}}"#;
        let Plan::Collect { files, bytes } = planned(listing, status) else { panic!("not collected") };
        let shown: Vec<_> = files.iter().map(|file| (file.name.as_str(), file.sha256.as_deref())).collect();
        assert_eq!((shown, bytes), (vec![("r/a", Some("abcd")), ("b", None)], 100));
    }

    #[test]
    fn what_is_too_large_or_of_no_known_size_stays() {
        for listing in [
            r#"{"files":[{"name":"a","size":101}]}"#,
            r#"{"files":[{"name":"a","size":18446744073709551615},{"name":"b","size":1}]}"#,
            r#"{"files":[{"name":"a"}]}"#,
            "[]",
        ] {
            assert!(matches!(planned(listing, "{}"), Plan::Stay { .. }), "{listing}");
        }
        assert_eq!(planned(r#"{"files":[]}"#, "no JSON"), Plan::Collect { files: Vec::new(), bytes: 0 });
    }

    #[test]
    fn without_a_listing_there_is_nothing_to_be_had() {
        assert_eq!(plan(&Results::default(), &CONFIG), Plan::Expired);
    }

    #[test]
    fn as_few_of_the_oldest_go_as_make_room() {
        let oldest = [kept(1, 10), kept(2, 0), kept(3, 20), kept(4, 30)];
        for (bytes_over, gone) in [(0, 0), (1, 1), (10, 1), (11, 3), (30, 3), (31, 4), (1000, 4)] {
            assert_eq!(surplus(&oldest, bytes_over).len(), gone, "{bytes_over}");
        }
    }

    #[test]
    fn outputs_expire_when_they_were_kept_long_enough() {
        let oldest = [kept(1, 10), kept(2, 10), kept(3, 10)];
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        for (now, gone) in [(0, 0), (61, 0), (62, 1), (63, 2), (100, 3)] {
            assert_eq!(expired(&oldest, CONFIG.keep, at(now)).len(), gone, "{now}");
        }
    }
}
