//! Who issues certificates to proxies, and who these are.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use portolan_model::ServiceKey;
use portolan_runtime::CertificateFiles;
use portolan_xds::{IssuerConfig, OwnSource};

use super::reader::Reader;

/// The built-in issuer, and whether proxies on this machine are believed who they say they are.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) issuer: IssuerConfig,
    pub(crate) trusts_local: bool,
}

/// Reads `identity`.
pub(super) fn read(r: &mut Reader, trust_domain: &str) -> Option<Identity> {
    let folder = r.optional(
        "identity.issuer_folder",
        "Folder of the built-in issuer's authority, ca.pem and ca.key, made if there is none; empty: \
         no certificates are issued",
    );
    let lifetime = r.integer(
        "identity.lifetime_secs",
        86_400,
        5..=31_536_000,
        "How long an issued certificate is good for, in seconds; it is renewed when a third is left",
    );
    let trusts_local = r.word(
        "identity.local_clients",
        &[("prove", false), ("trusted", true)],
        "Whether clients on this machine, of which xds.clients asks nothing, are issued certificates \
         as the service account that they name: prove or trusted",
    );
    let Some(folder) = folder else {
        if trusts_local {
            let reason = "has no effect without identity.issuer_folder";
            r.reject("identity.local_clients", reason);
        }
        return None;
    };
    let issuer = IssuerConfig {
        trust_domain: trust_domain.to_owned(),
        folder: PathBuf::from(folder),
        lifetime: Duration::from_secs(lifetime),
    };
    Some(Identity { issuer, trusts_local })
}

/// The services in front of whose endpoints the proxy stands.
pub(super) fn services(r: &mut Reader) -> Option<String> {
    let said = r.optional(
        "proxy.serves",
        "Services in front of whose endpoints this proxy stands, such as shop/web, between commas",
    )?;
    for name in said.split(',') {
        if let Err(reason) = ServiceKey::parse(name.trim()) {
            r.reject("proxy.serves", &reason.to_string());
        }
    }
    Some(said)
}

/// Where a proxy in front of endpoints listens.
pub(super) fn inbound_address(r: &mut Reader) -> Option<IpAddr> {
    let help = "Address at which a proxy in front of endpoints listens; empty: all addresses";
    let said = r.optional("proxy.inbound_address", help)?;
    match said.parse() {
        Ok(address) => Some(address),
        Err(_) => {
            r.reject("proxy.inbound_address", &format!("{said:?} is not an IP address"));
            None
        }
    }
}

/// The service account that a proxy asks to be.
pub(super) fn service_account(r: &mut Reader) -> Option<String> {
    let said = r.optional(
        "proxy.service_account",
        "Service account that this proxy asks to be, such as shop/web, where it need not prove it",
    )?;
    if said.split('/').filter(|part| !part.is_empty()).count() != 2 {
        r.reject("proxy.service_account", &format!("{said:?} is not namespace/name"));
    }
    Some(said)
}

/// Where the proxy has its certificate from, if not from the control plane.
pub(super) fn own(r: &mut Reader) -> Option<OwnSource> {
    let chain = r.optional(
        "proxy.identity_certificate",
        "PEM file of the certificate chain that the proxy proves itself with to other proxies, followed \
         when it changes; empty: it comes from the control plane",
    );
    let key = r.optional("proxy.identity_key", "PEM file of its key");
    let authorities = r.optional(
        "proxy.identity_authorities",
        "PEM file of the authorities that certificates of other proxies end in",
    );
    let agent = r.optional(
        "proxy.identity_agent",
        "Agent that has these instead, over SDS, such as SPIRE's: unix:///run/spire/sockets/agent.sock",
    );
    let certificate = r.text(
        "proxy.identity_agent_certificate",
        "default",
        "Name of the agent's secret with the certificate",
    );
    let trusted = r.text(
        "proxy.identity_agent_authorities",
        "ROOTCA",
        "Name of the agent's secret with the authorities",
    );
    match (chain, key, authorities, agent) {
        (None, None, None, None) => None,
        (None, None, None, Some(agent)) => {
            if !is_local(&agent) {
                let reason = format!(
                    "{agent:?}: keys come from this machine alone: unix:///path, or http:// and a loopback \
                     address"
                );
                r.reject("proxy.identity_agent", &reason);
            }
            Some(OwnSource::Sds { agent, certificate: certificate?, authorities: trusted? })
        }
        (Some(chain), Some(key), Some(authorities), None) => {
            let pair = CertificateFiles { chain: chain.into(), key: key.into() };
            Some(OwnSource::Files { pair, authorities: authorities.into() })
        }
        (.., Some(_)) => {
            r.reject("proxy.identity_agent", "not used with proxy.identity_certificate: set one");
            None
        }
        _ => {
            let reason =
                "proxy.identity_certificate, identity_key and identity_authorities go together";
            r.reject("proxy.identity_certificate", reason);
            None
        }
    }
}

/// Whether an address is one of this machine, which nobody on the network listens in on.
fn is_local(agent: &str) -> bool {
    if agent.starts_with("unix:") {
        return true;
    }
    let Ok(uri) = agent.parse::<http::Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_loopback = host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    uri.scheme_str() == Some("http") && (is_loopback || host == "localhost")
}

#[cfg(test)]
mod tests {
    use super::is_local;

    #[test]
    fn agents_are_on_the_same_machine() {
        for agent in
            ["unix:///run/a.sock", "http://127.0.0.1:8", "http://[::1]:8", "http://localhost:8"]
        {
            assert!(is_local(agent), "{agent}");
        }
        for agent in
            ["http://10.0.0.1:8", "http://agent:8", "https://127.0.0.1:8", "127.0.0.1:8", ""]
        {
            assert!(!is_local(agent), "{agent}");
        }
    }
}
