//! Compiles the contracts with protox: no protoc is needed. Services are generated only behind feature `rpc`.
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = ["persist", "agent", "api", "peer"]
        .map(|package| format!("proto/mlctl/{package}/v1/{package}.proto"));
    let descriptors = protox::compile(files, ["proto"])?;
    let rpc = std::env::var_os("CARGO_FEATURE_RPC").is_some();
    tonic_prost_build::configure()
        .build_client(rpc)
        .build_server(rpc)
        .btree_map(".")
        .bytes(".mlctl.agent.v1.LogPiece")
        .bytes(".mlctl.agent.v1.BlobChunk")
        .compile_fds(descriptors)?;
    Ok(())
}
