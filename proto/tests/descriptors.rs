//! What the crate exposes is what the .proto files say.

use envoy_types::pb::google::protobuf::FileDescriptorSet;
use portolan_proto::demo::v1::echo_server::SERVICE_NAME;
use portolan_proto::envoy;
use prost::Message as _;

#[test]
fn the_descriptor_set_names_the_echo_service_and_its_methods() {
    let set = FileDescriptorSet::decode(portolan_proto::FILE_DESCRIPTOR_SET).expect("it decodes");
    let file = set
        .file
        .iter()
        .find(|f| f.name() == "portolan/demo/v1/echo.proto")
        .expect("named as an import would name it");
    let service = file.service.first().expect("one service");
    assert_eq!(format!("{}.{}", file.package(), service.name()), SERVICE_NAME);
    let shapes: Vec<(&str, bool, bool)> = service
        .method
        .iter()
        .map(|m| (m.name(), m.client_streaming(), m.server_streaming()))
        .collect();
    assert_eq!(shapes, [("Say", false, false), ("Count", false, true), ("Chat", true, true)]);
    assert!(file.source_code_info.is_none(), "comments stay out of what reflection serves");
}

#[test]
fn the_short_names_are_the_envoy_types_themselves() {
    let cluster = envoy::cluster::Cluster { name: "web".to_owned(), ..Default::default() };
    let same: portolan_proto::envoy_types::pb::envoy::config::cluster::v3::Cluster = cluster;
    assert_eq!(same.name, "web");
}
