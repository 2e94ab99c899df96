//! Links the archive that `NYXC_LIBSTDCXX` names: a wheel carries shaderc's C++ library, which machines may have in
//! another version or not at all.

fn main() {
    println!("cargo:rerun-if-env-changed=NYXC_LIBSTDCXX");
    if let Ok(path) = std::env::var("NYXC_LIBSTDCXX") {
        println!("cargo:rustc-cdylib-link-arg={path}");
    }
}
