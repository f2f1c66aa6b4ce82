//! A job's outputs: their listing and each file.

use http::{StatusCode, header};
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora_proxy::Session;
use tokio::sync::SemaphorePermit;
use tokio::task::spawn_blocking;

use super::file::{FileAt, Listed, OutputPassage, no_such_output};
use super::jobs::{Asked, not_dispatched, store_problem};
use super::kept::expired_problem;
use super::results::Section;
use super::{Front, respond};
use crate::api::{OutputPath, Problem, ProblemCode, listing};
use crate::job::{JobId, Place};
use crate::store::{EndedJob, EndedRun, KeptFile, OutputsPlace, ResultsText, TEXT_PIECE_BYTES};

impl Front {
    /// `GET /outputs/{job}`.
    pub(super) async fn listing(&self, session: &mut Session, id: &JobId) -> Result<()> {
        let job = match self.asked(id).await {
            Ok(Asked::Live(job)) => job,
            Ok(Asked::Finished(ended)) => {
                let row = &ended.row;
                // The kept listing is an object; what is said first takes the place of its brace.
                let begin = Section::Said(listing::begin(id, row.state.status().as_str()));
                let rest =
                    Section::Kept { text: ResultsText::Listing, from: 1, absent: &listing::EMPTY[1..] };
                return self.send_results(session, &row.run(), [begin, rest]).await;
            }
            Err(problem) => return respond::problem(session, &problem).await,
        };
        let state = job.state();
        let answer = match state.place() {
            None => Ok((listing::EMPTY.to_owned(), None)),
            Some(place) => self.listing_there(id, &place).await,
        };
        match answer {
            Ok((listing, _large)) => {
                let body = listing::begin(id, state.status().as_str()) + &listing[1..];
                respond::text(session, StatusCode::OK, body).await
            }
            Err(problem) => respond::problem(session, &problem).await,
        }
    }

    async fn listing_there(
        &self,
        id: &JobId,
        place: &Place,
    ) -> std::result::Result<(String, Option<SemaphorePermit<'_>>), Problem> {
        let large = self.large_answer().await?;
        let to = self.destination(place)?;
        let turn = self.turn(place).await?;
        let listing = self.in_time(self.upstream.listing(&to.contact, &place.remote)).await?;
        drop(turn);
        let listing = listing::in_pool_terms(id, &listing).ok_or_else(|| {
            Problem::new(ProblemCode::WorkerError, "the worker's listing of the outputs makes no sense")
        })?;
        let small = listing.len() <= TEXT_PIECE_BYTES;
        Ok((listing, (!small).then_some(large)))
    }

    /// What `look` finds in the kept listing of a run.
    pub(super) async fn look_at_listing<T: Send + 'static>(
        &self,
        run: &EndedRun,
        look: impl FnOnce(&str) -> T + Send + 'static,
    ) -> std::result::Result<Option<T>, Problem> {
        self.look_at(run, ResultsText::Listing, look).await
    }

    /// What `look` finds in a text that is kept of a run, which may be long: only a few are held at once, and not by a thread that
    /// serves connections.
    pub(super) async fn look_at<T: Send + 'static>(
        &self,
        run: &EndedRun,
        text: ResultsText,
        look: impl FnOnce(&str) -> T + Send + 'static,
    ) -> std::result::Result<Option<T>, Problem> {
        let _large = self.large_answer().await?;
        let mut whole = Vec::new();
        loop {
            let piece = self.store.results_text(run, text, whole.len() as u64).await;
            let Some(piece) = piece.map_err(|error| store_problem(&error))? else { return Ok(None) };
            whole.extend_from_slice(&piece);
            if piece.len() < TEXT_PIECE_BYTES {
                break;
            }
        }
        let found = spawn_blocking(move || std::str::from_utf8(&whole).ok().map(look)).await;
        Ok(found.expect("looking at a text does not panic"))
    }

    /// `GET /outputs/{job}/{path}`: the file comes from the pool's disk, or from the worker.
    pub(super) async fn output(&self, session: &mut Session, id: &JobId, path: OutputPath) -> Result<()> {
        match self.way_to_output(id, path).await {
            Ok(Way::Passage(passage)) => self.relay(session, passage).await,
            Ok(Way::Kept(run, file, path)) => self.serve_kept(session, &run, &file, &path).await,
            Err(problem) => respond::problem(session, &problem).await,
        }
    }

    async fn way_to_output(&self, id: &JobId, path: OutputPath) -> std::result::Result<Way, Problem> {
        let (place, listed) = match self.asked(id).await? {
            Asked::Live(job) => (job.state().place(), Listed::Nowhere),
            Asked::Finished(ended) => {
                let run = ended.row.run();
                if let Some(files) = kept_files(&ended)? {
                    let file = files.iter().find(|file| file.name.as_bytes() == path.as_bytes());
                    let file = file.ok_or_else(|| no_such_output(&path))?;
                    return Ok(Way::Kept(run, file.clone(), path));
                }
                (ended.row.state.place(), Listed::In(run))
            }
        };
        let Place { worker, remote } = place.ok_or_else(not_dispatched)?;
        let to = self.destination(&Place { worker, remote: remote.clone() })?;
        Ok(Way::Passage(OutputPassage { to, path, remote, at: FileAt::Download, listed }))
    }

    /// What it means that a worker does not give a file.
    pub(super) async fn refusal(&self, passage: &OutputPassage, status: StatusCode) -> Problem {
        let is_listed = match &passage.listed {
            Listed::Yes => Ok(true),
            Listed::In(run) => self.is_listed(run, &passage.path).await,
            Listed::Nowhere => Ok(false),
        };
        is_listed.map_or_else(|problem| problem, |is_listed| passage.refusal(status, is_listed))
    }

    async fn is_listed(&self, run: &EndedRun, path: &OutputPath) -> std::result::Result<bool, Problem> {
        let path = path.clone();
        let look = move |text: &str| {
            listing::files(text)
                .is_some_and(|mut files| files.any(|file| file.name.as_bytes() == path.as_bytes()))
        };
        Ok(self.look_at_listing(run, look).await?.unwrap_or(false))
    }
}

/// The files that the pool keeps of a job that has ended; `None` when its outputs are on the worker, if anywhere.
pub(super) fn kept_files(job: &EndedJob) -> std::result::Result<Option<&[KeptFile]>, Problem> {
    if let Some((outcome, _)) = job.row.state.end()
        && outcome.is_disproved()
    {
        let message = "the outputs are refused: they are not what the worker's key has signed; the job's `error` says what differs";
        return Err(Problem::new(ProblemCode::WorkerError, message));
    }
    match &job.outputs {
        Some(OutputsPlace::Kept { files, .. }) => Ok(Some(files)),
        Some(OutputsPlace::Expired) => Err(expired_problem()),
        Some(OutputsPlace::ToCollect | OutputsPlace::OnWorker { .. }) | None => Ok(None),
    }
}

/// How a client gets a file.
enum Way {
    Passage(OutputPassage),
    /// From the pool's disk.
    Kept(EndedRun, KeptFile, OutputPath),
}

/// The length that a head states, if it states one.
pub(super) fn stated_length(head: &ResponseHeader) -> Option<u64> {
    head.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
