//! Compiles the protos with protox, so that no system `protoc` is needed.

#![expect(clippy::disallowed_methods, reason = "a build script reads its environment and writes files")]

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const PROTOS: [&str; 8] = [
    "istio/v1/auth/ca.proto",
    "workload.proto",
    "envoy/service/secret/v3/sds.proto",
    "envoy/extensions/transport_sockets/tls/v3/secret.proto",
    "countersign/v1/authority.proto",
    "countersign/v1/pair.proto",
    "countersign/v1/policy.proto",
    "google/rpc/status.proto",
];

/// Served by reflection: the public services, never the one between replicas.
const PUBLIC: [(&str, &[&str]); 2] = [
    ("istio_ca", &["istio/v1/auth/ca.proto"]),
    (
        "workload",
        &[
            "workload.proto",
            "envoy/service/secret/v3/sds.proto",
            "envoy/extensions/transport_sockets/tls/v3/secret.proto",
        ],
    ),
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_SERVER").is_none() {
        return Ok(());
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for (name, files) in PUBLIC {
        fs::write(out.join(format!("{name}.bin")), protox::compile(files, ["proto"])?.encode_to_vec())?;
    }
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .extern_path(".google.protobuf.Any", "crate::proto::Any")
        .include_file("protos.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
