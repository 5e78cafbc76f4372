//! Compiles the protos with protox, so that no system `protoc` is needed.

#![expect(clippy::disallowed_methods, reason = "a build script reads its environment and writes files")]

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use prost::Message;

const PROTOS: [&str; 11] = [
    "istio/v1/auth/ca.proto",
    "workload.proto",
    "envoy/service/secret/v3/sds.proto",
    "envoy/extensions/transport_sockets/tls/v3/secret.proto",
    "countersign/v1/authority.proto",
    "countersign/v1/federation.proto",
    "countersign/v1/pair.proto",
    "countersign/v1/policy.proto",
    "countersign/v1/rotation.proto",
    "countersign/v1/trust.proto",
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

/// Parts of names of functions that an agent calls although a part below is in their names: each would have its surroundings loaded with
/// it. The compiler keeps one of several functions that are the same, under any of their names; those that drop a value are often such.
const OF_AN_AGENT: &[&str] = &[
    "EcdsaKeyPair",
    "ServeArgs*defaults",
    "ask_anywhere",
    "augment_args",
    "augment_subcommands",
    "biguint*convert",
    "biguint_from_vec",
    "bulk_build_from_sorted_iter",
    "driftsort_main",
    "drop_in_place",
    "ecdsa*signing",
    "encoded_len",
    "fmtRe*Display",
    "gateway*Request*account",
    "get_required_usage_from",
    "grow_amortized",
    "key_pair_from_bytes",
    "memcmp",
    "next_code_point",
    "policy_places*locked",
    "raw_vec",
    "register_encoded_file_descriptor_set",
    "service*readiness",
    "spiffe_workload_api_server",
    "starts_with",
    "to_possible_value",
    "vec*reserve",
    "workload_jwt",
    "yaml_parser_update_raw",
];

/// Parts of names of functions that an agent hardly calls. The kernel maps the file of a program in large pieces, so what lies
/// between functions that are called counts as resident: behind all others it does not. A part too many or too few costs
/// memory, nothing else.
const NOT_OF_AN_AGENT: &[&str] = &[
    "5slice4sort",
    "BTreeMap*remove",
    "BalancingContext",
    "FederationService",
    "ForwardedRequest",
    "IstioCertificate",
    "OperatorService",
    "PairClient",
    "PairService",
    "PassOn",
    "ServeArgs",
    "ServeConfig",
    "StoredProof",
    "UpgradeableConnection",
    "addr2line",
    "aho_corasick",
    "attestation",
    "authority_",
    "backtrace_rs",
    "bulk_",
    "bundle_client",
    "bundle_distribution",
    "bundle_endpoint",
    "bundle_tls",
    "ca_server",
    "clap_builder*output",
    "context_acceptance",
    "countersign*3cli",
    "countersign*3k8s",
    "countersign*7storage",
    "countersign..storage",
    "create_certificate",
    "csr",
    "denial",
    "distribution",
    "enforcement",
    "federation",
    "gateway",
    "gimli",
    "granit",
    "inspect",
    "issuance",
    "istio_certificate",
    "istiod_",
    "jsonpath",
    "jwt",
    "k8s_openapi",
    "kept_trust",
    "kube_",
    "leadership",
    "memchr*teddy",
    "native_certs",
    "num_bigint",
    "operate",
    "operator_",
    "pair_",
    "pass_on",
    "plugged_in",
    "policy",
    "proto2h1",
    "quickstart",
    "readiness",
    "reflection",
    "regex",
    "replica",
    "ring*rsa",
    "rotation_",
    "runtime*5serve",
    "runtime..serve",
    "rustc_demangle",
    "saphyr",
    "signing",
    "signing_state",
    "sled",
    "spiffe*workload_api",
    "spiffe4svid",
    "tls_connections",
    "tls_listener",
    "token_issuer",
    "token_reviews",
    "trust_followers",
    "trust_service",
    "validation",
    "yaml",
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
    set_apart(&out)?;
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .extern_path(".google.protobuf.Any", "crate::proto::Any")
        .include_file("protos.rs")
        .compile_fds(descriptors)?;
    Ok(())
}

/// Has the linker put those functions behind all others.
fn set_apart(out: &Path) -> Result<(), Box<dyn Error>> {
    if env::var("CARGO_CFG_TARGET_OS")? != "linux" {
        return Ok(());
    }
    let sections = |parts: &[&str]| parts.iter().map(|part| format!("*(.text.*{part}*)\n")).collect::<String>();
    let (near, apart) = (sections(OF_AN_AGENT), sections(NOT_OF_AN_AGENT));
    let script = out.join("apart.ld");
    fs::write(
        &script,
        format!("SECTIONS {{ .text.near : {{\n{near}}} .text.apart : {{\n{apart}}} }} INSERT AFTER .text;\n"),
    )?;
    println!("cargo:rustc-link-arg-bin=countersign=-Wl,-T,{}", script.display());
    Ok(())
}
