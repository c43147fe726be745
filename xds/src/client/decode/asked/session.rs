//! `StatefulSessionPerRoute` -> [`Session`].

use portolan_model::traffic::{HeaderEdit, Session, SessionBy};
use portolan_proto::envoy::cookie_session::CookieBasedSessionState;
use portolan_proto::envoy::header_session::HeaderBasedSessionState;
use portolan_proto::envoy::protobuf::Any;
use portolan_proto::envoy::stateful_session::StatefulSessionPerRoute;
use portolan_proto::envoy::stateful_session::stateful_session_per_route::Override;
use prost::Name;

use super::super::{message, refuse, time};

/// `None` for one that is switched off, or keeps nothing.
pub(super) fn convert(
    field: &str,
    said: &StatefulSessionPerRoute,
) -> Result<Option<Session>, String> {
    let said = match &said.r#override {
        Some(Override::StatefulSession(said)) => said,
        Some(Override::Disabled(true)) => return Ok(None),
        Some(Override::Disabled(false)) | None => {
            return Err(format!("{field}.override: missing"));
        }
    };
    let field = format!("{field}.stateful_session");
    refuse(&format!("{field}.strict"), said.strict)?;
    let state = said.session_state.as_ref();
    let state = state.and_then(|state| state.typed_config.as_ref());
    state.map(|state| of(&format!("{field}.session_state"), state)).transpose()
}

fn of(field: &str, state: &Any) -> Result<Session, String> {
    let named = |error: String| format!("{field}: {error}");
    if state.type_url == HeaderBasedSessionState::type_url() {
        let said: HeaderBasedSessionState = message(state).map_err(named)?;
        let name = name(&format!("{field}.name"), &said.name)?.to_ascii_lowercase();
        if !HeaderEdit::may_change(&name) {
            return Err(format!("{field}.name: {name} is not to be changed"));
        }
        return Ok(Session { name: name.into(), by: SessionBy::Header });
    }
    if state.type_url != CookieBasedSessionState::type_url() {
        return Err(format!("{field}: {} is not supported", state.type_url));
    }
    let said: CookieBasedSessionState = message(state).map_err(named)?;
    let cookie = said.cookie.ok_or_else(|| format!("{field}.cookie: missing"))?;
    let field = format!("{field}.cookie");
    refuse(&format!("{field}.attributes"), !cookie.attributes.is_empty())?;
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b';';
    if !cookie.path.bytes().all(plain) {
        return Err(format!("{field}.path: {:?} is none", cookie.path));
    }
    let ttl = time(&format!("{field}.ttl"), cookie.ttl.as_ref())?;
    let by = SessionBy::Cookie { path: cookie.path.as_str().into(), ttl };
    Ok(Session { name: name(&format!("{field}.name"), &cookie.name)?.into(), by })
}

/// A token (RFC 9110 §5.6.2; RFC 6265 §4.1.1 for cookies).
fn name<'a>(field: &str, said: &'a str) -> Result<&'a str, String> {
    let valid = HeaderEdit::is_name(said) && said.len() <= 256;
    if valid { Ok(said) } else { Err(format!("{field}: {said:?} is none")) }
}
