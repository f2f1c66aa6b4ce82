//! A job's outputs: their listing and each file.

use http::{Method, StatusCode, header};
use pingora::http::ResponseHeader;
use pingora::{Error, ErrorSource, Result};
use pingora_proxy::Session;
use serde_json::Value;

use super::jobs::{Asked, not_dispatched, store_problem};
use super::kept::expired_problem;
use super::passage::{
    Admitted, FileAt, Listed, OutputPassage, Passage, listing_or_error, no_such_output, unreachable_problem,
};
use super::{Ctx, Front, respond};
use crate::api::{OutputPath, Problem, bodies};
use crate::job::{JobId, Place};
use crate::store::{EndedRun, JobRow, KeptFile, OutputsPlace};
use crate::upstream::peer::{http_peer, request_head};
use crate::worker::Dialect;

impl Front {
    /// `GET /outputs/{job}`.
    pub(super) async fn listing(&self, session: &mut Session, id: &JobId) -> Result<()> {
        match self.listing_of(id).await {
            Ok(body) => respond::json(session, StatusCode::OK, &body).await,
            Err(problem) => respond::problem(session, &problem).await,
        }
    }

    async fn listing_of(&self, id: &JobId) -> std::result::Result<Value, Problem> {
        match self.asked(id).await? {
            Asked::Finished(row) => {
                let status = row.state.status().as_str();
                match self.kept_listing(&row.id).await? {
                    Some(listing) => listing_or_error(id, status, &listing),
                    None => Ok(bodies::empty_listing(id, status)),
                }
            }
            Asked::Live(job) => {
                let state = job.state();
                let status = state.status().as_str();
                let Some(place) = state.place() else { return Ok(bodies::empty_listing(id, status)) };
                let to = self.destination(&place)?;
                let _turn = self.turn(&place).await?;
                let listing = self.in_time(self.upstream.listing(&to.contact, &place.remote)).await?;
                listing_or_error(id, status, &listing)
            }
        }
    }

    /// The files that the pool keeps of a job that has ended; `None` when its outputs are on the worker, if anywhere.
    pub(super) async fn kept_files(
        &self,
        row: &JobRow,
    ) -> std::result::Result<Option<Vec<KeptFile>>, Problem> {
        match self.store.outputs(&row.id).await.map_err(|error| store_problem(&error))? {
            Some(OutputsPlace::Kept { files, .. }) => Ok(Some(files)),
            Some(OutputsPlace::Expired) => Err(expired_problem()),
            Some(OutputsPlace::ToCollect | OutputsPlace::OnWorker { .. }) | None => Ok(None),
        }
    }

    pub(super) async fn kept_listing(&self, id: &JobId) -> std::result::Result<Option<String>, Problem> {
        let results = self.store.results(id).await.map_err(|error| store_problem(&error))?;
        Ok(results.and_then(|results| results.listing))
    }

    /// `GET /outputs/{job}/{path}`: the file comes from the pool's disk, or passes through from the worker.
    pub(super) async fn output(
        &self,
        session: &mut Session,
        ctx: &mut Ctx,
        id: &JobId,
        path: OutputPath,
    ) -> Result<bool> {
        let passage = match self.way_to_output(id, path).await {
            Ok(Way::Passage(passage)) => passage,
            Ok(Way::Kept(run, file, path)) => {
                return self.serve_kept(session, &run, &file, &path).await.map(|()| true);
            }
            Err(problem) => return respond::problem(session, &problem).await.map(|()| true),
        };
        // A sandrun worker knows no HEAD: it is asked for the file and let go after the head of its answer.
        let head_only = session.req_header().method == Method::HEAD;
        if head_only && passage.to.contact.dialect == Dialect::Sandrun {
            self.head_of_output(session, passage).await?;
            return Ok(true);
        }
        ctx.passage = Some(Passage::Output(passage));
        Ok(false)
    }

    async fn way_to_output(&self, id: &JobId, path: OutputPath) -> std::result::Result<Way, Problem> {
        let (place, listed) = match self.asked(id).await? {
            Asked::Live(job) => (job.state().place(), Listed::Unknown),
            Asked::Finished(row) => {
                if let Some(files) = self.kept_files(&row).await? {
                    let file = files.into_iter().find(|file| file.name.as_bytes() == path.as_bytes());
                    let file = file.ok_or_else(|| no_such_output(&path))?;
                    return Ok(Way::Kept(row.run(), file, path));
                }
                let listing = self.kept_listing(&row.id).await?;
                (row.state.place(), listed(listing.as_deref(), &path))
            }
        };
        let Place { worker, remote } = place.ok_or_else(not_dispatched)?;
        let to = self.destination(&Place { worker, remote: remote.clone() })?;
        Ok(Way::Passage(OutputPassage { to, path, remote, at: FileAt::Download, listed }))
    }

    async fn head_of_output(&self, session: &mut Session, mut passage: OutputPassage) -> Result<()> {
        loop {
            let mut head = match self.fetch_head(&passage).await {
                Ok(head) => head,
                Err(error) if *error.esource() == ErrorSource::Upstream => {
                    return respond::problem(session, &unreachable_problem()).await;
                }
                Err(error) => return Err(error),
            };
            match passage.admit(&mut head)? {
                Admitted::Yes => {
                    head.set_version(http::Version::HTTP_11);
                    return session.write_response_header(Box::new(head), true).await;
                }
                Admitted::TryAgain => {}
                Admitted::No(problem) => return respond::problem(session, &problem).await,
            }
        }
    }

    async fn fetch_head(&self, passage: &OutputPassage) -> Result<ResponseHeader> {
        let target = passage.target();
        let peer = http_peer(&passage.to.contact, passage.to.address, &target);
        let (mut connection, _) = self.connector.get_http_session(&peer).await.map_err(Error::into_up)?;
        connection.set_read_timeout(peer.options.read_timeout);
        let request = request_head("GET", &passage.to.contact, &target)?;
        connection.write_request_header(Box::new(request)).await.map_err(Error::into_up)?;
        connection.finish_request_body().await.map_err(Error::into_up)?;
        connection.read_response_header().await.map_err(Error::into_up)?;
        let head = connection.response_header().cloned();
        connection.shutdown().await;
        head.ok_or_else(|| Error::new_up(pingora::ErrorType::InvalidHTTPHeader))
    }
}

/// How a client gets a file.
enum Way {
    Passage(OutputPassage),
    /// From the pool's disk.
    Kept(EndedRun, KeptFile, OutputPath),
}

fn listed(listing: Option<&str>, path: &OutputPath) -> Listed {
    match listing {
        None => Listed::Unknown,
        Some(listing) => {
            let named = bodies::listed_files(listing)
                .into_iter()
                .flatten()
                .any(|(name, _)| name.as_bytes() == path.as_bytes());
            if named { Listed::Yes } else { Listed::No }
        }
    }
}

/// The length that a head states, if it states one.
pub(super) fn stated_length(head: &ResponseHeader) -> Option<u64> {
    head.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
