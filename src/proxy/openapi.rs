//! `GET /openapi.json`: the description of the API, the same for everybody.

use bytes::Bytes;
use http::{StatusCode, header};
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora_proxy::Session;

use super::respond;
use crate::api::openapi::{DOCUMENT, tag};
use crate::api::range::Asked;

pub(super) async fn describe(session: &mut Session) -> Result<()> {
    let known = Asked::of(&session.req_header().headers, tag(), DOCUMENT.len() as u64) == Asked::NotModified;
    let status = if known { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    let mut head = ResponseHeader::build(status, Some(6))?;
    head.insert_header(header::ETAG, tag())?;
    if known {
        return session.write_response_header(Box::new(head), true).await;
    }
    head.insert_header(header::CONTENT_TYPE, "application/json")?;
    respond::write(session, head, Bytes::from_static(DOCUMENT.as_bytes())).await
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::json;

    use crate::api::openapi::tests::operations;
    use crate::proxy::auth::Need;

    #[test]
    fn each_call_is_described_with_the_role_that_it_takes() {
        for operation in operations() {
            let route = operation.route();
            let role = match Need::of(&route) {
                Need::Nothing => None,
                Need::Known => panic!("{} is no call", operation.id),
                Need::Right(right) | Need::Job(right, _) => Some(right.least_role().as_str()),
            };
            let (security, said) = match role {
                None => (json!([]), "Needs no token.".to_owned()),
                Some(role) => {
                    (json!([{"bearer": [role]}, {"apiKey": [role]}, {}]), format!("Role: `{role}`."))
                }
            };
            assert_eq!(operation.about["security"], security, "{}", operation.id);
            let described = operation.about["description"].as_str().unwrap();
            assert!(described.ends_with(&said), "{}: {described}", operation.id);
            assert_eq!(
                route.may_have_body(),
                operation.method == Method::POST,
                "{}: a GET with a body is refused",
                operation.id
            );
        }
    }
}
