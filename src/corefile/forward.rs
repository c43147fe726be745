//! The plugin `forward`: zones and their upstreams.

use std::net::{IpAddr, SocketAddr};

use super::importer::{Importer, Scope};
use super::names;
use super::parse::{At, Directive};

/// What rules ask for that holds for all of them, or that all of them decide.
#[derive(Debug, Default)]
pub(super) struct Forwarding {
    /// Zones that have a rule, with its line.
    rules: Vec<(String, usize)>,
    /// Zones that a rule leaves out, with where it says so.
    excepted: Vec<(At, String)>,
    /// Limits of queries under way.
    limits: Vec<(At, u64)>,
}

/// What a rule's properties make of its upstreams.
#[derive(Debug, Default)]
struct Ways<'a> {
    force_tcp: bool,
    server_name: Option<&'a str>,
}

/// Takes in a rule.
pub(super) fn import(importer: &mut Importer, scope: &Scope, forward: &Directive) {
    let at = forward.at();
    let Some((from, to)) = forward.args.split_first().filter(|(_, to)| !to.is_empty()) else {
        importer.note(&at, "left out: expected a zone and upstreams");
        return;
    };
    let zones = importer.scope(&at, std::slice::from_ref(from), scope);
    if zones.is_empty() {
        importer.note(&at, "left out: the zone is not in this block, no query comes here");
        return;
    }
    let ways = Ways {
        force_tcp: forward.body.iter().any(|p| p.name == "force_tcp"),
        server_name: forward
            .body
            .iter()
            .find(|p| p.name == "tls_servername")
            .and_then(|p| p.args.first())
            .map(String::as_str),
    };
    let mut upstreams = Vec::new();
    for text in to {
        match upstream(text, &ways) {
            Ok(found) => upstreams.push(found),
            Err(reason) => importer.note(&at, reason),
        }
    }
    if ways.force_tcp && to.iter().any(|t| t.starts_with('/')) {
        importer.note(&at, "servers of a file are asked over UDP first, not over TCP alone");
    }
    if upstreams.is_empty() {
        importer.note(&at, "left out: no upstream is left");
        return;
    }
    let upstreams = upstreams.join(" ");
    for zone in zones {
        add_rule(importer, &at, zone, &upstreams);
    }
    let mut policy = None;
    for property in &forward.body {
        import_property(importer, forward, property, &mut policy);
    }
    let one = to.len() == 1 && !to.iter().any(|t| t.starts_with('/'));
    if policy.is_some() || !one {
        let (at, word) = policy.unwrap_or((at, "random"));
        importer.set(&at, "dns.forward_policy", word);
    }
}

fn add_rule(importer: &mut Importer, at: &At, zone: String, upstreams: &str) {
    let rules = &mut importer.forwarding.rules;
    if let Some((_, line)) = rules.iter().find(|(z, _)| *z == zone) {
        let text = format!("left out: {zone} has its upstreams from line {line}");
        importer.note(at, text);
    } else {
        importer.settings.push("dns.forward", format!("{zone} {upstreams}"));
        rules.push((zone, at.line));
    }
}

fn import_property<'a>(
    importer: &mut Importer,
    forward: &Directive,
    property: &'a Directive,
    policy: &mut Option<(At, &'a str)>,
) {
    let at = forward.at_property(property);
    match (property.name.as_str(), property.words().as_slice()) {
        // The first two are part of the upstreams; the third is how it is done anyway.
        ("force_tcp" | "tls_servername" | "prefer_udp", _) | ("tls", []) => {}
        ("policy", [word @ ("random" | "round_robin" | "sequential")]) => {
            *policy = Some((at, word));
        }
        ("policy", _) => {
            importer.note(&at, "left out: expected random, round_robin or sequential");
        }
        ("max_concurrent", [limit, ..]) => {
            if let Some(limit) = importer.number(&at, limit, 1..=1_000_000) {
                importer.forwarding.limits.push((at, limit));
            }
        }
        ("except", _) => {
            let zones = importer.zones(&at, &property.args);
            let excepted = zones.into_iter().map(|zone| (at.clone(), zone));
            importer.forwarding.excepted.extend(excepted);
        }
        (name, _) => {
            let known = WITHOUT.iter().find(|(property, _)| *property == name);
            let text = known.map_or("no such property known here", |(_, text)| text);
            importer.note(&at, text);
        }
    }
}

/// Notes a block that forwards without a cache.
pub(super) fn end_block(importer: &mut Importer, directives: &[Directive]) {
    if directives.iter().any(|d| d.name == "cache") {
        return;
    }
    if let Some(forward) = directives.iter().find(|d| d.name == "forward") {
        importer.note(&forward.at(), "this block has no cache, but here answers are cached");
    }
}

/// Settles what all rules decide together.
pub(super) fn finish(importer: &mut Importer) {
    let Forwarding { rules, excepted, limits } = std::mem::take(&mut importer.forwarding);
    for (at, zone) in excepted {
        let own = importer.own_zones.iter().any(|own| names::is_within(&zone, own));
        if !own && !rules.iter().any(|(rule, _)| *rule == zone) {
            importer.note(&at, format!("{zone} is forwarded as well"));
        }
    }
    let Some(limit) = limits.iter().map(|(_, limit)| *limit).max() else { return };
    let _set_once = importer.settings.set("dns.forward_max_inflight", limit.into());
    for (at, asked) in limits {
        if asked != limit {
            let text = format!("dns.forward_max_inflight is one for all rules: {limit}, the most");
            importer.note(&at, text);
        }
    }
}

/// An upstream in our spelling.
fn upstream(text: &str, ways: &Ways<'_>) -> Result<String, String> {
    if text.starts_with('/') {
        return Ok(text.to_owned());
    }
    let (scheme, rest) = text.split_once("://").unwrap_or(("dns", text));
    if !matches!(scheme, "dns" | "tls" | "https") {
        return Err(format!("left out: {scheme:?} of {text:?} is not dns, tls or https"));
    }
    let (place, name) = server_name(rest);
    if name.is_some() && scheme != "tls" {
        return Err(format!("left out: the part after '%' of {text:?} cannot be expressed"));
    }
    let place = address(&place).ok_or_else(|| {
        format!(
            "left out: {text:?} is not an IP address or an absolute path, names are not resolved"
        )
    })?;
    let name = ways.server_name.or(name).map(|name| format!("#{name}")).unwrap_or_default();
    Ok(match scheme {
        "tls" => format!("tls://{place}{name}"),
        "https" => format!("https://{place}/dns-query{name}"),
        _ if ways.force_tcp => format!("tcp://{place}"),
        _ => place,
    })
}

/// Takes apart `IP%NAME[:PORT]`.
fn server_name(text: &str) -> (String, Option<&str>) {
    let Some((address, rest)) = text.rsplit_once('%') else { return (text.to_owned(), None) };
    let (name, port) = match rest.rsplit_once(':') {
        Some((name, port)) => (name, format!(":{port}")),
        None => (rest, String::new()),
    };
    match name.strip_suffix(']') {
        Some(name) => (format!("{address}]{port}"), Some(name)),
        None => (format!("{address}{port}"), Some(name)),
    }
}

/// An address with or without a port; one of IPv6 is in brackets.
fn address(text: &str) -> Option<String> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    match (bare.parse::<IpAddr>(), text.parse::<SocketAddr>()) {
        (Ok(IpAddr::V4(ip)), _) => Some(ip.to_string()),
        (Ok(IpAddr::V6(ip)), _) => Some(format!("[{ip}]")),
        (_, Ok(socket)) if socket.port() != 0 => Some(socket.to_string()),
        _ => None,
    }
}

const PROBES: &str = "left out: upstreams are judged by their failures and probed until well";

/// Properties without a counterpart, and what we do.
const WITHOUT: [(&str, &str); 15] = [
    ("doh_method", "left out: DNS over HTTPS asks by POST"),
    ("expire", "left out: how long idle connections are kept is built in"),
    ("failfast_all_unhealthy_upstreams", PROBES),
    ("failover", "left out: which answers have the next upstream asked is built in"),
    ("health_check", PROBES),
    ("max_age", "left out: how long connections are kept is built in"),
    ("max_connect_attempts", "left out: how often one question is tried is built in"),
    ("max_fails", PROBES),
    ("max_idle_conns", "left out: how many idle connections are kept is built in"),
    ("next", "left out: an answer of the upstreams is the answer"),
    ("next_on_nodata", "left out: an answer of the upstreams is the answer"),
    ("read_timeout", "left out: the time for one question is built in"),
    ("resolver", "left out: names of upstreams are not resolved"),
    ("source_address", "left out: the system picks the address that upstreams are asked from"),
    ("tls", "left out: own certificates and authorities of upstreams"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_are_written_in_our_spelling() {
        let plain = Ways::default();
        let named = Ways { force_tcp: true, server_name: Some("dns.q") };
        for (text, ways, expected) in [
            ("/etc/resolv.conf", &plain, "/etc/resolv.conf"),
            ("10.0.0.1", &plain, "10.0.0.1"),
            ("dns://10.0.0.1:54", &plain, "10.0.0.1:54"),
            ("fd00::1", &plain, "[fd00::1]"),
            ("[fd00::1]", &plain, "[fd00::1]"),
            ("[fd00::1]:54", &plain, "[fd00::1]:54"),
            ("10.0.0.1", &named, "tcp://10.0.0.1"),
            ("tls://9.9.9.9", &plain, "tls://9.9.9.9"),
            ("tls://9.9.9.9:8853", &named, "tls://9.9.9.9:8853#dns.q"),
            ("tls://9.9.9.9%dns.r", &plain, "tls://9.9.9.9#dns.r"),
            ("tls://9.9.9.9%dns.r:8853", &plain, "tls://9.9.9.9:8853#dns.r"),
            ("tls://[fd00::1%dns.r]:8853", &plain, "tls://[fd00::1]:8853#dns.r"),
            ("https://9.9.9.9", &named, "https://9.9.9.9/dns-query#dns.q"),
        ] {
            assert_eq!(upstream(text, ways).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn upstreams_we_cannot_ask_are_named() {
        let names = "is not an IP address or an absolute path, names are not resolved";
        for (text, expected) in [
            (
                "grpc://10.0.0.1",
                "left out: \"grpc\" of \"grpc://10.0.0.1\" is not dns, tls or https".to_owned(),
            ),
            ("dns.q", format!("left out: \"dns.q\" {names}")),
            ("10.0.0.1:0", format!("left out: \"10.0.0.1:0\" {names}")),
            ("https://9.9.9.9/q", format!("left out: \"https://9.9.9.9/q\" {names}")),
            (
                "fe80::1%eth0",
                "left out: the part after '%' of \"fe80::1%eth0\" cannot be expressed".to_owned(),
            ),
        ] {
            assert_eq!(upstream(text, &Ways::default()), Err(expected), "{text}");
        }
    }
}
