//! `GET /receipt/{job}`: what the worker has signed of a job's run.

use http::StatusCode;
use pingora::Result;
use pingora_proxy::Session;

use super::jobs::Asked;
use super::{Front, respond};
use crate::api::{Problem, ProblemCode};
use crate::job::JobId;
use crate::store::ResultsText;
use crate::worker::receipt::Evidence;

impl Front {
    pub(super) async fn receipt(&self, session: &mut Session, id: &JobId) -> Result<()> {
        match self.signed_receipt(id).await {
            Ok(json) => respond::text(session, StatusCode::OK, json).await,
            Err(problem) => respond::problem(session, &problem).await,
        }
    }

    /// A receipt that its worker's key has signed, as JSON: what does not hold is none, however the job came to its end.
    async fn signed_receipt(&self, id: &JobId) -> std::result::Result<String, Problem> {
        let ended = match self.asked(id).await? {
            Asked::Finished(ended) => ended,
            Asked::Live(_) => {
                let message = "the job has not ended: its worker signs when it has";
                return Err(Problem::new(ProblemCode::NotFinished, message));
            }
        };
        let Some(worker) = ended.row.state.worker() else {
            return Err(no_receipt("no worker has run this job"));
        };
        let look = move |status: &str| match Evidence::in_status(status) {
            Evidence::Receipt(receipt) => match receipt.verify(worker) {
                Ok(()) => Ok(serde_json::to_string(&receipt).expect("plain data is written as JSON")),
                Err(error) => Err(no_receipt(&error.to_string())),
            },
            Evidence::Malformed(why) => {
                Err(no_receipt(&format!("what the worker gave as its receipt is none: {why}")))
            }
            Evidence::Unverifiable => Err(Problem::new(ProblemCode::Unverifiable, UNVERIFIABLE)),
            Evidence::Nothing => Err(no_receipt("the worker that ran this job gives no receipts")),
        };
        let found = self.look_at(&ended.row.run(), ResultsText::WorkerStatus, look).await?;
        found.unwrap_or_else(|| Err(no_receipt("the worker's last word on this job is not known")))
    }
}

const UNVERIFIABLE: &str = "this worker's `worker_metadata.signature` is unverifiable: \
    a sandrun signs more digits of its numbers than it prints, so nobody can say what it has signed; \
    workers of this project give receipts";

fn no_receipt(why: &str) -> Problem {
    Problem::new(ProblemCode::NoReceipt, format!("there is no receipt: {why}"))
}
