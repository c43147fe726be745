//! The plugin `hosts`: a file, and lines of one written into the Corefile.

use std::net::IpAddr;

use super::importer::{Importer, Scope, is_everything};
use super::names;
use super::parse::Directive;

/// What is read if no file is named, lines in the block or not.
const DEFAULT_FILE: &str = "/etc/hosts";
/// TTL in seconds if none is given.
const DEFAULT_TTL: u64 = 3600;

/// What holds for the lines of one block.
struct Lines {
    zones: Vec<String>,
    ttl_secs: u64,
    reverse: bool,
}

/// Takes in the plugin.
pub(super) fn import(importer: &mut Importer, scope: &Scope, hosts: &Directive) {
    let at = hosts.at();
    let file = hosts.args.first().map_or(DEFAULT_FILE, String::as_str);
    importer.set(&at, "dns.hosts_file", file);
    let zones = importer.scope(&at, hosts.args.get(1..).unwrap_or_default(), scope);
    if !is_everything(&zones) {
        let text = format!("names of the file are answered outside {} as well", zones.join(" "));
        importer.note(&at, text);
    }
    let mut lines = Lines { zones, ttl_secs: DEFAULT_TTL, reverse: true };
    let mut falls_through = false;
    for property in &hosts.body {
        let at = hosts.at_property(property);
        match (property.name.as_str(), property.words().as_slice()) {
            ("ttl", [ttl, ..]) => {
                if let Some(ttl) = importer.number(&at, ttl, 1..=u64::from(u32::MAX)) {
                    lines.ttl_secs = ttl;
                    importer.note(&at, "holds for the lines of this block, not for the file");
                }
            }
            ("no_reverse", _) => {
                lines.reverse = false;
                importer.note(&at, "holds for the lines of this block, not for the file");
            }
            ("reload", _) => importer.note(&at, "the file is read again when it changes"),
            ("fallthrough", zones) => {
                falls_through = true;
                if !zones.is_empty() && *zones != ["."] {
                    importer.note(&at, "what is not listed is looked up further in every zone");
                }
            }
            ("fallthrough_unsupported", _) => {
                importer.note(&at, "a listed name has an empty answer for other types");
            }
            (first, _) if first.parse::<IpAddr>().is_ok() => {}
            _ => importer.note(&at, "left out: expected an IP address and names, or a property"),
        }
    }
    if !falls_through {
        importer.note(&at, "what is not listed is looked up further, as with fallthrough");
    }
    for property in &hosts.body {
        if let Ok(address) = property.name.parse() {
            import_line(importer, hosts, property, address, &lines);
        }
    }
}

/// `IP NAME…`.
fn import_line(
    importer: &mut Importer,
    hosts: &Directive,
    line: &Directive,
    address: IpAddr,
    lines: &Lines,
) {
    let at = hosts.at_property(line);
    let kind = if address.is_ipv4() { "A" } else { "AAAA" };
    let ttl = lines.ttl_secs;
    let reverse = names::reverse_name(address);
    let inside = |name: &str| lines.zones.iter().any(|zone| names::is_within(name, zone));
    for word in &line.args {
        let name = match names::name(word) {
            Ok(name) if name != names::ROOT => name,
            _ => {
                importer.note(&at, format!("left out: {word:?} is not a host name"));
                continue;
            }
        };
        if !inside(&name) {
            importer.note(&at, format!("left out: {name} is not in {}", lines.zones.join(" ")));
            continue;
        }
        importer.settings.push("dns.records", format!("{name} {ttl} {kind} {address}"));
        if lines.reverse && inside(&reverse) {
            importer.settings.push("dns.records", format!("{reverse} {ttl} PTR {name}"));
        }
    }
}
