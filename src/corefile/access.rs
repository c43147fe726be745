//! The plugin `acl`: who may ask. There, a block's rules are about the block's queries alone; ours
//! are one list, so that narrow blocks come first and end before wide ones begin.

use std::cmp::Reverse;

use ipnet::IpNet;

use super::importer::{Importer, Scope, is_everything};
use super::names;
use super::parse::{At, Directive};

/// The rules of a server block.
#[derive(Debug)]
pub(super) struct BlockRules {
    /// Zones of the block.
    zones: Vec<String>,
    /// In our spelling; none when every query of the block is allowed.
    rules: Vec<String>,
}

/// Takes in an `acl`.
pub(super) fn import(importer: &mut Importer, scope: &Scope, acl: &Directive) {
    let at = acl.at();
    let zones = importer.scope(&at, &acl.args, scope);
    if zones.is_empty() {
        importer.note(&at, "left out: its zones are not in this block, no query comes here");
        return;
    }
    let mut rules = Vec::new();
    for property in &acl.body {
        rules.extend(rule(importer, &acl.at_property(property), property, &zones));
    }
    match importer.access.iter_mut().find(|b| b.zones == scope.zones) {
        Some(block) => block.rules.extend(rules),
        None => importer.access.push(BlockRules { zones: scope.zones.clone(), rules }),
    }
}

/// `ACTION [type QTYPE…] [net SOURCE…]`; `None` and a note when it has no counterpart.
fn rule(
    importer: &mut Importer,
    at: &At,
    property: &Directive,
    zones: &[String],
) -> Option<String> {
    let mut rule = match property.name.as_str() {
        "allow" => "allow".to_owned(),
        "block" => "refuse".to_owned(),
        "drop" => "drop".to_owned(),
        "filter" => {
            importer.note(at, "left out: no empty answer is given in place of refusing");
            return None;
        }
        _ => {
            importer.note(at, "left out: expected allow, block, filter or drop");
            return None;
        }
    };
    let (mut part, mut typed) = ("", false);
    let mut networks = Vec::new();
    let everyone =
        |networks: &[String]| networks.is_empty() || networks.iter().any(|network| network == "*");
    for word in &property.args {
        match (part, word.as_str()) {
            (_, "type" | "net") => part = word,
            ("type", kind) => typed |= kind != "*",
            ("net", "*") => networks.push(word.clone()),
            ("net", text) => match network(text) {
                Some(network) => networks.push(network),
                None => {
                    importer.note(at, format!("left out: {text:?} is not a network"));
                    return None;
                }
            },
            (_, text) => {
                importer.note(at, format!("left out: {text:?} is not `type` or `net`"));
                return None;
            }
        }
    }
    if typed {
        importer.note(at, "left out: rules are not about types of records");
        return None;
    }
    if !everyone(&networks) {
        rule = format!("{rule} from {}", networks.join(" "));
    }
    if !is_everything(zones) {
        rule = format!("{rule} for {}", zones.join(" "));
    }
    Some(rule)
}

/// A network, or an address as one.
fn network(text: &str) -> Option<String> {
    let host = || text.parse().map(|address: std::net::IpAddr| IpNet::from(address));
    let network: Result<IpNet, _> = text.parse().or_else(|_| host());
    network.ok().map(|network| network.to_string())
}

/// Puts the blocks' rules into one list.
pub(super) fn finish(importer: &mut Importer, scopes: &[Scope]) {
    let mut blocks = std::mem::take(&mut importer.access);
    if blocks.is_empty() {
        return;
    }
    for scope in scopes {
        if !blocks.iter().any(|b| b.zones == scope.zones) {
            blocks.push(BlockRules { zones: scope.zones.clone(), rules: Vec::new() });
        }
    }
    let widest = |b: &BlockRules| b.zones.iter().map(|z| names::depth(z)).min().unwrap_or(0);
    blocks.sort_by_key(|b| Reverse(widest(b)));
    for (i, block) in blocks.iter().enumerate() {
        for rule in &block.rules {
            importer.settings.push("dns.access", rule);
        }
        let inside =
            |zone: &String, wide: &BlockRules| wide.zones.iter().any(|w| names::is_within(zone, w));
        let wider = blocks[i + 1..].iter().filter(|wide| !wide.rules.is_empty());
        let mut shadowed = wider.flat_map(|wide| block.zones.iter().filter(|z| inside(z, wide)));
        if shadowed.next().is_some() {
            let rule = format!("allow for {}", block.zones.join(" "));
            importer.settings.push("dns.access", rule);
        }
    }
}
