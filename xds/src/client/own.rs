//! What a proxy proves itself with where that is not the control plane's to give: files, such as
//! cert-manager's csi-driver-spiffe or a mounted Secret has, or an agent on the machine that speaks SDS,
//! such as SPIRE's (SPIFFE Workload API over Envoy's SDS v3).
//!
//! Whatever comes later, the last good pair stays in force. Keys go to no log.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use portolan_model::traffic::Secret;
use portolan_proto::envoy::discovery::{DiscoveryRequest, DiscoveryResponse};
use portolan_proto::envoy::protobuf::Any;
use portolan_proto::envoy::secret::secret_discovery_service_client::SecretDiscoveryServiceClient;
use portolan_runtime::certificate::{CertificateError, Pair, Stamp, follow, read_authorities};
use portolan_runtime::pause::jittered;
use portolan_runtime::{CertificateFiles, Lifecycle, Metrics};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::connect::Target;
use super::decode::secret;
use super::{BACKOFF_FIRST, BACKOFF_LIMIT, ClientTls, InvalidControl, session};
use crate::resource::ResourceType;

/// Largest response taken, in bytes.
const MAX_RESPONSE_BYTES: usize = 4 * 1024 * 1024;

/// Where a proxy has its certificate from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnSource {
    /// Files, PEM, followed when they change.
    Files {
        /// The chain and its key.
        pair: CertificateFiles,
        /// The authorities of the trust domain.
        authorities: PathBuf,
    },
    /// An agent that speaks SDS.
    Sds {
        /// Its address, such as `unix:///run/spire/sockets/agent.sock`.
        agent: String,
        /// Name of the secret with the chain and its key.
        certificate: String,
        /// Name of the secret with the authorities.
        authorities: String,
    },
}

/// Why a source cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSource {
    /// A file cannot be.
    #[error(transparent)]
    File(#[from] CertificateError),
    /// Nor the address of an agent.
    #[error("the agent of the proxy's identity: {0}")]
    Agent(#[from] InvalidControl),
}

/// What there is so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OwnSecrets {
    /// The chain and its key.
    pub certificate: Option<Arc<Secret>>,
    /// The authorities.
    pub authorities: Option<Arc<Secret>>,
}

/// A source that is followed.
#[derive(Debug)]
pub(super) struct Follower {
    source: Opened,
    sender: watch::Sender<OwnSecrets>,
    changes: Counter,
    failures: Counter,
}

#[derive(Debug)]
enum Opened {
    Files { pair: CertificateFiles, authorities: PathBuf, first: Stamp },
    Sds { agent: Box<Target>, certificate: String, authorities: String },
}

impl Follower {
    /// Opens a source; what it has at once is there then.
    ///
    /// # Errors
    /// Files that cannot be used, or an address that is none.
    pub(super) fn open(
        source: &OwnSource,
        metrics: &Metrics,
    ) -> Result<(Self, watch::Receiver<OwnSecrets>), InvalidSource> {
        let (changes, failures) = (Counter::default(), Counter::default());
        let name = "xds_client_own_certificates";
        metrics.register(name, "Certificates and authorities of this proxy taken", changes.clone());
        let name = "xds_client_own_certificates_failed";
        metrics.register(name, "Those that could not be used", failures.clone());
        let (opened, secrets) = match source {
            OwnSource::Files { pair, authorities } => {
                let first = stamp(pair, authorities);
                let secrets = read(pair, authorities)?;
                changes.inc();
                let (pair, authorities) = (pair.clone(), authorities.clone());
                (Opened::Files { pair, authorities, first }, secrets)
            }
            OwnSource::Sds { agent, certificate, authorities } => {
                let agent = Target::new(agent).map_err(|error| InvalidControl {
                    address: agent.clone(),
                    reason: error.to_string(),
                })?;
                let agent = Box::new(agent);
                let (certificate, authorities) = (certificate.clone(), authorities.clone());
                (Opened::Sds { agent, certificate, authorities }, OwnSecrets::default())
            }
        };
        let (sender, receiver) = watch::channel(secrets);
        Ok((Self { source: opened, sender, changes, failures }, receiver))
    }

    /// Follows it until draining.
    pub(super) async fn run(&self, lifecycle: &Lifecycle) {
        match &self.source {
            Opened::Files { pair, authorities, first } => {
                let now = || stamp(pair, authorities);
                follow(first.clone(), now, lifecycle, || match read(pair, authorities) {
                    Ok(secrets) => self.put(|own| *own = secrets),
                    // Half of a renewal, most likely: the other half changes the stamp again.
                    Err(error) => self.failed(&error.to_string()),
                })
                .await;
            }
            Opened::Sds { agent, certificate, authorities } => {
                let mut pause = BACKOFF_FIRST;
                loop {
                    let mut answered = false;
                    let ended = tokio::select! {
                        ended = self.stream(agent, [certificate, authorities], &mut answered) => ended,
                        () = lifecycle.draining() => return,
                    };
                    let status = ended.err().map(|status| status.message().to_owned());
                    if answered {
                        pause = BACKOFF_FIRST;
                    }
                    tracing::warn!(%agent, status, retry_ms = pause.as_millis(),
                        "no agent for this proxy's identity; what it has stays in force");
                    tokio::select! {
                        () = tokio::time::sleep(jittered(pause)) => {}
                        () = lifecycle.draining() => return,
                    }
                    pause = (pause * 2).min(BACKOFF_LIMIT);
                }
            }
        }
    }

    /// One stream of an agent, to its end.
    async fn stream(
        &self,
        agent: &Target,
        names: [&String; 2],
        answered: &mut bool,
    ) -> Result<(), Status> {
        let (channel, ended) = agent.connect(&ClientTls::default()).await?;
        let mut client = SecretDiscoveryServiceClient::new(channel)
            .max_decoding_message_size(MAX_RESPONSE_BYTES);
        let (requests, receiver) = mpsc::channel(1);
        let first = DiscoveryRequest {
            // To a version of Envoy SPIRE would give authorities in a form of Envoy's alone.
            node: Some(super::called("portolan")),
            resource_names: names.map(Clone::clone).to_vec(),
            type_url: ResourceType::Secret.type_url().to_owned(),
            ..DiscoveryRequest::default()
        };
        let closed = |_| Status::unavailable("the agent closed the stream");
        requests.send(first.clone()).await.map_err(closed)?;
        let opened = client.stream_secrets(ReceiverStream::new(receiver));
        let response = ended.or(opened).await?;
        let mut responses = response.into_inner();
        let mut version = String::new();
        while let Some(response) = responses.message().await? {
            *answered = true;
            let DiscoveryResponse { version_info, nonce, resources, .. } = response;
            let refused = self.take(&resources, names);
            if refused.is_empty() {
                version = version_info;
            }
            let answer = DiscoveryRequest {
                version_info: version.clone(),
                response_nonce: nonce,
                error_detail: session::refusal(&refused),
                node: None,
                ..first.clone()
            };
            requests.send(answer).await.map_err(closed)?;
        }
        Ok(())
    }

    /// Takes what an agent sends, what is good of it; why some is not.
    fn take(&self, resources: &[Any], [certificate, authorities]: [&String; 2]) -> Vec<String> {
        let mut refused = Vec::new();
        for resource in resources {
            let taken = secret::decode(resource).map_err(|error| error.to_string());
            let taken = taken.and_then(|(name, (_, secret))| match &secret {
                Secret::Certificate { .. } if *name == **certificate => Ok((true, secret)),
                Secret::Authorities(_) if *name == **authorities => Ok((false, secret)),
                Secret::Certificate { .. } | Secret::Authorities(_) => Err(format!(
                    "{name}: another kind of secret was asked for, or none of that name"
                )),
            });
            match taken {
                Ok((true, secret)) => self.put(|own| own.certificate = Some(Arc::new(secret))),
                Ok((false, secret)) => self.put(|own| own.authorities = Some(Arc::new(secret))),
                Err(reason) => {
                    self.failed(&reason);
                    refused.push(reason);
                }
            }
        }
        refused
    }

    fn put(&self, change: impl FnOnce(&mut OwnSecrets)) {
        let changed = self.sender.send_if_modified(|own| {
            let before = own.clone();
            change(own);
            *own != before
        });
        if changed {
            self.changes.inc();
            tracing::info!("a new certificate, or new authorities, of this proxy");
        }
    }

    fn failed(&self, reason: &str) {
        self.failures.inc();
        tracing::warn!(reason, "this proxy's identity stays as it was");
    }
}

fn stamp(pair: &CertificateFiles, authorities: &Path) -> Stamp {
    Stamp::of([&*pair.chain, &*pair.key, authorities])
}

fn read(pair: &CertificateFiles, authorities: &Path) -> Result<OwnSecrets, CertificateError> {
    let Pair { chain_pem, key_pem, .. } = Pair::read(pair)?;
    let pem = read_authorities(authorities)?;
    let (chain, key) = (chain_pem.into(), key_pem.into());
    Ok(OwnSecrets {
        certificate: Some(Arc::new(Secret::Certificate { chain, key, ocsp: None })),
        authorities: Some(Arc::new(Secret::Authorities(pem.into()))),
    })
}

/// Completes once there is something new; never without a source.
pub(super) async fn changed(own: Option<&mut watch::Receiver<OwnSecrets>>) {
    let ended = match own {
        Some(own) => own.changed().await.is_err(),
        None => true,
    };
    if ended {
        std::future::pending::<()>().await;
    }
}
