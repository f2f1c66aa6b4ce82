//! Who a request comes from and whether it may do what it asks: the phase before every call.
//!
//! What a call needs is decided here for each route, so that no handler can forget to ask; the compiler asks for the decision about
//! a new one. A job of another client is answered as one that is not there, and by the same words: an id tells nothing.

use std::time::Duration;

use http::header::{self, HeaderMap};
use pingora::Result;
use pingora_proxy::Session;

use super::Front;
use super::jobs::store_problem;
use super::respond;
use crate::api::{Problem, ProblemCode, Route};
use crate::auth::{Caller, Credential, Denied, Right};
use crate::job::JobId;

/// What a call needs.
pub(super) enum Need<'a> {
    /// Nothing: it says what everybody may know.
    Nothing,
    /// A caller who is known.
    Known,
    /// A caller who has this right.
    Right(Right),
    /// A caller who has this right, and sees this job.
    Job(Right, &'a JobId),
}

impl<'a> Need<'a> {
    pub(super) fn of(route: &'a Route) -> Self {
        match route {
            // Who this is, and whether it is well: for clients that look for the pool, and for what watches it.
            Route::Root | Route::Health | Route::Ready => Self::Nothing,
            // It is the same for everybody, and has to be read before anything is asked.
            Route::OpenApi => Self::Nothing,
            // A browser asks without the credential.
            Route::Preflight => Self::Nothing,
            Route::Refused(_) => Self::Known,
            Route::Jobs | Route::Pool | Route::Metrics => Self::Right(Right::Read),
            Route::Submit => Self::Right(Right::Submit),
            Route::Drain(_) | Route::Resume(_) => Self::Right(Right::Operate),
            Route::Status(job)
            | Route::Listing(job)
            | Route::Output(job, _)
            | Route::Archive(job)
            | Route::Logs(job)
            | Route::Receipt(job)
            | Route::Stream(job) => Self::Job(Right::Read, job),
            Route::Cancel(job) | Route::Retry(job) => Self::Job(Right::Submit, job),
        }
    }
}

/// A request that goes no further.
pub(super) struct Barred {
    problem: Problem,
    /// What the credential should have been, for `WWW-Authenticate`.
    challenge: Option<&'static str>,
}

impl From<Problem> for Barred {
    fn from(problem: Problem) -> Self {
        Self { problem, challenge: None }
    }
}

impl Front {
    /// Who makes a request that may be made, or what to say instead.
    pub(super) async fn admit(
        &self,
        headers: &HeaderMap,
        route: &Route,
    ) -> std::result::Result<Caller, Barred> {
        let need = Need::of(route);
        if let Need::Nothing = need {
            return Ok(Caller::Anyone);
        }
        let now = self.clock.now();
        let credential = match route {
            Route::Stream(_) => Credential::of_handshake(headers),
            _ => Credential::of(headers),
        };
        let caller = self.gate.identify(credential, now).map_err(unknown)?;
        self.usage.request(caller.name(), now).map_err(too_many)?;
        match need {
            Need::Nothing | Need::Known => {}
            Need::Right(right) => permit(&caller, right)?,
            Need::Job(right, job) => {
                // First whether it is there: what a client may do with another's job is no answer either.
                self.show(&caller, job).await?;
                permit(&caller, right)?;
            }
        }
        Ok(caller)
    }

    /// Whether a caller sees a job. An owner never changes, so that the answer holds for the rest of the request.
    async fn show(&self, caller: &Caller, job: &JobId) -> std::result::Result<(), Problem> {
        if caller.sees_only().is_none() {
            return Ok(());
        }
        let owner = match self.queue.owner(job).await {
            Ok(owner) => owner,
            Err(error) => return Err(store_problem(&error)),
        };
        match owner {
            Some(owner) if caller.sees(owner.as_ref()) => Ok(()),
            Some(_) | None => Err(Problem::job_not_found()),
        }
    }

    /// Answers a request that goes no further.
    pub(super) async fn bar(&self, session: &mut Session, barred: &Barred) -> Result<()> {
        let challenge = barred.challenge.map(|challenge| (header::WWW_AUTHENTICATE, challenge));
        respond::problem_with(session, &barred.problem, challenge).await
    }
}

const INSUFFICIENT: &str = "Bearer realm=\"trusted-pool\", error=\"insufficient_scope\"";

/// By RFC 6750: without a credential, no reason is given.
fn unknown(denied: Denied) -> Barred {
    let (message, challenge) = match denied {
        Denied::Unprivileged => {
            let problem =
                Problem::new(ProblemCode::Forbidden, "the token gives its bearer no role in this pool");
            return Barred { problem, challenge: Some(INSUFFICIENT) };
        }
        Denied::Missing => (
            "this call needs a token: send it as `Authorization: Bearer TOKEN`, or as `X-API-Key`",
            "Bearer realm=\"trusted-pool\"",
        ),
        Denied::Invalid => (
            "the token is not known here, has been revoked, or has expired",
            "Bearer realm=\"trusted-pool\", error=\"invalid_token\"",
        ),
    };
    Barred { problem: Problem::new(ProblemCode::Unauthorized, message), challenge: Some(challenge) }
}

fn too_many(wait: Duration) -> Problem {
    Problem::new(ProblemCode::RateLimited, "this client makes more requests than it may; slow down")
        .after(wait)
}

fn permit(caller: &Caller, right: Right) -> std::result::Result<(), Barred> {
    if caller.may(right) {
        return Ok(());
    }
    let message = format!("the token does not allow this: it takes the role {} for it", right.least_role());
    Err(Barred { problem: Problem::new(ProblemCode::Forbidden, message), challenge: Some(INSUFFICIENT) })
}
