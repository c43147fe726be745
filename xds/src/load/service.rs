//! The gRPC method of load reports. A stream needs no task: reports are read while whoever writes
//! the response waits for its end.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Buf;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use portolan_proto::envoy::load_stats::LoadStatsResponse;
use portolan_runtime::Lifecycle;
use prost::Message;
use tokio::sync::OwnedSemaphorePermit;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{Service, http};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Status, Streaming};

use super::report::Report;
use super::table::{Client, Limits};
use super::{LoadConfig, LoadReports};
use crate::resource::duration;

const PATH: &str = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats";

/// The service, cloned per connection.
#[derive(Clone, Debug)]
pub struct LoadService {
    reports: LoadReports,
    lifecycle: Lifecycle,
}

impl NamedService for LoadService {
    const NAME: &'static str = "envoy.service.load_stats.v3.LoadReportingService";
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl LoadService {
    pub(super) fn new(reports: LoadReports, lifecycle: Lifecycle) -> Self {
        Self { reports, lifecycle }
    }
}

impl Service<http::Request<Body>> for LoadService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != PATH {
                let text = format!("{} is not served", request.uri().path());
                return Ok(Status::unimplemented(text).into_http());
            }
            let config = &service.reports.config;
            let codec = ReportCodec(config.clone());
            let limit = Some(config.report_bytes);
            let mut grpc = Grpc::new(codec).apply_max_message_size_config(limit, None);
            Ok(grpc.streaming(Method(service), request).await)
        })
    }
}

struct Method(LoadService);

impl StreamingService<Report> for Method {
    type Response = LoadStatsResponse;
    type ResponseStream = BoxStream<'static, Result<LoadStatsResponse, Status>>;
    type Future = BoxFuture<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Report>>) -> Self::Future {
        let LoadService { reports, lifecycle } = self.0.clone();
        Box::pin(async move {
            let Ok(place) = reports.places.clone().try_acquire_owned() else {
                reports.metrics.streams_refused.inc();
                return Err(Status::resource_exhausted("too many streams of load reports"));
            };
            reports.metrics.streams.inc();
            let stream = Reading {
                requests: request.into_inner(),
                open: Open { reports, client: None, _place: place },
                lifecycle,
            };
            let responses = stream::unfold(Some(stream), async |stream| stream?.step().await);
            Ok(tonic::Response::new(responses.boxed()))
        })
    }
}

/// One client's stream.
struct Reading {
    requests: Streaming<Report>,
    open: Open,
    lifecycle: Lifecycle,
}

/// What an open stream holds.
struct Open {
    reports: LoadReports,
    /// Who it is, once it has said so.
    client: Option<Client>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.reports.metrics.streams.dec();
        if let Some(client) = &self.client {
            self.reports.end(client);
        }
    }
}

impl Reading {
    /// Reads until there is something to say: what is to be reported, or why the stream ends.
    async fn step(mut self) -> Option<(Result<LoadStatsResponse, Status>, Option<Self>)> {
        loop {
            let report = tokio::select! {
                report = self.requests.message() => report,
                () = self.lifecycle.draining() => {
                    Err(Status::unavailable("the control plane is shutting down"))
                }
            };
            match report.and_then(|report| report.map(|report| self.on_report(report)).transpose())
            {
                Ok(None) => return None,
                Ok(Some(None)) => {}
                Ok(Some(Some(response))) => return Some((Ok(response), Some(self))),
                Err(status) => {
                    tracing::debug!(%status, "stream of load reports ended");
                    return Some((Err(status), None));
                }
            }
        }
    }

    /// Takes a report; the first is answered with what is to be reported.
    fn on_report(&mut self, report: Report) -> Result<Option<LoadStatsResponse>, Status> {
        let reports = &self.open.reports;
        if let Some(client) = &self.open.client {
            reports.record(client, report);
            return Ok(None);
        }
        let Some(node) = &report.node else {
            return Err(Status::invalid_argument("the first load report names no node"));
        };
        let named = if node.all_clusters { Vec::new() } else { names(&report) };
        let response = LoadStatsResponse {
            send_all_clusters: node.all_clusters,
            clusters: named,
            load_reporting_interval: Some(duration(reports.interval())),
            ..LoadStatsResponse::default()
        };
        let client = reports.open(&node.id);
        reports.record(&client, report);
        self.open.client = Some(client);
        Ok(Some(response))
    }
}

/// The clusters a client can be asked for that has to be told which.
fn names(report: &Report) -> Vec<String> {
    report.clusters.keys().map(|name| name.to_string()).collect()
}

/// Reads reports within their bounds, writes responses with prost.
#[derive(Clone, Debug)]
struct ReportCodec(Arc<LoadConfig>);

#[derive(Debug)]
struct ResponseEncoder;

#[derive(Debug)]
struct ReportDecoder(Limits);

impl Codec for ReportCodec {
    type Encode = LoadStatsResponse;
    type Decode = Report;
    type Encoder = ResponseEncoder;
    type Decoder = ReportDecoder;

    fn encoder(&mut self) -> ResponseEncoder {
        ResponseEncoder
    }

    fn decoder(&mut self) -> ReportDecoder {
        ReportDecoder(self.0.limits.clone())
    }
}

impl Encoder for ResponseEncoder {
    type Item = LoadStatsResponse;
    type Error = Status;

    fn encode(
        &mut self,
        response: LoadStatsResponse,
        out: &mut EncodeBuf<'_>,
    ) -> Result<(), Status> {
        response.encode(out).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for ReportDecoder {
    type Item = Report;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Report>, Status> {
        let message = buffer.copy_to_bytes(buffer.remaining());
        let report = Report::decode(message, &self.0).map(Some);
        report.map_err(|error| Status::invalid_argument(error.to_string()))
    }
}
