//! The Envoy v3 types by the short names of xDS: `envoy::cluster::Cluster` instead of
//! `envoy_types::pb::envoy::config::cluster::v3::Cluster`. Re-exports alone.

use envoy_types::pb;

pub use pb::envoy::admin::v3 as admin;
pub use pb::envoy::config::accesslog::v3 as accesslog;
pub use pb::envoy::config::cluster::v3 as cluster;
pub use pb::envoy::config::core::v3 as core;
pub use pb::envoy::config::endpoint::v3 as endpoint;
pub use pb::envoy::config::listener::v3 as listener;
pub use pb::envoy::config::rbac::v3 as rbac;
pub use pb::envoy::config::route::v3 as route;
pub use pb::envoy::extensions::common::ratelimit::v3 as ratelimit;
pub use pb::envoy::extensions::filters::common::fault::v3 as fault;
pub use pb::envoy::extensions::filters::http::adaptive_concurrency::v3 as adaptive_concurrency;
pub use pb::envoy::extensions::filters::http::cors::v3 as http_cors;
pub use pb::envoy::extensions::filters::http::fault::v3 as http_fault;
pub use pb::envoy::extensions::filters::http::grpc_web::v3 as grpc_web;
pub use pb::envoy::extensions::filters::http::local_ratelimit::v3 as local_ratelimit;
pub use pb::envoy::extensions::filters::http::rbac::v3 as http_rbac;
pub use pb::envoy::extensions::filters::http::router::v3 as http_router;
pub use pb::envoy::extensions::filters::http::stateful_session::v3 as stateful_session;
pub use pb::envoy::extensions::filters::listener::http_inspector::v3 as http_inspector;
pub use pb::envoy::extensions::filters::listener::proxy_protocol::v3 as listener_proxy_protocol;
pub use pb::envoy::extensions::filters::listener::tls_inspector::v3 as tls_inspector;
pub use pb::envoy::extensions::filters::network::http_connection_manager::v3 as http_connection_manager;
pub use pb::envoy::extensions::filters::network::rbac::v3 as network_rbac;
pub use pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
pub use pb::envoy::extensions::http::stateful_session::cookie::v3 as cookie_session;
pub use pb::envoy::extensions::http::stateful_session::header::v3 as header_session;
pub use pb::envoy::extensions::transport_sockets::proxy_protocol::v3 as upstream_proxy_protocol;
pub use pb::envoy::extensions::transport_sockets::raw_buffer::v3 as raw_buffer;
pub use pb::envoy::extensions::transport_sockets::tls::v3 as tls;
pub use pb::envoy::extensions::upstreams::http::v3 as upstream_http;
pub use pb::envoy::service::discovery::v3 as discovery;
pub use pb::envoy::service::load_stats::v3 as load_stats;
pub use pb::envoy::service::secret::v3 as secret;
pub use pb::envoy::service::status::v3 as status;
pub use pb::envoy::r#type::http::v3 as http_types;
pub use pb::envoy::r#type::matcher::v3 as matcher;
pub use pb::envoy::r#type::v3 as http_codec;
pub use pb::envoy::r#type::v3::{
    HashPolicy as ConnectionHashPolicy, Percent, hash_policy as connection_hash_policy,
};
pub use pb::google::protobuf;
pub use pb::google::rpc;

/// Load balancing policies.
pub mod lb {
    pub use super::pb::envoy::extensions::load_balancing_policies::client_side_weighted_round_robin::v3 as client_side_weighted_round_robin;
    pub use super::pb::envoy::extensions::load_balancing_policies::common::v3 as common;
    pub use super::pb::envoy::extensions::load_balancing_policies::least_request::v3 as least_request;
    pub use super::pb::envoy::extensions::load_balancing_policies::maglev::v3 as maglev;
    pub use super::pb::envoy::extensions::load_balancing_policies::pick_first::v3 as pick_first;
    pub use super::pb::envoy::extensions::load_balancing_policies::random::v3 as random;
    pub use super::pb::envoy::extensions::load_balancing_policies::ring_hash::v3 as ring_hash;
    pub use super::pb::envoy::extensions::load_balancing_policies::round_robin::v3 as round_robin;
    pub use super::pb::envoy::extensions::load_balancing_policies::subset::v3 as subset;
    pub use super::pb::envoy::extensions::load_balancing_policies::wrr_locality::v3 as wrr_locality;
}
