//! `RedirectAction` and `DirectResponseAction`: what a route answers without an endpoint.

use std::sync::Arc;

use portolan_model::traffic::{Edits, PathEdit, Redirect, Respond, Substitution};
use portolan_proto::envoy::core::data_source::Specifier;
use portolan_proto::envoy::matcher::RegexMatchAndSubstitute;
use portolan_proto::envoy::route::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use portolan_proto::envoy::route::{DirectResponseAction, RedirectAction};

use super::refuse;

/// Most bytes of a body that stands in the configuration (Envoy's default for
/// `max_direct_response_body_size_bytes`).
const MAX_BODY: usize = 4096;

/// Converts a redirect.
///
/// # Errors
/// The first field that is malformed or not supported.
pub(super) fn redirect(
    field: &str,
    said: &RedirectAction,
    edits: Option<Arc<Edits>>,
) -> Result<Redirect, String> {
    let scheme = match &said.scheme_rewrite_specifier {
        None | Some(SchemeRewriteSpecifier::HttpsRedirect(false)) => None,
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => {
            let lower = scheme.to_ascii_lowercase();
            if !["http", "https"].contains(&lower.as_str()) {
                return Err(format!("{field}.scheme_redirect: {scheme:?} is not http or https"));
            }
            Some(lower.into())
        }
    };
    let path = match &said.path_rewrite_specifier {
        None => None,
        Some(PathRewriteSpecifier::PathRedirect(path)) => {
            Some(PathEdit::Whole(target(&format!("{field}.path_redirect"), path)?))
        }
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => {
            Some(PathEdit::Matched(target(&format!("{field}.prefix_rewrite"), prefix)?))
        }
        Some(PathRewriteSpecifier::RegexRewrite(said)) => {
            Some(replaced(&format!("{field}.regex_rewrite"), said)?)
        }
        Some(PathRewriteSpecifier::PathRewrite(_)) => {
            return Err(format!("{field}.path_rewrite: not supported"));
        }
    };
    let port = u16::try_from(said.port_redirect)
        .map_err(|_| format!("{field}.port_redirect: {} is no port", said.port_redirect))?;
    let status = match RedirectResponseCode::try_from(said.response_code) {
        Ok(RedirectResponseCode::MovedPermanently) => 301,
        Ok(RedirectResponseCode::Found) => 302,
        Ok(RedirectResponseCode::SeeOther) => 303,
        Ok(RedirectResponseCode::TemporaryRedirect) => 307,
        Ok(RedirectResponseCode::PermanentRedirect) => 308,
        Err(_) => return Err(format!("{field}.response_code: {} is none", said.response_code)),
    };
    Ok(Redirect {
        scheme,
        host: host(&format!("{field}.host_redirect"), &said.host_redirect)?,
        port: (port != 0).then_some(port),
        path,
        strip_query: said.strip_query,
        status,
        edits,
    })
}

/// Converts an answer that stands in the configuration.
///
/// # Errors
/// The first field that is malformed or not supported.
pub(super) fn respond(
    field: &str,
    said: &DirectResponseAction,
    edits: Option<Arc<Edits>>,
) -> Result<Respond, String> {
    refuse(&format!("{field}.body_format"), said.body_format.is_some())?;
    let status = u16::try_from(said.status).unwrap_or(0);
    if !(200..600).contains(&status) {
        return Err(format!("{field}.status: {} is not one of 200 to 599", said.status));
    }
    let body: &[u8] = match said.body.as_ref().and_then(|body| body.specifier.as_ref()) {
        None => b"",
        Some(Specifier::InlineString(text)) => text.as_bytes(),
        Some(Specifier::InlineBytes(bytes)) => bytes,
        Some(Specifier::Filename(_) | Specifier::EnvironmentVariable(_)) => {
            return Err(format!("{field}.body: only inline bodies are supported"));
        }
    };
    if body.len() > MAX_BODY {
        let length = body.len();
        return Err(format!("{field}.body: {length} bytes are more than {MAX_BODY}"));
    }
    Ok(Respond { status, body: body.into(), edits })
}

/// A host to ask for in place of the one that was; `None` for none.
pub(super) fn host(field: &str, said: &str) -> Result<Option<Arc<str>>, String> {
    let part = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:[]".contains(&byte);
    if !said.bytes().all(part) {
        return Err(format!("{field}: {said:?} is no host"));
    }
    Ok((!said.is_empty()).then(|| said.into()))
}

/// A change of the path by an expression. What it becomes must be such as may stand in a target.
pub(super) fn replaced(field: &str, said: &RegexMatchAndSubstitute) -> Result<PathEdit, String> {
    let text = said.pattern.as_ref().map(|pattern| pattern.regex.as_str()).unwrap_or_default();
    if text.is_empty() {
        return Err(format!("{field}.pattern.regex: missing"));
    }
    let part = |byte: u8| byte.is_ascii_graphic() && !b"#?\"<>^`{|}".contains(&byte);
    if !said.substitution.bytes().all(part) {
        return Err(format!("{field}.substitution: {:?} is no part of a path", said.substitution));
    }
    let substitution = Substitution::new(text, &said.substitution);
    substitution.map(PathEdit::Replaced).map_err(|error| format!("{field}: {error}"))
}

/// A path, or a beginning of one, as it may stand in a request's target.
pub(super) fn target(field: &str, said: &str) -> Result<Arc<str>, String> {
    if !said.starts_with('/') || !PathEdit::is_path(said) {
        return Err(format!("{field}: {said:?} is no path"));
    }
    Ok(said.into())
}
