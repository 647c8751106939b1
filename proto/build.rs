//! Compiles the wire contracts without `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["proto/workload.proto"], ["proto"])?;
    // Messages that carry keys or tokens have no `Debug`, so that no log can print them.
    let secret =
        [".X509SVID", ".X509SVIDResponse", ".JWTSVID", ".JWTSVIDResponse", ".ValidateJWTSVIDRequest"];
    tonic_prost_build::configure().bytes(".").skip_debug(secret).compile_fds(files)?;
    Ok(())
}
