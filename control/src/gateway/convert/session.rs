//! `sessionPersistence` of a rule (GEP-1619).

use portolan_model::traffic::{HeaderEdit, Session, SessionBy};
use xxhash_rust::xxh3::xxh3_64;

use super::super::api;
use super::duration;
use crate::object::Fault;

/// Most characters of a name (CRD).
const MAX_NAME: usize = 128;

/// Converts what a rule says; `Ok(Err(..))` for what is not done. `rule` tells it from every other rule.
pub(super) fn convert(
    field: &str,
    said: &api::SessionPersistence,
    rule: &str,
) -> Result<Result<Session, String>, Fault> {
    let name = match said.session_name.as_deref() {
        // The same on every replica.
        None => format!("portolan-{:016x}", xxh3_64(rule.as_bytes())),
        Some(name) if name.len() <= MAX_NAME && HeaderEdit::is_name(name) => name.to_owned(),
        Some(name) => {
            let reason = format!("{name:?} is not the name of a cookie or a field");
            return Err(Fault::rejected(format!("{field}.sessionName"), reason));
        }
    };
    let time = |name: &str, said: &Option<String>| {
        let field = format!("{field}.{name}");
        said.as_ref().map(|said| duration(&field, said)).transpose()
    };
    let absolute = time("absoluteTimeout", &said.absolute_timeout)?;
    if time("idleTimeout", &said.idle_timeout)?.is_some() {
        return Ok(Err(format!("{field}.idleTimeout: not supported")));
    }
    let lifetime = said.cookie_config.as_ref().and_then(|config| config.lifetime_type.as_deref());
    let ttl = match (lifetime, absolute) {
        (None | Some("Session"), None) => None,
        (Some("Permanent"), Some(ttl)) => Some(ttl),
        (Some("Permanent"), None) => {
            let reason = "missing, and the cookie is Permanent";
            return Err(Fault::rejected(format!("{field}.absoluteTimeout"), reason));
        }
        (None | Some("Session"), Some(_)) => {
            let reason = "only of a cookie whose lifetimeType is Permanent";
            return Ok(Err(format!("{field}.absoluteTimeout: {reason}")));
        }
        (Some(other), _) => {
            let reason = format!("{other:?} is not Permanent or Session");
            return Err(Fault::rejected(format!("{field}.cookieConfig.lifetimeType"), reason));
        }
    };
    match said.kind.as_deref() {
        None | Some("Cookie") => {
            let by = SessionBy::Cookie { path: "/".into(), ttl };
            Ok(Ok(Session { name: name.into(), by }))
        }
        Some("Header") if said.cookie_config.is_some() => {
            let reason = "only of a session by Cookie";
            Err(Fault::rejected(format!("{field}.cookieConfig"), reason))
        }
        Some("Header") => {
            let name = name.to_ascii_lowercase();
            if !HeaderEdit::may_change(&name) {
                return Ok(Err(format!("{field}.sessionName: {name} is not to be changed")));
            }
            Ok(Ok(Session { name: name.into(), by: SessionBy::Header }))
        }
        Some(other) => {
            let reason = format!("{other:?} is not Cookie or Header");
            Err(Fault::rejected(format!("{field}.type"), reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn sessions_are_as_the_specification_writes_them() {
        let said = |yaml: &str| -> Result<Result<Session, String>, Fault> {
            convert("f", &serde_json::from_str(yaml).expect("JSON"), "HTTPRoute shop/web rule 0")
        };
        let by = |json: &str| said(json).expect("valid").expect("done");
        let cookie = by("{}");
        assert!(cookie.name.starts_with("portolan-") && cookie.name.len() == 25, "{}", cookie.name);
        assert_eq!(cookie.by, SessionBy::Cookie { path: "/".into(), ttl: None });
        assert_eq!(by(r#"{"type": "Header", "sessionName": "X-S"}"#).by, SessionBy::Header);
        let kept =
            by(r#"{"absoluteTimeout": "1h", "cookieConfig": {"lifetimeType": "Permanent"}}"#);
        let ttl = Some(Duration::from_hours(1));
        assert_eq!(kept.by, SessionBy::Cookie { path: "/".into(), ttl });
        for (json, field) in [
            (r#"{"sessionName": "a b"}"#, "f.sessionName"),
            (r#"{"type": "Path"}"#, "f.type"),
            (r#"{"cookieConfig": {"lifetimeType": "Permanent"}}"#, "f.absoluteTimeout"),
            (r#"{"cookieConfig": {"lifetimeType": "Ever"}}"#, "f.cookieConfig.lifetimeType"),
            (r#"{"type": "Header", "cookieConfig": {}}"#, "f.cookieConfig"),
            (r#"{"absoluteTimeout": "soon"}"#, "f.absoluteTimeout"),
        ] {
            let refused = format!("{:?}", said(json).expect_err(json));
            assert!(refused.contains(&format!("{field:?}")), "{json}: {refused}");
        }
        for (json, field) in [
            (r#"{"idleTimeout": "1h"}"#, "f.idleTimeout"),
            (r#"{"absoluteTimeout": "1h"}"#, "f.absoluteTimeout"),
            (r#"{"type": "Header", "sessionName": "Host"}"#, "f.sessionName"),
        ] {
            let text = said(json).expect("valid").expect_err(json);
            assert!(text.starts_with(field), "{json}: {text}");
        }
    }
}
