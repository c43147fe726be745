//! From settings to a client of the API server: in a pod, or by a kubeconfig.

use std::path::PathBuf;
use std::time::Duration;

use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use portolan_runtime::causes::chain;

use super::TokenReviewer;
use super::guard::{GuardLayer, RequestLimits};

/// Limit on establishing a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest silence on a connection: a watch is silent while nothing changes, and the server ends
/// it before this.
const READ_TIMEOUT: Duration = Duration::from_secs(310);

/// Where the API server is found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connect {
    /// A kubeconfig file; `None`: the pod's own service account, else `$KUBECONFIG` or
    /// `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig; `None`: its current one.
    pub context: Option<String>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig cannot be used.
    #[error("cannot use the kubeconfig {path}: {reason}", path = path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Neither a service account nor a kubeconfig was found.
    #[error("found no way to the Kubernetes API: {0}")]
    Nothing(String),
    /// The settings found do not make a client.
    #[error("cannot make a client of the Kubernetes API: {0}")]
    Client(#[from] kube::Error),
}

impl Connect {
    /// Makes the client; nothing is sent yet.
    ///
    /// # Errors
    /// [`ConnectError`] saying which file or setting is at fault.
    pub async fn client(&self) -> Result<Client, ConnectError> {
        let mut config = self.config().await?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(READ_TIMEOUT);
        // The watches wait and try again themselves, and say so.
        config.default_retry = false;
        let guard = GuardLayer::new(RequestLimits::default());
        Ok(ClientBuilder::try_from(config)?.with_layer(&guard).build())
    }

    /// Whoever says whose tokens are; nothing is sent yet.
    ///
    /// # Errors
    /// [`ConnectError`] saying which file or setting is at fault.
    pub async fn token_reviewer(&self) -> Result<TokenReviewer, ConnectError> {
        Ok(TokenReviewer::new(self.client().await?))
    }

    async fn config(&self) -> Result<Config, ConnectError> {
        let options =
            KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        if let Some(path) = &self.kubeconfig {
            let failed = |reason: String| ConnectError::Kubeconfig { path: path.clone(), reason };
            let read = Kubeconfig::read_from(path).map_err(|e| failed(chain(&e)))?;
            let config = Config::from_custom_kubeconfig(read, &options).await;
            return config.map_err(|e| failed(chain(&e)));
        }
        if self.context.is_none()
            && let Ok(config) = Config::incluster()
        {
            return Ok(config);
        }
        let config = Config::from_kubeconfig(&options).await;
        config.map_err(|e| ConnectError::Nothing(chain(&e)))
    }
}
