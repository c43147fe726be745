//! `CorsPolicy` -> [`Cors`].

use portolan_model::traffic::Cors;
use portolan_proto::envoy::http_cors::CorsPolicy;

use super::super::{condition, refuse};

/// Most origins of a route.
const MAX_ORIGINS: usize = 256;

/// `None` for one that is switched off.
pub(super) fn convert(field: &str, said: &CorsPolicy) -> Result<Option<Cors>, String> {
    let private = said.allow_private_network_access.is_some_and(|allowed| allowed.value);
    refuse(&format!("{field}.allow_private_network_access"), private)?;
    let enabled = said.filter_enabled.as_ref().and_then(|enabled| enabled.default_value.as_ref());
    match enabled.map(condition::part) {
        Some(0) => return Ok(None),
        None | Some(1_000_000) => {}
        Some(_) => return Err(format!("{field}.filter_enabled: a part of all is not supported")),
    }
    let count = said.allow_origin_string_match.len();
    if count > MAX_ORIGINS {
        let field = format!("{field}.allow_origin_string_match");
        return Err(format!("{field}: {count} are more than {MAX_ORIGINS}"));
    }
    let origins = said.allow_origin_string_match.iter().enumerate().map(|(i, origin)| {
        condition::text(&format!("{field}.allow_origin_string_match[{i}]"), origin)
    });
    Ok(Some(Cors {
        origins: origins.collect::<Result<_, _>>()?,
        methods: value(&format!("{field}.allow_methods"), &said.allow_methods)?,
        headers: value(&format!("{field}.allow_headers"), &said.allow_headers)?,
        exposed: value(&format!("{field}.expose_headers"), &said.expose_headers)?,
        max_age: value(&format!("{field}.max_age"), &said.max_age)?,
        credentials: said.allow_credentials.is_some_and(|allowed| allowed.value),
        // Envoy's default.
        forward_unmatched: said.forward_not_matching_preflights.is_none_or(|said| said.value),
    }))
}

/// A text that may stand in a field (RFC 9110 §5.5).
fn value(field: &str, said: &str) -> Result<std::sync::Arc<str>, String> {
    let valid = |byte: u8| byte == b'\t' || (byte >= b' ' && byte != 0x7f);
    if said.bytes().all(valid) { Ok(said.into()) } else { Err(format!("{field}: {said:?}")) }
}
