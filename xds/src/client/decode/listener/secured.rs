//! Chains of a listener for what begins with TLS, told apart by the name that the client asks for.

use std::sync::Arc;

use portolan_model::traffic::{
    ListenerKind, ResourceName, RouteTable, ServerTls, SniChain, TcpOptions, TlsChain,
};
use portolan_proto::envoy::listener::{FilterChain, FilterChainMatch};

use super::super::tls;
use super::{Chains, End, Listed, RAW_BUFFER, filters, is_raw};

/// What a chain ends in, with the table that it carries in itself.
type Above = (ListenerKind, Option<RouteTable>);

/// Chains that begin with TLS, told apart by the name that the client asks for, and one for what begins
/// otherwise. Of HTTP all of them come to the same above it; bytes may go to other clusters by each.
pub(super) fn secured(
    listed: &[Listed<'_>],
    name: &ResourceName,
    headed: bool,
) -> Result<Chains, String> {
    let mut chains: Vec<TlsChain> = Vec::with_capacity(listed.len());
    let mut above: Option<Above> = None;
    let mut permissive = false;
    let mut ends: Vec<SniChain> = Vec::with_capacity(listed.len());
    for (field, chain) in listed {
        let said = chain.transport_socket.as_ref();
        if is_raw(said) {
            if permissive || !is_for_the_rest(chain) {
                let only = "beside TLS only one other chain is supported, of transport_protocol";
                return Err(format!("{field}: {only} {RAW_BUFFER:?} or without conditions"));
            }
            permissive = true;
        } else {
            let names = server_names(&format!("{field}.filter_chain_match"), chain)?;
            let chain_of = tls::downstream(&format!("{field}.transport_socket"), said, names)?;
            let first: &TlsChain = chains.first().unwrap_or(&chain_of);
            let demands = |chain: &TlsChain| (chain.clients.clone(), chain.client_names.clone());
            if demands(first) != demands(&chain_of) {
                // Requests of all chains go by the same routes: whoever came by the chain that asks
                // for less would be where the other one's clients are let in alone.
                let what = "another demand on clients' certificates than";
                return Err(format!("{field}.transport_socket: {what} {}", listed[0].0));
            }
            chains.push(chain_of);
        }
        let own = match filters(field, chain, name)? {
            End::Http(routes, table, options) => (ListenerKind::Http { routes, options }, table),
            End::Tcp(clusters, options) => {
                let names = chains.last().map(|chain| chain.names.clone()).unwrap_or_default();
                ends.push(SniChain { names, clusters: clusters.clone() });
                (ListenerKind::Tcp { clusters, options }, None)
            }
        };
        match &above {
            Some(first) if !comes_to_the_same(first, &own) => {
                return Err(format!("{field}.filters: other than those of {}", listed[0].0));
            }
            Some(_) => {}
            None => above = Some(own),
        }
    }
    let Some((kind, table)) = above else { return Err("filter_chains: missing".to_owned()) };
    let kind = match kind {
        ListenerKind::Tcp { clusters, options }
            if ends.iter().any(|end| end.clusters != clusters) =>
        {
            if permissive {
                let what = "bytes in the clear beside TLS that goes to other clusters";
                return Err(format!("filter_chains: {what}: not supported"));
            }
            ListenerKind::ByName { chains: ends, options }
        }
        kind => kind,
    };
    Ok(Chains { kind, table, headed, tls: Some(ServerTls { chains, permissive }) })
}

/// Whether two chains may stand at a listener: what is done with HTTP is the same, and of bytes all but
/// where they go.
fn comes_to_the_same(one: &Above, other: &Above) -> bool {
    match (&one.0, &other.0) {
        (ListenerKind::Tcp { options, .. }, ListenerKind::Tcp { options: own, .. }) => {
            options == own
        }
        _ => one == other,
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
