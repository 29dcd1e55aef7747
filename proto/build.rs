//! Compiles schema/dolmen.proto with protox, so that no protoc has to be installed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=schema/dolmen.proto");
    let descriptors = protox::compile(["schema/dolmen.proto"], ["schema"])?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
