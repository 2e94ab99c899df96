//! The committed header is the one that the sources make.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

#[test]
fn the_header_is_that_of_the_sources() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(here.join("cbindgen.toml")).unwrap();
    let mut builder = cbindgen::Builder::new().with_config(config);
    for file in ["src/error.rs", "src/program.rs", "src/session.rs", "src/lib.rs"] {
        builder = builder.with_src(here.join(file));
    }
    let mut made = Vec::new();
    builder.generate().unwrap().write(&mut made);
    let path = here.join("include/nyxc.h");
    if std::env::var_os("NYXC_BLESS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let committed = std::fs::read(&path).unwrap();
    assert!(made == committed, "include/nyxc.h is not that of the sources: NYXC_BLESS=1 cargo test -p nyxc-c");
}
