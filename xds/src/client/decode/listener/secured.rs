//! Chains of a listener for what begins with TLS, told apart by the name that the client asks for.

use std::sync::Arc;

use portolan_model::traffic::{
    Beside, BesideChain, HttpOptions, ListenerKind, ResourceName, RouteTable, ServerTls, Share,
    SniChain, TcpOptions, TlsChain,
};
use portolan_proto::envoy::listener::{FilterChain, FilterChainMatch};

use super::super::tls;
use super::{Chains, End, Listed, RAW_BUFFER, filters, is_raw};

/// Chains that begin with TLS, told apart by the name that the client asks for, and one for what begins
/// otherwise. Requests may go by other route tables by each, and bytes to other clusters; TLS before bytes
/// need not end here.
pub(super) fn secured(
    listed: &[Listed<'_>],
    name: &ResourceName,
    headed: bool,
) -> Result<Chains, String> {
    let mut chains: Vec<(&str, TlsChain)> = Vec::with_capacity(listed.len());
    // The routes of the listener are those for what is in the clear, or else of the first chain.
    let mut http: Option<(ResourceName, HttpOptions)> = None;
    // The table that HTTP chains carry in themselves.
    let mut inline: Option<RouteTable> = None;
    let mut options: Option<TcpOptions> = None;
    let mut ends: Vec<BesideChain> = Vec::new();
    // What is in the clear, with its clusters if it is no HTTP.
    let mut clear: Option<Option<Vec<Share>>> = None;
    for (field, chain) in listed {
        let other = || format!("{field}.filters: other than those of {}", listed[0].0);
        let said = chain.transport_socket.as_ref();
        let is_raw = is_raw(said);
        let in_the_clear = is_raw && !is_for_tls(chain);
        if in_the_clear && (clear.is_some() || !is_for_the_rest(chain)) {
            let only = "beside TLS only one other chain is supported, of transport_protocol";
            return Err(format!("{field}: {only} {RAW_BUFFER:?} or without conditions"));
        }
        let names = match in_the_clear {
            true => Vec::new(),
            false => server_names(&format!("{field}.filter_chain_match"), chain)?,
        };
        let socket = format!("{field}.transport_socket");
        let own = (!is_raw).then(|| tls::downstream(&socket, said, names.clone())).transpose()?;
        let end = filters(field, chain, name)?;
        if let Some(mut own) = own {
            own.routes = match &end {
                End::Http(routes, ..) => Some(ResourceName::clone(routes)),
                End::Tcp(..) => None,
            };
            agreeing(&socket, &own, &chains)?;
            chains.push((field, own));
        }
        if in_the_clear {
            clear = Some(match &end {
                End::Http(..) => None,
                End::Tcp(clusters, _) => Some(clusters.clone()),
            });
        }
        match end {
            End::Http(..) if is_raw && !in_the_clear => {
                return Err(format!("{field}.filters: of TLS that is not ended there is no HTTP"));
            }
            End::Http(routes, table, own) => {
                let first = || (ResourceName::clone(&routes), own.clone());
                let (of_listener, options) = http.get_or_insert_with(first);
                if *options != own {
                    return Err(other());
                }
                if table.is_some_and(|own| inline.get_or_insert_with(|| own.clone()) != &own) {
                    return Err(other());
                }
                if in_the_clear {
                    *of_listener = routes;
                }
            }
            End::Tcp(clusters, own) => {
                if options.get_or_insert_with(|| own.clone()) != &own {
                    return Err(other());
                }
                if !in_the_clear {
                    ends.push(BesideChain { to: SniChain { names, clusters }, ended: !is_raw });
                }
            }
        }
    }
    let passes = ends.iter().any(|end| !end.ended);
    let refused = |what: &str| Err(format!("filter_chains: {what}: not supported"));
    let beside = |chains: Vec<BesideChain>| {
        let options = options.clone().unwrap_or_default();
        (!chains.is_empty()).then(|| Box::new(Beside { chains, options }))
    };
    let permissive = clear.is_some();
    let (kind, table, beside) = match (http, clear) {
        (Some(_), Some(_)) if !ends.is_empty() => {
            return refused("what is in the clear beside HTTP and bytes within TLS");
        }
        (Some(_), Some(Some(_))) => {
            return refused("bytes in the clear beside HTTP within TLS");
        }
        (Some((routes, options)), _) => {
            (ListenerKind::Http { routes, options }, inline, beside(ends))
        }
        (None, Some(_)) if passes => {
            return refused("what is in the clear beside TLS that is not ended here");
        }
        (None, Some(clear)) => {
            let clusters = clear.unwrap_or_default();
            if ends.iter().any(|end| end.to.clusters != clusters) {
                return refused("bytes in the clear beside TLS that goes to other clusters");
            }
            let options = options.unwrap_or_default();
            (ListenerKind::Tcp { clusters, options }, None, None)
        }
        (None, None) => {
            let (own, passed): (Vec<_>, Vec<_>) = ends.into_iter().partition(|end| end.ended);
            let beside = beside(passed);
            let options = options.unwrap_or_default();
            let kind = match own.first() {
                None => return Err("filter_chains: missing".to_owned()),
                Some(first) if own.iter().all(|end| end.to.clusters == first.to.clusters) => {
                    ListenerKind::Tcp { clusters: first.to.clusters.clone(), options }
                }
                Some(_) => {
                    let chains = own.into_iter().map(|end| end.to).collect();
                    ListenerKind::ByName { chains, options }
                }
            };
            (kind, None, beside)
        }
    };
    let of_listener = kind.routes();
    let chains = chains.into_iter().map(|(_, chain)| {
        let routes = chain.routes.filter(|own| Some(own) != of_listener);
        TlsChain { routes, ..chain }
    });
    let tls = ServerTls { chains: chains.collect(), permissive, beside };
    Ok(Chains { kind, table, headed, tls: Some(tls) })
}

/// Whether a chain asks for the same of its clients as those before it whose requests go by the same
/// routes, or whose bytes go on: whoever came by one that asks for less would be where the other one's
/// clients are let in alone.
fn agreeing(socket: &str, own: &TlsChain, before: &[(&str, TlsChain)]) -> Result<(), String> {
    let demands = |chain: &TlsChain| (chain.clients.clone(), chain.client_names.clone());
    match before.iter().find(|(_, chain)| chain.routes == own.routes) {
        Some((first, chain)) if demands(chain) != demands(own) => {
            Err(format!("{socket}: another demand on clients' certificates than {first}"))
        }
        _ => Ok(()),
    }
}

/// Whether a chain is for what begins with TLS, by its conditions.
pub(super) fn is_for_tls(chain: &FilterChain) -> bool {
    let said = chain.filter_chain_match.as_ref();
    said.is_some_and(|said| said.transport_protocol == "tls" || !said.server_names.is_empty())
}

/// Chains for TLS that is ended elsewhere, told apart by the name that the client asks for.
pub(super) fn passed_through(
    listed: &[Listed<'_>],
    name: &ResourceName,
) -> Result<ListenerKind, String> {
    let mut chains = Vec::with_capacity(listed.len());
    let mut common: Option<TcpOptions> = None;
    for (field, chain) in listed {
        if !is_for_tls(chain) {
            let what = "only chains for TLS are supported beside one for it that does not end it";
            return Err(format!("{field}.filter_chain_match: {what}"));
        }
        let names = server_names(&format!("{field}.filter_chain_match"), chain)?;
        let End::Tcp(clusters, options) = filters(field, chain, name)? else {
            return Err(format!("{field}.filters: of TLS that is not ended there is no HTTP"));
        };
        if common.get_or_insert_with(|| options.clone()) != &options {
            return Err(format!("{field}.filters: with other options than {}", listed[0].0));
        }
        chains.push(SniChain { names, clusters });
    }
    Ok(ListenerKind::ByName { chains, options: common.unwrap_or_default() })
}

/// Whether a chain is for whatever does not begin with TLS.
fn is_for_the_rest(chain: &FilterChain) -> bool {
    let Some(said) = &chain.filter_chain_match else { return true };
    let rest = FilterChainMatch { transport_protocol: String::new(), ..said.clone() };
    rest == FilterChainMatch::default() && ["", RAW_BUFFER].contains(&&*said.transport_protocol)
}

/// The names that a chain is for, in lower case.
fn server_names(field: &str, chain: &FilterChain) -> Result<Vec<Arc<str>>, String> {
    let Some(said) = &chain.filter_chain_match else { return Ok(Vec::new()) };
    let rest = FilterChainMatch {
        server_names: Vec::new(),
        transport_protocol: String::new(),
        ..said.clone()
    };
    let by_tls = ["", "tls"].contains(&said.transport_protocol.as_str());
    if rest != FilterChainMatch::default() || !by_tls {
        return Err(format!("{field}: only server_names are supported within TLS"));
    }
    let lower = said.server_names.iter().map(|name| name.to_ascii_lowercase().into());
    Ok(lower.collect())
}
