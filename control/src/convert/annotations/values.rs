//! The values of annotations, one form each: words, counts, times, what is hashed and asked.

use std::num::NonZeroU32;
use std::time::Duration;

use portolan_model::AppProtocol;
use portolan_model::policy::{HashOn, Probe, RETRIABLE_STATUSES, RetryOn};
use portolan_model::traffic::{HeaderEdit, ProxyHeader};

/// Longest time any setting may name.
const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);

pub(super) fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    let found = words.iter().find(|(word, _)| *word == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        format!("{text:?} is not one of {}", known.join(", "))
    })
}

pub(super) fn retry_on(text: &str) -> Result<Vec<RetryOn>, String> {
    let mut reasons: Vec<RetryOn> = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let reason = word(item, &RetryOn::WORDS)?;
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    if reasons.is_empty() { Err("names no reason".to_owned()) } else { Ok(reasons) }
}

/// Statuses of HTTP answers: `409,429`.
pub(super) fn status_codes(text: &str) -> Result<Vec<u16>, String> {
    let mut codes: Vec<u16> = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let code = item.parse().ok().filter(|code| RETRIABLE_STATUSES.contains(code));
        let (least, most) = (RETRIABLE_STATUSES.start(), RETRIABLE_STATUSES.end());
        codes.push(code.ok_or_else(|| format!("{item:?} is not a status in {least}..={most}"))?);
    }
    codes.sort_unstable();
    codes.dedup();
    if codes.is_empty() { Err("names no status".to_owned()) } else { Ok(codes) }
}

pub(super) fn hash_on(text: &str) -> Result<HashOn, String> {
    let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
    match kind {
        "source-ip" if rest.is_empty() => Ok(HashOn::SourceIp),
        "path" if rest.is_empty() => Ok(HashOn::Path),
        "header" if HeaderEdit::is_name(rest) => Ok(HashOn::Header(rest.to_ascii_lowercase())),
        "cookie" => {
            let (name, ttl) = match rest.split_once(':') {
                Some((name, ttl)) => (name, Some(duration(ttl)?)),
                None => (rest, None),
            };
            let cookie = HashOn::Cookie { name: name.to_owned(), ttl };
            // RFC 6265 §4.1.1: a cookie is called as a field is.
            if HeaderEdit::is_name(name) {
                Ok(cookie)
            } else {
                Err(format!("{name:?} is no name of a cookie"))
            }
        }
        _ => Err(format!(
            "{text:?} is not header:NAME, cookie:NAME, cookie:NAME:TIME, source-ip or path"
        )),
    }
}

pub(super) fn probe(text: &str) -> Result<Probe, String> {
    match text.split_once(':') {
        None if text == "tcp" => Ok(Probe::Tcp),
        None if text == "grpc" => Ok(Probe::Grpc),
        Some(("http", path))
            if path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic()) =>
        {
            Ok(Probe::Http(path.to_owned()))
        }
        _ => Err(format!("{text:?} is not tcp, grpc or http:/path")),
    }
}

pub(super) fn protocol(text: &str) -> Result<AppProtocol, String> {
    match text {
        "http" | "http2" | "grpc" | "tcp" => {
            Ok(AppProtocol::from_word(if text == "http2" { "kubernetes.io/h2c" } else { text }))
        }
        other => Err(format!("{other:?} is not http, http2, grpc or tcp")),
    }
}

pub(super) fn count(text: &str) -> Result<u32, String> {
    number(text, 1, 1_000_000_000)
}

pub(super) fn number(text: &str, least: u32, most: u32) -> Result<u32, String> {
    let number: Option<u32> = text.parse().ok();
    number
        .filter(|n| (least..=most).contains(n))
        .ok_or_else(|| format!("{text:?} is not a whole number in {least}..={most}"))
}

/// A number with a unit: `250ms`, `1.5s`, `2m`, `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let secs = match unit {
        "ms" => Some(0.001),
        "s" => Some(1.0),
        "m" => Some(60.0),
        "h" => Some(3600.0),
        _ => None,
    };
    let value = secs
        .zip(number.parse::<f64>().ok())
        .and_then(|(secs, number)| Duration::try_from_secs_f64(number * secs).ok());
    match value {
        Some(value) if !value.is_zero() && value <= MAX_DURATION => Ok(value),
        Some(_) => Err(format!("{text:?} is not above 0 and at most 24h")),
        None => Err(format!("{text:?} is not a time such as 250ms, 1.5s, 2m or 1h")),
    }
}

/// A decimal above 0 and at most 10, in thousandths: `1.9`.
pub(super) fn milli(text: &str) -> Result<NonZeroU32, String> {
    // Read as seconds, which need no cast.
    let value = text.parse::<f64>().ok().and_then(|n| Duration::try_from_secs_f64(n).ok());
    let milli = value.and_then(|value| u32::try_from(value.as_millis()).ok());
    milli
        .filter(|milli| *milli <= 10_000)
        .and_then(NonZeroU32::new)
        .ok_or_else(|| format!("{text:?} is not a number in 0.001..=10"))
}

/// A share, 0 to 100.
pub(super) fn percent(text: &str) -> Result<u32, String> {
    number(text, 0, 100)
}

pub(super) fn on(text: &str) -> Result<bool, String> {
    match text {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        other => Err(format!("{other:?} is not on or off")),
    }
}

pub(super) fn proxy_header(text: &str) -> Result<ProxyHeader, String> {
    match text {
        "v1" => Ok(ProxyHeader::V1),
        "v2" => Ok(ProxyHeader::V2),
        other => Err(format!("{other:?} is not v1 or v2")),
    }
}
