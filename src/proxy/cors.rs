//! What every answer says to browsers, whoever gave it: which pages may read it, and that its type is not to be guessed.
//!
//! A module of Pingora's, because that sees the head of each answer last, the pool's own and those that pass through.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use http::{HeaderValue, header};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::{HttpModule, HttpModuleBuilder, Module};

use crate::api::origins::{Allowed, AllowedOrigins};

/// Response headers that a page of another origin may read.
const EXPOSED: &str = "Accept-Ranges, Content-Disposition, Content-Length, Content-Range, ETag, Retry-After";

/// Makes the module for each request.
pub(super) struct CorsBuilder(pub(super) Arc<AllowedOrigins>);

impl HttpModuleBuilder for CorsBuilder {
    fn init(&self) -> Module {
        Box::new(Cors { allowed: Arc::clone(&self.0), origin: None })
    }
}

struct Cors {
    allowed: Arc<AllowedOrigins>,
    /// Where the page is from that asks.
    origin: Option<HeaderValue>,
}

#[async_trait]
impl HttpModule for Cors {
    async fn request_header_filter(&mut self, head: &mut RequestHeader) -> Result<()> {
        self.origin = head.headers.get(header::ORIGIN).cloned();
        Ok(())
    }

    async fn response_header_filter(&mut self, head: &mut ResponseHeader, _end: bool) -> Result<()> {
        if head.status.is_informational() {
            return Ok(());
        }
        head.insert_header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")?;
        let allowed = self.allowed.answer(self.origin.as_ref().map(HeaderValue::as_bytes));
        if let Some(origin) = self.origin.take().filter(|_| allowed == Allowed::Asker) {
            head.insert_header(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin)?;
        }
        match allowed {
            Allowed::Any => {
                head.insert_header(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")?;
                head.insert_header(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED)
            }
            Allowed::Asker => {
                head.insert_header(header::VARY, "Origin")?;
                head.insert_header(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED)
            }
            Allowed::Nobody => head.insert_header(header::VARY, "Origin"),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
