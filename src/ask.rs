//! Asks the admin port of a running control plane: what the commands that do so share.

use anyhow::{Context, bail};
use serde_json::Value;
use ureq::typestate::{WithBody, WithoutBody};

/// Largest answer, in bytes: all services of a large cluster may stand in it.
const MAX_ANSWER: u64 = 256 * 1024 * 1024;

/// A question, to be sent; a path such as `/ask/wait`.
pub(crate) fn get(address: &str, path: &str) -> ureq::RequestBuilder<WithoutBody> {
    let request = ureq::get(format!("http://{address}{path}"));
    request.config().http_status_as_error(false).build()
}

/// Something to be done, to be sent.
pub(crate) fn post(address: &str, path: &str) -> ureq::RequestBuilder<WithBody> {
    let request = ureq::post(format!("http://{address}{path}"));
    request.config().http_status_as_error(false).build()
}

/// The answer, as JSON.
///
/// # Errors
/// No answer, one that is no JSON, or the reason why there is none; `missing` is what it means when
/// nothing answers at that path.
pub(crate) fn read(
    address: &str,
    response: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    missing: Option<&str>,
) -> anyhow::Result<Value> {
    let mut response =
        response.with_context(|| format!("cannot ask the control plane at {address}"))?;
    let text = response.body_mut().with_config().limit(MAX_ANSWER).read_to_string();
    let text = text.with_context(|| format!("the answer of {address} broke off"))?;
    match (response.status().as_u16(), missing) {
        (200, _) => {}
        (404, Some(missing)) => bail!("the control plane at {address} {missing}"),
        _ => bail!("the control plane at {address} says {}: {}", response.status(), text.trim()),
    }
    serde_json::from_str(&text).with_context(|| format!("{address} sent what is no JSON"))
}
