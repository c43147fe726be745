//! A plain gRPC client for people: any method of any server that offers reflection
//! (`grpc.reflection.v1`), with JSON in and a line of JSON per reply out. Over cleartext HTTP/2
//! with prior knowledge; no TLS, no retries, no compression.

mod codec;
mod error;
mod json;
mod metadata;
mod method;
mod reflection;

use std::io::Write;
use std::time::Duration;

use http::Uri;
use http::uri::PathAndQuery;
use portolan_runtime::causes::chain;
use prost_reflect::{DynamicMessage, MethodDescriptor};
use tokio::time::Instant;
use tokio_stream::Stream;
use tonic::client::Grpc;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response};

pub use self::error::CallError;

use self::codec::DynamicCodec;
use self::method::MethodName;
use self::reflection::Reflection;

/// Most messages of one call.
pub const MAX_MESSAGES: usize = 10_000;
/// Largest message in either direction, in bytes: JSON on the way in, protobuf on the way out.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// Most metadata entries of one call.
pub const MAX_METADATA: usize = 100;
/// Longest deadline; a longer one is cut to it.
pub const MAX_DEADLINE: Duration = Duration::from_secs(24 * 60 * 60);

/// What is to be called.
#[derive(Clone, Debug)]
pub struct CallRequest {
    /// Where to connect to: `host:port`, an IPv6 host in brackets.
    pub target: String,
    /// The `:authority` to send, such as `greeter.shop`; `None` sends the target.
    pub authority: Option<String>,
    /// `package.Service/Method`; `None` lists services and methods instead.
    pub method: Option<String>,
    /// The messages to send, each a JSON object. A method that takes one message is sent an empty
    /// one when there is none here.
    pub messages: Vec<String>,
    /// How long everything may take, connecting and reflection included.
    pub deadline: Duration,
    /// Metadata to send along. The value of a name ending in `-bin` is sent as bytes.
    pub metadata: Vec<(String, String)>,
}

/// What every request of this call shares.
struct Session {
    channel: Channel,
    metadata: MetadataMap,
    until: Instant,
}

/// Calls a method and writes each reply to `out` as a line of JSON, as it comes. Without a method
/// it writes a line per method that the server has.
///
/// # Errors
/// [`CallError`]; what was written before stays written.
pub async fn call(request: CallRequest, out: &mut impl Write) -> Result<(), CallError> {
    let deadline = request.deadline.min(MAX_DEADLINE);
    let run = run(request, Instant::now() + deadline, out);
    match tokio::time::timeout(deadline, run).await {
        Ok(Err(CallError::Deadline { .. })) | Err(_) => Err(CallError::Deadline { deadline }),
        Ok(result) => result,
    }
}

async fn run(request: CallRequest, until: Instant, out: &mut impl Write) -> Result<(), CallError> {
    json::check_sizes(&request.messages)?;
    let metadata = metadata::parse(&request.metadata)?;
    let name = request.method.as_deref().map(MethodName::parse).transpose()?;
    let channel = connect(&request.target, request.authority.as_deref()).await?;
    let session = Session { channel, metadata, until };

    let (mut reflection, services) = Reflection::open(&session).await?;
    let Some(name) = name else {
        for service in &services {
            let descriptor = reflection.service(service).await?;
            method::list(&descriptor, out).map_err(CallError::Write)?;
        }
        return Ok(());
    };
    if !services.iter().any(|known| known == name.service) {
        let service = name.service.to_owned();
        return Err(CallError::UnknownService { service, known: services });
    }
    let method = name.find_in(&reflection.service(name.service).await?)?;
    let messages = json::messages(&method, &request.messages)?;
    // The reflection stream would keep its endpoint busy for as long as the call runs.
    drop(reflection);
    session.invoke(&method, messages, out).await
}

async fn connect(target: &str, authority: Option<&str>) -> Result<Channel, CallError> {
    let target_uri =
        uri(target).map_err(|reason| CallError::Target { target: target.to_owned(), reason })?;
    if target_uri.port().is_none() {
        let reason = "a port is missing: host:port".to_owned();
        return Err(CallError::Target { target: target.to_owned(), reason });
    }
    let authority = authority.unwrap_or(target);
    let origin = uri(authority)
        .map_err(|reason| CallError::Authority { authority: authority.to_owned(), reason })?;
    Endpoint::from(target_uri)
        .origin(origin)
        .connect()
        .await
        .map_err(|source| CallError::connect(target, &source))
}

/// A URI that is nothing but an authority over cleartext.
fn uri(authority: &str) -> Result<Uri, String> {
    Uri::builder()
        .scheme("http")
        .authority(authority)
        .path_and_query("/")
        .build()
        .map_err(|error| error.to_string())
}

impl Session {
    /// A request with the call's metadata and what is left of its deadline (`grpc-timeout`).
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.metadata.clone();
        request.set_timeout(self.until.saturating_duration_since(Instant::now()));
        request
    }

    async fn invoke(
        &self,
        method: &MethodDescriptor,
        messages: Vec<DynamicMessage>,
        out: &mut impl Write,
    ) -> Result<(), CallError> {
        let mut grpc = Grpc::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        // A channel is always ready or broken in the call itself, which says why.
        grpc.ready().await.map_err(|source| CallError::Broken { reason: chain(&source) })?;
        let path = path(method)?;
        let codec = DynamicCodec::new(method.output());
        let request = self.request(stream(messages));
        if !method.is_server_streaming() {
            let reply = grpc.client_streaming(request, path, codec).await?;
            return json::write(reply.get_ref(), out);
        }
        let mut replies = grpc.streaming(request, path, codec).await.map(Response::into_inner)?;
        while let Some(reply) = replies.message().await? {
            json::write(&reply, out)?;
        }
        Ok(())
    }
}

fn stream(messages: Vec<DynamicMessage>) -> impl Stream<Item = DynamicMessage> + Send + 'static {
    tokio_stream::iter(messages)
}

fn path(method: &MethodDescriptor) -> Result<PathAndQuery, CallError> {
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    PathAndQuery::try_from(path.as_str())
        .map_err(|_invalid| CallError::MethodSyntax { method: path })
}
