//! Whether what a worker says of a run is what its key has signed. Pure.
//!
//! A receipt that is there must hold, whatever the configuration. Whether one may be missing is what `trust.require` says:
//!
//! | `trust.require` | a run without a receipt |
//! |---|---|
//! | `claimed` | counts: the pool runs jobs on workers that prove nothing at all, and most of those sign nothing |
//! | `proved`, `pinned` | is refused, unless it is of an unmodified sandrun behind TLS with its own key |
//!
//! Where a worker must at least prove its key, it has one to sign with; and without TLS whoever sits in between could otherwise take the
//! receipt out, or tell the pool that it speaks to a sandrun. To a sandrun behind TLS nobody sits in between, and it has no receipts.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::api::listing;
use crate::job::{Attempt, JobId, Verdict};
use crate::store::Results;
use crate::upstream::Contact;
use crate::worker::Dialect;
use crate::worker::receipt::{Evidence, OutputSum, Receipt, Sha256Sum};
use crate::worker::trust::Identity;

/// What a run was given, as the pool knows it.
pub(super) struct Given {
    pub job: JobId,
    pub attempt: Attempt,
    pub payload_sha256: Sha256Sum,
    pub manifest_sha256: Sha256Sum,
}

/// Whether a run counts that has no receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    Optional,
    Required,
}

impl Need {
    /// For a run on this worker; `None` when it is no longer known.
    pub fn of(required: Identity, worker: Option<&Contact>) -> Self {
        let sandrun_behind_tls =
            worker.is_some_and(|worker| worker.dialect == Dialect::Sandrun && worker.spec.endpoint.is_tls());
        match required {
            Identity::Claimed => Self::Optional,
            Identity::Proved | Identity::Pinned if sandrun_behind_tls => Self::Optional,
            Identity::Proved | Identity::Pinned => Self::Required,
        }
    }
}

/// Checks what a worker said at the end of a run.
///
/// # Errors
/// Why the run does not count, as a sentence for its client.
pub(super) fn check(
    given: &Given,
    verdict: Option<Verdict>,
    results: &Results,
    need: Need,
) -> Result<(), String> {
    let status = results.worker_status.as_deref().unwrap_or_default();
    let receipt = match Evidence::in_status(status) {
        Evidence::Receipt(receipt) => receipt,
        Evidence::Malformed(why) => return Err(format!("the worker's receipt cannot be read: {why}")),
        Evidence::Unverifiable | Evidence::Nothing if need == Need::Optional => return Ok(()),
        Evidence::Unverifiable | Evidence::Nothing => {
            return Err("the worker gave no receipt, and trust.require asks for more than a claim".to_owned());
        }
    };
    receipt.verify(given.attempt.worker).map_err(|error| error.to_string())?;
    is_of_run(&receipt, given)?;
    if let Some(verdict) = verdict {
        ended_as_told(&receipt, verdict)?;
    }
    lists_what_is_stated(&receipt, status)?;
    match &results.listing {
        Some(text) => lists_what_is_listed(&receipt, text),
        None => Ok(()),
    }
}

fn is_of_run(receipt: &Receipt, given: &Given) -> Result<(), String> {
    let of_run = receipt.job_id == given.job.as_str() && receipt.attempt == given.attempt.number;
    if !of_run {
        return Err("the worker's receipt is for another job or attempt".to_owned());
    }
    if receipt.manifest_sha256 != given.manifest_sha256 {
        return Err("the worker's receipt is for another manifest than the job's".to_owned());
    }
    if receipt.payload_sha256 != given.payload_sha256 {
        return Err("the worker's receipt is for other files than the job's".to_owned());
    }
    Ok(())
}

fn ended_as_told(receipt: &Receipt, verdict: Verdict) -> Result<(), String> {
    let signed = i64::from(receipt.exit_code);
    let same = match verdict {
        Verdict::Completed => signed == 0,
        Verdict::Failed { exit_code: Some(told) } => signed == told,
        // A run that was stopped may have any code.
        Verdict::Failed { exit_code: None } => true,
    };
    if same { Ok(()) } else { Err(format!("the worker signed exit code {signed} and told another end")) }
}

/// Whether the digests beside the receipt are those in it.
fn lists_what_is_stated(receipt: &Receipt, status: &str) -> Result<(), String> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        output_files: BTreeMap<String, Stated>,
    }
    #[derive(Deserialize)]
    struct Stated {
        sha256: Option<String>,
    }
    let body: Body = serde_json::from_str(status)
        .map_err(|_| "the worker's status states its outputs in a way that makes no sense".to_owned())?;
    for (path, stated) in body.output_files {
        let signed = receipt.output(&path).ok_or_else(|| unsigned(&path))?;
        if stated.sha256.is_some_and(|sha256| Sha256Sum::from_hex(&sha256) != signed.sha256) {
            return Err(unsigned(&path));
        }
    }
    Ok(())
}

/// Whether the outputs that are listed are those in the receipt, each of its size.
fn lists_what_is_listed(receipt: &Receipt, text: &str) -> Result<(), String> {
    let Some(listed) = listing::files(text) else { return Ok(()) };
    let mut left: BTreeMap<&str, &OutputSum> =
        receipt.outputs.iter().map(|output| (output.path.as_str(), output)).collect();
    for file in listed {
        match left.remove(file.name.as_str()) {
            Some(signed) if file.size == Some(signed.size) => {}
            Some(_) | None => return Err(unsigned(&file.name)),
        }
    }
    match left.first_key_value() {
        None => Ok(()),
        Some((path, _)) => Err(format!("the worker signed the output {path:?} and does not list it")),
    }
}

fn unsigned(path: &str) -> String {
    format!("the worker's output {path:?} is not as its receipt says")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::time::Timestamp;
    use crate::worker::identity::SecretKey;
    use crate::worker::receipt::{Ending, Subject};

    const SUM: &str = "abababababababababababababababababababababababababababababababab";

    struct Run {
        key: SecretKey,
        given: Given,
    }

    impl Run {
        fn new() -> Self {
            let key = SecretKey::generate();
            let attempt =
                Attempt { number: 1, losses: 0, worker: key.public(), since: Timestamp::from_micros(1) };
            let (payload_sha256, manifest_sha256) = (Sha256Sum([1; 32]), Sha256Sum([2; 32]));
            let job = JobId::from_random([7; 12]);
            Self { key, given: Given { job, attempt, payload_sha256, manifest_sha256 } }
        }

        fn receipt(&self, change: impl FnOnce(&mut Subject)) -> Receipt {
            let mut subject = Subject {
                job_id: self.given.job.to_string(),
                attempt: 1,
                payload_sha256: self.given.payload_sha256,
                manifest_sha256: self.given.manifest_sha256,
            };
            change(&mut subject);
            let outputs = vec![OutputSum { path: "a".into(), size: 3, sha256: Sha256Sum::from_hex(SUM) }];
            let ending = Ending { exit_code: 0, started_at_micros: 1, finished_at_micros: 2, outputs };
            Receipt::sign(&self.key, subject, ending)
        }

        fn check(&self, status: &Value, listing: &str, verdict: Verdict) -> Result<(), String> {
            let results = Results {
                worker_status: Some(status.to_string()),
                listing: Some(listing.to_owned()),
                ..Results::default()
            };
            check(&self.given, Some(verdict), &results, Need::Required)
        }
    }

    const LISTED: &str = r#"{"files":[{"name":"a","size":3}]}"#;

    fn status(receipt: &Receipt) -> Value {
        json!({ "receipt": receipt, "output_files": { "a": { "sha256": SUM } } })
    }

    #[test]
    fn a_receipt_for_the_run_and_all_that_is_listed_holds() {
        let run = Run::new();
        let status = status(&run.receipt(|_| {}));
        assert_eq!(run.check(&status, LISTED, Verdict::Completed), Ok(()));
        let told = run.check(&status, LISTED, Verdict::Failed { exit_code: Some(1) });
        assert!(told.unwrap_err().contains("exit code 0"));
    }

    #[test]
    fn a_receipt_for_something_else_does_not() {
        let run = Run::new();
        type Change = fn(&mut Subject);
        let changes: [(Change, &str); 4] = [
            (|subject| subject.job_id.push('0'), "another job"),
            (|subject| subject.attempt = 2, "another job or attempt"),
            (|subject| subject.payload_sha256.0[0] = 0, "other files"),
            (|subject| subject.manifest_sha256.0[0] = 0, "another manifest"),
        ];
        for (change, why) in changes {
            let refused = run.check(&status(&run.receipt(change)), LISTED, Verdict::Completed).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
        let other = Run { key: SecretKey::generate(), given: Run::new().given };
        let refused = other.check(&status(&other.receipt(|_| {})), LISTED, Verdict::Completed);
        assert!(refused.unwrap_err().contains(&other.key.public().to_string()));
    }

    #[test]
    fn what_is_listed_or_stated_must_be_what_is_signed() {
        let run = Run::new();
        let signed = status(&run.receipt(|_| {}));
        for listing in [
            r#"{"files":[]}"#,
            r#"{"files":[{"name":"a","size":4}]}"#,
            r#"{"files":[{"name":"a"}]}"#,
            r#"{"files":[{"name":"a","size":3},{"name":"a","size":3}]}"#,
            r#"{"files":[{"name":"a","size":3},{"name":"b","size":1}]}"#,
        ] {
            assert!(run.check(&signed, listing, Verdict::Completed).is_err(), "{listing}");
        }
        let mut stated = signed.clone();
        stated["output_files"]["a"]["sha256"] = "cd".repeat(32).into();
        assert!(run.check(&stated, LISTED, Verdict::Completed).is_err());
        let mut stated = signed;
        stated["output_files"] = json!({ "b": { "sha256": SUM } });
        assert!(run.check(&stated, LISTED, Verdict::Completed).is_err());
    }

    #[test]
    fn a_receipt_may_be_missing_where_workers_need_to_prove_nothing() {
        let run = Run::new();
        let results = Results { worker_status: Some("{}".to_owned()), ..Results::default() };
        let checked = |results: &Results, need| check(&run.given, None, results, need);
        assert_eq!(checked(&results, Need::Optional), Ok(()));
        assert!(checked(&results, Need::Required).is_err());
        assert!(checked(&Results::default(), Need::Required).is_err());
        let malformed = Results { worker_status: Some(r#"{"receipt":{}}"#.to_owned()), ..results };
        assert!(checked(&malformed, Need::Optional).is_err());
    }

    #[test]
    fn only_a_sandrun_behind_tls_needs_none_where_keys_are_proved() {
        let contact = |endpoint: &str, dialect| {
            let mut spec = crate::worker::WorkerSpec::for_tests(crate::worker::WorkerKey::for_tests(1));
            spec.endpoint = endpoint.parse().unwrap();
            Contact { spec: spec.into(), dialect, leaf: None, is_proven: true }
        };
        for (endpoint, dialect, need) in [
            ("http://127.0.0.1:9", Dialect::V2, Need::Required),
            ("http://127.0.0.1:9", Dialect::Sandrun, Need::Required),
            ("https://127.0.0.1:9", Dialect::V2, Need::Required),
            ("https://127.0.0.1:9", Dialect::Sandrun, Need::Optional),
        ] {
            let contact = contact(endpoint, dialect);
            assert_eq!(Need::of(Identity::Proved, Some(&contact)), need, "{endpoint} {dialect:?}");
            assert_eq!(Need::of(Identity::Pinned, Some(&contact)), need, "{endpoint} {dialect:?}");
            assert_eq!(Need::of(Identity::Claimed, Some(&contact)), Need::Optional);
        }
        assert_eq!(Need::of(Identity::Proved, None), Need::Required);
    }
}
