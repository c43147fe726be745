//! The plugin `cache`. Ours is one for all zones, so the shortest time that any block asks for
//! holds: nothing is kept longer than it was.

use super::importer::{Importer, Scope};
use super::names::is_within;
use super::parse::{At, Directive};
use super::values::seconds;

/// What one cache asks for.
#[derive(Debug)]
pub(super) struct Cached {
    at: At,
    positive_secs: u64,
    negative_secs: u64,
    stale_secs: u64,
    prefetch: bool,
    /// Zones whose answers are not to be kept, with where that stands.
    disabled: Vec<(At, Vec<String>)>,
}

/// Takes in a cache.
pub(super) fn import(importer: &mut Importer, scope: &Scope, cache: &Directive) {
    let at = cache.at();
    let ttl = cache.args.first().and_then(|a| a.parse::<u64>().ok());
    let zones = cache.args.get(usize::from(ttl.is_some())..).unwrap_or_default();
    if !zones.is_empty() && importer.scope(&at, zones, scope) != scope.zones {
        importer.note(&at, "answers of all zones are cached");
    }
    if ttl == Some(0) {
        importer.note(&at, "left out: a TTL is at least 1");
    }
    let ttl = ttl.filter(|ttl| *ttl > 0);
    let mut cached = Cached {
        at,
        positive_secs: ttl.unwrap_or(3600),
        negative_secs: ttl.unwrap_or(1800),
        stale_secs: 0,
        prefetch: false,
        disabled: Vec::new(),
    };
    for property in &cache.body {
        import_property(importer, scope, (cache, property), &mut cached);
    }
    importer.caches.push(cached);
}

fn import_property(
    importer: &mut Importer,
    scope: &Scope,
    (cache, property): (&Directive, &Directive),
    cached: &mut Cached,
) {
    let at = cache.at_property(property);
    match (property.name.as_str(), property.words().as_slice()) {
        ("success" | "denial", [_, rest @ ..]) => {
            importer.note(&at, "the size is not taken over: dns.cache_mib is in bytes");
            let [ttl, rest @ ..] = rest else { return };
            if let Some(ttl) = importer.number(&at, ttl, 1..=u64::from(u32::MAX)) {
                let slot = if property.name == "success" {
                    &mut cached.positive_secs
                } else {
                    &mut cached.negative_secs
                };
                *slot = ttl;
            }
            if !rest.is_empty() {
                importer.note(&at, "the shortest time is not taken over");
            }
        }
        ("prefetch", [amount, rest @ ..]) => {
            cached.prefetch = *amount != "0";
            if cached.prefetch && (*amount != "1" || !rest.is_empty()) {
                importer.note(&at, "when a name is worth it, and how early, is built in");
            }
        }
        ("serve_stale", words) => import_stale(importer, &at, words, cached),
        ("servfail", _) => importer.note(&at, "how long a failure is kept is built in"),
        ("disable", _) => {
            let zones = property.args.get(1..).unwrap_or_default();
            let zones = importer.scope(&at, zones, scope);
            cached.disabled.push((at, zones));
        }
        ("keepttl", _) => importer.note(&at, "TTLs of cached answers count down"),
        ("serve_stale_policy", _) => {
            importer.note(&at, "left out: the last answer of an upstream is the one kept");
        }
        _ => importer.note(&at, "no such property known here"),
    }
}

/// `serve_stale [DURATION] [MODE …]`; ours asks first, as with `verify`.
fn import_stale(importer: &mut Importer, at: &At, words: &[&str], cached: &mut Cached) {
    let (time, mode) = words.split_first().map_or(("1h", words), |(time, mode)| (*time, mode));
    match seconds(time) {
        Some(secs) => cached.stale_secs = secs,
        None => importer.note(at, format!("left out: {time:?} is not a length of time")),
    }
    if cached.stale_secs > 0 && mode.first() != Some(&"verify") {
        importer.note(at, "upstreams are asked first, the stale answer is for when they fail");
    }
    if mode.len() > 1 {
        importer.note(at, "other times of stale answers are built in");
    }
}

/// Sets what all caches ask for together.
pub(super) fn finish(importer: &mut Importer) {
    let caches = std::mem::take(&mut importer.caches);
    let least = |of: fn(&Cached) -> u64| caches.iter().map(of).min();
    let (Some(positive), Some(negative), Some(stale)) =
        (least(|c| c.positive_secs), least(|c| c.negative_secs), least(|c| c.stale_secs))
    else {
        return;
    };
    let prefetch = caches.iter().any(|c| c.prefetch);
    for (path, value) in [
        ("dns.cache_ttl_max_secs", positive),
        ("dns.cache_negative_ttl_max_secs", negative),
        ("dns.cache_stale_secs", stale),
    ] {
        let _set_once = importer.settings.set(path, value.into());
    }
    let word = if prefetch { "on" } else { "off" };
    let _set_once = importer.settings.set("dns.cache_prefetch", word.into());
    for cached in &caches {
        // Names of the cluster are never cached, so nothing is to be turned off for them.
        for (at, zones) in &cached.disabled {
            let own = |zone: &String| importer.own_zones.iter().any(|o| is_within(zone, o));
            if !zones.iter().all(own) {
                importer.note(at, "answers of all kinds and zones are cached");
            }
        }
        let all = [
            ("dns.cache_ttl_max_secs", positive, cached.positive_secs),
            ("dns.cache_negative_ttl_max_secs", negative, cached.negative_secs),
            ("dns.cache_stale_secs", stale, cached.stale_secs),
        ];
        for (path, held, asked) in all {
            if held != asked {
                let text = format!("{path} is one for all zones: {held}, not {asked}");
                importer.note(&cached.at, text);
            }
        }
    }
}
