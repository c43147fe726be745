//! What is done with the requests of a rule: changes of fields, host and path, redirects, copies.

use std::sync::Arc;

use portolan_model::traffic::{Cors, Edits, HeaderEdit, PathEdit, PathMatch, Redirect};

use super::super::api::{self, Filter};
use super::super::draft::{MatchDraft, MirrorDraft};
use super::{at_most, backends, cors, hostname};
use crate::object::Fault;

/// Most filters of a rule, and most changes of a list of fields (CRD).
const MAX_FILTERS: usize = 16;
const MAX_CHANGES: usize = 16;
/// Most bytes of a path that is put in place of another (CRD).
const MAX_PATH: usize = 1024;

/// All filters of a rule or of a backend.
#[derive(Debug, Default)]
pub(super) struct Filters {
    pub(super) edits: Edits,
    pub(super) redirect: Option<Redirect>,
    pub(super) mirrors: Vec<MirrorDraft>,
    pub(super) cors: Option<Arc<Cors>>,
    /// The first that is not done here.
    pub(super) unsupported: Option<String>,
}

/// Which filters may stand somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Site {
    Http,
    Grpc,
    /// A backend of either.
    Backend,
}

/// Converts filters; `matches` is what the rule is for.
pub(super) fn convert(
    field: &str,
    said: &[Filter],
    site: Site,
    namespace: &str,
    matches: &[MatchDraft],
) -> Result<Filters, Fault> {
    at_most(field, said.len(), MAX_FILTERS)?;
    let mut filters = Filters::default();
    let mut known: Vec<&str> = Vec::new();
    for (i, said) in said.iter().enumerate() {
        let field = format!("{field}[{i}]");
        let kind = said.kind.as_str();
        if known.contains(&kind) && !matches!(kind, "RequestMirror" | "ExtensionRef") {
            return Err(Fault::rejected(format!("{field}.type"), format!("{kind} stands twice")));
        }
        known.push(kind);
        one(&field, said, site, namespace, matches, &mut filters)?;
    }
    let edits = filters.edits.request.iter().chain(&filters.edits.response);
    let changed = edits.map(HeaderEdit::name).find(|name| !HeaderEdit::may_change(name));
    if let Some(name) = changed {
        filters.unsupported = Some(format!("{field}: {name} is not to be changed"));
    }
    if known.contains(&"RequestRedirect") && known.contains(&"URLRewrite") {
        let reason = "RequestRedirect and URLRewrite must not stand together";
        return Err(Fault::rejected(field, reason));
    }
    Ok(filters)
}

fn one(
    field: &str,
    said: &Filter,
    site: Site,
    namespace: &str,
    matches: &[MatchDraft],
    filters: &mut Filters,
) -> Result<(), Fault> {
    let missing = |name: &str| Fault::rejected(format!("{field}.{name}"), "missing");
    match (said.kind.as_str(), site) {
        ("RequestHeaderModifier", _) => {
            let name = "requestHeaderModifier";
            let said = said.request_header_modifier.as_ref().ok_or_else(|| missing(name))?;
            filters.edits.request = fields(&format!("{field}.{name}"), said)?;
        }
        ("ResponseHeaderModifier", _) => {
            let name = "responseHeaderModifier";
            let said = said.response_header_modifier.as_ref().ok_or_else(|| missing(name))?;
            filters.edits.response = fields(&format!("{field}.{name}"), said)?;
        }
        ("RequestMirror", Site::Http | Site::Grpc) => {
            let name = "requestMirror";
            let said = said.request_mirror.as_ref().ok_or_else(|| missing(name))?;
            filters.mirrors.push(mirror(&format!("{field}.{name}"), said, namespace)?);
        }
        ("RequestRedirect", Site::Http) => {
            let name = "requestRedirect";
            let said = said.request_redirect.as_ref().ok_or_else(|| missing(name))?;
            match redirect(&format!("{field}.{name}"), said, matches)? {
                Ok(redirect) => filters.redirect = Some(redirect),
                Err(unsupported) => filters.unsupported = Some(unsupported),
            }
        }
        ("CORS", Site::Http) => {
            let said = said.cors.as_ref().ok_or_else(|| missing("cors"))?;
            filters.cors = Some(Arc::new(cors::convert(&format!("{field}.cors"), said)?));
        }
        ("URLRewrite", Site::Http) => {
            let name = "urlRewrite";
            let said = said.url_rewrite.as_ref().ok_or_else(|| missing(name))?;
            let field = format!("{field}.{name}");
            filters.edits.host = host(&format!("{field}.hostname"), said.hostname.as_deref())?;
            match path(&format!("{field}.path"), said.path.as_ref(), matches)? {
                Ok(path) => filters.edits.path = path,
                Err(unsupported) => filters.unsupported = Some(unsupported),
            }
        }
        (other, _) => {
            filters.unsupported = Some(format!("{field}: filter {other} is not supported here"));
        }
    }
    Ok(())
}

/// In the order that Envoy has, too: what is taken out, then what is put in.
fn fields(field: &str, said: &api::HeaderModifier) -> Result<Vec<HeaderEdit>, Fault> {
    let mut edits = Vec::new();
    at_most(&format!("{field}.remove"), said.remove.len(), MAX_CHANGES)?;
    for (i, name) in said.remove.iter().enumerate() {
        edits.push(HeaderEdit::Remove(field_name(&format!("{field}.remove[{i}]"), name)?));
    }
    let lists = [("set", &said.set), ("add", &said.add)];
    for (list, said) in lists {
        at_most(&format!("{field}.{list}"), said.len(), MAX_CHANGES)?;
        for (i, header) in said.iter().enumerate() {
            let field = format!("{field}.{list}[{i}]");
            let name = field_name(&format!("{field}.name"), &header.name)?;
            let value = field_value(&format!("{field}.value"), &header.value)?;
            edits.push(match list {
                "set" => HeaderEdit::Set(name, value),
                _ => HeaderEdit::Add(name, value),
            });
        }
    }
    Ok(edits)
}

/// A field's name (RFC 9110 §5.1), in lower case.
pub(super) fn field_name(field: &str, said: &str) -> Result<Arc<str>, Fault> {
    if said.len() > 256 || !HeaderEdit::is_name(said) {
        return Err(Fault::rejected(field, format!("{said:?} is not the name of a field")));
    }
    Ok(said.to_ascii_lowercase().into())
}

/// A field's value (RFC 9110 §5.5).
fn field_value(field: &str, said: &str) -> Result<Arc<str>, Fault> {
    let valid = |byte: u8| byte == b'\t' || (byte >= b' ' && byte != 0x7f);
    if said.len() > 4096 || !said.bytes().all(valid) {
        return Err(Fault::rejected(field, format!("{said:?} is not the value of a field")));
    }
    Ok(said.trim_matches([' ', '\t']).into())
}

fn mirror(field: &str, said: &api::Mirror, namespace: &str) -> Result<MirrorDraft, Fault> {
    let part = |numerator: i32, denominator: i32| {
        let (numerator, denominator) = (i64::from(numerator), i64::from(denominator));
        (denominator > 0 && (0..=denominator).contains(&numerator))
            .then(|| u32::try_from(numerator * 1_000_000 / denominator).ok())
            .flatten()
    };
    let millionths = match (&said.percent, &said.fraction) {
        (None, None) => 1_000_000,
        (Some(percent), None) => part(*percent, 100).ok_or_else(|| {
            Fault::rejected(format!("{field}.percent"), format!("{percent} is not in 0..=100"))
        })?,
        (None, Some(fraction)) => {
            let (numerator, denominator) =
                (fraction.numerator, fraction.denominator.unwrap_or(100));
            part(numerator, denominator).ok_or_else(|| {
                let reason = format!("{numerator} of {denominator} is no part");
                Fault::rejected(format!("{field}.fraction"), reason)
            })?
        }
        (Some(_), Some(_)) => {
            let reason = "percent and fraction must not stand together";
            return Err(Fault::rejected(field, reason));
        }
    };
    let target = backends::target(&format!("{field}.backendRef"), &said.backend_ref, namespace)?;
    Ok(MirrorDraft { target, millionths })
}

/// The port is that of the listener where neither it nor the scheme is said: it is put in there.
fn redirect(
    field: &str,
    said: &api::Redirect,
    matches: &[MatchDraft],
) -> Result<Result<Redirect, String>, Fault> {
    let scheme = said.scheme.as_deref().map(str::to_ascii_lowercase);
    if let Some(other) = scheme.as_deref().filter(|scheme| !["http", "https"].contains(scheme)) {
        let reason = format!("{other:?} is not http or https");
        return Err(Fault::rejected(format!("{field}.scheme"), reason));
    }
    let status = match said.status_code {
        None => 302,
        Some(status @ (301 | 302 | 303 | 307 | 308)) => u16::try_from(status).unwrap_or(302),
        Some(other) => {
            let reason = format!("{other} is not 301, 302, 303, 307 or 308");
            return Err(Fault::rejected(format!("{field}.statusCode"), reason));
        }
    };
    let port = |port| crate::convert::port_number(&format!("{field}.port"), port);
    let path = match path(&format!("{field}.path"), said.path.as_ref(), matches)? {
        Ok(path) => path,
        Err(unsupported) => return Ok(Err(unsupported)),
    };
    Ok(Ok(Redirect {
        scheme: scheme.map(Into::into),
        host: host(&format!("{field}.hostname"), said.hostname.as_deref())?,
        port: said.port.map(port).transpose()?,
        path,
        strip_query: false,
        status,
        edits: None,
    }))
}

fn host(field: &str, said: Option<&str>) -> Result<Option<Arc<str>>, Fault> {
    let Some(said) = said.filter(|said| !said.is_empty()) else { return Ok(None) };
    let host = hostname(field, said)?;
    if host.starts_with('*') {
        return Err(Fault::rejected(field, format!("{said:?} is not one name")));
    }
    Ok(Some(host))
}

fn path(
    field: &str,
    said: Option<&api::PathModifier>,
    matches: &[MatchDraft],
) -> Result<Result<Option<PathEdit>, String>, Fault> {
    let Some(said) = said else { return Ok(Ok(None)) };
    match said.kind.as_str() {
        "ReplaceFullPath" => {
            let name = format!("{field}.replaceFullPath");
            let value = said.replace_full_path.as_deref();
            let value = value.ok_or_else(|| Fault::rejected(&*name, "missing"))?;
            Ok(new_path(&name, value).map(|path| Some(PathEdit::Whole(path))))
        }
        "ReplacePrefixMatch" => {
            let name = format!("{field}.replacePrefixMatch");
            let value = said.replace_prefix_match.as_deref();
            let value = value.ok_or_else(|| Fault::rejected(&*name, "missing"))?;
            let [only] = matches else {
                return Err(Fault::rejected(name, "needs exactly one match, by PathPrefix"));
            };
            let path = match new_path(&name, value) {
                Ok(path) => path,
                Err(unsupported) => return Ok(Err(unsupported)),
            };
            match &only.path {
                PathMatch::Under(_) => Ok(Ok(Some(PathEdit::Matched(path)))),
                // `/`, whose slash is to stand between the two.
                PathMatch::Prefix(_) => {
                    let path = format!("{}/", path.trim_end_matches('/'));
                    Ok(Ok(Some(PathEdit::Matched(path.into()))))
                }
                PathMatch::Exact(_) | PathMatch::Regex(_) => {
                    Err(Fault::rejected(name, "needs exactly one match, by PathPrefix"))
                }
            }
        }
        other => Ok(Err(format!("{field}.type: {other} is not supported"))),
    }
}

fn new_path(field: &str, said: &str) -> Result<Arc<str>, String> {
    if said.len() > MAX_PATH || !PathEdit::is_path(said) {
        return Err(format!("{field}: {said:?} is no path"));
    }
    if said.starts_with('/') { Ok(said.into()) } else { Ok(format!("/{said}").into()) }
}
